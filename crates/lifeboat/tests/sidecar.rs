//! A backup server beside etcd, which follows `Backup/default` with the credential of its node. Here it is a process of its own. The static
//! pod is tried on real nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{self, list, log_file, names, text, told, wait_until};
use operated::{Operated, Operator, SET, annotate, cluster, condition, edit, get};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;
use test_support::kubernetes::faults::Fault;

/// A backup server as it is in etcd's static pod: it follows `Backup/default` with the credential of its node.
struct Sidecar {
    child: Child,
    log: PathBuf,
}

impl Sidecar {
    fn start(root: &Path, node: &str) -> Sidecar {
        let log = root.join("sidecar.log");
        let repository = root.join("var/lib/etcd-auto-backup");
        let child = node::command(&[
            "backup-server",
            "--follow-backup=default",
            "--listen=127.0.0.1:0",
            "--min-free=1",
            "--node-name",
            node,
            "--host-root",
            text(root),
            "--backup-path",
            text(&repository),
        ])
        .stderr(log_file(&log))
        .spawn()
        .unwrap();
        Sidecar { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn wait_for(&self, told: &str) {
        wait_until(told, || self.log().contains(told).then_some(()));
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("the log of the sidecar:\n{}", self.log());
        }
    }
}

fn create_credential(cluster: &Operated, node: &str, root: &Path) -> std::process::Output {
    let repository = root.join("var/lib/etcd-auto-backup");
    // An address that is not in the certificate of the API server, and a name that is, as behind a load balancer.
    let kubeconfig = std::fs::read_to_string(cluster.outside_kubeconfig()).unwrap();
    let address = "{server: 'https://127.0.0.1:";
    assert!(kubeconfig.contains(address), "{kubeconfig}");
    let other = "{tls-server-name: localhost, server: 'https://127.1:";
    let file = root.join("person.kubeconfig");
    std::fs::write(&file, kubeconfig.replace(address, other)).unwrap();
    node::command(&[
        "sidecar-credential",
        "--node-name",
        node,
        "--backup-path",
        text(&repository),
        "--kubeconfig",
        text(&file),
    ])
    .output()
    .unwrap()
}

#[test]
fn a_server_beside_etcd_follows_the_backup_without_a_restart_and_goes_on_without_the_api_server() {
    let Some(mut cluster) = cluster(1, None) else {
        return;
    };
    let place = cluster.nodes().remove(0);
    let (root, name) = (place.root.clone(), place.name.clone());
    let repository = root.join("var/lib/etcd-auto-backup");
    // Without a credential it says what to do, and makes no backups.
    let sidecar = Sidecar::start(&root, &name);
    sidecar.wait_for("etcd-lifeboat sidecar-credential --node-name");
    let refused = create_credential(&cluster, "no-such-node", &root);
    assert!(
        told(&refused).contains("there is no Node no-such-node"),
        "{}",
        told(&refused)
    );
    let made = create_credential(&cluster, &name, &root);
    assert!(made.status.success(), "{}", told(&made));
    let credential = repository.join(".sidecar/credential.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&credential).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(list(&repository).len(), 0);
    // One that ends soon is renewed by the server itself.
    let read =
        || -> Value { serde_json::from_slice(&std::fs::read(&credential).unwrap()).unwrap() };
    let mut old = read();
    old["expires_at"] = "2026-01-01T00:00:00Z".into();
    std::fs::write(&credential, old.to_string()).unwrap();
    sidecar.wait_for("the credential of this node was renewed");
    assert_ne!(read()["token"], old["token"]);
    assert_ne!(read()["expires_at"], old["expires_at"]);

    // Backup/default comes: it begins, without a restart. No DaemonSet is wanted.
    let operator = Operator::start(&cluster, "a", &[]);
    wait_until("the default", || get(&cluster, &["backup", "default"]));
    annotate(&cluster, &["lifeboat.etcd.io/servers=sidecar"]);
    wait_until("the end of the DaemonSet", || {
        get(&cluster, &SET).is_none().then_some(())
    });
    edit(&cluster, r#"{"schedule":"@every 2s"}"#);
    wait_until("backups", || {
        (names(&repository, "backup").len() == 3).then_some(())
    });
    // Ten edits, each of which it follows in its process.
    for number in 1..=10u32 {
        let kept = 1 + number % 5;
        let policy = format!(
            r#"{{"schedule":"@every 1s","retentionPolicy":{{"retentionType":"RetentionNumber","retentionNumber":{{"maxNumberOfBackups":{kept}}}}}}}"#
        );
        edit(&cluster, &policy);
        wait_until("as many as are wanted", || {
            (names(&repository, "backup").len() == kept as usize).then_some(())
        });
    }
    // It reports as a server in a pod does.
    wait_until("its report", || {
        let report = get(&cluster, &["nodebackup", &name])?;
        (report["status"]["schedule"] == "@every 1s").then_some(())
    });
    wait_until("that all is well", || {
        let (holds, _, message) = condition(&cluster, &["backup", "default"], "Degraded")?;
        (!holds && message.contains("1 node has an up-to-date")).then_some(())
    });
    // There is no pod, and that is no problem.
    let status = node::command(&["status"])
        .env("KUBECONFIG", cluster.outside_kubeconfig())
        .output()
        .unwrap();
    assert!(
        status.status.success() && !told(&status).contains("no pod"),
        "{}",
        told(&status)
    );
    // A wrong edit changes nothing here; the operator reports it.
    edit(&cluster, r#"{"schedule":"*/5 * * * FRI-1"}"#);
    sidecar.wait_for("is not valid");
    let before = names(&repository, "backup");
    wait_until("newer backups", || {
        (names(&repository, "backup") != before).then_some(())
    });
    edit(&cluster, r#"{"schedule":"@every 1s"}"#);

    // The API server is away, and the server starts again: what it knew last counts.
    drop(operator);
    cluster.fault(Fault::Stop, "kube-apiserver").unwrap();
    let before = names(&repository, "backup");
    wait_until("newer backups", || {
        (names(&repository, "backup") != before).then_some(())
    });
    drop(sidecar);
    let sidecar = Sidecar::start(&root, &name);
    sidecar.wait_for("using the last known Backup/default");
    let before = names(&repository, "backup");
    wait_until("newer backups", || {
        (names(&repository, "backup") != before).then_some(())
    });
    cluster.fault(Fault::Start, "kube-apiserver").unwrap();

    // Whoever deletes it has opted out.
    wait_until("its end", || {
        let deleted = cluster.kubectl(&["delete", "backup", "default"]);
        deleted.status.success().then_some(())
    });
    // The first time was before it existed, and a restart did not repeat that.
    wait_until("that it makes no backups", || {
        let log = sidecar.log();
        let times = log
            .matches("no backups are made: Backup/default is not known")
            .count();
        (times == 2).then_some(())
    });
    let before = names(&repository, "backup");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(names(&repository, "backup"), before);
}

#[test]
fn the_credential_of_a_node_is_good_for_that_node_alone_and_for_nothing_else() {
    let Some(cluster) = cluster(2, None) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &[]);
    wait_until("the default", || get(&cluster, &["backup", "default"]));
    let nodes = cluster.nodes();
    let (own, other) = (&nodes[0], &nodes[1]);
    let made = create_credential(&cluster, &own.name, &own.root);
    assert!(made.status.success(), "{}", told(&made));
    let file = own
        .root
        .join("var/lib/etcd-auto-backup/.sidecar/credential.json");
    let credential: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let token = credential["token"].as_str().unwrap();
    let kubectl = |args: &[&str]| cluster.kubectl_with_token(token, args);
    let may = |args: &[&str]| {
        let output = kubectl(args);
        assert!(output.status.success(), "{args:?}: {}", told(&output));
    };
    let may_not = |args: &[&str]| {
        let output = kubectl(args);
        assert!(!output.status.success(), "{args:?}: {}", told(&output));
        let said = told(&output);
        assert!(
            said.contains("orbidden") || said.contains("denied"),
            "{args:?}: {said}"
        );
    };
    let read = ["get", "backups", "--field-selector=metadata.name=default"];
    may(&read);
    for args in [
        &["get", "backups"][..],
        &["delete", "backup", "default"],
        &["get", "secrets", "-A"],
        &["get", "nodes"],
        &["get", "pods", "-A"],
        &["create", "configmap", "x", "-n", "etcd-lifeboat"],
        &[
            "create",
            "token",
            "etcd-lifeboat-operator",
            "-n",
            "etcd-lifeboat",
        ],
        // Not bound to a node, or to another one.
        &[
            "create",
            "token",
            "etcd-lifeboat-sidecar",
            "-n",
            "etcd-lifeboat",
        ],
    ] {
        may_not(args);
    }
    let token_for = |node: &str| {
        let uid = get(&cluster, &["node", node]).unwrap()["metadata"]["uid"]
            .as_str()
            .unwrap()
            .to_string();
        let bound = [
            "--bound-object-kind=Node".to_string(),
            format!("--bound-object-name={node}"),
            format!("--bound-object-uid={uid}"),
        ];
        kubectl(&[
            "create",
            "token",
            "etcd-lifeboat-sidecar",
            "-n",
            "etcd-lifeboat",
            &bound[0],
            &bound[1],
            &bound[2],
        ])
    };
    let renewed = token_for(&own.name);
    assert!(renewed.status.success(), "{}", told(&renewed));
    let stolen = token_for(&other.name);
    assert!(
        told(&stolen).contains("only the token of its own node"),
        "{}",
        told(&stolen)
    );
    let report = |node: &str| {
        let file = cluster.dir().join(format!("report-{node}.yaml"));
        let object = format!(
            "apiVersion: lifeboat.etcd.io/v1alpha1\nkind: NodeBackup\nmetadata: {{name: {node}}}\nspec: {{}}\n"
        );
        std::fs::write(&file, object).unwrap();
        kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            text(&file),
        ])
    };
    let written = report(&own.name);
    assert!(written.status.success(), "{}", told(&written));
    let forged = report(&other.name);
    assert!(
        told(&forged).contains("only the NodeBackup of its own node"),
        "{}",
        told(&forged)
    );
    // The node is deleted: its credential ends.
    let _ = cluster.kubectl_ok(&["delete", "node", &own.name]);
    wait_until("the end of the credential", || {
        (!kubectl(&read).status.success()).then_some(())
    });
}

#[test]
fn of_two_servers_on_a_node_one_works_and_the_other_says_so_and_takes_over() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let place = cluster.nodes().remove(0);
    let repository = place.root.join("var/lib/etcd-auto-backup");
    let _operator = Operator::start(&cluster, "a", &[]);
    edit(&cluster, r#"{"schedule":"@every 2s"}"#);
    wait_until("backups by the pod", || {
        (names(&repository, "backup").len() == 3).then_some(())
    });
    let made = create_credential(&cluster, &place.name, &place.root);
    assert!(made.status.success(), "{}", told(&made));
    let sidecar = Sidecar::start(&place.root, &place.name);
    sidecar.wait_for("another backup server makes the backups of this node: waiting until it ends");
    std::thread::sleep(Duration::from_secs(5));
    assert!(!sidecar.log().contains("backup made"), "{}", sidecar.log());
    assert!(
        !sidecar.log().contains("backup failed"),
        "{}",
        sidecar.log()
    );
    // The pods are no longer wanted.
    annotate(&cluster, &["lifeboat.etcd.io/servers=sidecar"]);
    sidecar.wait_for("backup made");
}
