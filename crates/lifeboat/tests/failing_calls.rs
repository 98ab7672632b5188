//! A disk that refuses any one of a run's calls: nothing proven is lost, nothing that is not whole is listed, and it is reported.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{assert_all_whole, backup_once, command, fill, names, text, told};
use std::path::PathBuf;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::Server;

/// A repository with two backups, and a directory of files that go into each.
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
        for _ in 0..2 {
            let output = backup_once(&stage.server, &stage.repository, &[]);
            assert!(output.status.success(), "{}", told(&output));
        }
        Some(stage)
    }

    fn backups(&self) -> Vec<String> {
        names(&self.repository, "backup")
    }
}

#[test]
fn a_disk_that_fails_at_any_call_costs_no_backup_and_is_reported() {
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
        "--type",
        "RetentionNumber",
        "--max-number-of-backups",
        "2",
    ];
    // Each call fails once; the two errors are told apart in a few places only.
    for (errno, every) in [("EIO", 1), ("ENOSPC", 4)] {
        let mut failed = 0;
        for step in (1..).step_by(every) {
            let before = stage.backups();
            let output = command(&args)
                .env("LIFEBOAT_TEST_FAILS_AT_STEP", format!("{step}:{errno}"))
                .output()
                .unwrap();
            let now = stage.backups();
            let said = told(&output);
            // Those that retention gives up for a new one are the only ones that may go.
            assert!(now.len() >= before.len().min(2), "{step}: {said}");
            assert!(now.contains(&before[0]), "{step}: {said}");
            assert_eq!(names(&stage.repository, "unreadable"), [""; 0], "{step}");
            assert_all_whole(&stage.repository);
            let reported = ["os error 5", "os error 28"]
                .iter()
                .any(|error| said.contains(error));
            if !output.status.success() {
                failed += 1;
                assert!(reported, "{step}: {said}");
            } else if !reported {
                // All calls were made, and none has failed.
                break;
            }
            // What is left of it is no matter to the next.
            let output = backup_once(&stage.server, &stage.repository, &args[11..]);
            assert!(output.status.success(), "{step}: {}", told(&output));
            assert_eq!(names(&stage.repository, "partial"), [""; 0], "{step}");
        }
        assert!(failed * every >= 14, "{errno}: {failed}");
    }
}

#[test]
fn a_member_is_asked_for_its_hash_once_a_day_also_when_the_run_fails_after_it() {
    let Some(stage) = Stage::set() else {
        return;
    };
    let repository = stage.dir.path().join("others");
    let run = |fails_at: Option<u64>| {
        let args = [
            "cluster-backup",
            "--min-free",
            "1",
            "--endpoints",
            &stage.server.endpoint,
            "--backup-dir",
            text(&repository),
            "--output",
            "json",
        ];
        let mut command = command(&args);
        if let Some(step) = fails_at {
            command.env("LIFEBOAT_TEST_FAILS_AT_STEP", format!("{step}:EIO"));
        }
        command.output().unwrap()
    };
    // The first call that fails after the member was asked: later ones leave the notes as they are.
    let notes = repository.join(".notes.json");
    // (Where the notes themselves can't be written the member is not asked, and the run goes on.)
    let failed = (1..200).any(|step| {
        let output = run(Some(step));
        !output.status.success() && notes.exists()
    });
    assert!(failed);
    let output = run(None);
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let verified = record["verified"].as_array().unwrap();
    assert!(
        !verified.contains(&"member".into()),
        "it was asked again: {record}"
    );
    assert!(record["compared_at"].is_string(), "{record}");
}
