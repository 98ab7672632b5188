//! `kubectl lifeboat hold`: `hold` on a node, through the API server.

use crate::cli::exit_code;
use crate::cli::flags::cluster::ClusterArgs;
use crate::cli::output;
use crate::cli::runtime::runtime;
use crate::server_pod::{self, ANSWER_WITHIN, BackupOnNode};
use anyhow::{Context, bail, ensure};
use tokio::io::AsyncReadExt;

const MAX_ANSWER_BYTES: u64 = 4096;

/// Protect a backup of a node from automatic removal until you release it
///
/// Retention does not remove a held backup and does not count it. It is also not removed to free disk space.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl lifeboat hold node-1/2026-11-22_031500
  kubectl lifeboat hold --release node-1/2026-11-22_031500")]
pub(crate) struct Args {
    /// Node and name of the backup, as `list` shows them; the name of a backup of another etcd begins with its directory
    #[arg(value_name = "NODE/NAME")]
    what: String,
    /// Release the backup, so that retention may remove it again
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let backup = BackupOnNode::parse(&args.what);
    let Some((backup, name)) = backup.and_then(|backup| {
        let name = backup.name.clone()?;
        Some((backup, name))
    }) else {
        output::error(&format!(
            "{:?} is not the name of a backup: expected NODE/NAME, as `list` shows them",
            args.what
        ));
        return Ok(exit_code::USAGE);
    };
    let runtime = runtime()?;
    let mut command = vec!["hold"];
    if args.release {
        command.push("--release");
    }
    command.push(&name);
    let node = &backup.node;
    runtime.block_on(async {
        let client = args.cluster.client().await?;
        let pod = server_pod::find(&client, node).await?;
        let mut process = server_pod::start(&client, &pod, &backup.directory(), &command).await?;
        let ending = server_pod::ending(&mut process);
        let status = tokio::time::timeout(ANSWER_WITHIN, ending)
            .await
            .context("the node does not answer")?;
        ensure!(
            status.is_some(),
            "the connection to the API server was lost: run `list` to see whether the backup is held"
        );
        if let Some(complaint) = server_pod::complaint(&mut process, status, ANSWER_WITHIN).await {
            bail!("{node}: {complaint}");
        }
        let mut answer = String::new();
        if let Some(out) = process.stdout() {
            let reading = out.take(MAX_ANSWER_BYTES).read_to_string(&mut answer).await;
            reading.context("cannot read the answer of the node")?;
        }
        let etcd = backup.etcd.as_ref();
        let etcd = etcd.map_or_else(String::new, |etcd| format!("{etcd}/"));
        let answer = output::one_line(answer.trim());
        output::print(&format!("{node}/{etcd}{answer}\n"));
        Ok(exit_code::DONE)
    })
}
