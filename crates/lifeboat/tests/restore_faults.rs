//! Restores that are refused, fail or are killed: nothing of others is touched, and nothing is left that etcd would start from.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::restoring::{refused, restored};
use node::{backup_once, fill, lifeboat, names, text, told};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use test_support::etcd_binaries::{VERSIONS, Version, find, require_usual};
use test_support::etcd_server::Server;

#[test]
fn what_can_not_be_restored_is_refused_and_nothing_is_touched() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let mut source = Server::start(&binaries);
    fill(&source, 1);
    let snapshot = source.snapshot("s.db", &[]);
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let data_dir = path("data");
    let bytes = std::fs::read(&snapshot).unwrap();
    let mut flipped = bytes.clone();
    flipped[100_000] ^= 1;
    std::fs::write(path("flipped.db"), flipped).unwrap();
    std::fs::write(path("cut.db"), &bytes[..bytes.len() - 5000]).unwrap();
    std::fs::write(path("raw.db"), &bytes[..bytes.len() - 32]).unwrap();
    std::fs::create_dir_all(path("full/x")).unwrap();
    std::fs::create_dir(path("wal")).unwrap();
    let [flipped, cut, raw, full, wal, missing] = [
        "flipped.db",
        "cut.db",
        "raw.db",
        "full",
        "wal",
        "missing.db",
    ]
    .map(path);
    let snapshot = text(&snapshot);
    let two = "default=http://localhost:2380,b=http://localhost:2380";
    for (source, more, code, problem) in [
        (text(&flipped), vec![], 1, "is damaged: its SHA-256 is"),
        (text(&cut), vec![], 1, "after the last full sector"),
        (text(&raw), vec![], 1, "--skip-hash-check"),
        (text(&missing), vec![], 1, "neither a file nor a backup"),
        (snapshot, vec!["--wal-dir", text(&wal)], 1, "exists"),
        (
            snapshot,
            vec!["--name", "other"],
            1,
            "no member of this name",
        ),
        (
            snapshot,
            vec!["--initial-advertise-peer-urls=http://localhost:1"],
            1,
            "both must be the same",
        ),
        (snapshot, vec!["--initial-cluster", two], 2, "twice"),
        (snapshot, vec!["--initial-cluster=x"], 2, "has no URL"),
        (snapshot, vec!["--bump-revision=5"], 2, "--mark-compacted"),
        (snapshot, vec!["--mark-compacted"], 2, "--bump-revision"),
        (
            snapshot,
            vec!["--bump-revision=9223372036854775807", "--mark-compacted"],
            1,
            "higher than",
        ),
        (
            snapshot,
            vec!["--bump-to-revision=1"],
            1,
            "already at revision",
        ),
        (
            snapshot,
            vec!["--etcd-version=3.5"],
            1,
            "does not start from it",
        ),
        (snapshot, vec!["--etcd-version=2"], 2, "not a version"),
        (snapshot, vec!["--restore-id=x"], 2, "not a restore id"),
    ] {
        let flags = [&[source, "--data-dir", text(&data_dir)], &more[..]].concat();
        let (found, message) = refused(&flags);
        assert!(message.contains(problem), "{flags:?}: {message}");
        assert_eq!(found, code, "{flags:?}: {message}");
        assert!(!data_dir.exists(), "{flags:?}");
    }
    let (_, message) = refused(&[snapshot, "--data-dir", text(&full)]);
    assert!(message.contains("is not empty"), "{message}");
    let db = source.db();
    let running = db.ancestors().nth(3).unwrap();
    let (_, message) = refused(&[snapshot, "--data-dir", text(running)]);
    assert!(message.contains("etcd runs in"), "{message}");

    // Members whose data differed.
    source.stop();
    let corrupt = path("corrupt.db");
    let file = std::fs::read(&raw).unwrap();
    let bolt = etcd_file::bolt::Bolt::open(&file).unwrap();
    let mut rewrite = etcd_file::bolt::Rewrite::of(&bolt).unwrap();
    let alarm = BTreeMap::from([(vec![8, 7, 16, 2], vec![])]);
    rewrite.replace(b"alarm", alarm).unwrap();
    let rewritten = rewrite.finish().unwrap();
    let mut changed = file[..rewritten.old_bytes as usize].to_vec();
    changed.extend(&rewritten.pages);
    changed[..rewritten.metas.len()].copy_from_slice(&rewritten.metas);
    std::fs::write(&corrupt, changed).unwrap();
    let flags = [
        text(&corrupt),
        "--data-dir",
        text(&data_dir),
        "--skip-hash-check",
    ];
    let (_, message) = refused(&flags);
    assert!(message.contains("CORRUPT alarm of member 7"), "{message}");
    restored(&[&flags[..], &["--allow-corrupt-alarm"]].concat());
}

