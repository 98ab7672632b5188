//! `etcd-lifeboat export`, also as `kubectl lifeboat export`: copies a backup from a node's disk to this machine.
//!
//! The received backup must match the entry in the node's `NodeBackup`.

use crate::cli::exit_code;
use crate::cli::flags::cluster::ClusterArgs;
use crate::cli::output;
use crate::cli::progress_bar::Bar;
use crate::cli::report::for_people;
use crate::cli::runtime::runtime;
use crate::cli::stop::{Stop, UntilStopped};
use crate::server_pod::{self, ANSWER_WITHIN, BackupOnNode, CHUNK_BYTES, Ending};
use crate::volume_pod::VolumePod;
use anyhow::{Context, anyhow, bail, ensure};
use backup_store::transfer::{Arrived, TransferError, take};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Client;
use operator::cluster::server_pods;
use operator::names::{REPOSITORY, VOLUME_MOUNT};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

const INTERRUPTED: &str = "interrupted; the incomplete copy was removed";
/// If a node sends nothing for this time, the export fails.
const STALLED_AFTER: Duration = Duration::from_secs(60);
const CHUNKS_WAITING: usize = 8;
/// How long to wait for the sender's error message after receiving has failed.
const COMPLAINT_WITHIN: Duration = Duration::from_secs(2);

/// Copy a backup from a node's disk to this machine, and verify it here
///
/// The backup comes through the API server. It is written into a new directory that only you can read, because it contains
/// the keys of the cluster. In the namespace of the backup servers, you need permission to run commands in pods (get and
/// create pods/exec) and to list pods and DaemonSets. You also need permission to get NodeBackups. The received backup must
/// match the entry in the node's NodeBackup.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl lifeboat export node-1
  kubectl lifeboat export node-1/2026-11-22_031500 --to /secure/place
  kubectl lifeboat export node-1/2025-01-01_000000 --unlisted
  kubectl lifeboat export node-1 --from-volume

Exit codes: 0 copied and verified, 1 failed or damaged, 2 wrong usage.")]
pub(crate) struct Args {
    /// Node, and name of the backup as `list` shows it [default: the newest proven backup of the node]; with NODE/etcd-NAME, the
    /// newest of another etcd of the node
    #[arg(value_name = "NODE[/NAME]")]
    what: String,
    /// Directory in which to create the directory of the backup
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    /// Export a backup even if the node's NodeBackup, which has only the newest 20, does not list it. The command then cannot
    /// check that it received the backup that the node made
    #[arg(long)]
    unlisted: bool,
    /// Read the copy on the volume of the node instead. If the node is lost, a pod on another node mounts its volume; first make sure
    /// that the lost node is off, and delete its Node or give it the taint node.kubernetes.io/out-of-service
    #[arg(long)]
    from_volume: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let Some(backup) = BackupOnNode::parse(&args.what) else {
        output::error(&format!(
            "{:?} is not the name of a node or backup: expected NODE or NODE/NAME, as `list` shows them",
            args.what
        ));
        return Ok(exit_code::USAGE);
    };
    if args.from_volume && backup.etcd.is_some() {
        output::error(
            "only the backups of the main etcd are copied to a volume: leave out --from-volume, or the name of the other etcd",
        );
        return Ok(exit_code::USAGE);
    }
    if let Some(name) = &backup.name {
        let place = args.to.join(name);
        anyhow::ensure!(
            !place.exists(),
            "{} already exists: remove it, or choose another directory with --to",
            place.display()
        );
    }
    output::require_directory(&args.to)?;
    let runtime = runtime()?;
    let bar = Bar::new();
    let exported = runtime.block_on(export(&args, &backup, &bar));
    bar.finish();
    exported
}

async fn export(args: &Args, backup: &BackupOnNode, bar: &Bar) -> anyhow::Result<u8> {
    let stop = Stop::on_signals().context("cannot listen for signals")?;
    let arrived = fetch(args, backup, bar, &stop).await?;
    let name = arrived.name().to_string();
    let node = &backup.node;
    let monitor = UntilStopped(stop.clone(), bar.clone());
    // On a separate thread, so that signals are still handled.
    let proving = tokio::task::spawn_blocking(move || arrived.prove(&monitor));
    let proven = proving.await;
    bar.finish();
    let (place, report) = proven.context("cannot verify the backup")??;
    if report.ok {
        let size = report.size_bytes.map(output::bytes).unwrap_or_default();
        output::print(&format!(
            "{}: backup {name} of {node}, {size}, revision {}, proven here\n",
            place.display(),
            report.revision.unwrap_or_default()
        ));
        return Ok(exit_code::DONE);
    }
    if stop.wanted() {
        bail!(INTERRUPTED);
    }
    output::print(&for_people(&name, &report));
    output::error(
        "the backup is damaged on the node, not by the transfer: export another backup; the copy here was removed",
    );
    Ok(exit_code::FAILED)
}

/// The entry of a backup in the node's `NodeBackup`. The received backup must match it.
struct Expected {
    name: String,
    sequence: i64,
    revision: i64,
    sha256: String,
}

