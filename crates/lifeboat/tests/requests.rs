//! Backups that somebody asks for, and those on a schedule of one's own: on a real API server, with pods that
//! really run and real etcd members on the nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{lifeboat, list, names, pvc, text, told, wait_until};
use operated::{Operated, Operator, cluster, condition, degraded, get, stale};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use test_support::kubernetes::faults::Fault;

/// Without servers on the nodes.
const NO_SERVERS: [&str; 1] = ["--controllers=*,-default-backup"];

/// A claim, bound to a directory of whatever node it is on.
fn claim(cluster: &Operated, name: &str) {
    let namespace = cluster.namespace;
    let pvc = pvc(namespace, name);
    cluster.apply(&format!(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  claimRef: {{namespace: {namespace}, name: {name}}}
  hostPath: {{path: /var/lib/{name}}}
---
{pvc}"
    ));
}

fn request(name: &str, claim: &str) -> String {
    format!(
        "---\napiVersion: operator.openshift.io/v1alpha1\nkind: EtcdBackup\nmetadata: {{name: {name}}}\nspec: {{pvcName: '{claim}'}}\n"
    )
}

/// What a request was told last: its condition and the message.
fn outcome(cluster: &Operated, name: &str) -> Option<(String, String)> {
    let request = get(cluster, &["etcdbackup", name])?;
    outcome_of(&request)
}

fn outcome_of(request: &Value) -> Option<(String, String)> {
    let conditions = request["status"]["conditions"].as_array()?;
    let mut holding = conditions
        .iter()
        .filter(|condition| condition["status"] == "True");
    let newest = holding.next()?;
    assert!(
        holding.next().is_none(),
        "one holds at a time: {conditions:?}"
    );
    let text = |field: &str| newest[field].as_str().unwrap().to_string();
    Some((text("type"), text("message")))
}

fn wait_for(cluster: &Operated, name: &str, wanted: &str) -> String {
    wait_until(&format!("{wanted} of {name}"), || {
        let (type_, message) = outcome(cluster, name)?;
        assert!(
            type_ == wanted || type_ == "BackupPending",
            "{name} is {type_}: {message}"
        );
        (type_ == wanted).then_some(message)
    })
}

fn jobs(cluster: &Operated, app: &str) -> Vec<Value> {
    let jobs = get(
        cluster,
        &["-n", cluster.namespace, "jobs", "-l", &format!("app={app}")],
    );
    jobs.unwrap()["items"].as_array().unwrap().clone()
}

/// Backups by the node they are on, in a directory of each.
fn backups(cluster: &Operated, dir: &str) -> BTreeMap<String, Vec<String>> {
    let nodes = cluster.nodes();
    nodes
        .iter()
        .map(|node| (node.name.clone(), names(&node.root.join(dir), "backup")))
        .filter(|(_, names)| !names.is_empty())
        .collect()
}

fn root_of(cluster: &Operated, node: &str) -> PathBuf {
    let nodes = cluster.nodes();
    nodes
        .into_iter()
        .find(|place| place.name == node)
        .unwrap()
        .root
}

