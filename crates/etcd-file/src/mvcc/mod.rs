//! What etcd stores in its database: every change of a key as a record of bucket `key`, and beside it
//! members, leases, users, alarms, and how far the raft log is reflected (etcd-io/etcd:
//! `server/storage/schema`, `server/storage/mvcc`).

pub(crate) mod buckets;
mod content;
mod hash_kv;
mod key_value;
mod keys;
mod records;
mod revision;
pub(crate) mod start;

pub use content::{Content, Summary};
pub use hash_kv::{HashKvError, hash_kv};
pub use key_value::{DecodeError, KeyValue};
pub(crate) use keys::{KeyHash, KeyHasher};
pub use records::RecordsError;
pub(crate) use records::{each_record, user_record};
pub use revision::{RecordKey, Revision, RevisionError};