impl Expected {
    /// Reads the entry of `name`, or of the newest backup.
    async fn of(
        client: &Client,
        backup: &BackupOnNode,
        on_volume: bool,
    ) -> anyhow::Result<Expected> {
        let (node, name) = (&backup.node, backup.name.as_deref());
        let asking = server_pods::node_backup(client, node);
        let found = tokio::time::timeout(ANSWER_WITHIN, asking)
            .await
            .context("the API server does not answer")?
            .map_err(anyhow::Error::msg)?;
        let status = found.and_then(|found| found.status).unwrap_or_default();
        let backups = match &backup.etcd {
            _ if on_volume => status.volume.unwrap_or_default().backups,
            None => status.backups,
            Some(etcd) => {
                let mut others = status.other_etcds.into_iter();
                let other = others.find(|other| format!("etcd-{}", other.name) == *etcd);
                other
                    .and_then(|other| other.last_verified)
                    .into_iter()
                    .collect()
            }
        };
        let entry = match name {
            Some(name) => backups.iter().find(|entry| entry.name == name),
            None => backups.first(),
        };
        let what = name.unwrap_or("a proven backup");
        let Some(entry) = entry else {
            let listed: Vec<_> = backups
                .iter()
                .map(|entry| output::one_line(&entry.name))
                .collect();
            bail!(
                "NodeBackup/{node} does not list {what}, so the command cannot check what it receives. It lists: {}. Use --unlisted to export without this check",
                if listed.is_empty() {
                    "none".into()
                } else {
                    listed.join(", ")
                }
            );
        };
        let Some(sha256) = entry.sha256.clone() else {
            bail!(
                "NodeBackup/{node} lists {} without its SHA-256, because the backup server is an older version. Update it, or use --unlisted to export without this check",
                entry.name
            );
        };
        Ok(Expected {
            name: entry.name.clone(),
            sequence: entry.sequence,
            revision: entry.revision,
            sha256,
        })
    }

    /// Checks that the received backup matches the entry.
    fn check(&self, arrived: &Arrived, node: &str) -> anyhow::Result<()> {
        let record = &arrived.record;
        let snapshot = format!("snapshot_{}.db", arrived.name());
        let sha256 = record.sha256.get(&snapshot).map_or("", String::as_str);
        let sequence = i64::try_from(record.sequence).unwrap_or(i64::MAX);
        let revision = record.snapshot.revision;
        for (what, expected, found) in [
            ("name", self.name.as_str(), arrived.name()),
            (
                "sequence",
                &self.sequence.to_string(),
                &sequence.to_string(),
            ),
            (
                "revision",
                &self.revision.to_string(),
                &revision.to_string(),
            ),
            ("SHA-256", &self.sha256, sha256),
        ] {
            ensure!(
                expected == found,
                "the received backup is not the one that NodeBackup/{node} lists: its {what} is {found:?}, expected {expected:?}. The copy here was removed. Find out who sent it: check the node and the pod of its backup server"
            );
        }
        Ok(())
    }
}

/// Receives the backup under a temporary name. If the connection is lost, tries once more.
async fn fetch(
    args: &Args,
    backup: &BackupOnNode,
    bar: &Bar,
    stop: &Stop,
) -> anyhow::Result<Arrived> {
    let (client, expected, volume) = tokio::select! {
        prepared = prepare(args, backup, bar) => prepared?,
        () = stop.wait() => bail!(INTERRUPTED),
    };
    let fetched = tokio::select! {
        fetched = fetch_from(&client, args, backup, volume.as_ref(), expected.as_ref(), bar) => fetched,
        () = stop.wait() => Err(anyhow!(INTERRUPTED)),
    };
    if let Some(volume) = volume {
        volume.end().await;
    }
    let arrived = fetched?;
    if let Some(expected) = expected {
        expected.check(&arrived, &backup.node)?;
    }
    Ok(arrived)
}

/// The client, what the backup must be, and the pod of the volume.
async fn prepare(
    args: &Args,
    backup: &BackupOnNode,
    bar: &Bar,
) -> anyhow::Result<(Client, Option<Expected>, Option<VolumePod>)> {
    let client = args.cluster.client().await?;
    if !args.from_volume {
        // If no backup server runs, report that first.
        server_pod::find(&client, &backup.node).await?;
    }
    // First, because for a node without a volume this is the clearer message.
    let volume = match args.from_volume {
        true => Some(VolumePod::of(&client, &backup.node, &|what| bar.print(what)).await?),
        false => None,
    };
    let expected = match args.unlisted {
        true => Ok(None),
        false => Expected::of(&client, backup, args.from_volume)
            .await
            .map(Some),
    };
    match (expected, volume) {
        (Ok(expected), volume) => Ok((client, expected, volume)),
        (Err(problem), Some(volume)) => {
            volume.end().await;
            Err(problem)
        }
        (Err(problem), None) => Err(problem),
    }
}

