//! Each platform on a tree of files as it lays them out, made around a real etcd with TLS that listens where
//! it does on that platform: found without a flag, backed up, its files archived and brought back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod node;

use node::{command, lifeboat, names, text, told};
use rstest::rstest;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;
use test_support::etcd_binaries::require_usual;
use test_support::etcd_server::{Options, Server};
use test_support::node_trees::Kind;
use test_support::private_network::PrivateNetwork;

/// What is to be found on a node.
struct Expected {
    platform: &'static str,
    /// The last of the files that say so.
    found_in: &'static str,
    endpoint: &'static str,
    cacert: &'static str,
    cert: &'static str,
    /// In the archive, as it names them.
    archived: &'static [&'static str],
    /// Not in the archive.
    left_out: &'static [&'static str],
    /// Without one of these the node is half broken, and it is named.
    needed: &'static [&'static str],
}

const LOCALHOST: &str = "https://localhost:2379";
const LOOPBACK: &str = "https://127.0.0.1:2379";

fn expected(kind: Kind) -> Expected {
    match kind {
        Kind::OpenShift | Kind::OpenShiftSingleNode => Expected {
            platform: "openshift",
            found_in: "/etc/kubernetes/manifests/etcd-pod.yaml",
            endpoint: LOCALHOST,
            cacert: if kind == Kind::OpenShift {
                "/etc/kubernetes/static-pod-resources/etcd-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt"
            } else {
                "/etc/kubernetes/static-pod-resources/etcd-certs/configmaps/etcd-serving-ca/ca-bundle.crt"
            },
            cert: "/etc/kubernetes/static-pod-resources/etcd-certs/secrets/etcd-all-certs/etcd-peer-master-0.crt",
            // As upstream's cluster-restore.sh takes them: relative to /etc/kubernetes.
            archived: &[
                "static-pod-resources/kube-apiserver-pod-12/kube-apiserver-pod.yaml",
                "static-pod-resources/kube-apiserver-pod-12/secrets/encryption-config/encryption-config",
                "static-pod-resources/kube-controller-manager-pod-8/kube-controller-manager-pod.yaml",
                "static-pod-resources/kube-scheduler-pod-9/kube-scheduler-pod.yaml",
                "static-pod-resources/etcd-pod-7/etcd-pod.yaml",
                "static-pod-resources/etcd-pod-7/secrets/etcd-all-certs/etcd-peer-master-0.key",
            ],
            left_out: &[
                "static-pod-resources/etcd-pod-6",
                "static-pod-resources/kube-apiserver-pod-13",
                "static-pod-resources/etcd-certs",
                "static-pod-resources/kube-apiserver-certs",
                "manifests",
            ],
            needed: &[
                "/etc/kubernetes/static-pod-resources/etcd-certs/configmaps",
                "/etc/kubernetes/static-pod-resources/etcd-certs/secrets/etcd-all-certs/etcd-peer-master-0.key",
            ],
        },
        Kind::MicroShift => Expected {
            platform: "microshift",
            found_in: "/var/lib/microshift/etcd",
            endpoint: LOCALHOST,
            cacert: "/var/lib/microshift/certs/etcd-signer/ca.crt",
            cert: "/var/lib/microshift/certs/etcd-signer/apiserver-etcd-client/client.crt",
            archived: &[
                "etc/microshift/config.d/10-ours.yaml",
                "var/lib/microshift/certs/etcd-signer/ca.crt",
                "var/lib/microshift/resources/kubeadmin/kubeconfig",
                "var/lib/microshift/kubelet-plugins/state",
                "var/lib/microshift/version",
            ],
            left_out: &["var/lib/microshift/etcd"],
            needed: &[
                "/var/lib/microshift/certs/etcd-signer/ca.crt",
                "/var/lib/microshift/certs/etcd-signer/apiserver-etcd-client/client.key",
            ],
        },
        Kind::Kubeadm => Expected {
            platform: "kubeadm",
            found_in: "/etc/kubernetes/manifests/etcd.yaml",
            endpoint: LOOPBACK,
            cacert: "/etc/kubernetes/pki/etcd/ca.crt",
            cert: "/etc/kubernetes/pki/apiserver-etcd-client.crt",
            archived: &[
                "etc/kubernetes/manifests/etcd.yaml",
                "etc/kubernetes/pki/ca.key",
                "etc/kubernetes/admin.conf",
                "var/lib/kubelet/config.yaml",
                "var/lib/kubelet/kubeadm-flags.env",
                "var/lib/kubelet/pki/kubelet-client-current.pem",
            ],
            left_out: &["var/lib/etcd", "var/lib/kubelet/pods"],
            needed: &["/etc/kubernetes/pki/etcd/ca.crt"],
        },
        Kind::KubesprayKubeadm => Expected {
            cacert: "/etc/kubernetes/ssl/etcd/ca.crt",
            cert: "/etc/kubernetes/ssl/apiserver-etcd-client.crt",
            archived: &[
                "etc/kubernetes/ssl/ca.key",
                "etc/ssl/certs/ca-certificates.crt",
                "srv/admission/config.yaml",
                "srv/admission/webhook.yaml",
                "srv/audit/policy.yaml",
                "srv/tls/a.key",
                "var/lib/kubelet/config.yaml",
            ],
            needed: &["/etc/kubernetes/ssl/etcd/ca.crt"],
            ..expected(Kind::Kubeadm)
        },
        Kind::K3s => Expected {
            platform: "k3s",
            found_in: "/var/lib/rancher/k3s/server/db/etcd/config",
            endpoint: LOOPBACK,
            cacert: "/var/lib/rancher/k3s/server/tls/etcd/server-ca.crt",
            cert: "/var/lib/rancher/k3s/server/tls/etcd/client.crt",
            archived: &[
                "etc/rancher/k3s/config.yaml",
                "etc/rancher/node/password",
                "etc/systemd/system/k3s.service.env",
                "var/lib/rancher/k3s/server/token",
                "var/lib/rancher/k3s/server/node-token",
                "var/lib/rancher/k3s/server/cred/encryption-config.json",
                "var/lib/rancher/k3s/server/db/etcd/config",
                "var/lib/rancher/k3s/server/db/etcd/name",
                "var/lib/rancher/k3s/server/audit.yaml",
            ],
            left_out: &["var/lib/rancher/k3s/server/db/etcd/member"],
            needed: &["/var/lib/rancher/k3s/server/tls/etcd/server-ca.crt"],
        },
        Kind::Rke2 => Expected {
            platform: "rke2",
            found_in: "/data/rke2/server/db/etcd/config",
            endpoint: LOOPBACK,
            cacert: "/data/rke2/server/tls/etcd/server-ca.crt",
            cert: "/data/rke2/server/tls/etcd/client.crt",
            archived: &[
                "etc/rancher/rke2/config.yaml.d/50-disk.yaml",
                "data/rke2/server/token",
                "data/rke2/agent/pod-manifests/etcd.yaml",
                "etc/ssl/certs/company.pem",
                "srv/audit.yaml",
            ],
            left_out: &["data/rke2/server/db/etcd/member"],
            needed: &["/data/rke2/server/tls/etcd/server-ca.crt"],
        },
        Kind::Kubespray => Expected {
            platform: "kubespray",
            found_in: "/etc/etcd.env",
            endpoint: LOOPBACK,
            cacert: "/etc/ssl/etcd/ssl/ca.pem",
            cert: "/etc/ssl/etcd/ssl/admin-node1.pem",
            archived: &[
                "etc/etcd.env",
                "etc/systemd/system/etcd.service",
                "etc/ssl/etcd/ssl/member-node1-key.pem",
                "etc/ssl/etcd/ssl/node-node2.pem",
                "etc/kubernetes/ssl/secrets_encryption.yaml",
            ],
            left_out: &["usr"],
            needed: &["/etc/ssl/etcd/ssl/ca.pem"],
        },
        Kind::Debian => Expected {
            platform: "systemd",
            found_in: "/etc/default/etcd",
            endpoint: LOOPBACK,
            cacert: "/etc/etcd/tls/ca.crt",
            cert: "/etc/etcd/tls/server.crt",
            archived: &["etc/default/etcd", "etc/etcd/tls/server.key"],
            left_out: &["usr", "var"],
            needed: &["/etc/etcd/tls/ca.crt", "/etc/etcd/tls/server.key"],
        },
        Kind::OwnUnit => Expected {
            platform: "systemd",
            found_in: "/etc/systemd/system/etcd.service.d/10-ours.conf",
            endpoint: LOOPBACK,
            cacert: "/opt/etcd/ca.crt",
            cert: "/opt/etcd/client.crt",
            archived: &[
                "etc/systemd/system/etcd.service",
                "opt/etcd/server.key",
                "opt/etcd/client.key",
            ],
            left_out: &["srv"],
            needed: &["/opt/etcd/ca.crt"],
        },
    }
}