/// Everything below a directory: names, and sizes of files.
fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        found.extend(listing(&entry.path()));
    }
    found
}

/// Starts etcd on copies of directories that are not complete.
fn assert_etcd_does_not_start(version: Version, data_dir: &Path, wal_dir: &Path) {
    let Some(binaries) = find(version) else {
        return;
    };
    let dir = TempDir::new().unwrap();
    for (from, to) in [(data_dir, "data"), (wal_dir, "wal")] {
        let to = dir.path().join(to);
        let copied = Command::new("cp").arg("-r").arg(from).arg(&to).status();
        assert!(copied.unwrap().success());
        std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    let any = "http://127.0.0.1:0";
    let output = Command::new("timeout")
        .arg("20")
        .arg(&binaries.etcd)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .arg("--wal-dir")
        .arg(dir.path().join("wal"))
        .args(["--listen-client-urls", any, "--advertise-client-urls", any])
        .args(["--listen-peer-urls", any])
        .output()
        .unwrap();
    const TIMED_OUT: i32 = 124;
    let code = output.status.code();
    assert!(
        code != Some(0) && code != Some(TIMED_OUT),
        "{version}: {code:?} {}",
        told(&output)
    );
}

#[test]
fn a_restore_that_is_killed_or_fails_at_any_step_leaves_nothing_that_etcd_starts_from() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let source = Server::start(&binaries);
    source.client().put(b"a", b"1");
    let snapshot = source.snapshot("s.db", &[]);
    // In memory, where a sync takes no time: there are some thousand.
    let dir = TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap();
    for apart in [false, true] {
        let mut ended = false;
        let mut unfinished = 0;
        for step in 1.. {
            for fault in ["killed", "EIO", "ENOSPC"] {
                let data_dir = dir.path().join(format!("{apart}-{step}-{fault}"));
                let wal_dir = dir.path().join(format!("{apart}-{step}-{fault}-wal"));
                let mut args = vec!["restore", text(&snapshot), "--data-dir", text(&data_dir)];
                if apart {
                    args.extend(["--wal-dir", text(&wal_dir)]);
                }
                let mut command = node::command(&args);
                match fault {
                    "killed" => command.env("LIFEBOAT_TEST_KILLED_AT_STEP", step.to_string()),
                    fault => command.env("LIFEBOAT_TEST_FAILS_AT_STEP", format!("{step}:{fault}")),
                };
                let output = command.output().unwrap();
                let segment = match apart {
                    true => wal_dir.clone(),
                    false => data_dir.join("member/wal"),
                }
                .join("0000000000000000-0000000000000000.wal");
                // etcd refuses a segment without a byte.
                let is_there = data_dir.join("member").exists()
                    && std::fs::metadata(&segment).is_ok_and(|file| file.len() > 0);
                if output.status.success() {
                    ended |= fault == "killed";
                    assert!(is_there);
                } else {
                    let message = told(&output);
                    let is_told = fault == "killed"
                        || message.contains("cannot ")
                        || message.contains("is complete, but");
                    assert!(is_told, "{step} {fault}: {message}");
                    // Only the last step of all, a sync, can fail when everything is in place.
                    if is_there {
                        let output = lifeboat(&[
                            "verify",
                            "--level=content",
                            text(&data_dir.join("member/snap/db")),
                        ]);
                        assert!(output.status.success(), "{step} {fault}: {}", told(&output));
                    }
                }
                if apart && fault == "killed" && !is_there && data_dir.join("member").exists() {
                    unfinished += 1;
                    for version in VERSIONS {
                        assert_etcd_does_not_start(version, &data_dir, &wal_dir);
                    }
                }
                if !is_there {
                    let output = lifeboat(&args);
                    assert!(
                        output.status.success(),
                        "{step} {fault}: {} {:?}",
                        told(&output),
                        listing(&data_dir)
                    );
                    assert!(!data_dir.join("member.new").exists());
                }
                std::fs::remove_dir_all(&data_dir).unwrap();
                let _ = std::fs::remove_dir_all(&wal_dir);
            }
            if ended {
                assert!(step > 15, "{step}");
                assert_eq!(apart, unfinished > 0);
                break;
            }
        }
    }
}

