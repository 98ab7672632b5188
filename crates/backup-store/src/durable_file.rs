//! What is on the disk when a call returns, also after the power fails.
//!
//! A file or a directory appears under its name by one rename, after everything in it was synced; the
//! rename itself is on the disk when the directory around it was synced.
//!
//! Every change to the disk goes through here, a system call a step, so that a test can end the process
//! before each of them.

use rustix::fs::{AtFlags, CWD, RenameFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Mode of the directories we make: for their owner alone.
pub(crate) const DIR_MODE: u32 = 0o700;
/// Mode of the files we make: a backup holds the keys of the cluster.
const FILE_MODE: u32 = 0o600;

/// Where a debug build may be told to end as if it were killed, before its n-th step, or to fail at that step (`12:ENOSPC`) and
/// go on.
#[cfg(debug_assertions)]
fn step() -> io::Result<()> {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static KILLED_AT: LazyLock<Option<u64>> = LazyLock::new(|| {
        let step = std::env::var("LIFEBOAT_TEST_KILLED_AT_STEP").ok()?;
        step.parse().ok()
    });
    static FAILS_AT: LazyLock<Option<(u64, Errno)>> = LazyLock::new(|| {
        let fault = std::env::var("LIFEBOAT_TEST_FAILS_AT_STEP").ok()?;
        let (step, errno) = fault.split_once(':')?;
        let errno = if errno == "ENOSPC" {
            Errno::NOSPC
        } else {
            Errno::IO
        };
        Some((step.parse().ok()?, errno))
    });
    static STEPS: AtomicU64 = AtomicU64::new(0);
    let step = STEPS.fetch_add(1, Ordering::Relaxed) + 1;
    if *KILLED_AT == Some(step) {
        // No destructor runs, and nothing is flushed, as with SIGKILL.
        std::process::abort();
    }
    match *FAILS_AT {
        Some((at, errno)) if at == step => Err(errno.into()),
        _ => Ok(()),
    }
}

#[cfg(not(debug_assertions))]
fn step() -> io::Result<()> {
    Ok(())
}

/// Creates a file that must not exist yet, for its owner alone.
///
/// # Errors
/// What the operating system says.
pub fn create(path: &Path) -> io::Result<File> {
    step()?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Creates a directory that must not exist yet, for its owner alone.
///
/// # Errors
/// What the operating system says.
pub fn create_dir(path: &Path) -> io::Result<()> {
    step()?;
    std::fs::DirBuilder::new().mode(DIR_MODE).create(path)
}

/// Creates a file with these bytes and syncs it.
///
/// # Errors
/// What the operating system says.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    append(&mut file, bytes)?;
    sync(&file)
}

/// Writes bytes at the end of a file, which are not on the disk before it is synced.
///
/// # Errors
/// What the operating system says.
pub fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    step()?;
    file.write_all(bytes)
}

/// Syncs a file.
///
/// # Errors
/// What the operating system says.
pub fn sync(file: &File) -> io::Result<()> {
    step()?;
    file.sync_all()
}

/// Syncs what was written to a file, as far as it is needed to read that again: for pieces of a long write.
///
/// # Errors
/// What the operating system says.
pub fn sync_data(file: &File) -> io::Result<()> {
    step()?;
    file.sync_data()
}

/// Removes a file.
///
/// # Errors
/// What the operating system says.
pub fn remove_file(path: &Path) -> io::Result<()> {
    step()?;
    std::fs::remove_file(path)
}

/// Gives a file these bytes, all of them or, after a crash, those it had before.
///
/// # Errors
/// What the operating system says; it has the bytes of before then, unless it was the last step that failed.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    match remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write(new, bytes)?;
    rename(new, path)?;
    match path.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Syncs the names in a directory.
///
/// # Errors
/// What the operating system says.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?)
}

/// Gives a file or a directory another name, which may not be there in this form after the power fails.
///
/// # Errors
/// What the operating system says.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step()?;
    std::fs::rename(from, to)
}

/// Removes a directory with everything in it, or whatever else has its name; what a link leads to stays.
///
/// # Errors
/// What the operating system says; some of it may be gone then.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        step()?;
        return std::fs::remove_file(path);
    }
    // What is mounted there is somebody else's.
    if is_mount(path)? {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    for entry in std::fs::read_dir(path)? {
        remove_dir(&entry?.path())?;
    }
    step()?;
    std::fs::remove_dir(path)
}

/// Whether something is mounted at a directory, also a directory of the same filesystem.
fn is_mount(path: &Path) -> io::Result<bool> {
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Gives a directory whose files were synced its final name, which must not exist yet.
///
/// # Errors
/// What the operating system says. If it was the last step that failed, the new name may be there.
pub fn publish(partial: &Path, place: &Path) -> io::Result<()> {
    sync_dir(partial)?;
    step()?;
    match rustix::fs::renameat_with(CWD, partial, CWD, place, RenameFlags::NOREPLACE) {
        // Some filesystems, NFS for one, know no such flag. Whoever publishes here holds the lock.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if place.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            std::fs::rename(partial, place)?;
        }
        renamed => renamed?,
    }
    match place.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_leads_to_stays_when_the_link_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("precious")).unwrap();
        std::fs::write(path("precious/file"), "mine").unwrap();
        std::fs::create_dir_all(path("gone/below")).unwrap();
        for link in ["link", "gone/below/link"] {
            std::os::unix::fs::symlink(path("precious"), path(link)).unwrap();
        }
        std::fs::write(path("plain"), "").unwrap();
        for name in ["link", "gone", "plain"] {
            remove_dir(&path(name)).unwrap();
            assert!(path(name).symlink_metadata().is_err(), "{name}");
        }
        assert!(path("precious/file").exists());
    }
}
