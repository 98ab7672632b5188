//! The worst nights of a genuine kubeadm cluster, and the commands of the page by which a person gets out of them.
//!
//! A cluster takes long to start, so each test is a story.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod nodes;

use nodes::node::told;
use nodes::{Nodes, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use test_support::kubernetes::faults::Fault;
use test_support::real_nodes::{Filesystem, RealNode};

const DATA_DIR: &str = "/var/lib/etcd";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
const STATE: &str = "/etc/kubernetes/etcd-lifeboat";

const PATH: &str = "export PATH=$PATH:/usr/local/bin";

/// A block of commands of the page, by the word after `sh`.
fn block(word: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cluster-restore.md");
    let page = std::fs::read_to_string(page).unwrap();
    let lines: Vec<_> = page.lines().collect();
    let start = format!("```sh {word}");
    let at = lines.iter().position(|line| line.trim() == start);
    let block = lines[at.unwrap() + 1..].iter();
    let block = block
        .take_while(|line| line.trim() != "```")
        .map(|line| line.trim());
    block.collect::<Vec<_>>().join("\n")
}

/// A person at a node, who runs a script.
fn run(node: &RealNode, script: &str) -> Output {
    node.run(&["bash", "-euc", &format!("{PATH}\n{script}")])
}

/// Runs a block of the page. A person who is asked types the name of the node's member.
fn person(nodes: &Nodes, node: &str, word: &str) -> String {
    let script = block(word);
    nodes.step(&format!("{node}: {}", script.replace('\n', "; ")));
    nodes
        .node(node)
        .write("/root/block.sh", format!("{PATH}\n{script}\n").as_bytes())
        .unwrap();
    // In a terminal.
    let terminal =
        format!("printf '%s\\n' {node} | script -qec 'bash -eu /root/block.sh' /dev/null");
    let output = run(nodes.node(node), &terminal);
    let said = told(&output);
    println!("{said}");
    assert!(output.status.success(), "{node}: {script}: {said}");
    said
}

/// What the command says that must not be done.
fn refused(nodes: &Nodes, node: &str, flags: &str) -> String {
    let output = run(
        nodes.node(node),
        &format!("etcd-lifeboat cluster-restore --yes {flags}"),
    );
    let said = told(&output);
    println!("{node}: cluster-restore {flags}: {said}");
    assert_eq!(output.status.code(), Some(1), "{flags}: {said}");
    said
}

fn diagnosis(nodes: &Nodes, node: &str) -> Value {
    let output = run(
        nodes.node(node),
        "etcd-lifeboat cluster-restore --output json",
    );
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(&output)))
}

fn situation(nodes: &Nodes, node: &str) -> String {
    diagnosis(nodes, node)["situation"]
        .as_str()
        .unwrap()
        .to_string()
}

/// Whether the cluster has it. An API server that has just started may first answer with something else.
fn config_map(nodes: &Nodes, name: &str) -> bool {
    wait_until(&format!("whether there is a config map {name}"), || {
        let output = nodes.kubectl(&["get", "configmap", name]);
        match output.status.success() {
            true => Some(true),
            false => told(&output).contains("(NotFound)").then_some(false),
        }
    })
}

fn create_config_map(nodes: &Nodes, name: &str) {
    wait_until(&format!("a new config map {name}"), || {
        let output = nodes.kubectl(&["create", "configmap", name]);
        (output.status.success() || told(&output).contains("(AlreadyExists)")).then_some(())
    });
}

/// From now on no server makes a backup of what is changed.
fn opt_out(nodes: &Nodes) {
    wait_until("the end of the default", || {
        let delete = ["delete", "backup", "default", "--ignore-not-found"];
        nodes.kubectl(&delete).status.success().then_some(())
    });
    nodes.wait_until_no_server("node1");
}

fn resource_version(nodes: &Nodes, name: &str) -> i64 {
    let object = nodes.get(&["configmap", name]).unwrap();
    let version = object["metadata"]["resourceVersion"].as_str();
    version.unwrap().parse().unwrap()
}

