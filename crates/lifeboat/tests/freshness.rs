//! Whether a cluster's backups are new enough, told by the operator from outside while nodes and pods fail: on a
//! real API server, with pods that really run and real etcd members on the nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{list, signal, wait_until};
use operated::{IMAGE, Operated, Operator, cluster, get, kept, stale};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use test_support::etcd_server::Server;
use test_support::kubernetes::faults::Fault;
use test_support::kubernetes::image::Image;
use test_support::kubernetes::openshift::Flavour;
use test_support::node_trees::Kind;

/// Backups so often that a test can wait for one that is missed.
fn often(cluster: &Operated) {
    wait_until("the default", || {
        get(cluster, &["backup", "default"]).map(|_| ())
    });
    let patch = r#"{"spec":{"etcd":{"schedule":"@every 3s"}}}"#;
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", patch]);
}

fn wait_until_well(cluster: &Operated, nodes: usize) {
    let has = if nodes == 1 {
        "1 node has"
    } else {
        &format!("{nodes} nodes have")
    };
    wait_until(&format!("that {has} backups"), || {
        let (holds, reason, message) = stale(cluster, "default")?;
        let well = format!("{has} an up-to-date proven backup");
        (!holds && reason == "AsExpected" && message == well).then_some(())
    });
}

/// What is told when it is not well; it names the node.
fn wait_until_degraded(cluster: &Operated, node: &str, word: &str) -> String {
    wait_until(&format!("{word} on {node}"), || {
        let (holds, reason, message) = stale(cluster, "default")?;
        let named = message.contains(&format!("{node}: ")) && message.contains(word);
        (holds && reason == "BackupsStale" && named).then_some(message)
    })
}

/// The pod of the backup server on a node, and its process.
fn server(cluster: &Operated, node: &str) -> Option<(String, String)> {
    let pods = get(
        cluster,
        &[
            "-n",
            cluster.namespace,
            "pods",
            "-l",
            "app=etcd-auto-backup",
        ],
    )?;
    let pods = pods["items"].as_array()?.clone();
    let pod = pods
        .into_iter()
        .find(|pod| pod["spec"]["nodeName"] == node)?;
    let id = pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()?
        .to_string();
    let name = pod["metadata"]["name"].as_str()?.to_string();
    Some((name, id.strip_prefix("process://")?.to_string()))
}

fn node_backup(cluster: &Operated, node: &str) -> Option<Value> {
    Some(get(cluster, &["nodebackup", node])?["status"].clone())
}

fn events(cluster: &Operated) -> String {
    cluster.kubectl_ok(&[
        "get",
        "events",
        "-A",
        "-o",
        "jsonpath={range .items[*]}{.type} {.reason} {.involvedObject.kind}/{.involvedObject.name}: {.message}{\"\\n\"}{end}",
    ])
}

