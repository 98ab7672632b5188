//! Sending a backup to another machine: a tar archive of its directory, with the record first. The receiver accepts only
//! the files that the record lists. The backup gets its name after it is complete and verified again.

use crate::digest::Hashed;
use crate::durable_file;
use crate::local_file::{LocalFile, OpenError};
use crate::progress::Monitor;
use crate::repository::names::{RECORD_FILE, time_of_name};
use crate::repository::{
    Backup, Entry, MAX_RECORD_BYTES, Repository, RepositoryError, Space, Staging,
};
use crate::size::mib;
use crate::verify::{Level, Options, Report, VerifyError, verify};
use backup_plan::record::Record;
use rustix::fs::Advice;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const FILE_MODE: u32 = 0o600;
const CHUNK_BYTES: usize = 1 << 18;
/// A backup has only a few files.
const MAX_FILES: usize = 32;

/// Why a backup could not be sent or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// No backup has this name.
    #[error("{root} has no backup {name:?}; existing backups: {there}")]
    NoBackup {
        /// The repository.
        root: PathBuf,
        /// The requested name.
        name: String,
        /// The existing backups.
        there: String,
    },
    /// The repository has no proven backup.
    #[error("{root} has no proven backup")]
    NoneProven {
        /// The repository.
        root: PathBuf,
    },
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A file of the backup cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The backup cannot be written to the output.
    #[error("cannot send backup {name}: {source}")]
    Send {
        /// The backup.
        name: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The received data is not a valid backup.
    #[error("the received backup is not valid: {0}")]
    Broken(String),
    /// The received data ended too early: the connection broke, or the sender stopped.
    #[error("the received backup is not complete: {0}")]
    Cut(String),
    /// A file or directory with the backup's name exists.
    #[error("{place} already exists: remove it, or choose another directory with --to")]
    There {
        /// The path that exists.
        place: PathBuf,
    },
    /// Not enough space for the backup.
    #[error(
        "not enough space in {place}: {} are free, {file} needs {}; choose another directory with --to", mib(*.free_bytes), mib(*.size_bytes)
    )]
    Short {
        /// The target directory.
        place: PathBuf,
        /// The file that does not fit.
        file: String,
        /// The size of the file, in bytes.
        size_bytes: u64,
        /// Free bytes.
        free_bytes: u64,
    },
    /// The backup cannot be written.
    #[error("cannot {what} {path}: {source}")]
    Write {
        /// The operation as a verb, such as `create`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The received backup cannot be verified.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

impl TransferError {
    fn write(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| TransferError::Write {
            what,
            path: path.into(),
            source,
        }
    }
}

/// Writes a backup as a tar archive; without a name, the newest proven one. The backup may be removed in the meantime.
///
/// # Errors
/// The backup does not exist, cannot be read, or cannot be written to `out`.
pub fn send(
    repository: &Repository,
    name: Option<&str>,
    out: impl Write,
) -> Result<(), TransferError> {
    let backup = chosen(repository, name)?;
    let send_error = |source| TransferError::Send {
        name: backup.name().into(),
        source,
    };
    let mut files = Vec::new();
    for file in backup.files() {
        files.push((file, LocalFile::open(&backup.path(file))?));
    }
    let mut tar = tar::Builder::new(out);
    for (file, mut opened) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(opened.size_bytes());
        header.set_mode(FILE_MODE);
        header.set_mtime(u64::try_from(backup.record.finished_at.as_second()).unwrap_or_default());
        let path = format!("{}/{file}", backup.name());
        tar.append_data(&mut header, path, &mut opened)
            .map_err(send_error)?;
        // Sending a backup must not push the member's own files out of the page cache.
        let _ = rustix::fs::fadvise(&opened, 0, None, Advice::DontNeed);
    }
    let mut out = tar.into_inner().map_err(send_error)?;
    out.flush().map_err(send_error)
}

fn chosen(repository: &Repository, name: Option<&str>) -> Result<Backup, TransferError> {
    let entries = repository.entries()?;
    let wanted = |entry: &&Entry| match (name, entry.candidate()) {
        (Some(name), Some(candidate)) => candidate.name == name,
        (None, Some(candidate)) => candidate.verified,
        (_, None) => false,
    };
    let found = entries.iter().find(wanted);
    if let Some(backup) = found.and_then(Entry::backup) {
        return Ok(backup.clone());
    }
    let root = repository.root().to_path_buf();
    let Some(name) = name else {
        return Err(TransferError::NoneProven { root });
    };
    let backups = entries.iter().filter(|entry| entry.record().is_some());
    let there: Vec<_> = backups.map(|entry| entry.name.as_str()).collect();
    Err(TransferError::NoBackup {
        root,
        name: name.into(),
        there: if there.is_empty() {
            "none".into()
        } else {
            there.join(", ")
        },
    })
}

