//! A cluster that goes from one version of etcd to the next, a member at a time, while each node keeps its
//! backups.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{Agent, assert_all_whole, lifeboat, names, text, told, wait_until};
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tempfile::TempDir;
use test_support::etcd_binaries::{Version, require};
use test_support::etcd_client::Client;
use test_support::etcd_server::{Options, Server};

fn newest_record(repository: &Path) -> Option<Value> {
    let newest = names(repository, "backup").into_iter().next()?;
    let json = std::fs::read(repository.join(newest).join("backup.json")).ok()?;
    serde_json::from_slice(&json).ok()
}

#[test]
fn each_node_keeps_whole_backups_while_its_cluster_goes_from_3_5_to_3_6() {
    let (Some(old), Some(new)) = (require(Version(3, 5)), require(Version(3, 6))) else {
        return;
    };
    let mut servers = Server::start_cluster(&old, &Options::default(), 3);
    let dir = TempDir::new().unwrap();
    let repositories: Vec<_> = (0..3)
        .map(|node| dir.path().join(node.to_string()))
        .collect();
    let mut agents: Vec<_> = servers
        .iter()
        .zip(&repositories)
        .map(|(server, repository)| {
            let logs = repository.with_extension("logs");
            std::fs::create_dir(&logs).unwrap();
            let flags = ["--schedule", "@every 1s", "--type", "None"];
            Agent::start_logging_in(server, repository, &logs, &flags)
        })
        .collect();
    // Somebody writes all the while, by whichever member is there.
    let stop = AtomicBool::new(false);
    let acknowledged = AtomicI64::new(0);
    let endpoints: Vec<_> = servers
        .iter()
        .map(|server| server.endpoint.clone())
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let clients: Vec<_> = endpoints.iter().map(|at| Client::connect(at)).collect();
            for number in 0usize.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let key = format!("/registry/pods/{}", number % 500);
                let client = &clients[number % clients.len()];
                if let Some(revision) = client.try_put(key.as_bytes(), &[7; 300]) {
                    acknowledged.store(revision, Ordering::Relaxed);
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        for (server, repository) in servers.iter_mut().zip(&repositories) {
            let version = |version: &str| {
                wait_until(&format!("a backup of {version}"), || {
                    let record = newest_record(repository)?;
                    let found = record["member"]["etcd_version"].as_str()?.to_string();
                    found.starts_with(version).then_some(record)
                })
            };
            version("3.5.");
            server.stop();
            server.start_again(&new);
            version("3.6.");
        }
        // When all are new the cluster's version follows, and the storage's.
        for repository in &repositories {
            wait_until("the new storage version", || {
                let record = newest_record(repository)?;
                (record["snapshot"]["storage_version"] == "3.6.0").then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    let written = acknowledged.load(Ordering::Relaxed);
    for ((agent, repository), server) in agents.iter_mut().zip(&repositories).zip(&servers) {
        wait_until("a backup with all that was written", || {
            let record = newest_record(repository)?;
            (record["snapshot"]["revision"].as_i64()? >= written).then_some(())
        });
        assert_eq!(agent.terminate(), Some(0));
        assert_all_whole(repository);
        assert_eq!(names(repository, "foreign"), [""; 0]);
        assert!(!agent.log().contains("damaged"), "{}", agent.log());
        let newest = names(repository, "backup").remove(0);
        let output = lifeboat(&[
            "verify",
            text(&repository.join(newest)),
            "--against",
            &server.endpoint,
        ]);
        assert!(output.status.success(), "{}", told(&output));
    }
}
