//! An opened backup. Only this module decides which files belong to a backup.

use super::names::{RECORD_FILE, snapshot_file};
use crate::local_file::read_small;
use backup_plan::record::{Record, is_origin};
use std::path::{Path, PathBuf};

/// A record is a few KiB. A larger file is not one of ours.
pub(crate) const MAX_RECORD_BYTES: u64 = 1 << 20;

/// A backup whose record was read, and whose files exist and have the recorded length. Their content was not read.
#[derive(Debug, Clone)]
pub struct Backup {
    name: String,
    dir: PathBuf,
    /// Its record, as it was read from the disk.
    pub record: Record,
}

impl Backup {
    /// Reads the record of the backup `name` in the directory `dir`, which has another name while the backup is not published.
    /// Its other files may be damaged or missing.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub(crate) fn read(dir: &Path, name: &str) -> Result<Self, String> {
        let json = read_small(&dir.join(RECORD_FILE), MAX_RECORD_BYTES)
            .map_err(|error| format!("{RECORD_FILE}: {error}"))?;
        let record = Record::from_json(&json).map_err(|error| format!("{RECORD_FILE}: {error}"))?;
        if !is_origin(&record.origin) {
            return Err(format!(
                "{RECORD_FILE}: the origin {:?} is not a valid name of a Backup",
                record.origin
            ));
        }
        if let Some(file) = record.sha256.keys().find(|file| file.contains('/')) {
            return Err(format!(
                "{RECORD_FILE} lists {file:?}, which is not a file in the same directory"
            ));
        }
        Ok(Backup {
            name: name.into(),
            dir: dir.into(),
            record,
        })
    }

    /// Reads the record, and checks that the other files exist and that the snapshot has the recorded length.
    ///
    /// # Errors
    /// What is damaged or missing.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Self, String> {
        let backup = Backup::read(dir, name)?;
        let found_bytes = std::fs::metadata(backup.snapshot())
            .map_err(|error| format!("cannot read the snapshot: {error}"))?
            .len();
        let expected_bytes = backup.record.snapshot.file_bytes().ok_or_else(|| {
            let bytes = backup.record.snapshot.size_bytes;
            format!("{RECORD_FILE} says that the snapshot has {bytes} bytes, which is not possible")
        })?;
        if expected_bytes != found_bytes {
            return Err(format!(
                "the snapshot has {found_bytes} bytes, expected {expected_bytes}"
            ));
        }
        for file in backup.record.sha256.keys() {
            let metadata = dir.join(file).symlink_metadata();
            if !metadata.is_ok_and(|metadata| metadata.is_file()) {
                return Err(format!("the file {file:?} is missing"));
            }
        }
        Ok(backup)
    }

    /// Its name, which is a UTC time such as `2026-11-22_031500`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of its snapshot.
    #[must_use]
    pub fn snapshot(&self) -> PathBuf {
        self.dir.join(snapshot_file(&self.name))
    }

    /// The names of its files, the record first. No other file belongs to it.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let others = self.record.sha256.keys().map(String::as_str);
        std::iter::once(RECORD_FILE).chain(others)
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }
}
