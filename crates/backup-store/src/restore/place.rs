//! Putting a database in its place.

use super::error::RestoreError;
use super::source::Source;
use crate::blocks;
use crate::durable_file;
use crate::local_file::LocalFile;
use crate::progress::Monitor;
use etcd_file::ReadAt;
use etcd_file::bolt::{Bolt, unused_blocks};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde::Serialize;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// How the database came to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placing {
    /// It shares its blocks with the snapshot until one of them is written.
    Clone,
    /// It has blocks of its own.
    Copy,
}

/// A database in its place.
pub(super) struct Placed {
    pub(super) file: File,
    pub(super) placing: Placing,
    /// Blocks that no page in use is in. They were not copied.
    unused: Vec<Range<u64>>,
}

/// The copied bytes, and where nothing was copied those of the source.
pub(super) struct Copied<'s> {
    source: &'s Source,
    pub(super) file: LocalFile,
    unused: Vec<Range<u64>>,
}

impl Placed {
    /// Opens what is in its place for reading.
    pub(super) fn read<'s>(
        &self,
        source: &'s Source,
        path: &Path,
    ) -> Result<Copied<'s>, RestoreError> {
        Ok(Copied {
            source,
            file: LocalFile::open(path)?,
            unused: self.unused.clone(),
        })
    }
}

impl ReadAt for Copied<'_> {
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let next = self.unused.partition_point(|unused| unused.end <= offset);
            let unused = self.unused.get(next);
            let (file, end) = match unused {
                Some(unused) if unused.start <= offset => (&self.source.file, unused.end),
                Some(unused) => (&self.file, unused.start),
                None => (&self.file, u64::MAX),
            };
            let len = (end - offset).min(buf.len() as u64);
            let (piece, rest) = buf.split_at_mut(len as usize);
            file.read_exact_at(piece, offset)?;
            buf = rest;
            offset += len;
        }
        Ok(())
    }

    fn size_bytes(&self) -> io::Result<u64> {
        ReadAt::size_bytes(&self.file)
    }
}

/// Creates `path` with the bytes of a source, its SHA-256 included. A clone where the filesystem can, else a copy.
///
/// # Errors
/// The file can't be created or written.
pub(super) fn place(
    source: &Source,
    path: &Path,
    monitor: &dyn Monitor,
) -> Result<Placed, RestoreError> {
    let file = durable_file::create(path).map_err(RestoreError::io("create", path))?;
    if durable_file::clone_from(&file, &source.file).map_err(RestoreError::io("clone to", path))? {
        return Ok(Placed {
            file,
            placing: Placing::Clone,
            unused: Vec::new(),
        });
    }
    let unused = unused(source);
    copy(source, &file, &unused, path, monitor)?;
    Ok(Placed {
        file,
        placing: Placing::Copy,
        unused,
    })
}

/// The blocks that need not be copied. If the database is damaged, there are none: the proof then finds the damage.
fn unused(source: &Source) -> Vec<Range<u64>> {
    let data = source.data();
    let found = Bolt::open(&data)
        .ok()
        .map(|bolt| unused_blocks(&bolt, blocks::BLOCK_BYTES as u64));
    found.and_then(Result::ok).unwrap_or_default()
}

/// Copies what is neither a hole nor unused, and syncs it in pieces.
fn copy(
    source: &Source,
    file: &File,
    unused: &[Range<u64>],
    path: &Path,
    monitor: &dyn Monitor,
) -> Result<(), RestoreError> {
    const PIECE_BYTES: u64 = 64 << 20;
    let failed = || RestoreError::io("write", path);
    let total_bytes = source.file.size_bytes();
    monitor.step("copy", total_bytes);
    durable_file::set_len(file, total_bytes).map_err(failed())?;
    let mut at = 0;
    while at < total_bytes {
        let next = unused.partition_point(|unused| unused.end <= at);
        let unused = unused.get(next);
        if let Some(unused) = unused.filter(|unused| unused.start <= at) {
            if monitor.advance(unused.end - at).is_break() {
                return Err(RestoreError::Stopped);
            }
            at = unused.end;
            continue;
        }
        let used_end = unused.map_or(total_bytes, |unused| unused.start);
        let start = match rustix::fs::seek(&source.file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => total_bytes,
            // Without holes.
            Err(_) => at,
        };
        let start = start.min(used_end);
        let hole = match rustix::fs::seek(&source.file, SeekFrom::Hole(start)) {
            Ok(hole) => hole,
            Err(_) => total_bytes,
        };
        let end = hole
            .min(used_end)
            .min(start.saturating_add(PIECE_BYTES))
            .max(start);
        if start < end {
            durable_file::copy_range(file, &source.file, start, end).map_err(failed())?;
            durable_file::sync_data(file).map_err(failed())?;
        }
        if monitor.advance(end - at).is_break() {
            return Err(RestoreError::Stopped);
        }
        // A file that shrinks meanwhile must not keep this going.
        at = end.max(at + 1);
    }
    Ok(())
}
