//! `etcd-lifeboat prune-backups`.

use crate::cli::exit_code;
use crate::cli::flags::retention::{DEFAULT_NUMBER, RetentionArgs, Type};
use crate::cli::output::{self, Format};
use backup_plan::retention::Removal;
use backup_store::progress::Silent;
use backup_store::repository::{DEFAULT_ROOT, Repository};
use backup_store::run;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Remove the backups that the retention policy does not keep
///
/// The policy applies to each origin and each cluster separately. The newest verified backup always stays. Held backups and
/// files that etcd-lifeboat did not make always stay, too.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat prune-backups --type RetentionNumber --max-number-of-backups 5 --dry-run
  etcd-lifeboat prune-backups --type RetentionSize --max-size-of-backups-gb 20")]
pub(crate) struct Args {
    /// Directory of the backups
    #[arg(long, alias = "backupPath", value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
    /// Retention policy [RetentionNumber keeps 15 backups by default, RetentionSize keeps 10 GiB]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Type,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Show what would be removed and why, but remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// The result. Scripts depend on its JSON.
#[derive(Serialize)]
struct Pruned {
    kept: Vec<String>,
    removed: Vec<String>,
    /// Reasons of the removals, by name of the backup.
    reasons: BTreeMap<String, String>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let policy = match args.retention.policy(args.kind, DEFAULT_NUMBER) {
        Ok(policy) => policy,
        Err(problem) => {
            output::error(&problem);
            return Ok(exit_code::USAGE);
        }
    };
    let repository = Repository::open(&args.backup_path)?;
    let mut problems: Vec<String> = Vec::new();
    let removals: Vec<Removal> = if args.dry_run {
        run::planned_removals(&repository, policy, None)?
    } else {
        let locked = repository.lock()?;
        let swept = locked.sweep()?;
        let pruned = run::prune(&locked, policy, None, &Silent)?;
        let stuck = swept
            .stuck
            .iter()
            .map(|(name, error)| format!("cannot remove {name}: {error}"));
        problems.extend(stuck.chain(pruned.failed));
        pruned.removed
    };
    let removed: Vec<_> = removals.iter().map(|removal| &removal.name).collect();
    let kept: Vec<_> = repository
        .entries()?
        .into_iter()
        .filter(|entry| entry.record().is_some() && !removed.contains(&&entry.name))
        .map(|entry| entry.name)
        .collect();
    let text = match args.output {
        Format::Json => {
            let pruned = Pruned {
                kept,
                removed: removals
                    .iter()
                    .map(|removal| removal.name.clone())
                    .collect(),
                reasons: removals
                    .into_iter()
                    .map(|removal| (removal.name, removal.reason))
                    .collect(),
            };
            output::json(&pruned)?
        }
        Format::Table => {
            let done = if args.dry_run {
                "would remove"
            } else {
                "removed"
            };
            let lines = removals
                .iter()
                .map(|removal| format!("{done} {}: {}\n", removal.name, removal.reason));
            lines.collect::<String>() + &format!("{} kept\n", kept.len())
        }
    };
    output::print(&text);
    for problem in &problems {
        output::error(problem);
    }
    Ok(if problems.is_empty() {
        exit_code::DONE
    } else {
        exit_code::FAILED
    })
}
