//! The control plane that everything in a cluster is tested beside: that it is what it says.
//!
//! This file is long because each thing that the test cluster imitates has a test of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{told, wait_until};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use test_support::etcd_binaries::require_usual;
use test_support::kubernetes::binaries;
use test_support::kubernetes::cluster::{Cluster, Options};
use test_support::kubernetes::conflict::{ConflictingWriter, Object};
use test_support::kubernetes::faults::Fault;
use test_support::kubernetes::image::{Image, Images};
use test_support::kubernetes::openshift::Flavour;
use test_support::scratch_dir;

/// What a cluster is made of here, or a skipped test.
fn options(nodes: usize) -> Option<Options> {
    let root = Command::new("unshare").args(["--mount", "true"]).status();
    if !root.is_ok_and(|status| status.success()) {
        test_support::requirement::skip("no mounts of one's own: run as root");
        return None;
    }
    Some(Options {
        nodes,
        kubernetes: binaries::require()?,
        etcd: require_usual()?,
        openshift: None,
        images: Images::default(),
    })
}

/// A field of an object, as kubectl prints it.
fn field(cluster: &Cluster, object: &[&str], path: &str) -> String {
    let path = format!("jsonpath={{{path}}}");
    cluster.kubectl_ok(&[&["get"], object, &["-o", &path]].concat())
}

fn wait_for_field(cluster: &Cluster, object: &[&str], path: &str, value: &str) {
    wait_until(&format!("{path} of {object:?} to be {value:?}"), || {
        (field(cluster, object, path) == value).then_some(())
    });
}

/// Whether a process of that kind is there.
fn processes(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(word))
        .count()
}

