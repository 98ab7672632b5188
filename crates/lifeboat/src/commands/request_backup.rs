//! `etcd-lifeboat request-backup`: the command in the CronJob of a `Backup`.

use crate::cli::exit_code;
use crate::cli::flags::cluster::ClusterArgs;
use crate::cli::output;
use crate::cli::runtime::runtime;
use crate::cli::stop::Stop;
use anyhow::{Context, anyhow, bail};
use operator::cluster::backup_request::{self, Owner, RequestOptions, RequestResult};
use std::time::Duration;

/// Create an EtcdBackup, and wait for its result
///
/// In the pod of a Job, the EtcdBackup belongs to the Job and is deleted with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat request-backup
  etcd-lifeboat request-backup --pvc-name etcd-backups --timeout 1h")]
pub(crate) struct Args {
    /// PersistentVolumeClaim to store the backup in [default: the disk of every control-plane node]
    #[arg(long, value_name = "NAME", default_value = "")]
    pvc_name: String,
    /// The only node to back up [default: all control-plane nodes]
    #[arg(long, value_name = "NAME", conflicts_with = "pvc_name")]
    node: Option<String>,
    /// Name of the Backup that this backup belongs to
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,
    /// How long to wait for the result; the time that the EtcdBackup is pending counts, too
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = crate::cli::duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[arg(long, env = "MY_JOB_NAME", hide = true)]
    job_name: Option<String>,
    #[arg(long, env = "MY_JOB_UID", hide = true)]
    job_uid: Option<String>,
    /// Name of the EtcdBackup [default: a generated name]
    #[arg(long, value_name = "NAME", env = "MY_POD_NAME")]
    name: Option<String>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let owner = match (args.job_name, args.job_uid) {
        (Some(name), Some(uid)) => Some(Owner { name, uid }),
        (None, None) => None,
        _ => {
            output::error("--job-name and --job-uid must be used together: give both or neither");
            return Ok(exit_code::USAGE);
        }
    };
    let options = RequestOptions {
        name: args.name,
        backup: args.backup,
        node: args.node,
        pvc_name: args.pvc_name,
        owner,
        timeout: args.timeout,
    };
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let stop = Stop::on_signals().context("cannot listen for signals")?;
        let client = args.cluster.client().await?;
        let report = |what: &str| eprintln!("{what}");
        let requested = tokio::select! {
            requested = backup_request::run(client, &options, &report) => requested,
            () = stop.wait() => bail!("interrupted: if the EtcdBackup was already created, it continues; `kubectl get etcdbackups` shows it"),
        };
        requested.map_err(|error| {
            anyhow!(
                "cannot create the EtcdBackup: {}",
                operator::api_error_message(&error)
            )
        })
    })?;
    match ended {
        RequestResult::Completed { name, message } => {
            output::print(&format!("{name}: {message}\n"));
            Ok(exit_code::DONE)
        }
        RequestResult::Failed { name, message } => {
            output::error(&format!("{name}: {message}"));
            Ok(exit_code::FAILED)
        }
        RequestResult::NotCreated { message } => {
            output::error(&message);
            Ok(exit_code::FAILED)
        }
    }
}
