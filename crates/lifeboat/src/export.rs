//! `etcd-lifeboat export`, also as `kubectl lifeboat export`: a backup from a node's disk to the machine of whoever asks.
//!
//! The backup server's pod is asked by the API server, as `kubectl exec` does it, so nothing on the node listens for it, and
//! who may do so is a matter of the cluster's own rights.

use crate::cluster::ClusterArgs;
use crate::progress_bar::Bar;
use crate::stop::{Stop, UntilStopped};
use crate::verify::for_people;
use crate::{EXIT_DONE, EXIT_FAILED, EXIT_USAGE, output};
use anyhow::{Context, anyhow, bail};
use backup_store::transfer::{Arrived, take};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess, ListParams};
use kube::{Client, ResourceExt};
use operator::names::{REPOSITORY, SERVER_APP, SERVER_CONTAINER};
use operator::plain;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;

const INTERRUPTED: &str = "interrupted; nothing of it stays here";
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A node that sends nothing for so long is not waited for.
const STALLED_AFTER: Duration = Duration::from_secs(60);
const CHUNK_BYTES: usize = 1 << 18;
const CHUNKS_WAITING: usize = 8;
/// Where taking it failed the sender may still be at it.
const COMPLAINT_WITHIN: Duration = Duration::from_secs(2);
const MAX_COMPLAINT_BYTES: u64 = 4096;
/// What is said must not be in the way of what is sent.
const STDERR_BYTES: usize = 1 << 16;

/// Bring a backup from a node's disk to this machine, and prove it here
///
/// Through the API server, into a directory of its own, which only you can read: the cluster's keys are in it.
/// It wants the right to run commands in pods (get and create pods/exec) where the backup servers are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kubectl lifeboat export node-1
  kubectl lifeboat export node-1/2026-11-22_031500 --to /secure/place

