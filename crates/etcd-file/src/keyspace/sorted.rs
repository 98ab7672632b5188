//! Sorted keys in a scratch file: blocks of one size, each with whole records, so that a key is found by a binary search.

use super::key_state::{KeyState, MAX_KEY_BYTES, damaged, key_of, split_first};
use crate::{Failure, Scratch, ScratchSource};

const BLOCK_BYTES: usize = 2 * MAX_KEY_BYTES;
const USED_BYTES: usize = 4;

/// The newest record of each key, in the order of the keys.
pub struct SortedKeys {
    file: Box<dyn Scratch>,
    blocks: u64,
}

/// Writes sorted records.
pub(super) struct SortedWriter {
    sorted: SortedKeys,
    block: Vec<u8>,
}

impl SortedWriter {
    pub(super) fn new(scratch: &dyn ScratchSource) -> Result<Self, Failure> {
        Ok(SortedWriter {
            sorted: SortedKeys {
                file: scratch.create().map_err(Failure::scratch)?,
                blocks: 0,
            },
            block: vec![0; USED_BYTES],
        })
    }

    /// Adds an encoded record. Its key must be greater than the one before.
    pub(super) fn push(&mut self, record: &[u8]) -> Result<(), Failure> {
        if self.block.len() + record.len() > BLOCK_BYTES {
            self.flush()?;
        }
        self.block.extend_from_slice(record);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let used = (self.block.len() as u32).to_le_bytes();
        if let Some(place) = self.block.first_chunk_mut() {
            *place = used;
        }
        self.block.resize(BLOCK_BYTES, 0);
        let written = self.sorted.file.append(&self.block);
        written.map_err(Failure::scratch)?;
        self.sorted.blocks += 1;
        self.block.truncate(USED_BYTES);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<SortedKeys, Failure> {
        if self.block.len() > USED_BYTES {
            self.flush()?;
        }
        Ok(self.sorted)
    }
}

impl SortedKeys {
    /// A reader at the first key.
    pub(super) fn reader(&self) -> SortedReader<'_> {
        SortedReader {
            sorted: self,
            next_block: 0,
            block: Vec::new(),
            at: 0,
            used: 0,
        }
    }

    /// A reader at the first key that is `key` or greater.
    pub(super) fn reader_from(&self, key: &[u8]) -> Result<SortedReader<'_>, Failure> {
        let mut reader = self.reader();
        // The last block that begins with a key that is not greater.
        let (mut low, mut high) = (0, self.blocks);
        while low < high {
            let middle = low + (high - low) / 2;
            reader.load_start(middle)?;
            match key_of(reader.rest()) <= key {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        reader.at = 0;
        reader.used = 0;
        reader.next_block = low.saturating_sub(1);
        while let Some(record) = reader.peek()? {
            if key_of(record) >= key {
                break;
            }
            reader.next()?;
        }
        Ok(reader)
    }

    /// The record of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<KeyState>, Failure> {
        let mut reader = self.reader_from(key)?;
        match reader.next()? {
            Some(record) if key_of(record) == key => KeyState::decode(record).map(Some),
            _ => Ok(None),
        }
    }
}

/// Reads encoded records in order.
pub(super) struct SortedReader<'k> {
    sorted: &'k SortedKeys,
    next_block: u64,
    block: Vec<u8>,
    at: usize,
    used: usize,
}

impl SortedReader<'_> {
    fn load(&mut self, block: u64) -> Result<(), Failure> {
        self.block.resize(BLOCK_BYTES, 0);
        let offset = block * BLOCK_BYTES as u64;
        let read = self.sorted.file.read_exact_at(&mut self.block, offset);
        read.map_err(Failure::scratch)?;
        let used = self
            .block
            .first_chunk()
            .map(|used| u32::from_le_bytes(*used));
        self.used = used.unwrap_or_default() as usize;
        if self.used > BLOCK_BYTES {
            return Err(damaged());
        }
        self.at = USED_BYTES;
        self.next_block = block + 1;
        Ok(())
    }

    /// Loads the first record of a block, which is enough to compare its key.
    fn load_start(&mut self, block: u64) -> Result<(), Failure> {
        const START_BYTES: usize = 1024;
        self.block.resize(START_BYTES, 0);
        let offset = block * BLOCK_BYTES as u64;
        let read = self.sorted.file.read_exact_at(&mut self.block, offset);
        read.map_err(Failure::scratch)?;
        self.at = USED_BYTES;
        self.used = START_BYTES;
        match split_first(self.rest()) {
            Ok(_) => Ok(()),
            Err(_) => self.load(block),
        }
    }

    fn rest(&self) -> &[u8] {
        self.block.get(self.at..self.used).unwrap_or_default()
    }

    /// The next record, which stays the next one.
    pub(super) fn peek(&mut self) -> Result<Option<&[u8]>, Failure> {
        if self.at >= self.used {
            if self.next_block >= self.sorted.blocks {
                return Ok(None);
            }
            self.load(self.next_block)?;
        }
        let (record, _) = split_first(self.rest())?;
        Ok(Some(record))
    }

    /// The next record.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        let Some(len) = self.peek()?.map(<[u8]>::len) else {
            return Ok(None);
        };
        let start = self.at;
        self.at += len;
        Ok(self.block.get(start..self.at))
    }
}
