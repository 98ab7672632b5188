//! `etcd-lifeboat send-backup`: the command that `export` runs on a node.

use crate::cli::exit_code;
use crate::cli::output;
use backup_store::repository::{DEFAULT_ROOT, Repository};
use backup_store::transfer::send;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Write a backup to standard output, as a tar archive of its directory
///
/// Keep the output secret: it contains the keys of the cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat send-backup > newest.tar
  etcd-lifeboat send-backup 2026-11-22_031500 | ssh elsewhere tar x")]
pub(crate) struct Args {
    /// Name of the backup [default: the newest proven backup]
    name: Option<String>,
    /// Directory of the backups
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let out = std::io::stdout();
    if out.is_terminal() {
        output::error(
            "cannot write a tar archive to a terminal: redirect the output to a file or a pipe",
        );
        return Ok(exit_code::USAGE);
    }
    let repository = Repository::open(&args.backup_path)?;
    send(&repository, args.name.as_deref(), out.lock())?;
    Ok(exit_code::DONE)
}
