//! Temporary files for data that does not fit in the memory budget.

use crate::ReadAt;
use std::io;

/// A temporary file. It is removed when it is dropped.
pub trait Scratch: ReadAt {
    /// Adds `bytes` at the end.
    ///
    /// # Errors
    /// The error of the operating system, most likely that the disk is full.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Scratch for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// Creates scratch files when they are needed. Most databases need none.
pub trait ScratchSource {
    /// A new, empty scratch file.
    ///
    /// # Errors
    /// The file cannot be created.
    fn create(&self) -> io::Result<Box<dyn Scratch>>;
}

impl<F: Fn() -> io::Result<Box<dyn Scratch>>> ScratchSource for F {
    fn create(&self) -> io::Result<Box<dyn Scratch>> {
        self()
    }
}
