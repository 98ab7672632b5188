//! The entries of a log that are not in a database yet, applied to its keys as a member applies them when it starts (etcd-io/etcd:
//! `server/etcdserver/{server,apply/*,txn/*}.go`, `server/storage/mvcc/kvstore_txn.go`).
//!
//! A member writes its database only every 100 ms, but its log before it answers. So after a crash the newest changes are only in the
//! log.

mod apply;
mod halt;
mod request;
mod store;
mod tail;

use super::error::KeyspaceError;
use super::sorted::SortedKeys;
use super::sources::Fingerprints;
use crate::bolt::{Bolt, Rewrite};
use crate::new_cluster::facts;
use crate::raft::{Segment, WalRecord, read_wal};
use crate::{ReadAt, ScratchSource};
use apply::Applier;
use halt::Halt;
pub use request::changes_data;
use std::collections::BTreeMap;
pub(super) use store::Changed;
use store::Store;
use tail::Tail;

/// What a log changed. By default nothing.
#[derive(Debug, Default)]
pub struct Replayed {
    pub(super) changed: BTreeMap<Vec<u8>, Option<Changed>>,
    /// Number of entries that were applied.
    pub entries: u64,
    /// How many of them, at the end, are not known to be committed: perhaps no client got an answer to them.
    pub maybe_uncommitted: u64,
    /// The revision after them.
    pub revision: i64,
    /// Why entries were left out. `None` if all were applied.
    pub stopped: Option<Stopped>,
}

/// Why entries were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Number of entries that were left out.
    pub entries: u64,
    /// Why the first of them could not be applied.
    pub reason: String,
}

/// Applies the entries that are not in a database yet to its keys, which `base` are.
///
/// # Errors
/// The database or the log can't be read, or a part of the log is missing.
pub fn replay(
    database: &dyn ReadAt,
    base: &SortedKeys,
    log: &[Segment<'_>],
    fingerprints: &mut Fingerprints,
    scratch: &dyn ScratchSource,
) -> Result<Replayed, KeyspaceError> {
    let bolt = &Bolt::open(database)?;
    let rewrite = Rewrite::of(bolt)?;
    let facts = facts(&rewrite)?;
    let reflected = facts.consistent_index.unwrap_or_default();
    let tail = Tail::find(log, reflected)?;
    let mut done = Replayed {
        revision: facts.current_revision,
        ..Replayed::default()
    };
    if tail.is_empty() {
        return Ok(done);
    }
    let mut store = Store::new(bolt, base, facts.current_revision, fingerprints, scratch)?;
    store.find_keys_of_leases(tail.revoked_leases())?;
    let mut applier = Applier::new(store, &rewrite)?;
    let mut failure = None;
    let mut reader = tail.reader();
    read_wal(log, &mut |record| {
        let WalRecord::Entry(entry) = record else {
            return Ok(());
        };
        if !reader.is_next() || done.stopped.is_some() || failure.is_some() {
            return Ok(());
        }
        match applier.apply(&entry) {
            Ok(()) => done.entries += 1,
            Err(Halt::Failed(error)) => failure = Some(error),
            Err(Halt::Stop(reason)) => {
                let entries = tail.len() - done.entries;
                done.stopped = Some(Stopped { entries, reason });
            }
        }
        Ok(())
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let last = reflected + done.entries;
    done.maybe_uncommitted = last.saturating_sub(tail.commit().max(reflected));
    (done.changed, done.revision) = applier.finish();
    Ok(done)
}
