//! The systemd unit that ships: what systemd says of it, and whether a server can work within it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{Agent, command, names, text, told, wait_until};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::{Options, Server};
use test_support::node_trees::Kind;

const SECURITY_AT_MOST: &str = "--threshold=20";

fn unit() -> String {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd/etcd-lifeboat.service");
    std::fs::read_to_string(path).unwrap()
}

/// All that is said for a key, in order.
fn settings(key: &str) -> Vec<String> {
    let prefix = format!("{key}=");
    unit()
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix).map(String::from))
        .collect()
}

/// The unit with the program that is tested.
fn unit_to_analyze(dir: &Path) -> Option<PathBuf> {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        test_support::requirement::skip("no systemd-analyze: install Debian's systemd");
        return None;
    }
    let path = dir.join("etcd-lifeboat.service");
    let here = unit().replace(
        "/usr/local/bin/etcd-lifeboat",
        env!("CARGO_BIN_EXE_etcd-lifeboat"),
    );
    std::fs::write(&path, here).unwrap();
    Some(path)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let dir = TempDir::new().unwrap();
    let Some(path) = unit_to_analyze(dir.path()) else {
        return;
    };
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", text(&path)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(told(&output), "");
}

#[test]
fn systemd_rates_the_unit_as_hardened() {
    let dir = TempDir::new().unwrap();
    let Some(path) = unit_to_analyze(dir.path()) else {
        return;
    };
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", SECURITY_AT_MOST, text(&path)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
}

/// The system calls that a filter of the unit names.
fn system_calls(filter: &str) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for name in filter.trim_start_matches('~').split_whitespace() {
        if !name.starts_with('@') {
            calls.insert(name.to_string());
            continue;
        }
        let output = Command::new("systemd-analyze")
            .args(["syscall-filter", name])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", told(&output));
        for line in String::from_utf8(output.stdout).unwrap().lines().skip(1) {
            let line = line.trim();
            if line.starts_with('@') {
                calls.extend(system_calls(line));
            } else if !line.starts_with('#') && !line.is_empty() {
                calls.insert(line.to_string());
            }
        }
    }
    calls
}

#[test]
fn a_server_makes_no_system_call_that_the_unit_forbids() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let dir = TempDir::new().unwrap();
    if unit_to_analyze(dir.path()).is_none() {
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        test_support::requirement::skip("nothing to see system calls with: install strace");
        return;
    }
    let mut allowed = BTreeSet::new();
    for filter in settings("SystemCallFilter") {
        let calls = system_calls(&filter);
        if filter.starts_with('~') {
            allowed.retain(|call| !calls.contains(call));
        } else {
            allowed.extend(calls);
        }
    }
    assert!(allowed.len() > 100, "{allowed:?}");

    let server = Server::start(&binaries);
    let trace = dir.path().join("trace");
    let traced = |command: &mut Command| {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-qq", "-o", text(&trace)])
            .arg(command.get_program())
            .args(command.get_args());
        *command = strace;
    };
    let repository = dir.path().join("backups");
    let flags = ["--schedule", "@every 1s"];
    let mut agent = Agent::start_as(traced, &server, &repository, dir.path(), &flags);
    agent.wait_for("removed ");
    assert_eq!(agent.get("/metrics").0, 200);
    // The server is strace's child.
    let children = format!("/proc/{0}/task/{0}/children", agent.child.id());
    let pid = std::fs::read_to_string(children).unwrap();
    Command::new("kill").arg(pid.trim()).status().unwrap();
    wait_until("its end", || agent.child.try_wait().unwrap());
    let trace = std::fs::read_to_string(trace).unwrap();
    let made: BTreeSet<_> = trace
        .lines()
        .filter_map(|line| {
            let call = line.split_whitespace().nth(1)?.split_once('(')?.0;
            call.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                .then(|| call.to_string())
        })
        // The first one is strace's own: systemd itself starts the program.
        .filter(|call| call != "execve")
        .collect();
    assert!(
        made.contains("fsync") && made.contains("renameat2"),
        "{made:?}"
    );
    let forbidden: Vec<_> = made.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

#[test]
fn a_server_reads_certificates_of_other_users_with_the_one_capability_it_has() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let options = Options {
        tls: true,
        ..Options::default()
    };
    let server = Server::start_with(&binaries, &options);
    Kind::Kubespray.lay_out(server.dir(), &server.endpoint, server.pki.as_ref().unwrap());
    let certificates = server.dir().join("etc/ssl/etcd/ssl");
    let output = Command::new("chown")
        .args(["-R", "997:997", text(&certificates)])
        .output()
        .unwrap();
    if !output.status.success() {
        test_support::requirement::skip("files can't be given to another user: run as root");
        return;
    }
    let capabilities = settings("CapabilityBoundingSet").remove(0).to_lowercase();
    let capabilities = capabilities.replace("cap_", ",+");
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let run = |capabilities: &str| {
        let program = command(&[]);
        Command::new("setpriv")
            .args(["--no-new-privs", "--inh-caps=-all"])
            .arg(format!("--bounding-set=-all{capabilities}"))
            .arg(program.get_program())
            .args([
                "cluster-backup",
                "--min-free",
                "1",
                "--host-root",
                text(server.dir()),
            ])
            .args(["--backup-dir", text(&repository)])
            .env_remove("ETCDCTL_ENDPOINTS")
            .output()
            .unwrap()
    };
    // Without it the test would show nothing.
    let output = run("");
    assert!(!output.status.success(), "{}", told(&output));
    let output = run(&capabilities);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(names(&repository, "backup").len(), 1);
}
