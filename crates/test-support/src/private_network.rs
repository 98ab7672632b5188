//! A network namespace with only a loopback interface, so that a server can use its usual port.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A separate network. The kernel removes it when no process is in it any more.
#[derive(Debug)]
pub struct PrivateNetwork {
    holder: Child,
}

impl PrivateNetwork {
    /// Creates a network. Returns `None` if this machine does not allow that.
    #[must_use]
    pub fn create() -> Option<PrivateNetwork> {
        PrivateNetwork::create_with("true")
    }

    /// Creates a network, and runs a command of a shell in it first.
    pub(crate) fn create_with(setup: &str) -> Option<PrivateNetwork> {
        let script = format!("ip link set lo up && {setup} && echo up && exec sleep infinity");
        let mut holder = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "sh",
                "-c",
                &script,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let stdout = holder.stdout.take()?;
        let up = BufReader::new(stdout).read_line(&mut line);
        let network = PrivateNetwork { holder };
        (up.is_ok() && line == "up\n").then_some(network)
    }

    /// A command that runs in it.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.holder.id()))
            .arg(program);
        command
    }
}

impl Drop for PrivateNetwork {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
