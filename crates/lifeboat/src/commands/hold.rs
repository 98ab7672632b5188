//! `etcd-lifeboat hold`, and `kubectl lifeboat hold` from elsewhere.

use crate::cli::exit_code;
use crate::cli::flags::cluster::ClusterArgs;
use crate::cli::output;
use crate::cli::runtime::runtime;
use crate::server_pod::{self, ANSWER_WITHIN, is_backup_name};
use anyhow::{Context, bail, ensure};
use backup_store::repository::{DEFAULT_ROOT, Repository};
use std::path::PathBuf;
use tokio::io::AsyncReadExt;

const MAX_ANSWER_BYTES: u64 = 4096;

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
            "{} is not a directory: name the right one by --backup-path",
            args.backup_path.display()
        ));
        return Ok(exit_code::FAILED);
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
    Ok(exit_code::DONE)
}

/// Keep a backup of a node whatever retention says, until it is released
///
/// Nothing automatic removes it then, also when the disk is short of space, and it counts toward no limit.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl lifeboat hold node-1/2026-11-22_031500
  kubectl lifeboat hold --release node-1/2026-11-22_031500")]
pub(crate) struct RemoteArgs {
    /// The node, and the backup's name as `list` shows it
    #[arg(value_name = "NODE/NAME")]
    what: String,
    /// Give it back to retention
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Holds or releases it on its node.
pub(crate) fn run_remote(args: RemoteArgs) -> anyhow::Result<u8> {
    let Some((node, name)) = args
        .what
        .split_once('/')
        .filter(|(node, name)| !node.is_empty() && is_backup_name(name))
    else {
        output::error(&format!(
            "{:?} names no backup: expected NODE/NAME, as `list` shows them",
            args.what
        ));
        return Ok(exit_code::USAGE);
    };
    let runtime = runtime()?;
    let mut command = vec!["hold"];
    if args.release {
        command.push("--release");
    }
    command.push(name);
    runtime.block_on(async {
        let client = args.cluster.client().await?;
        let pod = server_pod::find(&client, node).await?;
        let mut process = server_pod::start(&client, &pod, &command).await?;
        let ending = server_pod::ending(&mut process);
        let status = tokio::time::timeout(ANSWER_WITHIN, ending)
            .await
            .context("the node does not answer")?;
        ensure!(
            status.is_some(),
            "the connection to the API server broke: whether it was done, `list` shows"
        );
        if let Some(complaint) = server_pod::complaint(&mut process, status, ANSWER_WITHIN).await {
            bail!("{node}: {complaint}");
        }
        let mut said = String::new();
        if let Some(out) = process.stdout() {
            let reading = out.take(MAX_ANSWER_BYTES).read_to_string(&mut said).await;
            reading.context("reading the answer")?;
        }
        output::print(&format!("{node}/{}\n", output::one_line(said.trim())));
        Ok(exit_code::DONE)
    })
}
