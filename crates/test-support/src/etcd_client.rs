//! Fills a real etcd with data, from tests that are not async.

use crate::pki::Pki;
use tokio::runtime::Runtime;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod api {
    tonic::include_proto!("etcdserverpb");
}
use api::auth_client::AuthClient;
use api::kv_client::KvClient;
use api::lease_client::LeaseClient;
use api::maintenance_client::MaintenanceClient;
use api::request_op::Request as Op;

/// One change of a transaction.
#[derive(Debug, Clone)]
pub enum Change {
    /// Puts a value, attached to a lease unless that is 0.
    Put(Vec<u8>, Vec<u8>, i64),
    /// Puts a value, and keeps the lease of the key.
    PutKeepingLease(Vec<u8>, Vec<u8>),
    /// Attaches a key to a lease, and keeps its value.
    PutKeepingValue(Vec<u8>, i64),
    /// Deletes all keys from the first to before the second.
    DeleteRange(Vec<u8>, Vec<u8>),
    /// A transaction within the transaction.
    Transaction(Transaction),
}

/// Changes that depend on comparisons.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    pub comparisons: Vec<Comparison>,
    /// If all comparisons hold.
    pub success: Vec<Change>,
    /// Otherwise.
    pub failure: Vec<Change>,
}

/// A comparison of all keys from `key` to before `range_end`, or of `key` alone.
#[derive(Debug, Clone)]
pub struct Comparison {
    pub key: Vec<u8>,
    pub range_end: Vec<u8>,
    pub with: Compared,
    /// 0 for equal, 1 for greater, 2 for less, 3 for not equal.
    pub result: i32,
}

/// What is compared, and with what.
#[derive(Debug, Clone)]
pub enum Compared {
    Version(i64),
    CreateRevision(i64),
    ModRevision(i64),
    Value(Vec<u8>),
    Lease(i64),
}

/// A connection to one server.
pub struct Client {
    runtime: Runtime,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// Connects to a server without TLS.
    pub fn connect(endpoint: &str) -> Client {
        Client::connect_with(endpoint, None)
    }

    /// Connects to a server, with the client's certificate where there is one.
    pub fn connect_with(endpoint: &str, pki: Option<&Pki>) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut endpoint = Endpoint::from_shared(endpoint.to_string()).unwrap();
        if let Some(pki) = pki {
            let read = |path| std::fs::read(path).unwrap();
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(read(&pki.ca)))
                .identity(Identity::from_pem(
                    read(&pki.client_cert),
                    read(&pki.client_key),
                ));
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        let channel = runtime
            .block_on(endpoint.connect())
            .expect("connect to etcd");
        Client {
            runtime,
            channel,
            token: None,
        }
    }

    fn run<T, R>(
        &self,
        message: T,
        call: impl AsyncFnOnce(Channel, Request<T>) -> Result<tonic::Response<R>, Status>,
    ) -> R {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        self.runtime
            .block_on(call(self.channel.clone(), request))
            .expect("etcd answers")
            .into_inner()
    }

    /// Puts one value and gives the revision.
    pub fn put(&self, key: &[u8], value: &[u8]) -> i64 {
        let request = api::PutRequest {
            key: key.to_vec(),
            value: value.to_vec(),
            ..Default::default()
        };
        let response = self.run(request, async |channel, request| {
            KvClient::new(channel).put(request).await
        });
        response.header.unwrap_or_default().revision
    }

    /// Puts one value and returns the revision, or `None` if the server does not answer within 2 s.
    pub fn try_put(&self, key: &[u8], value: &[u8]) -> Option<i64> {
        let request = api::PutRequest {
            key: key.to_vec(),
            value: value.to_vec(),
            ..Default::default()
        };
        let put = async {
            let put = KvClient::new(self.channel.clone());
            let limit = std::time::Duration::from_secs(2);
            tokio::time::timeout(limit, { put }.put(request)).await
        };
        let response = self.runtime.block_on(put).ok()?.ok()?.into_inner();
        Some(response.header.unwrap_or_default().revision)
    }

    /// Deletes all keys from `key` to before `range_end`; just `key` if that is empty.
    pub fn delete(&self, key: &[u8], range_end: &[u8]) {
        let request = api::DeleteRangeRequest {
            key: key.to_vec(),
            range_end: range_end.to_vec(),
        };
        self.run(request, async |channel, request| {
            KvClient::new(channel).delete_range(request).await
        });
    }

    /// Makes a transaction, and returns whether the server did.
    pub fn try_transact(&self, transaction: Transaction) -> bool {
        let mut client = KvClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.txn(transaction.request()));
        answer.is_ok()
    }

    /// Makes changes in one transaction and gives the revision.
    pub fn transact(&self, changes: impl IntoIterator<Item = Change>) -> i64 {
        let request = transaction(changes);
        let response = self.run(request, async |channel, request| {
            KvClient::new(channel).txn(request).await
        });
        response.header.unwrap_or_default().revision
    }

    /// Makes many transactions, some of them at the same time.
    pub fn transact_many(&self, transactions: impl IntoIterator<Item = Vec<Change>>) {
        const AT_ONCE: usize = 32;
        self.runtime.block_on(async {
            let mut running = tokio::task::JoinSet::new();
            for changes in transactions {
                if running.len() >= AT_ONCE {
                    running.join_next().await.unwrap().unwrap();
                }
                let mut client = KvClient::new(self.channel.clone());
                running.spawn(async move {
                    client
                        .txn(transaction(changes))
                        .await
                        .expect("etcd answers");
                });
            }
            while let Some(done) = running.join_next().await {
                done.unwrap();
            }
        });
    }

    /// Compacts history and waits until it is gone from the file.
    pub fn compact(&self, revision: i64) {
        let request = api::CompactionRequest {
            revision,
            physical: true,
        };
        self.run(request, async |channel, request| {
            KvClient::new(channel).compact(request).await
        });
    }

    pub fn grant_lease(&self, id: i64, ttl_s: i64) {
        let request = api::LeaseGrantRequest { ttl: ttl_s, id };
        self.run(request, async |channel, request| {
            LeaseClient::new(channel).lease_grant(request).await
        });
    }

    /// Asks for a lease, and returns whether the server grants it.
    pub fn try_grant_lease(&self, id: i64, ttl_s: i64) -> bool {
        let mut client = LeaseClient::new(self.channel.clone());
        let request = api::LeaseGrantRequest { ttl: ttl_s, id };
        self.runtime.block_on(client.lease_grant(request)).is_ok()
    }

    /// Revokes a lease, which deletes the keys that are attached to it.
    pub fn revoke_lease(&self, id: i64) {
        let request = api::LeaseRevokeRequest { id };
        self.run(request, async |channel, request| {
            LeaseClient::new(channel).lease_revoke(request).await
        });
    }

    /// The server's id and its revision.
    pub fn member_id_and_revision(&self) -> (u64, i64) {
        let response = self.run(api::StatusRequest {}, async |channel, request| {
            MaintenanceClient::new(channel).status(request).await
        });
        let header = response.header.unwrap_or_default();
        (header.member_id, header.revision)
    }

    /// Raises the alarm that the member is out of space.
    pub fn raise_no_space(&self, member_id: u64) {
        let request = api::AlarmRequest {
            action: api::alarm_request::AlarmAction::Activate.into(),
            member_id,
            alarm: api::AlarmType::Nospace.into(),
        };
        self.run(request, async |channel, request| {
            MaintenanceClient::new(channel).alarm(request).await
        });
    }

    /// Defragments the database file of the server.
    pub fn defragment(&self) {
        self.run(api::DefragmentRequest {}, async |channel, request| {
            MaintenanceClient::new(channel).defragment(request).await
        });
    }

    /// Adds users and roles and turns authentication on; only root may do anything from then on.
    pub fn enable_auth(&self, root_password: &str) {
        let add_role = |name: &str| {
            let request = api::AuthRoleAddRequest { name: name.into() };
            self.run(request, async |channel, request| {
                AuthClient::new(channel).role_add(request).await
            });
        };
        let add_user = |name: &str, password: &str| {
            let request = api::AuthUserAddRequest {
                name: name.into(),
                password: password.into(),
            };
            self.run(request, async |channel, request| {
                AuthClient::new(channel).user_add(request).await
            });
        };
        add_role("root");
        add_role("readers");
        add_user("root", root_password);
        add_user("reader", "reader");
        for (user, role) in [("root", "root"), ("reader", "readers")] {
            let request = api::AuthUserGrantRoleRequest {
                user: user.into(),
                role: role.into(),
            };
            self.run(request, async |channel, request| {
                AuthClient::new(channel).user_grant_role(request).await
            });
        }
        self.run(api::AuthEnableRequest {}, async |channel, request| {
            AuthClient::new(channel).auth_enable(request).await
        });
    }
}

