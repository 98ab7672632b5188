//! What is restored: one of our backups, a snapshot of any tool, or the database of a member.

use super::error::RestoreError;
use super::facts::read_facts;
use crate::blocks;
use crate::local_file::{LocalFile, read_small};
use crate::repository::names::{RECORD_FILE, is_archive_file};
use crate::repository::{Backup, MAX_RECORD_BYTES};
use crate::static_resources::read_archive;
use crate::verify::{name_in, snapshot_in, unchanged_files};
use backup_plan::record::{Level, Record};
use etcd_file::membership::StoredMember;
use etcd_file::snapshot_file::{TRAILER_BYTES, Trailer};
use etcd_file::{Part, ReadAt};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A snapshot that can be restored. Its content is not proven yet.
pub struct Source {
    /// The file.
    pub path: PathBuf,
    pub(super) file: LocalFile,
    /// Length of the database in it, in bytes.
    pub data_bytes: u64,
    /// The SHA-256 at its end.
    pub(super) trailer: Option<[u8; 32]>,
    /// Its record, if it is one of our backups.
    pub record: Option<Record>,
    /// The content of `blocks.b3`, if the record says that the content was verified.
    pub(super) hashes: Option<Vec<u8>>,
}

impl Source {
    /// Opens a backup directory, or a file.
    ///
    /// # Errors
    /// It can't be read, is truncated, or a file of the backup is not as it was written.
    pub fn open(path: &Path) -> Result<Self, RestoreError> {
        let file_path = snapshot_in(path)?;
        let file = LocalFile::open(&file_path)?;
        let backup = backup_at(path, &file_path)?;
        let hashes = match &backup {
            Some(backup) => block_hashes(backup, &file)?,
            None => None,
        };
        let file_bytes = file.size_bytes();
        let (data_bytes, trailer) = match Trailer::of(file_bytes) {
            Trailer::Present { data_bytes } => {
                let mut trailer = [0; TRAILER_BYTES as usize];
                file.read_exact_at(&mut trailer, data_bytes)
                    .map_err(RestoreError::io("read", &file_path))?;
                (data_bytes, Some(trailer))
            }
            Trailer::Absent => (file_bytes, None),
            Trailer::Misplaced { odd_bytes } => {
                let problem = format!(
                    "{odd_bytes} bytes after the last full sector, expected the {TRAILER_BYTES} bytes of a SHA-256: the file is truncated, or data was added"
                );
                return Err(RestoreError::damaged(&file_path, problem));
            }
        };
        Ok(Source {
            path: file_path,
            file,
            data_bytes,
            trailer,
            record: backup.map(|backup| backup.record),
            hashes,
        })
    }

    /// The members of its cluster, as far as etcd can decode them.
    ///
    /// # Errors
    /// The database is damaged.
    pub fn members(&self) -> Result<Vec<StoredMember>, RestoreError> {
        let facts = read_facts(&self.data(), &self.path)?;
        Ok(facts.membership.map_or_else(Vec::new, |all| all.members))
    }

    /// Files of the archive of the control plane beside it, by their paths without the slash at their beginning. Empty if it has no archive.
    ///
    /// # Errors
    /// The archive is damaged.
    pub fn archived(&self, wanted: &[&str]) -> Result<BTreeMap<String, Vec<u8>>, RestoreError> {
        let (Some(record), Some(dir)) = (&self.record, self.path.parent()) else {
            return Ok(BTreeMap::new());
        };
        let mut names = record.sha256.keys();
        let Some(name) = names.find(|name| is_archive_file(name)) else {
            return Ok(BTreeMap::new());
        };
        let path = dir.join(name);
        read_archive(&path, wanted).map_err(RestoreError::io("read", &path))
    }

    /// The database, without the SHA-256 after it.
    pub(super) fn data(&self) -> Part<'_> {
        Part::first(&self.file, self.data_bytes)
    }
}

/// The backup in a directory, after its files beside the snapshot were compared with its record.
fn backup_at(path: &Path, snapshot: &Path) -> Result<Option<Backup>, RestoreError> {
    if !path.is_dir() || path.join(RECORD_FILE).symlink_metadata().is_err() {
        return Ok(None);
    }
    let damaged = |problem| RestoreError::DamagedBackup {
        path: path.into(),
        problem,
    };
    let backup = Backup::read(path, &name_in(snapshot)).map_err(damaged)?;
    unchanged_files(&backup).map_err(damaged)?;
    Ok(Some(backup))
}

/// The block hashes, if they prove the snapshot: the record knows them, and says that what they are of was verified.
fn block_hashes(backup: &Backup, file: &LocalFile) -> Result<Option<Vec<u8>>, RestoreError> {
    let record = &backup.record;
    if !record.sha256.contains_key(blocks::FILE) || !record.verified.contains(&Level::Content) {
        return Ok(None);
    }
    let damaged = |problem| RestoreError::DamagedBackup {
        path: backup.path(""),
        problem,
    };
    let max_bytes = blocks::max_bytes(file.size_bytes()).saturating_add(MAX_RECORD_BYTES);
    let hashes = read_small(&backup.path(blocks::FILE), max_bytes)
        .map_err(|error| damaged(format!("{}: {error}", blocks::FILE)))?;
    let total_bytes = blocks::Hashes::parse(&hashes)
        .map_err(damaged)?
        .total_bytes();
    if total_bytes != file.size_bytes() {
        let found = file.size_bytes();
        return Err(damaged(format!(
            "the snapshot has {found} bytes, expected {total_bytes}"
        )));
    }
    Ok(Some(hashes))
}
