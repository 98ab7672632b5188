//! Real etcd for the tests.
//!
//! What is on the machine is taken as it is. Else 3.4 and 3.5 come from Debian's packages, unpacked into
//! the cache and not installed, and 3.6 and 3.7 are built from the Go modules beside this crate.

use crate::command::{output, root, run as run_command};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use test_support::etcd_binaries::{
    Binaries, VERSIONS, Version, cache_dir, dump_logs, find, in_dir,
};

const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// `cargo xtask etcd`.
pub fn run() -> Result<()> {
    let missing = provide();
    for version in VERSIONS {
        if let Some(binaries) = find(version) {
            println!("etcd {version}: {}", binaries.etcd.display());
        }
    }
    match missing.as_slice() {
        [] => Ok(()),
        missing => bail!("{}", missing.join("\n")),
    }
}

/// Gets all versions that are missing. Returns those that could not be had, and why.
pub fn provide() -> Vec<String> {
    let get = |version: &Version| {
        let error = provide_version(*version).err()?;
        Some(format!("etcd {version} cannot be had: {error:#}"))
    };
    let mut missing: Vec<String> = VERSIONS.iter().filter_map(get).collect();
    if let Err(error) = provide_dump_logs() {
        missing.push(format!("etcd-dump-logs cannot be had: {error:#}"));
    }
    missing
}

/// Builds etcd's own reader of logs, which the release of 3.6 has.
fn provide_dump_logs() -> Result<()> {
    let program = dump_logs();
    if program.is_file() {
        return Ok(());
    }
    let version = Version(3, 6);
    let staging = staging(version)?;
    let built = staging.path().join("etcd-dump-logs");
    build(version, "go.etcd.io/etcd/v3/tools/etcd-dump-logs", &built)?;
    std::fs::rename(&built, &program).with_context(|| format!("rename to {}", program.display()))
}

/// Gets one version, the one that is had most quickly, unless there is one already.
pub fn provide_one() -> Result<Binaries> {
    if let Some(binaries) = VERSIONS.into_iter().rev().find_map(find) {
        return Ok(binaries);
    }
    let mut problems = Vec::new();
    // Packages first: the others are built.
    for version in [Version(3, 5), Version(3, 4), Version(3, 6)] {
        match provide_version(version) {
            Ok(()) => return find(version).context("the etcd that was fetched is missing"),
            Err(error) => problems.push(format!("etcd {version} cannot be had: {error:#}")),
        }
    }
    bail!("{}", problems.join("\n"))
}

fn provide_version(version: Version) -> Result<()> {
    if find(version).is_some() {
        return Ok(());
    }
    match version {
        Version(3, 4) => from_debian(version, "bookworm"),
        Version(3, 5) => from_debian(version, "trixie"),
        _ => from_go(version),
    }
}

/// A folder beside its final place, so that what is in the cache is whole.
fn staging(version: Version) -> Result<tempfile::TempDir> {
    let cache = cache_dir();
    std::fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    tempfile::Builder::new()
        .prefix(&format!(".{version}-"))
        .tempdir_in(&cache)
        .with_context(|| format!("create a folder in {}", cache.display()))
}

fn publish(staging: &Path, version: Version) -> Result<()> {
    if in_dir(staging, version).is_none() {
        bail!("what was got is no etcd {version} with its etcdctl");
    }
    let place = cache_dir().join(version.to_string());
    if place.exists() {
        std::fs::remove_dir_all(&place)?;
    }
    std::fs::rename(staging, &place).with_context(|| format!("rename to {}", place.display()))
}

fn from_debian(version: Version, suite: &str) -> Result<()> {
    let site = debian_site().context("find this machine's Debian source")?;
    let staging = staging(version)?;
    let dir = staging.path();
    let signed_by = if Path::new(DEBIAN_KEYRING).exists() {
        format!("[signed-by={DEBIAN_KEYRING}] ")
    } else {
        String::new()
    };
    std::fs::write(
        dir.join("sources.list"),
        format!("deb {signed_by}{site} {suite} main\n"),
    )?;
    std::fs::create_dir_all(dir.join("lists/partial"))?;
    // An apt of its own: nothing of the machine's is changed.
    let apt = |program: &str| {
        let mut command = Command::new(program);
        let own = |option: &str, name: &str| format!("{option}={}", dir.join(name).display());
        command
            .current_dir(dir)
            .args(["-qq", "-o", "Dir::Etc::sourceparts=-"])
            .args(["-o", "APT::Sandbox::User=root"])
            .args(["-o", &own("Dir::Etc::sourcelist", "sources.list")])
            .args(["-o", &own("Dir::State::lists", "lists")])
            .args(["-o", &own("Dir::Cache", "cache")])
            .args(["-o", "Acquire::Languages=none"])
            .args([
                "-o",
                "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
            ])
            .args([
                "-o",
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            ]);
        command
    };
    run_command(apt("apt-get").arg("update"))?;
    run_command(apt("apt-get").args(["download", "etcd-server", "etcd-client"]))?;
    let root = dir.join("root");
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run_command(Command::new("dpkg").arg("-x").arg(&path).arg(&root))?;
        }
    }
    publish(&root.join("usr/bin"), version)
}

/// Where this machine gets Debian's packages from.
fn debian_site() -> Result<String> {
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(COMPONENT) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian main Debian "))
        .map(str::to_owned)
        .context("apt knows no Debian source; run `apt-get update` once")
}

fn from_go(version: Version) -> Result<()> {
    let staging = staging(version)?;
    for (package, name) in [
        ("go.etcd.io/etcd/server/v3", "etcd"),
        ("go.etcd.io/etcd/etcdctl/v3", "etcdctl"),
        ("go.etcd.io/etcd/etcdutl/v3", "etcdutl"),
    ] {
        build(version, package, &staging.path().join(name))?;
    }
    publish(staging.path(), version)
}

/// Builds a program from the Go module of a version.
fn build(version: Version, package: &str, to: &Path) -> Result<()> {
    let module = root().join("xtask/etcd").join(version.to_string());
    run_command(
        Command::new("go")
            .current_dir(&module)
            .env("CGO_ENABLED", "0")
            .args([
                "build",
                "-mod=readonly",
                "-trimpath",
                "-ldflags=-s -w",
                "-o",
            ])
            .arg(to)
            .arg(package),
    )
    .context("build with Go 1.26 or newer")
}
