//! CRDs of the names that we use, as a later version of OpenShift may bring them: with other fields in the same group and version. The API
//! server would silently drop what we write there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{self, told, wait_until};
use operated::{Operated, Operator, SET, cluster, condition, degraded, get, kept};
use serde_json::Value;
use std::time::Duration;

/// openshift/enhancements#2035 reshapes `EtcdBackup`: a storage instead of a PersistentVolumeClaim, and a `EtcdBackupPolicy` beside it.
const ETCD_BACKUP: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: etcdbackups.operator.openshift.io}
spec:
  group: operator.openshift.io
  scope: Cluster
  names: {kind: EtcdBackup, plural: etcdbackups}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              storage:
                type: object
                properties: {type: {type: string}}
          status:
            type: object
            properties:
              phase: {type: string}
";

/// A `Backup` that names a policy.
const BACKUP: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: backups.config.openshift.io}
spec:
  group: config.openshift.io
  scope: Cluster
  names: {kind: Backup, plural: backups}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              policy: {type: string}
";

/// How many events of this reason are about a CRD.
fn events(cluster: &Operated, reason: &str) -> usize {
    let events = get(cluster, &["-n", "default", "events"]).unwrap();
    let events = events["items"].as_array().unwrap().clone();
    let of_crds = |event: &&Value| {
        event["reason"] == reason && event["involvedObject"]["kind"] == "CustomResourceDefinition"
    };
    events.iter().filter(of_crds).count()
}

/// How often the operator has written something since the start.
fn writes(cluster: &Operated) -> usize {
    let asked = cluster.asked_by(cluster.namespace, "etcd-lifeboat-operator");
    let is_write = |event: &&Value| {
        let verb = event["verb"].as_str().unwrap_or_default();
        let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
        ["create", "patch", "update", "delete"].contains(&verb)
            && !["leases", "selfsubjectreviews"].contains(&resource)
    };
    asked.iter().filter(is_write).count()
}

fn person(cluster: &Operated, args: &[&str]) -> std::process::Output {
    node::command(args)
        .env("KUBECONFIG", cluster.outside_kubeconfig())
        .output()
        .unwrap()
}

