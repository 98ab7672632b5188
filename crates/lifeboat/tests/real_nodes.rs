//! The program as it ships, in genuine kubeadm clusters: real kubelets, containerd, static pods, cgroups.
//!
//! A cluster takes long to start, so each test is a story.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod nodes;

use nodes::node::{lifeboat, text, told};
use nodes::steps::{
    OTHER_POD, fill, leave_free, local_volume, memory_limit, newest_is_proven, operator_restarts,
    request, restarts, run_with_wrong_clock, squeeze, stop_static_pod, wait_for_a_run,
    wait_for_pressure,
};
use nodes::{IMAGE, NAMESPACE, Nodes, OTHER_IMAGE, REPOSITORY, wait_until};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use test_support::kubernetes::binaries::VERSIONS;
use test_support::kubernetes::faults::Fault;
use test_support::real_nodes::kit::ETCD_OF_NODES;
use test_support::real_nodes::{
    Filesystem, Kit, KubeadmCluster, Options, PREFIX_OF_FOLDERS, cgroups,
};
use test_support::requirement::skip;

#[test]
fn three_nodes_keep_proven_backups_from_day_one_through_changes_and_faults() {
    let Some(mut nodes) = Nodes::start(3, Filesystem::Ext4) else {
        return;
    };
    let all = ["node1", "node2", "node3"];
    let said = nodes.install(&[]);
    nodes.step("kubectl apply");
    // The namespace warns of everything that is not restricted. The operator itself is.
    assert!(!said.contains("would violate PodSecurity"), "{said}");
    wait_until("a proven backup on each node", || {
        all.iter()
            .all(|node| !nodes.kept(node).is_empty())
            .then_some(())
    });
    nodes.step("each node has a proven backup");
    for node in all {
        let record = newest_is_proven(&nodes, node);
        assert_eq!(record["archive_missing"], Value::Null, "{record}");
        // The kubelet creates the directory. No one else may read it.
        let dir = nodes.node(node).root().join(&REPOSITORY[1..]);
        let metadata = dir.metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o700);
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
    }
    nodes.wait_until_well(3);
    let status = nodes.lifeboat(&["status"]);
    assert!(status.status.success(), "{}", told(&status));
    println!("{}", told(&status));

    // Edits.
    let two = r#","retentionPolicy":{"retentionNumber":{"maxNumberOfBackups":2}}"#;
    nodes.edit("@every 5s", two);
    for node in all {
        nodes.wait_for_newer_backup(node);
        nodes.wait_for_newer_backup(node);
        // A backup is published before an older one is removed.
        wait_until("two backups at most", || {
            (nodes.kept(node).len() <= 2).then_some(())
        });
    }
    nodes.step("edited, and the servers follow");

    // A backup into a local volume, and one on each node's disk.
    local_volume(&nodes, "backups-of-node2", "node2");
    let done = request(&nodes, "once", "backups-of-node2");
    assert_eq!(done.0, "BackupCompleted", "{done:?}");
    let volume = nodes.node("node2").root().join("var/lib/backups-of-node2");
    assert_eq!(nodes::node::names(&volume, "backup").len(), 1);
    let done = request(&nodes, "everywhere", "");
    assert_eq!(done.0, "BackupCompleted", "{done:?}");
    nodes.step("requested backups are there");
    // A schedule of its own, in the same volume.
    nodes.apply(
        "apiVersion: config.openshift.io/v1alpha1\nkind: Backup\nmetadata: {name: nightly}\nspec: {etcd: {schedule: '0 2 * * *', pvcName: backups-of-node2}}\n",
    );
    wait_until("its CronJob", || {
        nodes.get(&["-n", NAMESPACE, "cronjob", "nightly"])
    });
    nodes.kubectl_ok(&[
        "-n",
        NAMESPACE,
        "create",
        "job",
        "nightly-now",
        "--from=cronjob/nightly",
    ]);
    wait_until("the backup of the CronJob", || {
        (nodes::node::names(&volume, "backup").len() == 2).then_some(())
    });
    nodes.step("the CronJob's backup is there");

    // To the machine of a person.
    let dir = tempfile::TempDir::new().unwrap();
    let exported = nodes.lifeboat(&["export", "node3", "--to", text(dir.path())]);
    assert!(exported.status.success(), "{}", told(&exported));
    let name = std::fs::read_dir(dir.path()).unwrap().next().unwrap();
    let verified = lifeboat(&["verify", text(&name.unwrap().path())]);
    assert!(verified.status.success(), "{}", told(&verified));
    nodes.step("exported");

    // Another version, and back.
    for image in [OTHER_IMAGE, IMAGE] {
        let manifests = lifeboat(&["manifests", "--image", image]);
        nodes.apply(&told(&manifests));
        nodes.wait_for_servers(|container| container["image"] == image);
        nodes.step(&format!("all servers are of {image}"));
    }
    for node in all {
        nodes.wait_for_newer_backup(node);
    }

    // The program is the first process of its container. It ends when it is asked to, and does not have to be killed.
    for name in ["operator", "etcd-backup-server"] {
        let mut places = nodes.cluster.nodes().iter();
        let found = places.find_map(|node| Some((node, node.containers_of(name).ok()?.remove(0))));
        let (node, asked) = found.unwrap();
        node.run_ok(&["kill", "-TERM", &asked.pid]).unwrap();
        let ended = wait_until(&format!("the end of {name}"), || {
            let pods = nodes.get(&["-n", NAMESPACE, "pods"])?;
            // An operator that lost its lease ended before. That was another container.
            let id = format!("containerd://{}", asked.id);
            let mut ended = pods["items"].as_array()?.iter().flat_map(|pod| {
                let container = &pod["status"]["containerStatuses"][0];
                ["state", "lastState"].map(|state| &container[state]["terminated"])
            });
            ended.find(|ended| ended["containerID"] == *id).cloned()
        });
        assert_eq!(ended["exitCode"], 0, "{name}: {ended}");
    }
    nodes.step("asked to end, operator and server ended by themselves");

    // A member that is down is named, and the others go on.
    nodes.fault(Fault::Stop, "etcd/node3");
    // Its API server has no etcd either. Until it is left out, others may meet it.
    let message = wait_until("that only this node is named", || {
        let message = nodes.wait_until_stale("node3", "");
        (!message.contains("node1: ") && !message.contains("node2: ")).then_some(message)
    });
    nodes.step(&message);
    assert_eq!(nodes.lifeboat(&["status"]).status.code(), Some(1));
    nodes.wait_for_newer_backup("node1");
    nodes.fault(Fault::Start, "etcd/node3");
    nodes.wait_until_well(3);
    nodes.step("it is back");

    // A node that dies, and comes back with its disk.
    let before = nodes.kept("node3");
    nodes.fault(Fault::Stop, "node/node3");
    let message = nodes.wait_until_stale("node3", "the node is not ready");
    nodes.step(&message);
    nodes.wait_for_newer_backup("node2");
    nodes.fault(Fault::Start, "node/node3");
    nodes.wait_until_well(3);
    nodes.step("the node is back, with new backups");
    assert!(!before.is_empty());
    newest_is_proven(&nodes, "node3");

    // A node that joins has backups without anyone's help.
    let fourth = nodes.cluster.join().unwrap().name();
    nodes.step("a fourth node has joined");
    let message = nodes.wait_until_stale(&fourth, "ImagePull");
    nodes.step(&message);
    nodes.load_image_on(&fourth);
    wait_until("its first backup", || {
        (!nodes.kept(&fourth).is_empty()).then_some(())
    });
    nodes.wait_until_well(4);
    nodes.step("and has backups");

    // A node with a wrong clock.
    for (seconds, problem) in [(7200, None), (-7200, Some("cannot reach the API server"))] {
        let before = nodes.kept("node3");
        if !run_with_wrong_clock(&nodes, "node3", seconds) {
            break;
        }
        match problem {
            None => {
                nodes.wait_for_newer_backup("node3");
                nodes.wait_until_well(4);
            }
            Some(problem) => {
                nodes.step(&nodes.wait_until_stale("node3", problem));
                // Neither etcd nor the API server can be trusted with this clock, and its log says why.
                let pod = nodes.server("node3").unwrap();
                let name = pod["metadata"]["name"].as_str().unwrap();
                for of in [
                    "cannot connect to https://127.0.0.1:2379",
                    "cannot write NodeBackup/node3",
                ] {
                    wait_until(of, || {
                        let log = nodes.kubectl_ok(&["-n", NAMESPACE, "logs", name]);
                        let says = |line: &str| line.contains(of) && line.contains("not valid yet");
                        log.lines().any(says).then_some(())
                    });
                }
            }
        }
        println!("{}", told(&nodes.lifeboat(&["status"])));
        assert!(!before.is_empty() && !nodes.kept("node3").is_empty());
        nodes.step(&format!("a clock that is off by {seconds} s"));
    }
    nodes.load_image_on("node3");
    nodes.replace_server("node3");
    nodes.wait_until_well(4);

    // Opted out.
    nodes.kubectl_ok(&["delete", "backup", "default"]);
    nodes.wait_until_no_server("node1");
    for node in all {
        assert!(nodes.kept(node).len() >= 2, "{node}: what was kept stays");
    }
}

