//! What a story does to its nodes, and what it waits for.

use super::node::{lifeboat, pvc, text, told, wait_within};
use super::{IMAGE, NAMESPACE, Nodes, REPOSITORY, wait_until};
use serde_json::Value;
use std::path::Path;
use std::process::Child;
use std::time::Duration;
use test_support::kubernetes::faults::Fault;
use test_support::real_nodes::{ImageContent, with_libraries, write_image};
use test_support::requirement::skip;

/// A local volume of a node, and a PersistentVolumeClaim that is bound to it.
pub(crate) fn local_volume(nodes: &Nodes, name: &str, node: &str) {
    let dir = format!("/var/lib/{name}");
    nodes.node(node).run_ok(&["mkdir", &dir]).unwrap();
    let pvc = pvc(NAMESPACE, name);
    nodes.apply(&format!(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  claimRef: {{namespace: {NAMESPACE}, name: {name}}}
  local: {{path: {dir}}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]
---
{pvc}"
    ));
}

/// Waits until an `EtcdBackup` ended. Returns its condition and the message.
pub(crate) fn outcome(nodes: &Nodes, request: &str) -> (String, String) {
    wait_until(&format!("the end of {request}"), || {
        let request = nodes.get(&["etcdbackup", request])?;
        let conditions = request["status"]["conditions"].as_array()?.clone();
        let mut holding = conditions
            .into_iter()
            .filter(|condition| condition["status"] == "True");
        let found = holding.next()?;
        let text = |field: &str| found[field].as_str().unwrap().to_string();
        (text("type") != "BackupPending").then(|| (text("type"), text("message")))
    })
}

pub(crate) fn request(nodes: &Nodes, name: &str, claim: &str) -> (String, String) {
    nodes.apply(&format!(
        "apiVersion: operator.openshift.io/v1alpha1\nkind: EtcdBackup\nmetadata: {{name: {name}}}\nspec: {{pvcName: '{claim}'}}\n"
    ));
    outcome(nodes, name)
}

pub(crate) fn newest_is_proven(nodes: &Nodes, node: &str) -> Value {
    let newest = nodes.kept(node).remove(0);
    let root = nodes.node(node).root();
    let backup = root.join(&REPOSITORY[1..]).join(&newest);
    let verified = lifeboat(&["verify", text(&backup)]);
    assert!(verified.status.success(), "{}", told(&verified));
    serde_json::from_slice(&std::fs::read(backup.join("backup.json")).unwrap()).unwrap()
}

/// Replaces the backup server of a node by the same program in a dynamic build whose clock is wrong: all nodes have one clock here, and
/// only a library can change it.
pub(crate) fn run_with_wrong_clock(nodes: &Nodes, node: &str, seconds: i64) -> bool {
    let mut libraries = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let library = libraries.find_map(|entry| {
        let path = entry.path().join("faketime/libfaketime.so.1");
        path.exists().then_some(path)
    });
    let Some(library) = library else {
        skip("no library to change a clock: install Debian's faketime");
        return false;
    };
    let program = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"));
    let mut files = with_libraries(program, "etcd-lifeboat", None).unwrap();
    files.extend(with_libraries(&library, "usr/lib/libfaketime.so.1", None).unwrap());
    files.sort();
    files.dedup_by(|one, other| one.1 == other.1);
    let clock = format!("FAKETIME={seconds:+}");
    let content = ImageContent {
        entrypoint: Some("/etcd-lifeboat"),
        environment: &[
            "LD_PRELOAD=/usr/lib/libfaketime.so.1",
            &clock,
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ],
        files,
    };
    let file = nodes.cluster.dir().join("wrong-clock.tar");
    write_image(&file, IMAGE, &content).unwrap();
    nodes.node(node).load_image(&file, IMAGE).unwrap();
    nodes.replace_server(node);
    true
}

/// Takes a static pod away, and waits for its end: an API server goes on for half a minute.
pub(crate) fn stop_static_pod(nodes: &mut Nodes, name: &str, node: &str) {
    nodes.fault(Fault::Stop, &format!("{name}/{node}"));
    wait_until(&format!("the end of {name}"), || {
        let runs = nodes.node(node).processes_of(name).is_ok();
        (!runs).then_some(())
    });
}

/// How often the backup server on a node was started.
pub(crate) fn restarts(nodes: &Nodes, node: &str) -> Option<u64> {
    let pod = nodes.server(node)?;
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64()
}

/// How often each operator was started again, once all of them run.
pub(crate) fn operator_restarts(nodes: &Nodes) -> Option<Vec<u64>> {
    let label = "app=etcd-lifeboat-operator";
    let pods = nodes.get(&["-n", NAMESPACE, "pods", "-l", label])?;
    let restarts = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        let running = &container["state"]["running"];
        running
            .is_object()
            .then(|| container["restartCount"].as_u64())?
    };
    pods["items"].as_array()?.iter().map(restarts).collect()
}

