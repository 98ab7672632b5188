//! The newest record of each key of a database.

use super::error::KeyspaceError;
use super::key_state::{KeyState, MAX_KEY_BYTES};
use super::object::{PREFIX_BYTES, kind_of};
use super::sorted::SortedKeys;
use super::sorter::Sorter;
use super::sources::Fingerprints;
use crate::bolt::{Bolt, Value};
use crate::mvcc::{KeyValue, RecordKey, Revision, each_record, user_record};
use crate::{Failure, Progress, ReadAhead, ReadAt, ScratchSource};

/// Reads the keys that a database has at its end.
///
/// # Errors
/// Why they can't be read.
pub fn read(
    database: &dyn ReadAt,
    fingerprints: &mut Fingerprints,
    scratch: &dyn ScratchSource,
    progress: Progress<'_>,
) -> Result<SortedKeys, KeyspaceError> {
    let database = ReadAhead::of(database).map_err(Failure::read(0))?;
    let bolt = &Bolt::open(&database)?;
    let mut sorter = Sorter::new(scratch);
    each_record(bolt, i64::MAX, progress, |key, _, value| {
        let record = user_record(&key, value)?;
        let user_key = user_key(value, &record, key.revision)?;
        let state = state_of(&key, &record, user_key, value, fingerprints)?;
        Ok::<_, KeyspaceError>(sorter.push(&state)?)
    })?;
    Ok(sorter.finish()?)
}

/// The key of a user.
fn user_key(
    value: &mut Value<'_>,
    record: &KeyValue,
    revision: Revision,
) -> Result<Vec<u8>, KeyspaceError> {
    let found_bytes = record.key.end - record.key.start;
    if found_bytes > MAX_KEY_BYTES as u64 {
        return Err(KeyspaceError::LongKey {
            revision,
            found_bytes,
        });
    }
    let mut key = Vec::with_capacity(found_bytes as usize);
    value.pieces(record.key.start, record.key.end, |piece| {
        key.extend_from_slice(piece);
    })?;
    Ok(key)
}

fn state_of(
    record_key: &RecordKey,
    record: &KeyValue,
    key: Vec<u8>,
    value: &mut Value<'_>,
    fingerprints: &mut Fingerprints,
) -> Result<KeyState, Failure> {
    let (at, end) = (record.value.start, record.value.end);
    let fingerprint = fingerprints.of(value, at, end)?;
    let prefix = value.piece(at, (end - at).min(PREFIX_BYTES))?;
    Ok(KeyState {
        key,
        mod_revision: record_key.revision,
        create_revision: record.create_revision,
        version: record.version,
        lease: record.lease,
        value_bytes: end - at,
        fingerprint,
        kind: fingerprints.number(kind_of(prefix)),
        is_deleted: record_key.tombstone,
    })
}
