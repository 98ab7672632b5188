//! Putting a database in its place.

use super::error::RestoreError;
use super::source::Source;
use crate::durable_file;
use crate::progress::Monitor;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde::Serialize;
use std::fs::File;
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

/// Creates `path` with the bytes of a source, its SHA-256 included. A clone where the filesystem can, else a copy.
///
/// # Errors
/// The file can't be created or written.
pub(super) fn place(
    source: &Source,
    path: &Path,
    monitor: &dyn Monitor,
) -> Result<(File, Placing), RestoreError> {
    let file = durable_file::create(path).map_err(RestoreError::io("create", path))?;
    if durable_file::clone_from(&file, &source.file).map_err(RestoreError::io("clone to", path))? {
        return Ok((file, Placing::Clone));
    }
    copy(source, &file, path, monitor)?;
    Ok((file, Placing::Copy))
}

/// Copies what is not a hole, and syncs it in pieces.
fn copy(
    source: &Source,
    file: &File,
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
        let start = match rustix::fs::seek(&source.file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => total_bytes,
            // Without holes.
            Err(_) => at,
        };
        let hole = match rustix::fs::seek(&source.file, SeekFrom::Hole(start)) {
            Ok(hole) => hole,
            Err(_) => total_bytes,
        };
        let end = hole
            .min(total_bytes)
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
