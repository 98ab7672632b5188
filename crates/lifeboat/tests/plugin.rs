//! `kubectl lifeboat`, by a real kubectl on a real API server, with pods that really run and real etcd members.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{examples, list, told, wait_until};
use operated::{Operated, Operator, cluster, get, stale};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use test_support::kubernetes::binaries;
use test_support::kubernetes::faults::Fault;

/// kubectl finds a plugin by its name in `PATH`.
fn kubectl_lifeboat(cluster: &Operated, args: &[&str]) -> Output {
    let dir = cluster.dir().join("bin");
    let plugin = dir.join("kubectl-lifeboat");
    if !plugin.exists() {
        std::fs::create_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_etcd-lifeboat"), &plugin).unwrap();
    }
    let kubectl = binaries::require().unwrap().program("kubectl");
    Command::new(kubectl)
        .arg("lifeboat")
        .args(args)
        .env(
            "PATH",
            format!("{}:{}", dir.display(), std::env::var("PATH").unwrap()),
        )
        .env("KUBECONFIG", cluster.outside_kubeconfig())
        .output()
        .unwrap()
}

/// A slow way to the API server, which breaks when much has come by it: so many times.
struct BadWay {
    kubeconfig: PathBuf,
}

impl BadWay {
    fn to(kubeconfig: &Path, dir: &Path, cuts: usize) -> BadWay {
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let server = text.split("https://").nth(1).unwrap();
        let server: String = server
            .chars()
            .take_while(|char| char.is_ascii_digit() || matches!(char, '.' | ':'))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let path = dir.join(format!("bad-way-{cuts}"));
        std::fs::write(&path, text.replace(&server, &own)).unwrap();
        let cuts_left = Arc::new(AtomicUsize::new(cuts));
        // Ends with the test.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&server).unwrap();
                let cuts_left = cuts_left.clone();
                let (mut up, mut down) = (
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                );
                std::thread::spawn(move || std::io::copy(&mut up.0, &mut up.1));
                std::thread::spawn(move || slowly(&mut down.0, &mut down.1, &cuts_left));
            }
        });
        BadWay { kubeconfig: path }
    }
}

