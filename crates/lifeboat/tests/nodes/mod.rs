//! What the tests on nodes with real kubelets share.
#![allow(dead_code, missing_docs)]

#[path = "../node/mod.rs"]
pub(crate) mod node;
pub(crate) mod steps;

use node::{names, told, wait_within};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use test_support::kubernetes::binaries;
use test_support::kubernetes::faults::Fault;
use test_support::real_nodes::{Filesystem, Kit, KubeadmCluster, Options, RealNode};
use test_support::requirement::{SHIPPED_IMAGE, patience, skip};

pub(crate) const IMAGE: &str = "registry.example/etcd-lifeboat:0.1.0";
/// The same image, as another version.
pub(crate) const OTHER_IMAGE: &str = "registry.example/etcd-lifeboat:other";
pub(crate) const NAMESPACE: &str = "etcd-lifeboat";
/// Where backups are on a node.
pub(crate) const REPOSITORY: &str = "/var/lib/etcd-auto-backup";

/// Looks until it is so. What a kubelet decides can take minutes.
pub(crate) fn wait_until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    let limit = patience(Duration::from_secs(300));
    // Each look is often a kubectl.
    wait_within(limit, Duration::from_millis(500), what, condition)
}

/// A genuine kubeadm cluster that has the image as it ships.
pub(crate) struct Nodes {
    pub cluster: KubeadmCluster,
    start: Instant,
}

impl Nodes {
    /// Starts a cluster. Nothing is installed in it.
    pub(crate) fn start(nodes: usize, filesystem: Filesystem) -> Option<Nodes> {
        Nodes::start_with(Kit::require()?, nodes, filesystem)
    }

    /// Starts a cluster of other versions.
    pub(crate) fn start_with(kit: Kit, nodes: usize, filesystem: Filesystem) -> Option<Nodes> {
        let start = Instant::now();
        let image = shipped_image()?;
        let options = Options {
            kit,
            nodes,
            filesystem,
        };
        let cluster = KubeadmCluster::start(options, &|step| {
            println!("{:6.1} s  {step}", start.elapsed().as_secs_f64());
        });
        let nodes = Nodes {
            cluster: cluster.unwrap(),
            start,
        };
        nodes.load(&image);
        Some(nodes)
    }

    fn load(&self, image: &Path) {
        self.cluster.load_image(image, IMAGE).unwrap();
        for node in self.cluster.nodes() {
            let tag = ["ctr", "-n", "k8s.io", "images", "tag", "--force"];
            node.run_ok(&[&tag[..], &[IMAGE, OTHER_IMAGE]].concat())
                .unwrap();
        }
    }

    /// What happened, for whoever reads the output of a failed test.
    pub(crate) fn step(&self, what: &str) {
        println!("{:6.1} s  {what}", self.start.elapsed().as_secs_f64());
    }

    /// Makes the image available on a node that joined.
    pub(crate) fn load_image_on(&self, node: &str) {
        let image = shipped_image().unwrap();
        self.node(node).load_image(&image, IMAGE).unwrap();
    }

    pub(crate) fn node(&self, name: &str) -> &RealNode {
        self.cluster.node(name).unwrap()
    }