/// A received backup that is not published yet. Its files are removed if this is dropped before it is published.
pub struct Arrived {
    /// Its record, as it was sent.
    pub record: Record,
    staging: Staging,
}

impl Arrived {
    /// The name of the backup, as the sender named it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.staging.name()
    }

    /// Gives it another position in the order of backups.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(crate) fn set_sequence(&mut self, sequence: u64) -> Result<(), TransferError> {
        self.record.sequence = sequence;
        let json = self.record.to_json().map_err(io::Error::other);
        self.write(RECORD_FILE, |path| durable_file::replace(path, &json?))
    }

    /// Verifies it, and publishes it if it is intact.
    ///
    /// # Errors
    /// Why nothing could be checked, or it cannot be published. Damage is in the report.
    pub fn prove(self, monitor: &dyn Monitor) -> Result<(PathBuf, Report), TransferError> {
        let options = Options {
            level: Level::Content,
            trailer_optional: false,
        };
        let report = verify(self.staging.dir(), &options, monitor)?;
        let place = self.staging.place().to_path_buf();
        if report.ok {
            self.staging.publish()?;
        }
        Ok((place, report))
    }
}

/// Receives a backup into a new directory below `dir`.
///
/// # Errors
/// The received data is not a complete backup, or there is not enough space. Nothing is left behind then.
pub fn take(input: impl Read, dir: &Path, monitor: &dyn Monitor) -> Result<Arrived, TransferError> {
    let staging = |name: &str| {
        let place = dir.join(name);
        if place.symlink_metadata().is_ok() {
            return Err(TransferError::There { place });
        }
        Ok(Staging::beside(&place, name)?)
    };
    take_as(input, monitor, staging)
}

/// Receives a backup into a directory that `staging` makes for a backup of this name.
pub(crate) fn take_as(
    input: impl Read,
    monitor: &dyn Monitor,
    staging: impl FnOnce(&str) -> Result<Staging, TransferError>,
) -> Result<Arrived, TransferError> {
    let broken = |error: io::Error| TransferError::Broken(error.to_string());
    let mut tar = tar::Archive::new(input);
    // Raw entries: otherwise the library reads a long name into memory, whatever length the sender claims.
    let mut entries = tar.entries().map_err(broken)?.raw(true);
    let first = entries.next().transpose().map_err(broken)?;
    let mut first = first.ok_or_else(|| TransferError::Cut("no data arrived".into()))?;
    let (name, file) = names_of(&first)?;
    if file != RECORD_FILE || time_of_name(&name).is_none() {
        return Err(TransferError::Broken(format!(
            "it begins with {name:?}/{file:?}, expected a backup's {RECORD_FILE}"
        )));
    }
    if first.size() > MAX_RECORD_BYTES {
        return Err(TransferError::Broken(format!(
            "its {RECORD_FILE} has {} bytes, expected at most {MAX_RECORD_BYTES}",
            first.size()
        )));
    }
    let mut json = Vec::new();
    first.read_to_end(&mut json).map_err(broken)?;
    let record = Record::from_json(&json)
        .map_err(|error| TransferError::Broken(format!("its {RECORD_FILE}: {error}")))?;
    if record.sha256.len() > MAX_FILES {
        return Err(TransferError::Broken(format!(
            "its {RECORD_FILE} lists {} files, expected at most {MAX_FILES}",
            record.sha256.len()
        )));
    }
    let mut missing = record.sha256.clone();
    let arrived = Arrived {
        staging: staging(&name)?,
        record,
    };
    arrived.write(RECORD_FILE, |path| durable_file::write(path, &json))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| match error.kind() {
            // These are the errors of the library for a truncated header.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
                TransferError::Cut(error.to_string())
            }
            _ => broken(error),
        })?;
        let (name, file) = names_of(&entry)?;
        let expected = missing.remove(&file).filter(|_| name == arrived.name());
        let Some(expected) = expected else {
            return Err(TransferError::Broken(format!(
                "{name}/{file} does not belong to backup {}",
                arrived.name()
            )));
        };
        arrived.has_room_for(&file, entry.size())?;
        monitor.step("copying", entry.size());
        let size_bytes = entry.size();
        let (found, bytes) = arrived.copy(&file, &mut entry, monitor)?;
        if bytes < size_bytes {
            return Err(TransferError::Cut(format!(
                "{file} ended after {bytes} of {size_bytes} bytes"
            )));
        }
        if found != expected {
            return Err(TransferError::Broken(format!(
                "{file}: SHA-256 is {found}, expected {expected}"
            )));
        }
    }
    match missing.keys().next() {
        Some(file) => Err(TransferError::Cut(format!("the data ended before {file}"))),
        None => Ok(arrived),
    }
}

