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
use crate::server::follow;
use crate::server::observed::{Fixed, Observed};
use crate::server::plan::{Plan, Settings};
use crate::server::serve::Server;
use anyhow::Context;
use backup_plan::cron::Schedule;
#[cfg(feature = "kubernetes")]
use backup_plan::record::is_origin;
use backup_store::disk::Disk;
use backup_store::repository::DEFAULT_ROOT;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

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
    /// Follow this Backup of the cluster: it decides when backups are made and which are kept, and without it none are made. The
    /// credential of the node is needed for this, see `sidecar-credential`
    #[cfg(feature = "kubernetes")]
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with_all = ["schedule", "timezone", "kind", "max_number_of_backups", "max_size_of_backups_gb", "enabled"]
    )]
    follow_backup: Option<String>,
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
    let plan = match checked {
        Ok(plan) => plan,
        Err(problem) => {
            output::error(&problem);
            return Ok(exit_code::USAGE);
        }
    };
    if args.dry_run {
        return dry_run(&args);
    }
    logging::start(args.log_format);
    #[cfg(feature = "kubernetes")]
    if args.follow_backup.is_some() {
        follow::give_way_if_memory_runs_out();
    }
    if let Err(problem) = sandbox::write_only_below(&args.backup_path) {
        tracing::warn!(
            "cannot restrict writes to the directory of the backups: {problem}; continuing without this restriction"
        );
    }
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let stop = Stop::on_signals().context("cannot listen for signals")?;
        let plan = watch::Sender::new(plan);
        let requests = watch::Sender::new(0);
        let fixed = Fixed {
            repository: args.backup_path.clone(),
            reserve_bytes: args.node.reserve_bytes(),
        };
        let observed = Arc::new(Observed::new(fixed, plan.subscribe()));
        tokio::spawn(observed.clone().watch());
        tokio::spawn(listener::serve(args.listen, observed.clone()));
        let server = Server {
            node: args.node.clone(),
            backup_path: args.backup_path.clone(),
            stop,
            requests: requests.subscribe(),
            disk: Disk::default(),
            observed: observed.clone(),
        };
        let following = plan.subscribe();
        #[cfg(feature = "kubernetes")]
        follow::start(
            args.follow_backup.as_deref(),
            &args.node.node_name(),
            &observed,
            plan,
            requests,
        );
        server.serve(following).await;
        anyhow::Ok(exit_code::DONE)
    });
    // A run that waits for a hanging disk must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

impl Args {
    /// Checks the flags. The error names the wrong flag and a correct value.
    fn check(&self) -> Result<Plan, String> {
        #[cfg(feature = "kubernetes")]
        if let Some(name) = &self.follow_backup {
            if !is_origin(name) {
                return Err(format!(
                    "--follow-backup {name:?} is not a valid name of a Backup: use default"
                ));
            }
            self.node.check()?;
            return Ok(Plan::Reading);
        }
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
        if !self.enabled {
            let why = "backups are not enabled on this node (--enabled=false)";
            return Ok(Plan::Off(why.into()));
        }
        Ok(Plan::On(Settings {
            schedule_text: self.schedule.clone(),
            schedule,
            zone,
            policy,
        }))
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
