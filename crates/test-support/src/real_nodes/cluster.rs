//! A cluster that kubeadm makes on nodes.

use super::network::{PREFIX, Switch};
use super::node::{RealNode, remove_left_cgroups};
use crate::scratch_dir::ScratchDir;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PREFIX_OF_FOLDERS: &str = "lifeboat-nodes-";
const TOKEN: &str = "abcdef.0123456789abcdef";
const CERTIFICATE_KEY: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
const READY_WITHIN: Duration = Duration::from_secs(240);

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the nodes run.
    pub kit: PathBuf,
    /// The version of Kubernetes, such as `v1.37.2`.
    pub kubernetes: String,
    /// The tag of etcd's image in the kit.
    pub etcd_tag: String,
    /// Number of control-plane nodes.
    pub nodes: usize,
}

/// A cluster. It ends when this is dropped.
#[derive(Debug)]
pub struct KubeadmCluster {
    nodes: Vec<RealNode>,
    switch: Switch,
    dir: ScratchDir,
    options: Options,
}

impl KubeadmCluster {
    /// Starts nodes, and makes a cluster of them with `kubeadm init` and `kubeadm join --control-plane`. Calls `on_step` after each
    /// step.
    ///
    /// # Errors
    /// What this machine lacks, or what a program printed that failed.
    pub fn start(options: Options, on_step: &dyn Fn(&str)) -> Result<KubeadmCluster, String> {
        let switch = Switch::create()?;
        let dir = ScratchDir::create(PREFIX_OF_FOLDERS);
        remove_left_cgroups(PREFIX_OF_FOLDERS);
        let name = dir.path().file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let all: Vec<usize> = (1..=options.nodes).collect();
        let node = |number: &usize| {
            let place = dir.path().join(format!("node{number}"));
            RealNode::new(*number, &name, place, &options.kit)
        };
        let mut cluster = KubeadmCluster {
            nodes: all.iter().map(node).collect(),
            switch,
            dir,
            options,
        };
        for node in &mut cluster.nodes {
            node.start(&cluster.switch, &all)?;
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

    /// What kubectl says of the nodes and of the pods.
    #[must_use]
    pub fn status(&self) -> String {
        let running = self
            .nodes
            .iter()
            .find(|node| node.first_process().is_some());
        let Some(node) = running else {
            return "all nodes are switched off\n".into();
        };
        let get = |what: &[&str]| {
            let words = [&["kubectl", "--request-timeout=10s", "get"], what].concat();
            node.run_ok(&words).unwrap_or_else(|problem| problem)
        };
        let (nodes, pods) = (get(&["nodes"]), get(&["pods", "-A", "-o", "wide"]));
        format!("{nodes}\n{pods}")
    }

    /// Switches a node off, as a power failure does.
    ///
    /// # Errors
    /// There is no such node.
    pub fn power_off(&mut self, name: &str) -> Result<(), String> {
        self.node(name)?.power_off();
        Ok(())
    }

    /// Switches a node on again, with its disk as it was.
    ///
    /// # Errors
    /// There is no such node, or it does not start.
    pub fn power_on(&mut self, name: &str) -> Result<(), String> {
        let all: Vec<usize> = (1..=self.nodes.len()).collect();
        let index = self.nodes.iter().position(|node| node.name() == name);
        let node = index.and_then(|index| self.nodes.get_mut(index));
        let node = node.ok_or_else(|| format!("there is no node {name}"))?;
        node.start(&self.switch, &all)?;
        node.wait_until_ready()
    }

    fn node(&mut self, name: &str) -> Result<&mut RealNode, String> {
        let mut nodes = self.nodes.iter_mut();
        let found = nodes.find(|node| node.name() == name);
        found.ok_or_else(|| format!("there is no node {name}"))
    }

    /// Where the files of the cluster are on this machine.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn init(&self, on_step: &dyn Fn(&str)) -> Result<(), String> {
        let Some((first, others)) = self.nodes.split_first() else {
            return Err("a cluster without nodes".into());
        };
        write_config(first, &self.init_configuration(first))?;
        let init = ["kubeadm", "init", "--config", "/root/kubeadm.yaml"];
        // No image of CoreDNS is built, and nothing here asks for names.
        let flags = ["--upload-certs", "--skip-phases=addon/coredns"];
        first.run_ok(&[&init[..], &flags].concat())?;
        on_step("kubeadm init");
        for node in others {
            write_config(node, &join_configuration(node))?;
            node.run_ok(&["kubeadm", "join", "--config", "/root/kubeadm.yaml"])?;
            // From now on its own API server.
            let hosts = node.root().join("etc/hosts");
            let text = std::fs::read_to_string(&hosts).map_err(|error| error.to_string())?;
            let own = format!("{} api.nodes.test", node.address());
            let text = text.replace(&format!("{PREFIX}.11 api.nodes.test"), &own);
            std::fs::write(&hosts, text).map_err(|error| error.to_string())?;
            on_step(&format!("kubeadm join, {}", node.name()));
        }
        Ok(())
    }

    fn init_configuration(&self, node: &RealNode) -> String {
        format!(
            "apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens: [{{token: {TOKEN}}}]
certificateKey: \"{CERTIFICATE_KEY}\"
localAPIEndpoint: {{advertiseAddress: {address}}}
{registration}---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {version}
controlPlaneEndpoint: api.nodes.test:6443
networking: {{podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}}
encryptionAlgorithm: ECDSA-P256
etcd: {{local: {{imageTag: {etcd_tag}}}}}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
oomScoreAdj: 0
failSwapOn: false
fileCheckFrequency: 2s
resolvConf: /etc/resolv.conf
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
",
            address = node.address(),
            registration = registration(node),
            version = self.options.kubernetes,
            etcd_tag = self.options.etcd_tag,
        )
    }

    fn wait_until_ready(&self) -> Result<(), String> {
        let Some(first) = self.nodes.first() else {
            return Ok(());
        };
        let deadline = Instant::now() + READY_WITHIN;
        let count = |command: &[&str], wanted: &str| {
            let printed = first.run(command).stdout;
            let printed = String::from_utf8_lossy(&printed).into_owned();
            let ready = printed.lines().filter(|line| line.contains(wanted));
            ready.count()
        };
        let nodes = ["kubectl", "get", "nodes", "--no-headers"];
        let pods = [
            "kubectl",
            "get",
            "pods",
            "-n",
            "kube-system",
            "-l",
            "tier=control-plane",
            "--no-headers",
        ];
        while count(&nodes, " Ready ") < self.nodes.len()
            || count(&pods, "1/1 ") < 4 * self.nodes.len()
        {
            if Instant::now() > deadline {
                let nodes = first.run_ok(&nodes);
                let pods = first.run_ok(&pods);
                return Err(format!(
                    "the cluster does not get ready: {nodes:?} {pods:?}"
                ));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }
}

fn join_configuration(node: &RealNode) -> String {
    format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery: {{bootstrapToken: {{apiServerEndpoint: \"api.nodes.test:6443\", token: {TOKEN}, unsafeSkipCAVerification: true}}}}
controlPlane: {{certificateKey: \"{CERTIFICATE_KEY}\", localAPIEndpoint: {{advertiseAddress: {address}}}}}
{registration}",
        address = node.address(),
        registration = registration(node),
    )
}

fn registration(node: &RealNode) -> String {
    format!(
        "nodeRegistration:
  name: {name}
  criSocket: unix:///run/containerd/containerd.sock
  imagePullPolicy: IfNotPresent
  taints: []
  kubeletExtraArgs: [{{name: node-ip, value: {address}}}]
  ignorePreflightErrors: [SystemVerification, Swap]
",
        name = node.name(),
        address = node.address(),
    )
}

fn write_config(node: &RealNode, text: &str) -> Result<(), String> {
    let path = node.root().join("root/kubeadm.yaml");
    std::fs::create_dir_all(path.parent().unwrap_or(&path))
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| format!("{}: {error}", path.display()))
}
