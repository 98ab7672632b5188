//! Frees space for a run: removes old backups, but not more than necessary.
//!
//! Filesystems free space late: btrfs with a transaction, XFS in the background, all of them when the last process has closed a
//! file. So after each removal the run waits for the space. If it does not become free, nothing else is removed.

use super::error::RunError;
use super::notes::{AwaitedSpace, Notes};
use crate::disk_use::DiskUse;
use crate::progress::SharedMonitor;
use crate::repository::Locked;
use backup_plan::retention::{Removal, removals_for_space};
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// btrfs commits every 30 s. It frees the space of removed files at the latest with the second commit.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After this time a run no longer waits for the freed space: other files may have used it.
const AWAITED_HOURS: i64 = 1;
/// Metadata may use some of the freed space.
const EXPECTED_PERCENT: u64 = 90;

/// The space that a run needs for a database of this size, including the block hashes and the archive.
pub(crate) fn needed_bytes(db_bytes: u64) -> u64 {
    db_bytes
        .saturating_add(db_bytes / 100)
        .saturating_add(1 << 20)
}

pub(crate) struct Room<'r> {
    pub(crate) repository: &'r Locked,
    pub(crate) monitor: &'r SharedMonitor,
    /// Receives each backup that is removed.
    pub(crate) given_up: &'r dyn Fn(&Removal),
    pub(crate) now: Timestamp,
}

impl Room<'_> {
    /// Removes old backups until `needed_bytes` are free in addition to the reserve.
    pub(crate) fn make(&self, needed_bytes: u64, reserve_bytes: u64) -> Result<(), RunError> {
        let wanted_bytes = needed_bytes.saturating_add(reserve_bytes);
        let mut notes = Notes::of(self.repository);
        let free_bytes = self.free_bytes()?;
        if free_bytes >= wanted_bytes {
            return self.clear_awaited(&mut notes);
        }
        if let Some(awaited) = &notes.awaited
            && self.now.duration_since(awaited.at).as_hours().abs() < AWAITED_HOURS
            && free_bytes < awaited.enough()
        {
            return Err(awaited.error(free_bytes, wanted_bytes));
        }
        let entries = self.repository.entries()?;
        let candidates: Vec<_> = entries
            .iter()
            .filter_map(|entry| entry.candidate())
            .collect();
        let disk_use = DiskUse::of(self.repository, &entries, &|| {
            // Reports progress only. A request to stop is handled before each removal.
            let _ = self.monitor.advance(0);
        });
        let freed_by = |names: &[&str]| disk_use.freed_by(&names.iter().copied().collect());
        let insufficient = |free_bytes| RunError::InsufficientSpace {
            free_bytes,
            needed_bytes,
            reserve_bytes,
        };
        let Some(removals) = removals_for_space(&candidates, wanted_bytes - free_bytes, freed_by)
        else {
            return Err(insufficient(free_bytes));
        };
        for removal in removals {
            if self.monitor.advance(0).is_break() {
                return Err(RunError::Stopped);
            }
            let free_bytes_before = self.free_bytes()?;
            if free_bytes_before >= wanted_bytes {
                break;
            }
            let awaited = AwaitedSpace {
                removed: removal.name.clone(),
                at: self.now,
                free_bytes_before,
                expected_bytes: removal.disk_bytes,
            };
            // Written before the removal, so that after a crash the next run knows that this space may still become free. On a
            // disk that is completely full, it can only be written after the removal.
            notes.awaited = Some(awaited.clone());
            let noted = notes.keep(self.repository);
            if self.repository.remove(&removal.name)? {
                (self.given_up)(&removal);
                if noted.is_err() {
                    notes.keep(self.repository)?;
                }
                self.wait_for(&awaited, wanted_bytes)?;
            }
        }
        match self.free_bytes()? {
            free_bytes if free_bytes < wanted_bytes => Err(insufficient(free_bytes)),
            _ => self.clear_awaited(&mut notes),
        }
    }

    fn free_bytes(&self) -> Result<u64, RunError> {
        Ok(self.repository.space()?.free_bytes)
    }

    fn clear_awaited(&self, notes: &mut Notes) -> Result<(), RunError> {
        if notes.awaited.take().is_some() {
            notes.keep(self.repository)?;
        }
        Ok(())
    }

    fn wait_for(&self, awaited: &AwaitedSpace, wanted_bytes: u64) -> Result<(), RunError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let free_bytes = self.free_bytes()?;
            if free_bytes >= wanted_bytes.min(awaited.enough()) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(awaited.error(free_bytes, wanted_bytes));
            }
            if self.monitor.advance(0).is_break() {
                return Err(RunError::Stopped);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl AwaitedSpace {
    /// The free space at which a removal has freed what was expected.
    fn enough(&self) -> u64 {
        let expected_bytes = self.expected_bytes / 100 * EXPECTED_PERCENT;
        self.free_bytes_before.saturating_add(expected_bytes)
    }

    fn error(&self, free_bytes: u64, wanted_bytes: u64) -> RunError {
        RunError::SpaceAwaited {
            removed: self.removed.clone(),
            expected_bytes: self.expected_bytes,
            free_bytes,
            wanted_bytes,
        }
    }
}