async fn fetch_from(
    client: &Client,
    args: &Args,
    backup: &BackupOnNode,
    volume: Option<&VolumePod>,
    expected: Option<&Expected>,
    bar: &Bar,
) -> anyhow::Result<Arrived> {
    if let Some(volume) = volume {
        volume.wait_until_it_runs().await?;
    }
    let name = expected
        .map(|expected| expected.name.as_str())
        .or(backup.name.as_deref());
    match fetch_once(client, args, backup, volume, name, bar).await {
        Err(error) if is_cut(&error) => {
            bar.print(&format!("{}; trying again", output::told(&error)));
            fetch_once(client, args, backup, volume, name, bar).await
        }
        fetched => fetched,
    }
}

fn is_cut(error: &anyhow::Error) -> bool {
    let is_cut = |error: &TransferError| matches!(error, TransferError::Cut(_));
    error.downcast_ref().is_some_and(is_cut) || error.downcast_ref::<ConnectionLost>().is_some()
}

#[derive(Debug, thiserror::Error)]
#[error("the connection to the API server was lost: {0}")]
struct ConnectionLost(#[from] io::Error);

async fn fetch_once(
    client: &Client,
    args: &Args,
    backup: &BackupOnNode,
    volume: Option<&VolumePod>,
    name: Option<&str>,
    bar: &Bar,
) -> anyhow::Result<Arrived> {
    let node = &backup.node;
    let mut command = vec!["send-backup"];
    command.extend(name);
    let (pod, directory) = match volume {
        Some(volume) => (volume.pod().clone(), VOLUME_MOUNT.to_string()),
        None => (server_pod::find(client, node).await?, backup.directory()),
    };
    let mut sender = server_pod::start(client, &pod, &directory, &command).await?;
    let stream = sender
        .stdout()
        .context("the API server opened no output stream for the command")?;
    let ending = server_pod::ending(&mut sender);
    let (arrived, mut status) = receive(stream, &ending, args.to.clone(), bar.clone()).await;
    if status.is_none() {
        // The sender's error message is better than the message that the stream ended too soon.
        let within = if arrived.is_ok() {
            ANSWER_WITHIN
        } else {
            COMPLAINT_WITHIN
        };
        status = tokio::time::timeout(within, ending).await.ok().flatten();
    }
    let complaint = server_pod::complaint(&mut sender, status, COMPLAINT_WITHIN).await;
    match complaint {
        Some(complaint) => bail!("{node}: {complaint}"),
        None => arrived,
    }
}

/// Receives the stream. A separate thread writes to the disk.
async fn receive(
    mut stream: impl AsyncRead + Unpin,
    ending: &Ending,
    to: PathBuf,
    bar: Bar,
) -> (anyhow::Result<Arrived>, Option<Status>) {
    let (sender, chunks) = sync_channel(CHUNKS_WAITING);
    let taking = tokio::task::spawn_blocking(move || take(Chunks::of(chunks), &to, &bar));
    let mut status = None;
    let forwarded = forward_chunks(&mut stream, ending, &mut status, sender).await;
    let arrived = match (taking.await, forwarded) {
        (Err(error), _) => Err(error.into()),
        (Ok(_), Err(error)) => Err(error),
        (Ok(taken), Ok(())) => taken.map_err(Into::into),
    };
    (arrived, status)
}

/// Passes chunks to the writing thread until the stream ends or the thread stops.
async fn forward_chunks(
    stream: &mut (impl AsyncRead + Unpin),
    ending: &Ending,
    status: &mut Option<Status>,
    sender: SyncSender<Vec<u8>>,
) -> anyhow::Result<()> {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = tokio::select! {
            count = tokio::time::timeout(STALLED_AFTER, stream.read(&mut chunk)) => count
                .with_context(|| format!("received no data for {} s: try again, or copy the backup from {REPOSITORY} on the node", STALLED_AFTER.as_secs()))?
                .map_err(ConnectionLost)?,
            ended = ending.clone(), if status.is_none() => match ended {
                Some(ended) => {
                    // Data that was sent before may still arrive.
                    *status = Some(ended);
                    continue;
                }
                None => return Err(ConnectionLost(io::ErrorKind::ConnectionAborted.into()).into()),
            },
        };
        if count == 0 {
            return Ok(());
        }
        chunk.truncate(count);
        let sender = sender.clone();
        let wanted = tokio::task::spawn_blocking(move || sender.send(chunk).is_ok());
        if !wanted.await.unwrap_or(false) {
            return Ok(());
        }
    }
}

/// Reads the received chunks as one stream.
struct Chunks {
    coming: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    read: usize,
}

impl Chunks {
    fn of(coming: Receiver<Vec<u8>>) -> Self {
        Chunks {
            coming,
            chunk: Vec::new(),
            read: 0,
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.read == self.chunk.len() {
            match self.coming.recv() {
                Ok(chunk) => (self.chunk, self.read) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let rest = self.chunk.get(self.read..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.read += count;
        Ok(count)
    }
}
