//! A node on which Kubernetes keeps events in an etcd of their own: both are backed up, each for itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::restoring::start_restored;
use node::{command, lifeboat, list, log_file, signal, text, told, wait_until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Child;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::{Options, Server};

/// kubespray's environment file for a member.
fn kubespray(server: &Server) -> String {
    let mut text = format!("ETCD_LISTEN_CLIENT_URLS={}\n", server.endpoint);
    if let Some(pki) = &server.pki {
        for (name, path) in [
            ("ETCD_TRUSTED_CA_FILE", &pki.ca),
            ("ETCDCTL_CACERT", &pki.ca),
            ("ETCDCTL_CERT", &pki.client_cert),
            ("ETCDCTL_KEY", &pki.client_key),
        ] {
            text.push_str(&format!("{name}={}\n", path.display()));
        }
    }
    text
}

/// The manifests of kubeadm, with a part of the objects in another etcd.
fn kubeadm(main: &Server, overrides: &str) -> [(&'static str, String); 2] {
    let pod = |name: &str, flags: String| {
        format!("spec:\n  containers:\n  - name: {name}\n    command: [{name}, {flags}]\n")
    };
    let endpoint = &main.endpoint;
    [
        (
            "etcd",
            pod("etcd", format!("'--listen-client-urls={endpoint}'")),
        ),
        (
            "kube-apiserver",
            pod(
                "kube-apiserver",
                format!("'--etcd-servers={endpoint}', '--etcd-servers-overrides={overrides}'"),
            ),
        ),
    ]
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn on_node(root: &Path, args: &[&str]) -> std::process::Output {
    command(&[args, &["--host-root", text(root), "--min-free=1"]].concat())
        .output()
        .unwrap()
}

#[test]
fn a_second_etcd_is_backed_up_in_a_repository_of_its_own_and_restored_from_it() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let tls = Options {
        tls: true,
        ..Options::default()
    };
    // Each has an authority of its own.
    let [main, events] = [(); 2].map(|()| Server::start_with(&binaries, &tls));
    main.client().put(b"/registry/pods/default/a", b"a pod");
    events
        .client()
        .put(b"/registry/events/default/a", b"an event");
    let root = TempDir::new().unwrap();
    write(root.path(), "etc/etcd.env", &kubespray(&main));
    write(root.path(), "etc/etcd-events.env", &kubespray(&events));
    for server in [&main, &events] {
        copy_pki(server, root.path());
    }
    let repository = root.path().join("backups");
    let make = ["cluster-backup", "--output=json", "--backup-dir"];
    let output = on_node(root.path(), &[&make[..], &[text(&repository)]].concat());
    assert!(output.status.success(), "{}", told(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["etcd"], Value::Null);
    assert_eq!(record["not_backed_up"], Value::Null);
    let other = &record["other_etcds"][0];
    assert_eq!(other["etcd"], "events");
    assert_ne!(other["member"]["id"], record["member"]["id"]);
    // The archive of the node's files is with the etcd that has all other objects.
    assert!(
        record["sha256"]
            .to_string()
            .contains("static_kuberesources_")
    );
    assert!(
        !other["sha256"]
            .to_string()
            .contains("static_kuberesources_")
    );

    let listed = list(&repository);
    let kinds: Vec<_> = listed
        .iter()
        .map(|line| (line["etcd"].as_str(), line["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(kinds, [(None, "backup"), (Some("events"), "backup")]);
    let table = lifeboat(&["list", "--backup-path", text(&repository)]);
    assert!(
        told(&table).contains("\netcd-events/20"),
        "{}",
        told(&table)
    );

    // It is restored as any other.
    let (restored, _) = start_restored(
        &binaries,
        "latest",
        &["--backup-path", text(&repository.join("etcd-events"))],
    );
    let got = restored.etcdctl_ok(&["get", "", "--prefix", "--print-value-only"]);
    assert_eq!(got.trim(), "an event");
}

/// Puts the certificates of a server where they are on the node.
fn copy_pki(server: &Server, root: &Path) {
    let pki = server.pki.as_ref().unwrap();
    for path in [&pki.ca, &pki.client_cert, &pki.client_key] {
        let place = root.join(text(path).trim_start_matches('/'));
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::copy(path, place).unwrap();
    }
}

struct Agent(Child, PathBuf);

impl Agent {
    fn start(root: &Path) -> Agent {
        let log = root.join("agent.log");
        let flags = [
            "backup-server",
            "--schedule=@every 1s",
            "--listen=127.0.0.1:0",
        ];
        let repository = root.join("backups");
        let places = [
            "--backup-path",
            text(&repository),
            "--host-root",
            text(root),
        ];
        let child = command(&[&flags[..], &places, &["--min-free=1"]].concat())
            .stderr(log_file(&log))
            .spawn()
            .unwrap();
        Agent(child, log)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.1).unwrap()
    }

    fn metrics(&self) -> String {
        let log = wait_until("the address", || {
            Some(self.log()).filter(|log| log.contains("metrics on http://"))
        });
        let address = log.split("metrics on http://").nth(1).unwrap();
        node::http_get(address.split('/').next().unwrap(), "/metrics").1
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_etcd_that_is_down_holds_up_nothing_and_is_reported() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let main = Server::start(&binaries);
    let mut events = Server::start(&binaries);
    main.client().put(b"/registry/pods/default/a", b"a pod");
    events
        .client()
        .put(b"/registry/events/default/a", b"an event");
    let root = TempDir::new().unwrap();
    let overrides = format!(
        "/events#http://203.0.113.9:2379;{},/elsewhere#http://203.0.113.9:1",
        events.endpoint
    );
    for (name, manifest) in kubeadm(&main, &overrides) {
        let path = format!("etc/kubernetes/manifests/{name}.yaml");
        write(root.path(), &path, &manifest);
    }
    let repository = root.path().join("backups");
    let of = |etcd: Option<&str>| {
        list(&repository)
            .iter()
            .filter(|line| line["etcd"].as_str() == etcd && line["kind"] == "backup")
            .filter_map(|line| line["name"].as_str().map(String::from))
            .collect::<Vec<_>>()
    };
    let agent = Agent::start(root.path());
    wait_until("backups of both, pruned", || {
        let number = |etcd| of(etcd).len();
        (number(None) == 3 && number(Some("events")) == 3).then_some(())
    });
    let metric = "etcd_lifeboat_other_etcd_stale_at_timestamp_seconds{etcd=\"events\"}";
    wait_until("its metric", || {
        agent.metrics().contains(metric).then_some(())
    });
    // One that has no member here is named, in the log and in the record.
    let told_of = "etcd elsewhere has no member on this node";
    assert!(agent.log().contains(told_of), "{}", agent.log());
    let newest = repository.join(&of(None)[0]).join("backup.json");
    assert!(std::fs::read_to_string(newest).unwrap().contains(told_of));

    events.stop();
    let before = of(None)[0].clone();
    let kept = of(Some("events"));
    wait_until("its failure", || {
        agent
            .log()
            .lines()
            .any(|line| line.contains("backup failed") && line.contains("etcd=\"events\""))
            .then_some(())
    });
    wait_until("newer backups of the other", || {
        (!of(None).contains(&before)).then_some(())
    });
    assert_eq!(of(Some("events")), kept);
    events.start_again(&binaries);
    wait_until("backups of it again", || {
        of(Some("events"))
            .iter()
            .all(|name| !kept.contains(name))
            .then_some(())
    });
    signal("-TERM", &agent.0.id().to_string());
}

#[test]
fn a_directory_that_only_looks_like_that_of_a_second_etcd_is_foreign() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let server = Server::start(&binaries);
    let dir = TempDir::new().unwrap();
    let repository = dir.path().join("backups");
    let made = node::backup_once(&server, &repository, &[]);
    assert!(made.status.success(), "{}", told(&made));
    std::fs::create_dir(repository.join("etcd-Upper")).unwrap();
    std::fs::write(repository.join("etcd-file"), "").unwrap();
    std::os::unix::fs::symlink("/etc", repository.join("etcd-link")).unwrap();
    let mut foreign = node::names(&repository, "foreign");
    foreign.sort();
    assert_eq!(foreign, ["etcd-Upper", "etcd-file", "etcd-link"]);
    assert_eq!(list(&repository).len(), 4);
}
