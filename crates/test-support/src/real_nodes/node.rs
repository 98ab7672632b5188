//! One node: a process tree with its own root directory, network, processes and cgroups.

use super::network::{PREFIX, Switch, pod_subnet};
use super::{Filesystem, cgroups, disk};
use crate::requirement::patience;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Puts itself into cgroups of the node, below those that it is in, and then starts the node in new namespaces.
const START: &str = r#"
set -e
name=$1 dir=$2
shift 2
outside=
# All at once: it changes below.
own=$(cat /proc/self/cgroup)
while IFS=: read -r _ controllers path; do
    controllers=${controllers#name=}
    case $controllers in "") top=/sys/fs/cgroup ;; *) top=/sys/fs/cgroup/$controllers ;; esac
    [ -n "$controllers" ] || [ -e /sys/fs/cgroup/cgroup.controllers ] || top=/sys/fs/cgroup/unified
    [ -d "$top" ] || continue
    parent=$top${path%/}
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        # Version 2: a cgroup with processes, such as that of this one, cannot give controllers to others. Only the top one can.
        parent=$top
        echo "+cpu +cpuset +memory +pids" > "$parent/cgroup.subtree_control"
        for more in io hugetlb; do echo "+$more" > "$parent/cgroup.subtree_control" || true; done
        outside=$parent/$name/outside
    fi
    group=$parent/$name
    # One that gave its controllers to others when the node was on before takes no process any more.
    for _ in {1..50}; do
        [ -d "$group" ] || break
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
    mkdir -p "$group"
    if [ "$controllers" = cpuset ]; then
        for file in cpus mems; do cat "$parent/cpuset.$file" > "$group/cpuset.$file"; done
        echo 1 > "$group/cgroup.clone_children"
    fi
    echo $$ > "$group/cgroup.procs"
    echo "$group" >> "$dir/cgroups"
done <<< "$own"
# The node takes the cgroup in which this is now for the top. There it cannot stay with version 2, as the node gives controllers to others.
exec setpriv --pdeathsig KILL unshare -C bash -c '
    set -e
    if [ -n "$1" ]; then mkdir "$1"; echo $$ > "$1/cgroup.procs"; fi
    shift
    exec unshare -m -u -i -n -p --fork --kill-child --propagation private bash "$@"
' bash "$outside" "$@"
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
    filesystem: Filesystem,
    process: Option<Child>,
}

impl RealNode {
    /// A node that is switched off. Its files are in `dir`.
    pub(super) fn new(
        number: usize,
        cluster: &str,
        dir: PathBuf,
        kit: &Path,
        filesystem: Filesystem,
    ) -> RealNode {
        RealNode {
            number,
            group: format!("{cluster}-node{number}"),
            dir,
            kit: kit.into(),
            filesystem,
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

    /// Its number. The first node is 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its root directory, seen from this machine, while it is switched on.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        let pid = self.first_process().unwrap_or_default();
        PathBuf::from(format!("/proc/{pid}/root"))
    }

    /// Switches it on.
    pub(super) fn start(&mut self, switch: &Switch) -> Result<(), String> {
        let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        std::fs::create_dir_all(self.dir.join("root"))
            .map_err(failed("create the folder of a node"))?;
        disk::provide(&self.dir, self.filesystem)?;
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
        let deadline = Instant::now() + patience(READY_WITHIN);
        let first = loop {
            if let Some(pid) = self.first_process() {
                break pid;
            }
            self.is_starting(deadline)?;
        };
        switch.connect(first, self.number)
    }

    /// Waits until its container runtime runs and has its images.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + patience(READY_WITHIN);
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

    /// Whether it is switched on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.first_process().is_some()
    }

    /// Writes a file in the node.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<(), String> {
        let path = self.root().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|()| std::fs::write(&path, content))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Makes an image available. See [`KubeadmCluster::load_image`](super::KubeadmCluster::load_image).
    ///
    /// # Errors
    /// The image cannot be read, or containerd does not take it.
    pub fn load_image(&self, file: &Path, name: &str) -> Result<(), String> {
        let base = name.rsplit_once(':').map_or(name, |(base, _)| base);
        self.import(file, &["--base-name", base])?;
        let list = self.run_ok(&["ctr", "-n", "k8s.io", "images", "ls", "-q"])?;
        match list.lines().any(|known| known == name) {
            true => Ok(()),
            false => Err(format!(
                "{} has no image {name}, but:\n{list}",
                file.display()
            )),
        }
    }

    /// Makes an image available that has its name in its file.
    ///
    /// # Errors
    /// The image cannot be read, or containerd does not take it.
    pub fn import(&self, file: &Path, flags: &[&str]) -> Result<(), String> {
        let inside = self.root().join("tmp/image.tar");
        std::fs::copy(file, &inside).map_err(|error| format!("{}: {error}", file.display()))?;
        let import = ["ctr", "-n", "k8s.io", "images", "import", "--local"];
        self.run_ok(&[&import[..], flags, &["/tmp/image.tar"]].concat())?;
        self.run_ok(&["rm", "/tmp/image.tar"]).map(drop)
    }

    /// Switches it off, as a power failure does. What is in the page cache of this machine is not lost.
    pub fn power_off(&mut self) {
        if let Some(mut process) = self.process.take() {
            // With version 1 of cgroups, a frozen process does not end when it is killed.
            let _ = cgroups::freeze(&self.cgroups(), false);
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Its cgroups, in each hierarchy.
    pub(super) fn cgroups(&self) -> Vec<PathBuf> {
        let groups = std::fs::read_to_string(self.dir.join("cgroups")).unwrap_or_default();
        groups.lines().map(PathBuf::from).collect()
    }
}

impl Drop for RealNode {
    fn drop(&mut self) {
        self.power_off();
        // The kernel keeps them.
        cgroups::remove(self.cgroups());
    }
}
