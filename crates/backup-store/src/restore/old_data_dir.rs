//! A data directory that is replaced: what it shows of its member, and of the revisions that were reached.

use super::error::RestoreError;
use super::facts::read_facts;
use super::lock::{DB_FILE, is_locked};
use super::log_files::{LogFiles, WAL_DIR};
use crate::local_file::LocalFile;
use backup_plan::restore::revision::Evidence;
use etcd_file::new_cluster::Facts;
use jiff::Timestamp;
use std::path::Path;

/// A member that does not run, as its own files show it.
#[derive(Debug, Clone)]
pub struct OldMember {
    /// What its database says about itself.
    pub facts: Facts,
    /// The id of the member, as its log has it.
    pub member_id: Option<u64>,
    /// The id of its cluster, as its log has it.
    pub cluster_id: Option<u64>,
    /// The index of the last entry of the log.
    pub last_index: u64,
    /// The term of that entry.
    pub last_term: u64,
    /// The highest revision that it can have reached: that of the database, and one more for each entry of the log that is not in it,
    /// because an entry makes at most one revision.
    pub revision: i64,
    /// When the log was last written.
    pub written_at: Option<Timestamp>,
}

impl OldMember {
    /// Reads a data directory, and the directory of its log if that is elsewhere.
    ///
    /// # Errors
    /// It has no database that can be read, or etcd runs in it.
    pub fn read(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Self, RestoreError> {
        let db = data_dir.join(DB_FILE);
        if is_locked(data_dir) {
            return Err(RestoreError::EtcdRuns {
                path: data_dir.into(),
            });
        }
        let file = LocalFile::open(&db)?;
        let facts = read_facts(&file, &db)?;
        let wal_dir = wal_dir.map_or_else(|| data_dir.join(WAL_DIR), Path::to_path_buf);
        let log = LogFiles::open(&wal_dir)?;
        let summary = log.summary();
        let summary = summary.map_err(|error| RestoreError::damaged(&wal_dir, error))?;
        let entries = summary
            .last_index
            .saturating_sub(facts.consistent_index.unwrap_or_default());
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        Ok(OldMember {
            revision: facts.current_revision.saturating_add(entries),
            facts,
            member_id: summary.member_id,
            cluster_id: summary.cluster_id,
            last_index: summary.last_index,
            last_term: summary.last_term,
            written_at: log.modified.and_then(|time| Timestamp::try_from(time).ok()),
        })
    }
}

/// What the data directory that is replaced shows of the revisions that were reached.
///
/// # Errors
/// The directory has no database that can be read, or etcd runs in it.
pub(super) fn evidence(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Evidence, RestoreError> {
    let old = OldMember::read(data_dir, wal_dir)?;
    Ok(Evidence {
        from: format!("the data directory {}", data_dir.display()),
        revision: old.revision,
        at: old.written_at,
    })
}
