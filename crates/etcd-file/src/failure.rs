//! Why a check could not be made. A failure says nothing about the file.

use std::io;
use std::ops::ControlFlow;

/// The check could not be completed. This does not mean that the file is damaged, or that it is intact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The file could not be read.
    #[error("cannot read at offset {offset_bytes}: {source}")]
    Read {
        /// Offset in the file where the read started, in bytes.
        offset_bytes: u64,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The temporary file could not be written or read back.
    #[error("cannot use the temporary file: {source}")]
    Scratch {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The caller's [`Progress`] returned that the check should stop.
    #[error("cancelled")]
    Cancelled,
}

impl Failure {
    pub(crate) fn read(offset_bytes: u64) -> impl FnOnce(io::Error) -> Failure {
        move |source| Failure::Read {
            offset_bytes,
            source,
        }
    }

    pub(crate) fn scratch(source: io::Error) -> Failure {
        Failure::Scratch { source }
    }
}

/// Receives the number of bytes done since the last call, and returns whether to continue.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

pub(crate) fn report(
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    bytes: u64,
) -> Result<(), Failure> {
    match progress(bytes) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Failure::Cancelled),
    }
}