Exit codes: 0 it is here and proven, 1 it is not, 2 wrong usage.")]
pub(crate) struct Args {
    /// The node, and the backup's name as `list` shows it [default: the newest proven one of the node]
    #[arg(value_name = "NODE[/NAME]")]
    what: String,
    /// The directory that the backup's own is made in
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Exports it.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let (node, name) = match args.what.split_once('/') {
        Some((node, name)) => (node, Some(name)),
        None => (args.what.as_str(), None),
    };
    if node.is_empty() || name.is_some_and(is_no_name) {
        output::error(&format!(
            "{:?} names no backup: expected NODE or NODE/NAME, as `list` shows them",
            args.what
        ));
        return Ok(EXIT_USAGE);
    }
    if let Some(name) = name {
        let place = args.to.join(name);
        anyhow::ensure!(!place.exists(), "{} is there already", place.display());
    }
    anyhow::ensure!(
        args.to.is_dir(),
        "{} is no directory: make it first",
        args.to.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting")?;
    let bar = Bar::new();
    let exported = runtime.block_on(export(&args, node, name, &bar));
    bar.finish();
    exported
}

/// What can't be a backup's directory.
fn is_no_name(name: &str) -> bool {
    name.is_empty() || name.starts_with('.') || name.contains('/')
}

async fn export(args: &Args, node: &str, name: Option<&str>, bar: &Bar) -> anyhow::Result<u8> {
    let stop = Stop::on_signals().context("hearing of signals")?;
    let arrived = tokio::select! {
        arrived = fetch(args, node, name, bar) => arrived?,
        () = stop.wait() => bail!(INTERRUPTED),
    };
    let name = arrived.name.clone();
    let monitor = UntilStopped(stop.clone(), bar.clone());
    // On a thread of its own, so that signals are heard meanwhile.
    let proving =
        tokio::task::spawn_blocking(move || Handle::current().block_on(arrived.prove(&monitor)));
    let proven = proving.await;
    bar.finish();
    let (place, report) = proven.context("proving it")??;
    if report.ok {
        let size = report.size_bytes.map(output::bytes).unwrap_or_default();
        output::print(&format!(
            "{}: backup {name} of {node}, {size}, revision {}, proven here\n",
            place.display(),
            report.revision.unwrap_or_default()
        ));
        return Ok(EXIT_DONE);
    }
    if stop.wanted() {
        bail!(INTERRUPTED);
    }
    output::print(&for_people(&name, &report));
    output::error(
        "what arrived is as it was sent, and damaged: take another one; nothing of it stays here",
    );
    Ok(EXIT_FAILED)
}

/// Brings it here, not yet under its name.
async fn fetch(args: &Args, node: &str, name: Option<&str>, bar: &Bar) -> anyhow::Result<Arrived> {
    let client = args.cluster.client().await?;
    let mut sender = start_sender(client, node, name).await?;
    let stream = sender
        .stdout()
        .context("the API server gave no stream of what is sent")?;
    let arrived = receive(stream, args.to.clone(), bar.clone()).await;
    // Why the sender failed says more than that it ended too soon.
    let within = if arrived.is_ok() {
        ANSWER_WITHIN
    } else {
        COMPLAINT_WITHIN
    };
    if let Some(complaint) = complaint(&mut sender, within).await {
        bail!("{node}: {complaint}");
    }
    arrived
}

/// Runs `send-backup` in the node's backup server.
async fn start_sender(
    client: Client,
    node: &str,
    name: Option<&str>,
) -> anyhow::Result<AttachedProcess> {
    let failed =
        |what: &'static str| move |error: kube::Error| anyhow!("{what}: {}", plain(&error));
    let all: Api<Pod> = Api::all(client.clone());
    let of_servers = ListParams::default().labels(&format!("app={SERVER_APP}"));
    let pods = tokio::time::timeout(ANSWER_WITHIN, all.list(&of_servers))
        .await
        .context("the API server does not answer")?
        .map_err(failed("looking for backup servers"))?;
    let runs = |pod: &&Pod| {
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        on == Some(node) && phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
    };
    let Some(pod) = pods.iter().find(runs) else {
        let file = name.unwrap_or("…");
        bail!(
            "no backup server runs on node {node}, which could send it; on the node itself it is in {REPOSITORY}/{file}"
        );
    };
    let path = format!("--backup-path={REPOSITORY}");
    let mut command = vec!["/etcd-lifeboat", "send-backup", path.as_str()];
    command.extend(name);
    let namespace = pod.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let params = AttachParams::default()
        .container(SERVER_CONTAINER)
        .stdin(false)
        .max_stdout_buf_size(CHUNK_BYTES)
        .max_stderr_buf_size(STDERR_BYTES);
    let pod = pod.name_any();
    tokio::time::timeout(ANSWER_WITHIN, pods.exec(&pod, command, &params))
        .await
        .context("the API server does not answer")?
        .map_err(failed("running a command in the pod of the backup server"))
}

/// What the sender says, if it failed.
async fn complaint(sender: &mut AttachedProcess, within: Duration) -> Option<String> {
    let status = sender.take_status()?;
    let mut words = String::new();
    if let Some(errors) = sender.stderr() {
        let mut errors = errors.take(MAX_COMPLAINT_BYTES);
        let reading = errors.read_to_string(&mut words);
        let _ = tokio::time::timeout(within, reading).await;
    }
    let status = tokio::time::timeout(within, status).await.ok()??;
    if status.status.as_deref() == Some("Success") {
        return None;
    }
    let words = words.trim();
    let words = words.strip_prefix("error: ").unwrap_or(words);
    Some(if words.is_empty() {
        status.message.unwrap_or_default()
    } else {
        words.into()
    })
}

/// Takes what is streamed; what writes to the disk is on a thread of its own.
async fn receive(
    mut stream: impl AsyncRead + Unpin,
    to: PathBuf,
    bar: Bar,
) -> anyhow::Result<Arrived> {
    let (sender, chunks) = sync_channel(CHUNKS_WAITING);
    let taking = tokio::task::spawn_blocking(move || take(Chunks::of(chunks), &to, &bar));
    let brought = bring(&mut stream, sender).await;
    let taken = taking.await.context("taking it")?;
    brought?;
    Ok(taken?)
}

/// Brings chunks to the thread that takes them, until there are no more, or it does not want any more.
async fn bring(
    stream: &mut (impl AsyncRead + Unpin),
    sender: SyncSender<Vec<u8>>,
) -> anyhow::Result<()> {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = tokio::time::timeout(STALLED_AFTER, stream.read(&mut chunk))
            .await
            .with_context(|| format!("nothing has come for {} s: try again, or copy it on the node from {REPOSITORY}", STALLED_AFTER.as_secs()))?
            .context("the stream broke")?;
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

/// What has come, to be read.
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