/// The names of the backup and the file. All other paths are refused.
fn names_of(entry: &tar::Entry<'_, impl Read>) -> Result<(String, String), TransferError> {
    let bytes = entry.path_bytes();
    let path = String::from_utf8_lossy(&bytes).into_owned();
    match path.split_once('/') {
        Some((name, file))
            if entry.header().entry_type().is_file()
                && !name.starts_with('.')
                && !file.is_empty()
                && !file.starts_with('.')
                && !file.contains('/') =>
        {
            Ok((name.into(), file.into()))
        }
        _ => Err(TransferError::Broken(format!(
            "{path:?} is not a file of a backup"
        ))),
    }
}

impl Arrived {
    fn write(
        &self,
        file: &str,
        write: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), TransferError> {
        let path = self.staging.path(file);
        write(&path).map_err(TransferError::write("write", &path))
    }

    fn has_room_for(&self, file: &str, size_bytes: u64) -> Result<(), TransferError> {
        let free_bytes = Space::at(self.staging.dir())?.free_bytes;
        if size_bytes <= free_bytes {
            return Ok(());
        }
        Err(TransferError::Short {
            place: self
                .staging
                .place()
                .parent()
                .unwrap_or(self.staging.place())
                .into(),
            file: file.into(),
            size_bytes,
            free_bytes,
        })
    }

    /// Copies a file, and returns the SHA-256 and the size of the received data.
    fn copy(
        &self,
        file: &str,
        input: &mut impl Read,
        monitor: &dyn Monitor,
    ) -> Result<(String, u64), TransferError> {
        let path = self.staging.path(file);
        let out = durable_file::create(&path).map_err(TransferError::write("create", &path))?;
        let mut out = Hashed::new(Appending(out));
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = match input.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err(TransferError::Broken(format!("{file}: {error}"))),
            };
            out.write_all(chunk.get(..count).unwrap_or_default())
                .map_err(TransferError::write("write", &path))?;
            if monitor.advance(count as u64).is_break() {
                return Err(TransferError::Broken("the transfer was interrupted".into()));
            }
        }
        durable_file::sync(&out.out.0).map_err(TransferError::write("sync", &path))?;
        Ok((out.hex(), out.bytes))
    }
}

/// Appends what is written to a file.
struct Appending(File);