#[test]
fn a_request_is_a_proven_backup_where_it_says_or_is_told_why_not() {
    let Some(mut cluster) = cluster(3, None) else {
        return;
    };
    let operator = Operator::start(&cluster, "a", &NO_SERVERS);
    operator.wait_for("holds the lease");
    claim(&cluster, "etcd-backups");
    wait_until("its kind", || get(&cluster, &["etcdbackups"]).map(|_| ()));

    // Into a claim's volume, from the member of the node that the pod is on.
    cluster.apply(&request("once", "etcd-backups"));
    wait_for(&cluster, "once", "BackupCompleted");
    let made = backups(&cluster, "var/lib/etcd-backups");
    let (node, made) = made.first_key_value().unwrap();
    let repository = root_of(&cluster, node).join("var/lib/etcd-backups");
    let verified = lifeboat(&["verify", text(&repository.join(&made[0]))]);
    assert!(verified.status.success(), "{}", told(&verified));
    assert_eq!(list(&repository)[0]["origin"], "on-demand");
    let once = get(&cluster, &["etcdbackup", "once"]).unwrap();
    assert_eq!(once["status"]["backupJob"]["name"], "once");
    assert_eq!(once["status"]["backupJob"]["namespace"], cluster.namespace);
    let job = get(&cluster, &["-n", cluster.namespace, "job", "once"]).unwrap();
    assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "EtcdBackup");
    let moved = r#"{"spec":{"pvcName":"other"}}"#;
    let refused =
        told(&cluster.kubectl(&["patch", "etcdbackup", "once", "--type=merge", "-p", moved]));
    assert!(
        refused.contains("pvcName is immutable once set"),
        "{refused}"
    );

    // A claim that is not there is refused before there is a Job.
    cluster.apply(&request("nowhere", "no-such-claim"));
    let message = wait_for(&cluster, "nowhere", "BackupFailed");
    assert!(
        message.contains(
            "PersistentVolumeClaim \"no-such-claim\" does not exist in namespace etcd-lifeboat"
        ),
        "{message}"
    );
    assert!(
        jobs(&cluster, "cluster-backup-job")
            .iter()
            .all(|job| job["metadata"]["name"] != "nowhere")
    );

    // Without a claim on the disk of each node, one node after another.
    cluster.apply(&request("everywhere", ""));
    wait_until("its first Job", || {
        let jobs = jobs(&cluster, "cluster-backup-job");
        let mut names = jobs
            .iter()
            .filter_map(|job| job["metadata"]["name"].as_str());
        names
            .any(|name| name.starts_with("everywhere-"))
            .then_some(())
    });
    let five: String = ["e", "c", "a", "d", "b"]
        .map(|name| request(&format!("five-{name}"), "etcd-backups"))
        .concat();
    cluster.apply(&five);
    wait_until("all nodes", || {
        let active = jobs(&cluster, "cluster-backup-job")
            .iter()
            .filter(|job| job["status"]["active"] == 1)
            .count();
        assert!(active <= 1, "{active} at once");
        (outcome(&cluster, "everywhere")?.0 == "BackupCompleted").then_some(())
    });
    let made = backups(&cluster, "var/lib/etcd-auto-backup");
    assert_eq!(made.values().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);

    // Of five that waited one is made, and the others are told.
    wait_for(&cluster, "five-a", "BackupCompleted");
    for name in ["five-b", "five-c", "five-d", "five-e"] {
        let message = wait_for(&cluster, name, "BackupSkipped");
        assert!(message.contains("EtcdBackup five-a runs"), "{message}");
    }

    // What goes wrong is told in the pod's own words, and by an event.
    cluster.fault(Fault::Stop, "etcd/node-2").unwrap();
    cluster.apply(&request("broken", ""));
    let message = wait_for(&cluster, "broken", "BackupFailed");
    assert!(
        message.starts_with("2 of 3 nodes have a new backup. Job broken-node-2 on node-2: "),
        "{message}"
    );
    assert!(message.contains("exit code 1: error: "), "{message}");
    cluster.fault(Fault::Start, "etcd/node-2").unwrap();
    let events = cluster.kubectl_ok(&[
        "get",
        "events",
        "-A",
        "-o",
        "jsonpath={range .items[*]}{.type} {.reason} {.regarding.name}{.involvedObject.name}{\"\\n\"}{end}",
    ]);
    for event in [
        "Normal BackupCompleted once",
        "Warning BackupFailed broken",
        "Warning BackupSkipped five-e",
    ] {
        assert!(events.contains(event), "{event}: {events}");
    }

    // With the request its Job goes, and with its Job the request.
    let _ = cluster.kubectl_ok(&["delete", "etcdbackup", "once"]);
    wait_until("its Job to go", || {
        get(&cluster, &["-n", cluster.namespace, "job", "once"])
            .is_none()
            .then_some(())
    });
    let _ = cluster.kubectl_ok(&["-n", cluster.namespace, "delete", "job", "five-a"]);
    wait_until("its request to go", || {
        get(&cluster, &["etcdbackup", "five-a"])
            .is_none()
            .then_some(())
    });
    assert!(get(&cluster, &["etcdbackup", "five-b"]).is_some());
    // What was backed up stays.
    let made = backups(&cluster, "var/lib/etcd-backups");
    assert_eq!(made.values().map(Vec::len).sum::<usize>(), 2);
}

