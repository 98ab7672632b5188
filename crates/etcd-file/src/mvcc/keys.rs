//! State for each user key in bounded memory.
//!
//! Some checks need the previous record of the same key: which keys are live, and whether versions increase by one. A
//! database can have more keys than fit in memory. So a table contains the keys that came first, and the records of all
//! other keys wait, in order, in partitions of a scratch file. Keys are distinguished by a 128-bit SipHash with a random
//! secret for each run, so no file can be made with colliding keys.

use crate::{Failure, Scratch, ScratchSource};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

/// Number of keys that are kept in memory. Their table takes 7.1 MiB and is allocated at the start, because growing it
/// would take three times as much.
const RESIDENT_KEYS: usize = 100_000;
const PARTITIONS: usize = 64;
const PARTITION_BITS: u32 = PARTITIONS.trailing_zeros();
/// Records of a partition that wait in memory before they are written together.
const BUFFERED_RECORDS: usize = 170;
const RECORD_BYTES: usize = 56;
/// Levels of partitions. With 64 partitions per level, this is enough for more keys than any file can contain.
const MAX_DEPTH: u32 = 8;

/// The hash of a user key. It is used instead of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyHash {
    pub(crate) high: u64,
    pub(crate) low: u64,
}

impl std::hash::Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.low);
    }
}

/// The data of one record that is kept for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyRecord {
    /// The position of the record: a revision or a count.
    pub(crate) position: u64,
    pub(crate) tombstone: bool,
    pub(crate) create_revision: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

/// Receives the records of each key in their order.
pub(crate) trait KeyObserver {
    /// A record, and the previous record of the same key.
    fn record(&mut self, before: Option<&KeyRecord>, record: &KeyRecord);
    /// The last record of a key.
    fn newest(&mut self, record: &KeyRecord) -> Result<(), Failure>;
}

/// Hashes user keys.
#[derive(Clone)]
pub(crate) struct KeyHasher(SipHasher13);

impl KeyHasher {
    /// A hasher with a random secret.
    pub(crate) fn new() -> Self {
        let random = RandomState::new();
        KeyHasher(SipHasher13::new_with_keys(
            random.hash_one(0u8),
            random.hash_one(1u8),
        ))
    }

    /// The hash of a key that comes in pieces.
    pub(crate) fn hash(
        &self,
        pieces: impl FnOnce(&mut dyn FnMut(&[u8])) -> Result<(), Failure>,
    ) -> Result<KeyHash, Failure> {
        let mut hasher = self.0;
        pieces(&mut |piece| hasher.write(piece))?;
        let hash = hasher.finish128();
        Ok(KeyHash {
            high: hash.h1,
            low: hash.h2,
        })
    }
}

/// The records of all keys, in memory or in a scratch file. See the module documentation.
pub(crate) struct Keys<'s> {
    scratch: &'s dyn ScratchSource,
    resident: HashMap<KeyHash, KeyRecord, BuildHasherDefault<Spread>>,
    resident_keys: usize,
    spilled: Option<Spilled>,
    depth: u32,
}

impl<'s> Keys<'s> {
    pub(crate) fn new(scratch: &'s dyn ScratchSource) -> Self {
        Keys::with_room_for(RESIDENT_KEYS, scratch)
    }

    fn with_room_for(resident_keys: usize, scratch: &'s dyn ScratchSource) -> Self {
        Keys {
            scratch,
            resident: HashMap::with_capacity_and_hasher(resident_keys, BuildHasherDefault::new()),
            resident_keys,
            spilled: None,
            depth: 0,
        }
    }

    /// Takes the next record.
    pub(crate) fn push(
        &mut self,
        key: KeyHash,
        record: KeyRecord,
        observer: &mut dyn KeyObserver,
    ) -> Result<(), Failure> {
        let full = self.resident.len() >= self.resident_keys;
        match self.resident.entry(key) {
            Entry::Occupied(mut known) => {
                observer.record(Some(known.get()), &record);
                known.insert(record);
                Ok(())
            }
            Entry::Vacant(unknown) if !full => {
                observer.record(None, &record);
                unknown.insert(record);
                Ok(())
            }
            Entry::Vacant(_) => {
                let spilled = match &mut self.spilled {
                    Some(spilled) => spilled,
                    None => self.spilled.insert(Spilled::new(self.scratch, self.depth)?),
                };
                spilled.push(key, &record)
            }
        }
    }

    /// Ends the stream of records: passes all waiting records, and the newest record of each key, to the observer.
    pub(crate) fn finish(mut self, observer: &mut dyn KeyObserver) -> Result<(), Failure> {
        // Partitions to read, the next one last. Reading a partition can create smaller ones.
        let mut waiting = Vec::new();
        loop {
            for (_, record) in self.resident.drain() {
                observer.newest(&record)?;
            }
            if let Some(spilled) = self.spilled.take() {
                let depth = self.depth + 1;
                if depth > MAX_DEPTH {
                    return Err(Failure::scratch(std::io::Error::other(
                        "more keys than any file can hold",
                    )));
                }
                waiting.extend(spilled.into_partitions()?.map(|part| (depth, part)));
            }
            let Some((depth, partition)) = waiting.pop() else {
                return Ok(());
            };
            self.depth = depth;
            partition.for_each(&mut |key, record| self.push(key, record, observer))?;
        }
    }
}

/// Records that wait, by partition.
struct Spilled {
    file: Box<dyn Scratch>,
    file_bytes: u64,
    depth: u32,
    partitions: Vec<Waiting>,
}

#[derive(Default)]
struct Waiting {
    buffer: Vec<u8>,
    /// Offsets of the written buffers in the scratch file.
    written: Vec<u64>,
}

/// One partition, ready to be read back.
struct Partition {
    file: std::rc::Rc<dyn Scratch>,
    waiting: Waiting,
}

