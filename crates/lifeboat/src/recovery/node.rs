//! The node: its manifests, its member, and what was begun here.

use crate::cli::flags::node::HostRoot;
use anyhow::{Context, bail};
use backup_plan::platform::control_plane::{Component, ControlPlane, MANIFESTS};
use backup_plan::platform::{self, Found, NodeFiles, Platform};
use backup_plan::restore::journal::Journal;
use backup_store::control_plane::{JournalFile, Manifests, MemberDirs, STATE_DIR};
use backup_store::member::Connection;
use std::io;
use std::path::{Path, PathBuf};

/// The client certificate that the API server has for kubelets: its user may see whether the API server is ready.
const KUBELET_CLIENT: &str = "/etc/kubernetes/pki/apiserver-kubelet-client";
const CA: &str = "/etc/kubernetes/pki/ca.crt";

/// A node whose control plane consists of static pods.
pub(crate) struct Node {
    found: Found,
    /// Its control plane, whether it is stopped or not.
    pub(crate) control_plane: ControlPlane,
    /// What was begun here and is not ended.
    pub(crate) journal: Option<Journal>,
    pub(crate) journal_file: JournalFile,
    pub(crate) manifests: Manifests,
    /// The directory of the backups.
    pub(crate) backup_path: PathBuf,
}

/// The directory of the manifests that were moved away.
fn stopped_dir() -> PathBuf {
    Path::new(STATE_DIR).join("manifests")
}

/// The files of the node. Manifests that were moved away are still found in their folder.
struct WithStopped;

impl WithStopped {
    fn moved(path: &str) -> Option<String> {
        let name = path.strip_prefix(MANIFESTS)?;
        Some(format!("{}{name}", stopped_dir().display()))
    }

    fn root() -> HostRoot<'static> {
        HostRoot(Path::new("/"))
    }
}

impl NodeFiles for WithStopped {
    fn read(&self, path: &str) -> io::Result<Option<String>> {
        match (Self::root().read(path)?, Self::moved(path)) {
            (None, Some(moved)) => Self::root().read(&moved),
            (text, _) => Ok(text),
        }
    }

    fn exists(&self, path: &str) -> bool {
        Self::root().exists(path)
            || Self::moved(path).is_some_and(|moved| Self::root().exists(&moved))
    }

    fn real_file(&self, path: &str) -> Option<String> {
        Self::root().real_file(path)
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut names = Self::root().names(path);
        if let Some(moved) = Self::moved(path) {
            let moved = Self::root().names(&moved);
            // One that was not written to its end is none of them.
            names.extend(moved.into_iter().filter(|name| !name.ends_with(".new")));
            names.sort();
            names.dedup();
        }
        names
    }
}

impl Node {
    /// Reads the files of this node.
    pub(crate) fn read(backup_path: &Path) -> anyhow::Result<Self> {
        let found = platform::find(&WithStopped)?;
        if found.platform != Platform::Kubeadm {
            bail!(
                "cluster-restore stops and starts static pods as kubeadm has them, but this node is of platform {}: use `etcd-lifeboat restore` and the steps in docs/restore.md, or the restore of your platform",
                found.platform.name()
            );
        }
        let control_plane = ControlPlane::read(&WithStopped)?
            .with_context(|| format!("{MANIFESTS} has no static pod of etcd"))?;
        let state = Path::new(STATE_DIR);
        let journal_file = JournalFile::in_dir(state);
        Ok(Node {
            journal: journal_file.read()?,
            found,
            control_plane,
            journal_file,
            manifests: Manifests::new(Path::new(MANIFESTS), &stopped_dir()),
            backup_path: backup_path.into(),
        })
    }

    /// Its name in the cluster of etcd.
    pub(crate) fn name(&self) -> &str {
        &self.control_plane.member.name
    }

    /// Its peer URLs, in order.
    pub(crate) fn peer_urls(&self) -> Vec<String> {
        let urls = self.control_plane.member.peer_urls.split(',');
        let mut urls: Vec<_> = urls.map(|url| url.trim().to_string()).collect();
        urls.sort();
        urls
    }

    /// What is known of it from its files.
    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    /// The way to its own member.
    pub(crate) fn own_member(&self) -> Connection {
        self.member_at(&self.found.endpoint)
    }

    /// The way to a member, with the certificates of this node.
    pub(crate) fn member_at(&self, endpoint: &str) -> Connection {
        Connection {
            endpoint: endpoint.into(),
            ca_file: self.found.cacert.clone().map(PathBuf::from),
            cert_file: self.found.cert.clone().map(PathBuf::from),
            key_file: self.found.key.clone().map(PathBuf::from),
            user: None,
        }
    }

    /// The way to its own API server. `None` if the node has none.
    pub(crate) fn api_server(&self) -> Option<Connection> {
        Some(Connection {
            endpoint: self.control_plane.api_server.clone()?,
            ca_file: Some(CA.into()),
            cert_file: Some(format!("{KUBELET_CLIENT}.crt").into()),
            key_file: Some(format!("{KUBELET_CLIENT}.key").into()),
            user: None,
        })
    }

    pub(crate) fn data_dir(&self) -> &Path {
        Path::new(&self.control_plane.member.data_dir)
    }

    pub(crate) fn wal_dir(&self) -> Option<&Path> {
        self.control_plane.member.wal_dir.as_deref().map(Path::new)
    }

    /// The directories that an operation with this name uses.
    pub(crate) fn dirs(&self, own: &str) -> MemberDirs {
        MemberDirs::new(self.data_dir(), self.wal_dir(), own)
    }

    /// Where the data of the node's old member is: in its place, or aside.
    pub(crate) fn old_data(&self) -> (PathBuf, Option<PathBuf>) {
        if let Some(journal) = &self.journal {
            let dirs = self.dirs(&journal.own_dir());
            if dirs.has_old() {
                return (dirs.old_data_dir(), dirs.old_wal_dir());
            }
        }
        (
            self.data_dir().into(),
            self.wal_dir().map(Path::to_path_buf),
        )
    }

    /// The manifest of a component, also if it was moved away.
    pub(crate) fn manifest_text(&self, component: Component) -> anyhow::Result<String> {
        let manifest = self.control_plane.manifest(component);
        let file = &manifest
            .with_context(|| format!("{MANIFESTS} has no static pod of {}", component.name()))?
            .file;
        let text = WithStopped.read(&format!("{MANIFESTS}/{file}"))?;
        text.with_context(|| format!("{MANIFESTS}/{file} does not exist any more"))
    }

    /// Whether the manifest of etcd is in the folder of the kubelet.
    pub(crate) fn etcd_is_in_folder(&self) -> bool {
        let etcd = self.control_plane.manifest(Component::Etcd);
        etcd.is_some_and(|etcd| self.manifests.is_in_folder(&etcd.file))
    }
}
