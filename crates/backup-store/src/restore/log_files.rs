//! The files of a log.

use super::error::RestoreError;
use crate::local_file::LocalFile;
use etcd_file::raft::{Segment, segment_number};
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
        Ok(log)
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
