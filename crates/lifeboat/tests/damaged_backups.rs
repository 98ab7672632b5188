//! What each command says and does about a backup that is damaged, for each place that can be and each way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{backup_once, lifeboat, list, names, text, told};
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::Server;

/// For each place and damage: what `list` shows; whether `verify` calls it whole, and if not, which check fails first;
/// what `prune-backups` to the newest two removes, of the oldest, the damaged and the newest; what the next
/// run does, and what is left of the two whole ones then.
const OUTCOMES: &str = "\
place           damage     list     verify                       prune    next run
snapshot header flip       backup   trailer                      oldest   backup, newest whole
snapshot header truncate   unreadable trailer                      -        backup, both whole
snapshot header zero       backup   trailer                      oldest   backup, newest whole
snapshot header delete     unreadable trailer                      -        backup, both whole
snapshot header duplicate  unreadable trailer                      -        backup, both whole
meta 0          flip       backup   trailer                      oldest   backup, newest whole
meta 0          truncate   unreadable trailer                      -        backup, both whole
meta 0          zero       backup   trailer                      oldest   backup, newest whole
meta 0          delete     unreadable trailer                      -        backup, both whole
meta 0          duplicate  unreadable trailer                      -        backup, both whole
meta 1          flip       backup   trailer                      oldest   backup, newest whole
meta 1          truncate   unreadable trailer                      -        backup, both whole
meta 1          zero       backup   trailer                      oldest   backup, newest whole
meta 1          delete     unreadable trailer                      -        backup, both whole
meta 1          duplicate  unreadable trailer                      -        backup, both whole
branch          flip       backup   trailer                      oldest   backup, newest whole
branch          truncate   unreadable trailer                      -        backup, both whole
branch          zero       backup   trailer                      oldest   backup, newest whole
branch          delete     unreadable trailer                      -        backup, both whole
branch          duplicate  unreadable trailer                      -        backup, both whole
leaf            flip       backup   trailer                      oldest   backup, newest whole
leaf            truncate   unreadable trailer                      -        backup, both whole
leaf            zero       backup   trailer                      oldest   backup, newest whole
leaf            delete     unreadable trailer                      -        backup, both whole
leaf            duplicate  unreadable trailer                      -        backup, both whole
trailer         flip       backup   trailer                      oldest   backup, newest whole
trailer         truncate   unreadable trailer                      -        backup, both whole
trailer         zero       backup   trailer                      oldest   backup, newest whole
trailer         delete     unreadable trailer                      -        backup, both whole
trailer         duplicate  unreadable trailer                      -        backup, both whole
record          flip       unreadable files                        -        backup, both whole
record          truncate   unreadable files                        -        backup, both whole
record          zero       unreadable files                        -        backup, both whole
record          delete     unreadable files                        -        backup, both whole
record          duplicate  unreadable files                        -        backup, both whole
blocks.b3       flip       backup   files                        oldest   backup, newest whole
blocks.b3       truncate   backup   files                        oldest   backup, newest whole
blocks.b3       zero       backup   files                        oldest   backup, newest whole
blocks.b3       delete     unreadable files                        -        backup, both whole
blocks.b3       duplicate  backup   files                        oldest   backup, newest whole
archive         flip       backup   files                        oldest   backup, newest whole
archive         truncate   backup   files                        oldest   backup, newest whole
archive         zero       backup   files                        oldest   backup, newest whole
archive         delete     unreadable files                        -        backup, both whole
archive         duplicate  backup   files                        oldest   backup, newest whole
directory name  flip       unreadable whole                        -        backup, both whole
directory name  truncate   unreadable whole                        -        backup, both whole
directory name  zero       foreign  whole                        -        backup, both whole
directory name  delete     -        can't be read                -        backup, both whole
directory name  duplicate  unreadable whole                        oldest   backup, newest whole
";

const PAGE: usize = 4096;
const PLACES: [&str; 10] = [
    "snapshot header",
    "meta 0",
    "meta 1",
    "branch",
    "leaf",
    "trailer",
    "record",
    "blocks.b3",
    "archive",
    "directory name",
];
const DAMAGES: [&str; 5] = ["flip", "truncate", "zero", "delete", "duplicate"];

/// Three backups of one member, never changed: each test takes a copy.
struct Stage {
    server: Server,
    dir: TempDir,
}

impl Stage {
    fn set() -> Option<Stage> {
        let server = Server::start(&require_usual()?);
        let client = server.client();
        // Enough for branch pages.
        for number in 0..400u32 {
            client.put(format!("/registry/pods/{number}").as_bytes(), &[7; 500]);
        }
        // So that no page is left that is free, and still looks like one of a tree.
        client.defragment();
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("config");
        std::fs::create_dir(&config).unwrap();
        std::fs::write(config.join("ca.key"), "secret").unwrap();
        let stage = Stage { server, dir };
        let whole = stage.dir.path().join("whole");
        for _ in 0..3 {
            assert!(stage.run(&whole).status.success());
        }
        Some(stage)
    }

