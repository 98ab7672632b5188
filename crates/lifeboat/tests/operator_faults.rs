//! The operator while everything around it fails, and it itself: on a real API server, with pods that really run
//! and real etcd members on the nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{names, wait_until};
use operated::{Operated, Operator, SET, cluster, degraded, get, kept, stale};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use test_support::kubernetes::conflict::{ConflictingWriter, Object};
use test_support::kubernetes::faults::Fault;

fn backup(cluster: &Operated, name: &str, etcd: &str) {
    cluster.apply(&format!(
        "apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec: {{etcd: {etcd}}}\n"
    ));
}

fn request(cluster: &Operated, name: &str) {
    cluster.apply(&format!(
        "apiVersion: operator.openshift.io/v1alpha1\nkind: EtcdBackup\nmetadata: {{name: {name}}}\nspec: {{}}\n"
    ));
}

fn completed(cluster: &Operated, name: &str) -> Option<()> {
    let (holds, ..) = operated::condition(cluster, &["etcdbackup", name], "BackupCompleted")?;
    holds.then_some(())
}

fn count(cluster: &Operated, kind: &str) -> usize {
    let list = get(cluster, &["-n", cluster.namespace, kind]).unwrap();
    list["items"].as_array().unwrap().len()
}

fn every_3_s(cluster: &Operated) {
    wait_until("the default", || {
        get(cluster, &["backup", "default"]).map(|_| ())
    });
    let patch = r#"{"spec":{"etcd":{"schedule":"@every 3s"}}}"#;
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", patch]);
    wait_until("that all is well", || {
        let (holds, reason, _) = stale(cluster, "default")?;
        (!holds && reason == "AsExpected").then_some(())
    });
}

