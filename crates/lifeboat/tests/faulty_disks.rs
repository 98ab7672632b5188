//! Disks that lie, hang, free space late or lose power: nothing false is published, nothing proven is lost in vain, and
//! etcd does not notice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{
    Agent, assert_all_whole, backup_once, command, fill_with_noise, http_get, names, text, told,
    wait_until,
};
use rstest::rstest;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::Server;
use test_support::faulty_disk::{FaultyDisk, Filesystem};

/// A repository with some backups on a disk that has no room for one more.
fn full_repository(
    filesystem: Filesystem,
    backups: usize,
) -> Option<(Server, FaultyDisk, PathBuf)> {
    let binaries = require_usual()?;
    let disk = FaultyDisk::mount(filesystem, 700)?;
    let server = Server::start(&binaries);
    fill_with_noise(&server, 24);
    let repository = disk.path().join("backups");
    for _ in 0..backups {
        let output = backup_once(&server, &repository, &[]);
        assert!(output.status.success(), "{}", told(&output));
    }
    disk.leave_free(20);
    Some((server, disk, repository))
}

#[rstest]
#[case(Filesystem::Ext4)]
#[case(Filesystem::Xfs)]
#[case(Filesystem::Btrfs)]
fn a_filesystem_that_frees_space_late_costs_one_backup_where_one_is_enough(
    #[case] filesystem: Filesystem,
) {
    let Some((server, _disk, repository)) = full_repository(filesystem, 5) else {
        return;
    };
    let before = names(&repository, "backup");
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
    let now = names(&repository, "backup");
    assert_eq!(now[1..], before[..4], "{}", told(&output));
    assert!(told(&output).contains(&before[4]), "{}", told(&output));
    assert_all_whole(&repository);
}

