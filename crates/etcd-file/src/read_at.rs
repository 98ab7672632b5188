//! Reads bytes at offsets.

use std::cell::RefCell;
use std::io;

/// A file, or anything else with bytes at offsets.
///
/// Readers in this crate expect the bytes not to change while they read; if they do, the result is a
/// finding or an error, never a panic.
pub trait ReadAt {
    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// The error of the operating system; [`io::ErrorKind::UnexpectedEof`] if the bytes end before
    /// `buf` is full.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The total number of bytes.
    ///
    /// # Errors
    /// The error of the operating system.
    fn size_bytes(&self) -> io::Result<u64>;
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let wanted = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?));
        match wanted {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buf, offset)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.as_slice().size_bytes()
    }
}

impl ReadAt for std::fs::File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, offset)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// The first bytes of another source, such as a snapshot without its trailer.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    whole: &'a dyn ReadAt,
    size_bytes: u64,
}

impl<'a> Part<'a> {
    /// The first `size_bytes` of `whole`.
    pub fn first(whole: &'a dyn ReadAt, size_bytes: u64) -> Self {
        Part { whole, size_bytes }
    }
}

impl ReadAt for Part<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.size_bytes => self.whole.read_exact_at(buf, offset),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.size_bytes)
    }
}

/// Reads ahead when reads are sequential, as for the leaf pages of a tree.
pub(crate) struct ReadAhead<'a> {
    file: &'a dyn ReadAt,
    size_bytes: u64,
    ahead: RefCell<Ahead>,
}

struct Ahead {
    /// Bytes of the file from `start` on.
    buf: Vec<u8>,
    start: u64,
    valid_bytes: usize,
    /// Where the last read ended.
    last_end: u64,
}

impl<'a> ReadAhead<'a> {
    const AHEAD_BYTES: usize = 128 * 1024;
    /// Reads with a gap up to this size still count as sequential: the pages between may be free, or belong to another tree.
    const GAP_BYTES: u64 = 16 * 1024;

    pub(crate) fn of(file: &'a dyn ReadAt) -> io::Result<Self> {
        Ok(ReadAhead {
            size_bytes: file.size_bytes()?,
            file,
            ahead: RefCell::new(Ahead {
                buf: vec![0; Self::AHEAD_BYTES],
                start: 0,
                valid_bytes: 0,
                last_end: u64::MAX,
            }),
        })
    }
}

impl ReadAt for ReadAhead<'_> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let ahead = &mut *self.ahead.borrow_mut();
        let end = offset.saturating_add(buf.len() as u64);
        let is_sequential = offset
            .checked_sub(ahead.last_end)
            .is_some_and(|gap| gap <= Self::GAP_BYTES);
        ahead.last_end = end;
        let buffered = ahead.start..ahead.start + ahead.valid_bytes as u64;
        if !(buffered.contains(&offset) && end <= buffered.end) {
            if !is_sequential || buf.len() >= Self::AHEAD_BYTES || end > self.size_bytes {
                return self.file.read_exact_at(buf, offset);
            }
            let rest = usize::try_from(self.size_bytes - offset).unwrap_or(usize::MAX);
            let wanted = Self::AHEAD_BYTES.min(rest);
            ahead.valid_bytes = 0;
            let place = ahead.buf.get_mut(..wanted).unwrap_or_default();
            if self.file.read_exact_at(place, offset).is_err() {
                // Perhaps only bytes that were not requested cannot be read. Only the requested bytes may cause an error.
                return self.file.read_exact_at(buf, offset);
            }
            ahead.start = offset;
            ahead.valid_bytes = wanted;
        }
        let start = (offset - ahead.start) as usize;
        match ahead.buf.get(start..start + buf.len()) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => self.file.read_exact_at(buf, offset),
        }
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ahead_gives_the_same_bytes_in_any_order() {
        let file: Vec<u8> = (0..1_000_000u64).map(|n| ((n * 7919) >> 3) as u8).collect();
        let ahead = ReadAhead::of(&file).unwrap();
        let mut offset = 0;
        for step in 0..5000usize {
            // Mostly onwards, at times back or far away, up to the last byte.
            offset = match step % 17 {
                0 => step * 7919 % file.len(),
                1 => file.len() - 100,
                _ => offset + step % 5 * 1000,
            };
            let len = (step * 31 % 9000).min(file.len().saturating_sub(offset));
            let mut buf = vec![0; len];
            ahead.read_exact_at(&mut buf, offset as u64).unwrap();
            assert_eq!(buf, file[offset..offset + len]);
            offset = (offset + len) % (file.len() - 10_000);
        }
        assert!(ahead.read_exact_at(&mut [0; 10], 999_995).is_err());
    }
}
