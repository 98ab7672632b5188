//! Where a node's etcd is, from what the node's own files say, so that nobody has to.
//!
//! Looked for in this order: a static pod as kubeadm lays it out, then an etcd that listens where it does
//! by default. All paths are the node's own, and absolute.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;

const KUBEADM_MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";
const KUBEADM_CONFIG_DIR: &str = "/etc/kubernetes";
const KUBEADM_CA: &str = "/etc/kubernetes/pki/etcd/ca.crt";
/// Client certificates that kubeadm makes, by certificate and key; the API server's is there longest.
const KUBEADM_CLIENTS: [(&str, &str); 2] = [
    (
        "/etc/kubernetes/pki/apiserver-etcd-client.crt",
        "/etc/kubernetes/pki/apiserver-etcd-client.key",
    ),
    (
        "/etc/kubernetes/pki/etcd/healthcheck-client.crt",
        "/etc/kubernetes/pki/etcd/healthcheck-client.key",
    ),
];
const PLAIN_ENDPOINT: &str = "http://127.0.0.1:2379";
const PLAIN_DATA_DIR: &str = "/var/lib/etcd";

/// The files of a node.
pub trait NodeFiles {
    /// A file's text; nothing if there is no such file.
    ///
    /// # Errors
    /// Why a file that is there can't be read.
    fn read(&self, path: &str) -> io::Result<Option<String>>;

    /// Whether there is a file or a directory.
    fn exists(&self, path: &str) -> bool;
}

/// What runs etcd on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// A static pod, and certificates, where kubeadm puts them.
    Kubeadm,
    /// Nothing that is known.
    Plain,
}

impl Platform {
    /// Its name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Platform::Kubeadm => "kubeadm",
            Platform::Plain => "plain",
        }
    }
}

/// Where etcd is on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What runs it.
    pub platform: Platform,
    /// The file that says so.
    pub found_in: Option<String>,
    /// Where the node's own member listens.
    pub endpoint: String,
    /// The certificate authority of the member's certificate.
    pub cacert: Option<String>,
    /// A client certificate.
    pub cert: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Where etcd keeps its data.
    pub data_dir: Option<String>,
    /// What belongs into the archive.
    pub resources: Vec<String>,
}

/// Why a node's files do not say where etcd is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// A file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// Which one.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file lacks what is needed of it.
    #[error("{path}: {problem}")]
    Incomplete {
        /// Which one.
        path: String,
        /// What is missing, and what to do.
        problem: String,
    },
}

/// Finds a node's etcd.
///
/// # Errors
/// Which piece of a half-broken node is missing.
pub fn find(files: &dyn NodeFiles) -> Result<Found, PlatformError> {
    let manifest = files
        .read(KUBEADM_MANIFEST)
        .map_err(|source| PlatformError::Read {
            path: KUBEADM_MANIFEST.into(),
            source,
        })?;
    match manifest {
        Some(text) => kubeadm(files, &text),
        None => Ok(plain(files)),
    }
}

fn plain(files: &dyn NodeFiles) -> Found {
    Found {
        platform: Platform::Plain,
        found_in: None,
        endpoint: PLAIN_ENDPOINT.into(),
        cacert: None,
        cert: None,
        key: None,
        data_dir: files
            .exists(PLAIN_DATA_DIR)
            .then(|| PLAIN_DATA_DIR.to_string()),
        resources: Vec::new(),
    }
}

/// The parts of a Pod that are looked at.
#[derive(Deserialize)]
struct Pod {
    spec: PodSpec,
}

#[derive(Deserialize)]
struct PodSpec {
    #[serde(default)]
    containers: Vec<Container>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default, rename = "volumeMounts")]
    mounts: Vec<Mount>,
}

#[derive(Deserialize)]
struct Mount {
    name: String,
    #[serde(rename = "mountPath")]
    path: String,
}

#[derive(Deserialize)]
struct Volume {
    name: String,
    #[serde(rename = "hostPath")]
    host: Option<HostPath>,
}

#[derive(Deserialize)]
struct HostPath {
    path: String,
}

