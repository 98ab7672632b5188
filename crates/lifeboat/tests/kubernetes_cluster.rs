//! The control plane that tests of everything in a cluster run beside: that it is what it says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::wait_until;
use test_support::etcd_binaries::require_usual;
use test_support::kubernetes::binaries;
use test_support::kubernetes::cluster::{Cluster, Options};
use test_support::kubernetes::image::Images;

/// A cluster of so many nodes, or a skipped test.
fn cluster(nodes: usize) -> Option<Cluster> {
    let options = Options {
        nodes,
        kubernetes: binaries::require()?,
        etcd: require_usual()?,
        openshift: None,
        images: Images::default(),
    };
    Some(Cluster::start(&options))
}

#[test]
fn daemon_sets_jobs_and_cron_jobs_run_to_their_end() {
    let Some(cluster) = cluster(3) else {
        return;
    };
    eprintln!("ready in {:?}", cluster.started_in());
    assert_eq!(cluster.ready_nodes(), 3);
    cluster.apply(
        "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each, namespace: default}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      containers:
      - name: sleeper
        image: lifeboat.test/host
        command: [sh, -c, 'echo $NODE > /host/node-name; exec sleep infinity']
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        volumeMounts: [{name: host, mountPath: /host}]
      volumes: [{name: host, hostPath: {path: /var/lib/test, type: DirectoryOrCreate}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: fails, namespace: default}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: lifeboat.test/host
        command: [sh, -c, 'echo the disk is gone > /dev/termination-log; exit 3']
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: minutely, namespace: default}
spec:
  schedule: '* * * * *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: main, image: lifeboat.test/host, command: ['true']}]
",
    );
    wait_until("three pods", || {
        let ready =
            cluster.kubectl_ok(&["get", "ds", "each", "-o", "jsonpath={.status.numberReady}"]);
        (ready == "3").then_some(())
    });
    wait_until("the job's failure", || {
        let failed =
            cluster.kubectl_ok(&["get", "job", "fails", "-o", "jsonpath={.status.failed}"]);
        (failed == "1").then_some(())
    });
    println!(
        "{}",
        cluster.kubectl_ok(&["get", "pods,jobs,nodes", "-o", "wide"])
    );
}
