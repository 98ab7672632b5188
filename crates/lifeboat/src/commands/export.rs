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
use crate::server_pod::{self, ANSWER_WITHIN, CHUNK_BYTES, Ending, is_backup_name};
use anyhow::{Context, bail, ensure};
use backup_store::transfer::{Arrived, TransferError, take};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Client;
use operator::cluster::server_pods;
use operator::names::REPOSITORY;
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

Exit codes: 0 copied and verified, 1 failed or damaged, 2 wrong usage.")]
pub(crate) struct Args {
    /// Node, and name of the backup as `list` shows it [default: the newest proven backup of the node]
    #[arg(value_name = "NODE[/NAME]")]
    what: String,
    /// Directory in which to create the directory of the backup
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    /// Export a backup even if the node's NodeBackup, which has only the newest 20, does not list it. The command then cannot
    /// check that it received the backup that the node made
    #[arg(long)]
    unlisted: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let (node, name) = match args.what.split_once('/') {
        Some((node, name)) => (node, Some(name)),
        None => (args.what.as_str(), None),
    };
    if node.is_empty() || name.is_some_and(|name| !is_backup_name(name)) {
        output::error(&format!(
            "{:?} is not the name of a node or backup: expected NODE or NODE/NAME, as `list` shows them",
            args.what
        ));
        return Ok(exit_code::USAGE);
    }
    if let Some(name) = name {
        let place = args.to.join(name);
        anyhow::ensure!(
            !place.exists(),
            "{} already exists: remove it, or choose another directory with --to",
            place.display()
        );
    }
    anyhow::ensure!(
        args.to.is_dir(),
        "{} is not a directory: create it first",
        args.to.display()
    );
    let runtime = runtime()?;
    let bar = Bar::new();
    let exported = runtime.block_on(export(&args, node, name, &bar));
    bar.finish();
    exported
}

async fn export(args: &Args, node: &str, name: Option<&str>, bar: &Bar) -> anyhow::Result<u8> {
    let stop = Stop::on_signals().context("cannot listen for signals")?;
    let arrived = tokio::select! {
        arrived = fetch(args, node, name, bar) => arrived?,
        () = stop.wait() => bail!(INTERRUPTED),
    };
    let name = arrived.name().to_string();
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
    async fn of(client: &Client, node: &str, name: Option<&str>) -> anyhow::Result<Expected> {
        let asking = server_pods::node_backup(client, node);
        let found = tokio::time::timeout(ANSWER_WITHIN, asking)
            .await
            .context("the API server does not answer")?
            .map_err(anyhow::Error::msg)?;
        let backups = found.and_then(|found| Some(found.status?.backups));
        let backups = backups.unwrap_or_default();
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
async fn fetch(args: &Args, node: &str, name: Option<&str>, bar: &Bar) -> anyhow::Result<Arrived> {
    let client = args.cluster.client().await?;
    // If no backup server runs, report that first.
    server_pod::find(&client, node).await?;
    let expected = if args.unlisted {
        None
    } else {
        Some(Expected::of(&client, node, name).await?)
    };
    let name = expected
        .as_ref()
        .map(|expected| expected.name.as_str())
        .or(name);
    let arrived = match fetch_once(&client, args, node, name, bar).await {
        Err(error) if is_cut(&error) => {
            bar.print(&format!("{}; trying again", output::told(&error)));
            fetch_once(&client, args, node, name, bar).await
        }
        fetched => fetched,
    }?;
    if let Some(expected) = expected {
        expected.check(&arrived, node)?;
    }
    Ok(arrived)
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
    node: &str,
    name: Option<&str>,
    bar: &Bar,
) -> anyhow::Result<Arrived> {
    let mut command = vec!["send-backup"];
    command.extend(name);
    let pod = server_pod::find(client, node).await?;
    let mut sender = server_pod::start(client, &pod, &command).await?;
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
