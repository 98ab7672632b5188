//! The cgroups of nodes, in either version of cgroups.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a node with a kubelet needs of version 1.
pub(super) const CONTROLLERS: [&str; 7] = [
    "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids",
];

const TOP: &str = "/sys/fs/cgroup";

/// Whether this machine has version 2 alone.
pub(super) fn is_version_2() -> bool {
    Path::new(TOP).join("cgroup.controllers").exists()
}

/// Gives cgroups below the top one what a node with a kubelet needs of version 2.
pub(super) fn give_controllers() -> Result<(), String> {
    let file = Path::new(TOP).join("cgroup.subtree_control");
    std::fs::write(&file, "+cpu +cpuset +memory +pids").map_err(|error| {
        format!(
            "cgroups cannot have the controllers cpu, cpuset, memory and pids: {}: {error}. In a container, all processes must be in \
             cgroups below {TOP} first",
            file.display()
        )
    })
}

/// The folders of the cgroups in which those of nodes are made, each with its controllers: of the cgroups that this process is in. With
/// version 2 of the top one, as no other with processes can give controllers to those below it.
pub(super) fn parents() -> Vec<(String, PathBuf)> {
    if is_version_2() {
        return vec![(String::new(), PathBuf::from(TOP))];
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut all = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next().unwrap_or_default().trim_start_matches("name=");
        let path = parts.next().unwrap_or_default().trim_start_matches('/');
        let top = match controllers {
            "" => Path::new(TOP).join("unified"),
            controllers => Path::new(TOP).join(controllers),
        };
        all.push((controllers.to_string(), top.join(path)));
    }
    all
}

/// Suspends all processes of a node, or continues them. Returns when they are suspended.
pub(super) fn freeze(groups: &[PathBuf], frozen: bool) -> Result<(), String> {
    let group = match is_version_2() {
        true => groups.first(),
        false => groups
            .iter()
            .find(|group| group.join("freezer.state").exists()),
    };
    let group = group.ok_or("this machine has no freezer for cgroups")?;
    // What is written to which file, and the line of which file says that it is done.
    let (file, word, state, done) = match (is_version_2(), frozen) {
        (true, true) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
        (true, false) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
        (false, true) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
        (false, false) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
    };
    let failed = |error: std::io::Error| format!("{}: {error}", group.display());
    std::fs::write(group.join(file), word).map_err(failed)?;
    let state = group.join(state);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let lines = std::fs::read_to_string(&state).map_err(failed)?;
        if lines.lines().any(|line| line == done) {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("{} does not become {done}", state.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Removes the cgroups of nodes whose cluster was killed: those with this prefix for which there is no folder any more.
pub fn remove_left(prefix: &str) {
    let is_left = |group: &PathBuf| {
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        let folder = name.rsplit_once("-node").map(|(cluster, _)| cluster);
        let folder = folder.map(|folder| std::env::temp_dir().join(folder));
        // A cluster may have its folder elsewhere.
        folder.is_some_and(|folder| !folder.exists()) && processes(group).is_empty()
    };
    let left = with_name(prefix).into_iter().filter(is_left).collect();
    remove(left);
}

/// The processes in a cgroup and in all below it.
#[must_use]
pub fn processes(group: &Path) -> Vec<u32> {
    let file = group.join("cgroup.procs");
    let own = std::fs::read_to_string(file).unwrap_or_default();
    let mut all: Vec<u32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(processes(&entry.path()));
        }
    }
    all
}

/// All cgroups of nodes, with this in the name of their cluster.
#[must_use]
pub fn with_name(part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (_, parent) in parents() {
        let groups = std::fs::read_dir(parent).into_iter().flatten().flatten();
        found.extend(groups.map(|entry| entry.path()).filter(|group| {
            let name = group.file_name().unwrap_or_default().to_string_lossy();
            name.contains(part)
        }));
    }
    found
}

/// Removes cgroups, with all below them, as soon as their last process has ended.
pub(super) fn remove(mut groups: Vec<PathBuf>) {
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
