//! A container that is a process: a root directory of its own, with mounts that only it sees, and the
//! capabilities that its pod asks for. Network, processes and users are this machine's.

use super::image::Image;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use tokio::sync::oneshot;

/// Makes the mounts in a mount namespace of its own, and becomes the container's program. Its arguments: the
/// root directory, how it is mounted, then source, target and mode of each mount, `--`, and the command.
const SETUP: &str = r#"
set -e
root=$1 root_mode=$2
shift 2
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then
        mkdir -p "$2"
    else
        mkdir -p "$(dirname "$2")"
        [ -e "$2" ] || : > "$2"
    fi
    mount --rbind "$1" "$2"
    [ "$3" != ro ] || mount -o remount,bind,ro "$2"
    shift 3
done
shift
[ "$root_mode" != ro ] || mount -o remount,bind,ro "$root"
exec "$@"
"#;

/// A file or a directory of the machine in a container.
#[derive(Debug, Clone)]
pub(super) struct Mount {
    pub(super) source: PathBuf,
    /// Absolute path in the container.
    pub(super) at: String,
    pub(super) read_only: bool,
}

/// What a container is started with.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    /// Its root directory, which is empty at first.
    pub(super) root: PathBuf,
    pub(super) read_only_root: bool,
    pub(super) image: Image,
    pub(super) mounts: Vec<Mount>,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) user: Option<i64>,
    /// The capabilities that are left, if any were dropped.
    pub(super) capabilities: Option<Vec<String>>,
    pub(super) no_new_privileges: bool,
    pub(super) log: PathBuf,
}

impl Launch {
    fn command(&self) -> std::io::Result<Command> {
        std::fs::create_dir_all(&self.root)?;
        let mut mounts = image_mounts(&self.image, &self.root)?;
        mounts.extend(self.mounts.iter().cloned());
        // A mount inside another mount must come after it.
        mounts.sort_by_key(|mount| mount.at.len());
        let log = std::fs::File::create(&self.log)?;
        let mut command = Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "sh",
                "-c",
                SETUP,
                "setup",
            ])
            .arg(&self.root)
            .arg(if self.read_only_root { "ro" } else { "rw" });
        for mount in mounts {
            command
                .arg(mount.source)
                .arg(self.root.join(mount.at.trim_start_matches('/')))
                .arg(if mount.read_only { "ro" } else { "rw" });
        }
        command.arg("--").arg("setpriv");
        if self.no_new_privileges {
            command.arg("--no-new-privs");
        }
        if let Some(capabilities) = &self.capabilities {
            let mut set = String::from("-all");
            // What the start itself needs is on top.
            let own = ["SYS_CHROOT", "SETUID", "SETGID"];
            let own = own.iter().take(if self.user.is_some() { 3 } else { 1 });
            for name in capabilities.iter().map(String::as_str).chain(own.copied()) {
                set += &format!(",+{}", name.trim_start_matches("CAP_").to_lowercase());
            }
            command.args(["--inh-caps=-all", &format!("--bounding-set={set}")]);
        }
        command.arg("chroot");
        if let Some(user) = self.user {
            command.arg(format!("--userspec={user}:{user}"));
        }
        command
            .arg(&self.root)
            .args(&self.command)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }
}

/// What an image has in a container's root directory.
fn image_mounts(image: &Image, root: &Path) -> std::io::Result<Vec<Mount>> {
    for dir in ["tmp", "var/tmp", "etc"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    let same = |path: &str| Mount {
        source: path.into(),
        at: path.into(),
        read_only: false,
    };
    let devices = ["null", "zero", "full", "random", "urandom"];
    let mut mounts: Vec<_> = devices.map(|name| same(&format!("/dev/{name}"))).into();
    mounts.push(same("/proc"));
    if let Some((program, at)) = &image.program {
        mounts.push(Mount {
            source: program.clone(),
            at: at.clone(),
            read_only: true,
        });
    }
    if image.system {
        for name in ["usr", "bin", "sbin", "lib", "lib32", "lib64"] {
            let on_machine = Path::new("/").join(name);
            match std::fs::read_link(&on_machine) {
                Ok(target) if !root.join(name).is_symlink() => {
                    std::os::unix::fs::symlink(target, root.join(name))?;
                }
                Err(_) if on_machine.is_dir() => mounts.push(same(&format!("/{name}"))),
                _ => {}
            }
        }
        for name in ["ld.so.cache", "passwd", "group"] {
            let _ = std::fs::copy(Path::new("/etc").join(name), root.join("etc").join(name));
        }
    }
    Ok(mounts)
}

pub(super) struct Running {
    pub(super) pid: u32,
    /// Receives the exit code when the container has ended.
    pub(super) ended: oneshot::Receiver<i32>,
}

/// Starts processes from one thread that stays: they end with the thread that started them.
#[derive(Clone)]
pub(super) struct Spawner(mpsc::Sender<Order>);

/// A process to start, and the channel for the started child.
type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

impl Spawner {
    pub(super) fn start() -> Self {
        let (sender, receiver) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        Spawner(sender)
    }

    /// Starts a container; blocks for the moment that it takes.
    pub(super) fn launch(&self, launch: &Launch) -> std::io::Result<Running> {
        let no_spawner = || std::io::Error::other("the cluster has ended");
        let (answer, child) = mpsc::channel();
        self.0
            .send((launch.command()?, answer))
            .map_err(|_| no_spawner())?;
        let mut child = child.recv().map_err(|_| no_spawner())??;
        let pid = child.id();
        let (sender, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let code = child.wait().map_or(255, exit_code);
            let _ = sender.send(code);
        });
        Ok(Running { pid, ended })
    }
}

/// The exit code as a shell and the kubelet report it: 128 plus the number of the signal.
fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

pub(super) fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill")
        .args([name, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}