    pub(crate) fn fault(&mut self, fault: Fault, part: &str) {
        self.step(&format!("{fault:?} {part}"));
        self.cluster.fault(fault, part).unwrap();
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Output {
        let kubernetes = binaries::require().unwrap();
        let mut kubectl = self
            .cluster
            .command(&kubernetes.program("kubectl"))
            .unwrap();
        kubectl.args(args).output().unwrap()
    }

    pub(crate) fn kubectl_ok(&self, args: &[&str]) -> String {
        let output = self.kubectl(args);
        assert!(output.status.success(), "{args:?}: {}", told(&output));
        told(&output)
    }

    pub(crate) fn get(&self, object: &[&str]) -> Option<Value> {
        let output = self.kubectl(&[&["get", "-o", "json"], object].concat());
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// What the API server answers.
    pub(crate) fn apply(&self, yaml: &str) -> String {
        let path = self.cluster.dir().join("applied.yaml");
        std::fs::write(&path, yaml).unwrap();
        self.kubectl_ok(&["apply", "-f", path.to_str().unwrap()])
    }

    /// A command of the program on a person's machine.
    pub(crate) fn lifeboat(&self, args: &[&str]) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"));
        let mut command = self.cluster.command(program).unwrap();
        command.args(args).output().unwrap()
    }

    pub(crate) fn install(&self, flags: &[&str]) -> String {
        let image = ["manifests", "--image", IMAGE];
        let manifests = node::lifeboat(&[&image[..], flags].concat());
        assert!(manifests.status.success(), "{}", told(&manifests));
        self.apply(&told(&manifests))
    }

    /// Edits `Backup/default`, and waits until all servers follow.
    pub(crate) fn edit(&self, schedule: &str, more: &str) {
        wait_until("the default", || {
            self.get(&["backup", "default"]).map(|_| ())
        });
        let patch = format!(r#"{{"spec":{{"etcd":{{"schedule":"{schedule}"{more}}}}}}}"#);
        self.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", &patch]);
        let argument = format!("--schedule={schedule}");
        self.wait_for_servers(|container| {
            let args = container["args"].as_array();
            args.is_some_and(|args| args.iter().any(|arg| *arg == *argument))
        });
    }

    /// Waits until the backup servers are like this, everywhere, and ready.
    pub(crate) fn wait_for_servers(&self, is_wanted: impl Fn(&Value) -> bool) {
        let set = ["-n", NAMESPACE, "daemonset", "backup-server-daemon-set"];
        wait_until("all backup servers", || {
            let set = self.get(&set)?;
            let status = &set["status"];
            let number = &status["desiredNumberScheduled"];
            (is_wanted(&set["spec"]["template"]["spec"]["containers"][0])
                && status["observedGeneration"] == set["metadata"]["generation"]
                && status["updatedNumberScheduled"] == *number
                && status["numberReady"] == *number)
                .then_some(())
        });
    }

    /// The names of the proven backups on a node, the newest first.
    pub(crate) fn kept(&self, node: &str) -> Vec<String> {
        let root = self.node(node).root();
        names(&root.join(REPOSITORY.trim_start_matches('/')), "backup")
    }

    /// Waits for a backup on a node that is newer than all that are there now.
    pub(crate) fn wait_for_newer_backup(&self, node: &str) -> String {
        let before = self.kept(node);
        wait_until(&format!("a newer backup on {node}"), || {
            let newest = self.kept(node).into_iter().next()?;
            (!before.contains(&newest)).then_some(newest)
        })
    }

    /// Waits until the cluster itself says that all nodes have new proven backups.
    pub(crate) fn wait_until_well(&self, nodes: usize) {
        let has = match nodes {
            1 => "1 node has".to_string(),
            nodes => format!("{nodes} nodes have"),
        };
        let well = format!("{has} an up-to-date proven backup");
        wait_until(&well, || {
            let (holds, message) = self.stale()?;
            (!holds && message == well).then_some(())
        });
    }

    /// Waits until the cluster says that a node has no new backups. Returns the message.
    pub(crate) fn wait_until_stale(&self, node: &str, word: &str) -> String {
        wait_until(&format!("{word} on {node}"), || {
            let (holds, message) = self.stale()?;
            let named = message.contains(&format!("{node}: ")) && message.contains(word);
            (holds && named).then_some(message)
        })
    }

    fn stale(&self) -> Option<(bool, String)> {
        let backup = self.get(&["backup", "default"])?;
        let conditions = backup["status"]["conditions"].as_array()?;
        let mut conditions = conditions.iter();
        let found = conditions.find(|condition| condition["type"] == "Degraded")?;
        let message = found["message"].as_str()?.to_string();
        Some((found["status"] == "True", message))
    }

    /// The pod of the backup server on a node that stays.
    pub(crate) fn server(&self, node: &str) -> Option<Value> {
        let pods = self.servers(node)?;
        let stays = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
        pods.into_iter().find(stays)
    }

    /// Also pods that still end.
    fn servers(&self, node: &str) -> Option<Vec<Value>> {
        let of_node = format!("--field-selector=spec.nodeName={node}");
        let label = ["-n", NAMESPACE, "pods", "-l", "app=etcd-auto-backup"];
        let pods = self.get(&[&label[..], &[&of_node]].concat())?;
        pods["items"].as_array().cloned()
    }

    /// Waits until no backup server is left on a node, none that still ends either.
    pub(crate) fn wait_until_no_server(&self, node: &str) {
        wait_until(&format!("the end of the server on {node}"), || {
            self.servers(node)?.is_empty().then_some(())
        });
    }

    /// Deletes the pod of the backup server on a node, and waits for the next one.
    pub(crate) fn replace_server(&self, node: &str) {
        let pod = self.server(node).unwrap();
        let name = pod["metadata"]["name"].as_str().unwrap();
        self.kubectl_ok(&["-n", NAMESPACE, "delete", "pod", name]);
        wait_until("the next server", || {
            let ready = &self.server(node)?["status"]["containerStatuses"][0]["ready"];
            (ready == true).then_some(())
        });
    }

    pub(crate) fn events(&self) -> String {
        let line = r#"jsonpath={range .items[*]}{.type} {.reason} {.involvedObject.kind}/{.involvedObject.name}: {.message}{"\n"}{end}"#;
        told(&self.kubectl(&["get", "events", "-A", "-o", line]))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.step("the end");
        if !std::thread::panicking() {
            return;
        }
        // They are gone with it.
        println!("{}\n{}", self.cluster.status(), self.events());
        for app in ["etcd-auto-backup", "etcd-lifeboat-operator"] {
            let of = format!("-lapp={app}");
            let logs = ["-n", NAMESPACE, "logs", &of, "--prefix", "--tail=60"];
            println!("{}", told(&self.kubectl(&logs)));
        }
    }
}

/// The image that `cargo xtask test` made.
fn shipped_image() -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(SHIPPED_IMAGE);
    if !file.exists() {
        skip("the image is not here: `cargo xtask image --for-tests` makes it");
        return None;
    }
    Some(file)
}

/// helm, with these arguments, in the network of the nodes.
pub(crate) fn helm(nodes: &Nodes, args: &[&str]) -> String {
    let helm: PathBuf = binaries::require_tool(binaries::HELM).unwrap();
    let mut command: Command = nodes.cluster.command(&helm).unwrap();
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", told(&output));
    told(&output)
}
