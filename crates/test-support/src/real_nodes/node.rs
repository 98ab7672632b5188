//! One node: a process tree with its own root directory, network, processes and cgroups.

use super::network::{PREFIX, Switch, pod_subnet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Puts itself into cgroups of the node, below those that it is in, and then starts the node in new namespaces.
const START: &str = r#"
set -e
name=$1 dir=$2
shift 2
while IFS=: read -r _ controllers path; do
    controllers=${controllers#name=}
    case $controllers in "") top=/sys/fs/cgroup ;; *) top=/sys/fs/cgroup/$controllers ;; esac
    [ -n "$controllers" ] || [ -e /sys/fs/cgroup/cgroup.controllers ] || top=/sys/fs/cgroup/unified
    [ -d "$top" ] || continue
    parent=$top${path%/}
    group=$parent/$name
    if [ -d "$group" ]; then find "$group" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true; fi
    mkdir -p "$group"
    if [ "$controllers" = cpuset ]; then
        for file in cpus mems; do cat "$parent/cpuset.$file" > "$group/cpuset.$file"; done
        echo 1 > "$group/cgroup.clone_children"
    fi
    echo $$ > "$group/cgroup.procs"
    echo "$group" >> "$dir/cgroups"
done < /proc/self/cgroup
exec setpriv --pdeathsig KILL unshare -m -u -i -n -p -C --fork --kill-child --propagation private bash "$@"
"#;
const READY_WITHIN: Duration = Duration::from_secs(180);

/// A node of a cluster.
#[derive(Debug)]
pub struct RealNode {
    number: usize,
    /// Names its cgroups: the name of the cluster and of the node.
    group: String,
    dir: PathBuf,
    kit: PathBuf,
    process: Option<Child>,
}

impl RealNode {
    /// A node that is switched off. Its files are in `dir`.
    pub(super) fn new(number: usize, cluster: &str, dir: PathBuf, kit: &Path) -> RealNode {
        RealNode {
            number,
            group: format!("{cluster}-node{number}"),
            dir,
            kit: kit.into(),
            process: None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("node{}", self.number)
    }

    /// Its address in the network of the nodes.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{PREFIX}.{}", 10 + self.number)
    }

    /// Its root directory, seen from this machine.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Switches it on.
    pub(super) fn start(&mut self, switch: &Switch, all: &[usize]) -> Result<(), String> {
        let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        std::fs::create_dir_all(self.root()).map_err(failed("create the root of a node"))?;
        let _ = std::fs::remove_file(self.dir.join("cgroups"));
        let log = std::fs::File::create(self.dir.join("log")).map_err(failed("create a log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "bash", "-c", START, "start"])
            .args([&self.group])
            .arg(&self.dir)
            .arg(self.kit.join("scripts/enter.sh"))
            .arg(&self.dir)
            .arg(&self.kit)
            .args([self.name(), self.address()])
            .arg(format!("{PREFIX}.11"))
            .arg(pod_subnet(self.number))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed("a log"))?)
            .stderr(log)
            .spawn()
            .map_err(failed("start setpriv (Debian package util-linux)"))?;
        self.process = Some(child);
        let deadline = Instant::now() + READY_WITHIN;
        let first = loop {
            if let Some(pid) = self.first_process() {
                break pid;
            }
            self.is_starting(deadline)?;
        };
        switch.connect(first, self.number, all)
    }

