//! The keys of bucket `key` (etcd-io/etcd: `server/storage/mvcc/revision.go`).

use std::fmt;

const REVISION_BYTES: usize = 17;
const SEPARATOR_AT: usize = 8;
const SEPARATOR: u8 = b'_';
const TOMBSTONE: u8 = b't';

/// A point in the history of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Counts transactions; what etcd calls *the* revision.
    pub main: i64,
    /// Counts the changes in one transaction, from 0.
    pub sub: i64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.main, self.sub)
    }
}

impl Revision {
    /// The key of a record of this revision, which is no deletion.
    #[must_use]
    pub fn to_key(self) -> Vec<u8> {
        let mut key = self.main.to_be_bytes().to_vec();
        key.push(SEPARATOR);
        key.extend(self.sub.to_be_bytes());
        key
    }
}

/// The key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordKey {
    /// When the change was made.
    pub revision: Revision,
    /// Whether the change deleted the key.
    pub tombstone: bool,
}

/// Why bytes are not the key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevisionError {
    /// Neither a revision nor a revision with its tombstone mark.
    #[error("a revision of {found} bytes, expected {REVISION_BYTES}, or one more for a deletion")]
    Length {
        /// Number of bytes that were found.
        found: usize,
    },
    /// No underscore between the two numbers.
    #[error("byte {SEPARATOR_AT} of a revision is {found:#04x}, expected {SEPARATOR:#04x}")]
    Separator {
        /// The byte that was found.
        found: u8,
    },
    /// The 18th byte is not the tombstone mark.
    #[error("the last byte of a revision is {found:#04x}, expected {TOMBSTONE:#04x}")]
    Mark {
        /// The byte that was found.
        found: u8,
    },
    /// One of the two numbers is negative.
    #[error("revision {found} is negative")]
    Negative {
        /// The revision that was found.
        found: Revision,
    },
}

impl RecordKey {
    /// Reads the key of a record.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(key: &[u8]) -> Result<Self, RevisionError> {
        let wrong_length = RevisionError::Length { found: key.len() };
        let (bytes, mark) = key
            .split_first_chunk::<REVISION_BYTES>()
            .ok_or(wrong_length)?;
        let tombstone = match mark {
            [] => false,
            [TOMBSTONE] => true,
            [found] => return Err(RevisionError::Mark { found: *found }),
            _ => return Err(wrong_length),
        };
        let [
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            m6,
            m7,
            separator,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
        ] = *bytes;
        if separator != SEPARATOR {
            return Err(RevisionError::Separator { found: separator });
        }
        let revision = Revision {
            main: i64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]),
            sub: i64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        };
        if revision.main < 0 || revision.sub < 0 {
            return Err(RevisionError::Negative { found: revision });
        }
        Ok(RecordKey {
            revision,
            tombstone,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(main: i64, sub: i64, mark: &[u8]) -> Vec<u8> {
        [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes(), mark].concat()
    }

    #[test]
    fn a_revision_is_written_as_it_is_read() {
        let revision = Revision { main: 7, sub: 2 };
        assert_eq!(revision.to_key(), key(7, 2, b""));
    }

    #[test]
    fn a_put_and_a_deletion_are_read() {
        let revision = Revision { main: 7, sub: 2 };
        assert_eq!(
            RecordKey::parse(&key(7, 2, b"")),
            Ok(RecordKey {
                revision,
                tombstone: false
            })
        );
        assert_eq!(
            RecordKey::parse(&key(7, 2, b"t")),
            Ok(RecordKey {
                revision,
                tombstone: true
            })
        );
    }

    #[test]
    fn what_is_no_revision_is_refused_with_its_reason() {
        for (bytes, reason) in [
            (Vec::new(), "a revision of 0 bytes"),
            (key(7, 2, b"")[..16].to_vec(), "a revision of 16 bytes"),
            (key(7, 2, b"tt"), "a revision of 19 bytes"),
            (key(7, 2, b"x"), "the last byte of a revision is 0x78"),
            (key(-7, 2, b""), "revision -7/2 is negative"),
            (key(7, -2, b""), "revision 7/-2 is negative"),
            ([0; 17].to_vec(), "byte 8 of a revision is 0x00"),
        ] {
            let error = RecordKey::parse(&bytes).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
