//! Volumes of nodes on genuine kubeadm nodes: by a real dynamic provisioner, and local disks; and the test plan of the proposal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod nodes;

use nodes::node::{lifeboat, names, text, told};
use nodes::{IMAGE, NAMESPACE, Nodes, wait_until};
use std::path::{Path, PathBuf};
use std::time::Duration;
use test_support::kubernetes::binaries::{PROVISIONER, require_tool};
use test_support::kubernetes::faults::Fault;
use test_support::real_nodes::{Filesystem, ImageContent, with_libraries, write_image};

const PROVISIONER_IMAGE: &str = "registry.example/local-path-provisioner:test";
const SHELL_IMAGE: &str = "registry.example/shell:test";
/// Where the provisioner makes volumes on each node.
const PROVISIONED: &str = "/opt/local-path";

/// rancher/local-path-provisioner: `deploy/local-path-storage.yaml`. What makes a directory runs in a pod on the node.
const PROVISIONER_MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: local-path-storage}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: local-path-provisioner-service-account, namespace: local-path-storage}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: local-path}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: local-path-provisioner-service-account, namespace: local-path-storage}]
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local-path}
provisioner: rancher.io/local-path
volumeBindingMode: WaitForFirstConsumer
reclaimPolicy: Delete
---
apiVersion: v1
kind: ConfigMap
metadata: {name: local-path-config, namespace: local-path-storage}
data:
  config.json: '{\"nodePathMap\": [{\"node\": \"DEFAULT_PATH_FOR_NON_LISTED_NODES\", \"paths\": [\"/opt/local-path\"]}]}'
  setup: 'mkdir -m 0777 -p \"$VOL_DIR\"'
  teardown: 'rm -rf \"$VOL_DIR\"'
  helperPod.yaml: |
    apiVersion: v1
    kind: Pod
    metadata: {name: helper-pod}
    spec:
      tolerations: [{operator: Exists}]
      containers: [{name: helper-pod, image: registry.example/shell:test, imagePullPolicy: Never}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: local-path-provisioner, namespace: local-path-storage}
spec:
  replicas: 1
  selector: {matchLabels: {app: local-path-provisioner}}
  template:
    metadata: {labels: {app: local-path-provisioner}}
    spec:
      serviceAccountName: local-path-provisioner-service-account
      tolerations: [{operator: Exists}]
      containers:
      - name: local-path-provisioner
        image: registry.example/local-path-provisioner:test
        imagePullPolicy: Never
        args: [--debug, start, --config, /etc/config/config.json]
        env:
        - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        volumeMounts: [{name: config, mountPath: /etc/config}]
      volumes: [{name: config, configMap: {name: local-path-config}}]
";

/// Installs a dynamic provisioner with images that are made here.
fn install_provisioner(nodes: &Nodes) -> bool {
    let Some(program) = require_tool(PROVISIONER) else {
        return false;
    };
    let load = |name: &str, entrypoint: Option<&str>, files: Vec<(PathBuf, String)>| {
        let file = nodes.cluster.dir().join("image.tar");
        let content = ImageContent {
            entrypoint,
            files,
            ..ImageContent::default()
        };
        write_image(&file, name, &content).unwrap();
        nodes.cluster.load_image(&file, name).unwrap();
    };
    load(
        PROVISIONER_IMAGE,
        Some("/local-path-provisioner"),
        vec![(program, "local-path-provisioner".into())],
    );
    let mut shell = Vec::new();
    for program in ["bash", "mkdir", "rm"] {
        let place = if program == "bash" {
            "bin/sh".to_string()
        } else {
            format!("bin/{program}")
        };
        let path = Path::new("/usr/bin").join(program);
        shell.extend(with_libraries(&path, &place, None).unwrap());
    }
    shell.sort_by(|one, other| one.1.cmp(&other.1));
    shell.dedup_by(|one, other| one.1 == other.1);
    load(SHELL_IMAGE, None, shell);
    nodes.apply(PROVISIONER_MANIFESTS);
    true
}

