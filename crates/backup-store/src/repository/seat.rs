//! At most one backup server works on a repository. Others wait, so that a node with two of them has no double load.
//!
//! This is not the lock of a run: commands can work beside a server.

use super::directory::Repository;
use super::error::RepositoryError;
use super::lock_file;
use super::names::SEAT_FILE;
use std::fs::File;
use std::path::Path;

/// The right to be the server of a repository, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Seat {
    _file: File,
}

impl Seat {
    /// Takes the seat. Creates the repository if it does not exist. Returns `None` if another process has the seat.
    ///
    /// # Errors
    /// The file of the seat cannot be created or locked.
    pub fn take(root: &Path) -> Result<Option<Seat>, RepositoryError> {
        let repository = Repository::create(root)?;
        let path = repository.root().join(SEAT_FILE);
        Ok(lock_file::lock(&path)?.map(|file| Seat { _file: file }))
    }

    /// Whether another process has the seat. Creates nothing.
    ///
    /// # Errors
    /// The file of the seat cannot be opened or locked.
    pub fn is_taken(root: &Path) -> Result<bool, RepositoryError> {
        lock_file::is_locked(&root.join(SEAT_FILE))
    }
}