#[test]
fn daemon_sets_jobs_and_cron_jobs_run_to_their_end() {
    let Some(cluster) = options(3).as_ref().map(Cluster::start) else {
        return;
    };
    assert_eq!(cluster.ready_nodes(), 3);
    cluster.apply(
        "
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
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each, namespace: default}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      nodeSelector: {node-role.kubernetes.io/control-plane: ''}
      containers:
      - name: sleeper
        image: lifeboat.test/host
        command: [sh, -c, 'echo $(NODE) > /host/node-name; exec sleep infinity']
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
kind: Job
metadata: {name: says-by-its-log, namespace: default}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      initContainers: [{name: first, image: lifeboat.test/host, command: [sh, -c, 'echo ready > /shared/a'], volumeMounts: [{name: shared, mountPath: /shared}]}]
      containers:
      - name: main
        image: lifeboat.test/host
        terminationMessagePolicy: FallbackToLogsOnError
        command: [sh, -c, 'cat /shared/a; echo no room left; exit 1']
        volumeMounts: [{name: shared, mountPath: /shared}]
      volumes: [{name: shared, emptyDir: {}}]
",
    );
    wait_for_field(&cluster, &["ds", "each"], ".status.numberReady", "3");
    // Each pod wrote to its own node's disk.
    for node in cluster.nodes() {
        let path = node.root.join("var/lib/test/node-name");
        // A container is ready when it runs, which is before its first command is done.
        let wrote = || std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == node.name);
        wait_until("its name on each node's disk", || wrote().then_some(()));
    }
    wait_for_field(&cluster, &["job", "fails"], ".status.failed", "1");
    let ended = ".items[0].status.containerStatuses[0].state.terminated";
    for (job, code, message) in [
        ("fails", "3", "the disk is gone\n"),
        ("says-by-its-log", "1", "ready\nno room left"),
    ] {
        wait_for_field(&cluster, &["job", job], ".status.failed", "1");
        let label = format!("job-name={job}");
        let pods = ["pods", "-l", &label];
        assert_eq!(field(&cluster, &pods, &format!("{ended}.exitCode")), code);
        assert_eq!(field(&cluster, &pods, &format!("{ended}.reason")), "Error");
        assert_eq!(field(&cluster, &pods, &format!("{ended}.message")), message);
        let reason = field(&cluster, &["job", job], ".status.conditions[-1:].reason");
        assert_eq!(reason, "BackoffLimitExceeded");
    }
    // What they print can be read, and commands run in them.
    if binaries::require_tool(binaries::STREAMS).is_some() {
        let log = cluster.kubectl_ok(&["logs", "job/says-by-its-log"]);
        assert_eq!(log, "ready\nno room left\n");
        let last = cluster.kubectl_ok(&["logs", "--tail=1", "job/says-by-its-log"]);
        assert_eq!(last, "no room left\n");
        let run = |script: &str| cluster.kubectl(&["exec", "ds/each", "--", "sh", "-c", script]);
        let output = run("cat /host/node-name; echo aside >&2; exit 7");
        assert_eq!(output.status.code(), Some(7));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("node-"));
        assert!(String::from_utf8_lossy(&output.stderr).contains("aside"));
        let many = run("head -c 3000000 /dev/zero");
        assert_eq!(many.stdout.len(), 3_000_000);
    }
    // Deleting ends the processes, and the pods go.
    let _ = cluster.kubectl_ok(&["delete", "ds", "each", "--wait=false"]);
    wait_until("the pods to go", || {
        let pods = cluster.kubectl_ok(&["get", "pods", "-l", "app=each", "-o", "name"]);
        pods.is_empty().then_some(())
    });
    // The next minute is a minute away at most.
    let deadline = Instant::now() + Duration::from_secs(100);
    loop {
        let jobs = cluster.kubectl_ok(&["get", "jobs", "-o", "name"]);
        let path = ".items[?(@.status.succeeded==1)].metadata.name";
        if field(&cluster, &["jobs"], path).contains("minutely-") {
            break;
        }
        assert!(Instant::now() < deadline, "{jobs}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn pods_restart_end_and_are_confined_as_they_say_and_reach_the_api_by_their_account() {
    let Some(mut options) = options(1) else {
        return;
    };
    let kubectl = Image::of_program(&options.kubernetes.program("kubectl"));
    options.images = options.images.with("lifeboat.test/kubectl", kubectl);
    let cluster = Cluster::start(&options);
    cluster.apply(
        "
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: default}
data: {word: seven}
---
apiVersion: v1
kind: Pod
metadata: {name: reads, namespace: default}
spec:
  serviceAccountName: reader
  restartPolicy: Never
  containers:
  - {name: main, image: lifeboat.test/kubectl, args: [get, configmap, words, '-o=jsonpath={.data.word}']}
---
apiVersion: v1
kind: Pod
metadata: {name: may-not, namespace: default}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: lifeboat.test/kubectl, args: [get, configmap, words], terminationMessagePolicy: FallbackToLogsOnError}
---
apiVersion: v1
kind: Pod
metadata: {name: crashes, namespace: default}
spec:
  containers: [{name: main, image: lifeboat.test/host, command: [sh, -c, 'exit 7']}]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn, namespace: default}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: lifeboat.test/host
    command: [sh, -c, 'trap \"echo told > /host/told\" TERM; while :; do sleep 0.1; done']
    volumeMounts: [{name: host, mountPath: /host}]
  volumes: [{name: host, hostPath: {path: /var/lib/stubborn}}]
---
apiVersion: v1
kind: Pod
metadata: {name: confined, namespace: default}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: lifeboat.test/host
    command: [sh, -c, 'grep CapBnd /proc/self/status; grep NoNewPrivs /proc/self/status; touch /x; cat /words/word; ls /']
    volumeMounts: [{name: words, mountPath: /words}]
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL], add: [DAC_READ_SEARCH]}
  volumes: [{name: words, configMap: {name: words}}]
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  hostPath: {path: /var/lib/claimed}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim, namespace: default}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: claims, namespace: default}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: lifeboat.test/host
    command: [sh, -c, 'echo mine > /disk/file']
    volumeMounts: [{name: disk, mountPath: /disk}]
  volumes: [{name: disk, persistentVolumeClaim: {claimName: claim}}]
