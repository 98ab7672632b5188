//! What must not go wrong with the server that keeps a node's backups, beside real etcd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{
    Agent, SmallDisk, assert_all_whole, backup_once, command, fill, lifeboat, names, text, told,
    wait_until,
};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::{Options, Server};

#[test]
fn three_verified_backups_are_kept_and_sigterm_ends_it_within_five_seconds() {
    let Some(binaries) = require_usual() else {
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
    let Some(binaries) = require_usual() else {
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
    let Some(binaries) = require_usual() else {
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
    let Some(binaries) = require_usual() else {
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
        log.contains("cannot connect to") && log.contains("refused"),
        "{log}"
    );
    assert_eq!(agent.terminate(), Some(0));
    assert_eq!(names(&repository, "backup"), [""; 0]);
    // With a member there it works at once.
    let output = backup_once(&server, &repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn a_server_that_is_killed_at_any_moment_leaves_nothing_half_made_and_loses_nothing() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    fill(&server, 20);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    let first = names(&repository, "backup");
    // Each run is killed a little later after it began: in the stream, while it verifies, around the
    // rename, while it prunes. A run takes some 300 ms in this build, and longer on a loaded machine: it goes on until one
    // was published before the kill.
    let (mut left_something, mut were_published) = (0, 0);
    for step in 0..100 {
        if step >= 16 && were_published > 0 {
            break;
        }
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
    // One run more, and no other that could be under way.
    assert!(backup_once(&server, &repository, &[]).status.success());
    assert_eq!(names(&repository, "partial"), [""; 0]);
    assert_all_whole(&repository);
}

#[test]
fn a_disk_that_fills_up_in_mid_run_is_told_and_the_run_after_it_succeeds() {
    let Some(binaries) = require_usual() else {
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
fn two_servers_on_one_repository_do_not_get_into_each_others_way() {
    let Some(binaries) = require_usual() else {
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
fn a_server_that_could_not_lock_the_repository_at_its_start_locks_it_later() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let in_the_way = repository.join(".server");
    std::fs::create_dir_all(&repository).unwrap();
    std::os::unix::fs::symlink("/nowhere", &in_the_way).unwrap();
    let often = ["--schedule", "@every 1s"];
    let agent = Agent::start(&server, &repository, &often);
    agent.wait_for("cannot take the lock of the server");
    agent.wait_for("backup made");
    std::fs::remove_file(&in_the_way).unwrap();
    wait_until("the lock", || in_the_way.is_file().then_some(()));
    let log_dir = TempDir::new().unwrap();
    let second = Agent::start_logging_in(&server, &repository, log_dir.path(), &often);
    second.wait_for("another backup server makes the backups of this node");
}

#[test]
fn a_new_cluster_id_is_told_loudly_and_the_old_lineage_stays() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let old = Server::start(&binaries);
    let new = node::another_cluster(&binaries);
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
fn an_etcd_that_begins_again_with_nothing_does_not_push_the_backups_from_before_out() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let mut server = Server::start(&binaries);
    for number in 0..9 {
        server
            .client()
            .put(format!("key{number}").as_bytes(), b"value");
    }
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let mut agent = Agent::start(&server, &repository, &["--schedule", "@every 1s"]);
    agent.wait_for("removed ");
    agent.terminate();
    let before = names(&repository, "backup");
    // The same flags, so the same ids.
    server.stop();
    let member = server.db();
    std::fs::remove_dir_all(member.ancestors().nth(2).unwrap()).unwrap();
    server.start_again(&binaries);
    let mut agent = Agent::start(&server, &repository, &["--schedule", "@every 1s"]);
    let log = wait_until("backups of the empty etcd that replace one another", || {
        let log = agent.log();
        (log.matches("removed ").count() > before.len() + 1).then_some(log)
    });
    assert!(
        log.contains("the revision of this member has fallen from"),
        "{log}"
    );
    assert!(!log.contains("the cluster id has changed"), "{log}");
    agent.terminate();
    let now = names(&repository, "backup");
    assert_eq!(now.len(), 6, "{now:?}");
    assert!(before.iter().all(|name| now.contains(name)));
}

#[test]
fn certificates_that_rotate_between_runs_are_read_again() {
    let Some(binaries) = require_usual() else {
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
    agent.wait_for("the member may not accept the client certificate");
    std::fs::copy(&pki.client_cert, &cert).unwrap();
    std::fs::copy(&pki.client_key, &key).unwrap();
    agent.wait_for("backup made");
    assert_eq!(agent.terminate(), Some(0));
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
            "needs --type RetentionSize",
        ),
        (
            &["--type", "None", "--max-number-of-backups", "4"],
            "leave it out",
        ),
        (
            &["--cert", "c.crt"],
            "--cert and --key must be used together",
        ),
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
fn a_certificate_that_never_comes_is_a_failed_run_and_holds_neither_health_nor_the_way_out() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("ca.crt");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let repository = dir.path().join("backups");
    let endpoint = server.endpoint.replace("http://", "https://");
    let flags = ["--endpoints", &endpoint, "--cacert", text(&pipe)];
    let log = dir.path().join("agent.log");
    let more = [
        "--listen",
        "127.0.0.1:0",
        "--backup-path",
        text(&repository),
    ];
    let mut command = command(&[&["backup-server"][..], &flags, &more].concat());
    let child = command.stderr(node::log_file(&log)).spawn().unwrap();
    let mut agent = Agent { child, log };
    agent.wait_for("reason=\"member\"");
    assert_eq!(agent.get("/healthz").0, 200);
    assert_eq!(agent.terminate(), Some(0));
}
