//! A folder for the time of a test. One that a killed test left behind is cleared by the next that makes one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Held by whoever uses the folder, and let go by the kernel when that ends, however it ends.
const LOCK: &str = ".in-use";
/// Between making a folder and locking it nobody may take it for one that was left.
const YOUNG: Duration = Duration::from_secs(60);

/// A folder that goes when this is dropped.
#[derive(Debug)]
pub struct ScratchDir {
    dir: TempDir,
    _lock: File,
}

impl ScratchDir {
    /// Makes one in the temporary directory, and clears those of this prefix that were left.
    #[must_use]
    pub fn create(prefix: &str) -> ScratchDir {
        clear_left(prefix);
        let dir = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
        // It has its name only when it is locked: before that another thread would take the folder for one that was left.
        let unnamed = dir.path().join(".new");
        let lock = File::create(&unnamed).unwrap();
        lock.lock().unwrap();
        std::fs::rename(unnamed, dir.path().join(LOCK)).unwrap();
        ScratchDir { dir, _lock: lock }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes folders of a prefix that nobody uses any more, and says which.
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
        // As if its process had been killed: unlocked, and still there.
        let ScratchDir { dir, _lock } = left;
        drop(_lock);
        let kept = dir.keep();
        assert_eq!(kept, path);
        assert_eq!(clear_left(&prefix), std::slice::from_ref(&path));
        assert!(!path.exists() && used.path().exists());
    }
}
