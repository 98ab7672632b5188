//! `cargo xtask demo`: three nodes of a real cluster, and what a backup server does on each.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use test_support::etcd_client::{Change, Client};
use test_support::etcd_server::{Options, Prepared, Server};
use test_support::node_trees::Kind;
use xtask::command::{cargo, run as run_command, target_dir};
use xtask::etcd;

const NODES: usize = 3;
const WATCHED: Duration = Duration::from_secs(60);

/// Shows it, and leaves nothing behind.
pub(crate) fn run() -> Result<()> {
    let binaries = etcd::provide_one()?;
    // Without optimization, and without what only a Kubernetes cluster needs: so it is there in minutes.
    println!("building etcd-lifeboat: some two minutes from an empty cache, then seconds");
    run_command(cargo().args(["build", "-p", "lifeboat", "--no-default-features"]))?;
    let built = target_dir().join("debug/etcd-lifeboat");
    // The tests build another one of this name.
    let dir = tempfile::tempdir()?;
    let lifeboat = dir.path().join("etcd-lifeboat");
    std::fs::copy(&built, &lifeboat).with_context(|| format!("copy {}", built.display()))?;

    let interrupt = Interrupt::listen();
    title(&format!(
        "a cluster of {NODES} members, etcd {}, TLS, laid out as kubeadm does",
        binaries.version
    ));
    let options = Options {
        tls: true,
        ..Options::default()
    };
    let servers = Server::start_cluster(&binaries, &options, NODES);
    let mut nodes = Vec::new();
    for (number, server) in (1..).zip(&servers) {
        let pki = server.pki.as_ref().context("a cluster with TLS")?;
        Kind::Kubeadm.lay_out(server.dir(), &server.endpoint, pki);
        nodes.push(Node {
            name: format!("node-{number}"),
            root: server.dir().to_path_buf(),
            repository: server.dir().join("var/lib/etcd-auto-backup"),
        });
        println!(
            "node-{number}  {}  {}",
            server.endpoint,
            server.dir().display()
        );
    }
    let first = nodes.first().context("a node")?;
    first.show(
        &lifeboat,
        &["backup-server", "--dry-run", "--host-root", first.root()],
    )?;

    title("a backup server on each node; objects are written all the time");
    let writer = Writer::start(servers.first().context("a member")?.client());
    let mut agents = Vec::new();
    for node in &nodes {
        agents.push(node.start_agent(&lifeboat)?);
    }
    interrupt.sleep(WATCHED)?;

    title("what each node has after a minute");
    for node in &nodes {
        node.show(&lifeboat, &["list", "--backup-path", node.repository()])?;
    }

    title("one of them, compared with the member it is from");
    let (node, server) = nodes.iter().zip(&servers).next().context("a node")?;
    let backup = node.newest()?;
    let pki = server.pki.as_ref().context("a cluster with TLS")?;
    let [ca, cert, key] =
        [&pki.ca, &pki.client_cert, &pki.client_key].map(|path| path.to_string_lossy());
    node.show(
        &lifeboat,
        &[
            "verify",
            &backup.to_string_lossy(),
            "--against",
            &server.endpoint,
            "--cacert",
            &ca,
            "--cert",
            &cert,
            "--key",
            &key,
        ],
    )?;

    title("a copy of it with one byte flipped");
    let copy = node.root.join("copy");
    run_command(Command::new("cp").arg("-r").arg(&backup).arg(&copy))?;
    let at = flip_a_byte(&copy)?;
    println!("byte {at} was flipped");
    node.show_failing(&lifeboat, &["verify", &copy.to_string_lossy()])?;

    title(
        "a data directory is lost: the backup becomes a new one, etcd starts from it, and has the same data",
    );
    let member = Prepared::new(&binaries);
    let [source, data_dir] =
        [&backup, &member.data_dir()].map(|path| path.to_string_lossy().into_owned());
    let own = member.flags();
    let mut args = vec!["restore", &source, "--data-dir", &data_dir];
    args.extend(own.iter().map(String::as_str));
    node.show(&lifeboat, &args)?;
    let restored = Prepared::start(vec![member]);
    let restored = restored.first().context("a member")?;
    let against = [
        "verify",
        &backup.to_string_lossy(),
        "--against",
        &restored.endpoint,
    ];
    node.show(&lifeboat, &against)?;

    title("the server of node-1 is killed in the middle of a run, and started again");
    agents.remove(0).kill_in_mid_run(node)?;
    node.show(&lifeboat, &["list", "--backup-path", node.repository()])?;
    let again = node.start_agent(&lifeboat)?;
    again.wait_for(SWEPT)?;
    std::thread::sleep(Duration::from_secs(1));
    node.show(&lifeboat, &["list", "--backup-path", node.repository()])?;

    title("the end: everything is stopped, and nothing stays");
    drop((again, agents, writer, servers));
    Ok(())
}