#[test]
fn any_other_backup_keeps_its_own_schedule_retention_and_history() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let operator = Operator::start(&cluster, "a", &NO_SERVERS);
    operator.wait_for("holds the lease");
    wait_until("its kind", || get(&cluster, &["backups"]).map(|_| ()));
    let backup = |name: &str, etcd: &str| {
        cluster.apply(&format!(
            "apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec: {{etcd: {etcd}}}\n"
        ));
    };
    // Its claim is not there yet.
    let policy = "{retentionType: RetentionNumber, retentionNumber: {maxNumberOfBackups: 2}}";
    backup(
        "often",
        &format!("{{schedule: '0 * * * *', pvcName: often, retentionPolicy: {policy}}}"),
    );
    // One that can't be done does not hold up the others.
    backup("bad", "{schedule: '*/5 * * * FRI-1'}");
    backup("on-disk", "{schedule: '@hourly'}");
    backup("zoned", "{schedule: '30 2 * * *', timeZone: Europe/Berlin}");
    let message = wait_until("the missing claim to be told", || {
        let (holds, message) = degraded(&cluster, "often")?;
        holds.then_some(message)
    });
    assert!(
        message.contains("create it there, or remove pvcName"),
        "{message}"
    );
    claim(&cluster, "often");
    wait_until("that to be well", || {
        (!degraded(&cluster, "often")?.0).then_some(())
    });
    let (holds, message) = wait_until("the bad one to be told", || degraded(&cluster, "bad"));
    assert!(holds && message.contains("spec.etcd.schedule"), "{message}");
    let zoned = wait_until("its CronJob", || {
        get(&cluster, &["-n", cluster.namespace, "cronjob", "zoned"])
    });
    assert_eq!(zoned["spec"]["timeZone"], "Europe/Berlin");
    assert_eq!(zoned["spec"]["concurrencyPolicy"], "Forbid");
    assert_eq!(zoned["metadata"]["labels"]["app"], "cluster-backup-cronjob");
    assert_eq!(zoned["metadata"]["labels"]["backup-name"], "zoned");

    // What is due once an hour is made now and then by hand, as kubectl does it.
    let run_now = |backup: &str, number: u32| {
        let job = format!("{backup}-{number}");
        let from = format!("--from=cronjob/{backup}");
        let _ = cluster.kubectl_ok(&["-n", cluster.namespace, "create", "job", &job, &from]);
        wait_until(&job, || {
            let job = get(&cluster, &["-n", cluster.namespace, "job", &job])?;
            let conditions = job["status"]["conditions"].as_array()?;
            let mut types = conditions
                .iter()
                .map(|condition| condition["type"].as_str());
            types
                .any(|type_| matches!(type_, Some("Complete" | "Failed")))
                .then_some(())
        });
    };
    run_now("often", 1);
    run_now("on-disk", 1);
    // The chain: Backup, CronJob, Job, EtcdBackup, Job.
    let asked = wait_until("a request that is done", || {
        let requests = get(&cluster, &["etcdbackups"])?;
        let requests = requests["items"].as_array()?.clone();
        requests.into_iter().find(|request| {
            request["metadata"]["annotations"]["lifeboat.etcd.io/backup"] == "often"
                && outcome_of(request).is_some_and(|(type_, _)| type_ == "BackupCompleted")
        })
    });
    let owner = &asked["metadata"]["ownerReferences"][0];
    assert_eq!(owner["kind"], "Job");
    let asking = get(
        &cluster,
        &[
            "-n",
            cluster.namespace,
            "job",
            owner["name"].as_str().unwrap(),
        ],
    );
    let asking = asking.unwrap();
    assert_eq!(asking["metadata"]["ownerReferences"][0]["kind"], "CronJob");
    assert_eq!(asking["metadata"]["ownerReferences"][0]["name"], "often");

    // On the node's own disk by its own name, and no more than it is to keep in the volume.
    let root = &cluster.nodes()[0].root;
    let disk = root.join("var/lib/etcd-auto-backup");
    let volume = root.join("var/lib/often");
    wait_until("backups on the disk", || {
        (!names(&disk, "backup").is_empty()).then_some(())
    });
    assert_eq!(list(&disk)[0]["origin"], "on-disk");
    // Of seven that have run five are left, with what they asked for, and two backups.
    for number in 2..=7 {
        run_now("often", number);
    }
    let kept = list(&volume);
    assert_eq!(
        kept.iter()
            .map(|backup| &backup["origin"])
            .collect::<Vec<_>>(),
        ["often", "often"]
    );
    let of_often = |kind: &str, items: &Value| {
        items["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|item| {
                item["metadata"]["name"]
                    .as_str()
                    .unwrap()
                    .starts_with("often-")
            })
            .filter(|item| kind != "job" || item["status"]["succeeded"] == 1)
            .count()
    };
    wait_until("what is too old to go", || {
        let requests = of_often("etcdbackup", &get(&cluster, &["etcdbackups"])?);
        let jobs = get(
            &cluster,
            &[
                "-n",
                cluster.namespace,
                "jobs",
                "-l",
                "app=cluster-backup-cronjob",
            ],
        )?;
        let jobs = of_often("job", &jobs);
        (jobs == 5 && requests == 5).then_some(())
    });
    wait_until("that all is well", || {
        (!stale(&cluster, "often")?.0).then_some(())
    });

    // A schedule that fails is told by what its last request was told.
    let gone = root.join("etc/kubernetes/pki/etcd");
    let aside = root.join("etc/kubernetes/pki/etcd-aside");
    std::fs::rename(&gone, &aside).unwrap();
    run_now("on-disk", 2);
    let (_, reason, message) = wait_until("the failure", || {
        stale(&cluster, "on-disk").filter(|(holds, ..)| *holds)
    });
    assert_eq!(reason, "LastBackupFailed", "{message}");
    assert!(
        message.contains("on node-1: ") && message.contains("error: "),
        "{message}"
    );
    std::fs::rename(&aside, &gone).unwrap();
    run_now("on-disk", 3);
    wait_until("that it is well again", || {
        (!stale(&cluster, "on-disk")?.0).then_some(())
    });

    // With the Backup all that was made for it goes, and no backup.
    let before = names(&disk, "backup").len();
    let _ = cluster.kubectl_ok(&["delete", "backup", "on-disk", "often", "bad"]);
    wait_until("its objects to go", || {
        let cron_jobs = get(&cluster, &["-n", cluster.namespace, "cronjobs"])?;
        let requests = get(&cluster, &["etcdbackups"])?;
        let jobs = get(&cluster, &["-n", cluster.namespace, "jobs"])?;
        let count = |list: &Value| list["items"].as_array().unwrap().len();
        (count(&cron_jobs) == 1 && count(&requests) == 0 && count(&jobs) == 0).then_some(())
    });
    assert!(names(&disk, "backup").len() >= before);
    assert!(
        condition(
            &cluster,
            &["backup", "bad"],
            "PeriodicBackupControllerDegraded"
        )
        .is_none()
    );
}