fn kubeadm(files: &dyn NodeFiles, manifest: &str) -> Result<Found, PlatformError> {
    let incomplete = |problem: String| PlatformError::Incomplete {
        path: KUBEADM_MANIFEST.into(),
        problem,
    };
    let pod: Pod = serde_saphyr::from_str(manifest)
        .map_err(|error| incomplete(format!("no pod's YAML: {error}")))?;
    let etcd = pod
        .spec
        .containers
        .iter()
        .find(|container| container.name == "etcd")
        .ok_or_else(|| incomplete("no container named etcd".into()))?;
    let flags = flags_of(etcd);
    let urls = flags
        .get("listen-client-urls")
        .or_else(|| flags.get("advertise-client-urls"))
        .ok_or_else(|| {
            incomplete("etcd has no --listen-client-urls: name the member by --endpoints".into())
        })?;
    let endpoint = local_url(urls)
        .ok_or_else(|| incomplete(format!("--listen-client-urls {urls:?} has no URL")))?;
    // What etcd sees inside its container lies elsewhere on the node.
    let on_node = |path: &String| node_path(&pod.spec.volumes, etcd, path);

    let (mut cacert, mut cert, mut key) = (None, None, None);
    if endpoint.starts_with("https://") {
        let ca = flags
            .get("trusted-ca-file")
            .map_or_else(|| KUBEADM_CA.to_string(), on_node);
        if !files.exists(&ca) {
            return Err(incomplete(format!(
                "its certificate authority {ca} is missing: name it by --cacert"
            )));
        }
        cacert = Some(ca);
        let client = KUBEADM_CLIENTS
            .iter()
            .find(|(cert, key)| files.exists(cert) && files.exists(key));
        let Some((client_cert, client_key)) = client else {
            let names: Vec<_> = KUBEADM_CLIENTS.iter().map(|(cert, _)| *cert).collect();
            return Err(incomplete(format!(
                "no client certificate with its key, looked for {}: name one by --cert and --key",
                names.join(" and ")
            )));
        };
        cert = Some((*client_cert).to_string());
        key = Some((*client_key).to_string());
    }
    Ok(Found {
        platform: Platform::Kubeadm,
        found_in: Some(KUBEADM_MANIFEST.into()),
        endpoint,
        cacert,
        cert,
        key,
        data_dir: flags.get("data-dir").map(on_node),
        resources: vec![KUBEADM_CONFIG_DIR.into()],
    })
}

/// A container's flags: `--name=value` or `--name value`.
fn flags_of(container: &Container) -> BTreeMap<String, String> {
    let mut flags = BTreeMap::new();
    let mut words = container.command.iter().chain(&container.args).peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--") else {
            continue;
        };
        match flag.split_once('=') {
            Some((name, value)) => flags.insert(name.to_string(), value.to_string()),
            None => {
                let value = words.next_if(|next| !next.starts_with("--"));
                flags.insert(flag.to_string(), value.cloned().unwrap_or_default())
            }
        };
    }
    flags
}

/// Of several URLs the one on loopback, else the first.
fn local_url(urls: &str) -> Option<String> {
    let urls: Vec<_> = urls
        .split(',')
        .map(str::trim)
        .filter(|url| !url.is_empty())
        .collect();
    let loopback = |url: &&&str| {
        ["://127.", "://localhost:", "://[::1]"]
            .iter()
            .any(|host| url.contains(host))
    };
    let chosen = urls.iter().find(loopback).or(urls.first())?;
    // Listening everywhere is reached on loopback, too.
    Some(
        chosen
            .replace("://0.0.0.0:", "://127.0.0.1:")
            .replace("://[::]:", "://[::1]:"),
    )
}

