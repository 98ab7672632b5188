//! What the tests of an operated cluster share.
#![allow(dead_code, missing_docs)]

#[path = "../node/mod.rs"]
pub(crate) mod node;

use node::{command, names, told, wait_until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use test_support::etcd_binaries::require_usual;
use test_support::kubernetes::binaries;
use test_support::kubernetes::cluster::{Cluster, Options};
use test_support::kubernetes::image::{Image, Images};
use test_support::kubernetes::openshift::Flavour;

pub(crate) const IMAGE: &str = "lifeboat.test/etcd-lifeboat";
/// As the documentation has it.
pub(crate) const DOCUMENTED_IMAGE: &str = "registry.example/etcd-lifeboat:0.1.0";
/// As another version.
pub(crate) const OTHER_IMAGE: &str = "lifeboat.test/etcd-lifeboat:other";

/// The program of another version; without one the same, which is another to the cluster.
pub(crate) fn other_program() -> PathBuf {
    let other = std::env::var_os("LIFEBOAT_TEST_OTHER_PROGRAM");
    other.map_or_else(|| env!("CARGO_BIN_EXE_etcd-lifeboat").into(), PathBuf::from)
}

/// Where the operator answers as installed.
pub(crate) const METRICS: &str = "--listen=0.0.0.0:8080";
/// Instead of it where nodes share one machine: they can't have a port each, and its disk may be nearly full.
pub(crate) const SHARED_MACHINE: [&str; 4] = [
    "--listen=127.0.0.1:0",
    "--server-flag=--listen=127.0.0.1:0",
    "--server-flag=--min-free=1",
    "--backup-flag=--min-free=1",
];

/// The manifests as they are, but for what nodes that share one machine can't have.
pub(crate) fn manifests(image: &str, more: &[&str]) -> String {
    let text = told(&node::lifeboat(
        &[&["manifests", "--image", image][..], more].concat(),
    ));
    assert!(text.contains(METRICS), "{text}");
    let (before, after) = text.split_once(METRICS).unwrap();
    let indent = before.rsplit('\n').next().unwrap();
    let flags = SHARED_MACHINE.join(&format!("\n{indent}"));
    format!("{before}{flags}{after}")
}

/// A cluster in which everything but the operator itself is installed: tests start and end it themselves.
pub(crate) fn cluster(nodes: usize, openshift: Option<Flavour>) -> Option<Operated> {
    let mut cluster = bare_cluster(nodes, openshift)?;
    let flag: &[&str] = if openshift.is_some() {
        &["--openshift"]
    } else {
        &[]
    };
    let manifests = manifests(IMAGE, flag);
    let without: Vec<_> = manifests
        .split("---\n")
        .filter(|object| !object.contains("kind: Deployment\n"))
        .collect();
    cluster.apply(&without.join("---\n"));
    // With no more rights than it is installed with.
    cluster.kubeconfig = cluster.account_kubeconfig(cluster.namespace, "etcd-lifeboat-operator");
    Some(cluster)
}

/// A cluster in which nothing is installed yet.
pub(crate) fn bare_cluster(nodes: usize, openshift: Option<Flavour>) -> Option<Operated> {
    let root = Command::new("unshare").args(["--mount", "true"]).status();
    if !root.is_ok_and(|status| status.success()) {
        test_support::requirement::skip("no mounts of one's own: run as root");
        return None;
    }
    let image = Image::of_program(Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))).with_system();
    let other = Image::of_program(&other_program()).with_system();
    let cluster = Cluster::start(&Options {
        nodes,
        kubernetes: binaries::require()?,
        etcd: require_usual()?,
        openshift,
        images: Images::default()
            .with(IMAGE, image.clone())
            .with(DOCUMENTED_IMAGE, image)
            .with(OTHER_IMAGE, other),
    });
    let namespace = if openshift.is_some() {
        "openshift-etcd"
    } else {
        "etcd-lifeboat"
    };
    Some(Operated {
        kubeconfig: cluster.kubeconfig().to_path_buf(),
        cluster,
        namespace,
        may_be_refused: false,
    })
}

/// A cluster with nodes that have the images.
pub(crate) struct Operated {
    pub cluster: Cluster,
    /// Whose rights the operator has that a test starts.
    pub kubeconfig: PathBuf,
    pub namespace: &'static str,
    /// An API server that has just started refuses what it does not know yet.
    pub may_be_refused: bool,
}

impl Drop for Operated {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_what_was_asked();
            return;
        }
        // They are gone with it.
        {
            let pods = get(self, &["-n", self.namespace, "pods"]).unwrap_or_default();
            for pod in pods["items"].as_array().into_iter().flatten() {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                let container = pod["spec"]["containers"][0]["name"]
                    .as_str()
                    .unwrap_or_default();
                if let Some(log) = self.logs(self.namespace, name, container) {
                    println!("the log of {name}:\n{log}");
                }
            }
        }
    }
}

