//! What a tenant, a stolen token, an object that nobody can read or an API server that is away does to backups: little, and not
//! without a word.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{told, wait_until};
use operated::{IMAGE, Operated, Operator, SET, cluster, condition, get, kept, stale};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;
use std::time::Duration;
use test_support::kubernetes::faults::Fault;
use test_support::node_trees::Kind;

/// What somebody makes of a pod.
type Change<'c> = dyn Fn(&mut Value) + 'c;

fn schedule(cluster: &Operated, schedule: &str) {
    let patch = format!(r#"{{"spec":{{"etcd":{{"schedule":"{schedule}"}}}}}}"#);
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", &patch]);
}

fn all_well(cluster: &Operated) {
    wait_until("that all is well", || {
        let (holds, reason, _) = stale(cluster, "default")?;
        (!holds && reason == "AsExpected").then_some(())
    });
}

/// What the API server says to an object from somebody.
fn create(cluster: &Operated, kubeconfig: &Path, object: &Value, how: &[&str]) -> Output {
    let path = cluster.dir().join("object.json");
    std::fs::write(&path, object.to_string()).unwrap();
    let who = ["--kubeconfig", kubeconfig.to_str().unwrap()];
    cluster.kubectl(&[how, &who, &["-f", path.to_str().unwrap()]].concat())
}

#[test]
fn a_node_that_nobody_can_parse_does_not_blind_the_operator_and_it_waits_for_its_api_server() {
    let Some(mut cluster) = cluster(2, None) else {
        return;
    };
    // As a kubelet may write it: the last year that Kubernetes takes.
    let patch = r#"[{"op":"replace","path":"/metadata/managedFields/0/time","value":"9999-12-31T23:59:59Z"}]"#;
    let _ = cluster.kubectl_ok(&["patch", "node", "node-2", "--type=json", "-p", patch]);
    // No API server: it waits in the process.
    cluster.fault(Fault::Cut, "outside").unwrap();
    let mut operator = Operator::start(&cluster, "a", &[]);
    operator.wait_for("metrics on http://");
    std::thread::sleep(Duration::from_secs(35));
    assert!(operator.child.try_wait().unwrap().is_none(), "it has ended");
    assert!(
        operator.log().contains("trying again until it succeeds"),
        "{}",
        operator.log()
    );
    cluster.fault(Fault::Heal, "outside").unwrap();
    all_well(&cluster);
    wait_until("its readiness", || {
        (operator.get("/readyz").0 == 200).then_some(())
    });
    let (_, metrics) = operator.get("/metrics");
    for series in [
        "operator_node_fresh{node=\"node-2\"} 1",
        "operator_last_evaluation_timestamp_seconds 1",
        "operator_unreadable_objects 0",
    ] {
        assert!(metrics.contains(series), "{series}: {metrics}");
    }
    // When it judged is there to be seen.
    let judged = get(&cluster, &["backup", "default"]).unwrap();
    assert!(judged["status"]["lastEvaluated"].is_string(), "{judged}");
}

#[test]
fn a_newest_backup_or_a_node_backup_that_is_removed_makes_no_older_one_new() {
    let Some(mut cluster) = cluster(3, None) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &[]);
    wait_until("the default", || get(&cluster, &["backup", "default"]));
    schedule(&cluster, "@every 3s");
    wait_until("three backups", || {
        (kept(&cluster)[0].len() == 3).then_some(())
    });
    all_well(&cluster);
    cluster.fault(Fault::Stop, "etcd/node-1").unwrap();
    let is_stale = |cluster: &Operated| stale(cluster, "default").is_some_and(|(holds, ..)| holds);
    wait_until("that it is stale", || is_stale(&cluster).then_some(()));
    let repository = cluster.nodes()[0].root.join("var/lib/etcd-auto-backup");
    let newest = |cluster: &Operated| {
        let told = get(cluster, &["nodebackup", "node-1"])?;
        Some(told["status"]["lastVerified"]["name"].to_string())
    };
    for _ in 0..2 {
        let before = newest(&cluster);
        let name = kept(&cluster)[0][0].clone();
        std::fs::remove_dir_all(repository.join(name)).unwrap();
        wait_until("that another one is the newest", || {
            (newest(&cluster) != before).then_some(())
        });
        std::thread::sleep(Duration::from_secs(2));
        assert!(is_stale(&cluster));
    }
    let _ = cluster.kubectl_ok(&["delete", "nodebackup", "node-1"]);
    wait_until("that the node has written it again", || {
        newest(&cluster).filter(|name| name != "null")
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(is_stale(&cluster));
    // A backup that is made counts.
    cluster.fault(Fault::Start, "etcd/node-1").unwrap();
    all_well(&cluster);
}

#[test]
fn whoever_may_ask_for_a_backup_decides_nothing_about_those_of_others() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &[]);
    wait_until("the first backup", || {
        (!kept(&cluster)[0].is_empty()).then_some(())
    });
    cluster.apply(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: tenant, namespace: default}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: tenant}, rules: [
  {apiGroups: [operator.openshift.io], resources: [etcdbackups], verbs: [create, get, update, patch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: tenant},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tenant},
  subjects: [{kind: ServiceAccount, name: tenant, namespace: default}]}
