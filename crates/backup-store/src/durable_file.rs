//! What is on the disk when a call returns, also after the power fails.
//!
//! A file or a directory appears under its name by one rename, after everything in it was synced; the
//! rename itself is on the disk when the directory around it was synced.

use rustix::fs::{CWD, RenameFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Mode of the directories we make.
const DIR_MODE: u32 = 0o700;
/// Mode of the files we make: a backup holds the keys of the cluster.
const FILE_MODE: u32 = 0o600;

/// Creates a file that must not exist yet, for its owner alone.
///
/// # Errors
/// What the operating system says.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Creates a directory that must not exist yet, for its owner alone.
///
/// # Errors
/// What the operating system says.
pub fn create_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(DIR_MODE).create(path)
}

/// Creates a file with these bytes and syncs it.
///
/// # Errors
/// What the operating system says.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Syncs the names in a directory.
///
/// # Errors
/// What the operating system says.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Gives a directory whose files were synced its final name, which must not exist yet.
///
/// # Errors
/// What the operating system says. If it was the last step that failed, the new name may be there.
pub fn publish(partial: &Path, place: &Path) -> io::Result<()> {
    sync_dir(partial)?;
    rustix::fs::renameat_with(CWD, partial, CWD, place, RenameFlags::NOREPLACE)?;
    match place.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}
