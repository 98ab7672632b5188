//! The client of one etcd member: TLS, authentication, calls. It uses only one endpoint, so that the answer comes
//! from the member that was asked.

use crate::local_file::read_small;
pub use crate::member_error::MemberError;
use crate::member_error::STALL_TIMEOUT;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod api {
    tonic::include_proto!("etcdserverpb");
}
use api::auth_client::AuthClient;
use api::cluster_client::ClusterClient;
use api::kv_client::KvClient;
use api::maintenance_client::MaintenanceClient;

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// A cluster with a quorum answers a linearizable read much faster than this.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a snapshot a member may send ahead. With HTTP/2's default of 64 KiB it waits after every
/// second piece.
const WINDOW_BYTES: u32 = 1 << 20;
/// The stream fails after more empty pieces in a row than this: a member whose disk failed sends them
/// forever.
const MAX_EMPTY_PIECES: u32 = 64;
/// A member hashes a few hundred MB per second, and answers at the end.
const HASH_TIMEOUT: Duration = Duration::from_secs(300);

/// How to connect to a member.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// `https://host:port`, `http://host:port`, or `host:port`.
    pub endpoint: String,
    /// The certificate authority of the member's certificate, as PEM.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, as PEM.
    pub cert_file: Option<PathBuf>,
    /// The key of the client's certificate, as PEM.
    pub key_file: Option<PathBuf>,
    /// A user and its password, where authentication is enabled.
    pub user: Option<User>,
}

/// A user of etcd.
#[derive(Clone)]
pub struct User {
    /// Its name in etcd's authentication.
    pub name: String,
    /// Its password, in plain text. `Debug` output does not contain it.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A member's own HashKV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C over the member's records up to the requested revision.
    pub hash: u32,
    /// The compact revision it was computed with.
    pub compact_revision: i64,
    /// The member that answered.
    pub member_id: u64,
}

/// The status of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its id. etcd prints it in hexadecimal.
    pub member_id: u64,
    /// Its cluster's id.
    pub cluster_id: u64,
    /// The etcd version it runs.
    pub version: String,
    /// Size of its database, in bytes.
    pub db_bytes: u64,
    /// The leader it knows; 0 for none.
    pub leader: u64,
    /// Whether it has no vote yet.
    pub learner: bool,
}

/// A member of the cluster, as the asked member knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id. etcd prints it in hexadecimal.
    pub id: u64,
    /// Its name; empty before it has started.
    pub name: String,
    /// The URLs that other members use to reach it.
    pub peer_urls: Vec<String>,
    /// Whether it has no vote yet.
    pub learner: bool,
}

/// The answer of a member to a HashKV request.
#[derive(Debug)]
pub enum HashKvAnswer {
    /// The member has computed the hash.
    Hash(HashKv),
    /// The member has compacted its history beyond the requested revision.
    Compacted,
    /// The member has not reached the requested revision.
    Future,
}

/// A connection to one member.
pub struct Member {
    endpoint: String,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    had_certificate: bool,
}

