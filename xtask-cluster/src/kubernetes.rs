//! Real Kubernetes for the tests: the programs of a control plane, built from the Go modules beside this crate.

use crate::kit;
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use test_support::etcd_binaries;
use test_support::kubernetes::binaries::{
    HELM, PROGRAMS, PROVISIONER, STREAMS, VERSIONS, Version, cache_dir, find, in_dir, tool,
};
use test_support::real_nodes::kit::ETCD_OF_NODES;
use xtask::command::{output, root, run as run_command};
use xtask::etcd;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also the older versions, each of which takes as long again
    #[arg(long)]
    all: bool,
}

/// `cargo xtask kubernetes`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let versions = if args.all {
        &VERSIONS[..]
    } else {
        &VERSIONS[..1]
    };
    provide_tools()?;
    let missing = etcd::provide();
    let etcd = etcd_binaries::find(ETCD_OF_NODES).with_context(|| missing.join("\n"))?;
    for version in versions {
        let start = Instant::now();
        provide(*version)?;
        let binaries = find(*version).context("what was built is not found")?;
        let seconds = start.elapsed().as_secs();
        println!(
            "Kubernetes {version}: {} ({seconds} s)",
            binaries.dir().display()
        );
        let start = Instant::now();
        let kit = kit::provide(*version, &etcd)?;
        let seconds = start.elapsed().as_secs();
        println!("nodes with it: {} ({seconds} s)", kit.dir.display());
    }
    Ok(())
}

/// Builds what is beside a cluster; Go itself knows whether there is something to do.
pub(crate) fn provide_tools() -> Result<()> {
    for (name, folder, package) in [
        (STREAMS, "kubernetes/streams", "."),
        (HELM, "kubernetes/helm", "helm.sh/helm/v3/cmd/helm"),
        (
            PROVISIONER,
            "nodes/local-path",
            "github.com/rancher/local-path-provisioner",
        ),
    ] {
        let place = tool(name);
        let mut go = Command::new("go");
        go.current_dir(root().join("xtask").join(folder))
            .env("CGO_ENABLED", "0")
            .args(["build", "-mod=readonly", "-trimpath", "-ldflags=-s -w"])
            .arg("-o")
            .arg(&place)
            .arg(package);
        // What takes a minute is shown.
        if place.exists() {
            output(&mut go)?;
        } else {
            run_command(&mut go)?;
        }
    }
    Ok(())
}

/// Builds a version, unless it is here.
pub(crate) fn provide(version: Version) -> Result<()> {
    if find(version).is_some() {
        return Ok(());
    }
    let module: PathBuf = root().join("xtask/kubernetes").join(version.to_string());
    let cache = cache_dir();
    std::fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    // What is in the cache appears by one rename, and so is whole.
    let staging = tempfile::Builder::new()
        .prefix(&format!(".{version}-"))
        .tempdir_in(&cache)?;
    let go = || {
        let mut go = Command::new("go");
        go.current_dir(&module).env("CGO_ENABLED", "0");
        go
    };
    let flags = link_flags(version, &full_version(version)?);
    // Which version the API server takes itself for, and clients with it, is stamped in.
    let packages = PROGRAMS.map(|name| format!("k8s.io/kubernetes/cmd/{name}"));
    run_command(
        go().args(["build", "-mod=readonly", "-trimpath"])
            .arg(format!("-ldflags={flags}"))
            .arg("-o")
            .arg(format!("{}/", staging.path().display()))
            .args(packages),
    )?;
    ensure!(
        in_dir(staging.path(), version).is_some(),
        "what was built is no Kubernetes {version}"
    );
    let place = cache.join(version.to_string());
    if place.exists() {
        bail!(
            "{} is there, and is no Kubernetes {version}: remove it",
            place.display()
        );
    }
    std::fs::rename(staging.path(), &place).with_context(|| place.display().to_string())
}

/// The version in the Go module, such as `v1.37.2`.
pub(crate) fn full_version(version: Version) -> Result<String> {
    let module = root().join("xtask/kubernetes").join(version.to_string());
    let printed = output(Command::new("go").current_dir(module).args([
        "list",
        "-mod=readonly",
        "-m",
        "-f",
        "{{.Version}}",
        "k8s.io/kubernetes",
    ]))
    .context("Go 1.26 or newer is needed")?;
    Ok(printed.trim().to_string())
}

/// Programs of Kubernetes take themselves for the version that is stamped in.
pub(crate) fn link_flags(version: Version, full: &str) -> String {
    let stamp =
        |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    [
        "-s -w".to_string(),
        stamp("gitVersion", full),
        stamp("gitMajor", &version.0.to_string()),
        stamp("gitMinor", &version.1.to_string()),
        stamp("gitTreeState", "clean"),
    ]
    .join(" ")
}
