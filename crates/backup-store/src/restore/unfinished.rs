//! What a restore leaves: its record, and after a crash what is not published.

use super::error::RestoreError;
use super::lock::is_locked;
use crate::durable_file;
use crate::local_file::read_small;
use etcd_file::raft::WalWriter;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

pub(super) const MEMBER: &str = "member";
pub(super) const MEMBER_NEW: &str = "member.new";
/// The record that a restore leaves in the directory `member`. etcd ignores it.
pub(crate) const RECORD: &str = "lifeboat-restore.json";
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// What a restore leaves beside the database, for the next backup and for people.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RestoreRecord {
    pub(super) version: u32,
    /// Random.
    pub(super) id: String,
    /// The directory of the log, if it is not in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wal_dir: Option<PathBuf>,
    /// What was restored. Missing while the restore is at work.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub(super) done: Option<Done>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) restored_at: Timestamp,
    pub(super) snapshot: PathBuf,
    pub(super) cluster_id: String,
    pub(super) member_id: String,
    pub(super) revision: i64,
    /// The database shares blocks with the snapshot: a clone of the database is no independent copy of it.
    pub(super) shares_blocks_with_snapshot: bool,
}

/// The id of the cluster, as hex digits, that a restore has made in this data directory. `None` if no restore made what is there.
#[must_use]
pub fn restored_cluster(data_dir: &Path) -> Option<String> {
    let json = read_small(&data_dir.join(MEMBER).join(RECORD), MAX_RECORD_BYTES).ok()?;
    let record: RestoreRecord = serde_json::from_slice(&json).ok()?;
    Some(record.done?.cluster_id)
}

/// The segment of a log in a directory of its own, before the rename that publishes it.
pub(super) fn new_segment(wal_dir: &Path, id: &str) -> PathBuf {
    wal_dir.join(format!("{}.{id}.new", WalWriter::FILE))
}

/// A restore that was killed.
pub(super) struct Unfinished {
    /// `member.new`, or `member` if only the log is not published.
    dir: PathBuf,
    is_published: bool,
    record: Option<RestoreRecord>,
}

/// Checks that a data directory can be made: nothing is there, except what a restore that was killed has left. Changes nothing.
///
/// # Errors
/// What is there.
pub(super) fn check(
    data_dir: &Path,
    wal_dir: Option<&Path>,
) -> Result<Option<Unfinished>, RestoreError> {
    let not_empty = |path: &Path, what| RestoreError::NotEmpty {
        path: path.into(),
        what,
    };
    let mut left = None;
    match std::fs::read_dir(data_dir) {
        Ok(entries) => {
            if is_locked(data_dir) {
                return Err(RestoreError::EtcdRuns {
                    path: data_dir.into(),
                });
            }
            for entry in entries {
                let path = entry.map_err(RestoreError::io("list", data_dir))?.path();
                // Only one of the two can be there: it is one directory under two names.
                match Unfinished::at(&path, data_dir) {
                    Some(unfinished) if left.is_none() => left = Some(unfinished),
                    _ => return Err(not_empty(data_dir, "is not empty")),
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(not_empty(data_dir, "is not a directory"));
        }
        Err(error) => return Err(RestoreError::io("list", data_dir)(error)),
    }
    if let Some(wal_dir) = wal_dir
        && wal_dir.symlink_metadata().is_ok()
        && !left.as_ref().is_some_and(|left| left.owns(wal_dir))
    {
        return Err(RestoreError::WalDirExists {
            path: wal_dir.into(),
        });
    }
    Ok(left)
}

impl Unfinished {
    /// What a restore left at a path in the data directory, if it is that.
    fn at(path: &Path, data_dir: &Path) -> Option<Unfinished> {
        let record = read_small(&path.join(RECORD), MAX_RECORD_BYTES).ok();
        let record = record.and_then(|json| serde_json::from_slice::<RestoreRecord>(&json).ok());
        let unfinished = |is_published, record| Unfinished {
            dir: path.into(),
            is_published,
            record,
        };
        if path == data_dir.join(MEMBER_NEW) {
            // The record is the first that is in it, and the last that is removed.
            let mut entries = std::fs::read_dir(path).ok()?;
            return match record {
                Some(record) => Some(unfinished(false, Some(record))),
                // Perhaps it was not written to its end.
                None => entries
                    .all(|entry| {
                        entry.is_ok_and(|entry| {
                            entry.file_name().to_string_lossy().starts_with(RECORD)
                        })
                    })
                    .then(|| unfinished(false, None)),
            };
        }
        let record = record.filter(|_| path == data_dir.join(MEMBER))?;
        let wal_dir = record.wal_dir.as_ref()?;
        let is_unpublished = new_segment(wal_dir, &record.id).symlink_metadata().is_ok();
        is_unpublished.then(|| unfinished(true, Some(record)))
    }

    /// Whether it made this directory of a log, and nobody put anything else there.
    fn owns(&self, wal_dir: &Path) -> bool {
        let Some(record) = &self.record else {
            return false;
        };
        if record.wal_dir.as_deref() != Some(wal_dir) {
            return false;
        }
        let own = [
            new_segment(wal_dir, &record.id),
            wal_dir.join(WalWriter::FILE),
        ];
        let entries = std::fs::read_dir(wal_dir);
        entries.is_ok_and(|mut entries| {
            entries.all(|entry| {
                entry.is_ok_and(|entry| {
                    // A segment with content belongs to an etcd.
                    let bytes = entry.metadata().map_or(u64::MAX, |file| file.len());
                    own.iter().position(|own| *own == entry.path()) == Some(0)
                        || own.contains(&entry.path()) && bytes == 0
                })
            })
        })
    }

    /// Removes it, so that it is recognised until it is gone.
    ///
    /// # Errors
    /// The error of the operating system.
    pub(super) fn remove(&self) -> Result<(), RestoreError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |error| RestoreError::io("remove", &path)(error)
        };
        let mut dir = self.dir.clone();
        if self.is_published {
            let hidden = dir.with_file_name(MEMBER_NEW);
            durable_file::rename(&dir, &hidden).map_err(failed(&dir))?;
            if let Some(parent) = hidden.parent() {
                durable_file::sync_dir(parent).map_err(failed(&dir))?;
            }
            dir = hidden;
        }
        let wal_dir = self
            .record
            .as_ref()
            .and_then(|record| record.wal_dir.as_deref());
        if let Some(wal_dir) = wal_dir.filter(|wal_dir| self.owns(wal_dir)) {
            durable_file::remove_dir(wal_dir).map_err(failed(wal_dir))?;
        }
        for entry in std::fs::read_dir(&dir).map_err(failed(&dir))? {
            let path = entry.map_err(failed(&dir))?.path();
            if path != dir.join(RECORD) {
                durable_file::remove_dir(&path).map_err(failed(&path))?;
            }
        }
        durable_file::remove_dir(&dir).map_err(failed(&dir))
    }
}
