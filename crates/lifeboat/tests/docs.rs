//! Each command in the documentation works as it is written: in the order of the pages, on a real API server and its nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod operated;

use operated::node::{told, wait_until};
use operated::{DOCUMENTED_IMAGE, METRICS, Operated, SHARED_MACHINE, bare_cluster, get};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use test_support::etcd_binaries::require_usual;
use test_support::kubernetes::binaries;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const PAGES: [&str; 7] = [
    "install",
    "operator",
    "ways",
    "security",
    "troubleshooting",
    "backup-server",
    "plain-etcd",
];

fn page(name: &str) -> String {
    std::fs::read_to_string(format!("{REPOSITORY}/docs/{name}.md")).unwrap()
}

/// A fenced block of commands: what is behind `sh` on its first line, and the commands.
#[derive(Debug)]
struct Block {
    place: String,
    commands: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let body: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(place) = info.strip_prefix("sh") {
            blocks.push(Block {
                place: place.trim().into(),
                commands: body.join("\n"),
            });
        }
    }
    blocks
}

/// A person's shell: the programs that the pages name, and a directory to work in.
struct Shell {
    dir: PathBuf,
    bin: PathBuf,
    kubeconfig: PathBuf,
}

impl Shell {
    fn new(cluster: &Operated) -> Option<Shell> {
        let dir = cluster.dir().join("person");
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        // The repository's own files are where the pages name them.
        std::os::unix::fs::symlink(format!("{REPOSITORY}/deploy"), dir.join("deploy")).unwrap();
        let kubectl = binaries::require()?.program("kubectl");
        std::os::unix::fs::symlink(kubectl, bin.join("kubectl")).unwrap();
        let shell = Shell {
            kubeconfig: cluster.kubeconfig().into(),
            dir,
            bin,
        };
        // Nodes that share one machine can't have a port each.
        let flags = SHARED_MACHINE
            .map(|flag| format!("\\1- {flag}"))
            .join("\\n");
        let change = format!("sed 's|^\\( *\\)- {METRICS}$|{flags}|'");
        shell.program("shared-machine", &format!("exec {change}"));
        let own = env!("CARGO_BIN_EXE_etcd-lifeboat");
        shell.program(
            "etcd-lifeboat",
            &format!(
                "case \"$1\" in\nmanifests) {own} \"$@\" | {change} ;;\n*) exec -a \"${{0##*/}}\" {own} \"$@\" ;;\nesac"
            ),
        );
        let helm = binaries::require_tool(binaries::HELM)?;
        let helm = helm.display();
        shell.program(
            "helm",
            &format!(
                "case \"$1\" in\ninstall | upgrade) exec {helm} \"$@\" --post-renderer shared-machine ;;\n*) exec {helm} \"$@\" ;;\nesac"
            ),
        );
        binaries::require_tool(binaries::STREAMS)?;
        let etcdutl = require_usual()?.etcdutl?;
        std::os::unix::fs::symlink(etcdutl, shell.bin.join("etcdutl")).unwrap();
        // Who is root already needs none.
        shell.program("sudo", "exec \"$@\"");
        Some(shell)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.bin.join(name);
        std::fs::write(&path, format!("#!/bin/bash\nset -o pipefail\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, commands: &str) -> Output {
        let path = std::env::var("PATH").unwrap();
        let (dir, bin) = (self.dir.display(), self.bin.display());
        Command::new("bash")
            .args(["-e", "-o", "pipefail", "-c", commands])
            .current_dir(&self.dir)
            .env("PATH", format!("{dir}:{bin}:{path}"))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("IMAGE", DOCUMENTED_IMAGE)
            .output()
            .unwrap()
    }

    /// On the node itself: its own directories, and no others in their place.
    fn run_on(&self, root: &Path, commands: &str) -> Output {
        let root = root.display();
        let mut script = String::new();
        for path in ["/etc", "/var/lib", "/var/backups", "/mnt"] {
            script += &format!("mount -t tmpfs none {path}\n");
        }
        for path in ["/etc/kubernetes", "/var/lib/etcd-auto-backup"] {
            script += &format!("mkdir {path}; mount --bind '{root}{path}' {path}\n");
        }
        let script = format!("{script}cd /mnt\n{commands}");
        let inside = "exec unshare --mount bash -e -o pipefail -c \"$SCRIPT\"";
        let path = std::env::var("PATH").unwrap();
        Command::new("bash")
            .args(["-c", inside])
            .env("SCRIPT", script)
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .output()
            .unwrap()
    }
}

#[test]
fn each_command_in_the_pages_works_as_it_is_written() {
    let Some(mut cluster) = bare_cluster(1, None) else {
        return;
    };
    let Some(shell) = Shell::new(&cluster) else {
        return;
    };
    // Its rights may go before it does.
    cluster.may_be_refused = true;
    let gone = |cluster: &Operated| {
        wait_until("its namespace to go", || {
            get(cluster, &["namespace", "etcd-lifeboat"])
                .is_none()
                .then_some(())
        });
    };
    let works = |commands: &str, output: &Output| {
        assert!(output.status.success(), "{commands}\n{}", told(output));
        println!("{commands}\n{}", told(output));
    };
    let calm = || {
        wait_until("that all is well", || {
            shell
                .run("etcd-lifeboat status")
                .status
                .success()
                .then_some(())
        });
    };
    let install = page("install");
    for block in blocks(&install)
        .iter()
        .filter(|block| block.place == "helm")
    {
        works(&block.commands, &shell.run(&block.commands));
        gone(&cluster);
    }
    let (install, uninstall) = install.split_once("## Uninstall").unwrap();
    let first = &blocks(install)[0];
    works(&first.commands, &shell.run(&first.commands));
    // The claim that a page names is a person's own.
    cluster.apply("{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: etcd-backups, namespace: etcd-lifeboat}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}");
    let others: Vec<_> = PAGES[1..].iter().map(|name| page(name)).collect();
    for text in std::iter::once(install).chain(others.iter().map(String::as_str)) {
        for block in blocks(text) {
            // The claim of its volume is never bound here, which is none of the pages' business.
            let _ = shell.run("kubectl delete backup nightly");
            calm();
            let output = match block.place.as_str() {
                "" if block.commands == first.commands => continue,
                "" => shell.run(&block.commands),
                "on-a-node" => shell.run_on(&cluster.nodes()[0].root, &block.commands),
                // What needs systemd itself, nodes of kubeadm, or volumes: other tests run it.
                "helm" | "systemd" | "kubeadm-node" | "kubeadm" | "volume" => continue,
                other => panic!("nobody knows where {other:?} is"),
            };
            works(&block.commands, &output);
        }
    }
    for block in blocks(uninstall) {
        works(&block.commands, &shell.run(&block.commands));
        gone(&cluster);
    }
    let left = shell.run("kubectl get crd -o name");
    assert_eq!(told(&left), "");
    let repository = cluster.nodes()[0].root.join("var/lib/etcd-auto-backup");
    assert!(!operated::node::names(&repository, "backup").is_empty());
}

#[test]
fn whatever_is_called_a_command_in_a_sentence_is_in_a_block_as_well() {
    let pages = PAGES.map(page);
    let commands: Vec<_> = pages
        .iter()
        .flat_map(|text| blocks(text))
        .map(|block| block.commands)
        .collect();
    for (name, text) in PAGES.iter().zip(&pages) {
        let outside: String = text
            .split("```")
            .step_by(2)
            .map(|part| format!("{part}\n"))
            .collect();
        for word in outside.split('`').skip(1).step_by(2) {
            let is_command = ["kubectl ", "helm ", "etcd-lifeboat "]
                .iter()
                .any(|program| word.starts_with(program));
            let known = commands.iter().any(|command| command.contains(word));
            assert!(!is_command || known, "{name}: {word:?} is in no block");
        }
    }
}
