//! What raft keeps beside the database: the log of entries, and the snapshot of the members (etcd-io/etcd: `server/storage/wal`,
//! `server/etcdserver/api/snap`; etcd-io/raft: `raftpb/raft.proto`).

mod config;
mod protobuf;
mod removal;
mod snapshot_file;
mod wal_reader;
mod wal_writer;

pub use removal::removes;
pub use snapshot_file::snapshot_file;
pub use wal_reader::{Segment, WalEnd, WalEntry, WalError, WalRecord, read_wal, segment_number};
pub use wal_writer::WalWriter;