",
    );
    let tenant = cluster.account_kubeconfig("default", "tenant");
    let request = |name: &str, annotations: Value| {
        json!({
            "apiVersion": "operator.openshift.io/v1alpha1",
            "kind": "EtcdBackup",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {},
        })
    };
    let named = |backup: &str| json!({"lifeboat.etcd.io/backup": backup});
    let long = "a".repeat(120_000);
    let forged = "x\u{1b}[2J\nNAME";
    for backup in ["default", "other", long.as_str(), forged] {
        let output = create(
            &cluster,
            &tenant,
            &request("bad", named(backup)),
            &["create"],
        );
        assert!(!output.status.success(), "{backup:.20}");
        let said = told(&output);
        assert!(
            said.contains("only the CronJob of a Backup can set the annotation"),
            "{said:.300}"
        );
    }
    let end = |name: &str| {
        let of = ["etcdbackup", name];
        ["BackupFailed", "BackupCompleted"]
            .into_iter()
            .find_map(|type_| {
                let (holds, _, message) = condition(&cluster, &of, type_)?;
                holds.then_some((type_, message))
            })
    };
    // One request without it is taken, and can't be given it later.
    let output = create(&cluster, &tenant, &request("good", json!({})), &["create"]);
    assert!(output.status.success(), "{}", told(&output));
    // One is made at a time: those that come meanwhile would be skipped.
    assert_eq!(wait_until("its end", || end("good")).0, "BackupCompleted");
    let output = create(
        &cluster,
        &tenant,
        &request("good", named("default")),
        &["replace"],
    );
    assert!(!output.status.success(), "{}", told(&output));
    let patch = json!({"metadata": {"annotations": named("default")}}).to_string();
    let who = ["--kubeconfig", tenant.to_str().unwrap()];
    let args = ["patch", "etcdbackup", "good", "--type=merge", "-p", &patch];
    assert!(
        !cluster
            .kubectl(&[&who[..], &args].concat())
            .status
            .success()
    );

    // Also where no policy is installed: what it says is not believed.
    let binding = "etcd-lifeboat-asked-by-a-backup";
    let _ = cluster.kubectl_ok(&["delete", "validatingadmissionpolicybinding", binding]);
    for (number, (backup, why)) in [
        (
            "default",
            "a Backup with this name does not create EtcdBackups",
        ),
        ("other", "this Backup does not exist"),
        (long.as_str(), "not a valid name of a Backup"),
        (forged, "not a valid name of a Backup"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("late-{number}");
        let object = request(&name, named(backup));
        wait_until("that the policy is gone", || {
            let output = create(&cluster, &tenant, &object, &["create"]);
            output.status.success().then_some(())
        });
        let (outcome, message) = wait_until("its end", || end(&name));
        assert_eq!(outcome, "BackupFailed");
        assert!(message.contains(why), "{message:.300}");
        assert!(message.len() < 1000 && !message.contains('\u{1b}'));
    }
    // Names that would go into the path of a request, and a Job's name that somebody else has: each fails alone, and the
    // next one has its turn.
    let with_claim = |name: &str, claim: &str| {
        let mut request = request(name, json!({}));
        request["spec"]["pvcName"] = claim.into();
        request
    };
    for (name, claim) in [
        ("claim-0", "a b"),
        ("claim-1", "../../../../readyz"),
        ("claim-2", "claim?watch=true"),
        ("claim-3", long.as_str()),
    ] {
        let output = create(&cluster, &tenant, &with_claim(name, claim), &["create"]);
        assert!(output.status.success(), "{}", told(&output));
        let (outcome, message) = wait_until("its end", || end(name));
        assert_eq!(outcome, "BackupFailed");
        assert!(
            message.contains("is not a valid name of a PersistentVolumeClaim"),
            "{message:.300}"
        );
    }
    let output = create(&cluster, &tenant, &request("a", json!({})), &["create"]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(wait_until("its end", || end("a")).0, "BackupCompleted");
    cluster.apply(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim, namespace: etcd-lifeboat}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
",
    );
    let output = create(
        &cluster,
        &tenant,
        &with_claim("a-node-1", "claim"),
        &["create"],
    );
    assert!(output.status.success(), "{}", told(&output));
    let (outcome, message) = wait_until("its end", || end("a-node-1"));
    assert_eq!(outcome, "BackupFailed");
    assert!(
        message.contains("belongs to another EtcdBackup"),
        "{message}"
    );
    // What was there is there, and the node goes on telling.
    let origins: Vec<_> =
        operated::node::list(&cluster.nodes()[0].root.join("var/lib/etcd-auto-backup"))
            .iter()
            .map(|backup| backup["origin"].to_string())
            .collect();
    assert!(origins.contains(&"\"default\"".into()), "{origins:?}");
    all_well(&cluster);
}

