//! What annotations of `Backup/default` decide: volumes of the nodes, and requests for a backup; and the feature gate. On a real API server, with pods that really run and real etcd members on the nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{self, lifeboat, names, text, told, wait_until};
use operated::{
    Operated, Operator, SET, annotate, cluster, condition, degraded, edit, get, kept, local_volumes,
};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use test_support::kubernetes::faults::Fault;
use test_support::kubernetes::openshift::Flavour;

fn now() -> String {
    let now = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])
        .output();
    told(&now.unwrap()).trim().to_string()
}

/// The trigger of the newest backup of a node.
fn trigger(root: &Path) -> Option<String> {
    let repository = root.join("var/lib/etcd-auto-backup");
    let newest = names(&repository, "backup").into_iter().next()?;
    let record = std::fs::read(repository.join(newest).join("backup.json")).ok()?;
    let record: Value = serde_json::from_slice(&record).ok()?;
    Some(record["trigger"].as_str()?.to_string())
}

#[test]
fn turning_the_gate_off_ends_the_servers_keeps_the_backups_and_is_reported() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let operator = Operator::start(&cluster, "a", &[]);
    edit(&cluster, r#"{"schedule":"@every 2s"}"#);
    wait_until("three backups", || {
        (kept(&cluster)[0].len() == 3).then_some(())
    });
    drop(operator);
    let off = ["--feature-gates", "AutomatedEtcdBackup=false"];
    let operator = Operator::start(&cluster, "b", &off);
    // Also of those that still end: they may finish a backup.
    let pods = ["-n", cluster.namespace, "pods", "-lapp=etcd-auto-backup"];
    wait_until("the end of the servers", || {
        let is_gone = get(&cluster, &SET).is_none();
        let pods = get(&cluster, &pods)?;
        (is_gone && pods["items"].as_array()?.is_empty()).then_some(())
    });
    let before = kept(&cluster);
    for type_ in ["Degraded", "PeriodicBackupControllerDegraded"] {
        let (_, message) = wait_until("the condition", || {
            let (holds, reason, message) = condition(&cluster, &["backup", "default"], type_)?;
            (holds && reason == "FeatureGateOff").then_some((reason, message))
        });
        assert!(
            message.contains("--feature-gates=AutomatedEtcdBackup=true"),
            "{message}"
        );
    }
    let status = node::command(&["status"])
        .env("KUBECONFIG", cluster.outside_kubeconfig())
        .output()
        .unwrap();
    assert_eq!(status.status.code(), Some(1));
    assert_eq!(
        told(&status)
            .matches("is off, so no backup servers run")
            .count(),
        1,
        "{}",
        told(&status)
    );
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(kept(&cluster), before);
    drop(operator);
    // On again: the same Backup has servers again, and no backup was lost.
    let _operator = Operator::start(&cluster, "c", &[]);
    wait_until("newer backups", || (kept(&cluster) != before).then_some(()));
    wait_until("that all is well", || {
        let (holds, ..) = condition(&cluster, &["backup", "default"], "Degraded")?;
        (!holds && !degraded(&cluster, "default")?.0).then_some(())
    });
}

