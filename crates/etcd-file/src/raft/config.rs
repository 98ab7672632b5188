//! Messages about the members of a raft group.

use super::protobuf;
use super::wal_reader::WalEntry;
use crate::membership::Member;
use crate::wire::{self, Content, Field};

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

/// Whether an entry removes this member from its cluster. The member stops there.
#[must_use]
pub fn removes(entry: &WalEntry<'_>, member_id: u64) -> bool {
    const CONFIG_CHANGE: u64 = 1;
    const REMOVE: u64 = 1;
    const FIELDS: &[Field] = &[Field::Number, Field::Number, Field::Number, Field::Bytes];
    let (mut change, mut node) = (0, 0);
    let read = wire::read(
        entry.data,
        FIELDS,
        &mut |field, content| match (field, content) {
            (2, Content::Number(number)) => change = number,
            (3, Content::Number(number)) => node = number,
            _ => {}
        },
    );
    entry.kind == CONFIG_CHANGE && read.is_ok() && (change, node) == (REMOVE, member_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_removal_of_a_member_is_known_from_its_entry() {
        let mut remove = Vec::new();
        for (field, number) in [(1, 99), (2, 1), (3, 0xabc)] {
            protobuf::number(&mut remove, field, number);
        }
        let add = add_member(&Member::new("m1", vec!["http://a:1".into()], ""));
        let entry = |kind, data| WalEntry {
            kind,
            term: 1,
            index: 1,
            data,
        };
        assert!(removes(&entry(1, &remove), 0xabc));
        assert!(!removes(&entry(1, &remove), 0xabd) && !removes(&entry(0, &remove), 0xabc));
        assert!(!removes(
            &entry(1, &add),
            Member::new("m1", vec!["http://a:1".into()], "").id
        ));
    }
}
