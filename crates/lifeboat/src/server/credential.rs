//! What a server in a static pod keeps beside the backups: the credential of its node for the API server, and the last known `Backup`.
//!
//! A static pod can have no service account. So a person creates a token that the API server accepts for one node, and the server renews
//! it. The token is bound to the Node object: it ends when the Node is deleted.

use backup_store::durable_file;
use backup_store::local_file::read_small;
use cluster_api::resources::BackupSpec;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::config::AuthInfo;
use kube::{Client, Config, ResourceExt};
use operator::api_error_message;
use operator::names::SIDECAR_ACCOUNT;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

const DIRECTORY: &str = ".sidecar";
const CREDENTIAL: &str = "credential.json";
const LAST_KNOWN: &str = "backup.json";
const MAX_BYTES: u64 = 1 << 20;
/// How long a token is valid. A node that was off for longer needs a new one from a person.
const VALID: SignedDuration = SignedDuration::from_hours(30 * 24);
/// A token is renewed after this part of the time for which it is valid: the API server may give it for a shorter time than asked for.
const RENEWED_AFTER: i32 = 30;

/// The directory with the state of a server in a static pod.
#[derive(Debug, Clone)]
pub(crate) struct State(PathBuf);

/// The credential of a node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credential {
    /// The URL of the API server.
    server: String,
    /// The name that the certificate of the API server must have, if it is not that of the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
    /// The certificate authorities of the API server, each in DER.
    certificate_authorities: Vec<ByteString>,
    /// The namespace of the service account.
    namespace: String,
    node: String,
    node_uid: String,
    token: String,
    /// By the clock of this node.
    issued_at: Timestamp,
    expires_at: Timestamp,
}

impl State {
    /// The state beside the backups in this directory.
    pub(crate) fn beside(backups: &Path) -> State {
        State(backups.join(DIRECTORY))
    }

    /// Where the credential is.
    pub(crate) fn credential_path(&self) -> PathBuf {
        self.0.join(CREDENTIAL)
    }

    pub(crate) fn credential(&self) -> Result<Credential, String> {
        let path = self.credential_path();
        let bytes = read_small(&path, MAX_BYTES)
            .map_err(|error| format!("cannot read the credential {}: {error}", path.display()))?;
        // The library's error can have a part of the text, which is secret.
        serde_json::from_slice(&bytes)
            .map_err(|_| format!("{} is not a credential of etcd-lifeboat", path.display()))
    }

    /// # Errors
    /// The error of the operating system.
    pub(crate) fn store_credential(&self, credential: &Credential) -> io::Result<()> {
        self.store(CREDENTIAL, &serde_json::to_vec_pretty(credential)?)
    }

    /// The last known specification. `None` if there is none.
    pub(crate) fn last_known(&self) -> Result<Option<BackupSpec>, String> {
        let path = self.0.join(LAST_KNOWN);
        let bytes = match read_small(&path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(format!(
                    "cannot read the last known Backup in {}: {error}; waiting for the API server",
                    path.display()
                ));
            }
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            format!(
                "{} is not a Backup: {error}; waiting for the API server",
                path.display()
            )
        })
    }

    /// Stores the last known specification, if it is another one.
    ///
    /// # Errors
    /// The error of the operating system.
    pub(crate) fn store_last_known(&self, spec: Option<&BackupSpec>) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(&spec)?;
        let known = read_small(&self.0.join(LAST_KNOWN), MAX_BYTES);
        if known.is_ok_and(|known| known == json) {
            return Ok(());
        }
        self.store(LAST_KNOWN, &json)
    }

    fn store(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if !self.0.is_dir() {
            durable_file::create_dir_all(&self.0)?;
        }
        durable_file::replace(&self.0.join(name), bytes)?;
        durable_file::sync_dir(&self.0)
    }
}

