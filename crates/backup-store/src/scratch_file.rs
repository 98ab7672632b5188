//! Temporary files without a name. They are removed when they are closed, also after a crash.

use etcd_file::{ReadAt, Scratch};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The default directory of temporary files. `/tmp` is in memory on many systems, and these files are for data that
/// does not fit in memory.
const DEFAULT_DIR: &str = "/var/tmp";

struct ScratchFile(File);

/// Creates a temporary file in `$TMPDIR`, or else in `/var/tmp`.
pub(crate) fn create() -> io::Result<Box<dyn Scratch>> {
    create_beside(Path::new(DEFAULT_DIR))
}

/// Creates a temporary file in `$TMPDIR`, or else in `dir`.
pub(crate) fn create_beside(dir: &Path) -> io::Result<Box<dyn Scratch>> {
    let dir = std::env::var_os("TMPDIR").unwrap_or_else(|| dir.into());
    let file = tempfile::tempfile_in(&dir).map_err(|error| {
        let dir = dir.display();
        io::Error::new(
            error.kind(),
            format!("in {dir}: {error}; set TMPDIR to another directory"),
        )
    })?;
    Ok(Box::new(ScratchFile(file)))
}

impl ReadAt for ScratchFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.0.size_bytes()
    }
}

impl Scratch for ScratchFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}
