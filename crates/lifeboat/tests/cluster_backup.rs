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
    let Some(disk) = SmallDisk::mount(dir.path(), 64) else {
        return;
    };
    let mount = &disk.0;
    let server = Server::start(&binaries);
    fill(&server, 10);
    let repository = mount.join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    assert!(backup_once(&server, &repository, &[]).status.success());
    let before = names(&repository, "backup");

    // Somebody else fills the disk: less is free than a run needs, and the two newest never go.
    let filler = mount.join("filler");
    let mut mib = 35;
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
    std::fs::write(&filler, vec![1; 14 << 20]).unwrap();
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
fn what_is_not_ours_is_listed_as_foreign_and_never_touched() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    for _ in 0..3 {
        assert!(backup_once(&server, &repository, &[]).status.success());
    }
    let newest = names(&repository, "backup").remove(0);
    // A copy under another name, a directory with a name like ours, a file, and a damaged record.
    std::fs::create_dir(repository.join("2020-01-01_000000")).unwrap();
    // Nobody will ever write into it, and nobody may wait for that.
    let pipe = repository.join("2020-01-01_000000/backup.json");
    Command::new("mkfifo").arg(pipe).status().unwrap();
    std::fs::create_dir(repository.join("mine")).unwrap();
    std::fs::write(repository.join("notes.txt"), "mine").unwrap();
    std::fs::write(repository.join(".hidden"), "mine").unwrap();
    std::fs::write(repository.join(&newest).join("backup.json"), "{").unwrap();
    let foreign = ["notes.txt", "mine"];
    assert_eq!(names(&repository, "foreign"), foreign);
    // What was a backup of ours is said to be one, and is not removed either.
    let unreadable = [&newest, "2020-01-01_000000"];
    assert_eq!(names(&repository, "unreadable"), unreadable);
    let output = lifeboat(&[
        "prune-backups",
        "--backup-path",
        text(&repository),
        "--type",
        "RetentionNumber",
        "--maxNumberOfBackups",
        "1",
        "--output",
        "json",
    ]);
    let pruned: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(pruned["kept"].as_array().unwrap().len(), 1);
    let removed = pruned["removed"].as_array().unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(
        pruned["reasons"][removed[0].as_str().unwrap()],
        "1 newer backups are kept"
    );
    assert_eq!(names(&repository, "foreign"), foreign);
    assert_eq!(names(&repository, "unreadable"), unreadable);
    assert!(repository.join(".hidden").exists());
}

#[test]
fn a_second_etcd_of_a_node_has_a_repository_of_its_own_and_is_not_taken_for_another_cluster() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let main = dir.path().join("backups");
    let events = main.join("etcd-events");
    let servers = [Server::start(&binaries), Server::start(&binaries)];
    for _ in 0..2 {
        for (server, repository) in servers.iter().zip([&main, &events]) {
            let output = backup_once(server, repository, &[]);
            assert!(output.status.success(), "{}", told(&output));
            assert!(!told(&output).contains("cluster id"), "{}", told(&output));
        }
    }
    for repository in [&main, &events] {
        assert_eq!(names(repository, "backup").len(), 2);
    }
    assert_eq!(names(&main, "foreign"), ["etcd-events"]);
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
fn a_directory_that_others_can_read_keeps_its_mode_and_is_told() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let mode = |path: &Path| {
        let output = Command::new("stat")
            .args(["-c", "%a", text(path)])
            .output()
            .unwrap();
        told(&output).trim().to_string()
    };
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    Command::new("chmod")
        .args(["0755", text(&open)])
        .status()
        .unwrap();
    std::fs::write(open.join("somebody-elses"), "").unwrap();
    let output = backup_once(&server, &open, &[]);
    assert!(
        output.status.success() && told(&output).contains("has mode 0755"),
        "{}",
        told(&output)
    );
    assert_eq!(mode(&open), "755");
    // An empty one, as the kubelet makes it, is for backups alone.
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    Command::new("chmod")
        .args(["0755", text(&empty)])
        .status()
        .unwrap();
    let output = backup_once(&server, &empty, &[]);
    assert!(!told(&output).contains("warning"), "{}", told(&output));
    assert_eq!(mode(&empty), "700");
    let ours = dir.path().join("made/by/us");
    let output = backup_once(&server, &ours, &[]);
    assert!(!told(&output).contains("warning"), "{}", told(&output));
    assert_eq!(mode(&ours), "700");
    let name = names(&ours, "backup").remove(0);
    assert_eq!(mode(&ours.join(&name)), "700");
    for file in std::fs::read_dir(ours.join(&name)).unwrap().flatten() {
        assert_eq!(mode(&file.path()), "600", "{file:?}");
    }
}

#[test]
fn a_flipped_byte_of_a_backup_is_named_by_its_place() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 2);
    let dir = TempDir::new().unwrap();
    assert!(backup_once(&server, dir.path(), &[]).status.success());
    let name = names(dir.path(), "backup").remove(0);
    let backup = dir.path().join(&name);
    let snapshot = backup.join(format!("snapshot_{name}.db"));
    let mut bytes = std::fs::read(&snapshot).unwrap();
    bytes[1_000_000] ^= 4;
    std::fs::write(&snapshot, bytes).unwrap();
    let output = lifeboat(&["verify", text(&backup)]);
    assert_eq!(output.status.code(), Some(1));
    let log = told(&output);
    assert!(
        log.contains("the snapshot differs from what was written at offsets 983040 to 1048576"),
        "{log}"
    );
}

