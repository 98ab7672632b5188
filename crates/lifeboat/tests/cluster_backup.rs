//! What must not go wrong with one backup, beside real etcd, a member that lies, and on small disks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{
    SmallDisk, assert_all_whole, backup_once, command, fill, lifeboat, list, names, text, told,
    wait_until,
};
use rstest::rstest;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::bolt_file::{Options as FileOptions, with_trailer, write};
use test_support::etcd_binaries::{Version, require, require_usual};
use test_support::etcd_server::{Options, Server};
use test_support::lying_member::{Lie, LyingMember};

#[rstest]
fn a_backup_is_what_etcds_own_tool_takes_for_whole(
    #[values(Version(3, 4), Version(3, 5), Version(3, 6), Version(3, 7))] version: Version,
) {
    let Some(binaries) = require(version) else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 3);
    let dir = TempDir::new().unwrap();
    let output = backup_once(&server, dir.path(), &["--output", "json"]);
    assert!(output.status.success(), "{}", told(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let levels = ["trailer", "structure", "content", "member"];
    assert_eq!(record["verified"], serde_json::json!(levels));
    let name = names(dir.path(), "backup").remove(0);
    let snapshot = dir.path().join(&name).join(format!("snapshot_{name}.db"));
    let status = binaries.snapshot_status(&snapshot);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let hash = format!("{:08x}", status["hash"].as_u64().unwrap());
    assert_eq!(record["snapshot"]["hash"], hash.as_str());
    assert_eq!(record["snapshot"]["revision"], status["revision"]);
    // And it restores it.
    if let Some(etcdutl) = &binaries.etcdutl {
        let restored = dir.path().join("restored");
        let output = Command::new(etcdutl)
            .args([
                "snapshot",
                "restore",
                text(&snapshot),
                "--data-dir",
                text(&restored),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", told(&output));
    }
}

#[test]
fn a_member_that_is_frozen_in_mid_run_is_told_and_nothing_is_published() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 1);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    server.signal("-STOP");
    let start = Instant::now();
    let output = backup_once(&server, &repository, &[]);
    server.signal("-CONT");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    let log = told(&output);
    assert!(log.contains(&server.endpoint), "{log}");
    assert_eq!(names(&repository, "backup"), [""; 0]);
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn a_member_that_freezes_or_dies_in_mid_stream_is_told_and_nothing_is_published() {
    let Some(binaries) = require_usual() else {
        return;
    };
    for (signal, is_told) in [
        ("-STOP", "sent nothing for 30 s"),
        ("-KILL", "without an answer"),
    ] {
        let server = Server::start(&binaries);
        fill(&server, 60);
        let dir = TempDir::new().unwrap();
        let repository = dir.path().join("backups");
        let flags = ["cluster-backup", "--min-free", "1", "--output", "json"];
        let place = [
            "--endpoints",
            &server.endpoint,
            "--backup-dir",
            text(&repository),
        ];
        let backup = command(&[&flags[..], &place].concat())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the first bytes", || {
            let entries = std::fs::read_dir(&repository).ok()?;
            let partial = entries
                .flatten()
                .find(|entry| entry.file_name().to_string_lossy().starts_with(".partial-"))?;
            let snapshot = std::fs::read_dir(partial.path()).ok()?.flatten().next()?;
            (snapshot.metadata().ok()?.len() > 0).then_some(())
        });
        server.signal(signal);
        let output = backup.wait_with_output().unwrap();
        let log = told(&output);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(is_told), "expected {is_told:?} in {log:?}");
        assert!(list(&repository).is_empty());
    }
}

