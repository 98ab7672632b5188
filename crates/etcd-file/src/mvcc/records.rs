//! The records of bucket `key`, one after another.

use super::buckets::KEY_BUCKET;
use super::{DecodeError, KeyValue, RecordKey};
use crate::bolt::{Bolt, CursorError, Value};
use crate::failure::report;
use crate::{Failure, Progress};

/// Why records can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// The tree can't be read.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// A record can't be read.
    #[error("bucket \"key\": {0}")]
    Record(String),
}

impl From<Failure> for RecordsError {
    fn from(failure: Failure) -> Self {
        RecordsError::Cursor(CursorError::Failed(failure))
    }
}

/// Calls `each` with every record up to `revision`: its key, parsed and raw, and its value.
pub(crate) fn each_record<E: From<RecordsError>>(
    bolt: &Bolt<'_>,
    revision: i64,
    progress: Progress<'_>,
    mut each: impl FnMut(RecordKey, &[u8], &mut Value<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let Some(mut records) = bolt.cursor(KEY_BUCKET).map_err(RecordsError::from)? else {
        return Ok(());
    };
    while let Some(mut item) = records.next().map_err(RecordsError::from)? {
        let key =
            RecordKey::parse(item.key).map_err(|error| RecordsError::Record(error.to_string()))?;
        if key.revision.main > revision {
            break;
        }
        report(progress, item.value.len()).map_err(RecordsError::from)?;
        each(key, item.key, &mut item.value)?;
    }
    Ok(())
}

/// The content of a record.
pub(crate) fn user_record(
    key: &RecordKey,
    value: &mut Value<'_>,
) -> Result<KeyValue, RecordsError> {
    KeyValue::decode(value).map_err(|error| match error {
        DecodeError::Failed(failure) => failure.into(),
        malformed @ DecodeError::Malformed { .. } => {
            RecordsError::Record(format!("record of revision {}: {malformed}", key.revision))
        }
    })
}