---
apiVersion: v1
kind: Pod
metadata: {name: unknown, namespace: default}
spec:
  containers: [{name: main, image: nobody/knows:1}]
",
    );
    let phase = |pod: &str, phase: &str| {
        wait_for_field(&cluster, &["pod", pod], ".status.phase", phase);
    };
    let logs = |pod: &str| cluster.logs("default", pod, "main").unwrap_or_default();
    phase("reads", "Succeeded");
    assert_eq!(logs("reads"), "seven");
    phase("may-not", "Failed");
    assert!(
        logs("may-not").contains("cannot get resource"),
        "{}",
        logs("may-not")
    );
    let status = ".status.containerStatuses[0]";
    wait_for_field(
        &cluster,
        &["pod", "crashes"],
        &format!("{status}.restartCount"),
        "2",
    );
    wait_for_field(
        &cluster,
        &["pod", "crashes"],
        &format!("{status}.state.waiting.reason"),
        "CrashLoopBackOff",
    );
    assert_eq!(
        field(
            &cluster,
            &["pod", "crashes"],
            &format!("{status}.lastState.terminated.exitCode")
        ),
        "7"
    );
    phase("claims", "Succeeded");
    let claimed = cluster.nodes()[0].root.join("var/lib/claimed/file");
    assert_eq!(std::fs::read_to_string(claimed).unwrap(), "mine\n");
    phase("confined", "Succeeded");
    let confined = logs("confined");
    // DAC_READ_SEARCH is bit 2; SYS_CHROOT, bit 18, is the start's own.
    assert!(confined.contains("CapBnd:\t0000000000040004"), "{confined}");
    assert!(confined.contains("NoNewPrivs:\t1"), "{confined}");
    assert!(
        confined.contains("Read-only file system") && confined.contains("seven"),
        "{confined}"
    );
    wait_for_field(
        &cluster,
        &["pod", "unknown"],
        &format!("{status}.state.waiting.reason"),
        "ErrImageNeverPull",
    );
    // It is told to end, does not, and is killed when its time is over.
    phase("stubborn", "Running");
    let start = Instant::now();
    let _ = cluster.kubectl_ok(&["delete", "pod", "stubborn"]);
    let took = start.elapsed();
    assert!((2..10).contains(&took.as_secs()), "{took:?}");
    let told = cluster.nodes()[0].root.join("var/lib/stubborn/told");
    assert!(told.exists());
}

