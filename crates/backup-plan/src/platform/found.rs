//! What is found on a node, or why nothing is found.

use serde::Serialize;
use std::io;

/// etcd's default endpoint, used if no file sets another one.
pub(super) const PLAIN_ENDPOINT: &str = "http://127.0.0.1:2379";

/// The files of a node.
pub trait NodeFiles {
    /// The text of a file; none if the file does not exist.
    ///
    /// # Errors
    /// An existing file cannot be read.
    fn read(&self, path: &str) -> io::Result<Option<String>>;

    /// Whether there is a file or a directory.
    fn exists(&self, path: &str) -> bool;

    /// The sorted names in a directory; none if it does not exist.
    fn names(&self, path: &str) -> Vec<String>;
}

/// What runs etcd on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// A static pod of OpenShift's etcd operator.
    OpenShift,
    /// A static pod as kubeadm writes it.
    Kubeadm,
    /// A static pod of RKE2.
    Rke2,
    /// The k3s process.
    K3s,
    /// `MicroShift`.
    MicroShift,
    /// A service with kubespray's environment file.
    Kubespray,
    /// Another systemd service.
    Systemd,
    /// No known platform: an etcd at the default endpoint is assumed.
    Plain,
}

impl Platform {
    /// Its name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Platform::OpenShift => "openshift",
            Platform::Kubeadm => "kubeadm",
            Platform::Rke2 => "rke2",
            Platform::K3s => "k3s",
            Platform::MicroShift => "microshift",
            Platform::Kubespray => "kubespray",
            Platform::Systemd => "systemd",
            Platform::Plain => "plain",
        }
    }
}

/// Where etcd is on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What runs etcd on this node. `Plain` if nothing was recognized.
    pub platform: Platform,
    /// The files that say where etcd is. Empty for `Plain`.
    pub found_in: Vec<String>,
    /// Where the node's own member listens.
    pub endpoint: String,
    /// The certificate authority of the member's certificate. `None` if the endpoint has no TLS.
    pub cacert: Option<String>,
    /// A client certificate. `None` if the endpoint has no TLS, or if the node's files name no certificate.
    pub cert: Option<String>,
    /// The private key of `cert`. `None` if `cert` is `None`.
    pub key: Option<String>,
    /// etcd's data directory. `None` if it is unknown.
    pub data_dir: Option<String>,
    /// The files and directories to archive.
    pub resources: Vec<String>,
    /// The directory that paths in the archive are relative to.
    pub archive_root: String,
    /// The files that should be archived but do not exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// Why etcd cannot be found from the node's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// A file can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file does not contain what is needed.
    #[error(
        "{path}: {problem}; fix this, or set the member with --endpoints, --cacert, --cert and --key, and the files to archive with --config-dir"
    )]
    Incomplete {
        /// The file.
        path: String,
        /// What is missing.
        problem: String,
    },
    /// The node has no etcd.
    #[error("this node has no etcd to back up: {0}")]
    NoEtcd(String),
}

/// Says where a file is not valid, without its content: such files contain tokens, and this text goes to logs, events and
/// metrics.
pub(super) fn not_yaml(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(location) => format!("line {} is not the expected YAML", location.line()),
        None => "the file is not the expected YAML".into(),
    }
}

impl PlatformError {
    pub(super) fn incomplete(path: &str) -> impl Fn(String) -> Self {
        move |problem| PlatformError::Incomplete {
            path: path.into(),
            problem,
        }
    }
}

/// Reads a file of a node.
pub(super) fn read(files: &dyn NodeFiles, path: &str) -> Result<Option<String>, PlatformError> {
    files.read(path).map_err(|source| PlatformError::Read {
        path: path.into(),
        source,
    })
}

/// A member whose certificates are not checked yet.
pub(super) struct Member<'f> {
    pub(super) platform: Platform,
    pub(super) found_in: Vec<String>,
    pub(super) endpoint: String,
    /// Path of its certificate authority, which may not exist.
    pub(super) ca: Option<String>,
    /// Possible paths of a client certificate and its key. The first pair that exists is used.
    pub(super) clients: Vec<(String, String)>,
    pub(super) data_dir: Option<String>,
    /// The files and directories to archive, if they exist.
    pub(super) resources: Vec<String>,
    pub(super) files: &'f dyn NodeFiles,
}

impl Member<'_> {
    /// Checks that the certificates exist.
    pub(super) fn complete(self) -> Result<Found, PlatformError> {
        let files = self.files;
        let source = self.found_in.last().cloned().unwrap_or_default();
        let incomplete = PlatformError::incomplete(&source);
        let (mut cacert, mut client) = (None, None);
        if self.endpoint.starts_with("https://") {
            let ca = self.ca.ok_or_else(|| {
                incomplete("the option --trusted-ca-file of etcd is missing".into())
            })?;
            if !files.exists(&ca) {
                return Err(incomplete(format!(
                    "the certificate authority {ca} does not exist"
                )));
            }
            let found = self
                .clients
                .iter()
                .find(|(cert, key)| files.exists(cert) && files.exists(key));
            if found.is_none() && !self.clients.is_empty() {
                let names: Vec<_> = self.clients.iter().map(|(cert, _)| cert.as_str()).collect();
                return Err(incomplete(format!(
                    "no client certificate with a key exists; looked for {}",
                    names.join(" and ")
                )));
            }
            cacert = Some(ca);
            client = found.cloned();
        }
        let (cert, key) = client.unzip();
        Ok(Found {
            platform: self.platform,
            found_in: self.found_in,
            endpoint: self.endpoint,
            cacert,
            cert,
            key,
            data_dir: self.data_dir,
            resources: self
                .resources
                .into_iter()
                .filter(|path| files.exists(path))
                .collect(),
            archive_root: "/".into(),
            missing: Vec::new(),
        })
    }
}

/// The directory that a path is in.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
