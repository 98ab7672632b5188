//! Installed as its documentation says: by its manifests, on a real API server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use cluster_api::resources::NodeBackup;
use kube::api::{Api, Patch, PatchParams};
use operated::node::{lifeboat, told, wait_until};
use operated::{
    IMAGE, METRICS, Operated, SHARED_MACHINE, bare_cluster, cluster, get, kept, manifests, stale,
};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use test_support::kubernetes::binaries;
use test_support::kubernetes::faults::Fault;
use test_support::kubernetes::openshift::Flavour;

/// Tells of a node with somebody's token; says what is refused.
fn tell_as(cluster: &Operated, token: &str, node: &str) -> Result<(), String> {
    let config = std::fs::read_to_string(cluster.outside_kubeconfig()).unwrap();
    let user = config.find("users: [").unwrap();
    let end = user + config[user..].find('\n').unwrap();
    let config = format!(
        "{}users: [{{name: user, user: {{token: '{token}'}}}}]{}",
        &config[..user],
        &config[end..]
    );
    let path = cluster.dir().join("as-account.kubeconfig");
    std::fs::write(&path, config).unwrap();
    let object = json!({
        "apiVersion": "lifeboat.etcd.io/v1alpha1",
        "kind": "NodeBackup",
        "metadata": {"name": node},
        "status": {"problem": "a lie"},
    });
    let told = cluster.block_on(async {
        let client = test_support::kubernetes::cluster::client_of(&path).await;
        let all: Api<NodeBackup> = Api::all(client);
        let params = PatchParams::apply("somebody").force();
        all.patch_status(node, &params, &Patch::Apply(object)).await
    });
    told.map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn installed_by_its_manifests_it_works_and_takes_over_and_goes_again() {
    let Some(mut cluster) = cluster(3, None) else {
        return;
    };
    let all = manifests(IMAGE, &[]);
    cluster.apply(&all);
    let deployment = [
        "-n",
        "etcd-lifeboat",
        "deployment",
        "etcd-lifeboat-operator",
    ];
    wait_until("two operators", || {
        (get(&cluster, &deployment)?["status"]["readyReplicas"] == 2).then_some(())
    });
    wait_until("a first backup", || {
        kept(&cluster)
            .iter()
            .any(|backups| !backups.is_empty())
            .then_some(())
    });
    let holder = || {
        let lease = get(
            &cluster,
            &["-n", "etcd-lifeboat", "lease", "etcd-lifeboat-operator"],
        )?;
        Some(lease["spec"]["holderIdentity"].as_str()?.to_string())
    };
    let first = wait_until("a leader", holder);
    let _ = cluster.kubectl_ok(&[
        "-n",
        "etcd-lifeboat",
        "delete",
        "pod",
        &first,
        "--wait=false",
    ]);
    wait_until("another one", || {
        holder().filter(|now| *now != first).map(|_| ())
    });
    let patch = r#"{"spec":{"etcd":{"schedule":"@every 3s"}}}"#;
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", patch]);
    wait_until("that all is well", || {
        let (holds, _, message) = stale(&cluster, "default")?;
        (!holds && message.starts_with("3 nodes have")).then_some(())
    });

    // A backup server tells of its own node only, also if somebody has its token.
    // The changed schedule may still replace the pod, and with it the token.
    let token = wait_until("that the token of node-1 is accepted", || {
        let pods = get(
            &cluster,
            &["-n", "etcd-lifeboat", "pods", "-l", "app=etcd-auto-backup"],
        )?;
        let pod = pods["items"].as_array()?.iter().find(|pod| {
            pod["spec"]["nodeName"] == "node-1" && pod["metadata"]["deletionTimestamp"].is_null()
        })?;
        let bound = format!("--bound-object-name={}", pod["metadata"]["name"].as_str()?);
        let created = cluster.kubectl(&[
            "-n",
            "etcd-lifeboat",
            "create",
            "token",
            "etcd-lifeboat-agent",
            "--bound-object-kind=Pod",
            &bound,
        ]);
        let token = String::from_utf8(created.stdout).ok()?.trim().to_string();
        tell_as(&cluster, &token, "node-1").ok()?;
        Some(token)
    });
    let refused = tell_as(&cluster, &token, "node-2").unwrap_err();
    assert!(
        refused.contains("a backup server can write only the NodeBackup of its own node"),
        "{refused}"
    );

    // Taken away, it leaves the backups and what says how they are to be made.
    let path = cluster.dir().join("all.yaml");
    std::fs::write(&path, &all).unwrap();
    let before = kept(&cluster);
    // Its rights may go before it does.
    cluster.may_be_refused = true;
    let _ = cluster.kubectl_ok(&["delete", "-f", path.to_str().unwrap()]);
    wait_until("its pods to go", || {
        get(&cluster, &["namespace", "etcd-lifeboat"])
            .is_none()
            .then_some(())
    });
    assert!(get(&cluster, &["backup", "default"]).is_some());
    assert!(
        kept(&cluster)
            .iter()
            .zip(&before)
            .all(|(now, before)| now.len() >= before.len())
    );
}

#[test]
fn what_its_pods_need_beyond_a_restricted_pod_is_this_and_no_more() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let _operator = operated::Operator::start(&cluster, "a", &[]);
    let namespace = ["-n", "etcd-lifeboat"];
    wait_until("the servers", || get(&cluster, &operated::SET).map(|_| ()));
    cluster.apply("{apiVersion: config.openshift.io/v1alpha1, kind: Backup, metadata: {name: own}, spec: {etcd: {schedule: '@yearly'}}}");
    cluster.apply("{apiVersion: operator.openshift.io/v1alpha1, kind: EtcdBackup, metadata: {name: once}, spec: {}}");
    wait_until("its CronJob", || {
        get(&cluster, &["-n", "etcd-lifeboat", "cronjob", "own"]).map(|_| ())
    });
    wait_until("its Job", || {
        get(&cluster, &["-n", "etcd-lifeboat", "job", "once-node-1"]).map(|_| ())
    });
    let warned = |mut object: Value| {
        object["metadata"] = json!({"name": "again", "namespace": "etcd-lifeboat"});
        if object["kind"] == "Job" {
            object["spec"].as_object_mut().unwrap().remove("selector");
            object["spec"]["template"]["metadata"]["labels"] = Value::Null;
        }
        let path = cluster.dir().join("again.json");
        std::fs::write(&path, object.to_string()).unwrap();
        let output = cluster.kubectl(
            &[
                &namespace[..],
                &["create", "--dry-run=server", "-f", path.to_str().unwrap()],
            ]
            .concat(),
        );
        assert!(output.status.success(), "{}", told(&output));
        String::from_utf8(output.stderr).unwrap().trim().to_string()
    };
    // What reads etcd's certificates and the node's files, and writes to its disk.
    let master = |path: &str, name: &str| {
        format!(
            "Warning: {path}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchExpressions[0].key: \
             node-role.kubernetes.io/master is use \"node-role.kubernetes.io/control-plane\" instead\n{name}"
        )
    };
    let container = |name: &str| {
        format!(
            "Warning: would violate PodSecurity \"restricted:latest\": host namespaces (hostNetwork=true), \
             seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"), \
             restricted volume types (volumes \"node-etc-kubernetes\", \"node-var-lib-kubelet\", \"backups\" use restricted volume type \"hostPath\"), \
             runAsNonRoot != true (pod or container \"{name}\" must set securityContext.runAsNonRoot=true), \
             runAsUser=0 (pod must not set runAsUser=0)"
        )
    };
    // OpenShift's nodes have the older role label only, so it is asked for, too.
    assert_eq!(
        warned(get(&cluster, &operated::SET).unwrap()),
        master("spec.template.spec", &container("etcd-backup-server"))
    );
    let job = get(&cluster, &["-n", "etcd-lifeboat", "job", "once-node-1"]).unwrap();
    assert_eq!(warned(job), container("cluster-backup"));
    // What only asks, on the host's network, since a broken one of the pods must not stop it.
    let cron_job = get(&cluster, &["-n", "etcd-lifeboat", "cronjob", "own"]).unwrap();
    assert_eq!(
        warned(cron_job),
        master(
            "spec.jobTemplate.spec.template.spec",
            "Warning: would violate PodSecurity \"restricted:latest\": host namespaces (hostNetwork=true)"
        )
    );
    // The operator itself needs nothing.
    let deployment = manifests(IMAGE, &[])
        .split("---\n")
        .find(|object| object.contains("kind: Deployment\n"))
        .unwrap()
        .to_string();
    let path = cluster.dir().join("deployment.yaml");
    std::fs::write(&path, deployment).unwrap();
    let output = cluster.kubectl(&["create", "--dry-run=server", "-f", path.to_str().unwrap()]);
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && !warned.contains("PodSecurity"),
        "{warned}"
    );
}