impl Member {
    /// Connects, and authenticates if a user is given.
    ///
    /// # Errors
    /// The member cannot be reached, or refuses the connection.
    pub async fn connect(connection: &Connection) -> Result<Self, MemberError> {
        let url = url_of(connection)?;
        let endpoint_error = |problem: String| MemberError::Endpoint {
            endpoint: connection.endpoint.clone(),
            problem,
        };
        let mut endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| endpoint_error(error.to_string()))?
            .connect_timeout(DIAL_TIMEOUT)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        if url.starts_with("https://") {
            endpoint = endpoint
                .tls_config(tls(connection).await?)
                .map_err(|error| endpoint_error(causes(&error)))?;
        }
        // The limit includes the TLS handshake: a frozen member still accepts connections.
        let channel = tokio::time::timeout(DIAL_TIMEOUT, endpoint.connect())
            .await
            .map_err(|_| MemberError::NoAnswer {
                endpoint: url.clone(),
                what: "the connection attempt",
                within: DIAL_TIMEOUT,
            })?
            .map_err(|error| MemberError::Dial {
                endpoint: url.clone(),
                problem: causes(&error),
                refused: is_refused(&error),
            })?;
        let mut member = Member {
            endpoint: url,
            channel,
            token: None,
            had_certificate: connection.cert_file.is_some(),
        };
        if let Some(user) = &connection.user {
            member.token = Some(member.authenticate(user).await?);
        }
        Ok(member)
    }

    /// The URL of the member.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The member's hash of its records up to `revision`. The member does not write while it computes the hash.
    ///
    /// # Errors
    /// The member did not answer.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvAnswer, MemberError> {
        let request = self.request(api::HashKvRequest { revision }, HASH_TIMEOUT);
        let mut client = MaintenanceClient::new(self.channel.clone());
        let answer = self.answered("the HashKV request", HASH_TIMEOUT, client.hash_kv(request));
        match answer.await? {
            Ok(response) => {
                let response = response.into_inner();
                Ok(HashKvAnswer::Hash(HashKv {
                    hash: response.hash,
                    compact_revision: response.compact_revision,
                    member_id: response.header.unwrap_or_default().member_id,
                }))
            }
            Err(status) if status.code() == Code::OutOfRange => {
                if status.message().contains("compacted") {
                    Ok(HashKvAnswer::Compacted)
                } else {
                    Ok(HashKvAnswer::Future)
                }
            }
            Err(status) => Err(self.refused(status)),
        }
    }

    /// The member's status.
    ///
    /// # Errors
    /// The member did not answer.
    pub async fn status(&self) -> Result<Status, MemberError> {
        let request = self.request(api::StatusRequest {}, DIAL_TIMEOUT);
        let mut client = MaintenanceClient::new(self.channel.clone());
        let response = self
            .answered("the status request", DIAL_TIMEOUT, client.status(request))
            .await?
            .map_err(|status| self.refused(status))?
            .into_inner();
        let header = response.header.unwrap_or_default();
        Ok(Status {
            member_id: header.member_id,
            cluster_id: header.cluster_id,
            version: response.version,
            db_bytes: response.db_size.try_into().unwrap_or(0),
            leader: response.leader,
            learner: response.is_learner,
        })
    }

    /// All members of the cluster, as this member knows them. It may lag behind.
    ///
    /// # Errors
    /// The member did not answer.
    pub async fn members(&self) -> Result<Vec<Peer>, MemberError> {
        let request = self.request(
            api::MemberListRequest {
                linearizable: false,
            },
            DIAL_TIMEOUT,
        );
        let mut client = ClusterClient::new(self.channel.clone());
        let response = self
            .answered(
                "the member list request",
                DIAL_TIMEOUT,
                client.member_list(request),
            )
            .await?
            .map_err(|status| self.refused(status))?
            .into_inner();
        let peers = response.members.into_iter().map(|member| Peer {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_ur_ls,
            learner: member.is_learner,
        });
        Ok(peers.collect())
    }

    /// The revision that the cluster has agreed on, if it has a quorum within 2 s.
    ///
    /// # Errors
    /// The member did not answer, for another reason than a missing quorum.
    pub async fn agreed_revision(&self) -> Result<Option<i64>, MemberError> {
        let request = api::RangeRequest {
            key: b"\0".to_vec(),
            limit: 1,
            serializable: false,
            count_only: true,
        };
        let request = self.request(request, QUORUM_TIMEOUT);
        let mut client = KvClient::new(self.channel.clone());
        match tokio::time::timeout(QUORUM_TIMEOUT, client.range(request)).await {
            Ok(Ok(response)) => {
                let header = response.into_inner().header.unwrap_or_default();
                Ok(Some(header.revision))
            }
            Ok(Err(status)) => match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Ok(None),
                _ => Err(self.refused(status)),
            },
            Err(_) => Ok(None),
        }
    }

    /// Starts to stream the member's database. The member forces a commit, and keeps old pages
    /// until the stream ends, so read the stream quickly.
    ///
    /// # Errors
    /// The stream cannot be started.
    pub async fn snapshot(&self) -> Result<SnapshotStream, MemberError> {
        // No deadline: how long the stream takes depends on the network. STALL_TIMEOUT detects a stream that stopped.
        let mut request = Request::new(api::SnapshotRequest {});
        self.authorize(&mut request);
        let mut client = MaintenanceClient::new(self.channel.clone());
        let response = tokio::time::timeout(STALL_TIMEOUT, client.snapshot(request))
            .await
            .map_err(|_| MemberError::Stalled {
                endpoint: self.endpoint.clone(),
            })?
            .map_err(|status| self.refused(status))?;
        Ok(SnapshotStream {
            endpoint: self.endpoint.clone(),
            had_certificate: self.had_certificate,
            pieces: response.into_inner(),
            empty_pieces: 0,
        })
    }

    /// Waits for an answer a little longer than the request's own timeout, because the connection may be dead.
    async fn answered<T>(
        &self,
        what: &'static str,
        within: Duration,
        request: impl Future<Output = T>,
    ) -> Result<T, MemberError> {
        tokio::time::timeout(within + ANSWER_GRACE, request)
            .await
            .map_err(|_| MemberError::NoAnswer {
                endpoint: self.endpoint.clone(),
                what,
                within,
            })
    }

    fn request<T>(&self, message: T, timeout: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        self.authorize(&mut request);
        request
    }

    fn authorize<T>(&self, request: &mut Request<T>) {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
    }

    async fn authenticate(&self, user: &User) -> Result<MetadataValue<Ascii>, MemberError> {
        let request = api::AuthenticateRequest {
            name: user.name.clone(),
            password: user.password.clone(),
        };
        let request = self.request(request, DIAL_TIMEOUT);
        let mut client = AuthClient::new(self.channel.clone());
        let token = self
            .answered(
                "the login request",
                DIAL_TIMEOUT,
                client.authenticate(request),
            )
            .await?
            .map_err(|status| self.refused(status))?
            .into_inner()
            .token;
        token.parse().map_err(|_| MemberError::Endpoint {
            endpoint: self.endpoint.clone(),
            problem: "its authentication token is not valid text".into(),
        })
    }

    fn refused(&self, status: tonic::Status) -> MemberError {
        refused(&self.endpoint, self.had_certificate, status)
    }
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

