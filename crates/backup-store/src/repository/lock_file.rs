//! A file that one process at a time can lock.

use super::error::RepositoryError;
use crate::durable_file;
use rustix::fs::{FlockOperation, OFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Locks a file, and creates it if it does not exist. Returns `None` if another process has locked it.
pub(super) fn lock(path: &Path) -> Result<Option<File>, RepositoryError> {
    let file = match durable_file::create(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            open(path).map_err(RepositoryError::io("open", path))?
        }
        Err(error) => return Err(RepositoryError::io("create", path)(error)),
    };
    let is_free = try_lock(&file, FlockOperation::NonBlockingLockExclusive, path)?;
    Ok(is_free.then_some(file))
}

/// Whether another process has locked a file. Creates nothing.
pub(super) fn is_locked(path: &Path) -> Result<bool, RepositoryError> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(RepositoryError::io("open", path)(error)),
    };
    Ok(!try_lock(
        &file,
        FlockOperation::NonBlockingLockShared,
        path,
    )?)
}

/// Any existing file can be locked. Opening it must not follow a link, and must not block if it is a pipe.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed())
        .open(path)
}

fn try_lock(file: &File, operation: FlockOperation, path: &Path) -> Result<bool, RepositoryError> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(RepositoryError::io("lock", path)(error.into())),
    }
}