const BUFFER_BYTES: usize = BUFFERED_RECORDS * RECORD_BYTES;

impl Spilled {
    fn new(scratch: &dyn ScratchSource, depth: u32) -> Result<Self, Failure> {
        Ok(Spilled {
            file: scratch.create().map_err(Failure::scratch)?,
            file_bytes: 0,
            depth,
            partitions: std::iter::repeat_with(Waiting::default)
                .take(PARTITIONS)
                .collect(),
        })
    }

    fn push(&mut self, key: KeyHash, record: &KeyRecord) -> Result<(), Failure> {
        // The table uses the low half of the hash. Partitions use the high half, with other bits at each depth.
        let index = (key.high >> (PARTITION_BITS * self.depth)) as usize % PARTITIONS;
        let Some(waiting) = self.partitions.get_mut(index) else {
            return Ok(());
        };
        waiting.buffer.extend_from_slice(&record.to_bytes(key));
        if waiting.buffer.len() == BUFFER_BYTES {
            self.file
                .append(&waiting.buffer)
                .map_err(Failure::scratch)?;
            waiting.written.push(self.file_bytes);
            self.file_bytes += BUFFER_BYTES as u64;
            waiting.buffer.clear();
        }
        Ok(())
    }

    fn into_partitions(self) -> Result<impl Iterator<Item = Partition>, Failure> {
        let file: std::rc::Rc<dyn Scratch> = self.file.into();
        Ok(self.partitions.into_iter().map(move |waiting| Partition {
            file: file.clone(),
            waiting,
        }))
    }
}

impl Partition {
    fn for_each(
        self,
        each: &mut dyn FnMut(KeyHash, KeyRecord) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut buffer = vec![0; BUFFER_BYTES];
        for offset in &self.waiting.written {
            self.file
                .read_exact_at(&mut buffer, *offset)
                .map_err(Failure::scratch)?;
            for record in buffer.as_chunks().0 {
                let (key, record) = KeyRecord::from_bytes(record);
                each(key, record)?;
            }
        }
        for record in self.waiting.buffer.as_chunks().0 {
            let (key, record) = KeyRecord::from_bytes(record);
            each(key, record)?;
        }
        Ok(())
    }
}

impl KeyRecord {
    fn to_bytes(self, key: KeyHash) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let fields = [
            (key.low, 0),
            (key.high, 8),
            (self.position, 16),
            (u64::from(self.tombstone), 24),
            (self.create_revision.cast_unsigned(), 32),
            (self.version.cast_unsigned(), 40),
            (self.lease.cast_unsigned(), 48),
        ];
        for (field, at) in fields {
            if let Some(place) = bytes.get_mut(at..at + 8) {
                place.copy_from_slice(&field.to_le_bytes());
            }
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> (KeyHash, Self) {
        let (fields, _) = bytes.as_chunks::<8>();
        let field = |index: usize| {
            fields
                .get(index)
                .map_or(0, |field| u64::from_le_bytes(*field))
        };
        let key = KeyHash {
            low: field(0),
            high: field(1),
        };
        let record = KeyRecord {
            position: field(2),
            tombstone: field(3) != 0,
            create_revision: field(4).cast_signed(),
            version: field(5).cast_signed(),
            lease: field(6).cast_signed(),
        };
        (key, record)
    }
}

/// The hasher of the table. The keys are already hashes, so it does not change them.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never called: `KeyHash` only uses `write_u64`.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Observed {
        history: BTreeMap<i64, Vec<u64>>,
        newest: BTreeMap<i64, u64>,
    }

    impl KeyObserver for Observed {
        fn record(&mut self, before: Option<&KeyRecord>, record: &KeyRecord) {
            let history = self.history.entry(record.lease).or_default();
            assert_eq!(before.map(|b| b.position), history.last().copied());
            history.push(record.position);
        }

        fn newest(&mut self, record: &KeyRecord) -> Result<(), Failure> {
            assert!(self.newest.insert(record.lease, record.position).is_none());
            Ok(())
        }
    }

    fn scratch() -> std::io::Result<Box<dyn Scratch>> {
        Ok(Box::new(Vec::<u8>::new()))
    }

    #[test]
    fn more_keys_than_fit_in_memory_keep_their_history_in_order() {
        let hasher = KeyHasher::new();
        let mut keys = Keys::with_room_for(10, &scratch);
        let mut observed = Observed::default();
        let mut wanted: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
        // 20,000 keys in a table for 10 need four levels of partitions.
        for position in 0..60_000u64 {
            let number = (position * 7919 % 20_000).cast_signed();
            let name = number.to_string();
            let key = hasher
                .hash(|each| {
                    each(name.as_bytes());
                    Ok(())
                })
                .unwrap();
            wanted.entry(number).or_default().push(position);
            let record = KeyRecord {
                position,
                tombstone: position % 3 == 0,
                create_revision: -1,
                version: i64::MAX,
                lease: number,
            };
            keys.push(key, record, &mut observed).unwrap();
        }
        keys.finish(&mut observed).unwrap();
        assert_eq!(observed.history, wanted);
        assert_eq!(observed.newest.len(), 20_000);
        for (key, newest) in observed.newest {
            assert_eq!(wanted[&key].last(), Some(&newest));
        }
    }

    #[test]
    fn a_record_survives_the_way_through_the_file() {
        let key = KeyHash {
            high: 0x0123_4567_89ab_cdef,
            low: 0x0011_2233_4455_6677,
        };
        let record = KeyRecord {
            position: 42,
            tombstone: true,
            create_revision: -3,
            version: 9,
            lease: i64::MIN,
        };
        assert_eq!(KeyRecord::from_bytes(&record.to_bytes(key)), (key, record));
    }
}
