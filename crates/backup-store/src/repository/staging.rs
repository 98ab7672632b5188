//! A backup that is not published yet.

use super::error::RepositoryError;
use crate::durable_file;
use std::any::Any;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The hidden directory in which a backup is made. It becomes the backup when it is published; otherwise it is removed when this
/// is dropped.
pub struct Staging {
    name: String,
    dir: PathBuf,
    place: PathBuf,
    is_finished: bool,
    /// The lock of the repository, held until the directory is removed. `None` outside of a repository.
    lock: Option<Arc<dyn Any + Send + Sync>>,
}

impl Staging {
    /// Creates the directory of a run in a repository.
    pub(super) fn in_repository(
        lock: Arc<dyn Any + Send + Sync>,
        place: PathBuf,
        name: String,
        dir: PathBuf,
    ) -> Result<Self, RepositoryError> {
        durable_file::create_dir(&dir).map_err(RepositoryError::io("create", &dir))?;
        Ok(Staging {
            place,
            name,
            dir,
            is_finished: false,
            lock: Some(lock),
        })
    }

    /// Creates a directory for a backup that arrives from elsewhere. Several can arrive at the same time, and directories of
    /// killed processes do no harm.
    pub(crate) fn beside(place: &Path, name: &str) -> Result<Self, RepositoryError> {
        let parent = place.parent().unwrap_or(place);
        let dir = tempfile::Builder::new()
            .prefix(&format!(".{name}.partial-"))
            .permissions(Permissions::from_mode(durable_file::DIR_MODE))
            .tempdir_in(parent)
            .map_err(RepositoryError::io("create a directory in", parent))?
            .keep();
        Ok(Staging {
            name: name.into(),
            dir,
            place: place.into(),
            is_finished: false,
            lock: None,
        })
    }

    /// The name of the backup.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory, until it is published.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of the backup after it is published.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The path of a file, until it is published.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Publishes the backup. All its files must have been synced.
    ///
    /// # Errors
    /// Why it was not published.
    pub fn publish(mut self) -> Result<PathBuf, RepositoryError> {
        durable_file::publish(&self.dir, &self.place)
            .map_err(RepositoryError::io("publish", &self.place))?;
        self.is_finished = true;
        Ok(self.place.clone())
    }

    /// Removes the directory. If that fails, the next run in the repository does it.
    pub fn discard(mut self) {
        self.is_finished = true;
        let _ = durable_file::remove_dir(&self.dir);
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        match self.lock.take() {
            // The disk may hang. This thread also handles signals and must not wait, so another thread removes the directory.
            Some(lock) => {
                let dir = self.dir.clone();
                std::thread::spawn(move || {
                    let _ = durable_file::remove_dir(&dir);
                    drop(lock);
                });
            }
            None => {
                let _ = durable_file::remove_dir(&self.dir);
            }
        }
    }
}
