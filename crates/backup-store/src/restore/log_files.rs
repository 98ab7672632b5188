//! The files of a log.

use super::error::RestoreError;
use crate::local_file::LocalFile;
use etcd_file::raft::{Segment, WalError, WalRecord, read_wal, segment_number};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The log in a data directory.
pub(super) const WAL_DIR: &str = "member/wal";

/// The segments of a log, open for reading, in order.
pub(super) struct LogFiles {
    files: Vec<(String, LocalFile)>,
    /// When the log was last written.
    pub(super) modified: Option<SystemTime>,
}

impl LogFiles {
    /// Opens all segments in a directory.
    pub(super) fn open(wal_dir: &Path) -> Result<Self, RestoreError> {
        let mut log = LogFiles {
            files: Vec::new(),
            modified: None,
        };
        for path in segments(wal_dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
            log.modified = log.modified.max(modified.ok());
            log.files.push((name.into_owned(), LocalFile::open(&path)?));
        }
        match log.files.is_empty() {
            false => Ok(log),
            true => Err(RestoreError::NoLog {
                path: wal_dir.into(),
            }),
        }
    }

    /// What the log says about itself.
    pub(super) fn summary(&self) -> Result<LogSummary, WalError> {
        let mut summary = LogSummary::default();
        let (mut commit, mut snapshots) = (0, Vec::new());
        read_wal(&self.segments(), &mut |record| {
            match record {
                WalRecord::Metadata {
                    member_id,
                    cluster_id,
                } => {
                    summary.member_id = Some(member_id);
                    summary.cluster_id = Some(cluster_id);
                }
                WalRecord::Entry(entry) => {
                    (summary.last_index, summary.last_term) = (entry.index, entry.term);
                }
                WalRecord::State { commit: known, .. } => commit = known,
                WalRecord::Snapshot { index, term, .. } => {
                    summary.last_index = summary.last_index.max(index);
                    summary.last_term = summary.last_term.max(term);
                    snapshots.push(index);
                }
            }
            Ok(())
        })?;
        // A snapshot that is not known to be committed does not count.
        let known = snapshots.into_iter().filter(|index| *index <= commit);
        summary.snapshot = known.max().filter(|index| *index > 0);
        Ok(summary)
    }

    pub(super) fn segments(&self) -> Vec<Segment<'_>> {
        self.files
            .iter()
            .map(|(name, bytes)| Segment {
                name: name.clone(),
                bytes,
            })
            .collect()
    }
}

/// What a log says about itself.
#[derive(Default)]
pub(super) struct LogSummary {
    /// Whose log it is.
    pub(super) member_id: Option<u64>,
    /// Of which cluster it is.
    pub(super) cluster_id: Option<u64>,
    /// The last entry.
    pub(super) last_index: u64,
    /// Its term.
    pub(super) last_term: u64,
    /// The last entry of the newest snapshot of raft. The log before it may be gone.
    pub(super) snapshot: Option<u64>,
}

/// The segments of a log, in order.
fn segments(wal_dir: &Path) -> Result<Vec<PathBuf>, RestoreError> {
    let failed = || RestoreError::io("list", wal_dir);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(wal_dir).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if segment_number(&name).is_some() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
