//! Why the replay of a log ends early.

use super::super::error::KeyspaceError;

/// Why an entry can't be applied.
pub(super) enum Halt {
    /// The files can't be read.
    Failed(KeyspaceError),
    /// What the entry does is not known.
    Stop(String),
}

impl<E: Into<KeyspaceError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Halt::Failed(error.into())
    }
}
