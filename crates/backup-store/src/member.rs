//! The client of one etcd member: TLS, authentication, calls. It uses only one endpoint, so that the answer comes
//! from the member that was asked.

mod changes;

pub use crate::channel::{Connection, User};
use crate::channel::{DIAL_TIMEOUT, causes, open};
pub use crate::member_error::MemberError;
use crate::member_error::STALL_TIMEOUT;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod api {
    tonic::include_proto!("etcdserverpb");
}
use api::auth_client::AuthClient;
use api::cluster_client::ClusterClient;
use api::kv_client::KvClient;
use api::maintenance_client::MaintenanceClient;

const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// A cluster with a quorum answers a linearizable read much faster than this.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(2);
/// The stream fails after more empty pieces in a row than this: a member whose disk failed sends them
/// forever.
const MAX_EMPTY_PIECES: u32 = 64;
/// A member hashes a few hundred MB per second, and answers at the end.
const HASH_TIMEOUT: Duration = Duration::from_secs(300);

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
    /// The newest revision that it has applied.
    pub revision: i64,
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
    /// The URLs for clients; none before it has started.
    pub client_urls: Vec<String>,
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
        let (url, channel) = open(connection).await?;
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
            revision: header.revision,
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
        Ok(response.members.into_iter().map(peer).collect())
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

fn peer(member: api::Member) -> Peer {
    Peer {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_ur_ls,
        client_urls: member.client_ur_ls,
        learner: member.is_learner,
    }
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
