//! Opens a file for reading, and refuses everything that is not a regular file.

use etcd_file::ReadAt;
use rustix::fs::OFlags;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a file can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Opening failed.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The path, as the caller gave it.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A directory, a pipe, a device or a socket.
    #[error("{path} is {found}, expected a file")]
    NotAFile {
        /// The path, as the caller gave it.
        path: PathBuf,
        /// The type of file that was found.
        found: &'static str,
    },
}

/// A regular file, open for reading.
pub struct LocalFile {
    file: File,
    before: Stamp,
}

/// Reads a complete small file.
///
/// # Errors
/// The file cannot be read, is not a regular file, or is larger than `max_bytes`.
pub fn read_small(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let file = LocalFile::open(path).map_err(|error| match error {
        OpenError::Open { source, .. } => source,
        error @ OpenError::NotAFile { .. } => io::Error::other(error),
    })?;
    let size_bytes = file.size_bytes();
    if size_bytes > max_bytes {
        return Err(io::Error::other(format!(
            "the file has {size_bytes} bytes, expected at most {max_bytes}"
        )));
    }
    let mut bytes = vec![0; size_bytes as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The size and the time of the last change. A write to the file changes them.
#[derive(PartialEq, Eq)]
struct Stamp {
    size_bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Stamp {
            size_bytes: metadata.size(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }
}

impl AsFd for LocalFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl io::Read for LocalFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl LocalFile {
    /// Opens a regular file.
    ///
    /// # Errors
    /// The file cannot be opened, or is a directory, a pipe or a device. Never waits for
    /// a process that writes into a pipe.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let open_error = |source| OpenError::Open {
            path: path.into(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(open_error)?;
        let metadata = file.metadata().map_err(open_error)?;
        let kind = metadata.file_type();
        if !kind.is_file() {
            let found = if kind.is_dir() {
                "a directory"
            } else if kind.is_fifo() {
                "a named pipe"
            } else if kind.is_char_device() || kind.is_block_device() {
                "a device"
            } else {
                "neither a file nor a directory"
            };
            return Err(OpenError::NotAFile {
                path: path.into(),
                found,
            });
        }
        Ok(LocalFile {
            before: Stamp::of(&metadata),
            file,
        })
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// The size of the file when it was opened, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.before.size_bytes
    }

    /// Whether the file was changed since it was opened.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.file
            .metadata()
            .map_or(true, |now| Stamp::of(&now) != self.before)
    }
}

impl ReadAt for LocalFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.before.size_bytes)
    }
}