#[test]
fn a_backup_with_one_flipped_byte_anywhere_is_refused() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let source = Server::start(&binaries);
    fill(&source, 1);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let config = dir.path().join("config");
    std::fs::create_dir(&config).unwrap();
    std::fs::write(config.join("ca.key"), "secret").unwrap();
    let flags = [
        "--host-root",
        text(dir.path()),
        "--config-dir",
        text(&config),
    ];
    assert!(backup_once(&source, &repository, &flags).status.success());
    let name = names(&repository, "backup").remove(0);
    let backup = repository.join(name);
    let files: Vec<_> = std::fs::read_dir(&backup)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    let data_dir = dir.path().join("data");
    let args = [text(&backup), "--data-dir", text(&data_dir)];
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for round in 0..500 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let file = &files[round % files.len()];
        let whole = std::fs::read(file).unwrap();
        let mut flipped = whole.clone();
        let at = (random >> 8) as usize % whole.len();
        flipped[at] ^= 1 << (random & 7);
        std::fs::write(file, flipped).unwrap();
        let output = lifeboat(&[&["restore"], &args[..]].concat());
        assert_eq!(
            output.status.code(),
            Some(1),
            "{} {at} {}",
            file.display(),
            random & 7
        );
        assert!(!data_dir.exists());
        std::fs::write(file, whole).unwrap();
    }
    restored(&args);
}

#[test]
fn what_belongs_to_others_stays_and_two_restores_do_not_meet() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let source = Server::start(&binaries);
    fill(&source, 30);
    let snapshot = source.snapshot("s.db", &[]);
    let snapshot = text(&snapshot);
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);

    // A directory with a name that a restore uses.
    let precious = path("a/member.new/precious");
    std::fs::create_dir_all(precious.parent().unwrap()).unwrap();
    std::fs::write(&precious, "mine").unwrap();
    let a = path("a");
    assert!(
        refused(&[snapshot, "--data-dir", text(&a)])
            .1
            .contains("is not empty")
    );
    assert!(precious.exists());

    // The log of a restore that was killed, and a running etcd whose record names the same directory.
    let wal = path("wal");
    let [one, two] = ["one", "two"].map(path);
    let apart = |data_dir: &Path| {
        let mut command = node::command(&["restore", snapshot, "--data-dir", text(data_dir)]);
        command.current_dir(dir.path()).args(["--wal-dir", "wal"]);
        command
    };
    assert!(apart(&one).output().unwrap().status.success());
    std::fs::remove_dir_all(&wal).unwrap();
    let killed = (20..60).find(|step| {
        let _ = std::fs::remove_dir_all(&two);
        let _ = std::fs::remove_dir_all(&wal);
        let mut command = apart(&two);
        command.env("LIFEBOAT_TEST_KILLED_AT_STEP", step.to_string());
        command.output().unwrap();
        two.join("member").exists()
    });
    assert!(killed.is_some());
    let flags = [snapshot, "--data-dir", text(&one)];
    assert!(refused(&flags).1.contains("is not empty"));
    assert!(one.join("member/snap/db").exists());
    // The right one goes on from where it was, from anywhere.
    let flags = [snapshot, "--data-dir", text(&two), "--wal-dir", text(&wal)];
    restored(&flags);

    // Two at once: one of them is refused, and the other is whole.
    for round in 0..5 {
        let both = path(&format!("both-{round}"));
        let args = ["restore", snapshot, "--data-dir", text(&both)];
        let first = node::command(&args).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 * round));
        let second = lifeboat(&args);
        let first = first.wait_with_output().unwrap();
        let done = [&first, &second].map(|output| output.status.success());
        assert!(done[0] != done[1], "{done:?} {}", told(&second));
        let report = lifeboat(&[
            "verify",
            "--level=content",
            text(&both.join("member/snap/db")),
        ]);
        assert!(report.status.success(), "{}", told(&report));
        assert_eq!(std::fs::read_dir(&both).unwrap().count(), 1);
    }
}

