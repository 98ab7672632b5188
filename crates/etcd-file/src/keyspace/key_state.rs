//! The newest record of a key, and its form in a scratch file.

use super::object::KindNumber;
use crate::Failure;
use crate::mvcc::{KeyHash, Revision};
use std::io;

/// The longest key that can be compared, in bytes. Keys of Kubernetes have less than 1 KiB.
pub const MAX_KEY_BYTES: usize = 64 * 1024;
const KEY_LENGTH_BYTES: usize = 4;
const FIXED_BYTES: usize = 8 * NUMBERS;
const NUMBERS: usize = 9;

/// The newest record of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyState {
    /// The key.
    pub key: Vec<u8>,
    /// The revision of the record.
    pub mod_revision: Revision,
    /// The revision that created the key.
    pub create_revision: i64,
    /// Number of changes since then.
    pub version: i64,
    /// The lease that the key is attached to, or 0.
    pub lease: i64,
    /// Length of the value, in bytes.
    pub value_bytes: u64,
    pub(super) fingerprint: KeyHash,
    pub(super) kind: KindNumber,
    /// Whether the record deletes the key.
    pub(super) is_deleted: bool,
}

impl KeyState {
    /// Adds the record to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let numbers: [u64; NUMBERS] = [
            self.mod_revision.main.cast_unsigned(),
            self.mod_revision.sub.cast_unsigned(),
            self.create_revision.cast_unsigned(),
            self.version.cast_unsigned(),
            self.lease.cast_unsigned(),
            self.value_bytes,
            self.fingerprint.high,
            self.fingerprint.low,
            u64::from(self.kind) << 1 | u64::from(self.is_deleted),
        ];
        out.extend((self.key.len() as u32).to_le_bytes());
        out.extend(&self.key);
        for number in numbers {
            out.extend(number.to_le_bytes());
        }
    }

    /// Reads what [`KeyState::encode`] wrote.
    pub(super) fn decode(record: &[u8]) -> Result<Self, Failure> {
        let key = key_of(record);
        let fixed = record.get(KEY_LENGTH_BYTES + key.len()..);
        let (fields, _) = fixed.unwrap_or_default().as_chunks::<8>();
        let Some(fields) = fields.first_chunk::<NUMBERS>() else {
            return Err(damaged());
        };
        let [
            main,
            sub,
            create_revision,
            version,
            lease,
            value_bytes,
            high,
            low,
            last,
        ] = fields.map(u64::from_le_bytes);
        Ok(KeyState {
            key: key.into(),
            mod_revision: Revision {
                main: main.cast_signed(),
                sub: sub.cast_signed(),
            },
            create_revision: create_revision.cast_signed(),
            version: version.cast_signed(),
            lease: lease.cast_signed(),
            value_bytes,
            fingerprint: KeyHash { high, low },
            kind: (last >> 1) as KindNumber,
            is_deleted: last & 1 != 0,
        })
    }

    /// Whether both records have the same value.
    pub(super) fn has_same_value(&self, other: &Self) -> bool {
        self.value_bytes == other.value_bytes && self.fingerprint == other.fingerprint
    }
}

/// The key of an encoded record.
pub(super) fn key_of(record: &[u8]) -> &[u8] {
    let Some((len, rest)) = record.split_first_chunk::<KEY_LENGTH_BYTES>() else {
        return &[];
    };
    rest.get(..u32::from_le_bytes(*len) as usize)
        .unwrap_or_default()
}

/// Splits the first encoded record off.
pub(super) fn split_first(records: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    let len = records.first_chunk::<KEY_LENGTH_BYTES>();
    let len = len.map(|len| u32::from_le_bytes(*len) as usize);
    len.filter(|len| *len <= MAX_KEY_BYTES)
        .and_then(|len| records.split_at_checked(KEY_LENGTH_BYTES + len + FIXED_BYTES))
        .ok_or_else(damaged)
}

pub(super) fn damaged() -> Failure {
    Failure::scratch(io::Error::new(
        io::ErrorKind::InvalidData,
        "it has not the bytes that were written",
    ))
}