/// The backups below a directory of a node, in the only directory that has any.
fn below(nodes: &Nodes, node: &str, dir: &str) -> Vec<String> {
    let root = nodes.node(node).root().join(&dir[1..]);
    let own = names(&root, "backup");
    if !own.is_empty() {
        return own;
    }
    let dirs = std::fs::read_dir(&root).into_iter().flatten().flatten();
    dirs.flat_map(|dir| names(&dir.path(), "backup")).collect()
}

/// The commands of a page, at a place that the test runs.
fn commands_of_page(number: usize) -> String {
    let page = include_str!("../../../docs/ways.md");
    let block = page.split("```sh volume\n").nth(number).unwrap();
    block.split_once("```").unwrap().0.to_string()
}

/// Runs commands as a person would, with kubectl and the plugin.
fn person(nodes: &Nodes, commands: &str) -> String {
    let dir = nodes.cluster.dir().join("bin");
    std::fs::create_dir_all(&dir).unwrap();
    let kubectl = test_support::kubernetes::binaries::require()
        .unwrap()
        .program("kubectl");
    for (name, program) in [
        ("kubectl", kubectl.as_path()),
        (
            "kubectl-lifeboat",
            Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat")),
        ),
    ] {
        let _ = std::os::unix::fs::symlink(program, dir.join(name));
    }
    let mut shell = nodes.cluster.command(Path::new("bash")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = shell
        .args(["-e", "-c", commands])
        .env("PATH", format!("{}:{path}", dir.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{commands}\n{}", told(&output));
    told(&output)
}

#[test]
#[ignore = "takes five minutes: the same is tried without real nodes"]
fn nodes_have_copies_on_volumes_of_a_provisioner_and_on_local_disks() {
    let Some(mut nodes) = Nodes::start(2, Filesystem::Ext4) else {
        return;
    };
    if !install_provisioner(&nodes) {
        return;
    }
    nodes.install(&[]);
    nodes.edit("@every 3s", "");
    nodes.wait_until_well(2);
    nodes.step("both nodes have backups");

    // By the commands of the page.
    println!("{}", person(&nodes, &commands_of_page(1)));
    for node in ["node1", "node2"] {
        wait_until("three copies", || {
            (below(&nodes, node, PROVISIONED).len() == 3).then_some(())
        });
    }
    nodes.step("each has copies on a volume of the provisioner");
    let root = nodes.node("node2").root().join(&PROVISIONED[1..]);
    let volume = std::fs::read_dir(&root)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let newest = volume.join(names(&volume, "backup").remove(0));
    let verified = lifeboat(&["verify", text(&newest)]);
    assert!(verified.status.success(), "{}", told(&verified));

    // The pod of a volume is killed while it copies, and the disk of the backups goes on.
    for _ in 0..3 {
        nodes.fault(Fault::Restart, "etcd-backup-volume/node1");
        let before = below(&nodes, "node1", PROVISIONED);
        wait_until("newer copies", || {
            let now = below(&nodes, "node1", PROVISIONED);
            (!now.is_empty() && now.iter().all(|name| !before.contains(name))).then_some(())
        });
    }
    let listed = person(&nodes, &commands_of_page(2));
    assert!(listed.contains("volume: 20"), "{listed}");
    let exported = person(&nodes, &commands_of_page(3));
    assert!(exported.contains("proven here"), "{exported}");
    nodes.step("the pod of a volume was killed three times, and a copy was exported");

    // A node that is off is not fenced yet.
    nodes.edit("@every 1h", "");
    nodes.fault(Fault::Stop, "kubelet/node2");
    wait_until("that Kubernetes misses it", || {
        let node = nodes.get(&["node", "node2"])?;
        let conditions = node["status"]["conditions"].as_array()?.clone();
        let mut ready = conditions.into_iter().filter(|one| one["type"] == "Ready");
        (ready.next()?["status"] != "True").then_some(())
    });
    let pod = ["-n", "etcd-lifeboat", "pod", "etcd-backup-volume-node2-0"];
    let before = wait_until("that its pod is not Ready", || {
        let pod = nodes.get(&pod)?;
        let mut conditions = pod["status"]["conditions"].as_array()?.iter();
        let ready = conditions.find(|one| one["type"] == "Ready")?;
        (ready["status"] != "True").then(|| pod["metadata"]["uid"].clone())
    });
    let to = tempfile::tempdir().unwrap();
    let to = to.path().to_str().unwrap();
    let refused = nodes.lifeboat(&["export", "node2", "--from-volume", "--to", to]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        told(&refused).contains("Node node2 is still in the cluster"),
        "{}",
        told(&refused)
    );
    // With the taint of the page, Kubernetes removes the pod, so that the volume is free for another node.
    let taint = |change: &str| {
        let taint = format!("node.kubernetes.io/out-of-service=nodeshutdown:NoExecute{change}");
        nodes.kubectl_ok(&["taint", "node", "node2", &taint]);
    };
    taint("");
    wait_until("that the pod is removed from the node", || {
        let is_gone = nodes
            .get(&pod)
            .is_none_or(|pod| pod["metadata"]["uid"] != before);
        is_gone.then_some(())
    });
    taint("-");
    nodes.fault(Fault::Start, "kubelet/node2");
    nodes.cluster.wait_until_ready().unwrap();
    nodes.step("the volume of a node that may still write is refused, and freed by the taint");

    // A disk of its own for each node, without a provisioner.
    nodes.kubectl_ok(&[
        "annotate",
        "backup",
        "default",
        "--overwrite",
        "lifeboat.etcd.io/storage=hostPath",
    ]);
    wait_until("the end of the StatefulSets", || {
        let sets = nodes.get(&["-n", "etcd-lifeboat", "statefulsets"])?;
        sets["items"].as_array()?.is_empty().then_some(())
    });
    for node in ["node1", "node2"] {
        assert_eq!(
            below(&nodes, node, PROVISIONED).len(),
            3,
            "what is there stays"
        );
    }
    // The claims are a person's to delete: then the names are free for other volumes.
    nodes.kubectl_ok(&["-n", "etcd-lifeboat", "delete", "pvc", "--all"]);
    let disk = "mknod /dev/loop-control c 10 237
        for number in $(seq 0 63); do mknod /dev/loop$number b 7 $number; done
        mkdir -p /mnt/backups && truncate -s 200M /backups.img && mkfs.ext4 -q /backups.img && mount -o loop /backups.img /mnt/backups";
    let mut objects = String::from(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: local-disk}\nprovisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: WaitForFirstConsumer\n",
    );
    for node in ["node1", "node2"] {
        nodes.node(node).run_ok(&["sh", "-c", disk]).unwrap();
        objects.push_str(&format!(
            "---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: disk-of-{node}}}
spec:
  capacity: {{storage: 200Mi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local-disk
  local: {{path: /mnt/backups}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]
"
        ));
    }
    nodes.apply(&objects);
    nodes.kubectl_ok(&[
        "annotate",
        "backup",
        "default",
        "--overwrite",
        "lifeboat.etcd.io/storage=pvc",
        "lifeboat.etcd.io/storage-class=local-disk",
        "lifeboat.etcd.io/volume-size=150Mi",
    ]);
    nodes.edit("@every 3s", "");
    for node in ["node1", "node2"] {
        wait_until("copies on the local disk", || {
            (!below(&nodes, node, "/mnt/backups").is_empty()).then_some(())
        });
    }
    // Full to the last byte by somebody else: it is reported, and the backups on the node's own disk go on.
    nodes
        .node("node1")
        .run_ok(&[
            "sh",
            "-c",
            "dd if=/dev/zero of=/mnt/backups/filler bs=1M || true",
        ])
        .unwrap();
    let condition = || {
        let backup = nodes.get(&["backup", "default"])?;
        let mut conditions = backup["status"]["conditions"].as_array()?.iter();
        conditions
            .find(|one| one["type"] == "VolumesDegraded")
            .cloned()
    };
    wait_until("the full volume", || {
        let found = condition()?;
        let message = found["message"].as_str()?;
        (found["status"] == "True" && message.contains("node1")).then(|| println!("{message}"))
    });
    nodes.wait_for_newer_backup("node1");
    nodes
        .node("node1")
        .run_ok(&["rm", "/mnt/backups/filler"])
        .unwrap();
    wait_until("that all is well", || {
        let found = condition()?;
        (found["status"] == "False").then_some(())
    });
    nodes.step("each has copies on a local disk, which was full for a while");
}

#[test]
fn the_test_plan_of_the_proposal() {
    let Some(nodes) = Nodes::start(1, Filesystem::Ext4) else {
        return;
    };
    let wait_for_operator = || {
        nodes.kubectl_ok(&[
            "-n",
            NAMESPACE,
            "rollout",
            "status",
            "deployment/etcd-lifeboat-operator",
            "--timeout=300s",
        ]);
    };
    let set_gate = |value: &str| {
        let patch = format!(
            r#"[{{"op":"replace","path":"/spec/template/spec/containers/0/args/1","value":"--feature-gates=AutomatedEtcdBackup={value}"}}]"#
        );
        let deployment = [
            "-n",
            "etcd-lifeboat",
            "patch",
            "deployment",
            "etcd-lifeboat-operator",
            "--type=json",
            "-p",
            &patch,
        ];
        nodes.kubectl_ok(&deployment);
        wait_for_operator();
    };
    // The gate is off from the first: the CRDs are there, and nothing is backed up.
    let manifests = told(&lifeboat(&["manifests", "--image", IMAGE]));
    let off = "- operator\n        - --feature-gates=AutomatedEtcdBackup=false\n";
    let manifests_off = manifests.replacen("- operator\n", off, 1);
    assert_ne!(manifests_off, manifests);
    nodes.apply(&manifests_off);
    wait_for_operator();
    std::thread::sleep(Duration::from_secs(10));
    assert!(nodes.get(&["backup", "default"]).is_none());
    assert!(nodes.server("node1").is_none());
    assert_eq!(nodes.kept("node1"), [""; 0]);

    // 1. The gate is on. 2. The custom resource is there.
    set_gate("true");
    nodes.apply("apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {name: default}\nspec: {etcd: {}}\n");
    nodes.step("1. the gate is on, 2. the custom resource is there");
    // 3. Backups are made.
    nodes.edit("@every 3s", "");
    nodes.wait_for_newer_backup("node1");
    nodes.step("3. backups are made");
    // 4. Retention is held.
    for number in [2usize, 5, 1] {
        let policy = format!(
            r#","retentionPolicy":{{"retentionType":"RetentionNumber","retentionNumber":{{"maxNumberOfBackups":{number}}}}}"#
        );
        nodes.edit("@every 3s", &policy);
        wait_until("as many as the policy says", || {
            (nodes.kept("node1").len() == number).then_some(())
        });
        let known = nodes.kept("node1");
        wait_until("as many, and newer", || {
            let kept = nodes.kept("node1");
            (kept.len() == number && kept[0] != known[0]).then_some(())
        });
    }
    nodes.step("4. retention is held");

    // Off and on again: nothing is lost, and nothing is made meanwhile.
    set_gate("false");
    nodes.wait_until_no_server("node1");
    let kept = nodes.kept("node1");
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(nodes.kept("node1"), kept);
    set_gate("true");
    nodes.wait_for_newer_backup("node1");
    nodes.wait_until_well(1);
    nodes.step("the gate was off, and is on again");
}
