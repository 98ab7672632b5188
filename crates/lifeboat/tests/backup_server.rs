//! What must not go wrong with a node's backups, beside real etcd and on real filesystems.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use rstest::rstest;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::bolt_file::{Options as FileOptions, with_trailer, write};
use test_support::etcd_binaries::{Version, require};
use test_support::etcd_server::{Options, Server};
use test_support::lying_member::{Lie, LyingMember};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-lifeboat"));
    command.args(args).env_remove("ETCDCTL_ENDPOINTS");
    command
}

fn lifeboat(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A running `backup-server`; dropping it kills it.
struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    fn start(server: &Server, repository: &Path, more: &[&str]) -> Agent {
        Agent::start_logging_in(server, repository, repository.parent().unwrap(), more)
    }

    fn start_logging_in(
        server: &Server,
        repository: &Path,
        log_dir: &Path,
        more: &[&str],
    ) -> Agent {
        Agent::start_as(|_| {}, server, repository, log_dir, more)
    }

    fn start_as(
        change: impl Fn(&mut Command),
        server: &Server,
        repository: &Path,
        log_dir: &Path,
        more: &[&str],
    ) -> Agent {
        let log = log_dir.join("agent.log");
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let flags = [
            "backup-server",
            "--endpoints",
            &server.endpoint,
            "--backup-path",
            text(repository),
        ];
        let reserve: &[&str] = if more.contains(&"--min-free") {
            &[]
        } else {
            &["--min-free", "1"]
        };
        let mut command = command(&[&flags, reserve, more].concat());
        change(&mut command);
        let child = command.stderr(file).spawn().unwrap();
        Agent { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn wait_for(&self, told: &str) -> String {
        wait_until(told, || {
            let log = self.log();
            log.contains(told).then_some(log)
        })
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM");
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "SIGTERM took too long"
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        status.code()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn list(repository: &Path) -> Vec<Value> {
    let output = lifeboat(&[
        "list",
        "--backup-path",
        text(repository),
        "--output",
        "json",
    ]);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn names(repository: &Path, kind: &str) -> Vec<String> {
    list(repository)
        .iter()
        .filter(|entry| entry["kind"] == kind)
        .map(|entry| entry["name"].as_str().unwrap().to_string())
        .collect()
}

fn backup_once(server: &Server, repository: &Path, more: &[&str]) -> Output {
    let flags = [
        "cluster-backup",
        "--backup-dir",
        text(repository),
        "--min-free",
        "1",
    ];
    let member = ["--endpoints", &server.endpoint];
    lifeboat(&[&flags[..], &member, more].concat())
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Every backup that is listed is whole.
fn assert_all_whole(repository: &Path) {
    for name in names(repository, "backup") {
        let output = lifeboat(&["verify", text(&repository.join(&name))]);
        assert!(output.status.success(), "{}", told(&output));
    }
}

fn fill(server: &Server, mib: usize) {
    let client = server.client();
    for number in 0..mib {
        client.put(format!("/big/{number}").as_bytes(), &vec![7; 1 << 20]);
    }
}

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
    // And a member starts from it.
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
fn three_verified_backups_are_kept_and_sigterm_ends_it_within_five_seconds() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let mut agent = Agent::start(&server, &repository, &["--schedule", "@every 1s"]);
    let log = wait_until("more backups than are kept", || {
        let log = agent.log();
        (log.matches("removed ").count() > 3).then_some(log)
    });
    // HashKV stops a member's writes: once a day, however many backups were pruned since.
    assert_eq!(log.matches(",member\"").count(), 1, "{log}");
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(names(&repository, "backup").len(), 3);
    assert_eq!(names(&repository, "partial"), [""; 0]);
    assert_all_whole(&repository);
}

#[test]
fn sigterm_in_mid_run_ends_it_within_five_seconds_and_leaves_nothing() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 100);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    for wait_ms in [0, 200, 500] {
        let mut agent = Agent::start(&server, &repository, &["--schedule", "@every 1s"]);
        wait_until("a run", || names(&repository, "partial").pop());
        std::thread::sleep(Duration::from_millis(wait_ms));
        assert_eq!(agent.terminate(), Some(0));
        assert_eq!(names(&repository, "partial"), [""; 0]);
    }
    assert_all_whole(&repository);
}

#[test]
fn a_clock_that_jumps_an_hour_each_way_neither_stops_nor_doubles_the_backups() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let library = std::fs::read_dir("/usr/lib")
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketime.so.1"))
        .find(|path| path.exists());
    let Some(library) = library else {
        test_support::requirement::skip("no library to change a clock: install Debian's faketime");
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 1);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let offset = dir.path().join("offset");
    std::fs::write(&offset, "+0\n").unwrap();
    let on_a_wrong_clock = |command: &mut Command| {
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", &offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    };
    let flags = ["--schedule", "@every 2s", "--type", "None"];
    let mut agent = Agent::start_as(on_a_wrong_clock, &server, &repository, dir.path(), &flags);
    for jump in ["+0\n", "+3600\n", "-3600\n"] {
        std::fs::write(&offset, jump).unwrap();
        let before = names(&repository, "backup").len();
        // An hour's worth of missed runs would be here at once, or none would come for an hour.
        std::thread::sleep(Duration::from_secs(11));
        let made = names(&repository, "backup").len() - before;
        assert!(
            (3..=8).contains(&made),
            "{made} after {jump:?}: {}",
            agent.log()
        );
    }
    assert_eq!(agent.terminate(), Some(0));
    // Newest first by sequence; names follow, though the clock went back.
    let order = names(&repository, "backup");
    let mut by_name = order.clone();
    by_name.sort();
    by_name.reverse();
    assert_eq!(order, by_name);
}

#[test]
fn a_member_that_is_down_is_told_and_the_server_goes_on() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let server = Server::start(&binaries);
    let nobody = Options {
        flags: Vec::new(),
        ..Options::default()
    };
    let mut other = Server::start_with(&binaries, &nobody);
    other.stop();
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let mut agent = Agent::start(&other, &repository, &["--schedule", "@every 2s"]);
    let log = agent.wait_for("failures=2");
    assert!(
        log.contains("connecting to") && log.contains("refused"),
        "{log}"
    );
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(names(&repository, "backup"), [""; 0]);
    // With a member there it works at once.
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn a_member_that_is_frozen_in_mid_run_is_told_and_nothing_is_published() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 1);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let signal = |name: &str| {
        let pid = server.pid().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    };
    signal("-STOP");
    let start = Instant::now();
    let output = backup_once(&server, &repository, &[]);
    signal("-CONT");
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
fn a_server_that_is_killed_at_any_moment_leaves_nothing_half_made_and_loses_nothing() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 20);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    let first = names(&repository, "backup");
    // Each run is killed a little later after it began: in the stream, while it verifies, around the
    // rename, while it prunes. A run takes some 300 ms in this build.
    let (mut left_something, mut were_published) = (0, 0);
    for step in 0..16 {
        let before = names(&repository, "backup");
        let mut agent = Agent::start(&server, &repository, &["--schedule", "@every 1s"]);
        wait_until("a run", || names(&repository, "partial").pop());
        std::thread::sleep(Duration::from_millis(25 * step));
        agent.kill();
        left_something += names(&repository, "partial").len().min(1);
        let now = names(&repository, "backup");
        were_published += usize::from(now.first() != before.first());
        assert_all_whole(&repository);
        // Nothing goes but what three newer ones have replaced.
        let kept: Vec<_> = before.iter().take(3).collect();
        let missing = kept.iter().filter(|name| !now.contains(name)).count();
        let new = now.iter().filter(|name| !before.contains(name)).count();
        assert!(missing <= new, "{before:?} became {now:?}");
        assert!(now.contains(&first[0]), "{now:?}");
    }
    assert!(
        left_something > 0,
        "no kill hit a run: the test showed nothing"
    );
    assert!(
        were_published > 0,
        "no kill came after the rename: the test did not show that"
    );
    let mut agent = Agent::start(&server, &repository, &["--schedule", "@every 1s"]);
    agent.wait_for("backup made");
    agent.terminate();
    assert_eq!(names(&repository, "partial"), [""; 0]);
    assert_all_whole(&repository);
}

