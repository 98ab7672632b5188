//! Messages about the members of a raft group.

use super::protobuf;
use crate::membership::Member;

/// Adds one voter, in a log. etcd adds the first members of a cluster by one such entry each.
pub(super) fn add_member(member: &Member) -> Vec<u8> {
    let mut change = Vec::new();
    protobuf::number(&mut change, 1, 0);
    protobuf::number(&mut change, 2, 0);
    protobuf::number(&mut change, 3, member.id);
    protobuf::bytes(&mut change, 4, &member.json());
    change
}

/// All of these are voters, and no change is under way.
pub(super) fn voters(ids: &[u64]) -> Vec<u8> {
    let mut state = Vec::new();
    for id in ids {
        protobuf::number(&mut state, 1, *id);
    }
    protobuf::number(&mut state, 5, 0);
    state
}