#[test]
fn the_owner_of_the_data_directory_gets_what_is_restored() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let source = Server::start(&binaries);
    let snapshot = source.snapshot("s.db", &[]);
    let dir = TempDir::new().unwrap();
    let [there, gone, wal] = ["there", "gone", "wal"].map(|name| dir.path().join(name));
    std::fs::create_dir(&there).unwrap();
    if std::os::unix::fs::chown(&there, Some(12345), Some(54321)).is_err() {
        test_support::requirement::skip("only root can change the owner of a file");
        return;
    }
    let owners = |path: &Path| {
        let mut all = listing(path);
        all.push(path.into());
        all.iter()
            .map(|path| {
                let metadata = std::fs::symlink_metadata(path).unwrap();
                (metadata.uid(), metadata.gid())
            })
            .collect::<std::collections::BTreeSet<_>>()
    };
    restored(&[text(&snapshot), "--data-dir", text(&there)]);
    let expected = std::collections::BTreeSet::from([(12345, 54321)]);
    assert_eq!(owners(&there), expected);
    // Like the one that it replaces.
    let replaces = ["--wal-dir", text(&wal), "--replaces", text(&there)];
    restored(&[&[text(&snapshot), "--data-dir", text(&gone)], &replaces[..]].concat());
    assert_eq!(owners(&gone), expected);
    assert_eq!(owners(&wal), expected);
}

#[test]
fn the_same_restore_id_and_other_data_is_another_cluster() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let source = Server::start(&binaries);
    fill(&source, 1);
    let snapshot = source.snapshot("s.db", &[]);
    let dir = TempDir::new().unwrap();
    let changed = dir.path().join("changed.db");
    let mut bytes = std::fs::read(&snapshot).unwrap();
    // A byte of a value: its SHA-256 at the end stays.
    let at = bytes.windows(64).position(|value| value == [7; 64]);
    bytes[at.unwrap() + 9] ^= 1;
    std::fs::write(&changed, bytes).unwrap();
    let id = "0123456789abcdef0123456789abcdef";
    let cluster = |snapshot: &Path, more: &[&str]| {
        let data_dir = TempDir::new().unwrap();
        let data_dir = data_dir.path().join("data");
        let flags = [
            text(snapshot),
            "--data-dir",
            text(&data_dir),
            "--restore-id",
            id,
        ];
        restored(&[&flags[..], more].concat())["cluster_id"].clone()
    };
    let right = cluster(&snapshot, &[]);
    assert_eq!(cluster(&snapshot, &["--skip-hash-check"]), right);
    assert_ne!(cluster(&changed, &["--skip-hash-check"]), right);
}