fn slowly(from: &mut TcpStream, to: &mut TcpStream, cuts_left: &AtomicUsize) {
    const CUT_AFTER_BYTES: usize = 5 << 20;
    let mut passed = 0;
    let mut chunk = vec![0; 10_000];
    loop {
        let count = from.read(&mut chunk).unwrap_or(0);
        if count == 0 || to.write_all(&chunk[..count]).is_err() {
            break;
        }
        passed += count;
        if passed > CUT_AFTER_BYTES {
            let left = cuts_left.load(Ordering::Relaxed);
            if left > 0 {
                cuts_left.store(left - 1, Ordering::Relaxed);
                break;
            }
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn a_person_sees_what_there_is_asks_for_more_and_is_told_what_is_wrong() {
    let Some(mut cluster) = cluster(3, None) else {
        return;
    };
    // Before there is anything that is told, too.
    let output = kubectl_lifeboat(&cluster, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told(&output).contains("Backup/default does not exist"),
        "{}",
        told(&output)
    );

    let operator = Operator::start(&cluster, "a", &[]);
    wait_until("the default", || {
        get(&cluster, &["backup", "default"]).map(|_| ())
    });
    let patch = r#"{"spec":{"etcd":{"schedule":"@every 3s"}}}"#;
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", patch]);
    wait_until("that all is well", || {
        let (holds, reason, _) = stale(&cluster, "default")?;
        (!holds && reason == "AsExpected").then_some(())
    });
    let status = |cluster: &Operated| -> (Option<i32>, Value) {
        let output = kubectl_lifeboat(cluster, &["status", "--output", "json"]);
        (
            output.status.code(),
            serde_json::from_slice(&output.stdout).unwrap(),
        )
    };
    let (code, overview) = status(&cluster);
    assert_eq!(code, Some(0), "{overview}");
    assert_eq!(overview["ok"], true);
    for (row, place) in overview["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .zip(cluster.nodes())
    {
        assert_eq!(row["node"], place.name);
        assert_eq!(row["state"], "fresh");
        let newest = &row["last_verified"];
        let kept = list(&place.root.join("var/lib/etcd-auto-backup"));
        assert!(
            kept.iter().any(|backup| backup["name"] == newest["name"])
                || newest["revision"].is_i64()
        );
    }
    let table = told(&kubectl_lifeboat(&cluster, &["status"]));
    let words = |line: Option<&str>| {
        line.unwrap_or_default()
            .split_whitespace()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let mut lines = table.lines();
    assert_eq!(
        words(lines.next()),
        [
            "NODE", "STATE", "VERIFIED", "REVISION", "SIZE", "KEPT", "NEXT", "PROBLEM"
        ]
    );
    assert!(
        words(lines.next()).starts_with(&["node-1".into(), "fresh".into()]),
        "{table}"
    );

    // One more on one node, and one on each.
    let on_demand = |node: usize| {
        let kept = list(&cluster.nodes()[node].root.join("var/lib/etcd-auto-backup"));
        kept.iter()
            .filter(|backup| backup["origin"] == "on-demand")
            .count()
    };
    let output = kubectl_lifeboat(
        &cluster,
        &["backup", "--timeout", "30s", "--node", "node-2"],
    );
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("on node-2"), "{}", told(&output));
    assert_eq!((on_demand(0), on_demand(1)), (0, 1));
    let output = kubectl_lifeboat(&cluster, &["backup", "--timeout", "30s"]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(
        told(&output).contains("1 of 3 nodes done"),
        "it shows how far it is: {}",
        told(&output)
    );
    assert_eq!((on_demand(0), on_demand(1)), (1, 2));
    wait_until("the list to have them", || {
        let table = told(&kubectl_lifeboat(&cluster, &["list"]));
        let made = table
            .lines()
            .filter(|line| line.contains("on-demand"))
            .count();
        (made == 4).then_some(())
    });
    let output = kubectl_lifeboat(
        &cluster,
        &["backup", "--timeout", "30s", "--node", "node-7"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told(&output).contains("node-7 is not a control-plane node"),
        "{}",
        told(&output)
    );

    // A member that is down, by one look.
    cluster.fault(Fault::Stop, "etcd/node-1").unwrap();
    wait_until("the stale node", || {
        let (code, overview) = status(&cluster);
        let row = &overview["nodes"][0];
        let problem = row["problem"].as_str()?;
        (code == Some(1) && row["state"] == "stale" && problem.contains("(member)")).then_some(())
    });
    cluster.fault(Fault::Start, "etcd/node-1").unwrap();

    // As its help says.
    let bin = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .parent()
        .unwrap();
    let help = told(&operated::node::lifeboat(&["status", "--help"]));
    wait_until("that all is well again", || {
        (status(&cluster).0 == Some(0)).then_some(())
    });
    for line in examples(&help) {
        let output = Command::new("sh")
            .args(["-c", &line])
            .env(
                "PATH",
                format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
            )
            .env("KUBECONFIG", cluster.outside_kubeconfig())
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", told(&output));
    }

    // Whoever asks where nobody hears is told so.
    drop(operator);
    let output = kubectl_lifeboat(&cluster, &["backup", "--timeout", "25s"]);
    assert_eq!(output.status.code(), Some(1));
    let told = told(&output);
    assert!(
        told.contains("the operator has not processed the EtcdBackup yet"),
        "{told}"
    );
    assert!(told.contains("not complete after 25 s"), "{told}");
    wait_until("that its status is told, too", || {
        let (code, overview) = status(&cluster);
        let problems = overview["problems"].to_string();
        (code == Some(1) && problems.contains("the operator does not work: its lease was last"))
            .then_some(())
    });
}

#[test]
fn what_is_gathered_for_support_has_the_logs_and_no_secret() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let _operator = Operator::start(&cluster, "a", &[]);
    wait_until("a backup", || {
        let report = get(&cluster, &["nodebackups"])?;
        report["items"][0]["status"]["lastVerified"]
            .is_object()
            .then_some(())
    });
    // What somebody has put there by mistake.
    let namespace = cluster.namespace;
    cluster.apply(&format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: etcd-lifeboat-secret, namespace: {namespace}}}
stringData: {{password: hunter2}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: etcd-lifeboat-config, namespace: {namespace}}}
data: {{password: hunter2}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: etcd-lifeboat-other, namespace: {namespace}}}
spec:
  replicas: 0
  selector: {{matchLabels: {{app: x}}}}
  template:
    metadata: {{labels: {{app: x}}}}
    spec:
      containers: [{{name: x, image: x, env: [{{name: PASSWORD, value: hunter2}}]}}]
"
    ));
    let to = cluster.dir().join("gathered");
    let gather = || kubectl_lifeboat(&cluster, &["gather", "--to", to.to_str().unwrap()]);
    let refused = gather();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        told(&refused).contains("create it, or choose another directory with --to"),
        "{}",
        told(&refused)
    );
    std::fs::create_dir(&to).unwrap();
    let output = gather();
    assert!(output.status.success(), "{}", told(&output));
    let place = std::fs::read_dir(&to)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert_eq!(std::fs::metadata(&place).unwrap().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for file in std::fs::read_dir(&place).unwrap().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap();
        let name = file.file_name().into_string().unwrap();
        assert!(!text.contains("hunter2"), "{name}");
        assert!(!text.contains("managedFields"), "{name}");
        names.push(name);
    }
    let has = |name: &str| names.iter().any(|found| found.starts_with(name));
    for name in [
        "version.txt",
        "status.json",
        "backups.yaml",
        "nodebackups.yaml",
        "nodes.yaml",
        "daemonsets-etcd-lifeboat.yaml",
        "deployments-etcd-lifeboat.yaml",
        "pods-etcd-lifeboat.yaml",
        "events-default.yaml",
        "customresourcedefinitions.yaml",
        "log-backup-server-daemon-set-",
    ] {
        assert!(has(name), "{name} is not in {names:?}");
    }
    let log = names.iter().find(|name| name.starts_with("log-")).unwrap();
    let log = std::fs::read_to_string(place.join(log)).unwrap();
    assert!(log.contains("backup made"), "{log}");
    // Where a person may not read, that is said.
    let token = cluster.kubectl_ok(&["-n", "default", "create", "token", "default"]);
    let poor = cluster.kubeconfig_with_token(token.trim());
    let poor_place = cluster.dir().join("poor");
    std::fs::create_dir(&poor_place).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .args([
            "gather",
            "--to",
            poor_place.to_str().unwrap(),
            "--kubeconfig",
        ])
        .arg(poor)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told(&output).contains("pods-etcd-lifeboat: "),
        "{}",
        told(&output)
    );
}

