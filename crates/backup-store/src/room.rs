//! Room for a run: old backups are given up for it, no more than it takes and none in vain.
//!
//! Filesystems free space late: btrfs with a transaction, XFS in the background, all of them when the last process has closed a
//! file. So after each removal the space is waited for, and if it does not come nothing else is removed.

use crate::notes::{AwaitedSpace, Notes};
use crate::progress::SharedMonitor;
use crate::repository::{Lock, Repository};
use crate::run_error::RunError;
use backup_plan::retention::{Removal, removals_for_space};
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// btrfs commits every 30 s, and frees what was removed with the commit after the next at the latest.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Space that has not come for so long is not waited for any more: whoever held it may have written something else since.
const AWAITED_HOURS: i64 = 1;
/// Metadata may take some of what comes.
const EXPECTED_PERCENT: u64 = 90;

/// What a run of a database of this size needs, the block hashes and the archive included.
pub(crate) fn needed_bytes(db_bytes: u64) -> u64 {
    db_bytes
        .saturating_add(db_bytes / 100)
        .saturating_add(1 << 20)
}

pub(crate) struct Room<'r> {
    pub(crate) repository: &'r Repository,
    pub(crate) lock: &'r Lock,
    pub(crate) monitor: &'r SharedMonitor,
    /// Hears of each backup that is given up.
    pub(crate) given_up: &'r dyn Fn(&Removal),
    pub(crate) now: Timestamp,
}

impl Room<'_> {
    /// Gives up old backups until there is room for so many bytes beside the reserve.
    pub(crate) fn make(&self, needed_bytes: u64, reserve_bytes: u64) -> Result<(), RunError> {
        let wanted_bytes = needed_bytes.saturating_add(reserve_bytes);
        let mut notes = Notes::of(self.repository);
        let free_bytes = self.free_bytes()?;
        if free_bytes >= wanted_bytes {
            return self.nothing_awaited(&mut notes);
        }
        if let Some(awaited) = &notes.awaited
            && self.now.duration_since(awaited.at).as_hours().abs() < AWAITED_HOURS
            && free_bytes < awaited.enough()
        {
            return Err(awaited.error(free_bytes, wanted_bytes));
        }
        let candidates: Vec<_> = self
            .repository
            .entries()?
            .iter()
            .filter_map(|entry| entry.candidate())
            .collect();
        let short = |free_bytes| RunError::InsufficientSpace {
            free_bytes,
            needed_bytes,
            reserve_bytes,
        };
        let Some(removals) = removals_for_space(&candidates, wanted_bytes - free_bytes) else {
            return Err(short(free_bytes));
        };
        for removal in removals {
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
            // Before it goes: whoever comes after a crash is to know that its space may come. On a disk that is full to the
            // last byte there is no room for that before.
            notes.awaited = Some(awaited.clone());
            let noted = notes.keep(self.repository, self.lock);
            if self.repository.remove(self.lock, &removal.name)? {
                (self.given_up)(&removal);
                if noted.is_err() {
                    notes.keep(self.repository, self.lock)?;
                }
                self.wait_for(&awaited, wanted_bytes)?;
            }
        }
        match self.free_bytes()? {
            free_bytes if free_bytes < wanted_bytes => Err(short(free_bytes)),
            _ => self.nothing_awaited(&mut notes),
        }
    }

    fn free_bytes(&self) -> Result<u64, RunError> {
        Ok(self.repository.space()?.free_bytes)
    }

    fn nothing_awaited(&self, notes: &mut Notes) -> Result<(), RunError> {
        if notes.awaited.take().is_some() {
            notes.keep(self.repository, self.lock)?;
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
    /// With so many bytes free, what was removed has brought what it should.
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
