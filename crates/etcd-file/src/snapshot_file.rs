//! The trailer of a snapshot file.
//!
//! `etcdctl snapshot save` writes the database as the server streamed it, and after it the 32 bytes of
//! its SHA-256, which the server sent last. A database is a whole number of pages and so a multiple of
//! 512 bytes: a file with 32 bytes more carries a trailer (etcd-io/etcd:
//! `etcdutl/snapshot/v3_snapshot.go`, `hasChecksum`).

use crate::failure::report;
use crate::{Failure, Progress, ReadAt};
use sha2::{Digest, Sha256};

/// Length of the trailer, in bytes.
pub const TRAILER_BYTES: u64 = 32;

/// Every page size is a multiple of it.
const SECTOR_BYTES: u64 = 512;

/// Whether a file has a trailer, by the length of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trailer {
    /// The last 32 bytes are the SHA-256 of the first `data_bytes`.
    Present {
        /// Length of the database in front of the trailer.
        data_bytes: u64,
    },
    /// The file is a database without a trailer, such as a member's own `db`.
    Absent,
    /// Neither: the file is truncated, or data was added.
    Misplaced {
        /// Bytes after the last full sector; 0 without and 32 with a trailer.
        odd_bytes: u64,
    },
}

impl Trailer {
    /// Decides by the length of a file, in bytes. Reads nothing.
    #[must_use]
    pub fn of(file_bytes: u64) -> Self {
        match file_bytes % SECTOR_BYTES {
            0 => Trailer::Absent,
            TRAILER_BYTES => Trailer::Present {
                data_bytes: file_bytes - TRAILER_BYTES,
            },
            odd_bytes => Trailer::Misplaced { odd_bytes },
        }
    }
}

/// The two digests that must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// The digest in the trailer.
    pub stored: [u8; 32],
    /// The digest of the data.
    pub computed: [u8; 32],
}

/// Hashes the `data_bytes` of a snapshot and reads the trailer after them.
///
/// # Errors
/// Why the bytes could not be read.
pub fn digests(
    file: &dyn ReadAt,
    data_bytes: u64,
    progress: Progress<'_>,
) -> Result<Digests, Failure> {
    let computed = sha256(file, data_bytes, progress)?;
    let mut stored = [0; 32];
    file.read_exact_at(&mut stored, data_bytes)
        .map_err(Failure::read(data_bytes))?;
    Ok(Digests { stored, computed })
}

/// The SHA-256 of the first `data_bytes` of a file.
///
/// # Errors
/// Why the bytes could not be read.
pub fn sha256(
    file: &dyn ReadAt,
    data_bytes: u64,
    progress: Progress<'_>,
) -> Result<[u8; 32], Failure> {
    const STEP_BYTES: u64 = 256 * 1024;
    let mut hasher = Sha256::new();
    let mut buf = vec![0; STEP_BYTES as usize];
    let mut offset = 0;
    while offset < data_bytes {
        let step = STEP_BYTES.min(data_bytes - offset);
        let chunk = buf.get_mut(..step as usize).unwrap_or_default();
        file.read_exact_at(chunk, offset)
            .map_err(Failure::read(offset))?;
        report(progress, step)?;
        hasher.update(&*chunk);
        offset += step;
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;

    #[test]
    fn length_tells_whether_there_is_a_trailer() {
        assert_eq!(Trailer::of(4096), Trailer::Absent);
        assert_eq!(
            Trailer::of(4096 + 32),
            Trailer::Present { data_bytes: 4096 }
        );
        assert_eq!(Trailer::of(4096 + 31), Trailer::Misplaced { odd_bytes: 31 });
        assert_eq!(Trailer::of(0), Trailer::Absent);
        assert_eq!(Trailer::of(32), Trailer::Present { data_bytes: 0 });
    }

    #[test]
    fn digest_is_over_the_data_and_not_the_trailer() {
        let mut file = b"abc".repeat(1000);
        let data_bytes = file.len() as u64;
        let wanted: [u8; 32] = Sha256::digest(&file).into();
        file.extend_from_slice(&wanted);
        let mut reported_bytes = 0;
        let digests = digests(&file, data_bytes, &mut |step| {
            reported_bytes += step;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(digests.stored, wanted);
        assert_eq!(digests.computed, wanted);
        assert_eq!(reported_bytes, data_bytes);
    }

    #[test]
    fn a_file_that_ends_early_is_named_by_its_offset() {
        let failure =
            digests(&vec![0u8; 100], 200, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(
            failure,
            Failure::Read {
                offset_bytes: 0,
                ..
            }
        ));
    }
}
