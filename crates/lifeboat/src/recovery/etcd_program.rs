//! The program of the node's own etcd. A node of static pods has it only in an image.
//!
//! Anyone who can start a container can have a program named etcd on this node, and a process with any command line. So it is taken from
//! the process that has the database of this member open, or from the image that the manifest names.

use super::ask::say;
use super::node::Node;
use anyhow::{Context, bail};
use backup_plan::platform::control_plane::Component;
use backup_store::control_plane::{MemberDirs, processes};
use backup_store::durable_file;
use backup_store::local_file::LocalFile;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where containerd mounts the image.
const MOUNT: &str = "/run/etcd-lifeboat-image";
const IN_IMAGE: &str = "usr/local/bin/etcd";

/// Keeps a copy of the program, before etcd is stopped. Does nothing if there is one.
pub(super) fn keep(node: &Node, dirs: &MemberDirs) -> anyhow::Result<()> {
    let place = dirs.etcd_program();
    if place.symlink_metadata().is_ok() {
        return Ok(());
    }
    if let Some(dir) = place.parent() {
        durable_file::create_dir_all(dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
    }
    if let Some(program) = running(node)? {
        say(&format!(
            "the program of etcd is that of process {}",
            program.display()
        ));
        return copy(&program, &place);
    }
    let image = image(node)?;
    say(&format!("the program of etcd comes from the image {image}"));
    durable_file::create_dir_all(Path::new(MOUNT))
        .with_context(|| format!("cannot create {MOUNT}"))?;
    containerd(&["images", "mount", image, MOUNT])?;
    let copied = copy(&Path::new(MOUNT).join(IN_IMAGE), &place);
    containerd(&["images", "unmount", "--rm", MOUNT])?;
    copied
}

/// Whether the program can be had, without a change.
pub(super) fn check(node: &Node) -> anyhow::Result<()> {
    if running(node)?.is_some() {
        return Ok(());
    }
    let image = image(node)?;
    let images = containerd(&["images", "ls", "-q"])?;
    match images.lines().any(|known| known == image) {
        true => Ok(()),
        false => bail!(
            "nothing was changed: the node's own etcd replays the log of the member, but it does not run, and containerd does not have its image {image}. Restore a backup instead"
        ),
    }
}

/// The program of the process that has the database open.
fn running(node: &Node) -> anyhow::Result<Option<PathBuf>> {
    let etcd = node.control_plane.manifest(Component::Etcd);
    let command = etcd.map(|etcd| etcd.command.clone()).unwrap_or_default();
    let pids =
        processes::with_command(&command).context("cannot list the processes of this node")?;
    let db = node.data_dir().join("member/snap/db");
    let own = pids.into_iter().find(|pid| processes::has_open(*pid, &db));
    Ok(own.map(|pid| format!("/proc/{pid}/exe").into()))
}

fn image(node: &Node) -> anyhow::Result<&str> {
    let etcd = node.control_plane.manifest(Component::Etcd);
    let image = etcd.and_then(|etcd| etcd.image.as_deref());
    // Never a flag of another program.
    let image = image.filter(|image| !image.starts_with('-'));
    image.context("the manifest of etcd names no image")
}

fn containerd(args: &[&str]) -> anyhow::Result<String> {
    let mut ctr = Command::new("ctr");
    ctr.args(["--namespace", "k8s.io"]).args(args);
    let output = ctr
        .output()
        .context("cannot start ctr, the command of containerd")?;
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr);
        bail!("ctr {} failed: {}", args.join(" "), problem.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn copy(program: &Path, place: &Path) -> anyhow::Result<()> {
    durable_file::copy_program(&LocalFile::open(program)?, place)
        .with_context(|| format!("cannot copy {}", program.display()))
}
