//! What a member has that lost its quorum, also what is only in its log.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use backup_store::progress::Silent;
use backup_store::restore::{ChangedKey, Difference, Survivor};
use rstest::rstest;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use test_support::etcd_binaries::{Binaries, Version, require};
use test_support::etcd_server::{Options, Server};

/// Three members of which one stopped early, one crashed after it had confirmed everything, and the last one crashed with it.
fn survivor(binaries: &Binaries) -> (Server, Vec<Vec<u8>>) {
    // What is confirmed stays in the log, also on a machine that takes its time: the database is written much later.
    let options = Options {
        flags: vec![
            "--backend-batch-interval=1h".into(),
            "--backend-batch-limit=1000000".into(),
        ],
        ..Options::default()
    };
    let mut members = Server::start_cluster(binaries, &options, 3);
    members.pop().unwrap().crash();
    let mut survivor = members.pop().unwrap();
    let mut other = members.pop().unwrap();
    // It may have been the leader.
    while !survivor
        .etcdctl(&["put", "key-1", "first"])
        .status
        .success()
    {}
    let client = survivor.client();
    let mut confirmed = Vec::new();
    for number in 0..400u32 {
        let key = format!("key-{}", number % 300).into_bytes();
        client.put(&key, &number.to_le_bytes());
        confirmed.push(key);
        if number == 200 {
            survivor.etcdctl_ok(&["del", "key-7"]);
            survivor.etcdctl_ok(&["compact", "50"]);
        }
    }
    other.crash();
    survivor.crash();
    (survivor, confirmed)
}

fn data_dir(server: &Server) -> PathBuf {
    server.db().ancestors().nth(3).unwrap().into()
}

fn changes(from: &Path, to: &Path) -> (Vec<ChangedKey>, u64) {
    let difference = Difference::read(from, to, None, &Silent).unwrap();
    let mut changed = Vec::new();
    let unchanged = difference
        .each(&mut |key| changed.push(key), &Silent)
        .unwrap();
    (changed, unchanged)
}

#[rstest]
fn all_that_was_confirmed_is_collected_from_the_disk_of_one_member(
    #[values(Version(3, 4), Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
) {
    let Some(binaries) = require(version) else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        test_support::requirement::skip("a network of its own for etcd needs root");
        return;
    }
    let (server, confirmed) = survivor(&binaries);
    let scratch = TempDir::new_in(server.dir()).unwrap();
    let survivor = Survivor {
        data_dir: data_dir(&server),
        wal_dir: None,
        etcd: binaries.etcd.clone(),
        quota_backend_bytes: None,
    };
    let before = std::fs::read(server.db()).unwrap();
    let survived = survivor.collect(&scratch.path().join("replay")).unwrap();
    println!("{survived:?}");
    assert!(
        survived.replayed_entries > 0,
        "the crash left nothing to replay"
    );
    // As the log is replayed here, for a comparison.
    let (changed, unchanged) = changes(&data_dir(&server), &survived.db);
    assert!(changed.is_empty(), "{changed:?}");
    let mut keys = confirmed;
    keys.sort();
    keys.dedup();
    assert_eq!(unchanged, keys.len() as u64);
    assert_eq!(
        std::fs::read(server.db()).unwrap(),
        before,
        "the old member stays as it is"
    );
    // Once more, from that: nothing is added.
    let again = Survivor {
        data_dir: scratch.path().join("replay"),
        ..survivor.clone()
    };
    let again = again.collect(&scratch.path().join("again")).unwrap();
    assert!(changes(&survived.db, &again.db).0.is_empty());
}

#[test]
fn a_log_that_cannot_be_replayed_is_refused_with_what_etcd_says() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        test_support::requirement::skip("a network of its own for etcd needs root");
        return;
    }
    let (server, _) = survivor(&binaries);
    let scratch = TempDir::new_in(server.dir()).unwrap();
    let survivor = Survivor {
        data_dir: data_dir(&server),
        wal_dir: None,
        etcd: "/bin/false".into(),
        quota_backend_bytes: None,
    };
    let error = survivor.collect(&scratch.path().join("one")).unwrap_err();
    assert!(error.to_string().contains("etcd ended"), "{error}");
    // A flipped byte in the middle of the log.
    let wal = data_dir(&server).join("member/wal");
    let segment = std::fs::read_dir(wal)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let segment = segment
        .filter(|path| path.to_string_lossy().ends_with(".wal"))
        .min()
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let survivor = Survivor {
        etcd: binaries.etcd.clone(),
        ..survivor
    };
    let error = survivor.collect(&scratch.path().join("two")).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}
