//! The control plane of a node as static pods: which manifests it has, and what its own etcd is.
//!
//! The kubelet runs what is in every file of its folder whose name does not begin with a dot (kubernetes/kubernetes:
//! `pkg/kubelet/config/file.go`), so all of them are read.

use super::found::{PlatformError, read};
use super::node_files::NodeFiles;
use super::settings::Settings;
use super::static_pod::StaticPod;
use crate::restore::etcd_version::EtcdVersion;
use serde::{Deserialize, Serialize};

/// The folder of the manifests, where kubeadm has it.
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// A part of the control plane that is stopped during a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// etcd.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// The controller manager.
    KubeControllerManager,
    /// The scheduler.
    KubeScheduler,
}

impl Component {
    /// All of them, in the order in which they start.
    pub const ALL: [Component; 4] = [
        Component::Etcd,
        Component::KubeApiserver,
        Component::KubeControllerManager,
        Component::KubeScheduler,
    ];

    /// The name of its container.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Component::Etcd => "etcd",
            Component::KubeApiserver => "kube-apiserver",
            Component::KubeControllerManager => "kube-controller-manager",
            Component::KubeScheduler => "kube-scheduler",
        }
    }
}

/// A static pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it runs.
    pub component: Component,
    /// Its name in the folder.
    pub file: String,
    /// The command line of its container.
    pub command: Vec<String>,
    /// Its image.
    pub image: Option<String>,
    /// The tag of its image.
    pub image_tag: Option<String>,
}

/// The control plane of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// What is there, in the order in which it starts.
    pub manifests: Vec<Manifest>,
    /// The node's own member of etcd.
    pub member: OwnMember,
    /// The URL of the API server on this node, if there is one.
    pub api_server: Option<String>,
}

/// The node's own member, as its manifest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnMember {
    /// Its name.
    pub name: String,
    /// The URLs for other members, with commas between them.
    pub peer_urls: String,
    /// The data directory, on the node.
    pub data_dir: String,
    /// The directory of the log, on the node, if it is not in the data directory.
    pub wal_dir: Option<String>,
    /// The version of etcd, if the tag of the image says it.
    pub version: Option<EtcdVersion>,
    /// The members with which it was started first, as the flag has them.
    pub initial_cluster: Option<String>,
    /// The quota of its database, as the flag has it.
    pub quota_backend_bytes: Option<String>,
}

impl ControlPlane {
    /// Reads the manifests of a node. `None` if there is none of etcd.
    ///
    /// # Errors
    /// A manifest can't be read, is there twice, or does not say what is needed.
    pub fn read(files: &dyn NodeFiles) -> Result<Option<Self>, PlatformError> {
        let mut manifests: Vec<Manifest> = Vec::new();
        let (mut member, mut api_server) = (None, None);
        for file in files.names(MANIFESTS) {
            if file.starts_with('.') {
                continue;
            }
            let path = format!("{MANIFESTS}/{file}");
            let incomplete = PlatformError::incomplete(&path);
            let Some(text) = read(files, &path)? else {
                continue;
            };
            for component in Component::ALL {
                // What is no such pod is none of ours, as for the kubelet.
                let Ok(pod) = StaticPod::read(&text, component.name()) else {
                    continue;
                };
                if let Some(twice) = manifests.iter().find(|all| all.component == component) {
                    return Err(incomplete(format!(
                        "{} is also in {MANIFESTS}/{}, and the kubelet reads both: move one of them out of this folder",
                        component.name(),
                        twice.file
                    )));
                }
                match component {
                    Component::Etcd => {
                        member = Some(OwnMember::read(&pod).map_err(&incomplete)?);
                    }
                    Component::KubeApiserver => {
                        api_server = Some(url_of_api_server(&pod.settings()));
                    }
                    _ => {}
                }
                manifests.push(Manifest {
                    component,
                    file: file.clone(),
                    command: pod.words(),
                    image: pod.image().map(ToString::to_string),
                    image_tag: pod.image_tag().map(ToString::to_string),
                });
            }
        }
        manifests.sort_by_key(|manifest| manifest.component);
        Ok(member.map(|member| ControlPlane {
            manifests,
            member,
            api_server,
        }))
    }

