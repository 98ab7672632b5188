//! What is found on a node, or why nothing is found.

use super::api_server::{ApiServer, ReferredFile};
use super::node_files::{NodeFiles, plain};
use super::other_etcd::OtherEtcd;
use crate::encryption::{self, EncryptedResources};
use serde::Serialize;
use std::io;

/// etcd's default endpoint, used if no file sets another one.
pub(super) const PLAIN_ENDPOINT: &str = "http://127.0.0.1:2379";

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
    /// An `etcd-manager` of kOps.
    Kops,
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
            Platform::Kops => "kops",
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
    /// Files that a restore on a new machine needs, and that are not visible here, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_archived: Vec<String>,
    /// How the API server encrypts what it stores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub encryption: Vec<EncryptedResources>,
    /// Other etcds with a part of the objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherEtcd>,
}

impl Found {
    /// An etcd at an endpoint, of which nothing more is known.
    #[must_use]
    pub fn at(endpoint: String, found_in: Vec<String>) -> Self {
        Found {
            platform: Platform::Plain,
            found_in,
            endpoint,
            cacert: None,
            cert: None,
            key: None,
            data_dir: None,
            resources: Vec::new(),
            archive_root: "/".into(),
            missing: Vec::new(),
            not_archived: Vec::new(),
            encryption: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Reads the names of encryption keys from a file.
    pub(super) fn read_encryption(&mut self, path: &str, files: &dyn NodeFiles) {
        let text = match files.read(path) {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(error) => return self.missing.push(format!("{path}: {error}")),
        };
        match encryption::parse(&text) {
            Ok(encryption) => self.encryption = encryption,
            Err(problem) => {
                self.missing
                    .push(format!("the names of encryption keys: {path}: {problem}"));
            }
        }
    }

    /// Adds the files that the API server reads.
    fn add_api_server(&mut self, server: ApiServer, files: &dyn NodeFiles) {
        self.missing.extend(server.problems);
        for file in server.files {
            let ReferredFile { path, flag } = &file;
            let Some(real) = files.real_file(path) else {
                let problem = format!(
                    "{path}: the flag --{flag} of kube-apiserver names it, but it does not exist, is not a file, or is not visible here"
                );
                match file.is_of_the_system() {
                    true => self.missing.push(problem),
                    false => self.not_archived.push(problem),
                }
                continue;
            };
            let is_inside = |dir: &String| {
                let rest = real.strip_prefix(dir.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if !self.resources.iter().any(is_inside) {
                self.resources.push(real.clone());
            }
            if real != plain(path) {
                let note = format!("{path}: links lead to {real}, which is archived instead");
                self.missing.push(note);
            }
        }
        if let Some(path) = server.encryption {
            self.read_encryption(&path, files);
        }
        // The first says more than the others: it was found by its own service.
        for etcd in server.etcds {
            if !self.others.iter().any(|known| known.name == etcd.name) {
                self.others.push(etcd);
            }
        }
    }
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
    pub(super) api_server: ApiServer,
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
        let mut found = Found {
            platform: self.platform,
            cacert,
            cert,
            key,
            data_dir: self.data_dir,
            resources: self
                .resources
                .into_iter()
                .filter(|path| files.exists(path))
                .collect(),
            ..Found::at(self.endpoint, self.found_in)
        };
        found.add_api_server(self.api_server, files);
        Ok(found)
    }
}