#[test]
fn the_operators_token_makes_no_pods_but_those_that_the_operator_makes() {
    let Some(mut cluster) = cluster(1, None) else {
        return;
    };
    // What is tried is refused, and more than what the operator asks for.
    cluster.may_be_refused = true;
    let operator = Operator::start(&cluster, "a", &[]);
    let set = wait_until("its DaemonSet", || get(&cluster, &SET));
    drop(operator);
    let token = cluster.kubeconfig.clone();
    let copy = |change: &dyn Fn(&mut Value)| {
        let mut copy = json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "copy", "namespace": "etcd-lifeboat"},
            "spec": {"selector": set["spec"]["selector"], "template": set["spec"]["template"]},
        });
        change(&mut copy["spec"]["template"]["spec"]);
        create(&cluster, &token, &copy, &["create", "--dry-run=server"])
    };
    let output = copy(&|_| {});
    assert!(output.status.success(), "{}", told(&output));
    let other_version = format!("{IMAGE}:9.9.9");
    let output = copy(&|pod| pod["containers"][0]["image"] = other_version.as_str().into());
    assert!(output.status.success(), "{}", told(&output));
    let volume = |pod: &mut Value, volume: Value| {
        pod["volumes"].as_array_mut().unwrap().push(volume);
    };
    let refused: [(&str, &Change<'_>); 20] = [
        ("image", &|pod| {
            pod["containers"][0]["image"] = "evil".into()
        }),
        ("image", &|pod| {
            pod["containers"][0]["image"] = format!("{IMAGE}-evil:1").into()
        }),
        ("must run backup-server", &|pod| {
            pod["containers"][0]["command"] = json!(["/bin/sh"])
        }),
        ("must run backup-server", &|pod| {
            pod["containers"][0]["args"] = json!(["export", "x"])
        }),
        ("hostPID", &|pod| pod["hostPID"] = true.into()),
        ("hostIPC", &|pod| pod["hostIPC"] = true.into()),
        ("one container", &|pod| {
            pod["initContainers"] = pod["containers"].clone();
            pod["initContainers"][0]["name"] = "first".into();
        }),
        ("one container", &|pod| {
            let mut second = pod["containers"][0].clone();
            second["name"] = "second".into();
            pod["containers"].as_array_mut().unwrap().push(second);
        }),
        ("capability", &|pod| {
            let security = &mut pod["containers"][0]["securityContext"];
            security["capabilities"]["add"] = json!(["SYS_ADMIN"]);
        }),
        ("capability", &|pod| {
            let security = &mut pod["containers"][0]["securityContext"];
            security["privileged"] = true.into();
            security["allowPrivilegeEscalation"] = true.into();
        }),
        ("capability", &|pod| {
            pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = false.into();
        }),
        ("directories", &|pod| {
            volume(pod, json!({"name": "root", "hostPath": {"path": "/"}}));
        }),
        ("directories", &|pod| {
            volume(pod, json!({"name": "s", "secret": {"secretName": "x"}}));
        }),
        ("must mount all volumes read-only", &|pod| {
            let mounts = pod["containers"][0]["volumeMounts"].as_array_mut().unwrap();
            for mount in mounts {
                mount["readOnly"] = false.into();
            }
        }),
        ("must mount all volumes read-only", &|pod| {
            for volume in pod["volumes"].as_array_mut().unwrap() {
                if volume["name"] == "backups" {
                    volume["hostPath"] = json!({"path": "/etc/kubernetes"});
                }
            }
        }),
        ("variables", &|pod| {
            let variable = json!({"name": "KUBECONFIG", "value": "/etc/kubernetes/pki/ca.key"});
            pod["containers"][0]["env"]
                .as_array_mut()
                .unwrap()
                .push(variable);
        }),
        ("must not have flags", &|pod| {
            let args = pod["containers"][0]["args"].as_array_mut().unwrap();
            args.push("--endpoints=https://evil.example".into());
        }),
        ("must not have volumes", &|pod| {
            pod["containers"][0]["args"] = json!(["request-backup"]);
        }),
        ("seccomp", &|pod| {
            pod["securityContext"]["seccompProfile"] = json!({"type": "Unconfined"});
        }),
        ("account", &|pod| {
            pod["serviceAccountName"] = "etcd-lifeboat-operator".into();
        }),
    ];
    for (number, (words, change)) in refused.iter().enumerate() {
        let output = copy(*change);
        assert!(!output.status.success(), "{number}");
        assert!(told(&output).contains(words), "{number}: {}", told(&output));
    }
    // What a StatefulSet may write is the volume that it has for each pod, and not a directory of the node with the same name.
    let stateful = |change: &Change<'_>| {
        let mut template = set["spec"]["template"].clone();
        let mount = json!({"name": "volume", "mountPath": "/volume"});
        template["spec"]["containers"][0]["volumeMounts"]
            .as_array_mut()
            .unwrap()
            .push(mount);
        change(&mut template["spec"]);
        let stateful = json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "copy", "namespace": "etcd-lifeboat"},
            "spec": {
                "serviceName": "copy",
                "selector": set["spec"]["selector"],
                "template": template,
                "volumeClaimTemplates": [{
                    "metadata": {"name": "volume"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
                }],
            },
        });
        create(&cluster, &token, &stateful, &["create", "--dry-run=server"])
    };
    let output = stateful(&|_| {});
    assert!(output.status.success(), "{}", told(&output));
    let output = stateful(&|pod| {
        let path = json!({"name": "volume", "hostPath": {"path": "/etc/kubernetes"}});
        volume(pod, path);
    });
    assert!(
        told(&output).contains("must mount all volumes read-only"),
        "{}",
        told(&output)
    );
}

