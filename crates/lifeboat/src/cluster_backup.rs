//! `etcd-lifeboat cluster-backup`.

use crate::node::NodeArgs;
use crate::output::{self, Format};
use crate::progress_bar::Bar;
use crate::{EXIT_DONE, EXIT_USAGE};
use anyhow::Context;
use backup_plan::record::ON_DEMAND;
use backup_store::backup::{self, SharedMonitor};
use backup_store::repository::Repository;
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;

/// Make one proven backup now
///
/// The snapshot of the node's own member, read back and checked, and the node's control-plane files, in a
/// directory named by the time.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat cluster-backup --backup-dir /var/backups/etcd
  etcd-lifeboat cluster-backup --backup-dir . --endpoints https://127.0.0.1:2379 \\
      --cacert ca.crt --cert client.crt --key client.key --output json")]
pub(crate) struct Args {
    /// Where the backup's directory goes
    #[arg(long, value_name = "DIR")]
    backup_dir: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    node: NodeArgs,
}

/// Makes it.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    if let Err(problem) = args.node.check() {
        output::error(&problem);
        return Ok(EXIT_USAGE);
    }
    let order = args
        .node
        .order(ON_DEMAND, "command")
        .map_err(anyhow::Error::msg)?;
    let repository = Repository::open(&args.backup_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting")?;
    let bar = Bar::new();
    let monitor: SharedMonitor = Arc::new(bar.clone());
    let made = runtime.block_on(backup::run(
        &repository,
        &order,
        &Timestamp::now,
        &monitor,
        &|_| {},
    ));
    bar.finish();
    let made = made?;
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&made.record)? + "\n",
        Format::Table => {
            let snapshot = &made.record.snapshot;
            let warnings: String = made
                .record
                .warnings
                .iter()
                .map(|warning| format!("warning: {warning}\n"))
                .collect();
            format!(
                "{}\nrevision {}, {} keys, {}, verified: {}\n{warnings}",
                made.path.display(),
                snapshot.revision,
                snapshot.total_keys,
                output::bytes(snapshot.size_bytes),
                made.record.verified.join(", "),
            )
        }
    };
    output::print(&text);
    Ok(EXIT_DONE)
}
