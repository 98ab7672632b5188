//! Writes the archive of control-plane files and reads it back from the disk. If the archive fails, the run goes on without it.

use super::error::{RunError, write_error};
use super::read_back;
use super::source::{SYNCED_EVERY_BYTES, SpaceGuard};
use crate::digest::Hashed;
use crate::progress::{SharedMonitor, Silent};
use crate::{blocks, durable_file, static_resources};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The result of archiving the control-plane files.
#[derive(Default)]
pub(crate) struct ArchiveFile {
    pub(crate) warnings: Vec<String>,
    pub(crate) lacks: Vec<String>,
    /// SHA-256 and size of the archive; none if it could not be written.
    pub(crate) file: Option<(String, u64)>,
}

/// Archives the control-plane files. If this fails, the proven snapshot is kept and `lacks` lists what is missing.
pub(crate) fn archive(
    root: &Path,
    dirs: &[PathBuf],
    path: &Path,
    space: &SpaceGuard,
    monitor: &SharedMonitor,
) -> Result<ArchiveFile, RunError> {
    let mut stopped = false;
    let mut go_on = || {
        stopped |= monitor.advance(0).is_break();
        if stopped {
            return Err("the run was stopped".to_string());
        }
        space.check().map_err(|error| error.to_string())
    };
    let written = write_archive(root, dirs, path, &mut go_on);
    if stopped {
        return Err(RunError::Stopped);
    }
    match written {
        Ok(written) => Ok(written),
        Err(error) => {
            // An incomplete archive could be mistaken for a complete one.
            match durable_file::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(write_error(path)(error));
                }
                _ => {}
            }
            Ok(ArchiveFile {
                lacks: vec![format!("all files: the archive cannot be written: {error}")],
                ..ArchiveFile::default()
            })
        }
    }
}

fn write_archive(
    root: &Path,
    dirs: &[PathBuf],
    path: &Path,
    go_on: &mut dyn FnMut() -> Result<(), String>,
) -> io::Result<ArchiveFile> {
    let file = SyncedInPieces {
        file: durable_file::create(path)?,
        unsynced_bytes: 0,
    };
    let mut out = Hashed::new(file);
    let mut hashes = blocks::Hasher::default();
    let archived = {
        let mut both = Both(&mut out, &mut hashes);
        static_resources::archive(root, dirs, &mut both, go_on)?
    };
    durable_file::sync(&out.out.file)?;
    let read = read_back::compare(path, &hashes.finish(), &Silent);
    read.map_err(io::Error::other)?;
    Ok(ArchiveFile {
        warnings: archived.warnings,
        lacks: archived.lacks,
        file: Some((out.hex(), out.bytes)),
    })
}

/// Writes to the file and updates the block hashes.
struct Both<'b>(&'b mut Hashed<SyncedInPieces>, &'b mut blocks::Hasher);

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A file that is synced every few MiB while it is written.
struct SyncedInPieces {
    file: File,
    unsynced_bytes: u64,
}

impl Write for SyncedInPieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        durable_file::append(&mut self.file, bytes)?;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= SYNCED_EVERY_BYTES {
            self.unsynced_bytes = 0;
            durable_file::sync_data(&self.file)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
