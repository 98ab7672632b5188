//! Reading a log (etcd-io/etcd: `server/storage/wal/{decoder,wal}.go`).

use super::wal_writer::{CRC, ENTRY, METADATA, SNAPSHOT, STATE};
use crate::wire::{self, Content, Field};
use crate::{Failure, ReadAt};

/// etcd takes requests of 1.5 MiB unless it is told otherwise, and never larger ones than this.
const MAX_RECORD_BYTES: u64 = 512 << 20;
const FRAME_BYTES: u64 = 8;
/// etcd writes sectors of this size, so a write that was cut short leaves one with nothing but zeros.
const SECTOR_BYTES: u64 = 512;

/// A record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalRecord<'b> {
    /// Whose log it is.
    Metadata {
        /// The id of the member.
        member_id: u64,
        /// The id of the cluster.
        cluster_id: u64,
    },
    /// An entry. It replaces earlier ones from its index on.
    Entry(WalEntry<'b>),
    /// What raft must not forget. The last one holds.
    State {
        /// The term.
        term: u64,
        /// For whom the member voted.
        vote: u64,
        /// The last entry of which a quorum was known.
        commit: u64,
    },
    /// The database reflects the log up to here.
    Snapshot {
        /// The index of the last entry.
        index: u64,
        /// Its term.
        term: u64,
        /// The voters at that time.
        voters: Vec<u64>,
    },
}

/// An entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalEntry<'b> {
    /// 0 for a request, 1 and 2 for changes of the members.
    pub kind: u64,
    /// The term of the leader that made it.
    pub term: u64,
    /// Its place in the log, from 1 on.
    pub index: u64,
    /// The request, or the change.
    pub data: &'b [u8],
}

impl WalEntry<'_> {
    /// Whether it is a request, and not a change of the members.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.kind == 0
    }
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalEnd {
    /// The offset in the last segment after the last whole record.
    pub offset_bytes: u64,
    /// The checksum up to there. The next record continues it.
    pub crc: u32,
    /// Whether a record follows that was not written to its end, as after a crash.
    pub is_torn: bool,
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// A file could not be read.
    #[error("{segment}: {failure}")]
    Failed {
        /// The name of the segment.
        segment: String,
        /// Why.
        failure: Failure,
    },
    /// The bytes are wrong.
    #[error("{segment}: at offset {offset_bytes}: {problem}")]
    Damaged {
        /// The name of the segment.
        segment: String,
        /// The offset of the record, in bytes.
        offset_bytes: u64,
        /// What was expected and what was found.
        problem: String,
    },
    /// A segment is missing.
    #[error("the segment {number} of the log is missing: the next one is {found}")]
    Missing {
        /// The number of the segment.
        number: u64,
        /// The name of the segment that was found.
        found: String,
    },
}

/// A segment of a log: its file name and its bytes.
pub struct Segment<'s> {
    /// `<number>-<index of its first entry>.wal`, each with 16 hex digits.
    pub name: String,
    /// The bytes.
    pub bytes: &'s dyn ReadAt,
}

/// The number in the name of a segment; nothing if it is no such name.
#[must_use]
pub fn segment_number(name: &str) -> Option<u64> {
    let (number, index) = name.strip_suffix(".wal")?.split_once('-')?;
    let hex = |text: &str| {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(text, 16).ok().filter(|_| digits)
    };
    hex(index)?;
    hex(number)
}

/// Reads the segments of a log, which are in the order of their names, and shows each record.
///
/// # Errors
/// A segment is missing or damaged. A record that is cut short at the very end is no error.
pub fn read_wal(
    segments: &[Segment<'_>],
    on_record: &mut dyn FnMut(WalRecord<'_>) -> Result<(), String>,
) -> Result<WalEnd, WalError> {
    let mut reader = Reader {
        crc: 0,
        buf: Vec::new(),
        on_record,
    };
    let mut end = WalEnd {
        offset_bytes: 0,
        crc: 0,
        is_torn: false,
    };
    let mut expected = None;
    for (position, segment) in segments.iter().enumerate() {
        let number = segment_number(&segment.name).unwrap_or_default();
        if let Some(expected) = expected
            && number != expected
        {
            return Err(WalError::Missing {
                number: expected,
                found: segment.name.clone(),
            });
        }
        expected = number.checked_add(1);
        end = reader.segment(segment, position + 1 == segments.len())?;
    }
    Ok(end)
}

struct Reader<'r> {
    crc: u32,
    buf: Vec<u8>,
    on_record: &'r mut dyn FnMut(WalRecord<'_>) -> Result<(), String>,
}