    /// The manifest of a component.
    #[must_use]
    pub fn manifest(&self, component: Component) -> Option<&Manifest> {
        let mut all = self.manifests.iter();
        all.find(|manifest| manifest.component == component)
    }
}

impl OwnMember {
    fn read(pod: &StaticPod) -> Result<Self, String> {
        let settings = pod.settings();
        let needed = |name: &str| {
            let value = settings.get(name).cloned();
            value.ok_or_else(|| format!("the option --{name} of etcd is missing"))
        };
        let on_node = |name: &str| settings.get(name).map(|path| pod.on_node(path));
        let data_dir = needed("data-dir").map(|path| pod.on_node(&path))?;
        let default_wal_dir = format!("{}/member/wal", data_dir.trim_end_matches('/'));
        Ok(OwnMember {
            name: needed("name")?,
            peer_urls: needed("initial-advertise-peer-urls")?,
            wal_dir: on_node("wal-dir").filter(|dir| *dir != default_wal_dir),
            data_dir,
            version: pod.image_tag().and_then(version_of_tag),
            initial_cluster: settings.get("initial-cluster").cloned(),
            quota_backend_bytes: settings.get("quota-backend-bytes").cloned(),
        })
    }
}

/// Its certificate is for the address that it tells others.
fn url_of_api_server(settings: &Settings) -> String {
    let or = |name: &str, default: &str| {
        let value = settings.get(name);
        value.map_or_else(|| default.to_string(), Clone::clone)
    };
    let mut host = or("advertise-address", "127.0.0.1");
    if host.contains(':') {
        host = format!("[{host}]");
    }
    format!("https://{host}:{}", or("secure-port", "6443"))
}

/// The version in a tag such as `3.6.6-0`.
fn version_of_tag(tag: &str) -> Option<EtcdVersion> {
    let version = tag.split_once('-').map_or(tag, |(version, _)| version);
    version.parse().ok()
}

/// The tag of a component's image in its manifest.
#[must_use]
pub fn image_tag(manifest: &str, component: Component) -> Option<String> {
    let pod = StaticPod::read(manifest, component.name()).ok()?;
    pod.image_tag().map(ToString::to_string)
}

