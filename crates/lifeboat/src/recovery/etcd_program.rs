//! The program of the node's own etcd. It is in an image, so it is taken from where it runs, or from containerd's files.

use super::node::Node;
use anyhow::{Context, bail};
use backup_plan::platform::control_plane::Component;
use backup_store::control_plane::{MemberDirs, processes};
use backup_store::durable_file;
use backup_store::local_file::LocalFile;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The layers of images, as containerd unpacks them.
const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
const IN_LAYER: &str = "fs/usr/local/bin/etcd";

/// Keeps a copy of the program, before etcd is stopped. Does nothing if there is one.
pub(super) fn keep(node: &Node, dirs: &MemberDirs) -> anyhow::Result<()> {
    let place = dirs.etcd_program();
    if place.symlink_metadata().is_ok() {
        return Ok(());
    }
    let program = find(node)?;
    if let Some(dir) = place.parent() {
        durable_file::create_dir_all(dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
    }
    durable_file::copy_program(&LocalFile::open(&program)?, &place)
        .with_context(|| format!("cannot copy {}", program.display()))
}

/// Finds the program.
pub(super) fn find(node: &Node) -> anyhow::Result<PathBuf> {
    let etcd = node.control_plane.manifest(Component::Etcd);
    let command = etcd.map(|etcd| etcd.command.clone()).unwrap_or_default();
    let running =
        processes::with_command(&command).context("cannot list the processes of this node")?;
    if let Some(pid) = running.first() {
        return Ok(format!("/proc/{pid}/exe").into());
    }
    let version = node.control_plane.member.full_version.as_deref();
    let version = version.context("the image of etcd has no tag with a version in its manifest")?;
    let layers = std::fs::read_dir(SNAPSHOTS).into_iter().flatten().flatten();
    let programs = layers.map(|layer| layer.path().join(IN_LAYER));
    let mut programs = programs.filter(|program| program.is_file());
    match programs.find(|program| is_version(program, version)) {
        Some(program) => Ok(program),
        None => bail!(
            "etcd {version} replays the log of the member, but it neither runs on this node nor is it in {SNAPSHOTS}: start its image once, or restore a backup instead"
        ),
    }
}

fn is_version(program: &Path, version: &str) -> bool {
    let output = Command::new(program).arg("--version").env_clear().output();
    let line = format!("etcd Version: {version}");
    output.is_ok_and(|output| {
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        printed.lines().any(|printed| printed.trim() == line)
    })
}