#[test]
fn on_openshift_it_brings_constraints_of_its_own() {
    let Some(cluster) = cluster(
        1,
        Some(Flavour {
            upstream_backups: false,
        }),
    ) else {
        return;
    };
    cluster.apply(&manifests(IMAGE, &["--openshift"]));
    let constraints = get(&cluster, &["securitycontextconstraints", "etcd-lifeboat"]).unwrap();
    assert_eq!(constraints["allowPrivilegedContainer"], false);
    assert_eq!(constraints["allowedCapabilities"], Value::Null);
    assert_eq!(
        constraints["users"],
        json!(["system:serviceaccount:openshift-etcd:etcd-lifeboat-agent"])
    );
    wait_until("a first backup", || {
        kept(&cluster)
            .iter()
            .any(|backups| !backups.is_empty())
            .then_some(())
    });
    // A project of the operator's other name belongs to whoever creates it: what is there is not taken for a volume of backups.
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: etcd-lifeboat}}");
    cluster.apply(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: volume-etcd-backup-volume-node-1-0, namespace: etcd-lifeboat, \
         annotations: {lifeboat.etcd.io/node: node-1}}, \
         spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
    );
    let to = tempfile::tempdir().unwrap();
    let refused = lifeboat(&[
        "export",
        "node-1",
        "--from-volume",
        "--kubeconfig",
        cluster.outside_kubeconfig().to_str().unwrap(),
        "--to",
        to.path().to_str().unwrap(),
    ]);
    assert_eq!(
        told(&refused).trim(),
        "error: node node-1 has no volume: leave out --from-volume to read its disk"
    );
}