#[test]
fn with_the_reserve_a_short_disk_is_told_and_nothing_is_lost() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), 128) else {
        return;
    };
    let mount = &disk.0;
    let server = Server::start(&binaries);
    fill(&server, 10);
    let repository = mount.join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    assert!(backup_once(&server, &repository, &[]).status.success());
    let before = names(&repository, "backup");

    // How large etcd's database is depends on how its writes fell together.
    let newest = repository.join(&before[0]);
    let snapshot = newest.join(format!("snapshot_{}.db", before[0]));
    let used = usize::try_from(snapshot.metadata().unwrap().len()).unwrap();
    // Somebody else fills the disk: less is free than a run needs, and the two newest never go.
    let filler = mount.join("filler");
    let mut mib = 128 - ((2 * used) >> 20);
    while std::fs::write(&filler, vec![1; mib << 20]).is_err() {
        mib -= 1;
    }
    let output = backup_once(&server, &repository, &[]);
    assert_eq!(output.status.code(), Some(1));
    let log = told(&output);
    assert!(log.contains("not enough space on the backup disk"), "{log}");
    assert_eq!(names(&repository, "backup"), before);
    assert_eq!(names(&repository, "partial"), [""; 0]);
    assert_all_whole(&repository);

    std::fs::remove_file(&filler).unwrap();
    // Two more fit. How large etcd's database is depends on how its writes fell together.
    let used = std::fs::metadata(
        repository
            .join(&before[0])
            .join(format!("snapshot_{}.db", before[0])),
    );
    let used = usize::try_from(used.unwrap().len()).unwrap();
    std::fs::write(&filler, vec![1; (126 << 20) - 4 * used]).unwrap();
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
    assert_all_whole(&repository);
    // The reserve gives up the oldest, not the run.
    for _ in 0..2 {
        let output = backup_once(&server, &repository, &[]);
        assert!(output.status.success(), "{}", told(&output));
    }
    assert!(!names(&repository, "backup").contains(before.last().unwrap()));
}

#[test]
fn without_quorum_the_snapshot_of_the_member_is_kept_and_recorded_as_such() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let mut servers = Server::start_cluster(&binaries, &Options::default(), 3);
    fill(&servers[0], 1);
    for other in &mut servers[1..] {
        other.stop();
    }
    let dir = TempDir::new().unwrap();
    let output = backup_once(&servers[0], dir.path(), &["--output", "json"]);
    assert!(output.status.success(), "{}", told(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["linearized"], false);
    assert!(
        record["warnings"].to_string().contains("no quorum"),
        "{record:#}"
    );
    assert_eq!(record["members"].as_array().unwrap().len(), 3);
}

#[test]
fn a_learner_is_refused_with_its_reason() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 1);
    let learner = Server::start_learner(&server);
    let dir = TempDir::new().unwrap();
    let output = backup_once(&learner, dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("is a learner"), "{}", told(&output));
    assert!(backup_once(&server, dir.path(), &[]).status.success());
}

#[test]
fn a_stream_that_is_not_whole_is_told_for_what_it_is_and_never_published() {
    let mut store = test_support::etcd_content::Store::default();
    for number in 0..2000u32 {
        store.put(&number.to_be_bytes(), &[7; 100]);
    }
    let database = write(&store.database(), &FileOptions::default());
    let whole = with_trailer(database.clone());
    let mut wrong_trailer = whole.clone();
    *wrong_trailer.last_mut().unwrap() ^= 1;
    let mut damaged = database.clone();
    damaged[8 * 4096] ^= 1;
    let half = database.len() / 2 / 4096 * 4096;
    for (lie, is_told) in [
        (
            Lie::None(database.clone()),
            "ended the snapshot stream after",
        ),
        (
            Lie::EndsEarly(whole.clone(), half),
            "ended the snapshot stream after",
        ),
        (
            Lie::EndsEarly(whole.clone(), half + 32),
            "changed in transit",
        ),
        (
            Lie::EndsEarly(whole.clone(), 0),
            "ended the snapshot stream after 0 bytes",
        ),
        (Lie::None(wrong_trailer), "changed in transit"),
        (
            Lie::None(with_trailer(database[..half].to_vec())),
            "database is damaged",
        ),
        (Lie::None(with_trailer(damaged)), "database is damaged"),
        (Lie::Fails(whole.clone(), half), "the disk is gone"),
        (
            Lie::SendsNothingForEver(whole.clone(), half),
            "the member cannot read its own database",
        ),
        (
            Lie::IsAhead(whole.clone(), 99_999),
            "but the cluster was at revision 99999",
        ),
    ] {
        let member = LyingMember::start(lie);
        let dir = TempDir::new().unwrap();
        let args = [
            "cluster-backup",
            "--backup-dir",
            text(dir.path()),
            "--min-free",
            "1",
            "--endpoints",
            &member.endpoint,
        ];
        let output = lifeboat(&args);
        let log = told(&output);
        assert_eq!(output.status.code(), Some(1), "{is_told}: {log}");
        assert!(log.contains(is_told), "expected {is_told:?} in {log:?}");
        assert!(list(dir.path()).is_empty(), "{is_told}");
    }
}