/// Ctrl-C: what was started must be ended, and its folders removed, all the same.
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn listen() -> Interrupt {
        let flag = Arc::new(AtomicBool::new(false));
        let heard = flag.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if runtime.is_ok_and(|runtime| runtime.block_on(tokio::signal::ctrl_c()).is_ok()) {
                heard.store(true, Ordering::Relaxed);
            }
        });
        Interrupt(flag)
    }

    fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            if self.0.load(Ordering::Relaxed) {
                bail!("interrupted; everything was stopped");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn title(text: &str) {
    println!("\n== {text}\n");
}

struct Node {
    name: String,
    root: PathBuf,
    repository: PathBuf,
}

impl Node {
    fn root(&self) -> &str {
        self.root.to_str().unwrap_or_default()
    }

    fn repository(&self) -> &str {
        self.repository.to_str().unwrap_or_default()
    }

    /// Runs a command as a person would, and fails if it does.
    fn show(&self, lifeboat: &Path, args: &[&str]) -> Result<()> {
        if !self.run(lifeboat, args)? {
            bail!("etcd-lifeboat {} failed", args.join(" "));
        }
        Ok(())
    }

    /// Runs a command that is to fail.
    fn show_failing(&self, lifeboat: &Path, args: &[&str]) -> Result<()> {
        if self.run(lifeboat, args)? {
            bail!("etcd-lifeboat {} did not notice", args.join(" "));
        }
        Ok(())
    }

    fn run(&self, lifeboat: &Path, args: &[&str]) -> Result<bool> {
        println!("{}$ etcd-lifeboat {}", self.name, args.join(" "));
        let status = Command::new(lifeboat)
            .args(args)
            .env_remove("ETCDCTL_ENDPOINTS")
            .status()?;
        println!();
        Ok(status.success())
    }

    fn start_agent(&self, lifeboat: &Path) -> Result<Agent> {
        let args = [
            "backup-server",
            "--host-root",
            self.root(),
            "--schedule",
            "@every 10s",
            "--backup-path",
            self.repository(),
            // Three nodes share this machine: its port, and its disk, which may be rather full.
            "--listen",
            "127.0.0.1:0",
            "--min-free",
            "1",
        ];
        println!("{}$ etcd-lifeboat {}", self.name, args.join(" "));
        // Ends it also if this program is killed.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(lifeboat)
            .args(args)
            .env_remove("ETCDCTL_ENDPOINTS")
            .stderr(Stdio::piped())
            .spawn()
            .context("start setpriv (Debian package util-linux)")?;
        let stderr = child.stderr.take().context("its log")?;
        let swept = Arc::new(AtomicBool::new(false));
        let (name, seen) = (self.name.clone(), swept.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                println!("{name} | {line}");
                if line.contains(SWEPT) {
                    seen.store(true, Ordering::Relaxed);
                }
            }
        });
        Ok(Agent { child, swept })
    }

    fn newest(&self) -> Result<PathBuf> {
        let mut names: Vec<_> = std::fs::read_dir(&self.repository)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<Vec<_>>>()?;
        names.retain(|name| !name.to_string_lossy().starts_with('.'));
        names.sort();
        let newest = names.pop().context("node-1 has no backup")?;
        Ok(self.repository.join(newest))
    }
}

/// What a server says of what a run before has left.
const SWEPT: &str = "left over from an earlier run";

struct Agent {
    child: Child,
    swept: Arc<AtomicBool>,
}

impl Agent {
    fn kill_in_mid_run(mut self, node: &Node) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let at_work = std::fs::read_dir(&node.repository)?
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(".partial-"));
            if at_work {
                self.child.kill()?;
                self.child.wait()?;
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no run began in 30 s");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn wait_for(&self, what: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.swept.load(Ordering::Relaxed) {
            if Instant::now() > deadline {
                bail!("the server did not say {what:?} in 30 s");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Flips a byte in the middle of a backup's snapshot.
fn flip_a_byte(backup: &Path) -> Result<usize> {
    let snapshot = std::fs::read_dir(backup)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "db"))
        .context("a backup has a snapshot")?;
    let mut bytes = std::fs::read(&snapshot)?;
    let at = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1;
    }
    std::fs::write(&snapshot, bytes)?;
    Ok(at)
}

/// Writes objects as a cluster does: many small ones, changed over and over, some removed.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(client: Client) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut number = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                let object = |number: u64| {
                    let (kind, namespace) = (["pods", "leases", "events"], number % 20);
                    let kind = kind.get((number % 3) as usize).copied().unwrap_or("pods");
                    let key = format!(
                        "/registry/{kind}/namespace-{namespace}/object-{}",
                        number % 3000
                    );
                    let value = [b"k8s\0".to_vec(), number.to_le_bytes().repeat(200)].concat();
                    Change::Put(key.into_bytes(), value, 0)
                };
                client.transact((number..number + 20).map(object));
                if number.is_multiple_of(200) {
                    let key = format!("/registry/pods/namespace-{}/", number % 20);
                    client.delete(
                        format!("{key}object-1").as_bytes(),
                        format!("{key}object-2").as_bytes(),
                    );
                }
                number += 20;
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Writer {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
