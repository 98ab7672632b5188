//! Which entries of a log are not in a database yet.

use super::super::error::KeyspaceError;
use super::request::{Request, request};
use crate::raft::{Segment, WalEntry, WalRecord, read_wal};
use std::collections::BTreeSet;
use std::iter::Peekable;

/// A member applies at most some 10,000 entries before it writes its database, and takes at most some 5,000 more.
const MAX_ENTRIES: usize = 200_000;

/// The entries after the last one that a database reflects. A leader may have replaced entries: then the later one counts.
pub(super) struct Tail {
    reflected: u64,
    /// For each entry, its number among all entries of the log.
    numbers: Vec<u64>,
    revoked_leases: BTreeSet<i64>,
    commit: u64,
    /// The last entry of the log.
    last: u64,
}

impl Tail {
    pub(super) fn find(log: &[Segment<'_>], reflected: u64) -> Result<Self, KeyspaceError> {
        let mut tail = Tail {
            reflected,
            numbers: Vec::new(),
            revoked_leases: BTreeSet::new(),
            commit: 0,
            last: 0,
        };
        let mut failure = None;
        let mut number = 0;
        read_wal(log, &mut |record| {
            match record {
                WalRecord::Entry(entry) => {
                    number += 1;
                    tail.last = entry.index;
                    if failure.is_none() {
                        failure = tail.take(number, &entry).err();
                    }
                }
                WalRecord::State { commit, .. } => tail.commit = commit,
                WalRecord::Snapshot { index, .. } => tail.last = tail.last.max(index),
                WalRecord::Metadata { .. } => {}
            }
            Ok(())
        })?;
        match failure {
            Some(failure) => Err(failure),
            None if tail.last < reflected => Err(KeyspaceError::OtherLog {
                last: tail.last,
                reflected,
            }),
            None => Ok(tail),
        }
    }

    fn take(&mut self, number: u64, entry: &WalEntry<'_>) -> Result<(), KeyspaceError> {
        let Some(position) = entry.index.checked_sub(self.reflected + 1) else {
            // It replaces an entry that the database reflects, and so all later ones.
            self.numbers.clear();
            return Ok(());
        };
        if position > self.numbers.len() as u64 {
            return Err(KeyspaceError::Gap {
                first: entry.index,
                reflected: self.reflected + self.numbers.len() as u64,
            });
        }
        self.numbers.truncate(position as usize);
        if self.numbers.len() >= MAX_ENTRIES {
            return Err(KeyspaceError::TooMuch {
                what: "entries",
                limit: MAX_ENTRIES,
            });
        }
        self.numbers.push(number);
        if entry.is_request()
            && let Ok(Request::RevokeLease(id)) = request(entry.data)
        {
            self.revoked_leases.insert(id);
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    pub(super) fn len(&self) -> u64 {
        self.numbers.len() as u64
    }

    /// The last entry of which a quorum was known.
    pub(super) fn commit(&self) -> u64 {
        self.commit
    }

    pub(super) fn revoked_leases(&self) -> &BTreeSet<i64> {
        &self.revoked_leases
    }

    /// Finds the entries again in a second reading.
    pub(super) fn reader(&self) -> TailReader<'_> {
        TailReader {
            numbers: self.numbers.iter().peekable(),
            number: 0,
        }
    }
}

pub(super) struct TailReader<'t> {
    numbers: Peekable<std::slice::Iter<'t, u64>>,
    number: u64,
}

impl TailReader<'_> {
    /// Whether the next entry of the log is the next one that counts.
    pub(super) fn is_next(&mut self) -> bool {
        self.number += 1;
        let number = self.number;
        self.numbers.next_if(|next| **next == number).is_some()
    }
}
