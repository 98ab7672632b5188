//! A member that speaks etcd's protocol and lies: what no real etcd can be made to do at will.

use std::pin::Pin;
use tokio::net::TcpListener;
use tonic::codegen::tokio_stream::{self, Stream, wrappers::TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod api {
    include!(concat!(env!("OUT_DIR"), "/lying/etcdserverpb.rs"));
}
use api::cluster_server::{Cluster, ClusterServer};
use api::kv_server::{Kv, KvServer};
use api::maintenance_server::{Maintenance, MaintenanceServer};

/// What the member does wrong.
#[derive(Debug, Clone)]
pub enum Lie {
    /// Nothing: sends these bytes in pieces of 32 KiB.
    None(Vec<u8>),
    /// Sends only this number of the bytes, and then ends the stream as if it were complete.
    EndsEarly(Vec<u8>, usize),
    /// Sends only this number of the bytes, and then an error.
    Fails(Vec<u8>, usize),
    /// Sends only this number of the bytes, and then empty pieces for ever.
    SendsNothingForEver(Vec<u8>, usize),
    /// Sends the bytes, but reports that the cluster is at this revision.
    IsAhead(Vec<u8>, i64),
}

/// A running member. It ends when this value is dropped.
pub struct LyingMember {
    /// URL for clients, with a free port of loopback.
    pub endpoint: String,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Clone)]
struct Service(Lie);

impl LyingMember {
    /// Starts it on loopback.
    pub fn start(lie: Lie) -> LyingMember {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = Service(lie);
        runtime.spawn(
            Server::builder()
                .add_service(KvServer::new(service.clone()))
                .add_service(ClusterServer::new(service.clone()))
                .add_service(MaintenanceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        LyingMember {
            endpoint,
            _runtime: runtime,
        }
    }
}

impl Service {
    fn header(&self) -> Option<api::ResponseHeader> {
        let revision = match self.0 {
            Lie::IsAhead(_, revision) => revision,
            _ => 1,
        };
        Some(api::ResponseHeader {
            cluster_id: 1,
            member_id: 2,
            revision,
        })
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Lie::None(bytes) | Lie::IsAhead(bytes, _) => bytes,
            Lie::EndsEarly(bytes, end)
            | Lie::Fails(bytes, end)
            | Lie::SendsNothingForEver(bytes, end) => &bytes[..*end],
        }
    }
}

#[tonic::async_trait]
impl Kv for Service {
    async fn range(
        &self,
        _: Request<api::RangeRequest>,
    ) -> Result<Response<api::RangeResponse>, Status> {
        Ok(Response::new(api::RangeResponse {
            header: self.header(),
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(
        &self,
        _: Request<api::MemberListRequest>,
    ) -> Result<Response<api::MemberListResponse>, Status> {
        let members = vec![api::Member {
            id: 2,
            name: "liar".into(),
        }];
        Ok(Response::new(api::MemberListResponse { members }))
    }
}

type Pieces = Pin<Box<dyn Stream<Item = Result<api::SnapshotResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Maintenance for Service {
    type SnapshotStream = Pieces;

    async fn status(
        &self,
        _: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        Ok(Response::new(api::StatusResponse {
            header: self.header(),
            version: "3.6.0".into(),
            db_size: self.bytes().len() as i64,
            // Another leads: a follower's data is compared with its own, which this one can't do.
            leader: 3,
        }))
    }

    async fn snapshot(&self, _: Request<api::SnapshotRequest>) -> Result<Response<Pieces>, Status> {
        const PIECE_BYTES: usize = 32 * 1024;
        let pieces: Vec<_> = self
            .bytes()
            .chunks(PIECE_BYTES)
            .map(|blob| {
                Ok(api::SnapshotResponse {
                    remaining_bytes: 1,
                    blob: blob.to_vec(),
                })
            })
            .collect();
        let pieces = tokio_stream::iter(pieces);
        let stream: Pieces = match self.0 {
            Lie::SendsNothingForEver(..) => {
                let nothing = std::iter::repeat_with(|| {
                    Ok(api::SnapshotResponse {
                        remaining_bytes: 4096,
                        blob: Vec::new(),
                    })
                });
                Box::pin(tokio_stream::StreamExt::chain(
                    pieces,
                    tokio_stream::iter(nothing),
                ))
            }
            Lie::Fails(..) => {
                let failure = [Err(Status::unknown("the disk is gone"))];
                Box::pin(tokio_stream::StreamExt::chain(
                    pieces,
                    tokio_stream::iter(failure),
                ))
            }
            _ => Box::pin(pieces),
        };
        Ok(Response::new(stream))
    }
}
