//! `etcd-lifeboat cluster-backup`.

use crate::cli::exit_code;
use crate::cli::flags::node::NodeArgs;
use crate::cli::flags::retention::{DEFAULT_NUMBER, RetentionArgs, Type};
use crate::cli::output::{self, Format};
use crate::cli::progress_bar::Bar;
use crate::cli::runtime::runtime;
use crate::cli::stop::{Stop, UntilStopped};
use crate::sandbox;
use anyhow::Context;
use backup_plan::record::{ON_DEMAND, Record, Trigger, is_origin, names_of};
use backup_plan::retention::Policy;
use backup_store::disk::Disk;
use backup_store::repository::{Repository, RepositoryError};
use backup_store::run::{Finished, Order, RunError, Runner};
use jiff::Timestamp;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait before trying to get the lock again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Make one proven backup now
///
/// The backup has a snapshot of this node's etcd member and an archive of the node's control-plane files. The command reads
/// the snapshot back from the disk and verifies it. The name of the backup's directory is the time.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat cluster-backup --backup-dir /var/backups/etcd
  etcd-lifeboat cluster-backup --backup-dir . --endpoints https://127.0.0.1:2379 \\
      --cacert ca.crt --cert client.crt --key client.key --output json")]
pub(crate) struct Args {
    /// Directory in which to create the backup
    #[arg(long, value_name = "DIR")]
    backup_dir: PathBuf,
    /// Origin of the backup, such as the name of a Backup; retention counts the backups of each origin separately
    #[arg(long, value_name = "NAME", default_value = ON_DEMAND)]
    origin: String,
    /// Retention policy for the older backups of this origin, applied after this backup
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value = "None")]
    kind: Type,
    #[command(flatten)]
    retention: RetentionArgs,
    /// How long to wait while another run uses the same directory, such as 10m
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = crate::cli::duration::parse)]
    lock_timeout: Duration,
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    if let Err(problem) = args.node.check() {
        output::error(&problem);
        return Ok(exit_code::USAGE);
    }
    if !is_origin(&args.origin) {
        output::error(&format!(
            "--origin {:?} is not a valid name of a Backup: use lowercase letters, digits, - and .",
            args.origin
        ));
        return Ok(exit_code::USAGE);
    }
    let policy = match args.retention.policy(args.kind, DEFAULT_NUMBER) {
        Ok(policy) => policy,
        Err(problem) => {
            output::error(&problem);
            return Ok(exit_code::USAGE);
        }
    };
    let orders = args
        .node
        .orders(&args.origin, Trigger::Command)
        .map_err(anyhow::Error::msg)?;
    let repository = Repository::create(&args.backup_dir)?;
    if let Err(problem) = sandbox::write_only_below(&args.backup_dir) {
        output::error(&format!(
            "cannot restrict writes to the directory of the backups: {problem}; continuing without this restriction"
        ));
    }
    let runtime = runtime()?;
    let bar = Bar::new();
    let stop = {
        let _inside = runtime.enter();
        Stop::on_signals().context("cannot listen for signals")?
    };
    let maker = Maker {
        policy,
        // A timeout that no clock can hold never ends.
        deadline: Instant::now().checked_add(args.lock_timeout),
        bar: bar.clone(),
        stop,
    };
    let (made, others) = runtime.block_on(async {
        let made = maker.make(repository, &orders.main).await;
        let mut others = Vec::new();
        for order in &orders.others {
            let name = order.etcd.clone().unwrap_or_default();
            let path = Repository::of_other_etcd(&args.backup_dir, &name);
            let made = match Repository::create(&path) {
                Ok(repository) => maker.make(repository, order).await,
                Err(error) => Err(error.into()),
            };
            others.push((name, made));
        }
        (made, others)
    });
    // A hanging disk must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    bar.finish();
    let mut code = exit_code::DONE;
    let mut made_others = Vec::new();
    for (name, made) in others {
        match made {
            Ok(made) => made_others.push(made),
            Err(error) => {
                output::error(&format!("etcd {name}: {error}"));
                code = exit_code::FAILED;
            }
        }
    }
    let made = made?;
    let text = match args.output {
        Format::Json => output::json(&Printed {
            record: &made.record,
            other_etcds: made_others.iter().map(|made| &made.record).collect(),
        })?,
        Format::Table => {
            let all = std::iter::once(&made).chain(&made_others);
            all.map(|made| summary(&made.path, &made.record)).collect()
        }
    };
    output::print(&text);
    Ok(code)
}

/// The record, with those of other etcds of the node.
#[derive(Serialize)]
struct Printed<'r> {
    #[serde(flatten)]
    record: &'r Record,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_etcds: Vec<&'r Record>,
}

/// Makes backups, one after another.
struct Maker {
    policy: Policy,
    /// Until when it waits for the lock of a repository.
    deadline: Option<Instant>,
    bar: Bar,
    stop: Stop,
}

impl Maker {
    async fn make(&self, repository: Repository, order: &Order) -> Result<Finished, RunError> {
        let runner = Runner {
            repository,
            disk: Disk::default(),
            now: Timestamp::now,
            monitor: Arc::new(UntilStopped(self.stop.clone(), self.bar.clone())),
            on_event: {
                let bar = self.bar.clone();
                // To standard error, because scripts read the result from standard output.
                Arc::new(move |event| bar.print(&output::one_line(&event.to_string())))
            },
        };
        loop {
            match self.stop.or_end(runner.run(order, self.policy)).await {
                Err(RunError::Repository(RepositoryError::Locked { .. }))
                    if !self.stop.wanted()
                        && self.deadline.is_none_or(|at| Instant::now() < at) =>
                {
                    self.stop.sleep(LOOK_AGAIN).await;
                }
                made => return made,
            }
        }
    }
}

/// What was made, and its warnings, one a line.
fn summary(path: &Path, record: &Record) -> String {
    let snapshot = &record.snapshot;
    let etcd = record.etcd.as_ref();
    let etcd = etcd.map_or_else(String::new, |name| format!("etcd {name}, "));
    let mut text = format!(
        "{}\n{etcd}revision {}, {} keys, {}, verified: {}\n",
        path.display(),
        snapshot.revision,
        snapshot.total_keys,
        output::bytes(snapshot.size_bytes),
        names_of(&record.verified, ", "),
    );
    for warning in record.warnings.iter().chain(&record.not_backed_up) {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for missing in &record.archive_missing {
        text.push_str(&format!(
            "warning: the archive of control-plane files is incomplete: {missing}\n"
        ));
    }
    text
}
