//! What the data directory that is replaced shows of the revisions that were reached.

use super::error::RestoreError;
use super::facts::read_facts;
use super::lock::{DB_FILE, is_locked};
use super::log_files::{LogFiles, WAL_DIR};
use crate::local_file::LocalFile;
use backup_plan::restore::revision::Evidence;
use jiff::Timestamp;
use std::path::Path;

/// The revision of the database, and one more for each entry of the log that is not in it: an entry makes at most one revision.
///
/// # Errors
/// The directory has no database that can be read, or etcd runs in it.
pub(super) fn evidence(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Evidence, RestoreError> {
    let db = data_dir.join(DB_FILE);
    if is_locked(data_dir) {
        return Err(RestoreError::EtcdRuns {
            path: data_dir.into(),
        });
    }
    let file = LocalFile::open(&db)?;
    let facts = read_facts(&file, &db)?;
    let wal_dir = wal_dir.map_or_else(|| data_dir.join(WAL_DIR), Path::to_path_buf);
    let (last_index, at) = last_entry(&wal_dir)?;
    let reflected = facts.consistent_index.unwrap_or_default();
    let entries = i64::try_from(last_index.saturating_sub(reflected)).unwrap_or(i64::MAX);
    Ok(Evidence {
        from: format!("the data directory {}", data_dir.display()),
        revision: facts.current_revision.saturating_add(entries),
        at,
    })
}

/// The index of the last entry of a log, and when the log was last written.
fn last_entry(wal_dir: &Path) -> Result<(u64, Option<Timestamp>), RestoreError> {
    let log = LogFiles::open(wal_dir)?;
    let summary = log.summary();
    let summary = summary.map_err(|error| RestoreError::damaged(wal_dir, error))?;
    let last_index = summary.last_index;
    let at = log.modified.and_then(|time| Timestamp::try_from(time).ok());
    Ok((last_index, at))
}