impl Write for Appending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        durable_file::append(&mut self.0, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use backup_plan::hex::hex;
    use serde_json::{Value, json};
    use sha2::{Digest, Sha256};

    const NAME: &str = "2026-11-22_031500";
    const RECORD: &str = include_str!("../../backup-plan/tests/records/version-1.json");

    fn files() -> Vec<(String, Vec<u8>)> {
        vec![
            (format!("snapshot_{NAME}.db"), vec![7; 5000]),
            ("blocks".into(), b"hashes".to_vec()),
        ]
    }

    fn record(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut record: Value = serde_json::from_str(RECORD).unwrap();
        let digests = files
            .iter()
            .map(|(name, bytes)| (name.clone(), json!(hex(&Sha256::digest(bytes)))));
        record["sha256"] = Value::Object(digests.collect());
        serde_json::to_vec(&record).unwrap()
    }

    fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            // An invalid path can only be written directly into the header.
            let place = header.as_gnu_mut().unwrap();
            place.name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            tar.append(&header, bytes.as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn sent(files: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
        let record = (RECORD_FILE.to_string(), record(files));
        std::iter::once(record)
            .chain(files.iter().cloned())
            .map(|(file, bytes)| (format!("{NAME}/{file}"), bytes))
            .collect()
    }

    fn refused(bytes: &[u8], why: &str) {
        let dir = tempfile::tempdir().unwrap();
        let Err(error) = take(bytes, dir.path(), &Silent) else {
            panic!("it was taken, and should not be: {why}");
        };
        assert!(error.to_string().contains(why), "{error}: expected {why}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{why}");
    }

    #[test]
    fn what_was_sent_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let arrived = take(&*archive(&sent(&files())), dir.path(), &Silent).unwrap();
        assert_eq!(arrived.name(), NAME);
        for (file, bytes) in files() {
            assert_eq!(std::fs::read(arrived.staging.path(&file)).unwrap(), bytes);
        }
        // It was not proven.
        drop(arrived);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_ends_too_soon_is_not_taken_wherever_it_ends() {
        let whole = archive(&sent(&files()));
        // After the last file there are only zeros, so nothing is lost without them.
        let needed = whole.len() - 2 * 512;
        let last_padding = 512 - 6;
        for end in (0..needed - last_padding).step_by(61) {
            refused(&whole[..end], "the received backup is not");
        }
    }

    #[test]
    fn a_file_that_ends_too_soon_is_not_told_as_one_with_another_digest() {
        let whole = archive(&sent(&files()));
        // In the middle of the snapshot: three headers and the record are before it.
        let head = whole.len() - archive(&sent(&files())[1..]).len() + 512;
        let dir = tempfile::tempdir().unwrap();
        let taken = take(&whole[..head + 1000], dir.path(), &Silent);
        let Err(TransferError::Cut(problem)) = taken else {
            panic!("{:?}", taken.err());
        };
        let expected = format!("snapshot_{NAME}.db ended after 1000 of 5000 bytes");
        assert_eq!(problem, expected);
    }

    #[test]
    fn only_what_the_record_names_is_taken() {
        let mut more = sent(&files());
        more.push((format!("{NAME}/more"), Vec::new()));
        refused(&archive(&more), "more does not belong");
        let mut elsewhere = sent(&files());
        elsewhere[2].0 = "2026-11-22_031501/blocks".into();
        refused(&archive(&elsewhere), "does not belong");
        for path in [
            "../blocks",
            "/etc/passwd",
            "a/../b",
            "x",
            ".x/y",
            "x/.y",
            "x/",
        ] {
            let mut all = sent(&files());
            all[1].0 = path.into();
            refused(&archive(&all), "is not a file of a backup");
        }
        let mut twice = sent(&files());
        twice.push(twice[2].clone());
        refused(&archive(&twice), "does not belong");
        let mut without = sent(&files());
        without.pop();
        refused(&archive(&without), "the data ended before blocks");
        let mut other = sent(&files());
        other[2].1[0] ^= 1;
        refused(&archive(&other), "SHA-256 is");
        let first = sent(&files()).split_off(1);
        refused(&archive(&first), "expected a backup's backup.json");
        let mut named = sent(&files());
        named[0].0 = "somewhere/backup.json".into();
        refused(&archive(&named), "expected a backup's backup.json");
        let mut large = sent(&files());
        large[0].1 = vec![b' '; (MAX_RECORD_BYTES + 1) as usize];
        refused(&archive(&large), "at most");
        refused(b"no archive at all", "the received backup is not");
    }

    #[test]
    fn a_byte_that_is_another_is_refused_or_changes_nothing() {
        let whole = archive(&sent(&files()));
        for at in (0..whole.len()).step_by(19) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            let dir = tempfile::tempdir().unwrap();
            let Ok(arrived) = take(&*changed, dir.path(), &Silent) else {
                assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
                continue;
            };
            for (file, bytes) in files() {
                assert_eq!(std::fs::read(arrived.staging.path(&file)).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn a_name_that_is_said_to_be_long_is_not_read() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_path("././@LongLink").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        let name = header.as_bytes().chain(std::io::repeat(b'x'));
        let dir = tempfile::tempdir().unwrap();
        let Err(error) = take(name, dir.path(), &Silent) else {
            panic!("a name of a terabyte was taken");
        };
        assert!(
            error.to_string().contains("is not a file of a backup"),
            "{error}"
        );
    }

    #[test]
    fn nothing_that_is_there_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(NAME)).unwrap();
        let taken = take(&*archive(&sent(&files())), dir.path(), &Silent);
        assert!(matches!(taken, Err(TransferError::There { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
