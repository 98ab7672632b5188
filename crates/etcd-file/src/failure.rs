//! Why a check could not be made, which says nothing about the file.

use std::io;
use std::ops::ControlFlow;

/// The check ended before its end: not a finding about the file, and no proof of it either.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The file could not be read.
    #[error("reading at offset {offset_bytes} failed: {source}")]
    Read {
        /// Where.
        offset_bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// The temporary file could not be written or read back.
    #[error("the temporary file failed: {source}")]
    Scratch {
        /// Why.
        source: io::Error,
    },
    /// The caller asked for it.
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

/// Told how many bytes were done since the last call; says whether to go on.
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
