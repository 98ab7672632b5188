//! `etcd-lifeboat hold`.

use crate::cli::exit_code;
use crate::cli::output;
use backup_store::repository::{DEFAULT_ROOT, Repository};
use std::path::PathBuf;

/// Protect a backup from automatic removal until you release it
///
/// Retention does not remove a held backup and does not count it. It is also not removed to free disk space. `list` shows
/// which backups are held.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat hold 2026-11-22_031500
  etcd-lifeboat hold --release 2026-11-22_031500")]
pub(crate) struct Args {
    /// Name of the backup, as `list` shows it
    name: String,
    /// Release the backup, so that retention may remove it again
    #[arg(long)]
    release: bool,
    /// Directory of the backups
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let repository = Repository::open(&args.backup_path)?;
    let name = &args.name;
    let done = if args.release {
        repository.release(name)?;
        "is released: retention may remove it"
    } else {
        repository.hold(name)?;
        "is held: it is not removed automatically"
    };
    output::print(&format!("{name} {done}\n"));
    Ok(exit_code::DONE)
}