#[test]
fn its_alerts_are_rules_that_prometheus_takes() {
    if Command::new("promtool").arg("--version").output().is_err() {
        test_support::requirement::skip("no promtool: Debian's package prometheus has it");
        return;
    }
    let text = told(&lifeboat(&["manifests", "--image", IMAGE, "--monitoring"]));
    let rules = text
        .split("---\n")
        .find(|object| object.contains("kind: PrometheusRule\n"))
        .unwrap();
    let (_, spec) = rules.split_once("\nspec:\n").unwrap();
    let spec: String = spec
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)))
        .collect();
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("rules.yaml");
    std::fs::write(&path, spec).unwrap();
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(
        output.status.success() && told(&output).contains("9 rules found"),
        "{}",
        told(&output)
    );
}

#[test]
fn files_of_the_api_server_elsewhere_are_in_backups_once_their_directory_is_named() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let root = cluster.nodes()[0].root.clone();
    std::fs::create_dir_all(root.join("srv/audit")).unwrap();
    std::fs::write(root.join("srv/audit/policy.yaml"), "rules: []").unwrap();
    let manifest = root.join("etc/kubernetes/manifests/kube-apiserver.yaml");
    let flags = std::fs::read_to_string(&manifest).unwrap().replace(
        "    - --client-ca-file",
        "    - --audit-policy-file=/srv/audit/policy.yaml\n    - --client-ca-file",
    );
    std::fs::write(&manifest, flags).unwrap();
    let newest = || {
        let name = kept(&cluster)[0].first()?.clone();
        let backup = root.join("var/lib/etcd-auto-backup").join(&name);
        let record = std::fs::read(backup.join("backup.json")).ok()?;
        let archive = backup.join(format!("static_kuberesources_{name}.tar.gz"));
        let listed = Command::new("tar").arg("-tzf").arg(archive).output().ok()?;
        let record: Value = serde_json::from_slice(&record).ok()?;
        Some((record["archive_missing"].to_string(), told(&listed)))
    };
    cluster.apply(&manifests(IMAGE, &[]));
    let (missing, _) = wait_until("a first backup", newest);
    assert!(
        missing.contains("/srv/audit/policy.yaml: the flag --audit-policy-file"),
        "{missing}"
    );
    cluster.apply(&manifests(IMAGE, &["--node-directory=/srv/audit"]));
    let patch = r#"{"spec":{"etcd":{"schedule":"@every 3s"}}}"#;
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", patch]);
    wait_until("a complete archive", || {
        let (missing, files) = newest()?;
        (missing == "null" && files.contains("srv/audit/policy.yaml")).then_some(())
    });
}

fn helm(args: &[&str]) -> Option<Command> {
    let mut helm = Command::new(binaries::require_tool(binaries::HELM)?);
    helm.args(args);
    Some(helm)
}

const CHART: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/helm/etcd-lifeboat"
);

