//! Keys that change: those of a database, and what was changed since.

use super::super::error::KeyspaceError;
use super::super::key_state::{KeyState, MAX_KEY_BYTES, key_of};
use super::super::object::{PREFIX_BYTES, kind_of};
use super::super::sorted::SortedKeys;
use super::super::sources::Fingerprints;
use super::halt::Halt;
use super::request::{Put, Range};
use crate::bolt::{Bolt, Value};
use crate::mvcc::buckets::{KEY_BUCKET, LEASE_BUCKET};
use crate::mvcc::{RecordKey, Revision, user_record};
use crate::{Failure, Scratch, ScratchSource};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Memory for keys that the log changes, in bytes. A transaction needs as much again while it is made.
const MAX_CHANGED_BYTES: usize = 8 << 20;
/// What a changed key needs beside its own bytes.
const OVERHEAD_BYTES: usize = 320;
const END_OF_KEYS: &[u8] = b"\0";

/// Where the bytes of a value are.
#[derive(Debug, Clone, Copy)]
pub(super) enum ValuePlace {
    /// In the record of this revision.
    Record(Revision),
    /// In the scratch file.
    Scratch(u64),
}

/// The newest record of a key that the log changed.
#[derive(Debug)]
pub(in crate::keyspace) struct Changed {
    /// Without the key, which is that of the map.
    state: KeyState,
    value: ValuePlace,
}

impl Changed {
    /// The record, with its key.
    pub(in crate::keyspace) fn state(&self, key: &[u8]) -> KeyState {
        KeyState {
            key: key.into(),
            ..self.state.clone()
        }
    }
}

/// The keys while the log is applied.
pub(super) struct Store<'s, 'f> {
    bolt: &'s Bolt<'f>,
    base: &'s SortedKeys,
    fingerprints: &'s mut Fingerprints,
    changed: BTreeMap<Vec<u8>, Option<Changed>>,
    changed_bytes: usize,
    values: Box<dyn Scratch>,
    values_bytes: u64,
    /// Keys of the database that are attached to leases which the log revokes.
    keys_of_leases: BTreeMap<i64, Vec<Vec<u8>>>,
    revision: i64,
    /// Number of changes in the transaction.
    changes: i64,
}

impl<'s, 'f> Store<'s, 'f> {
    pub(super) fn new(
        bolt: &'s Bolt<'f>,
        base: &'s SortedKeys,
        revision: i64,
        fingerprints: &'s mut Fingerprints,
        scratch: &dyn ScratchSource,
    ) -> Result<Self, Failure> {
        Ok(Store {
            bolt,
            base,
            fingerprints,
            changed: BTreeMap::new(),
            changed_bytes: 0,
            values: scratch.create().map_err(Failure::scratch)?,
            values_bytes: 0,
            keys_of_leases: BTreeMap::new(),
            revision,
            changes: 0,
        })
    }

    /// Remembers the keys that are attached to leases.
    pub(super) fn find_keys_of_leases(
        &mut self,
        leases: &BTreeSet<i64>,
    ) -> Result<(), KeyspaceError> {
        if leases.is_empty() {
            return Ok(());
        }
        let mut bytes = 0;
        let mut reader = self.base.reader();
        while let Some(record) = reader.next()? {
            let state = KeyState::decode(record)?;
            if !leases.contains(&state.lease) {
                continue;
            }
            bytes += state.key.len() + OVERHEAD_BYTES;
            if bytes > MAX_CHANGED_BYTES {
                return Err(KeyspaceError::TooMuch {
                    what: "bytes of the keys of leases",
                    limit: MAX_CHANGED_BYTES,
                });
            }
            let keys = self.keys_of_leases.entry(state.lease).or_default();
            keys.push(state.key);
        }
        Ok(())
    }

    /// Whether the database has a lease.
    pub(super) fn has_stored_lease(&self, id: i64) -> Result<bool, KeyspaceError> {
        let Some(mut leases) = self.bolt.cursor(LEASE_BUCKET)? else {
            return Ok(false);
        };
        let key = id.to_be_bytes();
        leases.seek(&key)?;
        Ok(leases.next()?.is_some_and(|item| item.key == key))
    }

