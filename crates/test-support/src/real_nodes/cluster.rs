//! A cluster that kubeadm makes on nodes.

use super::network::{MAX_NODES, PREFIX, Switch};
use super::node::RealNode;
use super::{Filesystem, Kit, cgroups, kubeadm};
use crate::requirement::patience;
use crate::scratch_dir::ScratchDir;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How the folder of each cluster begins, in the folder for temporary files.
pub const PREFIX_OF_FOLDERS: &str = "lifeboat-nodes-";
const READY_WITHIN: Duration = Duration::from_secs(240);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the nodes run.
    pub kit: Kit,
    /// Number of control-plane nodes.
    pub nodes: usize,
    /// What is on their disks.
    pub filesystem: Filesystem,
}

/// A cluster. It ends when this is dropped.
#[derive(Debug)]
pub struct KubeadmCluster {
    pub(super) nodes: Vec<RealNode>,
    pub(super) switch: Switch,
    dir: ScratchDir,
    options: Options,
}

impl KubeadmCluster {
    /// Starts nodes, and makes a cluster of them with `kubeadm init` and `kubeadm join --control-plane`. Calls `on_step` after each
    /// step.
    ///
    /// # Errors
    /// What is missing on this machine, or what a program printed that failed.
    pub fn start(options: Options, on_step: &dyn Fn(&str)) -> Result<KubeadmCluster, String> {
        if let Some(missing) = super::missing(options.filesystem) {
            return Err(missing);
        }
        let switch = Switch::create()?;
        let dir = ScratchDir::create(PREFIX_OF_FOLDERS);
        cgroups::remove_left(PREFIX_OF_FOLDERS);
        let mut cluster = KubeadmCluster {
            nodes: Vec::new(),
            switch,
            dir,
            options,
        };
        for _ in 0..cluster.options.nodes {
            cluster.add_node()?;
        }
        for node in &mut cluster.nodes {
            node.wait_until_ready()?;
        }
        on_step("the container runtime runs on each node");
        cluster.init(on_step)?;
        cluster.wait_until_ready()?;
        on_step("all nodes and static pods are ready");
        Ok(cluster)
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[RealNode] {
        &self.nodes
    }

    /// A node.
    ///
    /// # Errors
    /// There is no such node; which there are.
    pub fn node(&self, name: &str) -> Result<&RealNode, String> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.ok_or_else(|| self.no_such_node(name))
    }

    pub(super) fn node_mut(&mut self, name: &str) -> Result<&mut RealNode, String> {
        let unknown = self.no_such_node(name);
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.ok_or(unknown)
    }

    fn no_such_node(&self, name: &str) -> String {
        let names: Vec<_> = self.nodes.iter().map(RealNode::name).collect();
        format!("there is no node {name}: there are {}", names.join(", "))
    }

    /// What kubectl says of the nodes and of the pods.
    #[must_use]
    pub fn status(&self) -> String {
        let Some(node) = self.nodes.iter().find(|node| node.is_on()) else {
            return "all nodes are switched off\n".into();
        };
        let get = |what: &[&str]| {
            let words = [&["kubectl", "--request-timeout=10s", "get"], what].concat();
            node.run_ok(&words).unwrap_or_else(|problem| problem)
        };
        let (nodes, pods) = (get(&["nodes"]), get(&["pods", "-A", "-o", "wide"]));
        format!("{nodes}\n{pods}")
    }

    /// Where the files of the cluster are on this machine.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How a program of this machine reaches the API server of a node: the process whose network it must be in, and the kubeconfig of
    /// the administrator.
    ///
    /// # Errors
    /// The node is switched off, or has no API server yet.
    pub fn way_to(&self, node: &RealNode) -> Result<(u32, PathBuf), String> {
        let pid = node.first_process();
        let pid = pid.ok_or_else(|| format!("{} is switched off", node.name()))?;
        let config = node.run_ok(&["cat", "/etc/kubernetes/admin.conf"])?;
        // This machine does not know the names of nodes.
        let address = format!("https://{}:6443", node.address());
        let config = config.replace(&format!("https://{}:6443", kubeadm::ENDPOINT), &address);
        let path = self.dir().join(format!("kubeconfig-{}", node.name()));
        std::fs::write(&path, config).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok((pid, path))
    }

    /// A program of this machine that reaches the API server of the first node that is switched on.
    ///
    /// # Errors
    /// No node is switched on.
    pub fn command(&self, program: &Path) -> Result<Command, String> {
        let on = self.nodes.iter().find(|node| node.is_on());
        self.command_beside(on.ok_or("all nodes are switched off")?, program)
    }

    /// A program of this machine that reaches the API server of this node.
    ///
    /// # Errors
    /// The node is switched off.
    pub fn command_beside(&self, node: &RealNode, program: &Path) -> Result<Command, String> {
        let (pid, kubeconfig) = self.way_to(node)?;
        Ok(in_network_of(pid, &kubeconfig, program))
    }