#[test]
fn a_node_goes_on_with_its_backups_after_what_happens_to_its_services() {
    let Some(mut nodes) = Nodes::start(1, Filesystem::Ext4) else {
        return;
    };
    // By the chart.
    let chart = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/helm/etcd-lifeboat"
    );
    let image = format!("image={IMAGE}");
    nodes::helm(
        &nodes,
        &["install", "etcd-lifeboat", chart, "--set", &image],
    );
    wait_until("a first backup", || {
        (!nodes.kept("node1").is_empty()).then_some(())
    });
    nodes.step("installed by helm, and a first backup");
    nodes.edit("@every 2s", "");
    nodes.wait_for_newer_backup("node1");
    // Enough that a run takes its time.
    fill(&nodes, "node1", 100);

    // etcd dies while it sends.
    for _ in 0..2 {
        wait_for_a_run(&nodes, "node1");
        nodes.fault(Fault::Restart, "etcd/node1");
        nodes.wait_for_newer_backup("node1");
    }
    newest_is_proven(&nodes, "node1");
    nodes.step("etcd was killed in mid-stream");

    // The node's own services.
    for service in ["kubelet", "containerd"] {
        let before = restarts(&nodes, "node1");
        nodes.fault(Fault::Stop, &format!("{service}/node1"));
        nodes.wait_for_newer_backup("node1");
        nodes.wait_for_newer_backup("node1");
        nodes.fault(Fault::Start, &format!("{service}/node1"));
        wait_until("the same container", || {
            (restarts(&nodes, "node1") == before).then_some(())
        });
        nodes.step(&format!("{service} was away, and backups went on"));
    }

    // Certificates.
    let node = nodes.node("node1");
    let certificate = "/etc/kubernetes/pki/etcd/healthcheck-client.crt";
    let old = node.run_ok(&["cat", certificate]).unwrap();
    node.run_ok(&["kubeadm", "certs", "renew", "all"]).unwrap();
    assert_ne!(node.run_ok(&["cat", certificate]).unwrap(), old);
    for part in ["etcd", "kube-apiserver"] {
        stop_static_pod(&mut nodes, part, "node1");
        nodes.fault(Fault::Start, &format!("{part}/node1"));
    }
    nodes.wait_for_newer_backup("node1");
    nodes.cluster.wait_until_ready().unwrap();
    nodes.wait_until_well(1);
    nodes.step("certificates were renewed");

    // The API server is away. The operator that loses its lease ends once, and then waits in its process: the kubelet would let it wait
    // for minutes.
    let (before, known) = (operator_restarts(&nodes).unwrap(), nodes.kept("node1"));
    stop_static_pod(&mut nodes, "kube-apiserver", "node1");
    for _ in 0..10 {
        nodes.wait_for_newer_backup("node1");
    }
    nodes.fault(Fault::Start, "kube-apiserver/node1");
    nodes.cluster.wait_until_ready().unwrap();
    wait_until("what was made meanwhile", || {
        let reported = nodes.get(&["nodebackup", "node1"])?;
        let newest = reported["status"]["lastVerified"]["name"].as_str()?;
        (!known.iter().any(|name| name == newest)).then_some(())
    });
    wait_until("one more start of an operator", || {
        (operator_restarts(&nodes)? != before).then_some(())
    });
    nodes.wait_until_well(1);
    // On a loaded machine the other one can lose it, too. Neither ends again and again.
    let restarts = wait_until("running operators", || operator_restarts(&nodes));
    let at_most_once = before
        .iter()
        .zip(&restarts)
        .all(|(before, now)| now - before <= 1);
    assert!(at_most_once, "{before:?} before, {restarts:?} now");
    nodes.step("the API server was away");

    // The power goes in the middle of a run.
    wait_for_a_run(&nodes, "node1");
    nodes.fault(Fault::Stop, "node/node1");
    nodes.fault(Fault::Start, "node/node1");
    nodes.cluster.wait_until_ready().unwrap();
    nodes.wait_for_newer_backup("node1");
    nodes.wait_until_well(1);
    nodes.step("the power was away");
    let repository = nodes.node("node1").root().join(&REPOSITORY[1..]);
    nodes.edit("@yearly", "");
    nodes::node::assert_all_whole(&repository);

    nodes::helm(&nodes, &["uninstall", "etcd-lifeboat"]);
    wait_until("its namespace to go", || {
        nodes.get(&["namespace", NAMESPACE]).is_none().then_some(())
    });
    assert!(!nodes.kept("node1").is_empty());
}