    /// The newest record of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<(KeyState, ValuePlace)>, Failure> {
        if let Some(changed) = self.changed.get(key) {
            return Ok(changed
                .as_ref()
                .map(|changed| (changed.state(key), changed.value)));
        }
        let state = self.base.get(key)?;
        Ok(state.map(|state| {
            let place = ValuePlace::Record(state.mod_revision);
            (state, place)
        }))
    }

    /// Calls `each` with the keys in a range, in order, as long as it returns that it wants more.
    pub(super) fn each_in(
        &self,
        range: Range<'_>,
        each: &mut dyn FnMut(KeyState, ValuePlace) -> Result<bool, Halt>,
    ) -> Result<(), Halt> {
        if range.end.is_empty() {
            if let Some((state, place)) = self.get(range.key)? {
                each(state, place)?;
            }
            return Ok(());
        }
        let is_inside = |key: &[u8]| range.end == END_OF_KEYS || key < range.end;
        let mut base = self.base.reader_from(range.key)?;
        let from = (Bound::Included(range.key), Bound::Unbounded);
        let mut changed = self.changed.range::<[u8], _>(from).peekable();
        loop {
            let stored = base.peek()?.map(key_of);
            let order = match (stored, changed.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(stored), Some((key, _))) => stored.cmp(key.as_slice()),
            };
            let next = match order {
                Ordering::Less => {
                    let state = base.next()?.map(KeyState::decode).transpose()?;
                    state.map(|state| {
                        let place = ValuePlace::Record(state.mod_revision);
                        (state, place)
                    })
                }
                Ordering::Equal | Ordering::Greater => {
                    if order.is_eq() {
                        base.next()?;
                    }
                    match changed.next() {
                        Some((key, Some(changed))) => Some((changed.state(key), changed.value)),
                        Some((key, None)) if is_inside(key) => continue,
                        _ => return Ok(()),
                    }
                }
            };
            match next {
                Some((state, place)) if is_inside(&state.key) => {
                    if !each(state, place)? {
                        return Ok(());
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// Compares a value with bytes.
    pub(super) fn compare_value(&self, place: ValuePlace, other: &[u8]) -> Result<Ordering, Halt> {
        match place {
            ValuePlace::Scratch(at) => {
                let mut len = [0; 8];
                let read = |buf: &mut [u8], at| {
                    let read = self.values.read_exact_at(buf, at);
                    read.map_err(Failure::scratch)
                };
                read(&mut len, at)?;
                let mut value = vec![0; u64::from_le_bytes(len) as usize];
                read(&mut value, at + 8)?;
                Ok(value.as_slice().cmp(other))
            }
            ValuePlace::Record(revision) => {
                let gone = || Halt::Stop(format!("the record of revision {revision} is missing"));
                let mut records = self.bolt.cursor(KEY_BUCKET)?.ok_or_else(gone)?;
                records.seek(&revision.to_key())?;
                let mut item = records.next()?.ok_or_else(gone)?;
                let key = RecordKey::parse(item.key).map_err(|_| gone())?;
                if key.revision != revision {
                    return Err(gone());
                }
                let record = user_record(&key, &mut item.value)?;
                let mut rest = other;
                let mut order = Ordering::Equal;
                let (at, end) = (record.value.start, record.value.end);
                item.value.pieces(at, end, |piece| {
                    if order.is_eq() {
                        let (first, after) =
                            rest.split_at_checked(piece.len()).unwrap_or((rest, &[]));
                        order = piece.cmp(first);
                        rest = after;
                    }
                })?;
                Ok(order.then_with(|| 0.cmp(&rest.len())))
            }
        }
    }

    /// Ends a transaction: its changes have one revision.
    pub(super) fn end_transaction(&mut self) {
        if self.changes > 0 {
            self.revision = self.revision.saturating_add(1);
        }
        self.changes = 0;
    }

    /// Makes sure that these keys can be changed.
    pub(super) fn reserve<'k>(
        &mut self,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<(), Halt> {
        let new = keys
            .into_iter()
            .filter(|key| !self.changed.contains_key(*key));
        let bytes = self.changed_bytes + new.map(needed_bytes).sum::<usize>();
        if bytes > MAX_CHANGED_BYTES {
            return Err(too_many());
        }
        self.changed_bytes = bytes;
        Ok(())
    }

    /// Writes a key that [`Store::reserve`] has space for.
    pub(super) fn put(&mut self, put: &Put<'_>) -> Result<(), Halt> {
        let main = self.revision.saturating_add(1);
        let mod_revision = Revision {
            main,
            sub: self.changes,
        };
        if put.key.len() > MAX_KEY_BYTES {
            return Err(Halt::Failed(KeyspaceError::LongKey {
                revision: mod_revision,
                found_bytes: put.key.len() as u64,
            }));
        }
        let before = self.get(put.key)?;
        let (create_revision, version) = match &before {
            Some((state, _)) => (state.create_revision, state.version.saturating_add(1)),
            None => (main, 1),
        };
        let lease = match &before {
            Some((state, _)) if put.keeps_lease => state.lease,
            _ => put.lease,
        };
        let (value_bytes, fingerprint, kind, value) = match &before {
            Some((state, place)) if put.keeps_value => {
                (state.value_bytes, state.fingerprint, state.kind, *place)
            }
            _ => {
                let mut value = Value::whole(put.value);
                let end = value.len();
                let fingerprint = self.fingerprints.of(&mut value, 0, end)?;
                let prefix = value.piece(0, PREFIX_BYTES)?;
                let kind = self.fingerprints.number(kind_of(prefix));
                (end, fingerprint, kind, self.keep(put.value)?)
            }
        };
        let state = KeyState {
            key: Vec::new(),
            mod_revision,
            create_revision,
            version,
            lease,
            value_bytes,
            fingerprint,
            kind,
            is_deleted: false,
        };
        self.changes += 1;
        self.changed
            .insert(put.key.into(), Some(Changed { state, value }));
        Ok(())
    }

    fn keep(&mut self, value: &[u8]) -> Result<ValuePlace, Failure> {
        let at = self.values_bytes;
        let len = (value.len() as u64).to_le_bytes();
        for bytes in [&len, value] {
            self.values.append(bytes).map_err(Failure::scratch)?;
            self.values_bytes += bytes.len() as u64;
        }
        Ok(ValuePlace::Scratch(at))
    }

    /// Deletes keys that exist, and that [`Store::reserve`] has space for.
    pub(super) fn delete(&mut self, keys: impl IntoIterator<Item = Vec<u8>>) {
        for key in keys {
            self.changes += 1;
            self.changed.insert(key, None);
        }
    }

    /// Adds the keys in a range, which can be deleted.
    pub(super) fn add_keys_in(
        &self,
        range: Range<'_>,
        keys: &mut BTreeSet<Vec<u8>>,
    ) -> Result<(), Halt> {
        let mut bytes: usize = keys.iter().map(|key| needed_bytes(key)).sum();
        self.each_in(range, &mut |state, _| {
            let key_bytes = needed_bytes(&state.key);
            if keys.insert(state.key) {
                bytes += key_bytes;
            }
            match bytes > MAX_CHANGED_BYTES {
                true => Err(too_many()),
                false => Ok(true),
            }
        })
    }

    /// The keys that are attached to a lease.
    pub(super) fn keys_of_lease(&self, lease: i64) -> Vec<Vec<u8>> {
        let stored = self.keys_of_leases.get(&lease).into_iter().flatten();
        let stored = stored.filter(|key| !self.changed.contains_key(*key));
        let changed = self.changed.iter().filter(|(_, changed)| {
            let changed = changed.as_ref();
            changed.is_some_and(|changed| changed.state.lease == lease)
        });
        stored.chain(changed.map(|(key, _)| key)).cloned().collect()
    }

    /// The keys that changed, and the revision.
    pub(super) fn finish(self) -> (BTreeMap<Vec<u8>, Option<Changed>>, i64) {
        (self.changed, self.revision)
    }
}

/// Memory that a changed key needs.
fn needed_bytes(key: &[u8]) -> usize {
    key.len() + OVERHEAD_BYTES
}

fn too_many() -> Halt {
    Halt::Stop("the log changes more keys than fit in memory".into())
}