#[test]
fn a_backup_comes_to_the_machine_of_whoever_asks_whole_and_proven_or_not_at_all() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    if binaries::require_tool(binaries::STREAMS).is_none() {
        return;
    }
    let target = cluster.dir().join("exported");
    std::fs::create_dir(&target).unwrap();
    let export = |what: &str| {
        let to = ["--to", target.to_str().unwrap()];
        kubectl_lifeboat(&cluster, &[&["export", what][..], &to].concat())
    };
    let fails = |what: &str, words: &str| {
        let output = export(what);
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(told(&output).contains(words), "{}", told(&output));
    };
    fails("node-1", "no backup server is running on node node-1");
    for wrong in ["node-1/", "node-1/..", "/x", "node-1/x/y"] {
        let output = export(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {}", told(&output));
    }

    let _operator = Operator::start(&cluster, "a", &[]);
    let repository = cluster.nodes()[0].root.join("var/lib/etcd-auto-backup");
    wait_until("the first backup", || {
        (!operated::node::names(&repository, "backup").is_empty()).then_some(())
    });
    let name = operated::node::names(&repository, "backup").remove(0);
    fails("node-1/2001-01-01_000000", &name);
    fails("node-2", "no backup server is running on node node-2");

    // The newest, and by its name; what was there stays.
    let output = export("node-1");
    assert!(output.status.success(), "{}", told(&output));
    let place = target.join(&name);
    assert!(told(&output).contains("proven here"), "{}", told(&output));
    let verified = operated::node::lifeboat(&["verify", place.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", told(&verified));
    for entry in std::fs::read_dir(repository.join(&name)).unwrap() {
        let sent = entry.unwrap().path();
        let came = place.join(sent.file_name().unwrap());
        assert_eq!(std::fs::read(&sent).unwrap(), std::fs::read(&came).unwrap());
        assert_eq!(came.metadata().unwrap().mode() & 0o777, 0o600);
    }
    assert_eq!(place.metadata().unwrap().mode() & 0o777, 0o700);
    let count = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
    assert_eq!(count(&place), count(&repository.join(&name)));
    fails(&format!("node-1/{name}"), "already exists");
    fails("node-1", "already exists");
    assert_eq!(count(&target), 1);

    std::fs::remove_dir_all(&place).unwrap();
    let output = export(&format!("node-1/{name}"));
    assert!(output.status.success(), "{}", told(&output));

    // With the rights that the documentation names, and without them.
    let may = |verbs: &str| {
        cluster.apply(&format!(
            "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: person, namespace: etcd-lifeboat}}}}
---
{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: person}}, rules: [
  {{apiGroups: [''], resources: [pods], verbs: [list]}}, {{apiGroups: [apps], resources: [daemonsets], verbs: [list]}},
  {{apiGroups: [lifeboat.etcd.io], resources: [nodebackups], verbs: [get]}},
  {{apiGroups: [''], resources: [pods/exec], verbs: [{verbs}]}}]}}
---
{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{name: person}},
  roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: person}},
  subjects: [{{kind: ServiceAccount, name: person, namespace: etcd-lifeboat}}]}}
