//! What a machine must have for nodes with kubelets.

use super::{Filesystem, cgroups};
use std::path::Path;
use std::process::Command;

/// What is missing on this machine, and how to get it. `None` if everything is there.
#[must_use]
pub fn missing(filesystem: Filesystem) -> Option<String> {
    let (maker, package) = filesystem.maker();
    let programs = [
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
        ("setpriv", "util-linux"),
        ("losetup", "mount"),
        ("ip", "iproute2"),
        ("sysctl", "procps"),
        (maker, package),
    ];
    for (program, package) in programs {
        if Command::new(program).arg("--version").output().is_err() {
            return Some(format!("{program} is missing: install Debian's {package}"));
        }
    }
    let namespaces = ["-m", "-u", "-i", "-n", "-p", "-C", "--fork", "true"];
    let output = Command::new("unshare").args(namespaces).output().ok()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Some(format!(
            "namespaces cannot be created ({}): run as root",
            said.trim()
        ));
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.contains("overlay") {
        return Some("the kernel has no overlayfs: modprobe overlay".into());
    }
    let free = Command::new("losetup").arg("--find").output().ok()?;
    if !free.status.success() {
        let said = String::from_utf8_lossy(&free.stderr);
        return Some(format!("there is no free loop device: {}", said.trim()));
    }
    of_cgroups()
}

fn of_cgroups() -> Option<String> {
    let parents = cgroups::parents();
    if cgroups::is_version_2() {
        let problem = cgroups::give_controllers().err();
        return problem.or_else(|| {
            parents
                .iter()
                .find_map(|(_, group)| can_create_below(group))
        });
    }
    for needed in cgroups::CONTROLLERS {
        let group = parents
            .iter()
            .find(|(names, _)| names.split(',').any(|name| name == needed));
        let Some((_, group)) = group else {
            return Some(format!("the cgroup controller {needed} is not mounted"));
        };
        if let Some(problem) = can_create_below(group) {
            return Some(problem);
        }
    }
    None
}

fn can_create_below(group: &Path) -> Option<String> {
    let test = group.join(format!("lifeboat-try-{}", std::process::id()));
    let created = std::fs::create_dir(&test);
    let _ = std::fs::remove_dir(&test);
    created
        .err()
        .map(|error| format!("no cgroup can be created in {}: {error}", group.display()))
}