impl Operated {
    /// Nothing may have been refused for want of a right; what was used is written down for whoever looks at all tests.
    fn check_what_was_asked(&self) {
        let mut used = std::collections::BTreeSet::new();
        for account in [
            "etcd-lifeboat-operator",
            "etcd-lifeboat-agent",
            "etcd-lifeboat-request",
        ] {
            for event in self.asked_by(self.namespace, account) {
                let asked = &event["objectRef"];
                let text = |field: &str| asked[field].as_str().unwrap_or_default();
                let resource = match text("subresource") {
                    "" => text("resource").to_string(),
                    part => format!("{}/{part}", text("resource")),
                };
                let (verb, group) = (event["verb"].as_str().unwrap_or_default(), text("apiGroup"));
                let line = format!("{account} {verb} {group}/{resource}");
                let forbidden = event["annotations"]["authorization.k8s.io/decision"] == "forbid";
                assert!(
                    !forbidden || self.may_be_refused,
                    "was refused: {line}: {event}"
                );
                if !forbidden {
                    used.insert(line);
                }
            }
        }
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("asked");
        std::fs::create_dir_all(&dir).unwrap();
        let name = self.cluster.dir().file_name().unwrap();
        let lines: Vec<_> = used.into_iter().collect();
        std::fs::write(dir.join(name), lines.join("\n") + "\n").unwrap();
    }
}

impl std::ops::Deref for Operated {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl std::ops::DerefMut for Operated {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

/// An operator that runs outside of the cluster; dropping it kills it.
pub(crate) struct Operator {
    pub child: Child,
    pub log: PathBuf,
}

impl Operator {
    pub(crate) fn start(cluster: &Operated, identity: &str, more: &[&str]) -> Operator {
        Operator::start_as(|_| {}, cluster, identity, more)
    }

    pub(crate) fn start_as(
        change: impl Fn(&mut Command),
        cluster: &Operated,
        identity: &str,
        more: &[&str],
    ) -> Operator {
        let log = cluster.dir().join(format!("operator-{identity}.log"));
        let flags = ["operator", "--image", IMAGE, "--identity", identity];
        let mut command = command(&[&flags[..], &SHARED_MACHINE, more].concat());
        change(&mut command);
        let child = command
            .env("KUBECONFIG", &cluster.kubeconfig)
            .stderr(node::log_file(&log))
            .spawn()
            .unwrap();
        Operator { child, log }
    }

    pub(crate) fn wait_for(&self, told: &str) {
        wait_until(told, || self.log().contains(told).then_some(()));
    }

    /// Asks the operator itself: the status and the body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.wait_for("metrics on http://");
        let log = self.log();
        let address = log.rsplit("metrics on http://").next().unwrap();
        node::http_get(address.split('/').next().unwrap(), path)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        node::signal(name, &self.child.id().to_string());
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It is gone with its cluster.
        if std::thread::panicking() {
            println!("the operator's log:\n{}", self.log());
        }
    }
}

pub(crate) fn get(cluster: &Cluster, object: &[&str]) -> Option<Value> {
    let output = cluster.kubectl(&[&["get", "-o", "json"], object].concat());
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// A condition: whether it holds, its reason and its message.
pub(crate) fn condition(
    cluster: &Cluster,
    object: &[&str],
    type_: &str,
) -> Option<(bool, String, String)> {
    let object = get(cluster, object)?;
    let conditions = object["status"]["conditions"].as_array()?;
    let condition = conditions
        .iter()
        .find(|condition| condition["type"] == type_)?;
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_string();
    Some((
        condition["status"] == "True",
        text("reason"),
        text("message"),
    ))
}

/// Whether a `Backup` could not be made into what it says, and the message.
pub(crate) fn degraded(cluster: &Cluster, backup: &str) -> Option<(bool, String)> {
    let found = condition(
        cluster,
        &["backup", backup],
        "PeriodicBackupControllerDegraded",
    );
    found.map(|(holds, _, message)| (holds, message))
}

/// Whether the backups of a `Backup` are not new enough, the reason and the message.
pub(crate) fn stale(cluster: &Cluster, backup: &str) -> Option<(bool, String, String)> {
    condition(cluster, &["backup", backup], "Degraded")
}

pub(crate) fn kept(cluster: &Cluster) -> Vec<Vec<String>> {
    let repository = |root: &Path| root.join("var/lib/etcd-auto-backup");
    let nodes = cluster.nodes();
    nodes
        .iter()
        .map(|node| names(&repository(&node.root), "backup"))
        .collect()
}

/// The DaemonSet.
pub(crate) const SET: [&str; 4] = [
    "-n",
    "etcd-lifeboat",
    "daemonset",
    "backup-server-daemon-set",
];

/// Volumes of a class, one on each node, that are bound when a pod uses them.
pub(crate) fn local_volumes(cluster: &Operated, class: &str) {
    let mut objects = format!(
        "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: {class}}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
"
    );
    for node in cluster.nodes() {
        let name = &node.name;
        objects.push_str(&format!(
            "---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {class}-{name}}}
spec:
  capacity: {{storage: 30Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: {class}
  hostPath: {{path: /mnt/{class}}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{name}]}}]
"
        ));
    }
    cluster.apply(&objects);
}

/// Sets annotations of `Backup/default`.
pub(crate) fn annotate(cluster: &Operated, annotations: &[&str]) {
    let command = ["annotate", "backup", "default", "--overwrite"];
    let _ = cluster.kubectl_ok(&[&command[..], annotations].concat());
}

/// Edits `Backup/default`.
pub(crate) fn edit(cluster: &Operated, etcd: &str) {
    wait_until("the default", || get(cluster, &["backup", "default"]));
    let patch = format!(r#"{{"spec":{{"etcd":{etcd}}}}}"#);
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", &patch]);
}