#[test]
fn with_another_etcdbackup_the_servers_go_on_requests_are_jobs_and_it_is_reported_once() {
    let Some(cluster) = cluster(2, None) else {
        return;
    };
    cluster.apply(ETCD_BACKUP);
    let mut operator = Operator::start(&cluster, "a", &[]);
    wait_until("backups of each node", || {
        get(&cluster, &["backup", "default"])?;
        let patch = r#"{"spec":{"etcd":{"schedule":"@yearly"}}}"#;
        let _ = cluster.kubectl(&["patch", "backup", "default", "--type=merge", "-p", patch]);
        kept(&cluster)
            .iter()
            .all(|kept| !kept.is_empty())
            .then_some(())
    });
    let (_, message) = wait_until("the condition", || {
        let (holds, reason, message) =
            condition(&cluster, &["backup", "default"], "ApiNotSupported")?;
        holds.then_some((reason, message))
    });
    assert!(
        message.contains("etcdbackups.operator.openshift.io"),
        "{message}"
    );
    assert!(message.contains("no field spec.pvcName"), "{message}");
    wait_until("that the default is well", || {
        let (holds, ..) = condition(&cluster, &["backup", "default"], "Degraded")?;
        (!holds && !degraded(&cluster, "default")?.0).then_some(())
    });
    // Another Backup would need requests.
    cluster.apply(
        "apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {name: weekly}\nspec: {etcd: {schedule: '@weekly'}}\n",
    );
    let message = wait_until("that it cannot be", || {
        let (holds, message) = degraded(&cluster, "weekly")?;
        holds.then_some(message)
    });
    assert!(
        message.contains("no EtcdBackup can be requested"),
        "{message}"
    );

    // Nothing is tried again and again, and it is said once.
    std::thread::sleep(Duration::from_secs(2));
    let before = writes(&cluster);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(writes(&cluster), before, "{}", operator.log());
    assert_eq!(events(&cluster, "ApiNotSupported"), 1);
    let log = operator.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("no field spec.pvcName") && line.contains("have no effect"));
    assert_eq!(lines.count(), 1, "{log}");
    assert!(
        operator
            .get("/metrics")
            .1
            .contains("etcd_lifeboat_operator_unsupported_crds 1")
    );

    // A request is a Job on each node.
    let before = kept(&cluster);
    let asked = person(&cluster, &["request-backup"]);
    assert!(asked.status.success(), "{}", told(&asked));
    assert!(
        told(&asked).contains("asking by Jobs instead"),
        "{}",
        told(&asked)
    );
    assert!(
        told(&asked).contains("2 of 2 nodes have a new proven backup"),
        "{}",
        told(&asked)
    );
    let after = kept(&cluster);
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| after.len() == before.len() + 1)
    );
    let one = person(
        &cluster,
        &["request-backup", "--node", &cluster.nodes()[0].name],
    );
    assert!(told(&one).contains("1 of 1 nodes"), "{}", told(&one));
    let none = person(&cluster, &["request-backup", "--pvc-name", "x"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        told(&none).contains("leave out --pvc-name"),
        "{}",
        told(&none)
    );
    let requests = get(&cluster, &["etcdbackups"]).unwrap();
    assert!(requests["items"].as_array().unwrap().is_empty());

    // It becomes ours again: the operator begins anew, and the condition is over.
    let _ = cluster.kubectl_ok(&["delete", "crd", "etcdbackups.operator.openshift.io"]);
    let ended = wait_until("its end", || operator.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    let _operator = Operator::start(&cluster, "b", &[]);
    wait_until("the end of the condition", || {
        let (holds, ..) = condition(&cluster, &["backup", "default"], "ApiNotSupported")?;
        (!holds).then_some(())
    });
    wait_until("that the other one is well", || {
        (!degraded(&cluster, "weekly")?.0).then_some(())
    });
}

#[test]
fn with_another_backup_crd_nothing_is_written_to_it_and_the_servers_run_by_default() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let mut operator = Operator::start(&cluster, "a", &[]);
    wait_until("a backup", || (!kept(&cluster)[0].is_empty()).then_some(()));
    let before = kept(&cluster);
    // The platform is upgraded, and brings its own.
    let _ = cluster.kubectl_ok(&["delete", "crd", "backups.config.openshift.io"]);
    wait_until("the other CRD", || {
        let _ = cluster.kubectl(&["delete", "crd", "backups.config.openshift.io"]);
        let path = cluster.dir().join("other.yaml");
        std::fs::write(&path, BACKUP).unwrap();
        let created = cluster.kubectl(&["create", "-f", path.to_str().unwrap()]);
        created.status.success().then_some(())
    });
    let ended = wait_until("its end", || operator.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    let operator = Operator::start(&cluster, "b", &[]);
    wait_until("servers without an owner", || {
        let set = get(&cluster, &SET)?;
        (set["metadata"]["ownerReferences"].is_null() && set["status"]["numberReady"] == 1)
            .then_some(())
    });
    assert_eq!(
        kept(&cluster)[0].last(),
        before[0].last(),
        "no backup is lost"
    );
    assert!(get(&cluster, &["backup", "default"]).is_none());
    assert!(
        operator.log().contains("no field spec.etcd.schedule"),
        "{}",
        operator.log()
    );
    wait_until("its event", || {
        (events(&cluster, "ApiNotSupported") == 1).then_some(())
    });
    let status = wait_until("the freshness", || {
        let status = person(&cluster, &["status"]);
        told(&status).contains("fresh").then_some(status)
    });
    assert_eq!(status.status.code(), Some(1));
    assert!(
        told(&status).contains("no field spec.etcd.schedule"),
        "{}",
        told(&status)
    );
    std::thread::sleep(Duration::from_secs(2));
    let before = writes(&cluster);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(writes(&cluster), before, "{}", operator.log());
}
