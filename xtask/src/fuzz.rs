//! `cargo xtask fuzz`.

use anyhow::{Context, Result};
use std::process::Command;
use xtask::command::{root, run as run_command};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, default_value = "600", value_name = "SECONDS")]
    seconds: u64,
    /// Run only this target
    #[arg(long)]
    target: Option<String>,
}

const TARGETS: [&str; 11] = [
    "bolt",
    "revision",
    "value",
    "trailer",
    "record",
    "cron",
    "node_files",
    "environment_file",
    "rewrite",
    "wal",
    "diff",
];
/// Above this a target counts as a leak; etcd-file promises less.
const MEMORY_LIMIT_MIB: u64 = 512;

/// Runs each target for its time; the first crash ends it.
pub(crate) fn run(args: &Args) -> Result<()> {
    for target in TARGETS {
        if args.target.as_deref().is_some_and(|only| only != target) {
            continue;
        }
        // New inputs go to the first folder; the second holds the seeds, which stay as they are.
        let found = format!("fuzz/target/corpus/{target}");
        std::fs::create_dir_all(root().join(&found)).with_context(|| found.clone())?;
        run_command(
            Command::new("cargo")
                .args(["+nightly", "fuzz", "run", target, &found])
                .arg(format!("fuzz/corpus/{target}"))
                .arg("--")
                .arg(format!("-max_total_time={}", args.seconds))
                .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
                .args(["-max_len=65536", "-timeout=10", "-print_final_stats=1"])
                .current_dir(root()),
        )?;
    }
    Ok(())
}
