//! Processes of the node, found by their exact command line: the one in a manifest. So a control plane that a tenant runs in a pod is not
//! taken for that of the node.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The processes with this command line.
///
/// # Errors
/// The processes of the node can't be listed.
pub fn with_command(command: &[String]) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if has_command(pid, command) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Whether a process has this file open. Only a process with access to the file can.
#[must_use]
pub fn has_open(pid: i32, path: &Path) -> bool {
    let Ok(wanted) = std::fs::metadata(path) else {
        return false;
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    files.into_iter().flatten().flatten().any(|file| {
        let found = std::fs::metadata(file.path());
        found.is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    })
}

/// Words with a variable are expanded by the kubelet, so only the others are compared.
fn has_command(pid: i32, command: &[String]) -> bool {
    // One that ends meanwhile is gone.
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or_default();
    if line.is_empty() || command.is_empty() {
        return false;
    }
    let words: Vec<_> = line.split(|byte| *byte == 0).collect();
    words.len() == command.len()
        && words
            .iter()
            .zip(command)
            .all(|(word, expected)| *word == expected.as_bytes() || expected.contains("$("))
}

/// Whether a kubelet runs on this node.
#[must_use]
pub fn kubelet_runs() -> bool {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        // One that has ended, and that nobody asks for, has no command line any more.
        read("comm") == b"kubelet\n" && !read("cmdline").is_empty()
    })
}

/// Asks the processes with this command line to end, or kills them.
///
/// # Errors
/// The signal can't be sent.
pub fn end(command: &[String], is_killed: bool) -> io::Result<()> {
    let signal = match is_killed {
        true => Signal::KILL,
        false => Signal::TERM,
    };
    for pid in with_command(command)? {
        let Some(id) = Pid::from_raw(pid) else {
            continue;
        };
        let Ok(process) = pidfd_open(id, PidfdFlags::empty()) else {
            continue;
        };
        // The number may be that of another process by now. From here on it cannot change.
        if has_command(pid, command) {
            match pidfd_send_signal(&process, signal) {
                Err(rustix::io::Errno::SRCH) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_found_by_its_whole_command_line_and_ended() {
        // Nothing else on this machine sleeps for so long.
        let time = format!("{}.25", 100_000 + std::process::id());
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let command = words(&["sleep", &time]);
        assert_eq!(with_command(&command).unwrap(), Vec::<i32>::new());
        let mut sleeps = Command::new("sleep").arg(&time).spawn().unwrap();
        let pid = i32::try_from(sleeps.id()).unwrap();
        let found = loop {
            // Between fork and exec it has the command line of the test.
            match with_command(&command).unwrap() {
                found if found.is_empty() => std::thread::yield_now(),
                found => break found,
            }
        };
        assert_eq!(found, [pid]);
        let exe = std::fs::canonicalize("/proc/self/exe").unwrap();
        assert!(!has_open(pid, &exe));
        let own = i32::try_from(std::process::id()).unwrap();
        let held = std::fs::File::open(&exe).unwrap();
        assert!(has_open(own, &exe));
        drop(held);
        let unknown = with_command(&words(&["sleep", "$(TIME)"])).unwrap();
        assert!(unknown.contains(&pid));
        assert!(with_command(&words(&["sleep"])).unwrap().is_empty());
        end(&words(&["sleep", "1", &time]), true).unwrap();
        assert!(sleeps.try_wait().unwrap().is_none());
        end(&command, false).unwrap();
        assert!(!sleeps.wait().unwrap().success());
    }
}
