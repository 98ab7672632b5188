//! SHA-256 of a stream.

use backup_plan::hex::hex;
use sha2::{Digest, Sha256};
use std::io::{self, Write};

/// Hashes and counts what is written through it.
pub(crate) struct Hashed<W> {
    pub(crate) out: W,
    digest: Sha256,
    pub(crate) bytes: u64,
}

impl<W: Write> Hashed<W> {
    pub(crate) fn new(out: W) -> Self {
        Hashed {
            out,
            digest: Sha256::new(),
            bytes: 0,
        }
    }

    /// The digest so far, as hex digits.
    pub(crate) fn hex(&self) -> String {
        hex(&self.digest.clone().finalize())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buf)?;
        self.digest.update(buf.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
