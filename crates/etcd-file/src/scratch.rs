//! Where bytes may wait that do not fit in the memory budget.

use crate::ReadAt;
use std::io;

/// A temporary file that is gone when it is dropped.
pub trait Scratch: ReadAt {
    /// Adds `bytes` at the end.
    ///
    /// # Errors
    /// What the operating system says, most likely that the disk is full.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Scratch for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// Makes scratch files when they are needed, which for most databases is never.
pub trait ScratchSource {
    /// A new, empty scratch file.
    ///
    /// # Errors
    /// Where none can be made.
    fn create(&self) -> io::Result<Box<dyn Scratch>>;
}

impl<F: Fn() -> io::Result<Box<dyn Scratch>>> ScratchSource for F {
    fn create(&self) -> io::Result<Box<dyn Scratch>> {
        self()
    }
}
