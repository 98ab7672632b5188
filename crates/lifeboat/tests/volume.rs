//! What must not go wrong with the copies of backups on a volume.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{SmallDisk, assert_all_whole, backup_once, command, fill, lifeboat, names, text, told};
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::Server;

/// A node's repository, and a volume.
struct Stage {
    server: Server,
    dir: TempDir,
    repository: PathBuf,
    volume: PathBuf,
}

impl Stage {
    fn set(backups: usize) -> Option<Stage> {
        let server = Server::start(&require_usual()?);
        fill(&server, 1);
        let dir = TempDir::new().unwrap();
        let stage = Stage {
            repository: dir.path().join("backups"),
            volume: dir.path().join("volume"),
            server,
            dir,
        };
        std::fs::create_dir(&stage.volume).unwrap();
        for _ in 0..backups {
            stage.back_up();
        }
        Some(stage)
    }

    fn back_up(&self) {
        let output = backup_once(&self.server, &self.repository, &[]);
        assert!(output.status.success(), "{}", told(&output));
    }

    fn flags<'f>(&'f self, volume: &'f Path) -> Vec<&'f str> {
        vec![
            "volume-server",
            "--once",
            "--backup-path",
            text(&self.repository),
            "--volume-path",
            text(volume),
        ]
    }

    fn copy(&self, more: &[&str]) -> Output {
        lifeboat(&[&self.flags(&self.volume), more].concat())
    }
}

#[test]
fn each_proven_backup_is_copied_once_with_its_files_and_its_record() {
    let Some(stage) = Stage::set(3) else {
        return;
    };
    let output = stage.copy(&[]);
    assert!(output.status.success(), "{}", told(&output));
    let copies = names(&stage.volume, "backup");
    assert_eq!(copies, names(&stage.repository, "backup"));
    assert_all_whole(&stage.volume);
    for name in &copies {
        for file in std::fs::read_dir(stage.repository.join(name))
            .unwrap()
            .flatten()
        {
            let copy = stage.volume.join(name).join(file.file_name());
            assert_eq!(
                std::fs::read(file.path()).unwrap(),
                std::fs::read(copy).unwrap()
            );
        }
    }
    let again = stage.copy(&[]);
    assert!(
        !told(&again).contains("copied to the volume"),
        "{}",
        told(&again)
    );
    // Retention on the volume is its own, and what it removed does not come back.
    let two = stage.copy(&["--max-number-of-backups=2"]);
    assert!(two.status.success(), "{}", told(&two));
    stage.back_up();
    let two = stage.copy(&["--max-number-of-backups=2"]);
    assert!(two.status.success(), "{}", told(&two));
    let newest: Vec<_> = names(&stage.repository, "backup")
        .into_iter()
        .take(2)
        .collect();
    assert_eq!(names(&stage.volume, "backup"), newest);
    let again = stage.copy(&["--max-number-of-backups=2"]);
    assert!(again.status.success());
    assert_eq!(names(&stage.volume, "backup"), newest);
}

#[test]
fn a_backup_that_is_damaged_on_the_disk_is_not_copied_and_is_named_and_newer_ones_are_copied() {
    let Some(stage) = Stage::set(1) else {
        return;
    };
    assert!(stage.copy(&[]).status.success());
    stage.back_up();
    let name = names(&stage.repository, "backup").remove(0);
    let snapshot = stage
        .repository
        .join(&name)
        .join(format!("snapshot_{name}.db"));
    let mut bytes = std::fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    stage.back_up();
    let newest = names(&stage.repository, "backup").remove(0);
    let output = stage.copy(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(
        told(&output).contains(&name) && told(&output).contains("SHA-256"),
        "{}",
        told(&output)
    );
    let copies = names(&stage.volume, "backup");
    assert_eq!((copies.len(), &copies[0]), (2, &newest));
    assert_eq!(names(&stage.volume, "partial"), [""; 0]);
    assert_all_whole(&stage.volume);
}

#[test]
fn a_repository_that_was_begun_anew_goes_on_on_the_volume() {
    let Some(stage) = Stage::set(3) else {
        return;
    };
    assert!(stage.copy(&[]).status.success());
    let before = names(&stage.volume, "backup");
    std::fs::remove_dir_all(&stage.repository).unwrap();
    // A name is a time in seconds, and three backups within one second take the names of the next ones.
    std::thread::sleep(std::time::Duration::from_millis(4100));
    stage.back_up();
    let output = stage.copy(&["--type=None"]);
    assert!(output.status.success(), "{}", told(&output));
    let after = names(&stage.volume, "backup");
    assert_eq!(after.len(), 4);
    assert_eq!(after[1..], before, "the new one is the newest");
    assert_all_whole(&stage.volume);
}

#[test]
fn a_volume_that_is_too_small_loses_its_oldest_copies_and_keeps_the_newest_two() {
    let Some(stage) = Stage::set(0) else {
        return;
    };
    fill(&stage.server, 4);
    stage.back_up();
    let Some(disk) = SmallDisk::mount(stage.dir.path(), 64) else {
        return;
    };
    let copy = || lifeboat(&[&stage.flags(&disk.0)[..], &["--type=None"]].concat());
    let mut made = 1;
    loop {
        let output = copy();
        assert!(output.status.success(), "{}", told(&output));
        if told(&output).contains("from the volume: not enough space") {
            break;
        }
        made += 1;
        assert!(made < 20, "it never was full");
        stage.back_up();
    }
    let kept = names(&disk.0, "backup");
    let newest = names(&stage.repository, "backup").remove(0);
    assert_eq!(kept[0], newest);
    assert!(kept.len() >= 2 && kept.len() < made, "{kept:?}");
    assert_all_whole(&disk.0);
    // What can never fit is refused with what to do, and nothing is lost.
    fill(&stage.server, 100);
    stage.back_up();
    let output = copy();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told(&output).contains("use a larger volume"),
        "{}",
        told(&output)
    );
    assert_eq!(names(&disk.0, "backup")[0], newest);
    assert_all_whole(&disk.0);
}

#[test]
fn a_copy_that_is_killed_before_any_step_is_there_whole_or_not_at_all() {
    let Some(stage) = Stage::set(2) else {
        return;
    };
    let names_there = names(&stage.repository, "backup");
    for step in 1.. {
        let volume = stage.dir.path().join(format!("volume-{step}"));
        std::fs::create_dir(&volume).unwrap();
        let killed = command(&stage.flags(&volume))
            .env("LIFEBOAT_TEST_KILLED_AT_STEP", step.to_string())
            .output()
            .unwrap();
        assert_all_whole(&volume);
        // The next one clears what was left, and goes on.
        let next = lifeboat(&stage.flags(&volume));
        assert!(next.status.success(), "{step}: {}", told(&next));
        assert_eq!(names(&volume, "backup"), names_there, "{step}");
        assert_eq!(names(&volume, "partial"), [""; 0], "{step}");
        assert_all_whole(&volume);
        std::fs::remove_dir_all(&volume).unwrap();
        if killed.status.code().is_some() {
            assert!(step > 10, "it has {step} steps");
            return;
        }
    }
}
