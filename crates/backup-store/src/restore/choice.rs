//! Which snapshot a person means.

use crate::repository::{Entry, Kind, Repository, RepositoryError};
use backup_plan::record::Level;
use std::path::{Path, PathBuf};

/// The newest proven backup.
const LATEST: &str = "latest";

/// A snapshot, and where it is known which revisions were seen.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// A backup directory, or a file.
    pub path: PathBuf,
    /// The repository of the node, and the one that the snapshot is in.
    pub repositories: Vec<PathBuf>,
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
    if text != LATEST && path.symlink_metadata().is_ok() {
        let whole = path.canonicalize().unwrap_or_else(|_| path.into());
        // A backup directory is in a repository, and its snapshot one level below.
        let above = whole.ancestors().skip(1).take(2).map(Path::to_path_buf);
        let mut repositories: Vec<_> = above.filter(|dir| has_backups(dir)).collect();
        // If it can't be read, that is reported when it is asked for revisions.
        let is_there = root.symlink_metadata().is_ok() && Repository::open(root).is_err();
        if (is_there || has_backups(root)) && !repositories.iter().any(|known| is_same(known, root))
        {
            repositories.push(root.into());
        }
        return Ok(Chosen {
            path: path.into(),
            repositories,
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
    let is_proven = |entry: &&Entry| {
        let record = entry.record();
        record.is_some_and(|record| record.verified.contains(&Level::Content))
    };
    // A damaged backup is found, too: what is wrong with it is said when it is opened.
    let is_named = |entry: &&Entry| {
        entry.name == text && matches!(entry.kind, Kind::Backup(_) | Kind::Unreadable(_))
    };
    let found = match text {
        LATEST => entries.iter().find(is_proven),
        _ => entries.iter().find(is_named),
    };
    match found {
        Some(entry) => Ok(Chosen {
            path: root.join(&entry.name),
            repositories: vec![root.into()],
        }),
        None if text == LATEST => Err(ChoiceError::None { root: root.into() }),
        None => Err(unknown()),
    }
}

fn has_backups(dir: &Path) -> bool {
    let entries = Repository::open(dir).and_then(|all| all.entries());
    entries.is_ok_and(|all| all.iter().any(|entry| entry.record().is_some()))
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().ok() == other.canonicalize().ok()
}