#[test]
fn a_member_that_freezes_or_dies_in_mid_stream_is_told_and_nothing_is_published() {
    let Some(binaries) = require(Version(3, 6)) else {
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
        let pid = server.pid().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        let output = backup.wait_with_output().unwrap();
        let log = told(&output);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(is_told), "expected {is_told:?} in {log:?}");
        assert!(list(&repository).is_empty());
    }
}

#[test]
fn with_the_reserve_a_short_disk_is_told_and_nothing_is_lost() {
    let Some(binaries) = require(Version(3, 6)) else {
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
    std::fs::write(&filler, vec![1; 35 << 20]).unwrap();
    let output = backup_once(&server, &repository, &[]);
    assert_eq!(output.status.code(), Some(1));
    let log = told(&output);
    assert!(log.contains("the disk is short"), "{log}");
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
fn a_disk_that_fills_up_in_mid_run_is_told_and_the_run_after_it_succeeds() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), 200) else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 40);
    let repository = disk.0.join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    let before = names(&repository, "backup");

    let filler = disk.0.join("filler");
    let log_dir = dir.path().join("logs");
    std::fs::create_dir(&log_dir).unwrap();
    let flags = ["--schedule", "@every 1s", "--min-free", "0"];
    let mut agent = Agent::start_logging_in(&server, &repository, &log_dir, &flags);
    // Stop it while it writes, fill the disk to the last byte, and let it go on.
    wait_until("a run that is at work", || {
        let partial = names(&repository, "partial").pop()?;
        agent.signal("-STOP");
        let snapshot = partial.replace(".partial-", "snapshot_") + ".db";
        let size = std::fs::metadata(repository.join(&partial).join(snapshot))
            .map_or(0, |file| file.len());
        let in_the_middle = size > 0 && size < 30 << 20;
        if !in_the_middle {
            agent.signal("-CONT");
        }
        in_the_middle.then_some(())
    });
    let filled = std::fs::write(&filler, vec![1; 200 << 20]);
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    agent.signal("-CONT");
    let log = agent.wait_for("backup failed");
    assert!(log.contains("No space left on device"), "{log}");
    assert_eq!(names(&repository, "partial"), [""; 0]);
    assert_all_whole(&repository);
    assert!(names(&repository, "backup").contains(&before[0]));

    let made = agent.log().matches("backup made").count();
    std::fs::remove_file(&filler).unwrap();
    wait_until("a backup after the disk has room again", || {
        (agent.log().matches("backup made").count() > made).then_some(())
    });
    assert_eq!(agent.terminate(), Some(0));
    assert_all_whole(&repository);
}

