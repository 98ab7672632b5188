//! `etcd-lifeboat volume-server`: the command in the pod of a node's volume.

use crate::cli::exit_code;
use crate::cli::flags::retention::{RetentionArgs, Type};
use crate::cli::logging::{self, LogFormat};
use crate::cli::output;
use crate::cli::runtime::runtime;
use crate::cli::stop::{Stop, UntilStopped};
use crate::sandbox;
use crate::server::node_backup::{client_of_pod, newest_entries};
use crate::server::volume_report;
use anyhow::Context;
use backup_plan::retention::Policy;
use backup_store::progress::Silent;
use backup_store::repository::{DEFAULT_ROOT, Repository};
use backup_store::volume::{Copied, copy_new};
use cluster_api::resources::VolumeStatus;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

const DEFAULT_NUMBER: u64 = 3;
/// How often it looks for new backups.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// After a failure it looks less often: each try copies the backup again.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Copy each proven backup of this node to a volume
///
/// The copies are proven again on the volume, and etcd is not asked for anything. The command runs until it is stopped by a signal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat volume-server --volume-path /mnt/backups --max-number-of-backups 50
  etcd-lifeboat volume-server --volume-path /mnt/backups --once")]
pub(crate) struct Args {
    /// Directory of the backups on the disk of the node
    #[arg(long, alias = "backupPath", value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
    /// Directory of the volume
    #[arg(long, value_name = "DIR")]
    volume_path: PathBuf,
    /// Retention policy on the volume
    #[arg(
        long = "type",
        value_enum,
        value_name = "TYPE",
        default_value = "RetentionNumber"
    )]
    kind: Type,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Name of the node, for its NodeBackup
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Copy what is there now, and exit
    #[arg(long)]
    once: bool,
    /// Format of log lines
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let policy = match args.retention.policy(args.kind, DEFAULT_NUMBER) {
        Ok(policy) => policy,
        Err(problem) => {
            output::error(&problem);
            return Ok(exit_code::USAGE);
        }
    };
    if !args.volume_path.is_dir() {
        output::error(&format!(
            "--volume-path {}: there is no such directory: mount the volume there first",
            args.volume_path.display()
        ));
        return Ok(exit_code::FAILED);
    }
    logging::start(args.log_format);
    if let Err(problem) = sandbox::write_only_below(&args.volume_path) {
        tracing::warn!(
            "cannot restrict writes to the directory of the volume: {problem}; continuing without this restriction"
        );
    }
    let runtime = runtime()?;
    let code = runtime.block_on(serve(&args, policy));
    // A copy that waits for a hanging disk must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

async fn serve(args: &Args, policy: Policy) -> anyhow::Result<u8> {
    let stop = Stop::on_signals().context("cannot listen for signals")?;
    let report = watch::Sender::new(VolumeStatus::default());
    if let (Some(node), Some(client)) = (&args.node_name, client_of_pod()) {
        tokio::spawn(volume_report::tell(
            client,
            node.clone(),
            report.subscribe(),
        ));
    }
    tracing::info!(
        backups = %args.backup_path.display(),
        volume = %args.volume_path.display(),
        "started"
    );
    let mut reported = String::new();
    while !stop.wanted() {
        let (from, to) = (args.backup_path.clone(), args.volume_path.clone());
        let monitor = UntilStopped(stop.clone(), Silent);
        let copying = tokio::task::spawn_blocking(move || {
            let copied = copy(&from, &to, policy, &monitor);
            (copied, volume_status(&to))
        });
        let ended = tokio::select! {
            ended = copying => ended.context("the copy was interrupted")?,
            () = stop.wait() => break,
        };
        let (copied, mut status) = ended;
        let problem = copied.as_ref().err().cloned();
        if let Ok(copied) = &copied {
            log(copied);
        }
        if let Some(problem) = &problem
            && *problem != reported
        {
            tracing::error!("{problem}; trying again");
        }
        reported = problem.clone().unwrap_or_default();
        status.problem = problem;
        report.send_replace(status);
        if args.once {
            return Ok(if reported.is_empty() {
                exit_code::DONE
            } else {
                exit_code::FAILED
            });
        }
        stop.sleep(if reported.is_empty() {
            LOOK_AGAIN
        } else {
            TRY_AGAIN
        })
        .await;
    }
    tracing::info!("stopped");
    Ok(exit_code::DONE)
}

fn copy(
    from: &Path,
    to: &Path,
    policy: Policy,
    monitor: &UntilStopped<Silent>,
) -> Result<Copied, String> {
    let from = match Repository::open(from) {
        Ok(from) => from,
        // The first run of the backup server creates it.
        Err(_) if !from.exists() => return Ok(Copied::default()),
        Err(error) => return Err(error.to_string()),
    };
    copy_new(&from, to, policy, monitor).map_err(|error| error.to_string())
}

fn log(copied: &Copied) {
    for name in &copied.copied {
        tracing::info!(backup = name, "copied to the volume and proven there");
    }
    for (name, reason) in &copied.removed {
        tracing::info!("removed {name} from the volume: {reason}");
    }
    for warning in &copied.warnings {
        tracing::warn!("{warning}");
    }
}

/// What is on the volume.
fn volume_status(volume: &Path) -> VolumeStatus {
    let entries = Repository::open(volume).and_then(|all| all.entries());
    let (backups, kept) = newest_entries(&entries.unwrap_or_default());
    VolumeStatus {
        checked_at: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        last_copied: backups.first().cloned(),
        kept,
        problem: None,
        backups,
    }
}
