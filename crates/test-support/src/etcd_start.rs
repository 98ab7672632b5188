//! Restores a snapshot with etcd's own tool, and starts a real etcd on the result.

use crate::etcd_binaries::Binaries;
use crate::reserved_port::ReservedPort;
use crate::scratch_dir::ScratchDir;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whether etcd works with the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It serves clients.
    Serves,
    /// The restore refused the file or died, or the server did.
    Died(String),
}

/// A process that is killed when this value is dropped.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Restores a snapshot, and starts a server on it.
#[must_use]
pub fn start(binaries: &Binaries, snapshot: &Path) -> Started {
    let dir = ScratchDir::create("lifeboat-start-");
    let data = dir.path().join("data");
    let mut restore = Command::new(binaries.etcdutl.as_ref().unwrap_or(&binaries.etcdctl));
    restore
        .args(["snapshot", "restore"])
        .arg(snapshot)
        .arg("--data-dir")
        .arg(&data)
        .env("ETCDCTL_API", "3");
    // A restore of a damaged file may also hang.
    if let Err(problem) = run(&mut restore, &dir.path().join("restore"), |_| false) {
        return Started::Died(format!("restore: {problem}"));
    }
    let [client, peer] = [(); 2].map(|()| ReservedPort::new());
    let url = |port: &ReservedPort| format!("http://127.0.0.1:{}", port.number());
    let mut server = Command::new("setpriv");
    server
        .args(["--pdeathsig", "KILL"])
        .arg(&binaries.etcd)
        .arg("--data-dir")
        .arg(&data)
        .args(["--listen-client-urls", &url(&client)])
        .args(["--advertise-client-urls", &url(&client)])
        .args(["--listen-peer-urls", &url(&peer)])
        // A short election, because there are no other members.
        .args(["--heartbeat-interval", "20", "--election-timeout", "200"]);
    let serves = |log: &str| log.contains("ready to serve client requests");
    match run(&mut server, &dir.path().join("log"), serves) {
        Ok(()) => Started::Serves,
        Err(problem) => Started::Died(problem),
    }
}

/// Runs a command until its output is enough, or until it exits with success.
fn run(command: &mut Command, log: &Path, enough: impl Fn(&str) -> bool) -> Result<(), String> {
    const WITHIN: Duration = Duration::from_secs(60);
    let out = std::fs::File::create(log).unwrap();
    let child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn();
    let mut child = KilledOnDrop(child.expect("start etcd's programs"));
    let start = Instant::now();
    loop {
        let ended = child.0.try_wait().unwrap();
        let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
        if enough(&text) || ended.is_some_and(|status| status.success()) {
            return Ok(());
        }
        if let Some(status) = ended {
            let last = text
                .lines()
                .find(|line| line.contains("panic:") || line.contains("fatal"))
                .or_else(|| text.lines().last());
            let last: String = last.unwrap_or_default().chars().take(300).collect();
            return Err(format!("{status}: {last}"));
        }
        if start.elapsed() > WITHIN {
            return Err("it hangs".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
