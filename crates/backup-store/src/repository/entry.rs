//! What is in a repository.

use super::backup::Backup;
use super::names::{PARTIAL, RECORD_FILE, snapshot_file, time_of_name};
use backup_plan::record::{Level, Record};
use backup_plan::retention::Candidate;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A directory or file in a repository.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its file name in the repository.
    pub name: String,
    /// What it is, by its name and its files.
    pub kind: Kind,
    /// The disk space that its files use, in bytes. Other files may share this space.
    pub disk_bytes: u64,
    /// Whether it is held, so that it is never removed automatically.
    pub held: bool,
}

/// What an entry is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A backup of ours.
    Backup(Box<Backup>),
    /// A backup of ours whose record or files are damaged or missing, with the reason. It is never removed automatically,
    /// because it may be the only one that is left.
    Unreadable(String),
    /// Something that is not from this program. It is never changed.
    Foreign,
    /// The directory of a run that is not finished, or that a crash left over.
    Partial,
}

impl Kind {
    /// Finds out what an entry is. The name of a backup is a time, and it contains a record or a snapshot.
    pub(super) fn of(path: &Path, name: &str) -> Kind {
        if name.starts_with(PARTIAL) {
            return Kind::Partial;
        }
        let exists = |file: &str| path.join(file).symlink_metadata().is_ok();
        if time_of_name(name).is_none() || !(exists(RECORD_FILE) || exists(&snapshot_file(name))) {
            return Kind::Foreign;
        }
        match Backup::open(path, name) {
            Ok(backup) => Kind::Backup(Box::new(backup)),
            Err(problem) => Kind::Unreadable(problem),
        }
    }
}

impl Entry {
    /// The backup. `None` if the entry is something else, or is unreadable.
    #[must_use]
    pub fn backup(&self) -> Option<&Backup> {
        match &self.kind {
            Kind::Backup(backup) => Some(backup),
            _ => None,
        }
    }

    /// The record of the backup. `None` if the entry is something else, or is unreadable.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.backup().map(|backup| &backup.record)
    }

    /// The data that retention needs. `None` if the entry is not a readable backup.
    #[must_use]
    pub fn candidate(&self) -> Option<Candidate> {
        let record = self.record()?;
        Some(Candidate {
            name: self.name.clone(),
            sequence: record.sequence,
            origin: record.origin.clone(),
            cluster_id: record.member.cluster_id.clone(),
            member_id: record.member.id.clone(),
            revision: record.snapshot.revision,
            verified: record.verified.contains(&Level::Content),
            held: self.held,
            disk_bytes: self.disk_bytes,
        })
    }
}

/// The disk space of a file, or of the files in a directory.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    const SECTOR_BYTES: u64 = 512;
    let own =
        std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * SECTOR_BYTES);
    let files = std::fs::read_dir(path).into_iter().flatten().flatten();
    files.fold(own, |sum, file| {
        sum + file
            .metadata()
            .map_or(0, |metadata| metadata.blocks() * SECTOR_BYTES)
    })
}
