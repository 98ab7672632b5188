//! `etcd-lifeboat send-backup`: what `export` runs on a node.

use crate::cli::exit_code;
use crate::cli::output;
use backup_store::repository::{DEFAULT_ROOT, Repository};
use backup_store::transfer::send;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Write a backup to standard output, as a tar archive of its directory
///
/// What the archive holds opens the whole cluster: its keys are in it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat send-backup > newest.tar
  etcd-lifeboat send-backup 2026-11-22_031500 | ssh elsewhere tar x")]
pub(crate) struct Args {
    /// Which one [default: the newest proven one]
    name: Option<String>,
    /// Where backups are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
}

/// Sends it.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let out = std::io::stdout();
    if out.is_terminal() {
        output::error("an archive is nothing for a terminal: send it to a file or a program");
        return Ok(exit_code::USAGE);
    }
    anyhow::ensure!(
        args.backup_path.is_dir(),
        "{} is no directory: no backups were made there yet",
        args.backup_path.display()
    );
    let repository = Repository::open(&args.backup_path)?;
    send(&repository, args.name.as_deref(), out.lock())?;
    Ok(exit_code::DONE)
}