#[test]
fn an_archive_that_is_not_whole_costs_no_backup_and_is_reported() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let config = dir.path().join("config");
    std::fs::create_dir_all(config.join("tmp/etcd-backup")).unwrap();
    std::fs::write(config.join("ca.key"), "secret").unwrap();
    // kubeadm leaves copies of etcd's data there, and somebody else a large file.
    for (name, mib) in [("tmp/etcd-backup/db", 200), ("snapshot.db", 9)] {
        let file = std::fs::File::create(config.join(name)).unwrap();
        file.set_len(mib << 20).unwrap();
    }
    let flags = [
        "--host-root",
        text(dir.path()),
        "--config-dir",
        text(&config),
    ];
    let output = backup_once(&server, &repository, &flags);
    assert!(output.status.success(), "{}", told(&output));
    assert!(
        told(&output).contains("is incomplete") && told(&output).contains("snapshot.db"),
        "{}",
        told(&output)
    );
    let name = names(&repository, "backup").remove(0);
    let record = std::fs::read(repository.join(&name).join("backup.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(
        record["archive_missing"].as_array().unwrap().len(),
        1,
        "{record}"
    );
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
        list.contains("config/ca.key") && !list.contains("config/tmp"),
        "{list}"
    );
    assert_all_whole(&repository);
}

#[test]
fn a_backup_that_somebody_holds_is_kept_until_it_is_released() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    for _ in 0..4 {
        assert!(backup_once(&server, &repository, &[]).status.success());
    }
    let all = names(&repository, "backup");
    let hold = |args: &[&str]| {
        let path = ["--backup-path", text(&repository)];
        lifeboat(&[&["hold"][..], args, &path].concat())
    };
    let prune = || {
        let path = ["--backup-path", text(&repository)];
        let keep = ["--type", "RetentionNumber", "--max-number-of-backups", "1"];
        lifeboat(&[&["prune-backups"][..], &path, &keep].concat())
    };
    assert!(hold(&[&all[3]]).status.success());
    // Twice is as good as once.
    assert!(hold(&[&all[3]]).status.success());
    assert!(prune().status.success());
    assert_eq!(
        names(&repository, "backup"),
        [all[0].clone(), all[3].clone()]
    );
    let listed = node::list(&repository);
    assert_eq!(
        (&listed[0]["held"], &listed[1]["held"]),
        (&false.into(), &true.into())
    );
    let table = told(&lifeboat(&["list", "--backup-path", text(&repository)]));
    assert_eq!(table.matches(" held").count(), 1, "{table}");
    // What a crash has hidden comes back if it is held.
    std::fs::rename(
        repository.join(&all[3]),
        repository.join(format!(".removing-{}", all[3])),
    )
    .unwrap();
    assert!(prune().status.success());
    assert!(names(&repository, "backup").contains(&all[3]));
    assert!(hold(&["--release", &all[3]]).status.success());
    assert!(prune().status.success());
    assert_eq!(names(&repository, "backup"), [all[0].clone()]);
    for wrong in [&all[3], "2020-01-01_000000", "..", "x/y", ""] {
        let output = hold(&[wrong]);
        assert_eq!(output.status.code(), Some(1), "{wrong}");
        assert!(told(&output).contains("has no backup"), "{}", told(&output));
    }
}

#[test]
fn the_largest_sequence_that_a_record_can_have_makes_no_later_backup_an_old_one() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    let first = names(&repository, "backup").remove(0);
    let path = repository.join(&first).join("backup.json");
    let record = std::fs::read_to_string(&path).unwrap();
    let largest = format!("\"sequence\": {}", u64::MAX);
    std::fs::write(&path, record.replacen("\"sequence\": 1", &largest, 1)).unwrap();
    let keep = ["--type", "RetentionNumber", "--max-number-of-backups", "2"];
    for _ in 0..3 {
        let output = backup_once(&server, &repository, &keep);
        assert!(output.status.success(), "{}", told(&output));
        let made = told(&output);
        let newest = names(&repository, "backup").remove(0);
        assert!(
            made.contains(&newest),
            "the newest is the one just made: {made}"
        );
    }
    assert_eq!(names(&repository, "backup").len(), 2);
    assert!(!names(&repository, "backup").contains(&first));
}

#[test]
fn a_record_that_somebody_forged_forges_no_row() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    let name = names(&repository, "backup").remove(0);
    let path = repository.join(&name).join("backup.json");
    let record = std::fs::read_to_string(&path).unwrap();
    let forged = record.replacen(
        "on-demand",
        "x\\u001b[2J\\n2030-01-01_000000 backup default",
        1,
    );
    std::fs::write(&path, forged).unwrap();
    std::fs::create_dir(repository.join("a\nb\u{1b}[1m")).unwrap();
    let output = lifeboat(&["list", "--backup-path", text(&repository)]);
    let shown = told(&output);
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    assert!(
        !shown.lines().any(|line| line.starts_with("2030")),
        "{shown}"
    );
    assert!(shown.contains("is not a valid name of a Backup"), "{shown}");
    let output = backup_once(&server, &repository, &["--origin", "Not a name"]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
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
