//! What the tests of a node's backups share.
#![allow(dead_code, missing_docs)]

pub(crate) mod restoring;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};
use test_support::etcd_binaries::Binaries;
use test_support::etcd_server::{Options, Server};

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-lifeboat"));
    command.args(args).env_remove("ETCDCTL_ENDPOINTS");
    command
}

pub(crate) fn lifeboat(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A running `backup-server`; dropping it kills it.
pub(crate) struct Agent {
    pub child: Child,
    pub log: PathBuf,
}

impl Agent {
    pub(crate) fn start(server: &Server, repository: &Path, more: &[&str]) -> Agent {
        Agent::start_logging_in(server, repository, repository.parent().unwrap(), more)
    }

    pub(crate) fn start_logging_in(
        server: &Server,
        repository: &Path,
        log_dir: &Path,
        more: &[&str],
    ) -> Agent {
        Agent::start_as(|_| {}, server, repository, log_dir, more)
    }

    pub(crate) fn start_as(
        change: impl Fn(&mut Command),
        server: &Server,
        repository: &Path,
        log_dir: &Path,
        more: &[&str],
    ) -> Agent {
        let log = log_dir.join("agent.log");
        let flags = [
            "backup-server",
            "--listen",
            "127.0.0.1:0",
            "--endpoints",
            &server.endpoint,
            "--backup-path",
            text(repository),
        ];
        let reserve: &[&str] = if more.contains(&"--min-free") {
            &[]
        } else {
            &["--min-free", "1"]
        };
        let mut command = command(&[&flags, reserve, more].concat());
        change(&mut command);
        let child = command.stderr(log_file(&log)).spawn().unwrap();
        Agent { child, log }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn wait_for(&self, told: &str) -> String {
        wait_until(told, || {
            let log = self.log();
            log.contains(told).then_some(log)
        })
    }

    /// Asks the agent itself: the status and the body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let log = self.wait_for("metrics on http://");
        let address = log.split("metrics on http://").nth(1).unwrap();
        http_get(address.split('/').next().unwrap(), path)
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(name, &self.child.id().to_string());
    }

    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM");
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "SIGTERM took too long"
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        status.code()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A log that goes on where it was.
pub(crate) fn log_file(path: &Path) -> std::fs::File {
    let mut options = std::fs::File::options();
    options.create(true).append(true).open(path).unwrap()
}

pub(crate) fn signal(name: &str, pid: &str) {
    let status = Command::new("kill").args([name, pid]).status();
    assert!(status.unwrap().success(), "{name} {pid}");
}

/// One request: the status and the body.
pub(crate) fn http_get(address: &str, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.into(),
    )
}

/// Looks until it is so; a slow machine has its time.
pub(crate) fn wait_until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    let often = Duration::from_millis(20);
    wait_within(Duration::from_secs(120), often, what, condition)
}

pub(crate) fn wait_within<T>(
    limit: Duration,
    look_each: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(look_each);
    }
}

pub(crate) fn list(repository: &Path) -> Vec<Value> {
    // Before the first run there is none.
    if !repository.exists() {
        return Vec::new();
    }
    let output = lifeboat(&[
        "list",
        "--backup-path",
        text(repository),
        "--output",
        "json",
    ]);
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn names(repository: &Path, kind: &str) -> Vec<String> {
    list(repository)
        .iter()
        .filter(|entry| entry["kind"] == kind)
        .map(|entry| entry["name"].as_str().unwrap().to_string())
        .collect()
}

pub(crate) fn backup_once(server: &Server, repository: &Path, more: &[&str]) -> Output {
    let flags = [
        "cluster-backup",
        "--backup-dir",
        text(repository),
        "--min-free",
        "1",
    ];
    let member = ["--endpoints", &server.endpoint];
    lifeboat(&[&flags[..], &member, more].concat())
}

pub(crate) fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Every backup that is listed is whole.
pub(crate) fn assert_all_whole(repository: &Path) {
    for name in names(repository, "backup") {
        let output = lifeboat(&["verify", text(&repository.join(&name))]);
        assert!(output.status.success(), "{}", told(&output));
    }
}

/// The command lines under "Examples:".
pub(crate) fn examples(help: &str) -> Vec<String> {
    let (_, examples) = help
        .split_once("Examples:\n")
        .expect("the help has examples");
    let joined = examples.replace("\\\n      ", "");
    let lines: Vec<_> = joined
        .lines()
        .take_while(|line| line.starts_with("  "))
        .map(|line| line.trim().to_string())
        .collect();
    assert!(!lines.is_empty());
    lines
}

/// A member with a cluster id that no other one has.
pub(crate) fn another_cluster(binaries: &Binaries) -> Server {
    let options = Options {
        flags: vec!["--initial-cluster-token=another".into()],
        ..Options::default()
    };
    Server::start_with(binaries, &options)
}

pub(crate) fn fill(server: &Server, mib: usize) {
    let client = server.client();
    for number in 0..mib {
        client.put(format!("/big/{number}").as_bytes(), &vec![7; 1 << 20]);
    }
}

/// Values that no other block of a disk looks like.
pub(crate) fn fill_with_noise(server: &Server, mib: usize) {
    let client = server.client();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for number in 0..mib {
        let mut value = Vec::with_capacity(1 << 20);
        while value.len() < 1 << 20 {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            value.extend_from_slice(&state.to_le_bytes());
        }
        client.put(format!("/noise/{number}").as_bytes(), &value);
    }
}

/// A PersistentVolumeClaim for the volume of the same name.
pub(crate) fn pvc(namespace: &str, name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  resources: {{requests: {{storage: 1Gi}}}}
"
    )
}

/// A filesystem in memory, of a size of its own.
pub(crate) struct SmallDisk(pub PathBuf);

impl SmallDisk {
    pub(crate) fn mount(dir: &Path, mib: u32) -> Option<SmallDisk> {
        let mount = dir.join("disk");
        std::fs::create_dir(&mount).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs", text(&mount)])
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            test_support::requirement::skip("a tmpfs can't be mounted here: run as root");
            return None;
        }
        Some(SmallDisk(mount))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
