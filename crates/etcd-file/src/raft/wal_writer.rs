//! The log of a cluster that begins with a database.

use super::config::{add_member, voters};
use super::protobuf;
use crate::membership::Member;

pub(super) const METADATA: u64 = 1;
pub(super) const ENTRY: u64 = 2;
pub(super) const STATE: u64 = 3;
pub(super) const CRC: u64 = 4;
pub(super) const SNAPSHOT: u64 = 5;
const CONFIG_CHANGE: u64 = 1;
/// Everything in a new log is of the first term.
const TERM: u64 = 1;

/// Writes the first and only segment of a log. Readers accept any length, so it has no space in advance.
#[derive(Default)]
pub struct WalWriter {
    /// Covers the data of all records, one after the other.
    crc: u32,
    bytes: Vec<u8>,
}

impl WalWriter {
    /// The name of the first segment: its number, and the index of its first entry.
    pub const FILE: &'static str = "0000000000000000-0000000000000000.wal";

    /// The log of `own_id`, one of these members, in which all of them were added and nothing else happened. `members` are in the
    /// order of their ids.
    #[must_use]
    pub fn new_cluster(members: &[Member], own_id: u64, cluster_id: u64) -> Vec<u8> {
        let ids: Vec<_> = members.iter().map(|member| member.id).collect();
        let last = members.len() as u64;
        let mut wal = WalWriter::default();
        wal.record(CRC, None);
        let mut metadata = Vec::new();
        protobuf::number(&mut metadata, 1, own_id);
        protobuf::number(&mut metadata, 2, cluster_id);
        wal.record(METADATA, Some(&metadata));
        wal.snapshot(0, 0, None);
        for (index, member) in (1..).zip(members) {
            let mut entry = Vec::new();
            protobuf::number(&mut entry, 1, CONFIG_CHANGE);
            protobuf::number(&mut entry, 2, TERM);
            protobuf::number(&mut entry, 3, index);
            protobuf::bytes(&mut entry, 4, &add_member(member));
            wal.record(ENTRY, Some(&entry));
        }
        wal.state(TERM, ids.first().copied().unwrap_or_default(), last);
        wal.snapshot(last, TERM, Some(&voters(&ids)));
        wal.bytes
    }

    /// A record that says up to which entry a quorum is known, to be written after a log whose checksum so far is `crc`.
    #[must_use]
    pub fn state_after(crc: u32, term: u64, vote: u64, commit: u64) -> Vec<u8> {
        let mut wal = WalWriter {
            crc,
            bytes: Vec::new(),
        };
        wal.state(term, vote, commit);
        wal.bytes
    }

    fn state(&mut self, term: u64, vote: u64, commit: u64) {
        let mut state = Vec::new();
        protobuf::number(&mut state, 1, term);
        protobuf::number(&mut state, 2, vote);
        protobuf::number(&mut state, 3, commit);
        self.record(STATE, Some(&state));
    }

    fn snapshot(&mut self, index: u64, term: u64, config: Option<&[u8]>) {
        let mut snapshot = Vec::new();
        protobuf::number(&mut snapshot, 1, index);
        protobuf::number(&mut snapshot, 2, term);
        if let Some(config) = config {
            protobuf::bytes(&mut snapshot, 3, config);
        }
        self.record(SNAPSHOT, Some(&snapshot));
    }

    /// Adds a frame: its length, with the padding in the highest byte, the record, and zeros up to a multiple of eight.
    fn record(&mut self, kind: u64, data: Option<&[u8]>) {
        self.crc = crc32c::crc32c_append(self.crc, data.unwrap_or_default());
        let mut record = Vec::new();
        protobuf::number(&mut record, 1, kind);
        protobuf::number(&mut record, 2, u64::from(self.crc));
        if let Some(data) = data {
            protobuf::bytes(&mut record, 3, data);
        }
        let len = record.len() as u64;
        let padding = len.next_multiple_of(8) - len;
        let marked = match padding {
            0 => len,
            padding => len | (0x80 | padding) << 56,
        };
        self.bytes.extend(marked.to_le_bytes());
        self.bytes.extend(record);
        self.bytes.resize(self.bytes.len() + padding as usize, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Segment, WalEnd, WalRecord, read_wal};
    use super::*;
    use crate::membership::cluster_id;
    use sha2::{Digest, Sha256};

    fn read_states(bytes: &Vec<u8>, states: &mut Vec<(u64, u64, u64)>) -> WalEnd {
        let segment = Segment {
            name: WalWriter::FILE.into(),
            bytes,
        };
        read_wal(&[segment], &mut |record| {
            if let WalRecord::State { term, vote, commit } = record {
                states.push((term, vote, commit));
            }
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn a_log_of_one_member_has_the_known_bytes() {
        let urls = vec!["https://10.0.0.1:2380".to_string()];
        let members = [Member::new("m1", urls, "etcd-cluster")];
        assert_eq!(members[0].id, 0x6304_4e73_c12f_33cd);
        let cluster = cluster_id(&members);
        assert_eq!(cluster, 0x7953_e40d_c976_563a);
        let wal = WalWriter::new_cluster(&members, members[0].id, cluster);
        assert_eq!(wal.len(), 272);
        let digest: [u8; 32] = Sha256::digest(&wal).into();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "091eb47c8fd69fa9e0eb93b25f124182769f256c0eb2889506cbbe4d113c9b37";
        assert_eq!(digest, expected);
        // A state that is written later continues the log.
        let mut longer = wal.clone();
        let mut states = Vec::new();
        let mut end = read_states(&wal, &mut states);
        assert_eq!(
            (end.offset_bytes, states.as_slice()),
            (272, [(1, members[0].id, 1)].as_slice())
        );
        for commit in [2, 3] {
            longer.extend(WalWriter::state_after(end.crc, 7, 0, commit));
            states.clear();
            end = read_states(&longer, &mut states);
        }
        assert_eq!(states.get(1..), Some([(7, 0, 2), (7, 0, 3)].as_slice()));
        assert_eq!(end.offset_bytes, longer.len() as u64);
    }
}
