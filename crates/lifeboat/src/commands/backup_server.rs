//! `etcd-lifeboat backup-server`: makes proven backups of the node's etcd member on a schedule.

use crate::cli::exit_code;
use crate::cli::flags::node::NodeArgs;
use crate::cli::flags::retention::{RetentionArgs, Type};
use crate::cli::logging::{self, LogFormat};
use crate::cli::output;
use crate::cli::runtime::runtime;
use crate::cli::stop::Stop;
use crate::http::listener;
use crate::sandbox;
#[cfg(feature = "kubernetes")]
use crate::server::node_backup;
use crate::server::observed::{Fixed, Observed};
use crate::server::serve::Server;
use anyhow::Context;
use backup_plan::agenda::Agenda;
use backup_plan::cron::Schedule;
use backup_plan::retention::Policy;
use backup_store::disk::Disk;
use backup_store::repository::DEFAULT_ROOT;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_NUMBER: u64 = 3;
/// A loopback address. The port is from a range of OpenShift's registry of host ports (29000 to 29999), below the ephemeral
/// ports and the NodePorts of Kubernetes.
const LISTEN: &str = "127.0.0.1:29379";

/// Make proven backups of this node's etcd on a schedule
///
/// The server finds etcd from the node's files. If a run fails, the server logs the reason and tries again. It runs until it
/// is stopped by a signal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat backup-server
  etcd-lifeboat backup-server --dry-run --output json
  etcd-lifeboat backup-server --schedule '0 */6 * * *' --timezone Europe/Berlin \\
      --max-number-of-backups 8")]
pub(crate) struct Args {
    /// Whether to make backups; with --enabled=false the server runs but makes none
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    enabled: bool,
    /// When to make backups: five cron fields, a descriptor such as @hourly, or an interval such as @every 90s
    #[arg(long, value_name = "SCHEDULE", default_value = "*/5 * * * *")]
    schedule: String,
    /// IANA time zone of the schedule, such as Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    timezone: String,
    /// Directory of the backups
    #[arg(long, alias = "backupPath", value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
    /// Retention policy
    #[arg(
        long = "type",
        value_enum,
        value_name = "TYPE",
        default_value = "RetentionNumber"
    )]
    kind: Type,
    #[command(flatten)]
    retention: RetentionArgs,
    #[command(flatten)]
    node: NodeArgs,
    /// Address of /metrics, /healthz and /readyz; port 0 selects a free port
    #[arg(long, value_name = "ADDRESS", default_value = LISTEN)]
    listen: SocketAddr,
    /// Show what was found on the node and where, make no backup, and exit
    #[arg(long)]
    dry_run: bool,
    /// Output format of --dry-run
    #[arg(long, value_enum, default_value = "table")]
    output: output::Format,
    /// Format of log lines
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// Runs until a signal.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let checked = args.check();
    let (schedule, zone, policy) = match checked {
        Ok(checked) => checked,
        Err(problem) => {
            output::error(&problem);
            return Ok(exit_code::USAGE);
        }
    };
    if args.dry_run {
        return dry_run(&args);
    }
    logging::start(args.log_format);
    if let Err(problem) = sandbox::write_only_below(&args.backup_path) {
        tracing::warn!(
            "cannot restrict writes to the directory of the backups: {problem}; continuing without this restriction"
        );
    }
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let stop = Stop::on_signals().context("cannot listen for signals")?;
        let observed = Arc::new(Observed::new(Fixed {
            enabled: args.enabled,
            schedule_text: args.schedule.clone(),
            schedule: schedule.clone(),
            zone: zone.clone(),
            repository: args.backup_path.clone(),
            reserve_bytes: args.node.reserve_bytes(),
        }));
        tokio::spawn(observed.clone().watch());
        tokio::spawn(listener::serve(args.listen, observed.clone()));
        #[cfg(feature = "kubernetes")]
        tokio::spawn(node_backup::tell(args.node.node_name(), observed.clone()));
        if !args.enabled {
            tracing::info!(
                "backups are not enabled (--enabled=false): waiting for a signal to stop"
            );
            stop.wait().await;
            return Ok(exit_code::DONE);
        }
        let agenda = Agenda::new(schedule, zone, Timestamp::now());
        Server {
            node: args.node,
            backup_path: args.backup_path,
            policy,
            stop,
            disk: Disk::default(),
            observed,
        }
        .serve(agenda)
        .await;
        anyhow::Ok(exit_code::DONE)
    });
    // A run that waits for a hanging disk must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

impl Args {
    /// Checks the flags. The error names the wrong flag and a correct value.
    fn check(&self) -> Result<(Schedule, TimeZone, Policy), String> {
        let schedule = Schedule::parse(&self.schedule).map_err(|error| error.to_string())?;
        let zone = TimeZone::get(&self.timezone).map_err(|_| {
            format!(
                "--timezone {:?} is not an IANA time zone: use a name such as UTC or Europe/Berlin",
                self.timezone
            )
        })?;
        if schedule.next_after(Timestamp::now(), &zone).is_none() {
            return Err(format!(
                "--schedule {:?} is never due in the next five years: change the schedule",
                self.schedule
            ));
        }
        let policy = self.retention.policy(self.kind, DEFAULT_NUMBER)?;
        self.node.check()?;
        Ok((schedule, zone, policy))
    }
}

fn dry_run(args: &Args) -> anyhow::Result<u8> {
    let found = match args.node.find() {
        Ok(found) => found,
        Err(problem) => {
            output::error(&problem);
            return Ok(exit_code::FAILED);
        }
    };
    let text = match args.output {
        output::Format::Json => output::json(&found)?,
        output::Format::Table => {
            let none = || "-".to_string();
            let lines = |items: Vec<String>| {
                if items.is_empty() {
                    none()
                } else {
                    items.join("\n")
                }
            };
            let mut not_archived = found.not_archived;
            not_archived.extend(found.missing);
            output::table(
                ["WHAT", "FOUND"],
                [
                    ["platform".into(), found.platform.name().into()],
                    ["found in".into(), lines(found.found_in)],
                    ["endpoint".into(), found.endpoint],
                    ["cacert".into(), found.cacert.unwrap_or_else(none)],
                    ["cert".into(), found.cert.unwrap_or_else(none)],
                    ["key".into(), found.key.unwrap_or_else(none)],
                    ["data dir".into(), found.data_dir.unwrap_or_else(none)],
                    ["archived".into(), lines(found.resources)],
                    ["not archived".into(), lines(not_archived)],
                    ["backups".into(), args.backup_path.display().to_string()],
                    [
                        "schedule".into(),
                        format!("{} {}", args.schedule, args.timezone),
                    ],
                ],
            )
        }
    };
    output::print(&text);
    Ok(exit_code::DONE)
}