fn refused(endpoint: &str, had_certificate: bool, status: tonic::Status) -> MemberError {
    // An error that the member sent has no local cause. With a local cause, the connection broke.
    if std::error::Error::source(&status).is_some() {
        return MemberError::Closed {
            endpoint: endpoint.into(),
            problem: causes(&status),
            had_certificate,
        };
    }
    MemberError::Refused {
        endpoint: endpoint.into(),
        status: Box::new(status),
    }
}

/// The stream of a member's database with its trailer.
pub struct SnapshotStream {
    endpoint: String,
    had_certificate: bool,
    pieces: tonic::Streaming<api::SnapshotResponse>,
    empty_pieces: u32,
}

impl SnapshotStream {
    /// The next bytes; none at the end. Only the trailer shows whether the stream is complete.
    ///
    /// # Errors
    /// The stream failed.
    pub async fn next(&mut self) -> Result<Option<tonic::codegen::Bytes>, MemberError> {
        loop {
            let piece = tokio::time::timeout(STALL_TIMEOUT, self.pieces.message())
                .await
                .map_err(|_| MemberError::Stalled {
                    endpoint: self.endpoint.clone(),
                })?
                .map_err(|status| refused(&self.endpoint, self.had_certificate, status))?;
            let Some(piece) = piece else {
                return Ok(None);
            };
            if !piece.blob.is_empty() {
                self.empty_pieces = 0;
                return Ok(Some(piece.blob));
            }
            self.empty_pieces += 1;
            if self.empty_pieces > MAX_EMPTY_PIECES {
                return Err(MemberError::EmptyPieces {
                    endpoint: self.endpoint.clone(),
                    remaining_bytes: piece.remaining_bytes,
                });
            }
        }
    }
}

