//! `etcd-lifeboat hold`.

use crate::{EXIT_DONE, EXIT_FAILED, output};
use backup_store::repository::{DEFAULT_ROOT, Repository};
use std::path::PathBuf;

/// Keep a backup whatever retention says, until it is released
///
/// Nothing automatic removes it then, also when the disk is short of space, and it counts toward no limit. `list` shows what
/// is held.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat hold 2026-11-22_031500
  etcd-lifeboat hold --release 2026-11-22_031500")]
pub(crate) struct Args {
    /// The backup, by its name in `list`
    name: String,
    /// Give it back to retention
    #[arg(long)]
    release: bool,
    /// Where backups are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
}

/// Holds or releases it.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    if !args.backup_path.is_dir() {
        output::error(&format!(
            "{} is no directory: name the right one by --backup-path",
            args.backup_path.display()
        ));
        return Ok(EXIT_FAILED);
    }
    let repository = Repository::open(&args.backup_path)?;
    let name = &args.name;
    let done = if args.release {
        repository.release(name)?;
        "is released: retention may remove it"
    } else {
        repository.hold(name)?;
        "is held: nothing automatic removes it"
    };
    output::print(&format!("{name} {done}\n"));
    Ok(EXIT_DONE)
}