#[test]
fn what_can_not_be_done_is_refused_with_what_to_write_instead() {
    let Some(cluster) = cluster(1, None) else {
        return;
    };
    let operator = Operator::start(&cluster, "a", &NO_SERVERS);
    operator.wait_for("holds the lease");
    wait_until("its kinds", || {
        get(&cluster, &["backups,etcdbackups"]).map(|_| ())
    });
    // By the API server itself, at once.
    for (number, (etcd, told_by)) in [
        ("{retentionPolicy: {retentionType: Newest}}", "supported values: \"\", \"RetentionNumber\", \"RetentionSize\""),
        ("{retentionPolicy: {}}", "retentionPolicy.retentionType: Required value"),
        ("{retentionPolicy: {retentionType: RetentionNumber, retentionNumber: {maxNumberOfBackups: 0}}}", "greater than or equal to 1"),
        ("{retentionPolicy: {retentionType: RetentionNumber, retentionNumber: {maxNumberOfBackups: -3}}}", "greater than or equal to 1"),
        ("{retentionPolicy: {retentionType: RetentionNumber, retentionNumber: {maxNumberOfBackups: many}}}", "must be of type integer"),
        ("{retentionPolicy: {retentionType: RetentionSize, retentionSize: {maxSizeOfBackupsGb: 0}}}", "greater than or equal to 1"),
        ("{retentionPolicy: {retentionType: RetentionSize, retentionSize: {maxSizeOfBackupsGb: 1.5}}}", "must be of type integer"),
        ("{schedule: 5}", "must be of type string"),
        ("{timeZone: [UTC]}", "must be of type string"),
        ("{pvcName: [claim]}", "must be of type string"),
        ("[]", "must be of type object"),
        ("{schedule: '*/5 */0 * * *'}", "the hour (the second field) is not valid"),
        ("{schedule: '61 * * * *'}", "use numbers from 0 to 59"),
        ("{schedule: '* 24 * * *'}", "use numbers from 0 to 23"),
        ("{schedule: '* * 32 * *'}", "use numbers from 1 to 31"),
        ("{schedule: '* * * 13 *'}", "use numbers from 1 to 12"),
        ("{schedule: '* * * * 7'}", "7, L and # are not supported"),
        ("{schedule: 'every day'}", "the schedule needs five fields"),
        ("{schedule: '* * * * * *'}", "the schedule needs five fields"),
        ("{schedule: 'TZ=UTC 0 * * * *'}", "set spec.etcd.timeZone instead"),
        ("{schedule: '@weekdays'}", "the schedule is not a known word"),
        // OpenShift's own table.
        ("{schedule: '5 4 * * FOO'}", "names from SUN to SAT"),
        ("{schedule: '@hourli'}", "use @hourly"),
        ("{schedule: '* * * * 5L'}", "7, L and # are not supported"),
        ("{schedule: '* * L-5 * *'}", "L and W are not supported"),
        ("{schedule: '* * 15W * *'}", "L and W are not supported"),
        ("{timeZone: GMT2}", "use a name such as Europe/Berlin"),
        ("{timeZone: GMT+3}", "use a name such as Europe/Berlin"),
        ("{schedul: '* * * * *'}", "unknown field \"spec.etcd.schedul\""),
        ("{retentionPolicy: {retentionType: '', retentionNumbers: {}}}", "unknown field \"spec.etcd.retentionPolicy.retentionNumbers\""),
    ]
    .into_iter()
    .enumerate()
    {
        let path = cluster.dir().join("invalid.yaml");
        let backup = format!(
            "apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {{name: refused-{number}}}\nspec: {{etcd: {etcd}}}\n"
        );
        std::fs::write(&path, backup).unwrap();
        let output = cluster.kubectl(&["create", "-f", text(&path)]);
        let refused = told(&output);
        assert!(!output.status.success(), "{etcd} was taken");
        assert!(refused.contains(told_by), "{etcd}: {refused}");
    }
    // What can be done is taken: OpenShift's own table, and what only ours takes.
    for etcd in [
        "{schedule: '* 2 * * *'}",
        "{schedule: '* 2 * * *', pvcName: claim}",
        "{schedule: '0 22 * * 1-5'}",
        "{schedule: '5 4 * * SUN'}",
        "{schedule: '@hourly'}",
        "{timeZone: Africa/Banjul}",
        "{timeZone: Etc/GMT-8}",
        "{timeZone: Etc/UTC}",
        "{timeZone: America/Argentina/Catamarca}",
        "{schedule: '@every 90s'}",
        "{schedule: '@midnight'}",
        "{schedule: '? ? ? ? ?'}",
        "{schedule: '  */15 0-5/2 1,15 JAN-MAR mon-Fri '}",
        "{schedule: '', timeZone: ''}",
        "{timeZone: EST5EDT}",
        "{timeZone: GMT0}",
        "{timeZone: W-SU}",
    ] {
        let path = cluster.dir().join("valid.yaml");
        let backup = format!(
            "apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {{name: valid}}\nspec: {{etcd: {etcd}}}\n"
        );
        std::fs::write(&path, backup).unwrap();
        let output = cluster.kubectl(&["create", "--dry-run=server", "-f", text(&path)]);
        assert!(output.status.success(), "{etcd}: {}", told(&output));
    }
    // By the operator, in the Backup's own condition and by an event.
    let invalid = [
        ("{schedule: '0 0 30 2 *'}", "never due"),
        ("{schedule: '* * * * FRI-1'}", "spec.etcd.schedule"),
        ("{schedule: '* 22-6 * * *'}", "spec.etcd.schedule"),
        ("{schedule: '@every day'}", "spec.etcd.schedule"),
        (
            "{timeZone: Berlin}",
            "use a name such as UTC or Europe/Berlin",
        ),
        (
            "{timeZone: Local}",
            "use a name such as UTC or Europe/Berlin",
        ),
        (
            "{pvcName: no-such-claim}",
            "create it there, or remove pvcName",
        ),
        (
            "{retentionPolicy: {retentionType: RetentionNumber, retentionSize: {maxSizeOfBackupsGb: 4}}}",
            "remove it, or change retentionType",
        ),
        (
            "{retentionPolicy: {retentionType: RetentionSize, retentionNumber: {maxNumberOfBackups: 4}}}",
            "remove it, or change retentionType",
        ),
    ];
    for (number, (etcd, _)) in invalid.iter().enumerate() {
        cluster.apply(&format!(
            "apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {{name: invalid-{number}}}\nspec: {{etcd: {etcd}}}\n"
        ));
    }
    for (name, etcd, told_by) in [
        (
            "default",
            "{pvcName: claim}",
            "give this Backup another name",
        ),
        ("on-demand", "{}", "give this Backup another name"),
    ] {
        cluster.apply(&format!(
            "apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec: {{etcd: {etcd}}}\n"
        ));
        let (holds, message) = wait_until(name, || degraded(&cluster, name));
        assert!(holds && message.contains(told_by), "{name}: {message}");
    }
    for (number, (etcd, told_by)) in invalid.iter().enumerate() {
        let name = format!("invalid-{number}");
        let (holds, message) = wait_until(etcd, || degraded(&cluster, &name));
        assert!(holds && message.contains(told_by), "{etcd}: {message}");
    }
    let cron_jobs = get(&cluster, &["-n", cluster.namespace, "cronjobs"]).unwrap();
    assert_eq!(cron_jobs["items"].as_array().unwrap().len(), 0);
    // It waits for what is changed, and does nothing meanwhile.
    let lines = operator.log().lines().count();
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(operator.log().lines().count(), lines, "{}", operator.log());
}
