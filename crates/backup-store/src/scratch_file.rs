//! Temporary files without a name: gone when they are closed, also after a crash.

use etcd_file::{ReadAt, Scratch};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Where they go unless the environment says otherwise: `/tmp` is memory on many systems, and what does
/// not fit in memory must not go there.
const DEFAULT_DIR: &str = "/var/tmp";

struct ScratchFile(File);

/// Makes one in `$TMPDIR`, or else in `/var/tmp`.
pub(crate) fn create() -> io::Result<Box<dyn Scratch>> {
    create_beside(Path::new(DEFAULT_DIR))
}

/// Makes one in `$TMPDIR`, or else in a directory that can be written.
pub(crate) fn create_beside(dir: &Path) -> io::Result<Box<dyn Scratch>> {
    let dir = std::env::var_os("TMPDIR").unwrap_or_else(|| dir.into());
    let file = tempfile::tempfile_in(&dir).map_err(|error| {
        let dir = dir.display();
        io::Error::new(
            error.kind(),
            format!("in {dir}: {error}; name another directory by TMPDIR"),
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