/// A node with its etcd, in a network where etcd's own port is free.
struct Node {
    network: Arc<PrivateNetwork>,
    server: Server,
}

fn own_network() -> Option<Arc<PrivateNetwork>> {
    let network = PrivateNetwork::create().map(Arc::new);
    if network.is_none() {
        test_support::requirement::skip(
            "no network of one's own: run as root, with iproute2 and util-linux",
        );
    }
    network
}

impl Node {
    fn start(kind: Kind) -> Option<Node> {
        let binaries = require_usual()?;
        let network = own_network()?;
        let options = Options {
            tls: true,
            data_dir: Some(kind.data_dir()),
            network: Some(network.clone()),
            ..Options::default()
        };
        let server = Server::start_with(&binaries, &options);
        kind.lay_out(server.dir(), &server.endpoint, server.pki.as_ref().unwrap());
        Some(Node { network, server })
    }

    fn root(&self) -> &Path {
        self.server.dir()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Makes a backup, without a flag that says where etcd is.
    fn backup(&self, repository: &Path, more: &[&str]) -> Output {
        let flags = ["cluster-backup", "--min-free", "1", "--backup-dir"];
        self.lifeboat(&[&flags[..], &[text(repository)], more].concat())
    }

    /// Runs a command on the node.
    fn lifeboat(&self, args: &[&str]) -> Output {
        let on_host = command(&[args, &["--host-root", text(self.root())]].concat());
        let mut on_node = self.network.command(Path::new(on_host.get_program()));
        on_node.args(on_host.get_args());
        for name in ["ENDPOINTS", "CACERT", "CERT", "KEY"] {
            on_node.env_remove(format!("ETCDCTL_{name}"));
        }
        on_node.output().unwrap()
    }
}

#[rstest]
fn etcd_is_found_without_a_flag_backed_up_and_the_nodes_files_come_back_as_they_were(
    #[values(
        Kind::OpenShift,
        Kind::OpenShiftSingleNode,
        Kind::MicroShift,
        Kind::Kubeadm,
        Kind::KubesprayKubeadm,
        Kind::K3s,
        Kind::Rke2,
        Kind::Kubespray,
        Kind::Debian,
        Kind::OwnUnit
    )]
    kind: Kind,
) {
    let Some(node) = Node::start(kind) else {
        return;
    };
    let expected = expected(kind);
    let dry_run = ["backup-server", "--dry-run", "--output", "json"];
    let output = node.lifeboat(&dry_run);
    assert!(output.status.success(), "{}", told(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["platform"], expected.platform);
    assert_eq!(
        found["found_in"].as_array().unwrap().last().unwrap(),
        expected.found_in
    );
    assert_eq!(found["endpoint"], expected.endpoint);
    assert_eq!(found["cacert"], expected.cacert);
    assert_eq!(found["cert"], expected.cert);
    assert_eq!(found["data_dir"], kind.data_dir());
    assert!(
        node.path(kind.data_dir()).join("member/snap/db").exists(),
        "its data is there"
    );
    assert_eq!(found["missing"], Value::Null);

    let repository = node.root().join("backups");
    let output = node.backup(&repository, &["--output", "json"]);
    assert!(output.status.success(), "{}", told(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["platform"], expected.platform);
    assert_eq!(record["warnings"], Value::Null, "{record:#}");
    assert_eq!(record["archive_missing"], Value::Null, "{record:#}");
    let encrypts = !matches!(
        kind,
        Kind::MicroShift | Kind::Kubespray | Kind::Debian | Kind::OwnUnit
    );
    let encryption = serde_json::json!([{
        "resources": ["secrets"],
        "providers": [{"provider": "aescbc", "keys": ["aescbckey"]}, {"provider": "identity"}],
    }]);
    let wanted = if encrypts { encryption } else { Value::Null };
    assert_eq!(record["encryption"], wanted);
    assert!(
        !record.to_string().contains("c2VjcmV0IGtleQ"),
        "no key is in the record"
    );

    if encrypts {
        let name = names(&repository, "backup").remove(0);
        let backup = repository.join(name);
        let place = node.root().join("restored");
        let plan = lifeboat(&[
            "restore",
            text(&backup),
            "--plan",
            "--data-dir",
            text(&place),
        ]);
        assert!(
            told(&plan).contains("secrets: aescbc aescbckey, then identity"),
            "{}",
            told(&plan)
        );
    }
    let back = TempDir::new().unwrap();
    unpack(&repository, back.path());
    for path in expected.archived {
        let path = back.path().join(path);
        assert!(
            path.symlink_metadata().is_ok(),
            "{} is not there",
            path.display()
        );
    }
    for path in expected.left_out {
        let path = back.path().join(path);
        assert!(!path.exists(), "{} is there", path.display());
    }
    let archive_root = node.path(found["archive_root"].as_str().unwrap());
    assert_same(back.path(), &archive_root);
}

/// Unpacks the archive of the one backup there is as a person would.
fn unpack(repository: &Path, to: &Path) {
    let name = names(repository, "backup").remove(0);
    let archive = format!("static_kuberesources_{name}.tar.gz");
    let output = Command::new("tar")
        .arg("-xpzf")
        .arg(repository.join(&name).join(archive))
        .arg("-C")
        .arg(to)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
}

/// Everything that came back is what is on the node: kind, mode, owner, link, size and content.
fn assert_same(back: &Path, node: &Path) {
    let listing = |root: &Path| -> BTreeSet<String> {
        let output = Command::new("find")
            .args([".", "-mindepth", "1", "-printf", "%P %M %U %G %l %s\\n"])
            .current_dir(root)
            .output()
            .unwrap();
        told(&output).lines().map(str::to_owned).collect()
    };
    // Directories above what was archived are made by tar, and have no size of their own.
    let there = listing(node);
    let mut files = 0;
    for line in listing(back) {
        let path = line.split(' ').next().unwrap();
        if back.join(path).symlink_metadata().unwrap().is_dir() {
            continue;
        }
        files += 1;
        assert!(there.contains(&line), "{line}");
        if !back.join(path).is_symlink() {
            let same =
                std::fs::read(back.join(path)).unwrap() == std::fs::read(node.join(path)).unwrap();
            assert!(same, "{path}");
        }
    }
    assert!(files > 1);
}

#[test]
fn an_etcd_without_kubernetes_is_found_where_it_listens_by_default() {
    let Some(binaries) = require_usual() else {
        return;
    };
    let Some(network) = own_network() else {
        return;
    };
    let options = Options {
        network: Some(network.clone()),
        ..Options::default()
    };
    let node = Node {
        server: Server::start_with(&binaries, &options),
        network,
    };
    let repository = node.root().join("backups");
    let output = node.backup(&repository, &["--output", "json"]);
    assert!(output.status.success(), "{}", told(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["platform"], "plain");
    // There is nothing to archive, and the record names what there is.
    let name = names(&repository, "backup").remove(0);
    let files = record["sha256"].as_object().unwrap();
    let files: Vec<_> = files.keys().cloned().collect();
    assert_eq!(files, ["blocks.b3".into(), format!("snapshot_{name}.db")]);
}

#[rstest]
fn a_half_broken_node_is_told_by_the_piece_that_is_missing(
    #[values(
        Kind::OpenShift,
        Kind::MicroShift,
        Kind::Kubeadm,
        Kind::K3s,
        Kind::Rke2,
        Kind::Kubespray,
        Kind::Debian,
        Kind::OwnUnit
    )]
    kind: Kind,
) {
    let dir = TempDir::new().unwrap();
    let pki = test_support::pki::Pki::create(dir.path());
    for piece in expected(kind).needed {
        let root = dir.path().join("node");
        kind.lay_out(&root, "https://127.0.0.1:2379", &pki);
        std::fs::create_dir_all(root.join(kind.data_dir().trim_start_matches('/'))).unwrap();
        let path = root.join(piece.trim_start_matches('/'));
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
        let output = command(&["backup-server", "--dry-run", "--host-root", text(&root)])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{piece}: {}", told(&output));
        let message = told(&output);
        // Of a certificate and its key the certificate is named.
        let named = piece.replace(".key", ".crt");
        assert!(
            message.contains(&named) && message.contains("--endpoints"),
            "{piece}: {message}"
        );
        std::fs::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn what_the_archive_missing_of_a_half_broken_node_is_told_by_the_backup() {
    let Some(node) = Node::start(Kind::OpenShift) else {
        return;
    };
    let resources = node.path("/etc/kubernetes/static-pod-resources");
    for revision in [6, 9, 13] {
        std::fs::remove_dir_all(resources.join(format!("kube-scheduler-pod-{revision}"))).unwrap();
    }
    // As after a restore: no revision in the manifest, so the newest one is taken.
    let manifest = node.path("/etc/kubernetes/manifests/etcd-pod.yaml");
    let text_of = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text_of.replace("etcd-pod-7", "restored")).unwrap();
    let repository = node.root().join("backups");
    let output = node.backup(&repository, &[]);
    let message = told(&output);
    assert!(output.status.success(), "{message}");
    assert!(
        message.contains("kube-scheduler is missing from the archive"),
        "{message}"
    );
    let back = TempDir::new().unwrap();
    unpack(&repository, back.path());
    let etcd = back.path().join("static-pod-resources/etcd-pod-7");
    assert!(etcd.exists());
}

#[test]
fn files_of_the_api_server_that_are_not_there_are_missing_from_the_archive_and_named() {
    let Some(node) = Node::start(Kind::KubesprayKubeadm) else {
        return;
    };
    for path in [
        "/srv/tls",
        "/srv/audit",
        "/var/lib/kubelet",
        "/etc/ssl/certs",
    ] {
        std::fs::remove_dir_all(node.path(path)).unwrap();
    }
    std::fs::write(node.path("/etc/kubernetes/encryption.yaml"), "keys: here").unwrap();
    let repository = node.root().join("backups");
    let output = node.backup(&repository, &["--output", "json"]);
    assert!(output.status.success(), "{}", told(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let missing = record["archive_missing"].as_array().unwrap();
    let missing: Vec<_> = missing.iter().map(|line| line.as_str().unwrap()).collect();
    let named = [
        ("/srv/audit/policy.yaml", "--audit-policy-file"),
        ("/srv/tls/a.crt", "--tls-sni-cert-key"),
        ("/srv/tls/a.key", "--tls-sni-cert-key"),
        ("/var/lib/kubelet/config.yaml", "kubelet"),
    ];
    assert_eq!(missing.len(), named.len(), "{missing:#?}");
    for (line, (path, what)) in missing.iter().zip(named) {
        assert!(line.starts_with(path) && line.contains(what), "{line}");
    }
    // What the operating system brings is not needed from a backup.
    let warnings = record["warnings"].to_string();
    assert!(
        warnings.contains("/etc/ssl/certs/ca-certificates.crt"),
        "{warnings}"
    );
    assert!(!warnings.contains("keys: here"), "{warnings}");
}

#[test]
fn links_to_files_of_the_api_server_lead_to_the_nodes_own_files() {
    let Some(node) = Node::start(Kind::KubesprayKubeadm) else {
        return;
    };
    // As people move configurations to another disk: the directory by an absolute link. This machine has such a file, too.
    let data = node.path("/data/usr");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("os-release"), "of the node").unwrap();
    std::os::unix::fs::symlink("/data/usr", node.path("/etc/linked")).unwrap();
    let manifest = node.path("/etc/kubernetes/manifests/kube-apiserver.yaml");
    let flags = std::fs::read_to_string(&manifest).unwrap();
    let flags = flags.replace(
        "    - --etcd-prefix",
        "    - --authorization-config=/etc/linked/os-release\n    - --etcd-prefix",
    );
    std::fs::write(&manifest, flags).unwrap();
    let repository = node.root().join("backups");
    let output = node.backup(&repository, &["--output", "json"]);
    assert!(output.status.success(), "{}", told(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["archive_missing"], Value::Null, "{record:#}");
    let warnings = record["warnings"].to_string();
    assert!(
        warnings.contains("/etc/linked/os-release: links lead to /data/usr/os-release"),
        "{warnings}"
    );
    let back = TempDir::new().unwrap();
    unpack(&repository, back.path());
    let content = std::fs::read_to_string(back.path().join("data/usr/os-release")).unwrap();
    assert_eq!(content, "of the node");
}

#[test]
fn links_of_a_node_lead_to_the_nodes_own_files_below_its_root() {
    let Some(node) = Node::start(Kind::K3s) else {
        return;
    };
    // As people move data to another disk, by an absolute link.
    let data = node.path("/var/lib/rancher/k3s/server/tls");
    let moved = node.path("/disk2/tls");
    std::fs::create_dir_all(moved.parent().unwrap()).unwrap();
    std::fs::rename(&data, &moved).unwrap();
    std::os::unix::fs::symlink("/disk2/tls", &data).unwrap();
    let repository = node.root().join("backups");
    let output = node.backup(&repository, &[]);
    assert!(output.status.success(), "{}", told(&output));
}
