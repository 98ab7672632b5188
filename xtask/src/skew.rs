//! `cargo xtask skew`: this version beside another one, built from a commit.

use anyhow::{Context, Result};
use std::process::Command;
use xtask::command::{cargo, output, root, run as run_command, target_dir};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The commit or the tag of the other version
    #[arg(long, value_name = "COMMIT")]
    with: String,
}

/// Builds the other version, and runs the tests that want two.
pub(crate) fn run(args: &Args) -> Result<()> {
    let git = || {
        let mut git = Command::new("git");
        git.current_dir(root());
        git
    };
    let commit = format!("{}^{{commit}}", args.with);
    let commit = output(git().args(["rev-parse", "--verify", "--quiet", &commit]))
        .with_context(|| format!("{} is no commit here", args.with))?;
    let commit = commit.trim();
    let dir = tempfile::tempdir().context("a place for its sources")?;
    let sources = dir.path().join("sources");
    run_command(
        git()
            .args(["worktree", "add", "--detach"])
            .arg(&sources)
            .arg(commit),
    )?;
    let built = target_dir().join("skew");
    let build = run_command(
        cargo()
            .current_dir(&sources)
            .args(["build", "--locked", "-p", "lifeboat"])
            .env("CARGO_TARGET_DIR", &built),
    );
    run_command(git().args(["worktree", "remove", "--force"]).arg(&sources))?;
    build?;
    run_command(
        cargo()
            .args(["test", "-p", "lifeboat", "--test", "skew"])
            .env(
                "LIFEBOAT_TEST_OTHER_PROGRAM",
                built.join("debug/etcd-lifeboat"),
            ),
    )
}