/// Waits until a run of the server on a node writes its snapshot.
pub(crate) fn wait_for_a_run(nodes: &Nodes, node: &str) {
    let repository = nodes.node(node).root().join(&REPOSITORY[1..]);
    let often = Duration::from_millis(10);
    wait_within(Duration::from_secs(300), often, "a run that writes", || {
        let mut entries = std::fs::read_dir(&repository).ok()?.flatten();
        let hidden = |name: &str| name.starts_with('.') && name.contains("partial");
        entries
            .any(|entry| hidden(&entry.file_name().to_string_lossy()))
            .then_some(())
    });
}

/// Puts this many MiB into etcd.
pub(crate) fn fill(nodes: &Nodes, node: &str, mib: usize) {
    let put = "
        for number in $(seq 1 $1); do
            head -c 1048576 /dev/urandom | base64 -w0 | head -c 1048576 | etcdctl --endpoints=https://127.0.0.1:2379 \\
                --cacert=/etc/kubernetes/pki/etcd/ca.crt --cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt \\
                --key=/etc/kubernetes/pki/etcd/healthcheck-client.key put /fill/$number > /dev/null || exit 1
        done";
    let mib = mib.to_string();
    let node = nodes.node(node);
    node.run_ok(&["bash", "-c", put, "fill", &mib]).unwrap();
}

/// Leaves this share of the node's disk free.
pub(crate) fn leave_free(nodes: &Nodes, node: &str, percent: u64) {
    let take = "
        set -- $1 $(df --output=avail,size -B1 / | tail -1)
        fallocate -l $(($2 - $3 / 100 * $1)) /filler";
    let percent = percent.to_string();
    let node = nodes.node(node);
    node.run_ok(&["bash", "-c", take, "take", &percent])
        .unwrap();
}

pub(crate) fn wait_for_pressure(nodes: &Nodes, node: &str, wanted: &str) {
    wait_until(&format!("DiskPressure {wanted}"), || {
        let node = nodes.get(&["node", node])?;
        let conditions = node["status"]["conditions"].as_array()?.clone();
        let found = conditions
            .into_iter()
            .find(|condition| condition["type"] == "DiskPressure")?;
        (found["status"] == wanted).then_some(())
    });
}

/// A pod of someone else.
pub(crate) const OTHER_POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: default}
spec: {containers: [{name: other, image: registry.k8s.io/pause:3.10.2}]}
";

/// What the kernel allows a container.
pub(crate) fn memory_limit(nodes: &Nodes, container: &str) -> u64 {
    let read = "
        path() { sed -n \"s/^[0-9]*:$1://p\" /proc/$pid/cgroup; }
        pid=$1
        cat /sys/fs/cgroup/memory$(path memory)/memory.limit_in_bytes 2> /dev/null || cat /sys/fs/cgroup$(path '')/memory.max";
    let node = nodes.node("node1");
    let pid = node.processes_of(container).unwrap().remove(0);
    let printed = node.run_ok(&["bash", "-c", read, "read", &pid]).unwrap();
    printed.trim().parse().unwrap()
}

/// Takes the memory from one container of a pod, also each time that it was started again, until /run/squeeze is removed.
pub(crate) fn squeeze_container(nodes: &Nodes, node: &str, container: &str) -> Child {
    let squeeze = "
        touch /run/squeeze
        while [ -e /run/squeeze ]; do
            for id in $(ctr -n k8s.io containers ls -q \"labels.\\\"io.kubernetes.container.name\\\"==$1\"); do
                pid=$(ctr -n k8s.io tasks ls | awk -v id=\"$id\" '$1 == id && $3 == \"RUNNING\" { print $2 }')
                [ -n \"$pid\" ] || continue
                path() { sed -n \"s/^[0-9]*:$1://p\" /proc/$pid/cgroup; }
                file=/sys/fs/cgroup/memory$(path memory)/memory.limit_in_bytes
                [ -e $file ] || file=/sys/fs/cgroup$(path '')/memory.max
                for kib in $(seq 12288 -512 512); do
                    echo $((kib * 1024)) > $file || break
                done
            done 2> /dev/null
            sleep 0.3
        done";
    let mut command = nodes
        .node(node)
        .command(&["bash", "-c", squeeze, "squeeze", container]);
    command.spawn().unwrap()
}

/// Takes the memory from the backup server of a node, also each time that it was started again, until /run/squeeze is removed. What it
/// needs is far below its limit, so the kernel is asked for a limit that is as low as it allows.
pub(crate) fn squeeze(nodes: &Nodes, node: &str) -> Child {
    let squeeze = "
        touch /run/squeeze
        while [ -e /run/squeeze ]; do
            for group in /sys/fs/cgroup/memory/kubepods/burstable/pod$1/*/ /sys/fs/cgroup/kubepods/burstable/pod$1/*/; do
                file=$group/memory.max
                [ -e $file ] || file=$group/memory.limit_in_bytes
                for kib in $(seq 12288 -512 512); do
                    echo $((kib * 1024)) > $file || break
                done
            done 2> /dev/null
            sleep 0.5
        done";
    let pod = nodes.server(node).unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let mut command = nodes
        .node(node)
        .command(&["bash", "-c", squeeze, "squeeze", uid]);
    command.spawn().unwrap()
}