    /// Waits until its container runtime runs and has its images.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_WITHIN;
        while !self.run(&["test", "-e", "/run/ready"]).status.success() {
            self.is_starting(deadline)?;
        }
        let problem = self.run(&["cat", "/run/problem"]);
        match problem.status.success() {
            false => Ok(()),
            true => Err(format!(
                "images can't be imported: {}{}",
                String::from_utf8_lossy(&problem.stdout),
                self.log()
            )),
        }
    }

    fn is_starting(&mut self, deadline: Instant) -> Result<(), String> {
        let ended = self.process.as_mut().map(Child::try_wait);
        if !matches!(ended, Some(Ok(None))) || Instant::now() > deadline {
            return Err(format!("{} does not start: {}", self.name(), self.log()));
        }
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }

    fn log(&self) -> String {
        let log = std::fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The process id, here, of the first process in the node, once it has its namespaces.
    #[must_use]
    pub fn first_process(&self) -> Option<u32> {
        let outer = self.process.as_ref()?.id();
        let children = format!("/proc/{outer}/task/{outer}/children");
        let children = std::fs::read_to_string(children).ok()?;
        let first = children.split_whitespace().next()?.parse().ok()?;
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        (namespace(&format!("{first}"))? != namespace("self")?).then_some(first)
    }

    /// Runs a command in the node.
    #[must_use]
    pub fn run(&self, command: &[&str]) -> Output {
        self.command(command)
            .stdin(Stdio::null())
            .output()
            .expect("run nsenter (Debian package util-linux)")
    }

    /// Runs a command in the node.
    ///
    /// # Errors
    /// It failed; what it printed.
    pub fn run_ok(&self, command: &[&str]) -> Result<String, String> {
        let output = self.run(command);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(printed),
            false => Err(format!(
                "{}: {command:?}: {printed}{}",
                self.name(),
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    /// A command that runs in the node, with the rights of the cluster's administrator.
    #[must_use]
    pub fn command(&self, command: &[&str]) -> Command {
        let pid = self.first_process().unwrap_or_default();
        Self::command_at(&pid.to_string(), command)
    }

    /// A command that runs in the node with this first process.
    #[must_use]
    pub fn command_at(pid: &str, command: &[&str]) -> Command {
        let mut enter = Command::new("nsenter");
        enter
            .args(["-t", pid, "-a", "env", "-i", "HOME=/root", "TERM=xterm"])
            .arg("KUBECONFIG=/etc/kubernetes/admin.conf")
            .arg("PATH=/opt/kit/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(command);
        enter
    }

    /// Switches it off, as a power failure does.
    pub fn power_off(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Removes its cgroups, which the kernel keeps.
    fn remove_cgroups(&self) {
        let groups = std::fs::read_to_string(self.dir.join("cgroups")).unwrap_or_default();
        remove_cgroups(groups.lines().map(PathBuf::from).collect());
    }
}

/// Removes the cgroups of nodes whose cluster was killed: those with this prefix for which there is no folder any more.
pub(super) fn remove_left_cgroups(prefix: &str) {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut left = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or_default(), parts.next());
        let path = path.unwrap_or_default().trim_start_matches('/');
        let top = Path::new("/sys/fs/cgroup");
        let tops = match controllers.trim_start_matches("name=") {
            "" => vec![top.to_path_buf(), top.join("unified")],
            controllers => vec![top.join(controllers)],
        };
        for top in tops {
            let groups = std::fs::read_dir(top.join(path)).into_iter().flatten();
            left.extend(groups.flatten().map(|entry| entry.path()).filter(|group| {
                let name = group.file_name().unwrap_or_default().to_string_lossy();
                let folder = name
                    .rsplit_once("-node")
                    .map(|(cluster, _)| cluster.to_string());
                let folder = folder.filter(|folder| folder.starts_with(prefix));
                folder.is_some_and(|folder| !std::env::temp_dir().join(folder).exists())
            }));
        }
    }
    remove_cgroups(left);
}

/// Removes cgroups, with all below them, as soon as their last process has ended.
fn remove_cgroups(mut groups: Vec<PathBuf>) {
    for _ in 0..50 {
        groups.retain(|group| group.is_dir());
        if groups.is_empty() {
            return;
        }
        for group in &groups {
            let _ = Command::new("find")
                .arg(group)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
                .stderr(Stdio::null())
                .status();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Drop for RealNode {
    fn drop(&mut self) {
        self.power_off();
        self.remove_cgroups();
    }
}
