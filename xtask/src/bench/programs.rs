//! The programs that are compared.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use test_support::etcd_binaries::{Binaries, Version, find};
use xtask::command::{cargo, root, run as run_command};
use xtask::etcd;

pub(super) struct Programs {
    pub(super) binaries: Binaries,
    pub(super) etcdutl: PathBuf,
    pub(super) lifeboat: PathBuf,
}

/// Provides etcd, and builds the program as it ships.
pub(super) fn provide() -> Result<Programs> {
    let missing = etcd::provide();
    let Some(binaries) = find(Version(3, 6)) else {
        bail!("{}", missing.join("\n"));
    };
    run_command(cargo().args([
        "build",
        "--profile",
        "dist",
        "--quiet",
        "-p",
        "lifeboat",
        "--target-dir",
        "target/bench",
    ]))?;
    Ok(Programs {
        etcdutl: binaries
            .etcdutl
            .clone()
            .context("etcd 3.6 has an etcdutl")?,
        binaries,
        lifeboat: root().join("target/bench/dist/etcd-lifeboat"),
    })
}
