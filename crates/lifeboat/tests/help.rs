//! What `--help` says works as it says it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{backup_once, examples, names};
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use test_support::bolt_file::{Options, with_trailer, write};
use test_support::etcd_binaries::require_usual;
use test_support::etcd_content::Store;
use test_support::etcd_server::{self, Server};

fn lifeboat(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .args(args)
        .env_remove("ETCDCTL_ENDPOINTS")
        .output()
        .unwrap()
}

fn help_of(subcommand: &str) -> String {
    let output = lifeboat(&[subcommand, "--help"]);
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Runs an example as a shell would, with this build of the program in the path.
fn run_example(line: &str, dir: &Path) {
    let bin = Path::new(env!("CARGO_BIN_EXE_etcd-lifeboat"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(dir)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_examples_of_verify_run_as_they_are_printed() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let options = etcd_server::Options {
        tls: true,
        ..etcd_server::Options::default()
    };
    let server = Server::start_with(&binaries, &options);
    server.etcdctl_ok(&["put", "key", "value"]);
    server.snapshot("snapshot.db", &[]);
    let dir = server.dir();
    // The example's absolute paths and endpoint, moved to where this test has them.
    let backup = dir.join("auto/2026-11-22_031500");
    std::fs::create_dir_all(&backup).unwrap();
    std::fs::copy(
        dir.join("snapshot.db"),
        backup.join("snapshot_2026-11-22_031500.db"),
    )
    .unwrap();
    let copied_db = dir.join("etcd/member/snap");
    std::fs::create_dir_all(&copied_db).unwrap();
    let database = std::fs::read(dir.join("snapshot.db")).unwrap();
    std::fs::write(copied_db.join("db"), &database[..database.len() - 32]).unwrap();
    for line in examples(&help_of("verify")) {
        let line = line
            .replace("/var/lib/etcd-auto-backup", "auto")
            .replace("/var/lib/etcd/", "etcd/")
            .replace("https://127.0.0.1:2379", &server.endpoint);
        run_example(&line, dir);
    }
}

#[test]
fn the_examples_of_the_commands_for_backups_run_as_they_are_printed() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let options = etcd_server::Options {
        tls: true,
        ..etcd_server::Options::default()
    };
    let server = Server::start_with(&binaries, &options);
    let dir = server.dir();
    let root = dir.join("node");
    test_support::node_trees::Kind::Kubeadm.lay_out(
        &root,
        &server.endpoint,
        server.pki.as_ref().unwrap(),
    );
    for subcommand in ["cluster-backup", "list", "prune-backups", "backup-server"] {
        for line in examples(&help_of(subcommand)) {
            // Where this test has its node, its endpoint and its backups; and no server without an end.
            let mut line = line
                .replace("/var/backups/etcd", "backups")
                .replace("https://127.0.0.1:2379", &server.endpoint);
            if ["cluster-backup", "backup-server"].contains(&subcommand) {
                line += " --min-free 1";
                if !line.contains("--endpoints") {
                    line += &format!(" --host-root {}", root.display());
                }
            }
            if ["list", "prune-backups"].contains(&subcommand) && !line.contains("--backup-path") {
                line += " --backup-path backups";
            }
            if subcommand == "backup-server" && !line.contains("--dry-run") {
                line += " --dry-run";
            }
            run_example(&line, dir);
        }
    }
    let backups = std::fs::read_dir(dir.join("backups")).unwrap().flatten();
    let mut names = backups.map(|entry| entry.file_name().into_string().unwrap());
    let name = names.find(|name| !name.starts_with('.')).unwrap();
    for line in examples(&help_of("send-backup")) {
        let line = line
            .replace("send-backup", "send-backup --backup-path backups")
            .replace("2026-11-22_031500", &name)
            .replace("ssh elsewhere ", "");
        run_example(&line, dir);
    }
    assert!(dir.join("newest.tar").metadata().unwrap().len() > 10_000);
    run_example(&format!("etcd-lifeboat verify {name}"), dir);
}

#[test]
fn the_examples_of_restore_run_as_they_are_printed() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    let name = names(&repository, "backup").remove(0);
    std::fs::copy(server.snapshot("s.db", &[]), dir.path().join("snapshot.db")).unwrap();
    for (number, line) in examples(&help_of("restore")).iter().enumerate() {
        let line = line
            .replace("/var/lib/etcd", &format!("data-{number}"))
            .replace("2026-11-22_031500", &name);
        run_example(&format!("{line} --backup-path backups"), dir.path());
    }
}

#[test]
fn the_examples_of_completions_and_man_pages_run_as_they_are_printed() {
    let dir = TempDir::new().unwrap();
    for subcommand in ["completions", "man-pages"] {
        for line in examples(&help_of(subcommand)) {
            let line = line
                .replace("/etc/bash_completion.d/", "")
                .replace("/usr/local/share/zsh/site-functions/", "")
                .replace("/usr/local/share/man/man1", ".");
            run_example(&line, dir.path());
        }
    }
    let bash = std::fs::read_to_string(dir.path().join("etcd-lifeboat")).unwrap();
    assert!(bash.contains("--against") && bash.contains("complete"));
    let page = std::fs::read_to_string(dir.path().join("etcd-lifeboat-verify.1")).unwrap();
    assert!(page.contains("snapshot"));
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_to_write() {
    for (args, told) in [
        (&["verify"][..], "<PATH>"),
        (&["verify", "--level", "all", "x"], "possible values"),
        (&["verify", "--level", "member", "x"], "--against ENDPOINT"),
        (
            &[
                "verify",
                "--level",
                "content",
                "--against",
                "http://127.0.0.1:1",
                "x",
            ],
            "leave --level out",
        ),
        (
            &["verify", "--against", "h:1", "--cert", "c", "x"],
            "--cert and --key must be used together",
        ),
        (
            &["verify", "--against", "h:1", "--user", "root", "x"],
            "ETCDCTL_PASSWORD",
        ),
        (&["no-such-command"], "unrecognized subcommand"),
    ] {
        let output = lifeboat(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(told), "{args:?}: {text}");
    }
}

#[test]
fn each_flag_of_the_other_ways_is_refused_with_what_to_write_when_it_is_wrong() {
    let dir = TempDir::new().unwrap();
    let manifest = dir.path().join("etcd.yaml");
    let path = manifest.to_str().unwrap();
    let image = "--image=registry.example/etcd-lifeboat:0.1.0";
    // The command, a flag with a place for its value, wrong values, and what is said.
    let cases: [(&[&str], &str, [&str; 5], &str); 5] = [
        (
            &["operator", "--image=x"],
            "--storage=",
            ["", "PVC", "hostpath", "auto pvc", "\u{1b}[2J"],
            "use one of auto, auto-pvc, hostPath, pvc",
        ),
        (
            &["backup-server"],
            "--follow-backup=",
            ["", "Default", "a b", "../x", "a/b"],
            "use default",
        ),
        (
            &["sidecar", "--kubeadm-patch"],
            "--image=",
            ["", " ", "a b", "a\tb", "a\nb"],
            "registry.example/etcd-lifeboat:0.1.0",
        ),
        (
            &["volume-server", "--volume-path=/tmp"],
            "--max-number-of-backups=",
            ["", "0", "-1", "three", "1.5"],
            "--max-number-of-backups",
        ),
        (
            &["export"],
            "",
            ["/", "a/", "a/b/c", "a/../b", "/b"],
            "expected NODE or NODE/NAME",
        ),
    ];
    for (command, flag, values, told) in cases {
        for value in values {
            let output = lifeboat(&[command, &[&format!("{flag}{value}")]].concat());
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(
                output.status.code(),
                Some(2),
                "{command:?} {value:?}: {text}"
            );
            assert!(text.contains(told), "{command:?} {value:?}: {text}");
            assert!(!text.contains('\u{1b}'), "{command:?} {value:?}: {text:?}");
        }
    }
    // Flags that exclude each other.
    for args in [
        &[
            "backup-server",
            "--follow-backup=default",
            "--schedule=@hourly",
        ][..],
        &[
            "backup-server",
            "--follow-backup=default",
            "--enabled=false",
        ],
        &["sidecar", image],
        &["sidecar", image, "--kubeadm-patch", "--manifest", path],
        &["sidecar-credential"],
        &["volume-server"],
        &["export", "node-1/etcd-events", "--from-volume"],
    ] {
        assert_eq!(lifeboat(args).status.code(), Some(2), "{args:?}");
    }
    // Files that are not the manifest of etcd.
    for (content, told) in [
        ("", "not the manifest of a Pod"),
        ("a: [", "is not YAML"),
        ("kind: Deployment", "not the manifest of a Pod"),
        (
            "kind: Pod\nspec: {hostNetwork: true, containers: [{name: x}]}",
            "no container named etcd",
        ),
        (
            "kind: Pod\nmetadata: {namespace: openshift-etcd}\nspec: {hostNetwork: true, containers: [{name: etcd}]}",
            "use the DaemonSet",
        ),
    ] {
        std::fs::write(&manifest, content).unwrap();
        let output = lifeboat(&["sidecar", image, "--manifest", path]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{content:?}: {text}");
        assert!(
            text.contains(told) && text.contains(path),
            "{content:?}: {text}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_examples_of_the_sidecar_run_as_they_are_printed() {
    let dir = TempDir::new().unwrap();
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: etcd, namespace: kube-system}\nspec: {hostNetwork: true, containers: [{name: etcd, image: etcd}]}\n";
    std::fs::write(dir.path().join("etcd.yaml"), manifest).unwrap();
    for line in examples(&help_of("sidecar")) {
        run_example(&line.replace("/etc/kubernetes/manifests/", ""), dir.path());
    }
}

#[test]
fn the_examples_of_the_volume_server_run_as_they_are_printed() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    assert!(backup_once(&server, &repository, &[]).status.success());
    std::fs::create_dir(dir.path().join("volume")).unwrap();
    for line in examples(&help_of("volume-server")) {
        let line = line.replace("/mnt/backups", "volume");
        // One that does not end by itself is ended here.
        let once = if line.contains("--once") {
            ""
        } else {
            " --once"
        };
        run_example(&format!("{line} --backup-path backups{once}"), dir.path());
    }
    let copies = names(&dir.path().join("volume"), "backup");
    assert_eq!(copies, names(&repository, "backup"));
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("snapshot.db");
    let database = write(&Store::default().database(), &Options::default());
    std::fs::write(&file, with_trailer(database)).unwrap();
    let line = format!(
        "{} verify {} 2>{} | true",
        env!("CARGO_BIN_EXE_etcd-lifeboat"),
        file.display(),
        dir.path().join("errors").display()
    );
    Command::new("sh").args(["-c", &line]).status().unwrap();
    let errors = std::fs::read_to_string(dir.path().join("errors")).unwrap();
    assert_eq!(errors, "");
}

#[test]
fn the_examples_of_cluster_restore_are_those_of_its_page_which_a_story_runs() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cluster-restore.md");
    let page = std::fs::read_to_string(page).unwrap();
    let lines: Vec<_> = page.lines().map(str::trim).collect();
    let examples = examples(&help_of("cluster-restore"));
    assert!(examples.len() > 5, "{examples:?}");
    for line in examples {
        assert!(lines.contains(&line.as_str()), "{line}");
    }
}
