//! What databases that are compared have in common: the fingerprints of values, and the names of what the objects are.

use super::key_state::KeyState;
use super::object::{FIRST_NAMED, KindNumber, KindOf, NOT_AN_OBJECT, Object, UNNAMED, object_of};
use crate::Failure;
use crate::bolt::Value;
use crate::mvcc::{KeyHash, KeyHasher};
use std::collections::HashMap;

/// More names than any cluster has. Objects of further kinds count as objects without a name.
const MAX_KINDS: usize = 4096;

/// The fingerprints of values and the kinds of objects. Only keys that were read with the same `Fingerprints` can be compared: its
/// secret is random, so no tenant can make two values with the same fingerprint.
pub struct Fingerprints {
    hasher: KeyHasher,
    numbers: HashMap<String, u16>,
    names: Vec<String>,
}

impl Default for Fingerprints {
    fn default() -> Self {
        Fingerprints {
            hasher: KeyHasher::new(),
            numbers: HashMap::new(),
            names: Vec::new(),
        }
    }
}

impl Fingerprints {
    /// The fingerprint of the bytes of a value from `at` to `end`.
    pub(super) fn of(&self, value: &mut Value<'_>, at: u64, end: u64) -> Result<KeyHash, Failure> {
        self.hasher.hash(|each| value.pieces(at, end, each))
    }

    /// The number of a kind.
    pub(super) fn number(&mut self, kind: KindOf<'_>) -> KindNumber {
        let name = match kind {
            KindOf::NoObject => return NOT_AN_OBJECT,
            KindOf::Unknown => return UNNAMED,
            KindOf::Named(name) => name,
        };
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.names.len() >= MAX_KINDS {
            return UNNAMED;
        }
        let number = FIRST_NAMED + self.names.len() as u16;
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }

    /// The object of Kubernetes that a key has, if it has one.
    #[must_use]
    pub fn object(&self, state: &KeyState) -> Option<Object> {
        let kind = match state.kind {
            NOT_AN_OBJECT => return None,
            number => number.checked_sub(FIRST_NAMED),
        };
        let kind = kind.and_then(|index| self.names.get(usize::from(index)));
        object_of(&state.key, kind.map(String::as_str))
    }
}
