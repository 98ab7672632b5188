//! Moves manifests out of the folder of the kubelet, and back.

use super::error::NodeError;
use crate::durable_file;
use std::path::{Path, PathBuf};

/// The folder of the kubelet, and the directory of what was moved out of it.
pub struct Manifests {
    folder: PathBuf,
    stopped: PathBuf,
}

impl Manifests {
    /// The folder of the kubelet, and a directory on the same filesystem.
    #[must_use]
    pub fn new(folder: &Path, stopped: &Path) -> Self {
        Manifests {
            folder: folder.into(),
            stopped: stopped.into(),
        }
    }

    /// Moves a manifest out of the folder. Its pod ends.
    ///
    /// # Errors
    /// It is in both places, in none of them, or the operating system failed.
    pub fn stop(&self, file: &str) -> Result<(), NodeError> {
        durable_file::create_dir_all(&self.stopped)
            .map_err(NodeError::io("create", &self.stopped))?;
        move_file(&self.folder.join(file), &self.stopped.join(file))
    }

    /// Moves a manifest back. The kubelet starts its pod.
    ///
    /// # Errors
    /// It is in both places, in none of them, or the operating system failed.
    pub fn start(&self, file: &str) -> Result<(), NodeError> {
        move_file(&self.stopped.join(file), &self.folder.join(file))
    }

    /// Whether a manifest is in the folder of the kubelet.
    #[must_use]
    pub fn is_in_folder(&self, file: &str) -> bool {
        self.folder.join(file).symlink_metadata().is_ok()
    }

    /// Replaces a manifest that was moved away.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn replace_stopped(&self, file: &str, text: &str) -> Result<(), NodeError> {
        let path = self.stopped.join(file);
        durable_file::replace(&path, text.as_bytes()).map_err(NodeError::io("write", &path))
    }
}

/// Does nothing if it was moved before.
fn move_file(from: &Path, to: &Path) -> Result<(), NodeError> {
    let exists = |path: &Path| path.symlink_metadata().is_ok();
    match (exists(from), exists(to)) {
        (true, true) => Err(NodeError::Both {
            one: from.into(),
            other: to.into(),
        }),
        (false, true) => Ok(()),
        (false, false) => Err(NodeError::Gone { path: from.into() }),
        (true, false) => durable_file::move_to(from, to).map_err(NodeError::io("move", from)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_moved_once_and_never_over_another_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let folder = dir.path().join("manifests");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("etcd.yaml"), "one").unwrap();
        let manifests = Manifests::new(&folder, &dir.path().join("stopped"));
        for _ in 0..2 {
            manifests.stop("etcd.yaml").unwrap();
            assert!(!manifests.is_in_folder("etcd.yaml"));
        }
        // Somebody wrote another one.
        std::fs::write(folder.join("etcd.yaml"), "two").unwrap();
        let error = manifests.start("etcd.yaml").unwrap_err().to_string();
        assert!(error.contains("both exist"), "{error}");
        std::fs::remove_file(folder.join("etcd.yaml")).unwrap();
        for _ in 0..2 {
            manifests.start("etcd.yaml").unwrap();
        }
        assert_eq!(std::fs::read(folder.join("etcd.yaml")).unwrap(), b"one");
        let error = manifests.stop("other.yaml").unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
    }
}
