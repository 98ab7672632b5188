//! `cargo xtask test`.

use crate::command::{cargo, run as run_command, target_dir};
use crate::{etcd, kubernetes};
use anyhow::{Context, Result, bail};
use std::time::Instant;
use test_support::etcd_binaries::{USUAL_VERSION, VERSIONS, Version};
use test_support::kubernetes::binaries::VERSIONS as KUBERNETES;
use test_support::requirement::SKIPS_FILE;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fail where a test can't run on this machine (also with CI=true)
    #[arg(long)]
    require_all: bool,
    /// Also beside the older Kubernetes, which takes some ten minutes more to build
    #[arg(long)]
    all: bool,
}

/// Runs everything, and names at the end what this machine can't do.
pub(crate) fn run(args: &Args) -> Result<()> {
    let require_all = args.require_all || std::env::var("CI").is_ok_and(|ci| ci == "true");
    let start = Instant::now();
    run_command(cargo().args(["fmt", "--all", "--check"]))?;
    run_command(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    let mut missing = etcd::provide();
    let versions = if args.all {
        &KUBERNETES[..]
    } else {
        &KUBERNETES[..1]
    };
    for version in versions {
        if let Err(error) = kubernetes::provide(*version) {
            missing.push(format!("Kubernetes {version} can't be had: {error:#}"));
        }
    }
    if let Err(error) = kubernetes::provide_tools() {
        missing.push(format!("what is beside a cluster can't be had: {error:#}"));
    }
    // What tests write down of what the API server was asked; of this run only.
    let _ = std::fs::remove_dir_all(target_dir().join("tmp/asked"));
    let skips = tempfile::NamedTempFile::new().context("create the list of skipped tests")?;
    run_command(
        cargo()
            // One that fails hides none of the others.
            .args(["test", "--workspace", "--quiet", "--no-fail-fast"])
            .env(SKIPS_FILE, skips.path()),
    )?;
    let mut rights = cargo();
    rights.args([
        "test", "-p", "lifeboat", "--quiet", "--test", "rights", "--",
    ]);
    run_command(rights.arg("--ignored").env(SKIPS_FILE, skips.path()))?;
    if args.all {
        let older = ["--ignored", "--exact", "the_older_kubernetes_runs_as_well"];
        let mut tests = cargo();
        tests.args([
            "test",
            "-p",
            "lifeboat",
            "--quiet",
            "--test",
            "kubernetes_cluster",
            "--",
        ]);
        run_command(tests.args(older).env(SKIPS_FILE, skips.path()))?;
    }
    // The main job once more beside each other version.
    for version in VERSIONS
        .into_iter()
        .filter(|version| *version != Version(3, 6))
    {
        eprintln!("beside etcd {version}:");
        let mut tests = cargo();
        tests.args(["test", "-p", "lifeboat", "--quiet"]);
        for test in ["backup_server", "cluster_backup", "killed_at_each_step"] {
            tests.args(["--test", test]);
        }
        let tests = tests.env(USUAL_VERSION, version.to_string());
        run_command(tests.env(SKIPS_FILE, skips.path()))?;
    }

    let mut skipped: Vec<_> = std::fs::read_to_string(skips.path())?
        .lines()
        .map(str::to_owned)
        .collect();
    skipped.sort();
    println!(
        "\nall tests that can run here passed, in {} s",
        start.elapsed().as_secs()
    );
    if skipped.is_empty() {
        println!("skipped: none");
        return Ok(());
    }
    println!("skipped: {}", skipped.len());
    for line in missing.iter().chain(&skipped) {
        println!("  {line}");
    }
    if require_all {
        bail!(
            "{} tests were skipped, and all were required",
            skipped.len()
        );
    }
    Ok(())
}