    fn run(&self, repository: &Path) -> std::process::Output {
        let root = self.dir.path();
        lifeboat(&[
            "cluster-backup",
            "--min-free",
            "1",
            "--endpoints",
            &self.server.endpoint,
            "--host-root",
            text(root),
            "--config-dir",
            text(&root.join("config")),
            "--backup-dir",
            text(repository),
        ])
    }

    /// A copy of the repository, and its backups, newest first.
    fn copy(&self, name: &str) -> (PathBuf, Vec<String>) {
        let copy = self.dir.path().join(name);
        let status = Command::new("cp")
            .arg("-a")
            .arg(self.dir.path().join("whole"))
            .arg(&copy)
            .status();
        assert!(status.unwrap().success());
        let backups = names(&copy, "backup");
        (copy, backups)
    }
}

/// The file that a place is in, and where in it; nothing for the whole backup.
fn find(place: &str, backup: &Path, name: &str) -> Option<(PathBuf, Range<usize>)> {
    let snapshot = backup.join(format!("snapshot_{name}.db"));
    let bytes = std::fs::read(&snapshot).unwrap();
    let page_with = |flags: u16| {
        let pages = 2..bytes.len() / PAGE;
        // The last one, which records are in.
        let page = pages.rev().find(|page| {
            let at = page * PAGE;
            let own_id = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            own_id == *page as u64
                && u16::from_le_bytes(bytes[at + 8..at + 10].try_into().unwrap()) == flags
        });
        let at = page.expect("such a page") * PAGE;
        at..at + PAGE
    };
    let whole = |file: PathBuf| {
        let size = std::fs::metadata(&file).unwrap().len() as usize;
        Some((file, 0..size))
    };
    let range = match place {
        "snapshot header" => 0..16,
        "meta 0" => 16..80,
        "meta 1" => PAGE + 16..PAGE + 80,
        "branch" => page_with(1),
        "leaf" => page_with(2),
        "trailer" => bytes.len() - 32..bytes.len(),
        "record" => return whole(backup.join("backup.json")),
        "blocks.b3" => return whole(backup.join("blocks.b3")),
        "archive" => {
            return whole(backup.join(format!("static_kuberesources_{name}.tar.gz")));
        }
        _ => return None,
    };
    Some((snapshot, range))
}

/// Does it, and says where the backup is then.
fn damage(repository: &Path, name: &str, place: &str, damage: &str) -> PathBuf {
    let backup = repository.join(name);
    let Some((file, range)) = find(place, &backup, name) else {
        let other = |name: &str| repository.join(name);
        let renamed = match damage {
            // Another time than the files in it say.
            "flip" => other(&name.replacen('2', "3", 1)),
            "truncate" => other(&name[..name.len() - 1]),
            "zero" => other("0000-00-00_000000"),
            "delete" => {
                std::fs::remove_dir_all(&backup).unwrap();
                return backup;
            }
            _ => {
                let copy = other(&name.replacen('2', "3", 1));
                let status = Command::new("cp").arg("-a").args([&backup, &copy]).status();
                assert!(status.unwrap().success());
                return copy;
            }
        };
        std::fs::rename(&backup, &renamed).unwrap();
        return renamed;
    };
    let whole_file = range.start == 0 && place != "snapshot header";
    let mut bytes = std::fs::read(&file).unwrap();
    let part = bytes[range.clone()].to_vec();
    match damage {
        // In the middle of a record is a name or a number, and what comes of it is another test's.
        "flip" if place == "record" => bytes[0] ^= 4,
        "flip" => bytes[range.start + part.len() / 2] ^= 4,
        "truncate" => bytes.truncate(range.start + part.len() / 2),
        "zero" => bytes[range].fill(0),
        "delete" if whole_file => {
            std::fs::remove_file(&file).unwrap();
            return backup;
        }
        "delete" => drop(bytes.drain(range)),
        _ => drop(bytes.splice(range.end..range.end, part)),
    }
    std::fs::write(&file, bytes).unwrap();
    backup
}