"
        ));
    };
    may("get, create");
    let person = cluster.account_kubeconfig("etcd-lifeboat", "person");
    let third = cluster.dir().join("third");
    std::fs::create_dir(&third).unwrap();
    let as_person = || {
        let (config, to) = (person.to_str().unwrap(), third.to_str().unwrap());
        operated::node::lifeboat(&["export", "node-1", "--kubeconfig", config, "--to", to])
    };
    wait_until("the rights to be known", || {
        as_person().status.success().then_some(())
    });
    std::fs::remove_dir_all(third.join(&name)).unwrap();
    may("create");
    let refused = wait_until("the rights to be gone", || {
        let output = as_person();
        let _ = std::fs::remove_dir_all(third.join(&name));
        (!output.status.success()).then(|| told(&output))
    });
    assert!(
        refused.contains("cannot get resource \"pods/exec\""),
        "{refused}"
    );

    // Whoever interrupts it, when ever that is, has nothing half of it.
    let client = cluster.member("node-1").client();
    for number in 0..24u8 {
        let _ = client.put(&[b'x', number], &vec![number; 1_400_000]);
    }
    let output = kubectl_lifeboat(&cluster, &["backup", "--timeout", "60s"]);
    assert!(output.status.success(), "{}", told(&output));
    let large = operated::node::names(&repository, "backup").remove(0);
    wait_until("the node to list it", || {
        told(&kubectl_lifeboat(&cluster, &["list"]))
            .contains(&large)
            .then_some(())
    });
    let interrupted = cluster.dir().join("interrupted");
    std::fs::create_dir(&interrupted).unwrap();
    let what = format!("node-1/{large}");
    let start = || {
        operated::node::command(&["export", &what, "--to", interrupted.to_str().unwrap()])
            .env("KUBECONFIG", cluster.outside_kubeconfig())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let started = Instant::now();
    let whole = start().wait_with_output().unwrap();
    assert!(whole.status.success(), "{}", told(&whole));
    let takes = started.elapsed();
    std::fs::remove_dir_all(interrupted.join(&large)).unwrap();
    let mut heard = 0;
    for part in 1..10 {
        let export = start();
        std::thread::sleep(takes * part / 10);
        operated::node::signal("-INT", &export.id().to_string());
        let output = export.wait_with_output().unwrap();
        if output.status.success() {
            std::fs::remove_dir_all(interrupted.join(&large)).unwrap();
        } else if output.status.code() == Some(1) {
            let told = told(&output);
            assert!(
                told.contains("interrupted; the incomplete copy was removed"),
                "{told}"
            );
            heard += 1;
        }
        assert_eq!(count(&interrupted), 0, "after {part} tenths");
    }
    assert!(heard > 2, "{heard} of 9 were heard in time");

    // By a connection that is slow, one that breaks once, and one that always breaks.
    for (cuts, whole) in [(0, true), (1, true), (2, false)] {
        let way = BadWay::to(&cluster.outside_kubeconfig(), cluster.dir(), cuts);
        let args = ["export", &what, "--to", interrupted.to_str().unwrap()];
        let config = ["--kubeconfig", way.kubeconfig.to_str().unwrap()];
        let output = operated::node::lifeboat(&[&args[..], &config].concat());
        let said = told(&output);
        assert_eq!(output.status.success(), whole, "{cuts}: {said}");
        assert_eq!(said.contains("trying again"), cuts > 0, "{cuts}: {said}");
        // Never as a backup that is another one.
        assert!(!said.contains("SHA-256"), "{cuts}: {said}");
        if whole {
            std::fs::remove_dir_all(interrupted.join(&large)).unwrap();
        } else {
            let told_why = said.contains("ended after") || said.contains("was lost");
            assert!(told_why, "{said}");
        }
        assert_eq!(count(&interrupted), 0, "{cuts}");
    }

    // A pod of somebody else that only looks like a backup server, first in any list, is not asked.
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: aaa}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: evil, namespace: aaa, labels: {{app: etcd-auto-backup}}}}
spec:
  nodeName: node-1
  containers: [{{name: etcd-backup-server, image: {}, args: [backup-server, --enabled=false, '--listen=127.0.0.1:0']}}]