#[test]
fn killed_before_each_of_its_writes_it_ends_where_it_would_have_ended() {
    let Some(cluster) = cluster(2, None) else {
        return;
    };
    let mut kills = 0;
    let mut asked = false;
    let start = Instant::now();
    loop {
        assert!(
            start.elapsed() < Duration::from_secs(200),
            "it never settles"
        );
        // Each goes one write further than the one before.
        let at = (kills + 1).to_string();
        let kill = |command: &mut std::process::Command| {
            command.env("LIFEBOAT_TEST_KILLED_AT_WRITE", &at);
        };
        let mut operator = Operator::start_as(kill, &cluster, "a", &[]);
        let started = Instant::now();
        let survived = loop {
            if let Some(status) = operator.child.try_wait().unwrap() {
                assert_eq!(status.code(), None, "{}", operator.log());
                break false;
            }
            if !asked && get(&cluster, &["backups,etcdbackups"]).is_some() {
                backup(&cluster, "own", "{schedule: '@yearly'}");
                request(&cluster, "once");
                asked = true;
            }
            if started.elapsed() > Duration::from_secs(8) && completed(&cluster, "once").is_some() {
                break true;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if survived {
            break;
        }
        kills += 1;
    }
    println!("{kills} kills");
    assert!(kills > 6, "{kills}");
    // Nothing is double, nothing is missing.
    assert_eq!(count(&cluster, "daemonsets"), 1);
    assert_eq!(count(&cluster, "cronjobs"), 1);
    let jobs = get(&cluster, &["-n", cluster.namespace, "jobs"]).unwrap();
    let mut jobs: Vec<_> = jobs["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["metadata"]["name"].as_str().unwrap().to_string())
        .collect();
    jobs.sort();
    assert_eq!(jobs, ["once-node-1", "once-node-2"]);
    for name in ["default", "own"] {
        assert!(!degraded(&cluster, name).unwrap().0, "{name}");
    }
    let memory = [
        "-n",
        cluster.namespace,
        "configmap",
        "etcd-lifeboat-default-backup",
    ];
    assert_eq!(get(&cluster, &memory).unwrap()["data"]["optedOut"], "false");
}

/// With no API server for so long, each node goes on; when it is back, that is known soon.
fn goes_on_without_api_server(away: Duration) {
    let Some(mut cluster) = cluster(3, None) else {
        return;
    };
    let mut operator = Operator::start(&cluster, "a", &[]);
    every_3_s(&cluster);
    cluster.may_be_refused = true;
    cluster.fault(Fault::Stop, "kube-apiserver").unwrap();
    let stopped = Instant::now();
    let mut before = kept(&cluster);
    while stopped.elapsed() < away {
        std::thread::sleep(Duration::from_secs(9));
        let now = kept(&cluster);
        for (before, now) in before.iter().zip(&now) {
            assert!(before.first() < now.first(), "{before:?} {now:?}");
        }
        before = now;
    }
    // It must not write when it is back, and somebody else starts another one.
    let ended = wait_until("its end", || operator.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    drop(operator);
    cluster.fault(Fault::Start, "kube-apiserver").unwrap();
    wait_until("the API server", || get(&cluster, &["nodes"]).map(|_| ()));
    let since = Instant::now();
    let operator = Operator::start(&cluster, "a", &[]);
    for place in cluster.nodes() {
        wait_until("that what was made meanwhile is known", || {
            let told = get(&cluster, &["nodebackup", &place.name])?;
            let newest = told["status"]["lastVerified"]["name"].as_str()?.to_string();
            // One that was made after the fault.
            let all = names(&place.root.join("var/lib/etcd-auto-backup"), "backup");
            all.contains(&newest).then_some(())
        });
    }
    println!("known after {:?}", since.elapsed());
    // Nobody is woken for what was well all the time.
    std::thread::sleep(Duration::from_secs(5));
    assert!(
        !operator.log().contains("BackupsStale"),
        "{}",
        operator.log()
    );
    assert!(!stale(&cluster, "default").unwrap().0);
}

#[test]
fn without_an_api_server_backups_go_on_and_are_known_when_it_is_back() {
    goes_on_without_api_server(Duration::from_secs(27));
}

#[test]
#[ignore = "takes six minutes"]
fn without_an_api_server_for_five_minutes_backups_go_on() {
    goes_on_without_api_server(Duration::from_secs(300));
}

#[test]
fn watches_that_expire_and_others_who_write_all_the_time_change_nothing() {
    let Some(mut cluster) = cluster(1, None) else {
        return;
    };
    let operator = Operator::start(&cluster, "a", &[]);
    every_3_s(&cluster);
    backup(&cluster, "own", "{schedule: '@yearly'}");
    wait_until("its CronJob", || {
        get(&cluster, &["-n", cluster.namespace, "cronjob", "own"]).map(|_| ())
    });
    request(&cluster, "first");
    wait_until("the first", || completed(&cluster, "first"));

    // Somebody else writes fifty times a second to each object there is: what is theirs stays theirs.
    let of_group = |api_version, kind, namespace, name| Object {
        api_version,
        kind,
        namespace,
        name,
    };
    let namespace = Some("etcd-lifeboat");
    let (config, ours) = ("config.openshift.io/v1alpha1", "lifeboat.etcd.io/v1alpha1");
    let objects = [
        of_group(config, "Backup", None, "default"),
        of_group(config, "Backup", None, "own"),
        of_group(
            "operator.openshift.io/v1alpha1",
            "EtcdBackup",
            None,
            "second",
        ),
        of_group(ours, "NodeBackup", None, "node-1"),
        of_group(
            "apps/v1",
            "DaemonSet",
            namespace,
            "backup-server-daemon-set",
        ),
        of_group("batch/v1", "CronJob", namespace, "own"),
        of_group("batch/v1", "Job", namespace, "second-node-1"),
        of_group("v1", "ConfigMap", namespace, "etcd-lifeboat-default-backup"),
    ];
    let annotate = json!({"metadata": {"annotations": {"somebody-else": "$N"}}});
    let client = cluster.client();
    let writers: Vec<_> = cluster.block_on(async {
        objects
            .iter()
            .map(|object| ConflictingWriter::start(client.clone(), object, &annotate))
            .collect()
    });
    request(&cluster, "second");
    wait_until("the second", || completed(&cluster, "second"));
    let two =
        r#"{"spec":{"etcd":{"retentionPolicy":{"retentionNumber":{"maxNumberOfBackups":2}}}}}"#;
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", two]);
    let args = |set: &Value| set["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    wait_until("the servers to follow", || {
        args(&get(&cluster, &SET)?)
            .contains("--max-number-of-backups=2")
            .then_some(())
    });
    std::thread::sleep(Duration::from_secs(5));
    for (writer, object) in writers.iter().zip(&objects) {
        assert!(writer.writes() > 20, "{object:?}: {}", writer.writes());
        let in_namespace = object
            .namespace
            .map_or(vec![], |namespace| vec!["-n", namespace]);
        let found = get(
            &cluster,
            &[&in_namespace[..], &[object.kind, object.name]].concat(),
        );
        let annotation = &found.unwrap()["metadata"]["annotations"]["somebody-else"];
        assert!(annotation.is_string(), "{object:?}");
    }
    drop(writers);
    // One who writes what is ours is corrected, and not fifty times a second.
    let set = of_group(
        "apps/v1",
        "DaemonSet",
        namespace,
        "backup-server-daemon-set",
    );
    let drift = json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "$N%"}}}});
    let patches = |cluster: &Operated| {
        let asked = cluster.asked_by(cluster.namespace, "etcd-lifeboat-operator");
        let mut patches = asked.iter().filter(|event| event["verb"] == "patch");
        let of_sets = |event: &&Value| event["objectRef"]["resource"] == "daemonsets";
        patches.by_ref().filter(of_sets).count()
    };
    let before = patches(&cluster);
    let fight = cluster.block_on(async { ConflictingWriter::start(client.clone(), &set, &drift) });
    std::thread::sleep(Duration::from_secs(6));
    assert!(fight.writes() > 20, "{}", fight.writes());
    drop(fight);
    wait_until("the last word", || {
        let set = get(&cluster, &SET)?;
        (set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == 1).then_some(())
    });
    let patches = patches(&cluster) - before;
    assert!(patches < 40, "{patches} patches in six seconds");

    // A watch that is told that it knows too little begins anew.
    cluster.may_be_refused = true;
    cluster.expire_watches().unwrap();
    let three = two.replace(":2}", ":3}");
    let _ = cluster.kubectl_ok(&["patch", "backup", "default", "--type=merge", "-p", &three]);
    let mut operator = operator;
    wait_until("the servers to follow", || {
        // If that took too long its lease is lost, and somebody starts it again.
        if operator.child.try_wait().unwrap().is_some() {
            operator = Operator::start(&cluster, "a", &[]);
        }
        args(&get(&cluster, &SET)?)
            .contains("--max-number-of-backups=3")
            .then_some(())
    });
    request(&cluster, "third");
    wait_until("the third", || completed(&cluster, "third"));
}