#[test]
fn a_daemon_set_of_backup_servers_keeps_proven_backups_on_each_node_with_few_rights() {
    let Some(mut options) = options(3) else {
        return;
    };
    let program = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"));
    let image = Image::of_program(program).with_system();
    options.images = options.images.with("lifeboat.test/etcd-lifeboat", image);
    let cluster = Cluster::start(&options);
    cluster.apply(
        "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: backup-server, namespace: kube-system}
spec:
  selector: {matchLabels: {app: etcd-auto-backup}}
  template:
    metadata: {labels: {app: etcd-auto-backup}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers:
      - name: etcd-backup-server
        image: lifeboat.test/etcd-lifeboat
        args: [backup-server, --schedule=@every 2s, --listen=127.0.0.1:0, --min-free=1]
        env: [{name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        securityContext:
          readOnlyRootFilesystem: true
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL], add: [DAC_READ_SEARCH]}
        volumeMounts:
        - {name: config, mountPath: /etc/kubernetes, readOnly: true}
        - {name: backups, mountPath: /var/lib/etcd-auto-backup}
      volumes:
      - {name: config, hostPath: {path: /etc/kubernetes, type: Directory}}
      - {name: backups, hostPath: {path: /var/lib/etcd-auto-backup, type: DirectoryOrCreate}}
",
    );
    for place in cluster.nodes() {
        let repository = place.root.join("var/lib/etcd-auto-backup");
        let backup = wait_until(&format!("three backups on {}", place.name), || {
            let names = node::names(&repository, "backup");
            (names.len() == 3).then(|| names[1].clone())
        });
        let json = std::fs::read(repository.join(&backup).join("backup.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(record["node"], place.name.as_str());
        assert_eq!(record["platform"], "kubeadm");
        assert_eq!(record["linearized"], true);
        assert_eq!(record["members"].as_array().unwrap().len(), 3);
        // The cluster's own objects are in it.
        assert!(
            record["snapshot"]["total_keys"].as_u64().unwrap() > 200,
            "{record:#}"
        );
    }
}

#[test]
fn each_part_can_be_stopped_frozen_cut_off_and_mended() {
    let Some(mut cluster) = options(3).as_ref().map(Cluster::start) else {
        return;
    };
    let fault = |cluster: &mut Cluster, fault, part: &str| cluster.fault(fault, part).unwrap();
    let ready = |cluster: &Cluster, count: usize| {
        wait_until(&format!("{count} ready nodes"), || {
            (cluster.ready_nodes() == count).then_some(())
        });
    };
    // A node that loses its power, and one whose kubelet is cut off: both are missed, and come back.
    fault(&mut cluster, Fault::Stop, "node/node-2");
    fault(&mut cluster, Fault::Cut, "kubelet/node-3");
    ready(&cluster, 1);
    fault(&mut cluster, Fault::Start, "node/node-2");
    fault(&mut cluster, Fault::Heal, "kubelet/node-3");
    ready(&cluster, 3);
    // One member may go; with two there is no quorum, and nothing can be written.
    fault(&mut cluster, Fault::Freeze, "etcd/node-1");
    let write = |cluster: &Cluster, name: &str| {
        let args = ["create", "configmap", name, "--request-timeout=10s"];
        cluster.kubectl(&args).status.success()
    };
    wait_until("a write with two members", || {
        write(&cluster, "two").then_some(())
    });
    fault(&mut cluster, Fault::Stop, "etcd/node-2");
    assert!(!write(&cluster, "one"));
    fault(&mut cluster, Fault::Thaw, "etcd/node-1");
    fault(&mut cluster, Fault::Start, "etcd/node-2");
    wait_until("a write with three members", || {
        write(&cluster, "three").then_some(())
    });
    // Without the controller manager a Deployment makes nothing.
    fault(&mut cluster, Fault::Stop, "kube-controller-manager");
    let image = "--image=lifeboat.test/host";
    let _ = cluster.kubectl_ok(&[
        "create",
        "deployment",
        "waits",
        image,
        "--",
        "sleep",
        "infinity",
    ]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(cluster.kubectl_ok(&["get", "pods", "-o", "name"]), "");
    fault(&mut cluster, Fault::Start, "kube-controller-manager");
    wait_for_field(
        &cluster,
        &["deployment", "waits"],
        ".status.readyReplicas",
        "1",
    );
    // The API server itself.
    fault(&mut cluster, Fault::Freeze, "kube-apiserver");
    assert!(
        !cluster
            .kubectl(&["get", "nodes", "--request-timeout=2s"])
            .status
            .success()
    );
    fault(&mut cluster, Fault::Thaw, "kube-apiserver");
    ready(&cluster, 3);
    // What is outside of the cluster loses its way, and only that.
    let outside = cluster.outside_kubeconfig();
    let from_outside = |cluster: &Cluster| {
        let kubeconfig = ["--kubeconfig", outside.to_str().unwrap()];
        let args = ["get", "nodes", "--request-timeout=2s"];
        cluster
            .kubectl(&[&args[..], &kubeconfig].concat())
            .status
            .success()
    };
    assert!(from_outside(&cluster));
    fault(&mut cluster, Fault::Cut, "outside");
    assert!(!from_outside(&cluster));
    ready(&cluster, 3);
    fault(&mut cluster, Fault::Heal, "outside");
    assert!(from_outside(&cluster));
    let error = cluster.fault(Fault::Stop, "nonsense").unwrap_err();
    assert!(error.contains("there are kube-apiserver"), "{error}");
}

#[test]
fn watches_expire_and_somebody_else_writes() {
    let Some(mut cluster) = options(1).as_ref().map(Cluster::start) else {
        return;
    };
    let _ = cluster.kubectl_ok(&["create", "configmap", "contested"]);
    let version = field(
        &cluster,
        &["configmap", "contested"],
        ".metadata.resourceVersion",
    );
    let watch = |cluster: &Cluster| {
        let path = format!(
            "/api/v1/namespaces/default/configmaps?watch=true&timeoutSeconds=1&resourceVersion={version}"
        );
        told(&cluster.kubectl(&["get", "--raw", &path]))
    };
    let before = watch(&cluster);
    assert!(
        !before.contains("Expired") && !before.contains("too old"),
        "{before}"
    );
    let object = Object {
        api_version: "v1",
        kind: "ConfigMap",
        namespace: Some("default"),
        name: "contested",
    };
    let patch = serde_json::json!({"data": {"writer": "number $N"}});
    let client = cluster.client();
    let writer = cluster.block_on(async { ConflictingWriter::start(client, &object, &patch) });
    wait_until("twenty writes", || (writer.writes() >= 20).then_some(()));
    // Whoever writes by what it has read loses against that.
    let read = cluster.kubectl_ok(&["get", "configmap", "contested", "-o", "json"]);
    let path = cluster.dir().join("read.json");
    std::fs::write(&path, read).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let replaced = told(&cluster.kubectl(&["replace", "-f", path.to_str().unwrap()]));
    assert!(
        replaced.contains("the object has been modified"),
        "{replaced}"
    );
    drop(writer);
    assert!(field(&cluster, &["configmap", "contested"], ".data.writer").starts_with("number "));
    cluster.expire_watches().unwrap();
    let after = watch(&cluster);
    assert!(
        after.contains("Expired") || after.contains("too old resource version"),
        "{after}"
    );
}

#[test]
fn it_looks_like_openshift_to_whoever_asks() {
    let Some(mut options) = options(1) else {
        return;
    };
    options.openshift = Some(Flavour {
        upstream_backups: true,
    });
    let cluster = Cluster::start(&options);
    for (object, path, value) in [
        (
            ["clusterversion", "version"],
            ".status.desired.version",
            "4.20.0",
        ),
        (
            ["infrastructure", "cluster"],
            ".status.controlPlaneTopology",
            "HighlyAvailable",
        ),
        (
            ["etcds.operator.openshift.io", "cluster"],
            ".spec.managementState",
            "Managed",
        ),
        (
            ["featuregate", "cluster"],
            ".status.featureGates[0].enabled[0].name",
            "AutomatedEtcdBackup",
        ),
        (["namespace", "openshift-etcd"], ".status.phase", "Active"),
    ] {
        assert_eq!(field(&cluster, &object, path), value, "{object:?}");
    }
    let apply = |manifest: &str| {
        let path = cluster.dir().join("try.yaml");
        std::fs::write(&path, manifest).unwrap();
        told(&cluster.kubectl(&["apply", "--validate=ignore", "-f", path.to_str().unwrap()]))
    };
    // Upstream's kinds drop what they do not know, and refuse what they do not want.
    let backup = |spec: &str| {
        format!(
            "apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {{name: default}}\nspec: {{etcd: {spec}}}\n"
        )
    };
    let told_of = apply(&backup(
        "{schedule: '*/5 * * * *', timeZone: UTC, colour: green}",
    ));
    assert!(told_of.contains("created"), "{told_of}");
    assert_eq!(
        field(&cluster, &["backup", "default"], ".spec.etcd.colour"),
        ""
    );
    assert_eq!(
        field(&cluster, &["backup", "default"], ".spec.etcd.timeZone"),
        "UTC"
    );
    let number = "{retentionPolicy: {retentionType: RetentionNumber, retentionNumber: {maxNumberOfBackups: 0}}}";
    let refused = apply(&backup(number));
    assert!(
        refused.contains("should be greater than or equal to 1"),
        "{refused}"
    );
    let request = |claim: &str| {
        format!(
            "apiVersion: operator.openshift.io/v1alpha1\nkind: EtcdBackup\nmetadata: {{name: once}}\nspec: {{pvcName: {claim}}}\n"
        )
    };
    assert!(apply(&request("a")).contains("created"));
    let refused = apply(&request("b"));
    assert!(
        refused.contains("pvcName is immutable once set"),
        "{refused}"
    );
    // Who may not change the finalizers of an owner can't make it block its own deletion.
    let _ = cluster.kubectl_ok(&[
        "create",
        "clusterrole",
        "maker",
        "--verb=create,get",
        "--resource=configmaps",
    ]);
    let _ = cluster.kubectl_ok(&[
        "create",
        "clusterrolebinding",
        "maker",
        "--clusterrole=maker",
        "--serviceaccount=default:default",
    ]);
    let uid = field(&cluster, &["backup", "default"], ".metadata.uid");
    let owned = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences: [{{apiVersion: config.openshift.io/v1alpha1, kind: Backup, name: default, uid: {uid}, blockOwnerDeletion: true}}]\n"
    );
    let path = cluster.dir().join("owned.yaml");
    std::fs::write(&path, owned).unwrap();
    let user = "--as=system:serviceaccount:default:default";
    let refused = told(&cluster.kubectl(&["create", user, "-f", path.to_str().unwrap()]));
    assert!(
        refused.contains("cannot set blockOwnerDeletion"),
        "{refused}"
    );
}

#[test]
#[ignore = "the older Kubernetes takes long to build: `cargo xtask test --all` gets it, and runs this"]
fn the_older_kubernetes_runs_as_well() {
    let Some(mut options) = options(1) else {
        return;
    };
    let oldest = binaries::VERSIONS.into_iter().min().unwrap();
    let older = binaries::find(oldest).expect("`cargo xtask kubernetes --all` has built it");
    options.kubernetes = older;
    let cluster = Cluster::start(&options);
    let version = cluster.kubectl_ok(&["get", "--raw", "/version"]);
    assert!(version.contains(&format!("v{oldest}.")), "{version}");
    let _ = cluster.kubectl_ok(&[
        "create",
        "job",
        "once",
        "--image=lifeboat.test/host",
        "--",
        "true",
    ]);
    wait_for_field(&cluster, &["job", "once"], ".status.succeeded", "1");
}

const HOLDS: &str = "LIFEBOAT_TEST_HOLDS_A_CLUSTER";

#[test]
#[ignore = "no test, but what the next one kills"]
fn holds_a_cluster_until_it_is_killed() {
    let cluster = Cluster::start(&options(1).unwrap());
    let image = "--image=lifeboat.test/host";
    let _ = cluster.kubectl_ok(&[
        "create",
        "deployment",
        "runs",
        image,
        "--",
        "sleep",
        "987654",
    ]);
    wait_for_field(
        &cluster,
        &["deployment", "runs"],
        ".status.readyReplicas",
        "1",
    );
    std::fs::write(
        std::env::var(HOLDS).unwrap(),
        cluster.dir().to_str().unwrap(),
    )
    .unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_killed_test_leaves_no_process_and_no_folder_that_the_next_one_does_not_clear() {
    if options(1).is_none() {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let said = dir.path().join("said");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "holds_a_cluster_until_it_is_killed"])
        .env(HOLDS, &said)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let left = wait_until("a cluster to kill", || {
        let text = std::fs::read_to_string(&said).ok()?;
        (!text.is_empty()).then_some(text)
    });
    assert!(processes(&left) >= 3 && processes("987654") == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("everything to end with it", || {
        (processes(&left) == 0 && processes("987654") == 0).then_some(())
    });
    assert!(Path::new(&left).exists(), "nobody was there to remove it");
    scratch_dir::clear_left("lifeboat-cluster-");
    assert!(!Path::new(&left).exists());
}
