//! A folder for the time of a test. If a killed test leaves its folder behind, the next test with the same prefix removes it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The process that uses the folder holds a lock on this file. The kernel releases the lock when the process ends in any way.
const LOCK: &str = ".in-use";
/// A younger folder without a lock file is not removed: another process may be creating it.
const YOUNG: Duration = Duration::from_secs(60);

/// A folder that is removed when this value is dropped.
#[derive(Debug)]
pub struct ScratchDir {
    dir: TempDir,
    _lock: File,
}

impl ScratchDir {
    /// Creates a folder in the temporary directory. Removes folders with this prefix that killed tests left behind.
    #[must_use]
    pub fn create(prefix: &str) -> ScratchDir {
        clear_left(prefix);
        let dir = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
        // The lock file gets its name after it is locked. Otherwise another thread could remove the folder before that.
        let unnamed = dir.path().join(".new");
        let lock = File::create(&unnamed).unwrap();
        lock.lock().unwrap();
        std::fs::rename(unnamed, dir.path().join(LOCK)).unwrap();
        ScratchDir { dir, _lock: lock }
    }

    /// The path of the folder, which has a random name.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes the folders with a prefix that no process uses any more, and returns their paths.
pub fn clear_left(prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten();
    let left: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .filter(|path| is_left(path))
        .collect();
    for path in &left {
        let _ = std::fs::remove_dir_all(path);
    }
    left
}

fn is_left(path: &Path) -> bool {
    match File::open(path.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => {
            let age = path.metadata().and_then(|metadata| metadata.modified());
            age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > YOUNG))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_test_left_is_cleared_and_what_is_in_use_is_not() {
        let prefix = format!("lifeboat-scratch-test-{}-", std::process::id());
        let used = ScratchDir::create(&prefix);
        let left = ScratchDir::create(&prefix);
        let path = left.path().to_path_buf();
        // As if its process had been killed: the folder is unlocked and still exists.
        let ScratchDir { dir, _lock } = left;
        drop(_lock);
        let kept = dir.keep();
        assert_eq!(kept, path);
        assert_eq!(clear_left(&prefix), std::slice::from_ref(&path));
        assert!(!path.exists() && used.path().exists());
    }
}
