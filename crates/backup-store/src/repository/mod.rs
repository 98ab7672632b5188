//! Where backups are stored: a directory, with a directory for each backup.
//!
//! A run works in a hidden directory, which becomes the backup by one rename. So every listed backup is
//! complete. What a crash leaves over is hidden, and the next run removes it. `docs/repository.md` has the layout.
//!
//! Reading, and holding a backup, need no lock. All other changes need the lock of the repository: [`Locked`].

mod backup;
mod directory;
mod entry;
mod error;
mod lock_file;
pub(crate) mod names;
mod seat;
mod space;
mod staging;

pub use backup::Backup;
pub(crate) use backup::MAX_RECORD_BYTES;
pub use directory::{DEFAULT_ROOT, Locked, Repository, Swept};
pub use entry::{Entry, Kind};
pub use error::RepositoryError;
pub use seat::Seat;
pub use space::Space;
pub use staging::Staging;
