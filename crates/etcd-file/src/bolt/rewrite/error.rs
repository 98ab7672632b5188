//! Why a database cannot be changed, and what is written if it can.

use crate::Failure;
use crate::bolt::{CursorError, MAX_KEY_BYTES};

/// The list of buckets, and a bucket that is replaced, are read into memory, so they must be small. etcd's have some hundred bytes.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// Why a database can't be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// The file could not be read.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The tree is damaged.
    #[error(transparent)]
    Damaged(CursorError),
    /// More data than etcd ever has in such a place.
    #[error("{what} has more than {MAX_BYTES} bytes: this is not a database of etcd")]
    TooLarge {
        /// The bucket, or the list of buckets.
        what: String,
    },
    /// A key that is not after all others.
    #[error("bucket {bucket:?} already has a key that is not before the new one")]
    NotLast {
        /// The bucket.
        bucket: String,
    },
    /// A number that cannot grow any more.
    #[error("the {what} of the database is too high: {found}")]
    Overflow {
        /// `transaction id` or `number of pages`.
        what: &'static str,
        /// The number in the file.
        found: u64,
    },
    /// A key that bbolt refuses.
    #[error("a key of {found} bytes, expected 1 to {MAX_KEY_BYTES}")]
    KeyLength {
        /// Its length, in bytes.
        found: usize,
    },
}

impl From<CursorError> for RewriteError {
    fn from(error: CursorError) -> Self {
        match error {
            CursorError::Failed(failure) => RewriteError::Failed(failure),
            damaged => RewriteError::Damaged(damaged),
        }
    }
}

/// What must be written. First the file is cut to `old_bytes`, then the pages are written and synced, then the metas.
pub struct Rewritten {
    /// High-water mark before × page size, in bytes. The file may be longer; nothing after it is in use.
    pub old_bytes: u64,
    /// The new pages, one after the other from `old_bytes` on.
    pub pages: Vec<u8>,
    /// Page 0 and page 1, which are written at offset 0 in one piece. Both lead to the same tree, as in a snapshot.
    pub metas: Vec<u8>,
    /// The new size of the file, in bytes.
    pub new_bytes: u64,
    /// Number of pages that are written, with the two metas.
    pub written_pages: u64,
}
