//! What `restore` makes of snapshots that are taken at a bad moment, and of places that are too small.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::restoring::{hash_kv, refused, revision, start_restored};
use node::{fill, lifeboat, text, told};
use rstest::rstest;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use test_support::etcd_binaries::{Version, require, require_usual};
use test_support::etcd_server::{Options, Server};
use test_support::faulty_disk::{FaultyDisk, Filesystem};

const BUMP: [&str; 2] = ["--bump-revision=1000000", "--mark-compacted"];

#[rstest]
fn a_snapshot_in_the_middle_of_a_compaction_is_restored_and_the_compaction_ends(
    #[values(Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
    #[values(false, true)] bump: bool,
) {
    let Some(binaries) = require(version) else {
        return;
    };
    let prefix = match version < Version(3, 6) {
        true => "--experimental-compaction",
        false => "--compaction",
    };
    let options = Options {
        flags: vec![
            format!("{prefix}-batch-limit=10"),
            format!("{prefix}-sleep-interval=2s"),
        ],
        ..Options::default()
    };
    let source = Server::start_with(&binaries, &options);
    let client = source.client();
    for number in 0..300u32 {
        client.put(
            format!("key-{}", number % 7).as_bytes(),
            &number.to_le_bytes(),
        );
    }
    let now = revision(&source);
    let compacted = (now - 20).to_string();
    source.etcdctl_ok(&["compact", &compacted]);
    let snapshot = source.snapshot("s.db", &[]);
    let report = lifeboat(&["verify", "--output=json", text(&snapshot)]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let records = report["records"].as_u64().unwrap();
    assert!(
        records > 100,
        "the compaction has ended before the snapshot: {report:#}"
    );
    let flags: &[&str] = if bump { &BUMP } else { &[] };
    let (restored, _) = start_restored(&binaries, text(&snapshot), flags);
    match bump {
        false => assert_eq!(hash_kv(&restored, now), hash_kv(&source, now)),
        true => assert_eq!(revision(&restored), now + 1_000_000),
    }
    for number in 0..7 {
        let key = format!("key-{number}");
        assert_eq!(
            restored.etcdctl_ok(&["get", &key]),
            source.etcdctl_ok(&["get", &key])
        );
    }
    let old = restored.etcdctl(&["get", "key-1", "--rev", "50"]);
    assert!(told(&old).contains("has been compacted"), "{}", told(&old));
    restored.client().put(b"new", b"1");
}

#[rstest]
fn a_snapshot_with_an_alarm_keeps_it_until_somebody_clears_it(
    #[values(Version(3, 4), Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
    #[values(false, true)] bump: bool,
) {
    let Some(binaries) = require(version) else {
        return;
    };
    let source = Server::start(&binaries);
    fill(&source, 1);
    let client = source.client();
    client.raise_no_space(client.member_id_and_revision().0);
    let snapshot = source.snapshot("s.db", &[]);
    let flags: &[&str] = if bump { &BUMP } else { &[] };
    let (restored, _) = start_restored(&binaries, text(&snapshot), flags);
    let refused = restored.etcdctl(&["put", "new", "1"]);
    assert!(
        told(&refused).contains("database space exceeded"),
        "{}",
        told(&refused)
    );
    restored.etcdctl_ok(&["alarm", "disarm"]);
    restored.etcdctl_ok(&["put", "new", "1"]);
}

#[test]
fn a_snapshot_of_a_cluster_with_a_learner_becomes_a_cluster_without_it() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let source = Server::start(&binaries);
    fill(&source, 1);
    let learner = Server::start_learner(&source);
    let snapshot = source.snapshot("s.db", &[]);
    let now = revision(&source);
    // The learner's own database shows the same members.
    let of_learner = learner.dir().join("copy.db");
    drop(learner.etcdctl(&["endpoint", "status"]));
    learner.signal("-STOP");
    std::fs::copy(learner.db(), &of_learner).unwrap();
    learner.signal("-CONT");
    for (file, flags) in [(&snapshot, &[][..]), (&of_learner, &["--skip-hash-check"])] {
        let (restored, _) = start_restored(&binaries, text(file), flags);
        let members = restored.etcdctl_ok(&["member", "list"]);
        assert_eq!(members.lines().count(), 1, "{members}");
        assert!(members.trim_end().ends_with("false"), "a voter: {members}");
        let reached = revision(&restored);
        assert!(reached <= now);
        assert_eq!(hash_kv(&restored, reached), hash_kv(&source, reached));
        restored.client().put(b"new", b"1");
    }
}

/// Clones need no pause of etcd: this is how a backup without a stream is made.
#[test]
fn databases_that_are_cloned_while_etcd_writes_are_restored() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let Some(disk) = FaultyDisk::mount(Filesystem::Xfs, 600) else {
        return;
    };
    let options = Options {
        flags: vec![format!("--data-dir={}", disk.path().join("etcd").display())],
        ..Options::default()
    };
    let source = Server::start_with(&binaries, &options);
    let db = disk.path().join("etcd/member/snap/db");
    fill(&source, 1);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let client = source.client();
            let mut number = 0u32;
            while !ended.load(Ordering::Relaxed) {
                number += 1;
                client.put(format!("key-{}", number % 500).as_bytes(), &[7; 3000]);
            }
        });
        for number in 0..5 {
            std::thread::sleep(Duration::from_millis(150));
            let clone = disk.path().join(format!("clone-{number}"));
            let cloned = Command::new("cp")
                .arg("--reflink=always")
                .args([&db, &clone])
                .status();
            assert!(cloned.unwrap().success());
            let (restored, _) = start_restored(&binaries, text(&clone), &["--skip-hash-check"]);
            let reached = revision(&restored);
            let hashes = [&restored, &source].map(|server| hash_kv(server, reached));
            assert_eq!(hashes[0], hashes[1], "at revision {reached}");
            drop(restored);
            std::fs::remove_file(clone).unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        writing.join().unwrap();
    });
}

#[test]
fn a_disk_that_is_too_small_is_refused_and_nothing_is_left_on_it() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let Some(disk) = FaultyDisk::mount(Filesystem::Ext4, 64) else {
        return;
    };
    let source = Server::start(&binaries);
    fill(&source, 1);
    let snapshot = source.snapshot("s.db", &[]);
    disk.leave_free(4);
    let free_bytes = disk.free_bytes();
    let place = disk.path().join("etcd");
    let out = disk.path().join("raised.db");
    let raise = [
        "--to-snapshot",
        text(&out),
        "--bump-revision=1000",
        "--mark-compacted",
    ];
    for flags in [
        &["--data-dir", text(&place)][..],
        &["--data-dir", text(&place), "--plan"],
    ] {
        let (code, message) = refused(&[&[text(&snapshot)], flags].concat());
        assert_eq!(code, 1);
        assert!(message.contains("free"), "{message}");
    }
    disk.leave_free(0);
    let (_, message) = refused(&[&[text(&snapshot)], &raise[..]].concat());
    assert!(message.contains("free"), "{message}");
    assert!(!place.exists() && !out.exists());
    assert!(disk.free_bytes() <= free_bytes);
    let dir = TempDir::new().unwrap();
    start_restored(
        &binaries,
        text(&snapshot),
        &["--backup-path", text(dir.path())],
    );
}