#[test]
fn a_node_whose_backups_stop_is_named_with_the_reason_until_they_go_on() {
    let Some(mut cluster) = cluster(3, None) else {
        return;
    };
    let operator = Operator::start(&cluster, "a", &[]);
    often(&cluster);
    wait_until_well(&cluster, 3);
    // Each node tells of itself what its disk says.
    let repository = cluster.nodes()[0].root.join("var/lib/etcd-auto-backup");
    wait_until("a node that tells of its newest", || {
        let told = node_backup(&cluster, "node-1")?;
        let newest = list(&repository)
            .into_iter()
            .find(|entry| entry["kind"] == "backup")?;
        let verified = &told["lastVerified"];
        (verified["name"] == newest["name"]
            && verified["revision"] == newest["revision"]
            && verified["sizeBytes"] == newest["size_bytes"]
            && told["member"] == "Voter"
            && told["kept"] == 3
            && told["backups"].as_array()?.len() == 3
            && told["schedule"] == "@every 3s")
            .then_some(())
    });

    // A server that hangs says nothing.
    let (_, pid) = server(&cluster, "node-2").unwrap();
    signal("-STOP", &pid);
    let message = wait_until_degraded(
        &cluster,
        "node-2",
        "it hangs, or it cannot reach the API server",
    );
    assert!(
        !message.contains("node-1") && !message.contains("node-3"),
        "{message}"
    );
    signal("-CONT", &pid);
    wait_until_well(&cluster, 3);

    // One that crashes again and again is told in its own words.
    cluster.add_image(
        IMAGE,
        Image::of_program(Path::new("/bin/false")).with_system(),
    );
    let (_, pid) = server(&cluster, "node-3").unwrap();
    signal("-KILL", &pid);
    let message = wait_until_degraded(&cluster, "node-3", "CrashLoopBackOff");
    assert!(
        message.contains("; pod backup-server-daemon-set-"),
        "{message}"
    );
    let program = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"));
    cluster.add_image(IMAGE, Image::of_program(program).with_system());
    wait_until_well(&cluster, 3);

    // One that is evicted is there again before anything is missed.
    let (evicted, _) = server(&cluster, "node-1").unwrap();
    let eviction = cluster.dir().join("eviction.json");
    let namespace = cluster.namespace;
    std::fs::write(
        &eviction,
        format!(r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{evicted}","namespace":"{namespace}"}}}}"#),
    )
    .unwrap();
    let path = format!("/api/v1/namespaces/{namespace}/pods/{evicted}/eviction");
    let _ = cluster.kubectl_ok(&["create", "--raw", &path, "-f", eviction.to_str().unwrap()]);
    wait_until("another one", || {
        server(&cluster, "node-1")
            .filter(|(pod, _)| *pod != evicted)
            .map(|_| ())
    });
    wait_until_well(&cluster, 3);

    // A member that is down: the node says so itself.
    cluster.fault(Fault::Stop, "etcd/node-2").unwrap();
    let message = wait_until_degraded(&cluster, "node-2", "its last run failed (member): ");
    assert!(message.contains("refused"), "{message}");
    let told = node_backup(&cluster, "node-2").unwrap();
    assert_eq!(told["lastAttempt"]["reason"], "member");
    assert!(told["problem"].is_string());
    cluster.fault(Fault::Start, "etcd/node-2").unwrap();
    wait_until_well(&cluster, 3);
    assert!(node_backup(&cluster, "node-2").unwrap()["problem"].is_null());

    // A node that is gone with all that is on it.
    cluster.fault(Fault::Stop, "node/node-3").unwrap();
    wait_until_degraded(&cluster, "node-3", "the node is not ready");
    cluster.fault(Fault::Start, "node/node-3").unwrap();
    wait_until_well(&cluster, 3);

    // All of it stands where people look.
    let events = events(&cluster);
    for event in [
        "Warning BackupsStale Backup/default: node-2: ",
        // What is said later is not counted as what was said first.
        "Warning BackupsStale Backup/default: node-3: ",
        "Normal AsExpected Backup/default: 3 nodes have",
        "Warning BackupFailed NodeBackup/node-2: member: ",
        "Normal BackupRecovered NodeBackup/node-2: ",
    ] {
        assert!(events.contains(event), "{event}: {events}");
    }
    let metrics = operator.get("/metrics").1;
    for metric in [
        "etcd_lifeboat_operator_leader 1",
        "etcd_lifeboat_operator_opted_out 0",
        "etcd_lifeboat_operator_backup_reconciled{backup=\"default\"} 1",
        "etcd_lifeboat_operator_backup_fresh{backup=\"default\"} 1",
        "etcd_lifeboat_operator_node_fresh{node=\"node-3\"} 1",
    ] {
        assert!(metrics.contains(metric), "{metric}: {metrics}");
    }
    // Each is explained, and each that is explained is there.
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let names = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("etcd_lifeboat_operator_"))
            .map(String::from)
            .collect()
    };
    // Some have values only with volumes; of these there is the type.
    let known: String = metrics
        .lines()
        .filter(|line| !line.starts_with('#') || line.ends_with(" gauge"))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(names(&known), names(&docs));
}