#[test]
fn without_quorum_the_snapshot_of_the_member_is_kept_and_recorded_as_such() {
    let Some(binaries) = require(Version(3, 6)) else {
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
    let Some(binaries) = require(Version(3, 6)) else {
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
        (Lie::None(database.clone()), "ended the stream after"),
        (
            Lie::EndsEarly(whole.clone(), half),
            "ended the stream after",
        ),
        (
            Lie::EndsEarly(whole.clone(), half + 32),
            "changed on its way",
        ),
        (
            Lie::EndsEarly(whole.clone(), 0),
            "ended the stream after 0 bytes",
        ),
        (Lie::None(wrong_trailer), "changed on its way"),
        (
            Lie::None(with_trailer(database[..half].to_vec())),
            "database is damaged",
        ),
        (Lie::None(with_trailer(damaged)), "database is damaged"),
        (Lie::Fails(whole.clone(), half), "the disk is gone"),
        (
            Lie::SendsNothingForEver(whole.clone(), half),
            "it can't read its own database",
        ),
        (
            Lie::IsAhead(whole.clone(), 99_999),
            "but the cluster was at 99999",
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

/// A filesystem in memory, of a size of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, mib: u32) -> Option<SmallDisk> {
        let mount = dir.join("disk");
        std::fs::create_dir(&mount).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs", text(&mount)])
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            test_support::requirement::skip("a tmpfs can't be mounted here: run as root");
            return None;
        }
        Some(SmallDisk(mount))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn two_servers_on_one_repository_do_not_get_into_each_others_way() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 5);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let mut agents =
        [0, 1].map(|_| Agent::start(&server, &repository, &["--schedule", "@every 1s"]));
    agents[0].wait_for("removed ");
    for agent in &mut agents {
        assert_eq!(agent.terminate(), Some(0));
    }
    let kept = names(&repository, "backup").len();
    assert!((3..=4).contains(&kept), "{kept}");
    assert_eq!(names(&repository, "foreign"), [""; 0]);
    assert_all_whole(&repository);
}

#[test]
fn what_is_not_ours_is_listed_as_foreign_and_never_touched() {
    let Some(binaries) = require(Version(3, 6)) else {
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
    std::fs::create_dir(repository.join("mine")).unwrap();
    std::fs::write(repository.join("notes.txt"), "mine").unwrap();
    std::fs::write(repository.join(".hidden"), "mine").unwrap();
    std::fs::write(repository.join(&newest).join("backup.json"), "{").unwrap();
    let foreign = ["notes.txt", "mine", &newest, "2020-01-01_000000"];
    assert_eq!(names(&repository, "foreign"), foreign);
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
    assert_eq!(pruned["removed"].as_array().unwrap().len(), 1);
    assert_eq!(names(&repository, "foreign"), foreign);
    assert!(repository.join(".hidden").exists());
}

#[test]
fn a_new_cluster_id_is_told_loudly_and_the_old_lineage_stays() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let old = Server::start(&binaries);
    let new = Server::start_with(
        &binaries,
        &Options {
            flags: vec!["--initial-cluster-token=another".into()],
            ..Options::default()
        },
    );
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let mut agent = Agent::start(&old, &repository, &["--schedule", "@every 1s"]);
    agent.wait_for("removed ");
    agent.terminate();
    let old_lineage = names(&repository, "backup");
    let mut agent = Agent::start(&new, &repository, &["--schedule", "@every 1s"]);
    let log = wait_until("three backups of the new cluster and one that goes", || {
        let log = agent.log();
        (log.matches("removed ").count() > old_lineage.len() + 1).then_some(log)
    });
    assert!(log.contains("the cluster id has changed"), "{log}");
    agent.terminate();
    let now = names(&repository, "backup");
    assert_eq!(now.len(), 6, "{now:?}");
    assert!(old_lineage.iter().all(|name| now.contains(name)));
}

#[test]
fn certificates_that_rotate_between_runs_are_read_again() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let options = Options {
        tls: true,
        ..Options::default()
    };
    let server = Server::start_with(&binaries, &options);
    let pki = server.pki.as_ref().unwrap();
    let dir = TempDir::new().unwrap();
    let (cert, key) = (dir.path().join("c.crt"), dir.path().join("c.key"));
    // First a certificate that the server does not accept.
    let other = test_support::pki::Pki::create(dir.path());
    std::fs::copy(&other.client_cert, &cert).unwrap();
    std::fs::copy(&other.client_key, &key).unwrap();
    let repository = dir.path().join("backups");
    let flags = [
        "--schedule",
        "@every 2s",
        "--cacert",
        text(&pki.ca),
        "--cert",
        text(&cert),
        "--key",
        text(&key),
    ];
    let mut agent = Agent::start(&server, &repository, &flags);
    agent.wait_for("it may not accept the client certificate");
    std::fs::copy(&pki.client_cert, &cert).unwrap();
    std::fs::copy(&pki.client_key, &key).unwrap();
    agent.wait_for("backup made");
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_backup_holds_the_nodes_files_with_owners_modes_and_links() {
    let Some(binaries) = require(Version(3, 6)) else {
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
fn a_flipped_byte_of_a_backup_is_named_by_its_place() {
    let Some(binaries) = require(Version(3, 6)) else {
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
        log.contains("offset 983040 to 1048576 of the snapshot is not what was written"),
        "{log}"
    );
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_to_write() {
    for (flags, told_is) in [
        (&["--schedule", "* * * * 7"][..], "Sunday is 0"),
        (&["--schedule", "0 0 31 2 *"], "never due"),
        (&["--timezone", "Berlin"], "Europe/Berlin"),
        (&["--type", "Some"], "RetentionNumber"),
        (&["--max-number-of-backups", "0"], "0 is not in 1.."),
        (
            &["--max-size-of-backups-gb", "4"],
            "goes with --type RetentionSize",
        ),
        (
            &["--type", "None", "--max-number-of-backups", "4"],
            "leave it out",
        ),
        (&["--cert", "c.crt"], "--cert and --key go together"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let output = lifeboat(&[&["backup-server"], flags].concat());
        let log = told(&output);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {log}");
        assert!(log.contains(told_is), "{flags:?}: {log}");
    }
}

#[test]
fn a_server_that_is_not_enabled_idles_until_it_is_stopped() {
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let child = command(&[
        "backup-server",
        "--enabled=false",
        "--backup-path",
        text(&repository),
    ])
    .stderr(log)
    .spawn()
    .unwrap();
    let mut agent = Agent {
        child,
        log: dir.path().join("log"),
    };
    agent.wait_for("not enabled");
    assert_eq!(agent.terminate(), Some(0));
    assert!(!repository.exists());
}

#[test]
fn a_kubeadm_node_is_found_by_its_own_files() {
    let Some(binaries) = require(Version(3, 6)) else {
        return;
    };
    let options = Options {
        tls: true,
        ..Options::default()
    };
    let server = Server::start_with(&binaries, &options);
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("node");
    test_support::kubeadm_node::lay_out(&root, &server.endpoint, server.pki.as_ref().unwrap());
    let repository = dir.path().join("backups");
    let flags = [
        "--host-root",
        text(&root),
        "--backup-path",
        text(&repository),
    ];
    let dry_run = ["--dry-run", "--output", "json"];
    let output = lifeboat(&[&["backup-server"][..], &flags, &dry_run].concat());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["platform"], "kubeadm");
    assert_eq!(found["found_in"], "/etc/kubernetes/manifests/etcd.yaml");
    assert_eq!(found["endpoint"], server.endpoint.as_str());
    let args = [
        "cluster-backup",
        "--host-root",
        text(&root),
        "--min-free",
        "1",
        "--backup-dir",
        text(&repository),
    ];
    let output = lifeboat(&args);
    assert!(output.status.success(), "{}", told(&output));
    let name = names(&repository, "backup").remove(0);
    let archive = repository
        .join(&name)
        .join(format!("static_kuberesources_{name}.tar.gz"));
    let listing = Command::new("tar")
        .args(["-tzf", text(&archive)])
        .output()
        .unwrap();
    assert!(
        told(&listing).contains("etc/kubernetes/manifests/etcd.yaml"),
        "{}",
        told(&listing)
    );
    assert!(told(&listing).contains("etc/kubernetes/pki/etcd/ca.crt"));
}
