//! What raft keeps beside the database: the log of entries, and the snapshot of the members (etcd-io/etcd: `server/storage/wal`,
//! `server/etcdserver/api/snap`; etcd-io/raft: `raftpb/raft.proto`).

mod protobuf;
mod snapshot_file;
mod wal_reader;
mod wal_writer;

pub use snapshot_file::snapshot_file;
pub use wal_reader::{Segment, WalEnd, WalEntry, WalError, WalRecord, read_wal, segment_number};
pub use wal_writer::WalWriter;

/// Adds one voter, in a log. etcd adds the first members of a cluster by one such entry each.
pub(crate) fn add_member(member: &crate::membership::Member) -> Vec<u8> {
    let mut change = Vec::new();
    protobuf::number(&mut change, 1, 0);
    protobuf::number(&mut change, 2, 0);
    protobuf::number(&mut change, 3, member.id);
    protobuf::bytes(&mut change, 4, &member.json());
    change
}

/// All of these are voters, and no change is under way.
pub(crate) fn voters(ids: &[u64]) -> Vec<u8> {
    let mut state = Vec::new();
    for id in ids {
        protobuf::number(&mut state, 1, *id);
    }
    protobuf::number(&mut state, 5, 0);
    state
}