/// The URL of the endpoint. An address without a scheme uses TLS if a certificate is given.
fn url_of(connection: &Connection) -> Result<String, MemberError> {
    let wrong = |problem: &str| MemberError::Endpoint {
        endpoint: connection.endpoint.clone(),
        problem: problem.into(),
    };
    let given = connection.endpoint.trim();
    if given.is_empty() {
        return Err(wrong(
            "the endpoint is empty: use one such as https://127.0.0.1:2379",
        ));
    }
    if given.contains(',') {
        return Err(wrong(
            "several endpoints were given, expected one: the answer must come from one member",
        ));
    }
    match given.split_once("://") {
        Some(("http" | "https", _)) => Ok(given.into()),
        Some(_) => Err(wrong("the scheme must be http or https")),
        None if connection.ca_file.is_some() || connection.cert_file.is_some() => {
            Ok(format!("https://{given}"))
        }
        None => Ok(format!("http://{given}")),
    }
}

async fn tls(connection: &Connection) -> Result<ClientTlsConfig, MemberError> {
    let wrong = |problem: &str| MemberError::Endpoint {
        endpoint: connection.endpoint.clone(),
        problem: problem.into(),
    };
    let ca = connection.ca_file.as_ref().ok_or_else(|| {
        wrong("https requires the certificate authority of the member: use --cacert")
    })?;
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca).await?));
    config = match (&connection.cert_file, &connection.key_file) {
        (Some(cert), Some(key)) => {
            config.identity(Identity::from_pem(read(cert).await?, read(key).await?))
        }
        (None, None) => config,
        _ => return Err(wrong("--cert and --key must be used together")),
    };
    Ok(config)
}

/// Reads a certificate or a key on its own thread, because the file may be a pipe or on a disk that hangs.
async fn read(path: &Path) -> Result<Vec<u8>, MemberError> {
    const MAX_BYTES: u64 = 1 << 20;
    let own = path.to_path_buf();
    let reading = tokio::task::spawn_blocking(move || read_small(&own, MAX_BYTES));
    let read = match tokio::time::timeout(DIAL_TIMEOUT, reading).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    };
    read.map_err(|source| MemberError::File {
        path: path.into(),
        source,
    })
}

/// An error with all its causes. The outermost error alone is only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(endpoint: &str, ca: bool) -> Result<String, String> {
        url_of(&Connection {
            endpoint: endpoint.into(),
            ca_file: ca.then(|| "ca.crt".into()),
            ..Connection::default()
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn a_bare_address_is_https_when_there_are_certificates() {
        assert_eq!(url("10.0.0.1:2379", false).unwrap(), "http://10.0.0.1:2379");
        assert_eq!(url("10.0.0.1:2379", true).unwrap(), "https://10.0.0.1:2379");
        assert_eq!(url("http://a:1", true).unwrap(), "http://a:1");
    }

    #[test]
    fn a_wrong_endpoint_is_told_with_what_is_expected() {
        assert!(
            url("", false)
                .unwrap_err()
                .contains("https://127.0.0.1:2379")
        );
        assert!(url("a:1,b:1", false).unwrap_err().contains("expected one"));
        assert!(
            url("unix://x", false)
                .unwrap_err()
                .contains("http or https")
        );
    }

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let user = User {
            name: "root".into(),
            password: "secret".into(),
        };
        assert!(!format!("{user:?}").contains("secret"));
    }
}
