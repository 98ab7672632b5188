//! Disks that lie, hang, lose what was not synced, or free space late: a filesystem of its own in an image, so that
//! no other file of the machine is touched.

use crate::requirement::skip;
use crate::scratch_dir::ScratchDir;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const BLOCK_BYTES: usize = 4096;
/// A block is first recognised by this number of bytes, and then compared completely.
const KEY_BYTES: usize = 64;

/// What the image is formatted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// Frees blocks when nobody holds the file open.
    Ext4,
    /// Frees blocks in the background; has reflinks.
    Xfs,
    /// Frees blocks when a transaction is committed, every 30 seconds.
    Btrfs,
}

impl Filesystem {
    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Filesystem::Ext4 => ("mkfs.ext4", &["-q", "-m", "0", "-b", "4096"]),
            Filesystem::Xfs => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
            Filesystem::Btrfs => ("mkfs.btrfs", &["-q"]),
        }
    }
}

/// A mounted filesystem in an image. It is unmounted and removed when this value is dropped.
#[derive(Debug)]
pub struct FaultyDisk {
    dir: ScratchDir,
    mount: PathBuf,
}

impl FaultyDisk {
    /// Creates and mounts a filesystem of this size. If this machine cannot do that, skips the test and returns `None`.
    #[must_use]
    pub fn mount(filesystem: Filesystem, mib: u64) -> Option<FaultyDisk> {
        let dir = ScratchDir::create("lifeboat-disk-");
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let (mkfs, flags) = filesystem.mkfs();
        if let Err(problem) = run(Command::new(mkfs).args(flags).arg(&image)) {
            skip(&format!(
                "{mkfs}: {problem}: install e2fsprogs, xfsprogs and btrfs-progs"
            ));
            return None;
        }
        let disk = FaultyDisk {
            mount: dir.path().join("mount"),
            dir,
        };
        std::fs::create_dir(&disk.mount).unwrap();
        if let Err(problem) = disk.mount_image() {
            skip(&format!(
                "a loop device can't be mounted here: {problem}: run as root"
            ));
            return None;
        }
        Some(disk)
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount_image(&self) -> Result<(), String> {
        let mount = |options: &str| {
            let mut mount = Command::new("mount");
            run(mount
                .args(["-o", options])
                .arg(self.image())
                .arg(&self.mount))
        };
        // XFS refuses a copy while the other one is still mounted somewhere.
        mount("loop").or_else(|problem| mount("loop,nouuid").map_err(|_| problem))
    }

    /// The directory on which the filesystem is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Free bytes, as `df` counts them.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let output = Command::new("df")
            .args(["-B1", "--output=avail"])
            .arg(&self.mount)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().last().unwrap().trim().parse().unwrap()
    }

    /// Creates a file that is so large that only this number of MiB is free.
    pub fn leave_free(&self, mib: u64) {
        self.sync();
        let size_bytes = self.free_bytes().saturating_sub(mib << 20);
        // Each call creates another file.
        let path = self.mount.join(format!("file-of-{size_bytes}-bytes"));
        run(Command::new("fallocate")
            .args(["-l", &size_bytes.to_string()])
            .arg(path))
        .unwrap();
        self.sync();
    }

    /// Writes out what is not yet on the disk.
    pub fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(&self.mount)).unwrap();
    }

    /// Makes each write wait, without a way to interrupt it, until the returned value is dropped.
    #[must_use]
    pub fn freeze(&self) -> Frozen<'_> {
        run(Command::new("fsfreeze").arg("-f").arg(&self.mount)).unwrap();
        Frozen(self)
    }

    /// Changes a byte in some of a file's blocks on the disk, below the filesystem: a process that reads the file
    /// from memory does not see the change. Returns the number of changed blocks.
    pub fn corrupt(&self, file: &Path, from_block: usize, blocks: usize) -> usize {
        let bytes = std::fs::read(file).unwrap();
        // A block that only repeats one byte can be on the disk in many places.
        let wanted: HashMap<&[u8], &[u8]> = bytes
            .chunks_exact(BLOCK_BYTES)
            .skip(from_block)
            .filter(|block| block.iter().any(|byte| *byte != block[0]))
            .map(|block| (&block[..KEY_BYTES], block))
            .collect();
        let image = File::options()
            .read(true)
            .write(true)
            .open(self.image())
            .unwrap();
        let size_bytes = image.metadata().unwrap().len();
        let mut block = vec![0; BLOCK_BYTES];
        let mut changed = 0;
        for offset in (0..size_bytes).step_by(BLOCK_BYTES) {
            image.read_exact_at(&mut block, offset).unwrap();
            let same = wanted.get(&block[..KEY_BYTES]);
            if changed < blocks && same.is_some_and(|same| **same == block) {
                let place = offset + 100;
                image.write_all_at(&[!block[100]], place).unwrap();
                changed += 1;
            }
        }
        changed
    }

    /// Simulates a power failure: data that was not synced is lost. The filesystem is mounted again when this returns.
    pub fn cut_power(&self) {
        let mut shutdown = Command::new("xfs_io");
        run(shutdown.args(["-x", "-c", "shutdown"]).arg(&self.mount)).unwrap();
        run(Command::new("umount").arg(&self.mount)).unwrap();
        // Another process may have inherited the mount, which keeps the filesystem in its state. So a copy of the image is mounted.
        let copy = self.dir.path().join("copy");
        run(Command::new("cp")
            .arg("--sparse=always")
            .args([&self.image(), &copy]))
        .unwrap();
        std::fs::rename(copy, self.image()).unwrap();
        self.mount_image().unwrap();
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.mount));
    }
}

/// While this value exists, writes to the filesystem wait.
pub struct Frozen<'d>(&'d FaultyDisk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = run(Command::new("fsfreeze").arg("-u").arg(&self.0.mount));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        Err(error) => Err(error.to_string()),
    }
}
