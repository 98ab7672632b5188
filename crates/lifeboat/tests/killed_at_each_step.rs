//! A process that ends before any one of its steps on the disk, as by kill -9: what there was stays, what
//! there is is whole, and the next run clears what was left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{assert_all_whole, backup_once, command, fill, lifeboat, names, text, told};
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::Server;

const LEFT_BY_A_CRASH: [&str; 2] = [".partial-", ".removing-"];

/// What a crash left.
fn left(repository: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(repository).unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| LEFT_BY_A_CRASH.iter().any(|crash| name.starts_with(crash)))
        .collect()
}

/// A command that is killed before its n-th step, or ends by itself if it has fewer.
fn killed_at(step: u64, args: &[&str]) -> (bool, Output) {
    let output = command(args)
        .env("LIFEBOAT_TEST_KILLED_AT_STEP", step.to_string())
        .output()
        .unwrap();
    let survived = output.status.code().is_some();
    assert!(
        !survived || output.status.success(),
        "{step}: {}",
        told(&output)
    );
    (survived, output)
}

/// A repository with three backups, and a directory of files that go into each.
struct Stage {
    server: Server,
    dir: TempDir,
    repository: PathBuf,
}

impl Stage {
    fn set() -> Option<Stage> {
        let server = Server::start(&require_usual()?);
        fill(&server, 1);
        let dir = TempDir::new().unwrap();
        let repository = dir.path().join("backups");
        std::fs::create_dir(dir.path().join("config")).unwrap();
        std::fs::write(dir.path().join("config/ca.key"), "secret").unwrap();
        let stage = Stage {
            server,
            dir,
            repository,
        };
        for _ in 0..3 {
            let output = backup_once(&stage.server, &stage.repository, &[]);
            assert!(output.status.success(), "{}", told(&output));
        }
        Some(stage)
    }

    fn backups(&self) -> Vec<String> {
        names(&self.repository, "backup")
    }

    /// The next run clears what was left, and makes a backup.
    fn next_run(&self, step: u64) {
        let output = backup_once(&self.server, &self.repository, &[]);
        assert!(output.status.success(), "{step}: {}", told(&output));
        assert_eq!(left(&self.repository), [""; 0], "{step}");
    }
}

#[test]
fn a_backup_that_is_killed_before_any_step_is_there_whole_or_not_at_all() {
    let Some(stage) = Stage::set() else {
        return;
    };
    let config = stage.dir.path().join("config");
    let args = [
        "cluster-backup",
        "--min-free",
        "1",
        "--endpoints",
        &stage.server.endpoint,
        "--host-root",
        text(stage.dir.path()),
        "--config-dir",
        text(&config),
        "--backup-dir",
        text(&stage.repository),
    ];
    let (mut unpublished, mut published) = (0, 0);
    for step in 1.. {
        let before = stage.backups();
        let (survived, _) = killed_at(step, &args);
        let now = stage.backups();
        assert!(
            before.iter().all(|name| now.contains(name)),
            "{step}: {before:?} became {now:?}"
        );
        assert_eq!(names(&stage.repository, "foreign"), [""; 0], "{step}");
        if survived {
            break;
        }
        if now.len() == before.len() {
            unpublished += 1;
        } else {
            published += 1;
        }
        assert_all_whole(&stage.repository);
        stage.next_run(step);
        // Only so many that the test stays quick.
        let keep = ["--type", "RetentionNumber", "--max-number-of-backups", "2"];
        lifeboat(
            &[
                &["prune-backups", "--backup-path", text(&stage.repository)][..],
                &keep,
            ]
            .concat(),
        );
    }
    // At least: the lock, the directory, the snapshot with two pieces and its sync, the block hashes, the
    // archive, the record, the directory's sync, the rename; and after it the sync of the repository.
    assert!(unpublished >= 14, "{unpublished}");
    assert_eq!(published, 1);
}

#[test]
fn a_retention_that_is_killed_before_any_step_takes_nothing_but_what_was_to_go() {
    let Some(stage) = Stage::set() else {
        return;
    };
    let args = [
        "prune-backups",
        "--backup-path",
        text(&stage.repository),
        "--type",
        "RetentionNumber",
        "--max-number-of-backups",
        "2",
    ];
    let (mut stayed, mut went) = (0, 0);
    for step in 1.. {
        let before = stage.backups();
        assert_eq!(before.len(), 3, "{step}");
        let (survived, _) = killed_at(step, &args);
        let now = stage.backups();
        assert_eq!(now[..2], before[..2], "{step}");
        if survived {
            assert_eq!(now.len(), 2);
            break;
        }
        if now.len() == 3 {
            stayed += 1;
        } else {
            went += 1;
        }
        assert_all_whole(&stage.repository);
        // A list shows no half of a backup.
        assert_eq!(names(&stage.repository, "foreign"), [""; 0], "{step}");
        stage.next_run(step);
        if stage.backups().len() > 3 {
            assert!(
                lifeboat(&[&args[..5], &["--max-number-of-backups", "3"]].concat())
                    .status
                    .success()
            );
        }
    }
    // The lock and the rename; and then its sync, each file, and the directory.
    assert!(stayed >= 1 && went >= 5, "{stayed} {went}");
}

#[test]
fn a_sweep_that_is_killed_before_any_step_is_finished_by_the_next_run() {
    let Some(stage) = Stage::set() else {
        return;
    };
    let left_before = [".partial-2020-01-01_000000", ".removing-2020-01-01_000001"];
    let args = [
        "cluster-backup",
        "--min-free",
        "1",
        "--endpoints",
        &stage.server.endpoint,
        "--backup-dir",
        text(&stage.repository),
    ];
    // The lock is there already; then the files and directories one after another.
    for step in 2..=7 {
        for name in left_before {
            let path = stage.repository.join(name);
            std::fs::create_dir_all(&path).unwrap();
            for file in ["a", "b"] {
                std::fs::write(path.join(file), file).unwrap();
            }
        }
        let (survived, _) = killed_at(step, &args);
        assert!(!survived);
        assert!(!left(&stage.repository).is_empty(), "{step}");
        assert_all_whole(&stage.repository);
        stage.next_run(step);
    }
}