#[test]
fn an_annotation_asks_every_node_for_a_backup_now_once() {
    let Some(cluster) = cluster(2, None) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &[]);
    edit(&cluster, r#"{"schedule":"@yearly"}"#);
    // What was due last year is made once.
    wait_until("a first backup of each node", || {
        kept(&cluster)
            .iter()
            .all(|kept| kept.len() == 1)
            .then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    annotate(
        &cluster,
        &[&format!("lifeboat.etcd.io/backup-requested-at={}", now())],
    );
    wait_until("the requested backups", || {
        kept(&cluster)
            .iter()
            .all(|kept| kept.len() == 2)
            .then_some(())
    });
    for node in cluster.nodes() {
        assert_eq!(trigger(&node.root).as_deref(), Some("request"));
    }
    // What is no time, or was asked for before, makes none; and the next one does.
    for value in ["soon", "", "2020-01-01T00:00:00Z", "1", "now"] {
        annotate(
            &cluster,
            &[&format!("lifeboat.etcd.io/backup-requested-at={value}")],
        );
        std::thread::sleep(Duration::from_millis(300));
    }
    std::thread::sleep(Duration::from_secs(2));
    assert!(kept(&cluster).iter().all(|kept| kept.len() == 2));
    annotate(
        &cluster,
        &[&format!("lifeboat.etcd.io/backup-requested-at={}", now())],
    );
    wait_until("backups again", || {
        kept(&cluster)
            .iter()
            .all(|kept| kept.len() == 3)
            .then_some(())
    });
}

fn on_volume(root: &Path) -> Vec<String> {
    names(&root.join("mnt/local"), "backup")
}

fn volumes_condition(cluster: &Operated) -> Option<(bool, String, String)> {
    condition(cluster, &["backup", "default"], "VolumesDegraded")
}

#[test]
fn with_storage_pvc_each_node_has_proven_copies_on_a_volume_of_its_own_that_outlive_the_node() {
    let Some(mut cluster) = cluster(3, None) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &[]);
    edit(&cluster, r#"{"schedule":"@every 3s"}"#);
    wait_until("a backup of each node", || {
        kept(&cluster)
            .iter()
            .all(|kept| !kept.is_empty())
            .then_some(())
    });
    let (holds, _, message) = wait_until("the decision", || volumes_condition(&cluster));
    assert!(
        !holds && message.contains("disks of the nodes"),
        "{message}"
    );

    // Without a StorageClass it is refused with what to write, and the servers go on.
    annotate(&cluster, &["lifeboat.etcd.io/storage=pvc"]);
    let message = wait_until("what is missing", || {
        let (holds, _, message) = volumes_condition(&cluster)?;
        holds.then_some(message)
    });
    assert!(
        message.contains("lifeboat.etcd.io/storage-class"),
        "{message}"
    );
    annotate(
        &cluster,
        &[
            "lifeboat.etcd.io/storage-class=local",
            "lifeboat.etcd.io/volume-size=1Gi",
        ],
    );
    let message = wait_until("that it does not exist", || {
        let (_, _, message) = volumes_condition(&cluster)?;
        message
            .contains("\"local\" does not exist")
            .then_some(message)
    });
    assert!(message.contains("kubectl get storageclasses"), "{message}");
    local_volumes(&cluster, "local");
    let nodes = cluster.nodes();
    wait_until("copies on each volume", || {
        nodes
            .iter()
            .all(|node| on_volume(&node.root).len() == 3)
            .then_some(())
    });
    wait_until("that the volumes are well", || {
        let (holds, _, message) = volumes_condition(&cluster)?;
        (!holds && message == "3 nodes have a volume for their backups").then_some(())
    });
    // A volume that exists keeps its size. Whoever wants another one is told how.
    annotate(&cluster, &["lifeboat.etcd.io/volume-size=2Gi"]);
    let message = wait_until("what to do", || {
        let (holds, _, message) = volumes_condition(&cluster)?;
        holds.then_some(message)
    });
    assert!(
        message.contains("delete statefulset etcd-backup-volume-node-1"),
        "{message}"
    );
    annotate(&cluster, &["lifeboat.etcd.io/volume-size=1Gi"]);
    wait_until("that the volumes are well again", || {
        let (holds, ..) = volumes_condition(&cluster)?;
        (!holds).then_some(())
    });
    // A copy is the backup, with its record, and is proven.
    for node in &nodes {
        let volume = node.root.join("mnt/local");
        let newest = on_volume(&node.root).remove(0);
        let verified = lifeboat(&["verify", text(&volume.join(&newest))]);
        assert!(verified.status.success(), "{}", told(&verified));
        let report = wait_until("the report of the volume", || {
            let report = get(&cluster, &["nodebackup", &node.name])?;
            let volume = report["status"]["volume"].clone();
            (volume["kept"] == 3).then_some(volume)
        });
        assert!(report["problem"].is_null(), "{report}");
        assert_eq!(report["backups"].as_array().unwrap().len(), 3);
    }
    let sets = ["-n", cluster.namespace, "statefulsets"];
    let claims = ["-n", cluster.namespace, "pvc"];
    let number = |cluster: &Operated, what: &[&str]| {
        get(cluster, what).unwrap()["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((number(&cluster, &sets), number(&cluster, &claims)), (3, 3));

    // A node leaves: its StatefulSet goes, and its volume with the backups stays.
    let gone = nodes[1].clone();
    cluster
        .fault(Fault::Stop, &format!("node/{}", gone.name))
        .unwrap();
    let kept_on_volume = on_volume(&gone.root);
    let _ = cluster.kubectl_ok(&["delete", "node", &gone.name]);
    wait_until("the end of its StatefulSet", || {
        (number(&cluster, &sets) == 2).then_some(())
    });
    assert_eq!(number(&cluster, &claims), 3);
    assert_eq!(on_volume(&gone.root), kept_on_volume);

    // Its backups are read from its volume only when it cannot write there any more. Here that is a path of each node, so another node can
    // mount it: the files are those of the lost one, as with a volume that can be attached elsewhere.
    let to = cluster.dir().join("exported");
    std::fs::create_dir(&to).unwrap();
    let export = |node: &str| {
        node::command(&["export", node, "--from-volume", "--to", text(&to)])
            .env("KUBECONFIG", cluster.outside_kubeconfig())
            .output()
            .unwrap()
    };
    let running = export(&nodes[0].name);
    assert!(running.status.success(), "{}", told(&running));
    assert!(told(&running).contains("proven here"), "{}", told(&running));
    let none = export("no-such-node");
    assert!(told(&none).contains("has no volume"), "{}", told(&none));

    // Back to the disks alone: nothing is moved and nothing is lost.
    let before = on_volume(&nodes[0].root);
    annotate(&cluster, &["lifeboat.etcd.io/storage=hostPath"]);
    wait_until("the end of all StatefulSets", || {
        (number(&cluster, &sets) == 0).then_some(())
    });
    assert_eq!(number(&cluster, &claims), 3);
    assert!(!on_volume(&nodes[0].root).is_empty());
    // A copy is published before an older one is removed.
    assert!((3..=4).contains(&before.len()), "{before:?}");
    let known = kept(&cluster)[0].clone();
    wait_until("a newer backup on the disk", || {
        (kept(&cluster)[0] != known).then_some(())
    });
}

#[test]
fn the_volume_of_a_lost_node_is_read_on_another_one_once_the_node_is_fenced() {
    let Some(mut cluster) = cluster(3, None) else {
        return;
    };
    // As a volume that can be attached to any node: the same directory of this machine on each.
    let mut objects = String::from(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: network}\nprovisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: WaitForFirstConsumer\n",
    );
    for number in 1..=3 {
        let place = cluster.dir().join(format!("network-{number}"));
        std::fs::create_dir(&place).unwrap();
        for node in cluster.nodes() {
            std::fs::create_dir_all(node.root.join("mnt")).unwrap();
            let link = node.root.join(format!("mnt/network-{number}"));
            std::os::unix::fs::symlink(&place, link).unwrap();
        }
        objects.push_str(&format!(
            "---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: network-{number}}}
spec:
  capacity: {{storage: 30Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: network
  hostPath: {{path: /mnt/network-{number}}}
"
        ));
    }
    cluster.apply(&objects);
    let _operator = Operator::start(&cluster, "a", &["--storage=pvc"]);
    edit(&cluster, r#"{"schedule":"@every 3s"}"#);
    annotate(&cluster, &["lifeboat.etcd.io/storage-class=network"]);
    let lost = cluster.nodes().remove(2).name;
    let newest = wait_until("a copy of the node that will be lost", || {
        let report = get(&cluster, &["nodebackup", &lost])?;
        let newest = report["status"]["volume"]["lastCopied"]["name"].as_str()?;
        Some(newest.to_string())
    });
    let kubeconfig = cluster.outside_kubeconfig();
    let export = |to: &Path| {
        node::command(&["export", &lost, "--from-volume", "--to", text(to)])
            .env("KUBECONFIG", &kubeconfig)
            .output()
            .unwrap()
    };
    let to = cluster.dir().join("exported");
    std::fs::create_dir(&to).unwrap();
    cluster.fault(Fault::Stop, &format!("node/{lost}")).unwrap();
    let refused = wait_until("that the node is missed", || {
        let output = export(&to);
        told(&output)
            .contains("is still in the cluster")
            .then_some(output)
    });
    assert_eq!(refused.status.code(), Some(1));
    assert!(told(&refused).contains("Two nodes that write to one volume destroy it"));
    assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);

    let _ = cluster.kubectl_ok(&["delete", "node", &lost]);
    let exported = wait_until("the export", || {
        let output = export(&to);
        output.status.success().then_some(output)
    });
    assert!(
        told(&exported).contains("creating a pod that reads its volume"),
        "{}",
        told(&exported)
    );
    let arrived = names(&to, "backup");
    assert_eq!(arrived.len(), 1);
    assert!(arrived[0] >= newest, "{arrived:?}, {newest}");
    // The pod is gone with the command.
    wait_until("the end of its pod", || {
        let pods = get(
            &cluster,
            &[
                "-n",
                cluster.namespace,
                "pods",
                "-l",
                "app=etcd-backup-volume-reader",
            ],
        )?;
        pods["items"].as_array()?.is_empty().then_some(())
    });
}

#[test]
fn auto_pvc_adds_volumes_in_a_cloud_with_a_default_class_and_nowhere_else() {
    let Some(cluster) = cluster(1, Some(Flavour::default())) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &["--storage=auto-pvc"]);
    let wait_for = |what: &str| {
        wait_until(what, || {
            let (holds, _, message) = volumes_condition(&cluster)?;
            (!holds && message.contains(what)).then_some(())
        });
    };
    let infrastructure = |kind: &str, topology: &str| {
        let patch = format!(
            r#"{{"status":{{"controlPlaneTopology":"{topology}","platformStatus":{{"type":"{kind}"}}}}}}"#
        );
        let _ = cluster.kubectl_ok(&[
            "patch",
            "infrastructure",
            "cluster",
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ]);
        // The operator looks at each change of what it watches.
        annotate(&cluster, &[&format!("test={kind}-{topology}")]);
    };
    edit(&cluster, r#"{"schedule":"@every 3s"}"#);
    wait_for("without a cloud");
    infrastructure("AWS", "SingleReplica");
    wait_for("on a single node");
    infrastructure("AWS", "HighlyAvailable");
    wait_for("without a default StorageClass");
    // A CSI driver is known to Kubernetes, so its volumes are for one pod each.
    cluster.apply(
        "
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: csi.cloud.example}
spec: {attachRequired: false}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: cloud, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}
provisioner: csi.cloud.example
",
    );
    let claim = wait_until("a claim", || {
        let claims = get(&cluster, &["-n", cluster.namespace, "pvc"])?;
        let claims = claims["items"].as_array()?.clone();
        claims.into_iter().next()
    });
    assert_eq!(claim["spec"]["accessModes"][0], "ReadWriteOncePod");
    assert_eq!(claim["spec"]["storageClassName"], "cloud");
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "20Gi");
    // Nothing provides it here: it is waited for, and the backups on the disk go on.
    wait_for("waiting for the volumes of: node-1");
    let before = kept(&cluster);
    wait_until("newer backups", || (kept(&cluster) != before).then_some(()));
    // An annotation says otherwise.
    annotate(&cluster, &["lifeboat.etcd.io/storage=hostPath"]);
    wait_for("storage is hostPath");
}

#[test]
fn an_annotation_that_is_wrong_is_reported_with_what_to_write_and_the_servers_go_on() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &[]);
    edit(&cluster, r#"{"schedule":"@every 2s"}"#);
    wait_until("a backup", || (!kept(&cluster)[0].is_empty()).then_some(()));
    for (annotation, expected) in [
        ("storage=PVC", "use one of auto, auto-pvc, hostPath, pvc"),
        ("storage-class=../x", "kubectl get storageclasses"),
        ("volume-size=5GB", "such as 20Gi"),
        ("servers=none", "use daemon-set or sidecar"),
    ] {
        annotate(&cluster, &[&format!("lifeboat.etcd.io/{annotation}")]);
        let message = wait_until(annotation, || {
            let (holds, message) = degraded(&cluster, "default")?;
            (holds && message.contains(expected)).then_some(message)
        });
        assert!(
            message.starts_with("the annotation lifeboat.etcd.io/"),
            "{message}"
        );
        let before = kept(&cluster);
        wait_until("newer backups", || (kept(&cluster) != before).then_some(()));
        let (key, _) = annotation.split_once('=').unwrap();
        annotate(&cluster, &[&format!("lifeboat.etcd.io/{key}-")]);
        wait_until("that all is well", || {
            (!degraded(&cluster, "default")?.0).then_some(())
        });
    }
}
