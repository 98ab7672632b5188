//! One program of a control plane: started, frozen, thawed, killed, started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running program, or one that was stopped.
pub(super) struct Part {
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Part {
    pub(super) fn new(program: PathBuf, args: Vec<String>, log: PathBuf) -> Part {
        Part {
            program,
            args,
            log,
            child: None,
        }
    }

    /// Whether the program exists on this machine.
    pub(super) fn is_there(&self) -> bool {
        self.program.is_file()
    }

    pub(super) fn start_again(&mut self) {
        self.stop();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        // Ends it also if the test is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.program)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("start setpriv (Debian package util-linux)");
        self.child = Some(child);
    }

    /// Ends it as a crash does.
    pub(super) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(super) fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            let pid = child.id().to_string();
            let _ = Command::new("kill").args([name, &pid]).status();
        }
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.stop();
    }
}
