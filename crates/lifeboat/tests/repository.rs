//! What is in a repository: what counts as a backup, what is kept, and what is done with a backup later.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{assert_all_whole, backup_once, fill, lifeboat, list, names, text, told};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::Server;

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
    let forged = record.replacen("\"sequence\": 1", &largest, 1);
    std::fs::write(&path, backup_plan::record::with_digest(&forged)).unwrap();
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
    std::fs::write(&path, backup_plan::record::with_digest(&forged)).unwrap();
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
    assert_eq!(names(&events, "backup").len(), 2);
    // It is listed with the other one, and is not foreign there.
    let etcds: Vec<_> = list(&main)
        .iter()
        .map(|line| line["etcd"].as_str().map(String::from))
        .collect();
    let events = || Some("events".to_string());
    assert_eq!(etcds, [None, None, events(), events()]);
}

#[test]
fn the_restore_of_the_readme_works_as_it_is_written() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 3);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"));
    let readme = readme.unwrap();
    let (_, block) = readme.split_once("```sh restore\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let restored = dir.path().join("restored");
    let script = block
        .replace(
            "latest",
            &format!("latest --backup-path {}", text(&repository)),
        )
        .replace("/var/lib/etcd ", &format!("{} ", text(&restored)));
    let program = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"));
    let bin = text(program.parent().unwrap());
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euc", &script])
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(
        restored.join("member/snap/db").is_file(),
        "{}",
        told(&output)
    );
    let name = names(&repository, "backup").remove(0);
    let snapshot = repository.join(&name).join(format!("snapshot_{name}.db"));
    assert_eq!(
        test_support::etcd_start::start(&binaries, &snapshot),
        test_support::etcd_start::Started::Serves
    );
}