fn transaction(changes: impl IntoIterator<Item = Change>) -> api::TxnRequest {
    let success = changes.into_iter().collect();
    let transaction = Transaction {
        success,
        ..Transaction::default()
    };
    transaction.request()
}

impl Transaction {
    fn request(self) -> api::TxnRequest {
        let operations = |changes: Vec<Change>| changes.into_iter().map(Change::operation);
        api::TxnRequest {
            compare: self
                .comparisons
                .into_iter()
                .map(Comparison::compare)
                .collect(),
            success: operations(self.success).collect(),
            failure: operations(self.failure).collect(),
        }
    }
}

impl Change {
    fn operation(self) -> api::RequestOp {
        let request = match self {
            Change::Put(key, value, lease) => Op::RequestPut(api::PutRequest {
                key,
                value,
                lease,
                ..Default::default()
            }),
            Change::PutKeepingLease(key, value) => Op::RequestPut(api::PutRequest {
                key,
                value,
                ignore_lease: true,
                ..Default::default()
            }),
            Change::PutKeepingValue(key, lease) => Op::RequestPut(api::PutRequest {
                key,
                lease,
                ignore_value: true,
                ..Default::default()
            }),
            Change::DeleteRange(key, range_end) => {
                Op::RequestDeleteRange(api::DeleteRangeRequest { key, range_end })
            }
            Change::Transaction(transaction) => Op::RequestTxn(transaction.request()),
        };
        api::RequestOp {
            request: Some(request),
        }
    }
}

impl Comparison {
    fn compare(self) -> api::Compare {
        use api::compare::TargetUnion;
        let (target, union) = match self.with {
            Compared::Version(version) => (0, TargetUnion::Version(version)),
            Compared::CreateRevision(revision) => (1, TargetUnion::CreateRevision(revision)),
            Compared::ModRevision(revision) => (2, TargetUnion::ModRevision(revision)),
            Compared::Value(value) => (3, TargetUnion::Value(value)),
            Compared::Lease(lease) => (4, TargetUnion::Lease(lease)),
        };
        api::Compare {
            result: self.result,
            target,
            key: self.key,
            range_end: self.range_end,
            target_union: Some(union),
        }
    }
}