/// The manifest of etcd, changed so that it joins a cluster: all members, and a cluster that exists. A member with an empty data
/// directory would otherwise begin a cluster of its own.
///
/// # Errors
/// The manifest does not have the form that kubeadm gives it.
pub fn manifest_that_joins(manifest: &str, initial_cluster: &str) -> Result<String, String> {
    const CLUSTER: &str = "--initial-cluster=";
    const STATE: &str = "--initial-cluster-state=";
    let state = format!("{STATE}existing");
    let has_state = manifest
        .lines()
        .any(|line| line.trim_start().starts_with(&format!("- {STATE}")));
    let mut joined = String::with_capacity(manifest.len() + initial_cluster.len());
    for line in manifest.lines() {
        let indent: String = line.chars().take_while(|char| *char == ' ').collect();
        let item = line.trim_start().strip_prefix("- ").map(str::trim_end);
        match item {
            Some(item) if item.starts_with(CLUSTER) => {
                joined += &format!("{indent}- {CLUSTER}{initial_cluster}\n");
                if !has_state {
                    joined += &format!("{indent}- {state}\n");
                }
            }
            Some(item) if item.starts_with(STATE) => joined += &format!("{indent}- {state}\n"),
            _ => joined += &format!("{line}\n"),
        }
    }
    // Whatever form the text had: only the result counts.
    let words = StaticPod::read(&joined, Component::Etcd.name())?.words();
    let wanted = Settings::from_words(&words);
    let has = |name: &str, value: &str| wanted.get(name).is_some_and(|own| own == value);
    if has("initial-cluster", initial_cluster) && has("initial-cluster-state", "existing") {
        return Ok(joined);
    }
    Err(format!(
        "the command of etcd has no line `- {CLUSTER}…` that can be changed"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io;

    const ETCD: &str = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - command:\n    - etcd\n    - --data-dir=/var/lib/etcd\n    - --initial-advertise-peer-urls=https://10.0.0.1:2380\n    - --initial-cluster=node1=https://10.0.0.1:2380\n    - --name=node1\n    image: registry.example:5000/etcd:3.6.6-0\n    name: etcd\n    volumeMounts:\n    - mountPath: /var/lib/etcd\n      name: data\n  volumes:\n  - hostPath: {path: /disk/etcd}\n    name: data\n";
    const API_SERVER: &str = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - command: [kube-apiserver, --secure-port=7443, '--advertise-address=fd00::1']\n    image: registry.example/kube-apiserver@sha256:00\n    name: kube-apiserver\n";

    struct Folder(BTreeMap<&'static str, &'static str>);

    impl NodeFiles for Folder {
        fn read(&self, path: &str) -> io::Result<Option<String>> {
            let name = path
                .strip_prefix(MANIFESTS)
                .and_then(|name| name.strip_prefix('/'));
            Ok(name
                .and_then(|name| self.0.get(name))
                .map(ToString::to_string))
        }

        fn exists(&self, _: &str) -> bool {
            false
        }

        fn real_file(&self, _: &str) -> Option<String> {
            None
        }

        fn names(&self, _: &str) -> Vec<String> {
            self.0.keys().map(ToString::to_string).collect()
        }
    }

    fn read_all(
        files: &[(&'static str, &'static str)],
    ) -> Result<Option<ControlPlane>, PlatformError> {
        ControlPlane::read(&Folder(files.iter().copied().collect()))
    }

    #[test]
    fn the_manifests_of_a_node_say_what_its_control_plane_is() {
        let found = read_all(&[
            ("kube-apiserver.yaml", API_SERVER),
            ("etcd.yaml", ETCD),
            (".etcd.yaml.swp", ETCD),
            ("notes", "no: pod"),
        ]);
        let found = found.unwrap().unwrap();
        let components: Vec<_> = found.manifests.iter().map(|all| all.component).collect();
        assert_eq!(components, [Component::Etcd, Component::KubeApiserver]);
        let member = &found.member;
        assert_eq!(
            (member.name.as_str(), member.data_dir.as_str()),
            ("node1", "/disk/etcd")
        );
        assert_eq!(member.version.unwrap().to_string(), "3.6");
        assert_eq!(
            (member.wal_dir.as_deref(), found.api_server.as_deref()),
            (None, Some("https://[fd00::1]:7443"))
        );
        let api_server = found.manifest(Component::KubeApiserver).unwrap();
        assert_eq!(api_server.image_tag, None);
        assert_eq!(
            read_all(&[("kube-apiserver.yaml", API_SERVER)]).unwrap(),
            None
        );
    }

    #[test]
    fn a_second_manifest_of_etcd_is_refused_because_the_kubelet_reads_it_too() {
        let error = read_all(&[("etcd.yaml", ETCD), ("etcd.yaml.bak", ETCD)]).unwrap_err();
        assert!(
            error.to_string().contains("the kubelet reads both"),
            "{error}"
        );
    }

    #[test]
    fn a_manifest_that_joins_has_all_members_and_an_existing_cluster() {
        let all = "node1=https://10.0.0.1:2380,node2=https://10.0.0.2:2380";
        let joined = manifest_that_joins(ETCD, all).unwrap();
        assert!(joined.contains(&format!(
            "    - --initial-cluster={all}\n    - --initial-cluster-state=existing\n"
        )));
        // Again, and with other members.
        let again = manifest_that_joins(&joined, "node1=https://10.0.0.1:2380").unwrap();
        assert_eq!(again.matches("--initial-cluster-state=existing").count(), 1);
        assert!(!again.contains("node2"));
        let error = manifest_that_joins(API_SERVER, all).unwrap_err();
        assert!(error.contains("no container named etcd"), "{error}");
        let other = ETCD.replace(
            "    - --initial-cluster=",
            "    - \"--initial-cluster\"\n    - ",
        );
        assert!(
            manifest_that_joins(&other, all)
                .unwrap_err()
                .contains("no line")
        );
    }
}
