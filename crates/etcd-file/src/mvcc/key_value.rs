//! The values of bucket `key`: protobuf `mvccpb.KeyValue` (etcd-io/etcd: `api/mvccpb/kv.proto`).
//!
//! They are decoded here without a protobuf library and without a copy: a value can be larger than the memory budget, and
//! only its numbers and the place of its key are needed.

use crate::Failure;
use crate::bolt::Value;
use crate::wire::{MAX_FIELD, varint};
use std::ops::Range;

/// Bytes of two varints, the most that precede the bytes of a field.
const FIELD_HEAD_BYTES: u64 = 20;

/// A record's value. The user's key and value are ranges in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    /// Where the user's key is, in bytes from the start of the record's value.
    pub key: Range<u64>,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision of this change.
    pub mod_revision: i64,
    /// Number of changes of the key since it was created; 1 for the first.
    pub version: i64,
    /// Where the user's value is, in bytes from the start of the record's value.
    pub value: Range<u64>,
    /// The lease that the key is attached to, or 0.
    pub lease: i64,
}

/// Why bytes are not a record's value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not protobuf, or not this message.
    #[error("byte {at_bytes} of the record: {problem}")]
    Malformed {
        /// Where in the value.
        at_bytes: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// The file could not be read.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl KeyValue {
    /// Reads a record's value. Unknown fields are skipped. If a field is repeated, the last one is used.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn decode(value: &mut Value<'_>) -> Result<Self, DecodeError> {
        const VARINT: u64 = 0;
        const FIXED64: u64 = 1;
        const BYTES: u64 = 2;
        const FIXED32: u64 = 5;

        let len = value.len();
        let mut out = KeyValue::default();
        let mut at = 0;
        while at < len {
            let malformed = |problem| DecodeError::Malformed {
                at_bytes: at,
                problem,
            };
            let head = value.piece(at, FIELD_HEAD_BYTES)?;
            let (tag, rest) =
                varint(head).ok_or_else(|| malformed("a field without its field number"))?;
            let number = varint(rest);
            let offset_after = |rest: &[u8]| at + (head.len() - rest.len()) as u64;
            let (wire_type, field) = (tag & 7, tag >> 3);
            if !(1..=MAX_FIELD).contains(&field) {
                return Err(malformed("a field number that is not valid"));
            }
            if matches!(field, 1 | 5) != (wire_type == BYTES) && field <= 6
                || matches!(field, 2 | 3 | 4 | 6) && wire_type != VARINT
            {
                return Err(malformed("a field with the wrong type"));
            }
            at = match wire_type {
                VARINT => {
                    let (number, rest) = number.ok_or_else(|| malformed("a truncated number"))?;
                    let number = number.cast_signed();
                    match field {
                        2 => out.create_revision = number,
                        3 => out.mod_revision = number,
                        4 => out.version = number,
                        6 => out.lease = number,
                        _ => {}
                    }
                    offset_after(rest)
                }
                BYTES => {
                    let (bytes, rest) = number.ok_or_else(|| malformed("a truncated length"))?;
                    let start = offset_after(rest);
                    if bytes > len - start {
                        return Err(malformed("a field longer than the record"));
                    }
                    let place = start..start + bytes;
                    match field {
                        1 => out.key = place.clone(),
                        5 => out.value = place.clone(),
                        _ => {}
                    }
                    place.end
                }
                FIXED64 => offset_after(rest) + 8,
                FIXED32 => offset_after(rest) + 4,
                _ => return Err(malformed("a field of an unknown type")),
            };
        }
        if at > len {
            return Err(DecodeError::Malformed {
                at_bytes: len,
                problem: "a field longer than the record",
            });
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<KeyValue, String> {
        KeyValue::decode(&mut Value::whole(bytes)).map_err(|error| error.to_string())
    }

    #[test]
    fn every_field_is_read() {
        let bytes = b"\x0a\x03foo\x10\x02\x18\x80\x01\x20\x05\x2a\x02hi\x30\x7b";
        let kv = decode(bytes).unwrap();
        assert_eq!(kv.key, 2..5);
        assert_eq!(
            &bytes[kv.value.start as usize..kv.value.end as usize],
            b"hi"
        );
        assert_eq!(
            (kv.create_revision, kv.mod_revision, kv.version, kv.lease),
            (2, 128, 5, 123)
        );
    }

    #[test]
    fn an_empty_value_is_all_zero() {
        assert_eq!(decode(b"").unwrap(), KeyValue::default());
    }

    #[test]
    fn negative_numbers_take_ten_bytes() {
        let kv = decode(b"\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").unwrap();
        assert_eq!(kv.lease, -1);
    }

    #[test]
    fn fields_of_later_versions_are_passed_over() {
        let kv = decode(b"\x38\x01\x42\x02ab\x49\0\0\0\0\0\0\0\0\x55\0\0\0\0\x20\x09").unwrap();
        assert_eq!(kv.version, 9);
    }

    #[test]
    fn what_is_cut_or_wrong_is_refused() {
        for (bytes, problem) in [
            (&b"\x0a\x05foo"[..], "longer than the record"),
            (b"\x0a", "a truncated length"),
            (b"\x10", "a truncated number"),
            (b"\x10\x80", "a truncated number"),
            (b"\x80", "without its field number"),
            (b"\x02\x00", "that is not valid"),
            (b"\x80\x80\x80\x80\x10\x01", "that is not valid"),
            (b"\x08\x01", "the wrong type"),
            (b"\x12\x00", "the wrong type"),
            (b"\x49\0\0", "longer than the record"),
            (b"\x3b", "unknown type"),
            (
                b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
                "a truncated number",
            ),
        ] {
            let error = decode(bytes).unwrap_err();
            assert!(error.contains(problem), "{bytes:?}: {error}");
        }
    }
}
