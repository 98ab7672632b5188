//! HashKV: the hash of all records up to a revision that members of a cluster compare (etcd-io/etcd:
//! `server/storage/mvcc/hash.go`).
//!
//! It leaves out records that a compaction removes, so it is the same before and after a compaction: records up to
//! the compact revision count only if they are the newest put of their key at the hashed revision.

use super::RecordKey;
use super::buckets::KEY_BUCKET;
use super::keys::{KeyHash, KeyHasher, KeyObserver, KeyRecord, Keys};
use super::records::{RecordsError, each_record, user_record};
use crate::bolt::{Bolt, Value};
use crate::{Failure, Progress, ScratchSource};
use crc32c::crc32c_append;

/// The largest number of records up to the compact revision. Which of them count is a bitmap in memory, at most 8 MiB.
const MAX_COMPACTED_RECORDS: u64 = 1 << 26;

/// Why the hash cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HashKvError {
    /// A record can't be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// More history than fits in the memory budget.
    #[error(
        "more than {MAX_COMPACTED_RECORDS} records up to the compact revision: too many to hash with bounded memory"
    )]
    TooManyRecords,
}

impl From<Failure> for HashKvError {
    fn from(failure: Failure) -> Self {
        HashKvError::Records(failure.into())
    }
}

/// Computes HashKV at `revision` of a store whose compact revision is `compact_revision`, -1 for none.
///
/// The file may be compacted to a lower revision: the result is the same.
///
/// # Errors
/// Why it can't be computed.
pub fn hash_kv(
    bolt: &Bolt<'_>,
    revision: i64,
    compact_revision: i64,
    scratch: &dyn ScratchSource,
    progress: Progress<'_>,
) -> Result<u32, HashKvError> {
    let mut kept = Kept::default();
    let hasher = KeyHasher::new();
    let mut keys = Keys::new(scratch);
    let mut compacted_records = 0;
    let mut position = 0;
    each_record(bolt, revision, progress, |key, _, value| {
        if key.revision.main <= compact_revision {
            compacted_records = position + 1;
        }
        let record = KeyRecord {
            position,
            tombstone: key.tombstone,
            create_revision: 0,
            version: 0,
            lease: 0,
        };
        position += 1;
        // If nothing is compacted, every record counts and no state is needed.
        if compacted_records == 0 {
            return Ok(());
        }
        if compacted_records > MAX_COMPACTED_RECORDS {
            return Err(HashKvError::TooManyRecords);
        }
        keys.push(user_key(&hasher, &key, value)?, record, &mut kept)
            .map_err(Into::into)
    })?;
    if compacted_records > 0 {
        kept.bits = vec![0; compacted_records.div_ceil(64) as usize];
        keys.finish(&mut kept)?;
    }

    let mut hash = crc32c_append(0, KEY_BUCKET);
    let mut position = 0;
    each_record(bolt, revision, progress, |key, raw_key, value| {
        let main = key.revision.main;
        let dropped = main <= compact_revision && kept.any && !kept.contains(position)
            || main == compact_revision && key.tombstone;
        position += 1;
        if !dropped {
            hash = crc32c_append(hash, raw_key);
            let len = value.len();
            value.pieces(0, len, |piece| hash = crc32c_append(hash, piece))?;
        }
        Ok::<_, HashKvError>(())
    })?;
    Ok(hash)
}

fn user_key(
    hasher: &KeyHasher,
    key: &RecordKey,
    value: &mut Value<'_>,
) -> Result<KeyHash, HashKvError> {
    let kv = user_record(key, value)?;
    Ok(hasher.hash(|each| value.pieces(kv.key.start, kv.key.end, each))?)
}

/// The records up to the compact revision that count.
#[derive(Default)]
struct Kept {
    bits: Vec<u64>,
    any: bool,
}

impl Kept {
    fn contains(&self, position: u64) -> bool {
        self.bits
            .get((position / 64) as usize)
            .is_some_and(|word| word & (1 << (position % 64)) != 0)
    }
}

impl KeyObserver for Kept {
    fn record(&mut self, _: Option<&KeyRecord>, _: &KeyRecord) {}

    fn newest(&mut self, record: &KeyRecord) -> Result<(), Failure> {
        if record.tombstone {
            return Ok(());
        }
        self.any = true;
        if let Some(word) = self.bits.get_mut((record.position / 64) as usize) {
            *word |= 1 << (record.position % 64);
        }
        Ok(())
    }
}