#[test]
fn a_backup_holds_the_nodes_files_with_owners_modes_and_links() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("config");
    std::fs::create_dir_all(config.join("pki")).unwrap();
    std::fs::write(config.join("pki/ca.key"), "secret").unwrap();
    std::os::unix::fs::symlink("pki/ca.key", config.join("link")).unwrap();
    Command::new("chmod")
        .args(["0640", text(&config.join("pki/ca.key"))])
        .status()
        .unwrap();
    Command::new("mkfifo")
        .arg(config.join("pipe"))
        .status()
        .unwrap();
    let repository = dir.path().join("backups");
    let output = backup_once(
        &server,
        &repository,
        &[
            "--host-root",
            text(dir.path()),
            "--config-dir",
            text(&config),
        ],
    );
    assert!(output.status.success(), "{}", told(&output));
    let name = names(&repository, "backup").remove(0);
    let archive = repository
        .join(&name)
        .join(format!("static_kuberesources_{name}.tar.gz"));
    let back = dir.path().join("back");
    std::fs::create_dir(&back).unwrap();
    let untarred = Command::new("tar")
        .args(["-xpzf", text(&archive), "-C", text(&back)])
        .status()
        .unwrap();
    assert!(untarred.success());
    let listing = |root: &Path| {
        let output = Command::new("find")
            .args([".", "!", "-type", "p", "-printf", "%P %M %U %G %l %s\\n"])
            .current_dir(root)
            .output()
            .unwrap();
        let mut lines: Vec<_> = told(&output).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(listing(&back.join("config")), listing(&config));
    let mode = Command::new("stat")
        .args(["-c", "%a", text(&archive)])
        .output()
        .unwrap();
    assert_eq!(told(&mode).trim(), "600");
}

#[test]
fn reading_a_snapshot_back_keeps_to_its_limit() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 8);
    let dir = TempDir::new().unwrap();
    let flags = ["--output", "json", "--max-bandwidth", "4"];
    let output = backup_once(&server, dir.path(), &flags);
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    // 8 MiB at 4 a second: two seconds. The stream is as fast as ever.
    let took_ms = |step: &str| record["took_ms"][step].as_u64().unwrap();
    assert!(took_ms("verify") >= 1900, "{record:#}");
    assert!(took_ms("stream") < 1900, "{record:#}");
}

#[test]
fn a_frozen_member_is_a_failed_run_within_seconds_also_with_tls() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let options = Options {
        tls: true,
        ..Options::default()
    };
    let server = Server::start_with(&binaries, &options);
    let pki = server.pki.clone().unwrap();
    let dir = TempDir::new().unwrap();
    let flags = [
        "--cacert",
        text(&pki.ca),
        "--cert",
        text(&pki.client_cert),
        "--key",
        text(&pki.client_key),
    ];
    server.signal("-STOP");
    let start = std::time::Instant::now();
    let output = backup_once(&server, &dir.path().join("backups"), &flags);
    let took = start.elapsed();
    server.signal("-CONT");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told(&output).contains("within 5 s: the member may be frozen"),
        "{}",
        told(&output)
    );
    // The limit is 5 s; the rest is for a slow machine.
    assert!(took.as_secs() < 25, "{took:?}");
}

#[test]
fn a_directory_that_is_a_link_is_archived_with_what_it_leads_to_and_other_links_are_said_to_lack() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let (real, config) = (dir.path().join("disk2"), dir.path().join("config"));
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join("ca.key"), "secret").unwrap();
    std::os::unix::fs::symlink("ca.key", real.join("inside")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", real.join("outside")).unwrap();
    std::os::unix::fs::symlink("disk2", &config).unwrap();
    let flags = [
        "--host-root",
        text(dir.path()),
        "--config-dir",
        text(&config),
    ];
    let output = backup_once(&server, &repository, &flags);
    assert!(output.status.success(), "{}", told(&output));
    let name = names(&repository, "backup").remove(0);
    let archive = repository
        .join(&name)
        .join(format!("static_kuberesources_{name}.tar.gz"));
    let list = Command::new("tar")
        .arg("tzf")
        .arg(archive)
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(
        list.contains("config\n") && list.contains("disk2/ca.key\n"),
        "{list}"
    );
    let said = told(&output);
    assert!(said.contains("outside: a link to ../elsewhere"), "{said}");
    assert!(!said.contains("inside: a link"), "{said}");
}

#[test]
fn a_backup_that_is_asked_to_stop_ends_by_itself_and_leaves_nothing() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 60);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let mut backup = command(&["cluster-backup", "--min-free", "1"])
        .args(["--backup-dir", text(&repository)])
        .args(["--endpoints", &server.endpoint])
        .spawn()
        .unwrap();
    wait_until("a run", || names(&repository, "partial").pop());
    node::signal("-TERM", &backup.id().to_string());
    let status = backup.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{status}");
    assert_eq!(names(&repository, "partial"), [""; 0]);
}
