//! What a request does.

use super::super::error::KeyspaceError;
use super::super::key_state::KeyState;
use super::halt::Halt;
use super::request::{Compare, Operation, Put, Range, Request, Transaction, request};
use super::store::{Changed, Store, ValuePlace};
use crate::bolt::Rewrite;
use crate::mvcc::start::{MAX_TTL_S, alarm};
use crate::raft::WalEntry;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

const AUTH: &[u8] = b"auth";
const AUTH_ENABLED: &[u8] = b"authEnabled";
const ALARM: &[u8] = b"alarm";
const NO_SPACE: u64 = 1;
const CORRUPT: u64 = 2;

/// Applies the entries of a log, one after another.
pub(super) struct Applier<'s, 'f> {
    store: Store<'s, 'f>,
    /// Leases that the log granted (true) or revoked.
    leases: BTreeMap<i64, bool>,
    /// Alarms: the type and the member.
    alarms: BTreeSet<(u64, u64)>,
    /// Up to 3.5, the last alarm that was raised or cleared decides what is refused. Later, all that are there do.
    alarms_differ: bool,
    /// Whether users and passwords are in use.
    has_auth: bool,
}

impl<'s, 'f> Applier<'s, 'f> {
    pub(super) fn new(
        store: Store<'s, 'f>,
        database: &Rewrite<'_, '_>,
    ) -> Result<Self, KeyspaceError> {
        let mut alarms = BTreeSet::new();
        for key in database.read(ALARM)?.keys() {
            if let Ok((member, alarm)) = alarm(key) {
                alarms.insert((alarm, member));
            }
        }
        Ok(Applier {
            store,
            leases: BTreeMap::new(),
            alarms,
            alarms_differ: false,
            has_auth: database
                .read(AUTH)?
                .get(AUTH_ENABLED)
                .is_some_and(|enabled| enabled.as_slice() == [1]),
        })
    }

    /// Applies an entry.
    pub(super) fn apply(&mut self, entry: &WalEntry<'_>) -> Result<(), Halt> {
        if !entry.is_request() || entry.data.is_empty() {
            return Ok(());
        }
        self.apply_request(entry.data).map_err(|halt| match halt {
            Halt::Stop(reason) => Halt::Stop(format!("entry {}: {reason}", entry.index)),
            failed @ Halt::Failed(_) => failed,
        })
    }

    fn apply_request(&mut self, data: &[u8]) -> Result<(), Halt> {
        let request = request(data).map_err(|problem| {
            Halt::Stop(format!(
                "a request that this program does not know: {problem}"
            ))
        })?;
        if self.has_auth && request.depends_on_user() {
            return Err(Halt::Stop(
                "authentication is on, and whether its user has the right is not known".into(),
            ));
        }
        if self.alarms_differ && request.depends_on_user() {
            return Err(Halt::Stop(
                "an alarm beside others that were raised or cleared: versions of etcd differ in what they do then".into(),
            ));
        }
        if self.has_alarm(CORRUPT) && request.depends_on_user() {
            return Ok(());
        }
        match request {
            Request::Put(put) => self.put(&put)?,
            Request::Delete(range) => self.delete(range)?,
            Request::Transaction(transaction) => self.transaction(&transaction)?,
            Request::GrantLease { id, ttl_s } => {
                let is_possible = id != 0 && ttl_s <= MAX_TTL_S && !self.has_alarm(NO_SPACE);
                if is_possible && !self.has_lease(id)? {
                    self.leases.insert(id, true);
                }
            }
            Request::RevokeLease(id) => {
                if self.has_lease(id)? {
                    let keys = self.store.keys_of_lease(id);
                    self.store.reserve(keys.iter().map(Vec::as_slice))?;
                    self.store.delete(keys);
                    self.leases.insert(id, false);
                }
            }
            Request::RaiseAlarm { alarm: 0, .. } | Request::Other => {}
            Request::RaiseAlarm { member, alarm } => {
                self.alarms.insert((alarm, member));
                self.alarms_differ = self.has_alarm(NO_SPACE) && self.has_alarm(CORRUPT);
            }
            Request::ClearAlarm { member, alarm } => {
                self.alarms.remove(&(alarm, member));
                self.alarms_differ = !self.alarms.is_empty();
            }
            Request::EnableAuth => {
                return Err(Halt::Stop("it enables authentication".into()));
            }
        }
        self.store.end_transaction();
        Ok(())
    }

    pub(super) fn finish(self) -> (BTreeMap<Vec<u8>, Option<Changed>>, i64) {
        self.store.finish()
    }

    fn has_alarm(&self, wanted: u64) -> bool {
        self.alarms.iter().any(|(alarm, _)| *alarm == wanted)
    }

    fn has_lease(&self, id: i64) -> Result<bool, Halt> {
        match self.leases.get(&id) {
            Some(granted) => Ok(*granted),
            None => Ok(self.store.has_stored_lease(id)?),
        }
    }

    /// Whether a member accepts this at the beginning of its transaction.
    fn accepts(&self, put: &Put<'_>) -> Result<bool, Halt> {
        let keeps = put.keeps_value || put.keeps_lease;
        if keeps && self.store.get(put.key)?.is_none() {
            return Ok(false);
        }
        Ok(put.lease == 0 || self.has_lease(put.lease)?)
    }

    fn put(&mut self, put: &Put<'_>) -> Result<(), Halt> {
        if self.has_alarm(NO_SPACE) || !self.accepts(put)? {
            return Ok(());
        }
        self.store.reserve([put.key])?;
        self.store.put(put)
    }