#[test]
#[ignore = "takes a quarter of an hour, and needs the older versions: `cargo xtask kubernetes --all`"]
fn kubeadm_upgrades_the_cluster_while_backups_go_on() {
    let mut versions: Vec<_> = VERSIONS.into_iter().collect();
    versions.sort();
    let kits: Vec<_> = versions
        .into_iter()
        .filter_map(|version| Kit::find(version, ETCD_OF_NODES))
        .collect();
    let [first, others @ ..] = kits.as_slice() else {
        skip("no kit for nodes with kubelets: run `cargo xtask kubernetes --all`");
        return;
    };
    if others.is_empty() {
        skip("one version alone is here: run `cargo xtask kubernetes --all`");
        return;
    }
    let Some(nodes) = Nodes::start_with(first.clone(), 1, Filesystem::Ext4) else {
        return;
    };
    nodes.install(&[]);
    nodes.edit("@every 5s", "");
    nodes.wait_until_well(1);
    for kit in others {
        let version = &kit.kubernetes;
        let node = nodes.node("node1");
        for image in std::fs::read_dir(kit.dir.join("images")).unwrap() {
            node.import(&image.unwrap().path(), &[]).unwrap();
        }
        for program in ["kubeadm", "kubelet"] {
            let bytes = std::fs::read(kit.dir.join("bin").join(program)).unwrap();
            let place = format!("/usr/local/bin/{program}.new");
            node.write(&place, &bytes).unwrap();
            node.run_ok(&["chmod", "755", &place]).unwrap();
        }
        // Nothing ends while kubeadm works but what it ends itself.
        let before = nodes.kept("node1");
        let restarts_before = restarts(&nodes, "node1").unwrap();
        node.run_ok(&[
            "/usr/local/bin/kubeadm.new",
            "upgrade",
            "apply",
            version,
            "--yes",
            "--ignore-preflight-errors=SystemVerification,Swap,CoreDNSUnsupportedPlugins,CoreDNSMigration",
        ])
        .unwrap();
        nodes.step(&format!("kubeadm upgrade apply {version}"));
        let during = nodes.kept("node1");
        assert!(
            during.iter().any(|name| !before.contains(name)),
            "{during:?}"
        );
        node.run_ok(&["systemctl", "stop", "kubelet"]).unwrap();
        node.run_ok(&["mv", "/usr/local/bin/kubelet.new", "/usr/local/bin/kubelet"])
            .unwrap();
        node.run_ok(&["systemctl", "start", "kubelet"]).unwrap();
        wait_until("the new kubelet", || {
            let node = nodes.get(&["node", "node1"])?;
            (node["status"]["nodeInfo"]["kubeletVersion"] == **version).then_some(())
        });
        nodes.cluster.wait_until_ready().unwrap();
        nodes.wait_for_newer_backup("node1");
        nodes.wait_until_well(1);
        nodes.step(&format!(
            "the kubelet is {version}; the server was started {} times more",
            restarts(&nodes, "node1").unwrap() - restarts_before
        ));
        newest_is_proven(&nodes, "node1");
    }
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn while_a_kubelet_is_away_for_ten_minutes_backups_go_on_and_are_known() {
    let Some(mut nodes) = Nodes::start(2, Filesystem::Ext4) else {
        return;
    };
    nodes.install(&[]);
    nodes.edit("@every 5s", "");
    nodes.wait_until_well(2);
    nodes.fault(Fault::Stop, "kubelet/node2");
    wait_until("that Kubernetes gives the node up", || {
        let node = nodes.get(&["node", "node2"])?;
        let conditions = node["status"]["conditions"].as_array()?.clone();
        let ready = conditions
            .into_iter()
            .find(|found| found["type"] == "Ready")?;
        (ready["status"] == "Unknown").then_some(())
    });
    nodes.step("the node is not ready");
    let end = Instant::now() + Duration::from_secs(600);
    while Instant::now() < end {
        for node in ["node1", "node2"] {
            nodes.wait_for_newer_backup(node);
        }
    }
    nodes.step("ten minutes later, both nodes have made backups all the while");
    // What counts is that its backups are there.
    nodes.wait_until_well(2);
    let pods = nodes.kubectl_ok(&["-n", NAMESPACE, "get", "pods", "-o", "wide"]);
    println!("{pods}");
    nodes.fault(Fault::Start, "kubelet/node2");
    nodes.wait_until_well(2);
    nodes.step("the kubelet is back");
    newest_is_proven(&nodes, "node2");
}

#[test]
fn a_node_that_runs_short_gives_up_others_before_its_backup_server() {
    let Some(mut nodes) = Nodes::start(1, Filesystem::XfsWithReflinks) else {
        return;
    };
    nodes.install(&[]);
    nodes.edit("@every 3s", "");
    nodes.wait_until_well(1);

    // Its limit is what the kernel enforces, and the kernel ends it before etcd.
    let score = |container: &str| -> i64 {
        let pid = nodes.node("node1").processes_of(container).unwrap();
        let file = format!("/proc/{}/oom_score", pid[0]);
        let read = nodes.node("node1").run_ok(&["cat", &file]);
        read.unwrap().trim().parse().unwrap()
    };
    let (server, etcd) = (score("etcd-backup-server"), score("etcd"));
    nodes.step(&format!(
        "oom_score: {server} of the server, {etcd} of etcd"
    ));
    assert!(server > etcd, "{server} {etcd}");
    assert_eq!(memory_limit(&nodes, "etcd-backup-server"), 128 << 20);

    // A full disk: others are evicted, the server stays and says what is wrong.
    nodes.apply(OTHER_POD);
    wait_until("the other pod", || {
        let pod = nodes.get(&["pod", "other"])?;
        (pod["status"]["phase"] == "Running").then_some(())
    });
    let server = nodes.server("node1").unwrap();
    leave_free(&nodes, "node1", 5);
    wait_for_pressure(&nodes, "node1", "True");
    wait_until("the eviction of the other pod", || {
        let events = nodes.events();
        let evicted = |line: &&str| line.contains("Evicted Pod/other:");
        events.lines().find(evicted).map(|_| ())
    });
    let message = nodes.wait_until_stale("node1", "insufficient-space");
    nodes.step(&message);
    let (type_, message) = request(&nodes, "under-pressure", "");
    nodes.step(&format!("a request under pressure: {type_}: {message}"));
    assert_eq!(type_, "BackupFailed");
    assert!(message.contains("not enough space"), "{message}");
    let same = nodes.server("node1").unwrap();
    assert_eq!(same["metadata"]["uid"], server["metadata"]["uid"]);
    assert_eq!(restarts(&nodes, "node1"), Some(0));
    nodes.fault(Fault::Heal, "disk/node1");
    wait_for_pressure(&nodes, "node1", "False");
    nodes.wait_until_well(1);
    nodes.step("space again, and backups");

    // Out of memory, again and again.
    let mut squeezed = squeeze(&nodes, "node1");
    let message = nodes.wait_until_stale("node1", "OOMKilled");
    nodes.step(&message);
    assert!(restarts(&nodes, "node1").unwrap() >= 1);
    nodes.node("node1").run_ok(&["rm", "/run/squeeze"]).unwrap();
    squeezed.wait().unwrap();
    nodes.wait_until_well(1);
    nodes.step("memory again, and backups");

    // Cordoned, requested backups are made. Drained, also of the operator, the server goes on.
    nodes.kubectl_ok(&["cordon", "node1"]);
    let done = request(&nodes, "while-cordoned", "");
    assert_eq!(done.0, "BackupCompleted", "{done:?}");
    nodes.kubectl_ok(&[
        "drain",
        "node1",
        "--ignore-daemonsets",
        "--force",
        "--delete-emptydir-data",
        "--disable-eviction",
        "--timeout=90s",
    ]);
    nodes.wait_for_newer_backup("node1");
    nodes.kubectl_ok(&["uncordon", "node1"]);
    nodes.wait_until_well(1);
    nodes.step("drained and uncordoned");
}

#[test]
#[ignore = "no test, but what the next one kills"]
fn holds_a_node_until_it_is_killed() {
    let options = Options {
        kit: Kit::require().unwrap(),
        nodes: 1,
        filesystem: Filesystem::Ext4,
    };
    let _cluster = KubeadmCluster::start(options, &|_| {}).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_killed_cluster_leaves_no_process_no_disk_and_no_cgroup() {
    if Kit::require().is_none() {
        return;
    }
    let elsewhere = tempfile::TempDir::new().unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "holds_a_node_until_it_is_killed"])
        .env("TMPDIR", elsewhere.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let folder = || {
        let mut entries = std::fs::read_dir(elsewhere.path()).unwrap().flatten();
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries
            .find_map(|entry| Some(name(entry)).filter(|name| name.starts_with(PREFIX_OF_FOLDERS)))
    };
    let folder = wait_until("the folder of the cluster", folder);
    let processes = || -> Vec<u32> {
        let groups = cgroups::with_name(&folder);
        groups
            .iter()
            .flat_map(|group| cgroups::processes(group))
            .collect()
    };
    let disks = || {
        let output = Command::new("losetup")
            .args(["--list", "--output=BACK-FILE"])
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).contains(&folder)
    };
    // containerd and its helpers.
    wait_until("processes in the node", || {
        (processes().len() > 20 && disks()).then_some(())
    });
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("their end", || {
        (processes().is_empty() && !disks()).then_some(())
    });
    elsewhere.close().unwrap();
    cgroups::remove_left(PREFIX_OF_FOLDERS);
    assert_eq!(cgroups::with_name(&folder), Vec::<PathBuf>::new());
}