impl Reader<'_> {
    fn segment(&mut self, segment: &Segment<'_>, is_last: bool) -> Result<WalEnd, WalError> {
        let failed = |failure| WalError::Failed {
            segment: segment.name.clone(),
            failure,
        };
        let size_bytes = segment
            .bytes
            .size_bytes()
            .map_err(|error| failed(Failure::read(0)(error)))?;
        let mut at = 0;
        loop {
            let crc = self.crc;
            let end = |is_torn| WalEnd {
                offset_bytes: at,
                crc,
                is_torn,
            };
            let damaged = |problem: String| WalError::Damaged {
                segment: segment.name.clone(),
                offset_bytes: at,
                problem,
            };
            if size_bytes - at < FRAME_BYTES {
                return Ok(end(false));
            }
            let mut frame = [0; FRAME_BYTES as usize];
            segment
                .bytes
                .read_exact_at(&mut frame, at)
                .map_err(|error| failed(Failure::read(at)(error)))?;
            let frame = u64::from_le_bytes(frame);
            // Space that was reserved and not written yet.
            if frame == 0 {
                return Ok(end(false));
            }
            let (len, padding) = match frame >> 56 {
                0 => (frame, 0),
                marked => (frame & ((1 << 56) - 1), marked & 7),
            };
            let whole = len.saturating_add(padding);
            let rest = size_bytes - at - FRAME_BYTES;
            if whole > rest || len > MAX_RECORD_BYTES {
                let problem = format!("a record of {len} bytes, but {rest} bytes are left");
                return match is_last && whole > rest {
                    true => Ok(end(true)),
                    false => Err(damaged(problem)),
                };
            }
            self.buf.resize(len as usize, 0);
            let data_at = at + FRAME_BYTES;
            segment
                .bytes
                .read_exact_at(&mut self.buf, data_at)
                .map_err(|error| failed(Failure::read(data_at)(error)))?;
            match self.record() {
                Ok(()) => at = data_at + whole,
                Err(_) if is_last && has_empty_sector(&self.buf, data_at) => return Ok(end(true)),
                Err(problem) => return Err(damaged(problem)),
            }
        }
    }

    fn record(&mut self) -> Result<(), String> {
        let (mut kind, mut crc) = (0, 0);
        let mut data: &[u8] = &[];
        const FIELDS: &[Field] = &[Field::Number, Field::Number, Field::Bytes];
        read(
            &self.buf,
            FIELDS,
            &mut |field, content| match (field, content) {
                (1, Content::Number(number)) => kind = number,
                (2, Content::Number(number)) => crc = number as u32,
                (_, Content::Bytes(bytes)) => data = bytes,
                _ => {}
            },
        )?;
        if kind == CRC {
            // The first record of each segment.
            if self.crc != 0 && self.crc != crc {
                return Err(format!(
                    "the checksum so far is {:08x}, expected {crc:08x}",
                    self.crc
                ));
            }
            self.crc = crc;
            return Ok(());
        }
        let computed = crc32c::crc32c_append(self.crc, data);
        if computed != crc {
            return Err(format!(
                "the checksum is {computed:08x}, expected {crc:08x}"
            ));
        }
        self.crc = computed;
        let record = match kind {
            METADATA => {
                let [member_id, cluster_id] = numbers(data)?;
                WalRecord::Metadata {
                    member_id,
                    cluster_id,
                }
            }
            ENTRY => WalRecord::Entry(entry(data)?),
            STATE => {
                let [term, vote, commit] = numbers(data)?;
                WalRecord::State { term, vote, commit }
            }
            SNAPSHOT => snapshot(data)?,
            _ => return Err(format!("a record of the unknown type {kind}")),
        };
        (self.on_record)(record)
    }
}

fn read<'b>(
    bytes: &'b [u8],
    fields: &[Field],
    on_field: &mut dyn FnMut(u64, Content<'b>),
) -> Result<(), String> {
    wire::read(bytes, fields, on_field).map_err(in_record)
}

/// A message whose fields are all numbers.
fn numbers<const N: usize>(bytes: &[u8]) -> Result<[u64; N], String> {
    wire::numbers(bytes).map_err(in_record)
}

fn in_record(problem: &str) -> String {
    format!("a record with {problem}")
}

fn entry(bytes: &[u8]) -> Result<WalEntry<'_>, String> {
    const FIELDS: &[Field] = &[Field::Number, Field::Number, Field::Number, Field::Bytes];
    let mut entry = WalEntry {
        kind: 0,
        term: 0,
        index: 0,
        data: &[],
    };
    read(
        bytes,
        FIELDS,
        &mut |field, content| match (field, content) {
            (1, Content::Number(number)) => entry.kind = number,
            (2, Content::Number(number)) => entry.term = number,
            (3, Content::Number(number)) => entry.index = number,
            (_, Content::Bytes(bytes)) => entry.data = bytes,
            _ => {}
        },
    )?;
    Ok(entry)
}