/// Where a path of a container is on the node.
fn node_path(volumes: &[Volume], container: &Container, path: &str) -> String {
    let below = |mount: &&Mount| {
        path.strip_prefix(mount.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mount = container
        .mounts
        .iter()
        .filter(below)
        .max_by_key(|mount| mount.path.len());
    let host = mount.and_then(|mount| {
        let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
        let rest = path.strip_prefix(mount.path.as_str())?;
        Some(format!("{}{rest}", volume.host.as_ref()?.path))
    });
    host.unwrap_or_else(|| path.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(BTreeMap<&'static str, &'static str>);

    impl NodeFiles for Tree {
        fn read(&self, path: &str) -> io::Result<Option<String>> {
            Ok(self.0.get(path).map(ToString::to_string))
        }

        fn exists(&self, path: &str) -> bool {
            self.0.contains_key(path)
        }
    }

    /// The manifest as kubeadm writes it, shortened (kubernetes/kubernetes:
    /// `cmd/kubeadm/app/phases/etcd/local.go`).
    const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.5:2379
  labels: {component: etcd, tier: control-plane}
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=https://10.0.0.5:2379
    - --cert-file=/etc/kubernetes/pki/etcd/server.crt
    - --client-cert-auth=true
    - --data-dir=/var/lib/etcd
    - --listen-client-urls=https://10.0.0.5:2379,https://127.0.0.1:2379
    - --trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt
    image: registry.k8s.io/etcd:3.6.4-0
    name: etcd
    volumeMounts:
    - mountPath: /var/lib/etcd
      name: etcd-data
    - mountPath: /etc/kubernetes/pki/etcd
      name: etcd-certs
  hostNetwork: true
  volumes:
  - hostPath: {path: /etc/kubernetes/pki/etcd, type: DirectoryOrCreate}
    name: etcd-certs
  - hostPath: {path: /data/etcd, type: DirectoryOrCreate}
    name: etcd-data
status: {}
";

    fn kubeadm_tree() -> Tree {
        Tree(BTreeMap::from([
            (KUBEADM_MANIFEST, MANIFEST),
            (KUBEADM_CA, ""),
            (KUBEADM_CLIENTS[1].0, ""),
            (KUBEADM_CLIENTS[1].1, ""),
        ]))
    }

    #[test]
    fn kubeadms_etcd_is_found_with_its_certificates_and_where_its_data_really_is() {
        let found = find(&kubeadm_tree()).unwrap();
        assert_eq!(found.platform, Platform::Kubeadm);
        assert_eq!(found.endpoint, "https://127.0.0.1:2379");
        assert_eq!(found.cacert.as_deref(), Some(KUBEADM_CA));
        assert_eq!(found.cert.as_deref(), Some(KUBEADM_CLIENTS[1].0));
        assert_eq!(found.data_dir.as_deref(), Some("/data/etcd"));
        assert_eq!(found.resources, ["/etc/kubernetes"]);
        let mut both = kubeadm_tree();
        both.0
            .extend([(KUBEADM_CLIENTS[0].0, ""), (KUBEADM_CLIENTS[0].1, "")]);
        assert_eq!(
            find(&both).unwrap().cert.as_deref(),
            Some(KUBEADM_CLIENTS[0].0)
        );
    }

    #[test]
    fn a_half_broken_node_is_told_by_the_missing_piece() {
        let broken = |change: &dyn Fn(&mut Tree)| {
            let mut tree = kubeadm_tree();
            change(&mut tree);
            find(&tree).unwrap_err().to_string()
        };
        let without = |path: &'static str| {
            move |tree: &mut Tree| {
                tree.0.remove(path);
            }
        };
        assert!(broken(&without(KUBEADM_CA)).contains("pki/etcd/ca.crt is missing"));
        assert!(broken(&without(KUBEADM_CLIENTS[1].1)).contains("no client certificate"));
        for (manifest, told) in [
            ("", "no pod's YAML"),
            (
                "spec: {containers: [{name: other}]}",
                "no container named etcd",
            ),
            (
                "spec: {containers: [{name: etcd, command: [etcd]}]}",
                "--listen-client-urls",
            ),
            ("spec: {containers: 7}", "no pod's YAML"),
            ("{", "no pod's YAML"),
        ] {
            let error = broken(&|tree| {
                tree.0.insert(KUBEADM_MANIFEST, manifest);
            });
            assert!(
                error.starts_with(KUBEADM_MANIFEST) && error.contains(told),
                "{error}"
            );
        }
    }

    #[test]
    fn without_kubernetes_etcd_is_where_it_is_by_default() {
        let found = find(&Tree(BTreeMap::new())).unwrap();
        assert_eq!(found.platform, Platform::Plain);
        assert_eq!(found.endpoint, "http://127.0.0.1:2379");
        assert_eq!(found.resources, [""; 0]);
    }

    #[test]
    fn the_url_on_loopback_is_taken() {
        for (urls, url) in [
            (
                "https://10.0.0.1:2379,https://127.0.0.1:2379",
                "https://127.0.0.1:2379",
            ),
            ("https://10.0.0.1:2379", "https://10.0.0.1:2379"),
            ("http://0.0.0.0:2379", "http://127.0.0.1:2379"),
            ("https://[::]:2379", "https://[::1]:2379"),
            (" https://a:1 , https://localhost:1", "https://localhost:1"),
        ] {
            assert_eq!(local_url(urls).as_deref(), Some(url));
        }
        assert_eq!(local_url(","), None);
    }
}