#[test]
fn helm_renders_what_the_manifests_are() {
    for (sets, flags) in [
        (vec![], vec![]),
        (vec!["openshift=true"], vec!["--openshift"]),
        (vec!["monitoring=true"], vec!["--monitoring"]),
        (
            vec!["openshift=true", "monitoring=true"],
            vec!["--openshift", "--monitoring"],
        ),
        (
            vec!["nodeDirectories={/srv/audit,/etc/x}"],
            vec!["--node-directory=/srv/audit", "--node-directory=/etc/x"],
        ),
    ] {
        let Some(mut helm) = helm(&["template", "etcd-lifeboat", CHART, "--kube-version=1.30.0"])
        else {
            return;
        };
        for set in ["image=registry.example/etcd-lifeboat:1"]
            .iter()
            .chain(&sets)
        {
            helm.args(["--set", set]);
        }
        let rendered = helm.output().unwrap();
        assert!(rendered.status.success(), "{}", told(&rendered));
        let image = ["manifests", "--image", "registry.example/etcd-lifeboat:1"];
        let manifests = lifeboat(&[&image[..], &flags].concat());
        assert_eq!(
            objects(&told(&rendered)),
            objects(&told(&manifests)),
            "{sets:?}"
        );
    }
}

/// The objects of a stream of YAML, whatever their order is.
fn objects(yaml: &str) -> std::collections::BTreeSet<String> {
    yaml.split("---\n")
        .map(|object| serde_saphyr::from_str::<Value>(object).unwrap_or_default())
        .filter(|object| !object.is_null())
        .map(|object| object.to_string())
        .collect()
}

#[test]
fn helm_installs_upgrades_and_uninstalls_it() {
    if helm(&[]).is_none() {
        return;
    }
    let Some(mut cluster) = bare_cluster(1, None) else {
        return;
    };
    let kubeconfig = cluster.kubeconfig().to_path_buf();
    // As elsewhere: what pods that share one machine can't have.
    let changes = cluster.dir().join("changes");
    let script = format!(
        "#!/bin/sh\nexec sed 's|^\\( *\\)- {METRICS}$|{}|'\n",
        SHARED_MACHINE
            .map(|flag| format!("\\1- {flag}"))
            .join("\\n")
    );
    std::fs::write(&changes, script).unwrap();
    std::fs::set_permissions(&changes, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = |args: &[&str]| {
        let output = helm(args)
            .unwrap()
            .env("KUBECONFIG", &kubeconfig)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", told(&output));
        told(&output)
    };
    let image = format!("image={IMAGE}");
    let rendered = [
        "--post-renderer",
        changes.to_str().unwrap(),
        "--set",
        &image,
    ];
    run(&[&["install", "etcd-lifeboat", CHART][..], &rendered].concat());
    wait_until("a first backup", || {
        (!kept(&cluster)[0].is_empty()).then_some(())
    });
    run(&[&["upgrade", "etcd-lifeboat", CHART][..], &rendered].concat());
    assert!(run(&["list"]).contains("deployed"));
    let before = kept(&cluster);
    cluster.may_be_refused = true;
    run(&["uninstall", "etcd-lifeboat"]);
    wait_until("its namespace to go", || {
        get(&cluster, &["namespace", "etcd-lifeboat"])
            .is_none()
            .then_some(())
    });
    assert!(get(&cluster, &["backup", "default"]).is_some());
    assert_eq!(kept(&cluster), before);
}

#[test]
fn applied_in_a_bootstrap_before_any_node_is_ready_it_works_as_soon_as_one_is() {
    let Some(mut cluster) = bare_cluster(1, None) else {
        return;
    };
    let parts = ["kube-controller-manager", "kube-scheduler"];
    for part in parts {
        cluster.fault(Fault::Stop, part).unwrap();
    }
    cluster.fault(Fault::Cut, "kubelet/node-1").unwrap();
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let _ = cluster.kubectl_ok(&[
        "patch",
        "node",
        "node-1",
        "--subresource=status",
        "-p",
        &not_ready.to_string(),
    ]);
    // As a node is until its network works.
    let _ = cluster.kubectl_ok(&[
        "taint",
        "node",
        "node-1",
        "node.kubernetes.io/not-ready:NoSchedule",
        "--overwrite",
    ]);
    cluster.apply(&manifests(IMAGE, &[]));
    cluster.fault(Fault::Heal, "kubelet/node-1").unwrap();
    for part in parts {
        cluster.fault(Fault::Start, part).unwrap();
    }
    wait_until("a first backup", || {
        (!kept(&cluster)[0].is_empty()).then_some(())
    });
}
