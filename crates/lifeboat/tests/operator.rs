//! The operator on a real API server, with pods that really run and real etcd members on the nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{self, told, wait_until};
use operated::{Operated, Operator, SET, cluster, condition, degraded, get, kept, stale};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use test_support::kubernetes::faults::Fault;
use test_support::kubernetes::openshift::Flavour;

fn patch(cluster: &Operated, etcd: &str) -> String {
    let patch = format!(r#"{{"spec":{{"etcd":{etcd}}}}}"#);
    told(&cluster.kubectl(&["patch", "backup", "default", "--type=merge", "-p", &patch]))
}

#[test]
fn from_day_one_each_node_keeps_proven_backups_until_somebody_says_otherwise() {
    let Some(cluster) = cluster(3, None) else {
        return;
    };
    let start = Instant::now();
    let operator = Operator::start(&cluster, "a", &[]);
    // Members take turns, a minute each: the first is at once.
    wait_until("the first backup", || {
        kept(&cluster)
            .iter()
            .any(|backups| !backups.is_empty())
            .then_some(())
    });
    println!(
        "from the operator's start to the first proven backup: {:?}",
        start.elapsed()
    );
    let backup = get(&cluster, &["backup", "default"]).unwrap();
    let etcd = &backup["spec"]["etcd"];
    assert_eq!(etcd["schedule"], "*/5 * * * *");
    assert_eq!(etcd["timeZone"], "UTC");
    assert_eq!(
        etcd["retentionPolicy"]["retentionNumber"]["maxNumberOfBackups"],
        3
    );
    wait_until("that all is well", || {
        (!degraded(&cluster, "default")?.0).then_some(())
    });
    assert!(get(&cluster, &["backup", "default"]).unwrap()["status"]["nextRun"].is_string());
    let set = get(&cluster, &SET).unwrap();
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"], "etcd-backup-server");
    assert_eq!(
        set["spec"]["template"]["metadata"]["labels"]["app"],
        "etcd-auto-backup"
    );

    // Somebody edits it: the edit stays, and the servers follow.
    let two = r#"{"schedule":"@every 2s","retentionPolicy":{"retentionNumber":{"maxNumberOfBackups":2}}}"#;
    assert!(patch(&cluster, two).contains("patched"));
    wait_until("two backups on each node, that change", || {
        let before = kept(&cluster);
        if before.iter().any(|backups| backups.len() != 2) {
            return None;
        }
        std::thread::sleep(Duration::from_secs(3));
        let after = kept(&cluster);
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| before != after)
            .then_some(())
    });
    // Drift is repaired.
    let scale = r#"[{"op":"replace","path":"/spec/template/spec/containers/0/args/1","value":"--schedule=@yearly"}]"#;
    let _ = cluster.kubectl_ok(&[
        "-n",
        "etcd-lifeboat",
        "patch",
        "daemonset",
        "backup-server-daemon-set",
        "--type=json",
        "-p",
        scale,
    ]);
    wait_until("the drift to be repaired", || {
        let set = get(&cluster, &SET)?;
        let args = set["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
        args.contains("@every 2s").then_some(())
    });

    // A mistake is told by what to write, and nothing is broken by it.
    assert!(patch(&cluster, r#"{"schedule":"*/5 * * * FRI-1"}"#).contains("patched"));
    let message = wait_until("the mistake to be told", || {
        let (holds, message) = degraded(&cluster, "default")?;
        holds.then_some(message)
    });
    assert!(message.contains("spec.etcd.schedule"), "{message}");
    assert!(get(&cluster, &SET).is_some());
    assert!(patch(&cluster, r#"{"schedule":"@every 2s"}"#).contains("patched"));
    wait_until("that all is well again", || {
        (!degraded(&cluster, "default")?.0).then_some(())
    });

    // Whoever deletes it has opted out, also over a restart.
    let _ = cluster.kubectl_ok(&["delete", "backup", "default"]);
    wait_until("its servers to go", || {
        get(&cluster, &SET).is_none().then_some(())
    });
    wait_until("that to be told", || {
        operator.log().contains("was deleted").then_some(())
    });
    drop(operator);
    let operator = Operator::start(&cluster, "b", &[]);
    wait_until("its lease", || {
        operator.log().contains("holds the lease").then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    assert!(get(&cluster, &["backup", "default"]).is_none());
    // What was kept stays.
    assert!(kept(&cluster).iter().all(|backups| backups.len() == 2));

    // Each of that stands where people look.
    let events = cluster.kubectl_ok(&[
        "get",
        "events",
        "-A",
        "-o",
        "jsonpath={range .items[*]}{.type} {.reason}{\"\\n\"}{end}",
    ]);
    for event in [
        "Normal DefaultBackupCreated",
        "Warning Invalid",
        "Normal AsExpected",
        "Warning DefaultBackupOptedOut",
    ] {
        assert!(events.contains(event), "{event}: {events}");
    }

    // Made again by somebody, it is as before; and deleting the kind is not opting out.
    cluster.apply("{apiVersion: config.openshift.io/v1alpha1, kind: Backup, metadata: {name: default}, spec: {etcd: {}}}");
    wait_until("its servers", || get(&cluster, &SET).map(|_| ()));
    let crds = ["crd", "backups.config.openshift.io"];
    let uid = get(&cluster, &crds).unwrap()["metadata"]["uid"].clone();
    let _ = cluster.kubectl_ok(&[
        "delete",
        "crd",
        "backups.config.openshift.io",
        "--wait=false",
    ]);
    wait_until("the kind and its default to be back", || {
        let crd = get(&cluster, &crds)?;
        (crd["metadata"]["uid"] != uid && get(&cluster, &["backup", "default"]).is_some())
            .then_some(())
    });
    wait_until("its servers to be back", || {
        let set = get(&cluster, &SET)?;
        (set["status"]["numberReady"] == 3).then_some(())
    });
}

#[test]
fn each_of_five_nodes_takes_its_turn() {
    let Some(cluster) = cluster(5, None) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &[]);
    wait_until("the default", || {
        get(&cluster, &["backup", "default"]).map(|_| ())
    });
    assert!(patch(&cluster, r#"{"schedule":"@every 5s"}"#).contains("patched"));
    wait_until("three backups on each of five nodes", || {
        kept(&cluster)
            .iter()
            .all(|backups| backups.len() == 3)
            .then_some(())
    });
    wait_until("that to be told", || {
        let (holds, _, message) = stale(&cluster, "default")?;
        (!holds && message == "5 nodes have an up-to-date proven backup").then_some(())
    });
}

#[test]
fn with_retention_by_size_the_newest_that_fit_are_kept() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    // Two of these fit into a GiB, and three do not.
    node::fill(cluster.member("node-1"), 400);
    let _operator = Operator::start(&cluster, "a", &[]);
    wait_until("the default", || {
        get(&cluster, &["backup", "default"]).map(|_| ())
    });
    let size = r#"{"schedule":"@every 1s","retentionPolicy":{"retentionType":"RetentionSize","retentionNumber":null,"retentionSize":{"maxSizeOfBackupsGb":1}}}"#;
    assert!(patch(&cluster, size).contains("patched"));
    let mut seen = std::collections::BTreeSet::new();
    // A slow disk takes half a minute for each.
    let limit = Duration::from_secs(300);
    node::wait_within(
        limit,
        Duration::from_millis(20),
        "three backups that were made",
        || {
            let kept = kept(&cluster).concat();
            // One that is new is there a moment before the oldest goes.
            assert!(kept.len() <= 3, "{kept:?}");
            seen.extend(kept);
            (seen.len() >= 3).then_some(())
        },
    );
    wait_until("the newest two", || {
        let kept = kept(&cluster).concat();
        let newest: Vec<_> = seen.iter().rev().take(1).collect();
        (kept.len() == 2 && kept.iter().max() >= newest.first().copied()).then_some(())
    });
}

#[test]
fn the_kinds_explain_themselves() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let operator = Operator::start(&cluster, "a", &[]);
    operator.wait_for("created Backup/default");
    for (field, words) in [
        ("backup", "Backups of etcd on a schedule"),
        ("etcdbackup", "Requests one backup of etcd now"),
        ("nodebackup", "The backups of one control-plane node"),
        ("backup.spec.etcd.schedule", "When backups are due"),
        (
            "backup.spec.etcd.timeZone",
            "The IANA time zone of the schedule",
        ),
        (
            "backup.spec.etcd.pvcName",
            "The PersistentVolumeClaim that stores the backups",
        ),
        (
            "backup.spec.etcd.retentionPolicy.retentionType",
            "ENUM: \"\" RetentionNumber RetentionSize",
        ),
        (
            "etcdbackup.spec.pvcName",
            "The PersistentVolumeClaim that stores the backup",
        ),
        (
            "nodebackup.status.lastVerified.revision",
            "The etcd revision of the backup",
        ),
        (
            "nodebackup.status.problem",
            "What is wrong, as a text to read",
        ),
    ] {
        let told = told(&cluster.kubectl(&["explain", field]));
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains(words), "{field}: {told}");
    }
    let columns = |kinds: &str| {
        let table = cluster.kubectl_ok(&["get", kinds]);
        table
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    wait_until("a node that tells", || {
        get(&cluster, &["nodebackup", "node-1"]).map(|_| ())
    });
    assert_eq!(
        columns("backups"),
        "NAME SCHEDULE ZONE RETENTION DEGRADED REASON EVALUATED AGE"
    );
    assert_eq!(
        columns("nodebackups"),
        "NAME VERIFIED REVISION KEPT MEMBER PROBLEM"
    );
}

#[test]
fn with_the_gate_off_nothing_is_made() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let operator = Operator::start(
        &cluster,
        "a",
        &["--feature-gates", "AutomatedEtcdBackup=false"],
    );
    wait_until("its kinds", || {
        get(&cluster, &["crd", "backups.config.openshift.io"]).map(|_| ())
    });
    std::thread::sleep(Duration::from_secs(3));
    assert!(get(&cluster, &["backup", "default"]).is_none());
    assert!(get(&cluster, &SET).is_none());
    assert!(!operator.log().contains("opted out"));
}

#[test]
fn the_examples_of_the_operators_help_work_as_they_are_printed() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let help = told(&node::lifeboat(&["operator", "--help"]));
    let bin = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for (number, line) in node::examples(&help).iter().enumerate() {
        let log = cluster.dir().join(format!("example-{number}.log"));
        let child = Command::new("sh")
            .args(["-c", &format!("exec {line}")])
            .env("PATH", &path)
            .env("KUBECONFIG", &cluster.kubeconfig)
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let operator = Operator { child, log };
        wait_until(line, || {
            operator.log().contains("holds the lease").then_some(())
        });
    }
}

#[test]
fn the_examples_of_manifests_and_requests_work_as_they_are_printed() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let operator = Operator::start(&cluster, "a", &["--controllers=*,-default-backup"]);
    operator.wait_for("holds the lease");
    cluster.apply(
        "apiVersion: v1
kind: PersistentVolume
metadata: {name: etcd-backups}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  hostPath: {path: /var/lib/etcd-backups}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: etcd-backups, namespace: etcd-lifeboat}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  resources: {requests: {storage: 1Gi}}
",
    );
    let bin = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for subcommand in ["manifests", "request-backup"] {
        let help = told(&node::lifeboat(&[subcommand, "--help"]));
        for line in node::examples(&help) {
            let output = Command::new("sh")
                .args(["-c", &line])
                .env("PATH", &path)
                .env("KUBECONFIG", cluster.outside_kubeconfig())
                .output()
                .unwrap();
            assert!(output.status.success(), "{line}: {}", told(&output));
        }
    }
}

#[test]
fn beside_upstreams_own_operator_nothing_is_double() {
    let upstream = Flavour {
        upstream_backups: true,
    };
    let Some(cluster) = cluster(1, Some(upstream)) else {
        return;
    };
    let set = [
        "-n",
        "openshift-etcd",
        "daemonset",
        "backup-server-daemon-set",
    ];
    // With our own gate off there are not even servers.
    let off = ["--feature-gates", "AutomatedEtcdBackup=false"];
    let operator = Operator::start(&cluster, "a", &off);
    wait_until("its lease", || {
        operator.log().contains("holds the lease").then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(get(&cluster, &set).is_none());
    drop(operator);
    let mut operator = Operator::start(&cluster, "a", &[]);
    wait_until("the servers", || {
        let set = get(&cluster, &set)?;
        (set["status"]["numberReady"] == 1).then_some(())
    });
    assert!(
        operator
            .log()
            .contains("feature gate AutomatedEtcdBackup is on"),
        "{}",
        operator.log()
    );
    // Upstream's operator would make a CronJob without a volume of it.
    assert!(get(&cluster, &["backup", "default"]).is_none());
    assert!(get(&cluster, &set).unwrap()["metadata"]["ownerReferences"].is_null());
    // Whoever looks is not told that there are none.
    let person = |args: &[&str]| {
        node::command(args)
            .env("KUBECONFIG", cluster.outside_kubeconfig())
            .output()
            .unwrap()
    };
    let output = wait_until("a status that is well", || {
        let output = person(&["status"]);
        (output.status.success() && told(&output).contains("fresh")).then_some(output)
    });
    assert!(!told(&output).contains("error"), "{}", told(&output));
    // And whoever asks for one is told that nobody would make it.
    let fails = |command: &str, words: &str| {
        let output = person(&[command]);
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(told(&output).contains(words), "{}", told(&output));
    };
    fails("request-backup", "stores backups only on volumes");
    let requests = get(&cluster, &["etcdbackups"]).unwrap();
    assert!(requests["items"].as_array().unwrap().is_empty());
    let drift = [
        "-n",
        "openshift-etcd",
        "delete",
        "daemonset",
        "backup-server-daemon-set",
    ];
    let _ = cluster.kubectl_ok(&drift);
    wait_until("the servers again", || get(&cluster, &set).map(|_| ()));
    // The gate goes off: it ends, and is another one at its next start.
    let gates = r#"{"status":{"featureGates":[{"version":"4.20.0","enabled":[],"disabled":[{"name":"AutomatedEtcdBackup"}]}]}}"#;
    let _ = cluster.kubectl_ok(&[
        "patch",
        "featuregate",
        "cluster",
        "--subresource=status",
        "--type=merge",
        "-p",
        gates,
    ]);
    let ended = wait_until("its end", || operator.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    let again = Operator::start(&cluster, "a", &[]);
    wait_until("the default", || {
        get(&cluster, &["backup", "default"]).map(|_| ())
    });
    wait_until("the servers to be its own", || {
        let owners = get(&cluster, &set)?["metadata"]["ownerReferences"].clone();
        (owners[0]["kind"] == "Backup").then_some(())
    });
    drop(again);
    // Where the control plane is hosted elsewhere there is no etcd to back up.
    let _ = cluster.kubectl_ok(&["delete", "backup", "default"]);
    let hosted = r#"{"status":{"controlPlaneTopology":"External"}}"#;
    let _ = cluster.kubectl_ok(&[
        "patch",
        "infrastructure",
        "cluster",
        "--subresource=status",
        "--type=merge",
        "-p",
        hosted,
    ]);
    wait_until("the servers to go", || {
        get(&cluster, &set).is_none().then_some(())
    });
    let hosted = Operator::start(&cluster, "hosted", &[]);
    wait_until("that to be told", || {
        hosted
            .log()
            .contains("the operator makes no backups")
            .then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(get(&cluster, &set).is_none() && get(&cluster, &["backup", "default"]).is_none());
    fails("status", "does not run on the nodes of this cluster");
}

#[test]
fn of_two_operators_one_works_and_the_other_takes_over() {
    let Some(mut cluster) = cluster(1, None) else {
        return;
    };
    let mut first = Operator::start(&cluster, "first", &[]);
    wait_until("the lease", || {
        first.log().contains("holds the lease").then_some(())
    });
    let second = Operator::start(&cluster, "second", &[]);
    wait_until("the default", || {
        get(&cluster, &["backup", "default"]).map(|_| ())
    });
    assert!(!second.log().contains("holds the lease"));
    // One that freezes is followed by the other, and ends when it wakes up: it must not write any more.
    first.signal("-STOP");
    wait_until("the other to take over", || {
        second.log().contains("holds the lease").then_some(())
    });
    // What is asked for meanwhile is made once.
    cluster.apply("{apiVersion: operator.openshift.io/v1alpha1, kind: EtcdBackup, metadata: {name: once}, spec: {}}");
    wait_until("a Job", || {
        let jobs = get(&cluster, &["-n", cluster.namespace, "jobs"])?;
        (!jobs["items"].as_array()?.is_empty()).then_some(())
    });
    first.signal("-CONT");
    let ended = wait_until("the first one's end", || first.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    assert!(
        first.log().contains("the lease was lost"),
        "{}",
        first.log()
    );
    wait_until("what was asked for", || {
        let (holds, ..) = condition(&cluster, &["etcdbackup", "once"], "BackupCompleted")?;
        holds.then_some(())
    });
    let jobs = get(&cluster, &["-n", cluster.namespace, "jobs"]).unwrap();
    assert_eq!(jobs["items"].as_array().unwrap().len(), 1);
    // One that can't reach the API server ends, too, before anybody else may start.
    let mut second = second;
    cluster.fault(Fault::Cut, "outside").unwrap();
    let ended = wait_until("the second one's end", || second.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    assert!(
        second.log().contains("not renewed for 10 s"),
        "{}",
        second.log()
    );
    cluster.fault(Fault::Heal, "outside").unwrap();
    // One that is asked to end gives the lease up, so that the next one need not wait.
    let mut third = Operator::start(&cluster, "third", &[]);
    third.wait_for("holds the lease");
    let fourth = Operator::start(&cluster, "fourth", &[]);
    fourth.wait_for("started as");
    third.signal("-TERM");
    let ended = wait_until("the third one's end", || third.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    assert!(
        third.log().contains("the lease is released"),
        "{}",
        third.log()
    );
    fourth.wait_for("holds the lease");
    // What they made goes on without them.
    let set = get(&cluster, &SET).unwrap();
    assert_eq!(set["status"]["numberReady"], 1);
}
