//! The disk of a node: a file of this machine with a filesystem of its own, which only the node mounts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Large enough that the kubelet does not see a full disk, and only as large on this machine as what is in it.
const BYTES: u64 = 12 << 30;

/// What is on the disks of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filesystem {
    /// As most nodes have it.
    #[default]
    Ext4,
    /// XFS, whose files can share their blocks.
    XfsWithReflinks,
}

impl Filesystem {
    /// The program that makes it, and the Debian package that has the program.
    pub(super) fn maker(self) -> (&'static str, &'static str) {
        match self {
            Filesystem::Ext4 => ("mkfs.ext4", "e2fsprogs"),
            Filesystem::XfsWithReflinks => ("mkfs.xfs", "xfsprogs"),
        }
    }
}

/// The file of the disk in the folder of a node.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("disk")
}

/// Creates the disk, unless it exists. Then waits until no one uses it: a node that was switched off lets go of it a moment later.
pub(super) fn provide(dir: &Path, filesystem: Filesystem) -> Result<(), String> {
    let path = path(dir);
    let (maker, package) = filesystem.maker();
    if !path.exists() {
        let file = std::fs::File::create(&path).and_then(|file| file.set_len(BYTES));
        file.map_err(|error| format!("create {}: {error}", path.display()))?;
        let mut make = Command::new(maker);
        match filesystem {
            // Nothing is kept back for root: a full disk is full.
            Filesystem::Ext4 => make.args(["-q", "-m", "0", "-E", "nodiscard"]),
            Filesystem::XfsWithReflinks => make.args(["-q", "-K", "-m", "reflink=1"]),
        };
        let output = make.arg(&path).output();
        let output =
            output.map_err(|error| format!("{maker} (Debian package {package}): {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "{maker}: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let users = Command::new("losetup")
            .arg("--associated")
            .arg(&path)
            .output();
        let users = users.map_err(|error| format!("losetup (Debian package mount): {error}"))?;
        if !users.status.success() {
            return Err(format!(
                "losetup: {}",
                String::from_utf8_lossy(&users.stderr)
            ));
        }
        if users.stdout.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "{} is still in use: {}",
                path.display(),
                String::from_utf8_lossy(&users.stdout)
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
