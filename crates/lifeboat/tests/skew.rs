//! Versions side by side: an operator and backup servers of different ones, an upgrade and a downgrade under running
//! backups, and what an older version has left in the cluster. The other version is the program in
//! `LIFEBOAT_TEST_OTHER_PROGRAM`, which `cargo xtask skew` builds from another commit; without one it is this version
//! under another name, which is as much of an upgrade to the cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{assert_all_whole, list, told, wait_until};
use operated::{
    IMAGE, OTHER_IMAGE, Operated, Operator, SET, cluster, condition, get, local_volumes, manifests,
    other_program, stale,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

const KINDS: &str = include_str!("../../cluster-api/tests/crds/version-0.1.0.json");

fn repositories(cluster: &Operated) -> Vec<PathBuf> {
    let nodes = cluster.nodes();
    let of = |root: PathBuf| root.join("var/lib/etcd-auto-backup");
    nodes.iter().map(|node| of(node.root.clone())).collect()
}

fn patch(cluster: &Operated, patch: &str) {
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", patch]);
}

/// The records of a repository, the oldest first.
fn records(repository: &std::path::Path) -> Vec<Value> {
    let names = list(repository);
    let names = names.iter().filter(|entry| entry["kind"] == "backup").rev();
    names
        .map(|entry| {
            let name = entry["name"].as_str().unwrap();
            let text = std::fs::read(repository.join(name).join("backup.json")).unwrap();
            serde_json::from_slice(&text).unwrap()
        })
        .collect()
}

/// Until all backup servers are of an image, and none of another.
fn wait_for_servers(cluster: &Operated, image: &str, nodes: usize) {
    wait_until("the backup servers", || {
        let set = get(cluster, &SET)?;
        let status = &set["status"];
        (set["spec"]["template"]["spec"]["containers"][0]["image"] == image
            && status["observedGeneration"] == set["metadata"]["generation"]
            && status["updatedNumberScheduled"] == nodes
            && status["numberAvailable"] == nodes)
            .then_some(())
    });
}

/// Nothing is pruned here: each backup that was ever made is there, and no two were made at a time.
fn assert_none_lost_and_none_doubled(cluster: &Operated) {
    for repository in repositories(cluster) {
        let records = records(&repository);
        let sequences: Vec<_> = records
            .iter()
            .map(|record| record["sequence"].as_u64().unwrap())
            .collect();
        let all: Vec<_> = (1..=records.len() as u64).collect();
        assert_eq!(sequences, all, "{}", repository.display());
        for pair in records.windows(2) {
            let time = |record: &Value, field: &str| -> jiff::Timestamp {
                record[field].as_str().unwrap().parse().unwrap()
            };
            assert!(time(&pair[0], "finished_at") <= time(&pair[1], "started_at"));
        }
        assert_all_whole(&repository);
    }
}

#[test]
fn an_upgrade_and_a_downgrade_under_running_backups_lose_none_and_double_none() {
    let Some(cluster) = cluster(3, None) else {
        return;
    };
    cluster.apply(&manifests(OTHER_IMAGE, &[]));
    wait_until("the default", || {
        get(&cluster, &["backup", "default"]).map(|_| ())
    });
    patch(
        &cluster,
        r#"{"spec":{"etcd":{"schedule":"@every 2s","retentionPolicy":{"retentionType":"RetentionNumber","retentionNumber":{"maxNumberOfBackups":1000}}}}}"#,
    );
    let fresh = || {
        wait_until("that all is well", || {
            let (holds, reason, _) = stale(&cluster, "default")?;
            (!holds && reason == "AsExpected").then_some(())
        });
    };
    // Each node has a volume as well. An older version leaves it alone.
    local_volumes(&cluster, "local");
    let _ = cluster.kubectl_ok(&[
        "annotate",
        "backup",
        "default",
        "lifeboat.etcd.io/storage=pvc",
        "lifeboat.etcd.io/storage-class=local",
    ]);
    let on_volumes = || -> Vec<usize> {
        let nodes = cluster.nodes();
        let volumes = nodes.iter().map(|node| node.root.join("mnt/local"));
        volumes.map(|volume| list(&volume).len()).collect()
    };
    fresh();
    for (round, image) in [IMAGE, OTHER_IMAGE].into_iter().enumerate() {
        let before: Vec<_> = repositories(&cluster)
            .iter()
            .map(|repository| list(repository).len())
            .collect();
        let request = format!("asked-before-{round}");
        cluster.apply(&format!("{{apiVersion: operator.openshift.io/v1alpha1, kind: EtcdBackup, metadata: {{name: {request}}}, spec: {{}}}}"));
        wait_until("its first Job", || {
            let job = format!("{request}-node-1");
            get(&cluster, &["-n", "etcd-lifeboat", "job", &job]).map(|_| ())
        });
        cluster.apply(&manifests(image, &[]));
        wait_for_servers(&cluster, image, 3);
        wait_until("two new operators", || {
            let args = [
                "-n",
                "etcd-lifeboat",
                "deployment",
                "etcd-lifeboat-operator",
            ];
            let deployment = get(&cluster, &args)?;
            let status = &deployment["status"];
            (status["observedGeneration"] == deployment["metadata"]["generation"]
                && status["updatedReplicas"] == 2
                && status["replicas"] == 2
                && status["readyReplicas"] == 2)
                .then_some(())
        });
        // What was asked for before has its end, and one Job a node.
        let (_, _, message) = wait_until("its end", || {
            condition(&cluster, &["etcdbackup", &request], "BackupCompleted")
        });
        let places = "Job asked-before-R-node-1 on node-1, Job asked-before-R-node-2 on node-2, Job asked-before-R-node-3 on node-3"
            .replace('R', &round.to_string());
        assert_eq!(message, format!("a proven backup was made by {places}"));
        let copies = on_volumes();
        if image == IMAGE {
            wait_until("more copies on each volume", || {
                let now = on_volumes().into_iter().zip(&copies);
                now.into_iter()
                    .all(|(now, before)| now > *before)
                    .then_some(())
            });
        }
        wait_until("more backups on each node", || {
            let now = repositories(&cluster).into_iter().zip(&before);
            now.into_iter()
                .all(|(repository, before)| list(&repository).len() > before + 2)
                .then_some(())
        });
        fresh();
    }
    let _ = cluster.kubectl_ok(&["-n", "etcd-lifeboat", "delete", "daemonset", SET[3]]);
    patch(&cluster, r#"{"spec":{"etcd":{"schedule":"@yearly"}}}"#);
    wait_until("that no run goes on", || {
        let at_work = repositories(&cluster).iter().any(|repository| {
            list(repository)
                .iter()
                .any(|entry| entry["kind"] == "partial")
        });
        (!at_work).then_some(())
    });
    assert_none_lost_and_none_doubled(&cluster);
}

#[test]
fn an_operator_and_backup_servers_of_different_versions_work_together() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let own = PathBuf::from(env!("CARGO_BIN_EXE_etcd-lifeboat"));
    for (program, image) in [(own, OTHER_IMAGE), (other_program(), IMAGE)] {
        let start = |command: &mut Command| {
            let mut other = Command::new(&program);
            other.args(command.get_args().map(|arg| match arg.to_str() {
                Some(IMAGE) => image.as_ref(),
                _ => arg,
            }));
            *command = other;
        };
        let operator = Operator::start_as(start, &cluster, "a", &[]);
        wait_for_servers(&cluster, image, 1);
        patch(&cluster, r#"{"spec":{"etcd":{"schedule":"@every 2s"}}}"#);
        let newest = || {
            let told = get(&cluster, &["nodebackup", "node-1"])?;
            Some(told["status"]["lastVerified"]["name"].as_str()?.to_string())
        };
        let first = wait_until("a backup that is told", newest);
        wait_until("another one", || {
            newest().filter(|name| *name != first).map(|_| ())
        });
        wait_until("that all is well", || {
            let (holds, reason, _) = stale(&cluster, "default")?;
            (!holds && reason == "AsExpected").then_some(())
        });
        let status = operated::node::command(&["status"])
            .env("KUBECONFIG", cluster.outside_kubeconfig())
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", told(&status));
        // The next one finds its schedule.
        drop(operator);
    }
    assert_all_whole(&repositories(&cluster)[0]);
}

/// As another version has it: a field of status less.
fn older(definition: &Value) -> Value {
    let mut older = definition.clone();
    let status = older
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties")
        .unwrap()
        .as_object_mut()
        .unwrap();
    status.remove("nextDue");
    status.remove("conditions");
    older
}

#[test]
fn what_an_older_version_has_left_is_taken_over_and_what_is_anothers_is_left_alone() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let kinds: Vec<Value> = serde_json::from_str(KINDS).unwrap();
    for kind in &kinds {
        let mut older = older(kind);
        // One that somebody else has made, whoever that is.
        if older["spec"]["names"]["kind"] != "EtcdBackup" {
            older["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "etcd-lifeboat"});
        }
        cluster.apply(&older.to_string());
    }
    for kind in &kinds {
        let crd = format!("crd/{}", kind["metadata"]["name"].as_str().unwrap());
        let _ = cluster.kubectl_ok(&["wait", "--for=condition=Established", &crd, "--timeout=30s"]);
    }
    cluster.apply("{apiVersion: config.openshift.io/v1alpha1, kind: Backup, metadata: {name: default}, spec: {etcd: {schedule: '@every 2s', timeZone: Europe/Berlin}}}");
    cluster.apply("{apiVersion: operator.openshift.io/v1alpha1, kind: EtcdBackup, metadata: {name: old}, spec: {}}");
    cluster.apply("{apiVersion: lifeboat.etcd.io/v1alpha1, kind: NodeBackup, metadata: {name: node-1}, spec: {}}");
    let status = json!({"status": {"version": "0.0.9", "member": "Voter", "kept": 1,
        "lastVerified": {"name": "2026-01-01_000000", "finishedAt": "2026-01-01T00:00:00Z"}}});
    let _ = cluster.kubectl_ok(&[
        "patch",
        "nodebackup",
        "node-1",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ]);
    let operator = Operator::start(&cluster, "a", &[]);
    let has = |kind: usize, field: &str| {
        let name = kinds[kind]["metadata"]["name"].as_str().unwrap();
        let definition = get(&cluster, &["crd", name]).unwrap();
        let path =
            format!("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/{field}");
        definition.pointer(&path).is_some()
    };
    wait_until("its own kinds to be brought along", || {
        (has(0, "conditions") && has(2, "nextDue")).then_some(())
    });
    wait_until("the node to tell anew, with what is new", || {
        let told = get(&cluster, &["nodebackup", "node-1"])?;
        let status = &told["status"];
        (status["version"] == env!("CARGO_PKG_VERSION") && status["nextDue"].is_string())
            .then_some(())
    });
    let backup = get(&cluster, &["backup", "default"]).unwrap();
    assert_eq!(backup["spec"]["etcd"]["timeZone"], "Europe/Berlin");
    // A request could not be answered: its kind is somebody else's, and stays as it is. That is said.
    operator.wait_for("no field status.conditions");
    wait_until("the condition", || {
        let (holds, ..) = condition(&cluster, &["backup", "default"], "ApiNotSupported")?;
        holds.then_some(())
    });
    assert!(!has(1, "conditions"));
}
