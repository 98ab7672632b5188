//! `etcd-lifeboat man-pages`.

use crate::cli::exit_code;
use anyhow::Context;
use clap::Command;
use std::path::PathBuf;

/// Write the manual pages into a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat man-pages /usr/local/share/man/man1")]
pub(crate) struct Args {
    /// Directory for the manual pages; it must exist
    dir: PathBuf,
}

pub(crate) fn run(args: Args, command: Command) -> anyhow::Result<u8> {
    clap_mangen::generate_to(command, &args.dir)
        .with_context(|| format!("cannot write the manual pages to {}", args.dir.display()))?;
    Ok(exit_code::DONE)
}