fn snapshot(bytes: &[u8]) -> Result<WalRecord<'static>, String> {
    let (mut index, mut term, mut config) = (0, 0, &[][..]);
    read(
        bytes,
        &[Field::Number, Field::Number, Field::Bytes],
        &mut |field, content| match (field, content) {
            (1, Content::Number(number)) => index = number,
            (2, Content::Number(number)) => term = number,
            (_, Content::Bytes(bytes)) => config = bytes,
            _ => {}
        },
    )?;
    let mut voters = Vec::new();
    read(config, &[Field::Number], &mut |_, content| {
        if let Content::Number(id) = content {
            voters.push(id);
        }
    })?;
    Ok(WalRecord::Snapshot {
        index,
        term,
        voters,
    })
}

/// Whether a sector that a record is in has nothing but zeros. `at` is the record's offset in its file.
fn has_empty_sector(record: &[u8], at: u64) -> bool {
    let mut rest = record;
    let mut at = at;
    while !rest.is_empty() {
        let in_sector = (SECTOR_BYTES - at % SECTOR_BYTES) as usize;
        let (sector, later) = rest.split_at(in_sector.min(rest.len()));
        if sector.iter().all(|byte| *byte == 0) {
            return true;
        }
        at += sector.len() as u64;
        rest = later;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Member, cluster_id};
    use crate::raft::WalWriter;

    fn log() -> Vec<u8> {
        let members: Vec<_> = ["a", "b"]
            .map(|name| Member::new(name, vec![format!("http://{name}:2380")], "t"))
            .into();
        WalWriter::new_cluster(&members, members[0].id, cluster_id(&members))
    }

    fn read_all(parts: &[(&str, Vec<u8>)]) -> Result<(Vec<String>, WalEnd), WalError> {
        let segments: Vec<_> = parts
            .iter()
            .map(|(name, bytes)| Segment {
                name: (*name).into(),
                bytes,
            })
            .collect();
        let mut records = Vec::new();
        let end = read_wal(&segments, &mut |record| {
            records.push(format!("{record:?}"));
            Ok(())
        })?;
        Ok((records, end))
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = log();
        let (records, end) = read_all(&[(WalWriter::FILE, bytes.clone())]).unwrap();
        assert_eq!(records.len(), 6, "{records:#?}");
        assert!(records[4].contains("State { term: 1") && records[4].ends_with("commit: 2 }"));
        assert!(
            records[5].contains("Snapshot { index: 2, term: 1"),
            "{}",
            records[5]
        );
        assert_eq!((end.offset_bytes, end.is_torn), (bytes.len() as u64, false));
        // Reserved space after the last record.
        let mut long = bytes.clone();
        long.resize(64_000, 0);
        assert_eq!(
            read_all(&[(WalWriter::FILE, long)]).unwrap(),
            (records, end)
        );
    }

    #[test]
    fn a_log_that_is_cut_anywhere_is_read_up_to_there() {
        let bytes = log();
        let whole = read_all(&[(WalWriter::FILE, bytes.clone())]).unwrap().0;
        for len in 0..bytes.len() {
            let (records, _) = read_all(&[(WalWriter::FILE, bytes[..len].to_vec())]).unwrap();
            assert_eq!(records, whole[..records.len()], "{len}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_where_the_format_has_a_checksum() {
        let bytes = log();
        let whole = read_all(&[(WalWriter::FILE, bytes.clone())]).unwrap().0;
        // The checksum is of the data alone: etcd does not notice another type of record either.
        let mut types = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let frame = u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
            types.extend([at + 8, at + 9]);
            at += 8 + ((frame & 0xff_ffff) as usize).next_multiple_of(8);
        }
        for at in (0..bytes.len()).filter(|at| !types.contains(at)) {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                if let Ok((records, _)) = read_all(&[(WalWriter::FILE, flipped)]) {
                    assert!(whole.starts_with(&records), "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_missing_segment_is_named() {
        let second = "0000000000000002-0000000000000009.wal";
        let error = read_all(&[(WalWriter::FILE, log()), (second, log())]).unwrap_err();
        assert!(error.to_string().contains("segment 1"), "{error}");
        assert_eq!(segment_number(second), Some(2));
        for name in [
            "0.tmp",
            "2-9.wal",
            "0000000000000002-000000000000000x.wal",
            "x.wal",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