impl Credential {
    /// Creates the credential of a node, with the rights of a person.
    ///
    /// # Errors
    /// Why the API server does not give it.
    pub(crate) async fn create(
        config: &Config,
        client: &Client,
        namespace: &str,
        node: &str,
    ) -> Result<Credential, String> {
        let nodes: Api<Node> = Api::all(client.clone());
        let found = nodes.get_opt(node).await;
        let found = found
            .map_err(|error| format!("cannot read Node {node}: {}", api_error_message(&error)))?;
        let found = found.ok_or_else(|| {
            format!("there is no Node {node}: give the name of this node as `kubectl get nodes` shows it")
        })?;
        let authorities = config.root_cert.iter().flatten();
        let new = Credential {
            server: config.cluster_url.to_string(),
            tls_server_name: config.tls_server_name.clone(),
            certificate_authorities: authorities.cloned().map(ByteString).collect(),
            namespace: namespace.into(),
            node: node.into(),
            node_uid: found.uid().unwrap_or_default(),
            token: String::new(),
            issued_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
        };
        new.renew(client).await
    }

    /// When the token ends.
    pub(crate) fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether to ask for a new token. Also if the clock of the node was set back since the last one.
    pub(crate) fn needs_renewal(&self, now: Timestamp) -> bool {
        let valid = self.expires_at.duration_since(self.issued_at);
        now < self.issued_at || now.duration_since(self.issued_at) >= valid / RENEWED_AFTER
    }

    /// Asks for a new token for the same node.
    pub(crate) async fn renew(&self, client: &Client) -> Result<Credential, String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &self.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: Vec::new(),
                expiration_seconds: Some(VALID.as_secs()),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Node".into()),
                    name: Some(self.node.clone()),
                    uid: Some(self.node_uid.clone()),
                }),
            },
            ..TokenRequest::default()
        };
        let made = accounts
            .create_token_request(SIDECAR_ACCOUNT, &PostParams::default(), &request)
            .await;
        let made = made.map_err(|error| {
            format!(
                "the API server gives no token for ServiceAccount {SIDECAR_ACCOUNT} in namespace {}: {}",
                self.namespace,
                api_error_message(&error)
            )
        })?;
        let status = made
            .status
            .ok_or("the answer of the API server has no token")?;
        Ok(Credential {
            token: status.token,
            issued_at: Timestamp::now(),
            expires_at: status.expiration_timestamp.0,
            ..self.clone()
        })
    }

    /// A client with this credential.
    pub(crate) fn client(&self) -> Result<Client, String> {
        let url = self.server.parse().map_err(|_| {
            format!(
                "the credential has {:?}, which is not the URL of an API server",
                self.server
            )
        })?;
        let mut config = Config::new(url);
        // Without any, those of the system count, as for the kubeconfig that this is made from.
        let authorities = self.certificate_authorities.iter();
        let authorities: Vec<_> = authorities.map(|der| der.0.clone()).collect();
        config.root_cert = (!authorities.is_empty()).then_some(authorities);
        config.tls_server_name.clone_from(&self.tls_server_name);
        config.auth_info = AuthInfo {
            token: Some(self.token.clone().into()),
            ..AuthInfo::default()
        };
        Client::try_from(config).map_err(|error| format!("cannot use the credential: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_early_also_if_the_api_server_gives_it_for_a_short_time() {
        let issued_at: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        let of = |hours| Credential {
            server: String::new(),
            tls_server_name: None,
            certificate_authorities: Vec::new(),
            namespace: String::new(),
            node: String::new(),
            node_uid: String::new(),
            token: String::new(),
            issued_at,
            expires_at: issued_at + SignedDuration::from_hours(hours),
        };
        let needs = |hours, after: SignedDuration| of(hours).needs_renewal(issued_at + after);
        let (hours, minutes) = (SignedDuration::from_hours, SignedDuration::from_mins);
        assert!(!needs(30 * 24, hours(23)) && needs(30 * 24, hours(24)));
        assert!(!needs(24, minutes(47)) && needs(24, minutes(48)));
        // The clock was set back, or it was wrong by more than the token is valid.
        assert!(needs(30 * 24, hours(-1)) && needs(-1, hours(0)));
    }
}