fn processes(node: &RealNode, container: &str) -> usize {
    node.processes_of(container).map_or(0, |pids| pids.len())
}

/// All files of the node that a restore may touch, with their content.
fn files(node: &RealNode, dirs: &[&str]) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting: Vec<_> = dirs.iter().map(|dir| node.root().join(&dir[1..])).collect();
    while let Some(path) = waiting.pop() {
        match path.is_dir() {
            true => waiting.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            ),
            false if path.exists() => {
                found.insert(path.clone(), std::fs::read(path).unwrap());
            }
            false => {}
        }
    }
    found
}

#[test]
fn a_cluster_that_lost_all_its_data_comes_back_from_one_backup_and_its_nodes_join_it() {
    let Some(mut nodes) = Nodes::start(3, Filesystem::Ext4) else {
        return;
    };
    let all = ["node1", "node2", "node3"];
    nodes.install(&[]);
    for node in all {
        wait_until("a first backup", || {
            (!nodes.kept(node).is_empty()).then_some(())
        });
        person(&nodes, node, "program");
        let said = person(&nodes, node, "diagnose");
        assert!(said.contains("Nothing has to be restored"), "{said}");
    }
    // With a quorum nothing is restored, and nothing joins.
    let before = files(nodes.node("node1"), &[MANIFESTS, STATE]);
    let said = refused(&nodes, "node1", "latest --without node2,node3");
    assert!(said.contains("has a quorum"), "{said}");
    assert!(refused(&nodes, "node1", "--join").contains("works, with a quorum"));
    assert!(refused(&nodes, "node1", "--rollback").contains("nothing was begun"));
    assert_eq!(files(nodes.node("node1"), &[MANIFESTS, STATE]), before);

    create_config_map(&nodes, "before-the-backup");
    nodes.edit("@every 5s", "");
    nodes.wait_for_newer_backup("node1");
    nodes.wait_for_newer_backup("node1");
    opt_out(&nodes);
    create_config_map(&nodes, "after-the-backup");
    nodes.step("there are backups, and something newer");

    // Two nodes are gone.
    nodes.fault(Fault::Stop, "node/node2");
    nodes.fault(Fault::Stop, "node/node3");
    let said = refused(&nodes, "node1", "latest --without node2");
    assert!(said.contains("may come back: node3"), "{said}");
    let found = diagnosis(&nodes, "node1");
    assert_eq!(found["situation"], "quorum-lost", "{found}");
    assert!(
        found["next"].to_string().contains("--from-this-disk"),
        "{found}"
    );
    // What is on its disk is newer than the backups, and comes back.
    person(&nodes, "node1", "from-disk");
    nodes.step("node1 serves what was on its disk");
    assert!(config_map(&nodes, "before-the-backup") && config_map(&nodes, "after-the-backup"));
    person(&nodes, "node1", "continue");
    create_config_map(&nodes, "between-the-restores");
    let seen = resource_version(&nodes, "between-the-restores");
    assert!(seen > 1_000_000_000, "{seen}");

    // Then its data is deleted, and etcd starts again.
    run(nodes.node("node1"), &format!("rm -rf {DATA_DIR}/member"));
    nodes.fault(Fault::Restart, "etcd/node1");
    wait_until("that etcd began again with nothing", || {
        let found = diagnosis(&nodes, "node1");
        (found["situation"] == "data-lost").then_some(())
    });
    nodes.step("etcd of node1 began again with nothing, and this is seen");
    person(&nodes, "node1", "stand-down");
    assert_eq!(processes(nodes.node("node1"), "etcd"), 0);
    assert_eq!(situation(&nodes, "node1"), "stood-down");
    let said = refused(&nodes, "node1", "latest");
    assert!(said.contains("a quorum of the old cluster"), "{said}");

    person(&nodes, "node1", "plan");
    let said = person(&nodes, "node1", "restore");
    assert!(said.contains("all changes are in"), "{said}");
    nodes.step("node1 serves the backup");
    assert!(config_map(&nodes, "before-the-backup") && !config_map(&nodes, "after-the-backup"));
    create_config_map(&nodes, "after-the-restore");
    let next = resource_version(&nodes, "after-the-restore");
    assert!(next > seen, "revisions never fall: {seen}, then {next}");
    for container in ["kube-controller-manager", "kube-scheduler"] {
        assert_eq!(
            processes(nodes.node("node1"), container),
            0,
            "{container} waits"
        );
    }
    person(&nodes, "node1", "look");
    person(&nodes, "node1", "continue");
    wait_until("the scheduler of node1", || {
        (processes(nodes.node("node1"), "kube-scheduler") == 1).then_some(())
    });
    assert_eq!(situation(&nodes, "node1"), "healthy");

    // A member of the old cluster comes back. It does not reach the new one, nor the other way round.
    for node in ["node2", "node3"] {
        nodes.fault(Fault::Start, &format!("node/{node}"));
    }
    wait_until("etcd of node2", || {
        (processes(nodes.node("node2"), "etcd") == 1).then_some(())
    });
    assert!(config_map(&nodes, "before-the-backup"));
    for node in ["node2", "node3"] {
        person(&nodes, node, "stand-down");
        let said = refused(&nodes, node, "--rollback");
        assert!(said.contains("it was restored"), "{said}");
        person(&nodes, node, "join");
        nodes.step(&format!("{node} has joined"));
        person(&nodes, node, "continue-there");
    }
    nodes.cluster.wait_until_ready().unwrap();
    nodes.step("all three nodes are ready");
    let members = run(
        nodes.node("node1"),
        "etcd-lifeboat cluster-restore --output json",
    );
    let members: Value = serde_json::from_slice(&members.stdout).unwrap();
    let peers = members["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 2, "{members}");
    assert!(
        peers.iter().all(|peer| peer["state"] == "quorum"),
        "{members}"
    );

    // A quorum is alive, and the member of one node is lost: never a restore.
    run(nodes.node("node3"), &format!("rm -rf {DATA_DIR}/member"));
    nodes.fault(Fault::Restart, "etcd/node3");
    wait_until("that node3 is lost", || {
        (situation(&nodes, "node3") == "member-lost").then_some(())
    });
    let said = refused(&nodes, "node3", "latest --without node1,node2");
    assert!(said.contains("--join"), "{said}");
    person(&nodes, "node3", "join-again");
    nodes.cluster.wait_until_ready().unwrap();
    assert_eq!(situation(&nodes, "node3"), "healthy");
    assert!(config_map(&nodes, "before-the-backup") && config_map(&nodes, "after-the-restore"));
    nodes.step("node3 has joined again");
}

#[test]
fn a_restore_that_is_killed_at_any_step_goes_on_or_is_undone() {
    let Some(mut nodes) = Nodes::start(1, Filesystem::Ext4) else {
        return;
    };
    nodes.install(&[]);
    wait_until("a backup", || {
        (!nodes.kept("node1").is_empty()).then_some(())
    });
    opt_out(&nodes);
    create_config_map(&nodes, "after-the-backup");
    // A build that can be killed before each change of the disk.
    let program = std::fs::read(Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))).unwrap();
    nodes
        .node("node1")
        .write("/usr/local/bin/etcd-lifeboat", &program)
        .unwrap();
    nodes
        .node("node1")
        .run_ok(&["chmod", "755", "/usr/local/bin/etcd-lifeboat"])
        .unwrap();
    // Nothing starts anything again meanwhile. What runs is ended by signals.
    nodes.fault(Fault::Stop, "kubelet/node1");
    let said = refused(&nodes, "node1", "latest");
    assert!(said.contains("has a quorum"), "{said}");
    let node = nodes.node("node1");
    person(&nodes, "node1", "stand-down");
    person(&nodes, "node1", "rollback");
    let dirs = [DATA_DIR, MANIFESTS];
    let before = files(node, &dirs);
    let (mut steps, mut is_moved) = (0, false);
    loop {
        steps += 1;
        // Sometimes the disk is full instead. That the changes cannot be written down then only gives a warning.
        let (fault, code) = match steps % 4 {
            0 if !is_moved => (format!("LIFEBOAT_TEST_FAILS_AT_STEP={steps}:ENOSPC"), 1),
            _ => (format!("LIFEBOAT_TEST_KILLED_AT_STEP={steps}"), 134),
        };
        let command = format!("{fault} etcd-lifeboat cluster-restore --yes latest || exit $?");
        let output = run(node, &command);
        let said = told(&output);
        assert_eq!(output.status.code(), Some(code), "step {steps}: {said}");
        is_moved |= said.contains("moving the old member aside");
        // An undo that is killed is finished by the next one.
        let rollback = "etcd-lifeboat cluster-restore --yes --rollback";
        let killed = format!(
            "LIFEBOAT_TEST_KILLED_AT_STEP={} {rollback} || exit $?",
            steps % 16 + 1
        );
        let first = run(node, &killed);
        let undone = match first.status.code() {
            Some(134) => run(node, rollback),
            _ => first,
        };
        let answer = told(&undone);
        // The manifest of etcd is back, so it may have served.
        if answer.contains("cannot be undone any more") {
            assert!(said.contains("starting etcd"), "step {steps}: {said}");
            break;
        }
        let nothing = answer.contains("nothing was begun");
        assert!(undone.status.success() || nothing, "step {steps}: {answer}");
        let after = files(node, &dirs);
        assert!(
            after == before,
            "step {steps}: {:?}, before {:?}",
            after.keys(),
            before.keys()
        );
        assert!(steps < 400);
    }
    nodes.step(&format!(
        "killed before each of {} steps, and undone",
        steps - 1
    ));
    assert!(steps > 30, "{steps}");
    nodes.fault(Fault::Start, "kubelet/node1");
    person(&nodes, "node1", "resume");
    assert!(!config_map(&nodes, "after-the-backup"));
    person(&nodes, "node1", "continue");
    nodes.cluster.wait_until_ready().unwrap();
    nodes.step("the whole control plane is back");

    // The data is wrong, and the newest backup has it.
    opt_out(&nodes);
    create_config_map(&nodes, "after-the-backup");
    let older = nodes.kept("node1").remove(0);
    let said = person(&nodes, "node1", "wrong");
    assert!(said.contains(&older), "{said}");
    assert!(nodes.kept("node1")[0] > older);
    let restore = format!("etcd-lifeboat cluster-restore --yes {older}");
    let restored = run(nodes.node("node1"), &restore);
    assert!(restored.status.success(), "{}", told(&restored));
    assert!(!config_map(&nodes, "after-the-backup"));
    person(&nodes, "node1", "continue");
    nodes.cluster.wait_until_ready().unwrap();
    nodes.step("an older backup than the newest one is restored");

    // Killed again, and now it goes on.
    for step in [3, steps / 3, steps - 3] {
        // The backup that is restored has it, and so a server that makes others.
        opt_out(&nodes);
        create_config_map(&nodes, "in-no-backup");
        person(&nodes, "node1", "stand-down");
        let command = format!(
            "LIFEBOAT_TEST_KILLED_AT_STEP={step} etcd-lifeboat cluster-restore --yes latest || exit $?"
        );
        let output = run(nodes.node("node1"), &command);
        let said = told(&output);
        assert_eq!(output.status.code(), Some(134), "step {step}: {said}");
        match situation(&nodes, "node1").as_str() {
            // It was killed before the journal said what was begun.
            "stood-down" => person(&nodes, "node1", "restore-alone"),
            _ => person(&nodes, "node1", "resume"),
        };
        assert!(!config_map(&nodes, "in-no-backup"), "step {step}");
        person(&nodes, "node1", "continue");
        nodes.cluster.wait_until_ready().unwrap();
        nodes.step(&format!("killed before step {step}, and finished"));
    }
}