    /// Adds a control-plane node, and returns when it is ready.
    ///
    /// # Errors
    /// There are too many nodes, or it does not get ready.
    pub fn join(&mut self) -> Result<&RealNode, String> {
        let Some(first) = self.nodes.iter().find(|node| node.is_on()) else {
            return Err("no node is switched on".into());
        };
        // Those of kubeadm init live for two hours.
        first.run_ok(&[
            "kubeadm",
            "init",
            "phase",
            "upload-certs",
            "--upload-certs",
            &format!("--certificate-key={}", kubeadm::CERTIFICATE_KEY),
        ])?;
        self.add_node()?;
        if let Some(node) = self.nodes.last_mut() {
            node.wait_until_ready()?;
            join(node)?;
        }
        self.wait_until_ready()?;
        self.nodes.last().ok_or_else(|| "no node".into())
    }

    /// Makes an image available on all nodes, from a file as `cargo xtask image` or `docker save` writes it. `name` is for an image
    /// that has only a tag in its file.
    ///
    /// # Errors
    /// The image cannot be read, or a node does not take it.
    pub fn load_image(&self, file: &Path, name: &str) -> Result<(), String> {
        for node in self.nodes.iter().filter(|node| node.is_on()) {
            node.load_image(file, name)?;
        }
        Ok(())
    }

    fn add_node(&mut self) -> Result<(), String> {
        let number = self.nodes.len() + 1;
        if number > MAX_NODES {
            return Err(format!("a cluster has at most {MAX_NODES} nodes"));
        }
        let name = self.dir.path().file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let place = self.dir.path().join(format!("node{number}"));
        let options = &self.options;
        let mut node = RealNode::new(number, &name, place, &options.kit.dir, options.filesystem);
        node.start(&self.switch)?;
        self.nodes.push(node);
        Ok(())
    }

    fn init(&self, on_step: &dyn Fn(&str)) -> Result<(), String> {
        let Some((first, others)) = self.nodes.split_first() else {
            return Err("a cluster without nodes".into());
        };
        let kit = &self.options.kit;
        let config = kubeadm::init(first, &kit.kubernetes, &kit.etcd_tag);
        first.write("root/kubeadm.yaml", config.as_bytes())?;
        let init = ["kubeadm", "init", "--config", "/root/kubeadm.yaml"];
        // No image of CoreDNS is built, and nothing here asks for names.
        let flags = ["--upload-certs", "--skip-phases=addon/coredns"];
        first.run_ok(&[&init[..], &flags].concat())?;
        on_step("kubeadm init");
        for node in others {
            join(node)?;
            on_step(&format!("kubeadm join, {}", node.name()));
        }
        Ok(())
    }

    /// Waits until all nodes that are switched on are ready, with all their static pods.
    ///
    /// # Errors
    /// They do not get ready.
    pub fn wait_until_ready(&self) -> Result<(), String> {
        self.wait_until_ready_with(1)
    }

    /// Like [`KubeadmCluster::wait_until_ready`], where the static pod of etcd has this many containers.
    ///
    /// # Errors
    /// They do not get ready.
    pub fn wait_until_ready_with(&self, etcd_containers: usize) -> Result<(), String> {
        let on: Vec<_> = self.nodes.iter().filter(|node| node.is_on()).collect();
        let Some(first) = on.first() else {
            return Ok(());
        };
        let deadline = Instant::now() + patience(READY_WITHIN);
        let lines = |command: &[&str]| {
            let printed = first.run(command).stdout;
            String::from_utf8_lossy(&printed).into_owned()
        };
        let get_nodes = ["kubectl", "get", "nodes", "--no-headers"];
        let get_pods = "kubectl get pods -n kube-system -l tier=control-plane --no-headers -o wide";
        let get_pods: Vec<_> = get_pods.split(' ').collect();
        loop {
            let (nodes, pods) = (lines(&get_nodes), lines(&get_pods));
            let ready = |node: &&RealNode| {
                let name = format!("{} ", node.name());
                let is_ready = |line: &str| line.starts_with(&name) && line.contains(" Ready ");
                let is_running = |line: &&str| {
                    let all = match line.starts_with("etcd-") {
                        true => format!("{etcd_containers}/{etcd_containers} "),
                        false => "1/1 ".into(),
                    };
                    line.contains(&format!(" {name}")) && line.contains(&all)
                };
                nodes.lines().any(is_ready) && pods.lines().filter(is_running).count() == 4
            };
            if on.iter().all(ready) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the cluster does not get ready:\n{nodes}\n{pods}"));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// A program of this machine in the network of a process.
#[must_use]
pub fn in_network_of(pid: u32, kubeconfig: &Path, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{pid}/ns/net"))
        .arg(program)
        .env("KUBECONFIG", kubeconfig);
    command
}

fn join(node: &RealNode) -> Result<(), String> {
    node.write("root/kubeadm.yaml", kubeadm::join(node).as_bytes())?;
    node.run_ok(&["kubeadm", "join", "--config", "/root/kubeadm.yaml"])?;
    // From now on its own API server.
    let hosts = node.run_ok(&["cat", "/etc/hosts"])?;
    let endpoint = kubeadm::ENDPOINT;
    let own = format!("{} {endpoint}", node.address());
    let hosts = hosts.replace(&format!("{PREFIX}.11 {endpoint}"), &own);
    node.write("etc/hosts", hosts.as_bytes())
}