#[test]
#[ignore = "takes some minutes, and is for its figures"]
fn with_200_backups_and_1000_requests_it_stays_small_and_quiet() {
    let Some(cluster) = cluster(3, None) else {
        return;
    };
    let start = Instant::now();
    let operator = Operator::start(&cluster, "a", &[]);
    wait_until("the default", || {
        get(&cluster, &["backup", "default"]).map(|_| ())
    });
    let deadline = Instant::now() + Duration::from_secs(400);
    while kept(&cluster).iter().any(Vec::is_empty) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(200));
    }
    println!(
        "seconds from the start to a proven backup on each of three nodes: {:?}",
        start.elapsed()
    );
    let asked = || {
        cluster
            .asked_by(cluster.namespace, "etcd-lifeboat-operator")
            .len()
    };
    let pid = operator.child.id();
    let cpu_s = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks as f64 / 100.0
    };
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().to_string()
    };
    let at_rest = |what: &str| {
        let (requests, cpu) = (asked(), cpu_s());
        std::thread::sleep(Duration::from_secs(120));
        println!(
            "{what}: {} requests and {:.2} CPU seconds a minute, {} KiB",
            (asked() - requests) / 2,
            (cpu_s() - cpu) / 2.0,
            memory()
        );
    };
    at_rest("at rest");
    let start = Instant::now();
    let many: String = (0..200)
        .map(|number| {
            format!("---\napiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {{name: many-{number}}}\nspec: {{etcd: {{schedule: '@yearly'}}}}\n")
        })
        .collect();
    cluster.apply(&many);
    wait_until("200 CronJobs", || {
        (count(&cluster, "cronjobs") == 200).then_some(())
    });
    println!(
        "200 Backups are CronJobs {:?} after they were applied",
        start.elapsed()
    );
    let start = Instant::now();
    let many: String = (0..1000)
        .map(|number| {
            format!("---\napiVersion: operator.openshift.io/v1alpha1\nkind: EtcdBackup\nmetadata: {{name: many-{number}}}\nspec: {{}}\n")
        })
        .collect();
    cluster.apply(&many);
    println!("applied after {:?}", start.elapsed());
    let deadline = Instant::now() + Duration::from_secs(500);
    loop {
        let all = get(&cluster, &["etcdbackups"]).unwrap();
        let open = all["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|request| {
                let conditions = request["status"]["conditions"].as_array();
                !conditions.into_iter().flatten().any(|condition| {
                    condition["status"] == "True" && condition["type"] != "BackupPending"
                })
            })
            .count();
        if open == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{open} are open");
        std::thread::sleep(Duration::from_secs(1));
    }
    println!(
        "1000 EtcdBackups have their end {:?} after they were applied",
        start.elapsed()
    );
    let told: Vec<_> = ["Completed", "Skipped", "Failed"]
        .iter()
        .map(|end| {
            let metrics = operator.get("/metrics").1;
            let name = format!("etcd_lifeboat_operator_requests{{condition=\"Backup{end}\"}} ");
            let line = metrics
                .lines()
                .find(|line| line.starts_with(&name))
                .unwrap();
            format!("{end} {}", line.rsplit(' ').next().unwrap())
        })
        .collect();
    println!("{}", told.join(", "));
    at_rest("at rest with 200 Backups and 1000 EtcdBackups");
}
