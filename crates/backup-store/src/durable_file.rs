//! Durable changes to files: they are on the disk when a call returns, also after a power failure.
//!
//! A file or a directory appears under its name by one rename, after everything in it was synced; the
//! rename is durable after the directory that contains it was synced.
//!
//! Every change to the disk goes through this module, one system call per step, so that a test can end the process
//! before each step.

use crate::local_file::LocalFile;
use etcd_file::ReadAt;
use rustix::fs::{AtFlags, CWD, RenameFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Mode of new directories: only the owner has access.
pub(crate) const DIR_MODE: u32 = 0o700;
/// Mode of new files: a backup contains the keys of the cluster.
const FILE_MODE: u32 = 0o600;

/// In a debug build, ends the process before its n-th step as SIGKILL would, or lets that step fail (`12:ENOSPC`). The environment
/// variables below set the step.
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

/// Creates a new file that only its owner can access.
///
/// # Errors
/// The error of the operating system.
pub fn create(path: &Path) -> io::Result<File> {
    step()?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Copies a program, under a name that it only gets when it is complete.
///
/// # Errors
/// The error of the operating system.
pub fn copy_program(source: &LocalFile, place: &Path) -> io::Result<()> {
    let mut partial = place.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    if partial.symlink_metadata().is_ok() {
        remove_file(partial)?;
    }
    let file = create(partial)?;
    copy_range(&file, source, 0, source.size_bytes())?;
    step()?;
    file.set_permissions(Permissions::from_mode(DIR_MODE))?;
    sync(&file)?;
    rename(partial, place)?;
    match place.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Creates a new directory that only its owner can access.
///
/// # Errors
/// The error of the operating system.
pub fn create_dir(path: &Path) -> io::Result<()> {
    step()?;
    std::fs::DirBuilder::new().mode(DIR_MODE).create(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Creates a directory and those above it that do not exist. Only the owner can access them. They stay after a power failure.
///
/// # Errors
/// The error of the operating system. Some of the directories may exist then.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        && !parent.exists()
    {
        create_dir_all(parent)?;
    }
    match create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        created => created,
    }
}

/// Creates a file with these bytes and syncs it.
///
/// # Errors
/// The error of the operating system.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    append(&mut file, bytes)?;
    sync(&file)
}

/// Appends bytes to a file. They are not durable before the file is synced.
///
/// # Errors
/// The error of the operating system.
pub fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    step()?;
    file.write_all(bytes)
}

/// Makes an empty file a clone of another one, which shares its blocks until one of them is changed.
///
/// # Errors
/// The error of the operating system. `Ok(false)` if the filesystem cannot do it, or the files are not on the same one.
pub fn clone_from(file: &File, source: &LocalFile) -> io::Result<bool> {
    step()?;
    match rustix::fs::ioctl_ficlone(file, source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::NOTTY) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Copies a part of a file to the same place of another one, in the kernel where it can. Both files are at most `end` long after it.
///
/// # Errors
/// The error of the operating system; [`io::ErrorKind::UnexpectedEof`] if the source ends before.
pub fn copy_range(file: &File, source: &LocalFile, start: u64, end: u64) -> io::Result<()> {
    step()?;
    let (mut from, mut to) = (start, start);
    while from < end {
        let len = usize::try_from(end - from).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut from), file, Some(&mut to), len) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                return copy_in_memory(file, source, from, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_in_memory(file: &File, source: &LocalFile, start: u64, end: u64) -> io::Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    let mut buf = vec![0; PIECE_BYTES as usize];
    let mut at = start;
    while at < end {
        let len = PIECE_BYTES.min(end - at);
        let piece = buf.get_mut(..len as usize).unwrap_or_default();
        source.read_exact_at(piece, at)?;
        file.write_all_at(piece, at)?;
        at += len;
    }
    Ok(())
}

/// Writes bytes at an offset. They are not durable before the file is synced.
///
/// # Errors
/// The error of the operating system.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    step()?;
    file.write_all_at(bytes, offset)
}

/// Sets the length of a file, in bytes. It is not durable before the file is synced.
///
/// # Errors
/// The error of the operating system.
pub fn set_len(file: &File, bytes: u64) -> io::Result<()> {
    step()?;
    file.set_len(bytes)
}

/// Gives everything in a directory, and the directory itself, to a user and a group.
///
/// # Errors
/// The error of the operating system.
pub(crate) fn give_to(path: &Path, user: u32, group: u32) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_to(&entry?.path(), user, group)?;
        }
    }
    set_owner(path, user, group)
}

/// Gives a file or a directory to a user and a group, and syncs it.
///
/// # Errors
/// The error of the operating system.
pub(crate) fn set_owner(path: &Path, user: u32, group: u32) -> io::Result<()> {
    step()?;
    std::os::unix::fs::lchown(path, Some(user), Some(group))?;
    // The owner is in the inode, which a sync of the file writes.
    sync(&File::open(path)?)
}

/// Syncs a file.
///
/// # Errors
/// The error of the operating system.
pub fn sync(file: &File) -> io::Result<()> {
    step()?;
    file.sync_all()
}

/// Syncs the data of a file, without all of its metadata. Used between the pieces of a long write.
///
/// # Errors
/// The error of the operating system.
pub fn sync_data(file: &File) -> io::Result<()> {
    step()?;
    file.sync_data()
}

/// Removes a file.
///
/// # Errors
/// The error of the operating system.
pub fn remove_file(path: &Path) -> io::Result<()> {
    step()?;
    std::fs::remove_file(path)
}

/// Replaces the content of a file. After a crash the file has either the old or the new content.
///
/// # Errors
/// The error of the operating system. The file then has its old content, unless only the last step failed.
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

/// Syncs a directory, so that the names in it are durable.
///
/// # Errors
/// The error of the operating system.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?)
}

/// Renames a file or a directory. The new name is not durable before the directory is synced.
///
/// # Errors
/// The error of the operating system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step()?;
    std::fs::rename(from, to)
}

/// Moves a file or a directory to another directory of the same filesystem. The new name is durable first: it must never be lost.
///
/// # Errors
/// The error of the operating system. If only a sync failed, it has its new name.
pub fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    rename(from, to)?;
    for dir in [to.parent(), from.parent()].into_iter().flatten() {
        sync_dir(dir)?;
    }
    Ok(())
}

/// Removes a directory with its content, or a file. Does not follow symbolic links.
///
/// # Errors
/// The error of the operating system. Some files may already be removed.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        step()?;
        return std::fs::remove_file(path);
    }
    // A filesystem that is mounted there does not belong to the backup.
    if is_mount(path)? {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    for entry in std::fs::read_dir(path)? {
        remove_dir(&entry?.path())?;
    }
    step()?;
    std::fs::remove_dir(path)
}

/// Whether the directory is a mount point, also of a bind mount.
fn is_mount(path: &Path) -> io::Result<bool> {
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Renames a directory of synced files to its final name, which must not exist yet.
///
/// # Errors
/// The error of the operating system. If only the last step failed, the new name may exist.
pub fn publish(partial: &Path, place: &Path) -> io::Result<()> {
    sync_dir(partial)?;
    step()?;
    match rustix::fs::renameat_with(CWD, partial, CWD, place, RenameFlags::NOREPLACE) {
        // Some filesystems, such as NFS, do not support this flag. In a repository the caller holds the lock.
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