",
        operated::IMAGE
    ));
    wait_until("the evil pod", || {
        let pod = get(&cluster, &["-n", "aaa", "pod", "evil"])?;
        (pod["status"]["phase"] == "Running").then_some(())
    });
    let output = export(&format!("node-1/{large}"));
    assert!(output.status.success(), "{}", told(&output));
    std::fs::remove_dir_all(target.join(&large)).unwrap();

    // What is held stays held until it is released, by the same way.
    let held = || {
        list(&repository)
            .iter()
            .any(|backup| backup["held"] == true)
    };
    for (args, holds) in [(&["hold"][..], true), (&["hold", "--release"], false)] {
        let output = kubectl_lifeboat(&cluster, &[args, &[&what]].concat());
        assert!(output.status.success(), "{}", told(&output));
        assert!(told(&output).contains(&what), "{}", told(&output));
        assert_eq!(held(), holds);
    }
    let output = kubectl_lifeboat(&cluster, &["hold", "node-1/2001-01-01_000000"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("has no backup"), "{}", told(&output));

    // As its help says.
    let help = told(&operated::node::lifeboat(&["export", "--help"]));
    for (number, example) in examples(&help).iter().enumerate() {
        // Nodes with volumes have a test of their own.
        if example.contains("--from-volume") {
            continue;
        }
        let to = format!("example-{number}");
        let to = cluster.dir().join(to);
        std::fs::create_dir(&to).unwrap();
        let example = example
            .replace("2026-11-22_031500", &name)
            .replace("2025-01-01_000000", &name)
            .replace(" --to /secure/place", "");
        let mut args: Vec<_> = example.split_whitespace().skip(2).collect();
        args.extend(["--to", to.to_str().unwrap()]);
        let output = kubectl_lifeboat(&cluster, &args);
        assert!(output.status.success(), "{example}: {}", told(&output));
    }

    // What arrives must be what the node has written of it.
    let listed = get(&cluster, &["nodebackup", "node-1"]).unwrap();
    let listed = listed["status"]["backups"].as_array().unwrap().clone();
    let place_in_list = listed
        .iter()
        .position(|entry| entry["name"] == large.as_str());
    let other = format!(
        r#"[{{"op":"replace","path":"/status/backups/{}/sha256","value":"{}"}}]"#,
        place_in_list.unwrap(),
        "0".repeat(64)
    );
    let patch = ["patch", "nodebackup", "node-1", "--subresource=status"];
    let _ = cluster.kubectl_ok(&[&patch[..], &["--type=json", "-p", &other]].concat());
    fails(&what, "is not the one that NodeBackup/node-1 lists");
    assert_eq!(count(&target), 1);
    let to = ["--to", target.to_str().unwrap(), "--unlisted"];
    let output = kubectl_lifeboat(&cluster, &[&["export", &what][..], &to].concat());
    assert!(output.status.success(), "{}", told(&output));
    std::fs::remove_dir_all(target.join(&large)).unwrap();

    // One that has been damaged on its disk.
    std::fs::remove_dir_all(&place).unwrap();
    let snapshot = repository.join(&name).join(format!("snapshot_{name}.db"));
    let mut bytes = std::fs::read(&snapshot).unwrap();
    bytes[20_000] ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    fails(&format!("node-1/{name}"), "SHA-256 is");
    assert_eq!(count(&target), 0);
}