/// As a deduplication or a clone of the member's database does it.
#[test]
fn backups_that_share_all_their_space_are_not_removed_in_vain() {
    let Some((server, disk, repository)) = full_repository(Filesystem::Xfs, 5) else {
        return;
    };
    let before = names(&repository, "backup");
    let snapshot = |name: &str| repository.join(name).join(format!("snapshot_{name}.db"));
    for name in &before[..4] {
        let status = Command::new("cp")
            .arg("--reflink=always")
            .args([snapshot(&before[4]), snapshot(name)])
            .status()
            .unwrap();
        assert!(status.success(), "XFS shares blocks");
    }
    let synced = Command::new("sync").arg("-f").arg(disk.path()).status();
    assert!(synced.unwrap().success());
    disk.leave_free(20);
    let output = backup_once(&server, &repository, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(
        told(&output).contains("not enough space on the backup disk"),
        "{}",
        told(&output)
    );
    assert_eq!(names(&repository, "backup"), before, "{}", told(&output));
}

#[test]
fn a_backup_that_somebody_reads_frees_nothing_and_no_other_is_removed_for_it() {
    let Some((server, _disk, repository)) = full_repository(Filesystem::Ext4, 5) else {
        return;
    };
    let before = names(&repository, "backup");
    // As an export or restic does it.
    let oldest = repository
        .join(&before[4])
        .join(format!("snapshot_{}.db", before[4]));
    let reader = std::fs::File::open(oldest).unwrap();
    for _ in 0..2 {
        let output = backup_once(&server, &repository, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(
            told(&output).contains("another process may hold"),
            "{}",
            told(&output)
        );
        assert_eq!(names(&repository, "backup"), before[..4]);
    }
    drop(reader);
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(names(&repository, "backup")[1..], before[..4]);
}

/// A backup that is made slowly, while its blocks change on the disk between its sync and its proof.
fn backup_on_a_lying_disk(server: &Server, disk: &FaultyDisk, repository: &Path) -> Output {
    let args = [
        "cluster-backup",
        "--backup-dir",
        text(repository),
        "--min-free",
        "1",
        "--max-bandwidth",
        "2",
        "--endpoints",
        &server.endpoint,
    ];
    let child = command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let snapshot = wait_until("the snapshot", || {
        let partial = names(repository, "partial").pop()?;
        let name = partial.strip_prefix(".partial-")?.to_string();
        Some(
            repository
                .join(&partial)
                .join(format!("snapshot_{name}.db")),
        )
    });
    let mut last = (0, Instant::now());
    wait_until("all of the snapshot", || {
        let bytes = snapshot.metadata().map_or(0, |metadata| metadata.len());
        if bytes != last.0 || bytes % 4096 != 32 {
            last = (bytes, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(700)).then_some(())
    });
    disk.sync();
    let changed = disk.corrupt(&snapshot, 4000, 50);
    assert_eq!(changed, 50);
    child.wait_with_output().unwrap()
}

#[rstest]
#[case(Filesystem::Ext4)]
#[case(Filesystem::Xfs)]
#[case(Filesystem::Btrfs)]
fn what_the_disk_holds_is_proven_and_not_what_memory_still_has_of_it(
    #[case] filesystem: Filesystem,
) {
    let Some(binaries) = require_usual() else {
        return;
    };
    let Some(disk) = FaultyDisk::mount(filesystem, 400) else {
        return;
    };
    let server = Server::start(&binaries);
    fill_with_noise(&server, 24);
    let repository = disk.path().join("backups");
    std::fs::create_dir(&repository).unwrap();
    let output = backup_on_a_lying_disk(&server, &disk, &repository);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(
        told(&output).contains("the backup disk"),
        "{}",
        told(&output)
    );
    // The member is well: nobody is to replace it.
    assert!(!told(&output).contains("replace"), "{}", told(&output));
    assert_eq!(names(&repository, "backup"), [""; 0]);
    // A disk that tells the truth again has a backup, and its record says how it was read.
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
    let name = &names(&repository, "backup")[0];
    let record = std::fs::read_to_string(repository.join(name).join("backup.json")).unwrap();
    assert!(record.contains("\"read_back\": \"direct\""), "{record}");
}

/// How many read transactions of etcd are open; each keeps pages that its database then grows around.
fn open_reads(server: &Server) -> u64 {
    // They are counted when one begins, so after a commit.
    server.client().put(b"counted", b"");
    std::thread::sleep(Duration::from_millis(200));
    let address = server.endpoint.strip_prefix("http://").unwrap();
    let (_, metrics) = http_get(address, "/metrics");
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("etcd_mvcc_db_open_read_transactions "))
        .unwrap();
    line.trim().parse::<f64>().unwrap() as u64
}

#[test]
fn a_disk_that_hangs_in_mid_stream_holds_neither_etcd_nor_health_nor_the_way_out() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let Some(disk) = FaultyDisk::mount(Filesystem::Ext4, 900) else {
        return;
    };
    let server = Server::start(&binaries);
    fill_with_noise(&server, 400);
    let repository = disk.path().join("backups");
    let logs = TempDir::new().unwrap();
    let mut agent = Agent::start_logging_in(
        &server,
        &repository,
        logs.path(),
        &["--schedule", "@every 5s"],
    );
    wait_until("the first MiB", || {
        let partial = names(&repository, "partial").pop()?;
        let mut files = std::fs::read_dir(repository.join(partial)).ok()?.flatten();
        files.find(|file| {
            file.metadata()
                .is_ok_and(|metadata| metadata.len() > 1 << 20)
        })
    });
    let while_streaming = open_reads(&server);
    let frozen = disk.freeze();
    let since = Instant::now();
    let log = agent.wait_for("reason=\"disk-hangs\"");
    assert!(
        since.elapsed() < Duration::from_secs(60),
        "{:?}: {log}",
        since.elapsed()
    );
    let let_go = Instant::now();
    wait_until("the end of etcd's read transaction", || {
        (open_reads(&server) < while_streaming).then_some(())
    });
    assert!(let_go.elapsed() < Duration::from_secs(5));
    assert_eq!(agent.get("/healthz").0, 200);
    let (_, metrics) = agent.get("/metrics");
    assert!(metrics.contains("reason=\"disk-hangs\"} 1"), "{metrics}");
    // It waits for the same disk, and does not begin anew.
    agent.wait_for("failures=2");
    agent.signal("-TERM");
    let address = agent.log();
    let address = address.split("metrics on http://").nth(1).unwrap();
    let address = address.split('/').next().unwrap().to_string();
    let since = Instant::now();
    wait_until("the listener's end", || {
        TcpStream::connect(&address).is_err().then_some(())
    });
    assert!(since.elapsed() < Duration::from_secs(5));
    drop(frozen);
    agent.child.wait().unwrap();
    // What it left is swept by the next run.
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(names(&repository, "partial"), [""; 0]);
    assert_all_whole(&repository);
}

#[rstest]
#[case(Filesystem::Ext4)]
#[case(Filesystem::Xfs)]
fn a_backup_that_was_published_is_whole_after_the_power_fails(#[case] filesystem: Filesystem) {
    let Some(binaries) = require_usual() else {
        return;
    };
    let Some(disk) = FaultyDisk::mount(filesystem, 400) else {
        return;
    };
    let server = Server::start(&binaries);
    fill_with_noise(&server, 24);
    let repository = disk.path().join("backups");
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
    disk.cut_power();
    let listed = command(&["list", "--backup-path", text(&repository)])
        .output()
        .unwrap();
    assert_eq!(names(&repository, "backup").len(), 1, "{}", told(&listed));
    assert_all_whole(&repository);
}

#[test]
fn what_can_not_be_removed_and_what_is_no_lock_are_reported_and_do_not_stop_backups() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let Some(disk) = FaultyDisk::mount(Filesystem::Ext4, 100) else {
        return;
    };
    let server = Server::start(&binaries);
    let repository = disk.path().join("backups");
    let stuck = repository.join(".partial-2020-01-01_000000");
    std::fs::create_dir_all(&stuck).unwrap();
    std::fs::write(stuck.join("file"), "").unwrap();
    let immutable = |how: &str| {
        let changed = Command::new("chattr").arg(how).arg(&stuck).status();
        changed.is_ok_and(|status| status.success())
    };
    assert!(immutable("+i"));
    let fifo = Command::new("mkfifo")
        .arg(repository.join(".lock"))
        .status();
    assert!(fifo.unwrap().success());
    let logs = TempDir::new().unwrap();
    let mut agent = Agent::start_logging_in(
        &server,
        &repository,
        logs.path(),
        &["--schedule", "@every 2s"],
    );
    let log = agent.wait_for("backup made");
    assert!(log.contains("2020-01-01_000000"), "{log}");
    assert_eq!(agent.terminate(), Some(0));
    assert!(immutable("-i"));
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_gets_room_by_the_oldest_backup() {
    let Some((server, disk, repository)) = full_repository(Filesystem::Ext4, 4) else {
        return;
    };
    let mut number = 0;
    for size in [1 << 20, 4096, 1] {
        loop {
            let path = disk.path().join(format!("filler-{number}"));
            number += 1;
            if std::fs::write(path, vec![1; size]).is_err() {
                break;
            }
        }
    }
    let before = names(&repository, "backup");
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
    // Nothing is free, and a run needs a little more than one backup takes.
    assert_eq!(names(&repository, "backup")[1..], before[..2]);
    assert_all_whole(&repository);
}
