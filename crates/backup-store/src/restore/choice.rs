//! Which snapshot a person means.

use crate::repository::{Repository, RepositoryError};
use backup_plan::record::Level;
use std::path::{Path, PathBuf};

/// The newest proven backup.
const LATEST: &str = "latest";

/// A snapshot, and the repository that it belongs to.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// A backup directory, or a file.
    pub path: PathBuf,
    /// The repository, whose backups show which revisions were seen.
    pub repository: Option<PathBuf>,
}

/// Why no snapshot is meant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// The repository can't be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// No backup of this name.
    #[error("{name:?} is neither a file nor a backup in {}: run `list` to see the backups", .root.display())]
    Unknown {
        /// What was given.
        name: String,
        /// The repository.
        root: PathBuf,
    },
    /// No proven backup at all.
    #[error("{} has no proven backup: run `list` to see what is there", .root.display())]
    None {
        /// The repository.
        root: PathBuf,
    },
}

/// Finds a snapshot: the newest proven backup of the repository `root`, a backup in it by its name, or a path.
///
/// # Errors
/// There is none.
pub fn choose(text: &str, root: &Path) -> Result<Chosen, ChoiceError> {
    let path = Path::new(text);
    if text != LATEST && path.exists() {
        let above = path.canonicalize().ok();
        let above = above.as_deref().and_then(Path::parent);
        let is_backup = |dir: &&Path| {
            let entries = Repository::open(dir).and_then(|all| all.entries());
            entries.is_ok_and(|all| all.iter().any(|entry| entry.record().is_some()))
        };
        let repository = above.filter(|_| path.is_dir()).filter(is_backup);
        return Ok(Chosen {
            path: path.into(),
            repository: repository.map(Path::to_path_buf),
        });
    }
    let unknown = || ChoiceError::Unknown {
        name: text.into(),
        root: root.into(),
    };
    let entries = match Repository::open(root).and_then(|all| all.entries()) {
        Err(_) if text != LATEST => return Err(unknown()),
        entries => entries?,
    };
    let mut backups = entries.iter().filter_map(|entry| entry.backup());
    let found = match text {
        LATEST => backups.find(|backup| backup.record.verified.contains(&Level::Content)),
        name => backups.find(|backup| backup.name() == name),
    };
    match found {
        Some(backup) => Ok(Chosen {
            path: root.join(backup.name()),
            repository: Some(root.into()),
        }),
        None if text == LATEST => Err(ChoiceError::None { root: root.into() }),
        None => Err(unknown()),
    }
}