    fn delete(&mut self, range: Range<'_>) -> Result<(), Halt> {
        let mut keys = BTreeSet::new();
        self.store.add_keys_in(range, &mut keys)?;
        self.store.reserve(keys.iter().map(Vec::as_slice))?;
        self.store.delete(keys);
        Ok(())
    }

    fn transaction(&mut self, transaction: &Transaction<'_>) -> Result<(), Halt> {
        if self.has_alarm(NO_SPACE) {
            let mut all = transaction.success.iter().chain(&transaction.failure);
            if all.any(|operation| matches!(operation, Operation::Put(_))) {
                return Ok(());
            }
            if transaction.has_put() {
                return Err(Halt::Stop(
                    "a transaction within a transaction while there is a NOSPACE alarm: versions of etcd differ in what they do".into(),
                ));
            }
        }
        // All comparisons are made before the first change, also those of transactions within this one.
        let mut chosen = Vec::new();
        self.choose(transaction, &mut chosen)?;
        let mut deleted: Vec<Range<'_>> = Vec::new();
        let mut needed: BTreeSet<Vec<u8>> = BTreeSet::new();
        for operation in &chosen {
            match operation {
                Chosen::Put(put) => {
                    if !self.accepts(put)? {
                        return Ok(());
                    }
                    let keeps = put.keeps_value || put.keeps_lease;
                    if keeps && deleted.iter().any(|range| range.contains(put.key)) {
                        return Err(Halt::Stop(
                            "a transaction that keeps the value of a key that it deletes".into(),
                        ));
                    }
                    needed.insert(put.key.into());
                }
                Chosen::Delete(range) => {
                    self.store.add_keys_in(*range, &mut needed)?;
                    deleted.push(*range);
                }
            }
        }
        self.store.reserve(needed.iter().map(Vec::as_slice))?;
        for operation in chosen {
            match operation {
                Chosen::Put(put) => self.store.put(put)?,
                Chosen::Delete(range) => {
                    let mut keys = BTreeSet::new();
                    self.store.add_keys_in(range, &mut keys)?;
                    self.store.delete(keys);
                }
            }
        }
        Ok(())
    }

    /// The operations of a transaction, after its comparisons.
    fn choose<'t>(
        &self,
        transaction: &'t Transaction<'t>,
        chosen: &mut Vec<Chosen<'t>>,
    ) -> Result<(), Halt> {
        let mut succeeded = true;
        for compare in &transaction.compares {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        let operations = match succeeded {
            true => &transaction.success,
            false => &transaction.failure,
        };
        for operation in operations {
            match operation {
                Operation::Put(put) => chosen.push(Chosen::Put(put)),
                Operation::Delete(range) => chosen.push(Chosen::Delete(*range)),
                Operation::Transaction(inner) => self.choose(inner, chosen)?,
                Operation::Nothing => {}
            }
        }
        Ok(())
    }

    /// Whether a comparison holds for all keys in its range. If there are none, it is made with a key that has zero everywhere.
    fn holds(&self, compare: &Compare<'_>) -> Result<bool, Halt> {
        let mut holds = true;
        let mut any = false;
        self.store.each_in(compare.range, &mut |state, place| {
            any = true;
            holds = self.holds_for(compare, Some((&state, place)))?;
            Ok(holds)
        })?;
        match any {
            true => Ok(holds),
            false => self.holds_for(compare, None),
        }
    }

    fn holds_for(
        &self,
        compare: &Compare<'_>,
        key: Option<(&KeyState, ValuePlace)>,
    ) -> Result<bool, Halt> {
        let number = |of: fn(&KeyState) -> i64| {
            let given = match compare.given == compare.target {
                true => compare.number,
                false => 0,
            };
            key.map_or(0, |(state, _)| of(state)).cmp(&given)
        };
        let order = match compare.target {
            Compare::VERSION => number(|state| state.version),
            Compare::CREATED => number(|state| state.create_revision),
            Compare::MODIFIED => number(|state| state.mod_revision.main),
            Compare::LEASE => number(|state| state.lease),
            Compare::VALUE => match key {
                // A key that does not exist has no value to compare.
                None => return Ok(false),
                Some((_, place)) => self.store.compare_value(place, compare.value)?,
            },
            _ => Ordering::Equal,
        };
        Ok(match compare.result {
            Compare::EQUAL => order.is_eq(),
            Compare::NOT_EQUAL => order.is_ne(),
            Compare::GREATER => order.is_gt(),
            Compare::LESS => order.is_lt(),
            _ => true,
        })
    }
}

enum Chosen<'t> {
    Put(&'t Put<'t>),
    Delete(Range<'t>),
}

impl Request<'_> {
    /// Whether it needs a right when authentication is on. The same requests are refused while there is a `CORRUPT` alarm.
    fn depends_on_user(&self) -> bool {
        matches!(
            self,
            Request::Put(_)
                | Request::Delete(_)
                | Request::Transaction(_)
                | Request::GrantLease { .. }
                | Request::RevokeLease(_)
        )
    }
}

impl Transaction<'_> {
    fn has_put(&self) -> bool {
        let mut all = self.success.iter().chain(&self.failure);
        all.any(|operation| match operation {
            Operation::Put(_) => true,
            Operation::Transaction(inner) => inner.has_put(),
            Operation::Delete(_) | Operation::Nothing => false,
        })
    }
}

impl Range<'_> {
    fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            [] => key == self.key,
            [0] => key >= self.key,
            end => (self.key..end).contains(&key),
        }
    }
}
