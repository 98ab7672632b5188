//! A restore: from a snapshot to a data directory that etcd starts from.
//!
//! The database is put in its place as a clone, or as a copy, and proven there. Then only the pages that must differ are written
//! again. Everything is built in a directory beside its place, and one rename publishes it. After a crash there is nothing that etcd
//! would start from, and the next restore begins again.

mod choice;
mod data_dir;
mod database;
mod difference;
mod error;
mod evidence;
mod facts;
mod lock;
mod log_files;
mod old_data_dir;
mod order;
mod place;
mod plan;
mod proof;
mod replay;
mod snapshot;
mod source;
mod unfinished;

pub use etcd_file::membership::StoredMember;

pub use choice::{ChoiceError, Chosen, choose};
pub use data_dir::{Restored, restore};
pub use difference::{ChangeType, ChangedKey, Difference, KeyRecord, LogPart, Side};
pub use error::RestoreError;
pub use lock::is_locked;
pub use old_data_dir::OldMember;
pub use order::{Identity, Order, Witnesses};
pub use place::Placing;
pub use plan::{Plan, plan};
pub use proof::{Proof, prove_source};
pub use replay::{Survived, Survivor};
pub use snapshot::{RaisedSnapshot, raise_snapshot};
pub use source::Source;
pub(crate) use unfinished::RECORD;
pub use unfinished::restored_cluster;