#[test]
fn a_node_of_another_layout_is_found_from_its_pod_by_its_label() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &[]);
    wait_until("the first backup", || {
        (!kept(&cluster)[0].is_empty()).then_some(())
    });
    let root = cluster.nodes()[0].root.clone();
    let newest_platform = || {
        let name = kept(&cluster)[0].first()?.clone();
        let record = root
            .join("var/lib/etcd-auto-backup")
            .join(name)
            .join("backup.json");
        let record: Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
        Some((
            record["platform"].as_str()?.to_string(),
            record["archive_missing"].clone(),
        ))
    };
    schedule(&cluster, "@every 5s");
    // Half a kubeadm node: that is not a node without etcd. (A pod that sees too little of its node finds the same.)
    let manifest = root.join("etc/kubernetes/manifests/etcd.yaml");
    let certificates = root.join("etc/kubernetes/pki/etcd");
    std::fs::rename(&certificates, root.join("aside")).unwrap();
    let node = || get(&cluster, &["nodebackup", "node-1"]);
    wait_until("that its run fails", || {
        let node = node()?;
        let attempt = &node["status"]["lastAttempt"];
        (attempt["reason"] == "node" && node["status"]["member"] != "None").then_some(())
    });
    wait_until("that the node is stale", || {
        stale(&cluster, "default").filter(|(holds, ..)| *holds)
    });
    std::fs::rename(root.join("aside"), &certificates).unwrap();
    all_well(&cluster);

    for (kind, layout, platform) in [
        (Kind::Kubespray, "kubespray", "kubespray"),
        (Kind::K3s, "rancher", "k3s"),
    ] {
        let _ = std::fs::remove_file(&manifest);
        let _ = std::fs::remove_file(root.join("etc/etcd.env"));
        let server = cluster.member("node-1");
        kind.lay_out(&root, &server.endpoint, server.pki.as_ref().unwrap());
        let label = format!("lifeboat.etcd.io/node-layout={layout}");
        let _ = cluster.kubectl_ok(&["label", "node", "node-1", "--overwrite", &label]);
        let lacks = wait_until(platform, || {
            newest_platform()
                .filter(|(found, _)| found == platform)
                .map(|(_, lacks)| lacks)
        });
        // All that belongs into the archive is seen from the pod as well.
        assert_eq!(lacks, Value::Null, "{platform}");
        let name = format!("backup-server-daemon-set-{layout}");
        let set = get(&cluster, &["-n", "etcd-lifeboat", "daemonset", &name]).unwrap();
        assert_eq!(set["status"]["desiredNumberScheduled"], 1);
        let main = get(&cluster, &SET).unwrap();
        assert_eq!(main["status"]["desiredNumberScheduled"], 0);
    }
    // A layout that no node has any more has no DaemonSet.
    wait_until("that the first is gone", || {
        let name = "backup-server-daemon-set-kubespray";
        get(&cluster, &["-n", "etcd-lifeboat", "daemonset", name])
            .is_none()
            .then_some(())
    });
    all_well(&cluster);
}