/// What becomes of one damage, as a line of the table.
fn outcome(stage: &Stage, place: &str, how: &str) -> String {
    let (repository, backups) = stage.copy(&format!("{place} {how}"));
    let [newest, middle, oldest] = &backups[..] else {
        panic!("{backups:?}");
    };
    let backup = damage(&repository, middle, place, how);

    let shown = list(&repository)
        .iter()
        .find(|entry| backup.ends_with(entry["name"].as_str().unwrap()))
        .map_or("-".to_string(), |entry| {
            entry["kind"].as_str().unwrap().into()
        });

    let output = lifeboat(&["verify", text(&backup), "--output", "json"]);
    let verified = match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(report) => {
            let failed: Vec<_> = report["checks"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|check| check["ok"] != true)
                .map(|check| check["name"].as_str().unwrap())
                .collect();
            assert_eq!(report["ok"], failed.is_empty());
            // Which of the later checks fail, too, depends on what a page happens to hold.
            failed.first().map_or("whole", |name| *name).to_string()
        }
        Err(_) => {
            let message = told(&output);
            assert!(message.starts_with("error: "), "{message}");
            "can't be read".to_string()
        }
    };
    let expected_code = i32::from(verified != "whole");
    assert_eq!(
        output.status.code(),
        Some(expected_code),
        "{place} {how}: {}",
        told(&output)
    );

    let output = lifeboat(&[
        "prune-backups",
        "--type",
        "RetentionNumber",
        "--max-number-of-backups",
        "2",
        "--backup-path",
        text(&repository),
        "--output",
        "json",
    ]);
    assert!(output.status.success(), "{}", told(&output));
    let pruned: Value = serde_json::from_slice(&output.stdout).unwrap();
    let removed: Vec<_> = pruned["removed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| match name.as_str().unwrap() {
            name if name == oldest => "oldest",
            name if name == newest => "newest",
            name if backup.ends_with(name) => "damaged",
            _ => "its copy's source",
        })
        .collect();
    let pruned = if removed.is_empty() {
        "-".into()
    } else {
        removed.join(",")
    };

    let output = stage.run(&repository);
    let run = if output.status.success() {
        "backup"
    } else {
        "fails"
    };
    let whole = |name: &String| {
        lifeboat(&["verify", text(&repository.join(name))])
            .status
            .success()
    };
    let now = names(&repository, "backup");
    let made: Vec<_> = now
        .iter()
        .filter(|name| !backups.contains(name) && !backup.ends_with(name))
        .collect();
    assert!(made.len() == 1 && whole(made[0]), "{place} {how}: {now:?}");
    let others = match (
        whole(newest),
        repository.join(oldest).exists() && whole(oldest),
    ) {
        (true, true) => "both whole",
        (true, false) if removed.contains(&"oldest") => "newest whole",
        _ => "LOST",
    };
    std::fs::remove_dir_all(&repository).unwrap();
    format!("{place:<15} {how:<10} {shown:<8} {verified:<28} {pruned:<8} {run}, {others}\n")
}

#[test]
fn a_damaged_backup_is_told_by_each_command_and_costs_no_other_backup() {
    let Some(stage) = Stage::set() else {
        return;
    };
    let mut table = OUTCOMES.lines().next().unwrap().to_string() + "\n";
    // Two processors, two halves.
    let halves: Vec<String> = std::thread::scope(|scope| {
        let stage = &stage;
        let threads: Vec<_> = PLACES
            .chunks(PLACES.len() / 2)
            .map(|places| {
                scope.spawn(move || {
                    let cells = places
                        .iter()
                        .flat_map(|place| DAMAGES.map(|how| (*place, how)));
                    cells
                        .map(|(place, how)| outcome(stage, place, how))
                        .collect()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    table.extend(halves);
    assert_eq!(table, OUTCOMES, "\n{table}");
    // What was made for the damages to be in has not changed meanwhile.
    for name in names(&stage.dir.path().join("whole"), "backup") {
        let backup = stage.dir.path().join("whole").join(name);
        assert!(lifeboat(&["verify", text(&backup)]).status.success());
    }
    assert!(
        backup_once(&stage.server, &stage.dir.path().join("whole"), &[])
            .status
            .success()
    );
}

#[test]
fn a_record_that_says_something_else_than_the_snapshot_is_told() {
    let Some(stage) = Stage::set() else {
        return;
    };
    let (repository, backups) = stage.copy("changed record");
    let backup = repository.join(&backups[0]);
    let path = backup.join("backup.json");
    let text_of = std::fs::read_to_string(&path).unwrap();
    let record: Value = serde_json::from_str(&text_of).unwrap();
    let revision = record["snapshot"]["revision"].as_u64().unwrap();
    let changed = text_of.replace(
        &format!("\"revision\": {revision}"),
        &format!("\"revision\": {}", revision + 1),
    );
    assert_ne!(changed, text_of);
    std::fs::write(&path, backup_plan::record::with_digest(&changed)).unwrap();
    let output = lifeboat(&["verify", text(&backup)]);
    let message = told(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let is_told = format!(
        "backup.json says revision {}, the snapshot has {revision}",
        revision + 1
    );
    assert!(message.contains(&is_told), "{message}");
}
