//! `etcd-lifeboat request-backup`: what the CronJob of a `Backup` runs.

use crate::cli::exit_code;
use crate::cli::flags::cluster::ClusterArgs;
use crate::cli::output;
use crate::cli::runtime::runtime;
use anyhow::anyhow;
use operator::request::{self, Ended, Order, Owner};
use std::time::Duration;

/// Ask for a backup by an EtcdBackup, and wait for what comes of it
///
/// In the pod of a Job the request belongs to that Job, and goes with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat request-backup
  etcd-lifeboat request-backup --pvc-name etcd-backups --timeout 1h")]
pub(crate) struct Args {
    /// The claim of the volume that it goes to [default: the disk of every control-plane node]
    #[arg(long, value_name = "NAME", default_value = "")]
    pvc_name: String,
    /// The one node it is made on [default: all of the control plane]
    #[arg(long, value_name = "NAME", conflicts_with = "pvc_name")]
    node: Option<String>,
    /// The Backup it is for
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,
    /// How long to wait for its turn and for its end
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = crate::cli::duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[arg(long, env = "MY_JOB_NAME", hide = true)]
    job_name: Option<String>,
    #[arg(long, env = "MY_JOB_UID", hide = true)]
    job_uid: Option<String>,
    /// Name of the EtcdBackup [default: one that nobody has]
    #[arg(long, value_name = "NAME", env = "MY_POD_NAME")]
    name: Option<String>,
}

/// Asks, and waits.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let owner = match (args.job_name, args.job_uid) {
        (Some(name), Some(uid)) => Some(Owner { name, uid }),
        (None, None) => None,
        _ => {
            output::error("--job-name and --job-uid go together: a Job is named by both");
            return Ok(exit_code::USAGE);
        }
    };
    let order = Order {
        name: args.name,
        backup: args.backup,
        node: args.node,
        pvc_name: args.pvc_name,
        owner,
        timeout: args.timeout,
    };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let client = args.cluster.client().await?;
        let tell = |what: &str| eprintln!("{what}");
        request::run(client, &order, &tell)
            .await
            .map_err(|error| anyhow!("asking for a backup: {}", operator::plain(&error)))
    })?;
    match ended {
        Ended::Completed { name, message } => {
            output::print(&format!("EtcdBackup {name}: {message}\n"));
            Ok(exit_code::DONE)
        }
        Ended::Failed { name, message } => {
            output::error(&format!("EtcdBackup {name}: {message}"));
            Ok(exit_code::FAILED)
        }
        Ended::NotAsked { message } => {
            output::error(&message);
            Ok(exit_code::FAILED)
        }
    }
}
