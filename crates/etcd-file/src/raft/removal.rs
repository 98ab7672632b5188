//! The removal of a member, in a log.

use super::wal_reader::WalEntry;
use crate::wire::{self, Content, Field};

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
    use super::super::config::add_member;
    use super::super::protobuf;
    use super::*;
    use crate::membership::Member;

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