#[test]
fn nodes_that_join_leave_are_relabelled_or_have_nothing_to_back_up_are_judged_as_they_are() {
    let Some(cluster) = cluster(3, None) else {
        return;
    };
    // One has no member: its API server uses those of the others.
    let nodes = cluster.nodes();
    std::fs::remove_file(nodes[2].root.join("etc/kubernetes/manifests/etcd.yaml")).unwrap();
    // One has a member without a vote.
    let learner = Server::start_learner(cluster.member("node-2"));
    Kind::Kubeadm.lay_out(
        &nodes[1].root,
        &learner.endpoint,
        learner.pki.as_ref().unwrap(),
    );
    let _operator = Operator::start(&cluster, "a", &[]);
    often(&cluster);
    wait_until_well(&cluster, 1);
    assert_eq!(
        node_backup(&cluster, "node-2").unwrap()["member"],
        "Learner"
    );
    assert_eq!(node_backup(&cluster, "node-3").unwrap()["member"], "None");
    let counts = kept(&cluster).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(counts[1..], [0, 0]);

    // It is given a vote.
    cluster.member("node-2").promote(&learner);
    wait_until_well(&cluster, 2);

    // Somebody takes a node out of the control plane: its server goes, and nobody misses its backups.
    let label = "node-role.kubernetes.io/control-plane";
    let _ = cluster.kubectl_ok(&["label", "node", "node-1", &format!("{label}-")]);
    wait_until("its server to go", || {
        server(&cluster, "node-1").is_none().then_some(())
    });
    wait_until_well(&cluster, 1);
    std::thread::sleep(Duration::from_secs(25));
    wait_until_well(&cluster, 1);
    // Another role that has etcd is as good.
    let _ = cluster.kubectl_ok(&[
        "label",
        "node",
        "node-1",
        "node-role.kubernetes.io/etcd=true",
    ]);
    wait_until_well(&cluster, 2);

    // One joins, and never comes up.
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: node-9, labels: {{{label}: ''}}}}\n"
    ));
    let message = wait_until_degraded(&cluster, "node-9", "it has no proven backup");
    assert!(!message.contains("node-1"), "{message}");
    // And leaves.
    let _ = cluster.kubectl_ok(&["delete", "node", "node-9"]);
    wait_until_well(&cluster, 2);
    // With no node left that has something to back up, that is told, too.
    let _ = cluster.kubectl_ok(&["label", "node", "node-1", "node-role.kubernetes.io/etcd-"]);
    let _ = cluster.kubectl_ok(&["label", "node", "node-2", &format!("{label}-")]);
    wait_until("that nothing is covered", || {
        let (holds, reason, message) = stale(&cluster, "default")?;
        (holds && reason == "NoNodesCovered" && message.contains("node-3: it has no etcd member"))
            .then_some(())
    });
}

#[test]
#[ignore = "takes a quarter of an hour: the schedule is the usual one"]
fn where_the_kinds_are_upstreams_stale_backups_are_told_by_an_event() {
    let upstream = Flavour {
        upstream_backups: true,
    };
    let Some(cluster) = cluster(1, Some(upstream)) else {
        return;
    };
    let operator = Operator::start(&cluster, "a", &[]);
    let pid = wait_until("the server", || server(&cluster, "node-1")).1;
    let fresh = |fresh: u8| {
        let told = format!("etcd_lifeboat_operator_node_fresh{{node=\"node-1\"}} {fresh}");
        wait_until(&told, || {
            operator.get("/metrics").1.contains(&told).then_some(())
        });
    };
    let told = |event: &str| {
        let event = format!("{event} CustomResourceDefinition/nodebackups.lifeboat.etcd.io: ");
        wait_until(&event, || events(&cluster).contains(&event).then_some(()));
    };
    fresh(1);
    signal("-STOP", &pid);
    // Two that were due, and what they may take.
    std::thread::sleep(Duration::from_mins(13));
    fresh(0);
    told("Warning BackupsStale");
    operator.wait_for("it hangs, or it cannot reach the API server");
    signal("-CONT", &pid);
    fresh(1);
    told("Normal AsExpected");
}
