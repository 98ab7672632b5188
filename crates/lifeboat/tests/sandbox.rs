//! What a backup server can't do, whatever somebody makes it do: tried from inside its process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{Agent, names, text, wait_until};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::Server;

/// A library that tries things in the process it is loaded into when that gets a signal, as code that somebody has smuggled in.
const INTRUDER: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void say(int out, const char *name, long result) {
    char line[100];
    int len = snprintf(line, sizeof line, "%s %s\n", name, result < 0 ? strerrorname_np(errno) : "done");
    write(out, line, len);
}

static int handle_out = -1;

static void intrude(int signal) {
    int out = handle_out;
    char handle[128] = {8, 0, 0, 0, 1, 0, 0, 0, 2};
    int root = open("/", O_RDONLY);
    say(out, "open_by_handle_at", syscall(SYS_open_by_handle_at, root, handle, O_RDONLY));
    say(out, "mount", syscall(SYS_mount, "x", "/tmp", "tmpfs", 0, 0));
    say(out, "ptrace", syscall(SYS_ptrace, 16, getppid(), 0, 0));
    say(out, "bpf", syscall(SYS_bpf, 0, 0, 0));
    say(out, "io_uring_setup", syscall(SYS_io_uring_setup, 1, 0));
    say(out, "unshare", syscall(SYS_unshare, 0x20000));
    char *args[] = {"/bin/true", 0};
    if (fork() == 0) {
        say(out, "execve", execve(args[0], args, 0));
        _exit(0);
    }
    say(out, "write", open(getenv("INTRUDER_FILE"), O_CREAT | O_WRONLY, 0600));
    say(out, "end", 0);
}

__attribute__((constructor)) static void begin(void) {
    handle_out = open(getenv("INTRUDER_LOG"), O_CREAT | O_WRONLY | O_APPEND, 0600);
    signal(SIGUSR1, intrude);
}
"#;

/// What it could do, in a server that was started so.
fn tried(dir: &Path, server: &Server, change: impl Fn(&mut Command)) -> String {
    let source = dir.join("intruder.c");
    let library = dir.join("intruder.so");
    std::fs::write(&source, INTRUDER).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", text(&library), text(&source)])
        .status();
    assert!(compiled.unwrap().success());
    let repository = dir.join("backups");
    std::fs::create_dir_all(&repository).unwrap();
    let (log, file) = (dir.join("tried"), dir.join("written"));
    let change = |command: &mut Command| {
        command
            .env("LD_PRELOAD", &library)
            .env("INTRUDER_LOG", &log)
            .env("INTRUDER_FILE", &file);
        change(command);
    };
    let mut agent = Agent::start_as(
        change,
        server,
        &repository,
        dir,
        &["--schedule", "@every 1s"],
    );
    wait_until("a backup", || names(&repository, "backup").pop());
    agent.signal("-USR1");
    let tried = wait_until("the end of what is tried", || {
        let tried = std::fs::read_to_string(&log).unwrap();
        (tried.contains("end") && tried.contains("execve")).then_some(tried)
    });
    // Backups go on.
    let before = names(&repository, "backup");
    wait_until("another backup", || {
        (names(&repository, "backup") != before).then_some(())
    });
    assert_eq!(agent.terminate(), Some(0), "{}", agent.log());
    tried
}

#[test]
fn a_backup_server_opens_no_file_by_its_number_and_starts_no_program() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let tried = tried(dir.path(), &server, |_| {});
    for call in [
        "open_by_handle_at",
        "mount",
        "ptrace",
        "bpf",
        "io_uring_setup",
        "unshare",
        "execve",
    ] {
        assert!(tried.contains(&format!("{call} EPERM\n")), "{tried}");
    }
    // Outside of a pod an administrator may move the directory.
    assert!(tried.contains("write done\n"), "{tried}");
}

#[test]
fn in_a_pod_nothing_but_the_backups_is_written_to() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let tried = tried(dir.path(), &server, |command| {
        command.env("KUBERNETES_SERVICE_HOST", "192.0.2.1");
    });
    if tried.contains("write done\n") {
        test_support::requirement::skip("this kernel has no Landlock");
        return;
    }
    assert!(tried.contains("write EACCES\n"), "{tried}");
}
