//! Sorts records by key with bounded memory: sorted runs in scratch files, merged.

use super::key_state::{KeyState, key_of, split_first};
use super::sorted::{SortedKeys, SortedReader, SortedWriter};
use crate::{Failure, ScratchSource};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Records in memory, in bytes.
const RUN_BYTES: usize = 6 << 20;
/// Runs that are merged at once. Each needs a block in memory.
const MAX_RUNS: usize = 64;

/// Keeps the newest record of each key.
pub(super) struct Sorter<'s> {
    scratch: &'s dyn ScratchSource,
    run_bytes: usize,
    max_runs: usize,
    records: Vec<u8>,
    /// Where each record begins.
    starts: Vec<u32>,
    /// Runs by the number of their merges, older ones first.
    levels: Vec<Vec<SortedKeys>>,
}

impl<'s> Sorter<'s> {
    pub(super) fn new(scratch: &'s dyn ScratchSource) -> Self {
        Self::with_limits(RUN_BYTES, MAX_RUNS, scratch)
    }

    fn with_limits(run_bytes: usize, max_runs: usize, scratch: &'s dyn ScratchSource) -> Self {
        Sorter {
            scratch,
            run_bytes,
            max_runs,
            records: Vec::new(),
            starts: Vec::new(),
            levels: Vec::new(),
        }
    }

    /// Takes a record. It is newer than all before.
    pub(super) fn push(&mut self, state: &KeyState) -> Result<(), Failure> {
        self.starts.push(self.records.len() as u32);
        state.encode(&mut self.records);
        match self.records.len() >= self.run_bytes {
            true => self.end_run(),
            false => Ok(()),
        }
    }

    fn end_run(&mut self) -> Result<(), Failure> {
        let records = &self.records;
        let record = |start: u32| records.get(start as usize..).unwrap_or_default();
        let key = |start: u32| key_of(record(start));
        self.starts
            .sort_unstable_by(|one, other| key(*one).cmp(key(*other)).then(one.cmp(other)));
        let mut run = SortedWriter::new(self.scratch)?;
        let mut starts = self.starts.iter().peekable();
        while let Some(start) = starts.next() {
            let is_newest = starts.peek().is_none_or(|next| key(**next) != key(*start));
            if is_newest {
                let (record, _) = split_first(record(*start))?;
                run.push(record)?;
            }
        }
        self.records.clear();
        self.starts.clear();
        self.add_run(run.finish()?)
    }

    fn add_run(&mut self, mut run: SortedKeys) -> Result<(), Failure> {
        let mut depth = 0;
        loop {
            if depth == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let Some(level) = self.levels.get_mut(depth) else {
                return Ok(());
            };
            level.push(run);
            if level.len() < self.max_runs {
                return Ok(());
            }
            run = merge(&std::mem::take(level), false, self.scratch)?;
            depth += 1;
        }
    }

    /// Ends the records. Keys whose newest record deletes them are left out.
    pub(super) fn finish(mut self) -> Result<SortedKeys, Failure> {
        if !self.starts.is_empty() {
            self.end_run()?;
        }
        self.records = Vec::new();
        // Runs that were merged more often are older. Level by level, so that not more runs than the limit are open at once.
        let mut newer: Vec<SortedKeys> = Vec::new();
        let oldest = self.levels.pop().unwrap_or_default();
        for mut level in std::mem::take(&mut self.levels) {
            level.append(&mut newer);
            newer = vec![merge(&level, false, self.scratch)?];
        }
        let all: Vec<_> = oldest.into_iter().chain(newer).collect();
        merge(&all, true, self.scratch)
    }
}

/// The next record of a run.
struct Head {
    record: Vec<u8>,
    run: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        key_of(&self.record)
            .cmp(key_of(&other.record))
            .then(self.run.cmp(&other.run))
    }
}

/// Merges runs, older ones first, to one.
fn merge(
    runs: &[SortedKeys],
    without_deleted: bool,
    scratch: &dyn ScratchSource,
) -> Result<SortedKeys, Failure> {
    let mut readers: Vec<SortedReader<'_>> = runs.iter().map(SortedKeys::reader).collect();
    let mut heads = BinaryHeap::new();
    for (run, reader) in readers.iter_mut().enumerate() {
        if let Some(record) = reader.next()? {
            let record = record.to_vec();
            heads.push(Reverse(Head { record, run }));
        }
    }
    let mut merged = SortedWriter::new(scratch)?;
    while let Some(Reverse(mut head)) = heads.pop() {
        let is_newest = heads
            .peek()
            .is_none_or(|Reverse(next)| key_of(&next.record) != key_of(&head.record));
        if is_newest && !(without_deleted && KeyState::decode(&head.record)?.is_deleted) {
            merged.push(&head.record)?;
        }
        let reader = readers.get_mut(head.run);
        if let Some(record) = reader.map(SortedReader::next).transpose()?.flatten() {
            head.record.clear();
            head.record.extend_from_slice(record);
            heads.push(Reverse(head));
        }
    }
    merged.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;
    use crate::mvcc::{KeyHash, Revision};
    use std::collections::BTreeMap;

    #[test]
    fn the_newest_record_of_each_key_comes_in_order_however_often_runs_are_merged() {
        let scratch = || -> std::io::Result<Box<dyn Scratch>> { Ok(Box::new(Vec::<u8>::new())) };
        for records in [0, 1, 40, 700, 3000u64] {
            let mut sorter = Sorter::with_limits(800, 3, &scratch);
            let mut wanted = BTreeMap::new();
            for number in 0..records {
                let key = format!("key-{}", number * 7919 % 257).into_bytes();
                let is_deleted = number % 5 == 0;
                let state = KeyState {
                    key: key.clone(),
                    mod_revision: Revision {
                        main: number.cast_signed(),
                        sub: 0,
                    },
                    create_revision: 1,
                    version: 1,
                    lease: 0,
                    value_bytes: 0,
                    fingerprint: KeyHash { high: 0, low: 0 },
                    kind: 0,
                    is_deleted,
                };
                sorter.push(&state).unwrap();
                wanted.insert(key, (!is_deleted).then_some(state));
            }
            let sorted = sorter.finish().unwrap();
            let mut reader = sorted.reader();
            let mut found = Vec::new();
            while let Some(record) = reader.next().unwrap() {
                found.push(KeyState::decode(record).unwrap());
            }
            for (key, state) in &wanted {
                assert_eq!(sorted.get(key).unwrap(), *state);
            }
            let wanted: Vec<_> = wanted.into_values().flatten().collect();
            assert_eq!(found, wanted, "{records}");
        }
    }
}
