//! Reads a file from the disk and not from the page cache.

use super::error::RunError;
use crate::blocks;
use crate::local_file::{LocalFile, OpenError};
use crate::progress::Monitor;
use backup_plan::record::ReadBack;
use etcd_file::ReadAt;
use rustix::fs::{Advice, OFlags};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// With O_DIRECT, addresses, offsets and lengths must be multiples of this. It is sufficient on all filesystems.
const ALIGNMENT: usize = 4096;
const BUFFER_BYTES: usize = 1 << 18;
/// How many damaged places are reported.
const PLACES: usize = 5;

/// A file that is read from its disk and not from the page cache. It must be synced.
pub(crate) struct DeviceFile {
    file: File,
    size_bytes: u64,
    pub(crate) how: ReadBack,
    buffer: RefCell<Vec<u8>>,
}

impl DeviceFile {
    /// Opens the file with O_DIRECT if the filesystem supports it. Otherwise drops it from the page cache.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let cached = LocalFile::open(path)?;
        // The file was synced, so no data is lost.
        let _ = rustix::fs::fadvise(&cached, 0, None, Advice::DontNeed);
        let size_bytes = cached.size_bytes();
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(path);
        let mut opened = DeviceFile {
            file: cached.into_file(),
            size_bytes,
            how: ReadBack::Uncached,
            buffer: RefCell::new(vec![0; BUFFER_BYTES + ALIGNMENT]),
        };
        if let Ok(direct) = direct {
            let buffered = std::mem::replace(&mut opened.file, direct);
            opened.how = ReadBack::Direct;
            // Some filesystems open a file with O_DIRECT, but cannot read it.
            if opened.read_exact_at(&mut [0], 0).is_err() && size_bytes > 0 {
                opened.file = buffered;
                opened.how = ReadBack::Uncached;
            }
        }
        Ok(opened)
    }

    /// Reads at most one buffer.
    fn read_piece(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let too_short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let skipped = (offset % ALIGNMENT as u64) as usize;
        let wanted = skipped + buf.len();
        let mut buffer = self.buffer.borrow_mut();
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        let aligned = buffer
            .get_mut(start..start + wanted.next_multiple_of(ALIGNMENT))
            .ok_or_else(too_short)?;
        let mut read = 0;
        // A direct read ends at the end of the file or at a multiple of ALIGNMENT, so the next one is aligned.
        while read < wanted {
            let at = offset - skipped as u64 + read as u64;
            let rest = aligned.get_mut(read..).unwrap_or_default();
            match self.file.read_at(rest, at) {
                Ok(0) => return Err(too_short()),
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buf.copy_from_slice(aligned.get(skipped..wanted).unwrap_or_default());
        Ok(())
    }
}

impl ReadAt for DeviceFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for piece in buf.chunks_mut(BUFFER_BYTES - ALIGNMENT) {
            self.read_piece(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.size_bytes)
    }
}

/// Reads a complete file from its disk, and compares it with the hashes in `blocks.b3`.
pub(crate) fn compare(
    path: &Path,
    hashes: &[u8],
    monitor: &dyn Monitor,
) -> Result<ReadBack, RunError> {
    let read_error = |source| RunError::Write {
        path: path.into(),
        source,
    };
    let file = DeviceFile::open(path).map_err(|error| read_error(io::Error::other(error)))?;
    monitor.step("read back", file.size_bytes);
    let mut stopped = false;
    let places = blocks::damaged(&file, hashes, PLACES, &mut |bytes| {
        let next = monitor.advance(bytes);
        stopped = next.is_break();
        next
    });
    if stopped {
        return Err(RunError::Stopped);
    }
    let places = places.map_err(|problem| read_error(io::Error::other(problem)))?;
    if places.is_empty() {
        return Ok(file.how);
    }
    let mut named: Vec<_> = places
        .iter()
        .map(|place| format!("{} to {}", place.start, place.end))
        .collect();
    if places.len() == PLACES {
        named.push("maybe more".into());
    }
    Err(RunError::DiskCorruption {
        path: path.into(),
        places: named.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn a_file_is_read_as_it_is_wherever_a_piece_begins_and_ends() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..300_001u32).map(|number| (number / 7) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        let file = DeviceFile::open(&path).unwrap();
        for (start, end) in [
            (0, 1),
            (0, 300_001),
            (4095, 4097),
            (300_000, 300_001),
            (5, 5),
        ] {
            let mut buf = vec![0; end - start];
            file.read_exact_at(&mut buf, start as u64).unwrap();
            assert_eq!(buf, bytes[start..end], "{start} to {end}");
        }
        assert!(file.read_exact_at(&mut [0; 2], 300_000).is_err());
        let mut hasher = blocks::Hasher::default();
        hasher.update(&bytes);
        let hashes = hasher.finish();
        assert_eq!(compare(&path, &hashes, &Silent).unwrap(), file.how);
        std::fs::write(&path, vec![1; 300_001]).unwrap();
        let message = compare(&path, &hashes, &Silent).unwrap_err().to_string();
        assert!(
            message.contains("at 0 to 65536, 65536 to 131072"),
            "{message}"
        );
    }
}
