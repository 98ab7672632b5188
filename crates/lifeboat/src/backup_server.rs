//! `etcd-lifeboat backup-server`: the loop that keeps proven backups of the node's own member.

use crate::logging::{self, LogFormat};
use crate::node::NodeArgs;
use crate::output;
use crate::retention::{RetentionArgs, Type};
use crate::{EXIT_DONE, EXIT_FAILED, EXIT_USAGE};
use anyhow::Context;
use backup_plan::agenda::{Agenda, Next, retry_delay};
use backup_plan::cron::Schedule;
use backup_plan::retention::Policy;
use backup_plan::turns;
use backup_store::backup::{self, RunError, SharedMonitor};
use backup_store::member::Member;
use backup_store::progress::Monitor;
use backup_store::repository::{DEFAULT_ROOT, Repository};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// The origin of the backups that a server without further orders makes.
const ORIGIN: &str = "default";
const DEFAULT_NUMBER: u64 = 3;
/// After a signal a run has so long to clean up; what it leaves is swept by the next one.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// Keep proven backups of this node's etcd, on a schedule, until stopped
///
/// Finds etcd by the node's own files. A run that fails is told and tried again; the server goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat backup-server
  etcd-lifeboat backup-server --dry-run --output json
  etcd-lifeboat backup-server --schedule '0 */6 * * *' --timezone Europe/Berlin \\
      --max-number-of-backups 8")]
pub(crate) struct Args {
    /// Whether to make backups; --enabled=false idles
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    enabled: bool,
    /// Five fields of cron, a descriptor such as @hourly, or @every 90s
    #[arg(long, value_name = "SCHEDULE", default_value = "*/5 * * * *")]
    schedule: String,
    /// IANA time zone of the schedule
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    timezone: String,
    /// Where backups are kept
    #[arg(long, alias = "backupPath", value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
    /// What decides which backups are kept
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
    /// Only show what was found, and where
    #[arg(long)]
    dry_run: bool,
    /// How to print what --dry-run found
    #[arg(long, value_enum, default_value = "table")]
    output: output::Format,
    /// How log lines look
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
            return Ok(EXIT_USAGE);
        }
    };
    if args.dry_run {
        return dry_run(&args);
    }
    logging::start(args.log_format);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting")?;
    let code = runtime.block_on(async {
        let stop = Stop::on_signals().context("listening for signals")?;
        if !args.enabled {
            tracing::info!("not enabled: idle until stopped");
            stop.wait().await;
            return Ok(EXIT_DONE);
        }
        let agenda = Agenda::new(schedule, zone, Timestamp::now());
        Server {
            args: &args,
            policy,
            stop,
        }
        .serve(agenda)
        .await;
        anyhow::Ok(EXIT_DONE)
    });
    // A run that is stuck in the disk must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

impl Args {
    /// What is wrong with the command line, and what to write instead.
    fn check(&self) -> Result<(Schedule, TimeZone, Policy), String> {
        let schedule = Schedule::parse(&self.schedule).map_err(|error| error.to_string())?;
        let zone = TimeZone::get(&self.timezone).map_err(|_| {
            format!(
                "--timezone {:?} is no IANA time zone, expected one such as UTC or Europe/Berlin",
                self.timezone
            )
        })?;
        if schedule.next_after(Timestamp::now(), &zone).is_none() {
            return Err(format!(
                "schedule {:?} is never due in the next five years",
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
            return Ok(EXIT_FAILED);
        }
    };
    let text = match args.output {
        output::Format::Json => serde_json::to_string_pretty(&found)? + "\n",
        output::Format::Table => {
            let none = || "-".to_string();
            output::table(
                ["WHAT", "FOUND"],
                [
                    ["platform".into(), found.platform.name().into()],
                    ["found in".into(), found.found_in.unwrap_or_else(none)],
                    ["endpoint".into(), found.endpoint],
                    ["cacert".into(), found.cacert.unwrap_or_else(none)],
                    ["cert".into(), found.cert.unwrap_or_else(none)],
                    ["key".into(), found.key.unwrap_or_else(none)],
                    ["data dir".into(), found.data_dir.unwrap_or_else(none)],
                    ["archived".into(), found.resources.join(", ")],
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
    Ok(EXIT_DONE)
}

/// The wish to end.
struct Stop {
    flag: Arc<AtomicBool>,
    told: Arc<Notify>,
}

impl Stop {
    fn on_signals() -> std::io::Result<Self> {
        let stop = Stop {
            flag: Arc::default(),
            told: Arc::default(),
        };
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let mut signals = signal(kind)?;
            let (flag, told) = (stop.flag.clone(), stop.told.clone());
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    flag.store(true, Ordering::Relaxed);
                    told.notify_waiters();
                }
            });
        }
        Ok(stop)
    }

    fn wanted(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    async fn wait(&self) {
        let told = self.told.notified();
        if !self.wanted() {
            told.await;
        }
    }

    /// Sleeps, but not beyond the wish to end.
    async fn sleep(&self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.wait() => {}
        }
    }
}

/// Ends a run when the process is to end.
struct UntilStopped(Arc<AtomicBool>);

impl Monitor for UntilStopped {
    fn step(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) -> ControlFlow<()> {
        if self.0.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

struct Server<'a> {
    args: &'a Args,
    policy: Policy,
    stop: Stop,
}

impl Server<'_> {
    async fn serve(&self, mut agenda: Agenda) {
        tracing::info!(
            schedule = self.args.schedule,
            timezone = self.args.timezone,
            repository = %self.args.backup_path.display(),
            next_due = agenda.next_due().map(tracing::field::display),
            "started"
        );
        if self.missed(&agenda) {
            tracing::info!("no backup since the last one was due: catching up");
            self.take_turn_and_run(&mut agenda, "catch-up").await;
        }
        while !self.stop.wanted() {
            match agenda.ask(Timestamp::now()) {
                Next::Run(_) => self.take_turn_and_run(&mut agenda, "schedule").await,
                Next::Wait(duration) => self.stop.sleep(duration).await,
                Next::Never => {
                    tracing::error!("the schedule is never due again: idle until stopped");
                    self.stop.wait().await;
                }
            }
        }
        tracing::info!("stopped");
    }

    fn missed(&self, agenda: &Agenda) -> bool {
        let entries = Repository::open(&self.args.backup_path).and_then(|all| all.entries());
        let newest = entries.ok().and_then(|entries| {
            entries
                .iter()
                .filter_map(|entry| entry.record())
                .filter(|record| record.origin == ORIGIN)
                .map(|record| record.started_at)
                .max()
        });
        agenda.missed(newest, Timestamp::now())
    }

    /// Runs, and tries again until it works or the next run is due.
    async fn take_turn_and_run(&self, agenda: &mut Agenda, trigger: &str) {
        let period = agenda.period(Timestamp::now());
        let delay = self.turn(period).await;
        if !delay.is_zero() {
            tracing::info!(delay_s = delay.as_secs(), "other members first");
            self.stop.sleep(delay).await;
        }
        let mut failures = 0;
        while !self.stop.wanted() {
            match self.run_once(trigger).await {
                Ok(()) => return,
                Err(_) if self.stop.wanted() => return,
                Err(problem) => {
                    failures += 1;
                    let retry = retry_delay(failures, period);
                    tracing::error!(
                        failures,
                        retry_s = retry.as_secs(),
                        "backup failed: {problem}"
                    );
                    self.stop.sleep(retry).await;
                    // The next run takes over, and begins with its own count.
                    if agenda.next_due().is_some_and(|due| due <= Timestamp::now()) {
                        return;
                    }
                }
            }
        }
    }

    /// How long this member lets others go first.
    async fn turn(&self, period: Duration) -> Duration {
        let known = async {
            let order = self.args.node.order(ORIGIN, "").ok()?;
            let member = Member::connect(&order.connection).await.ok()?;
            let status = member.status().await.ok()?;
            let voters: Vec<_> = member
                .members()
                .await
                .ok()?
                .iter()
                .filter(|peer| !peer.learner)
                .map(|peer| peer.id)
                .collect();
            Some(turns::delay(
                &voters,
                status.member_id,
                status.leader,
                period,
            ))
        };
        // Who can't be asked is told by the run itself.
        tokio::select! {
            delay = known => delay.unwrap_or_default(),
            () = self.stop.wait() => Duration::ZERO,
        }
    }

    async fn run_once(&self, trigger: &str) -> Result<(), String> {
        let order = self.args.node.order(ORIGIN, trigger)?;
        let repository =
            Repository::open(&self.args.backup_path).map_err(|error| error.to_string())?;
        let monitor: SharedMonitor = Arc::new(UntilStopped(self.stop.flag.clone()));
        let tell = |what: &str| tracing::info!("{what}");
        let running = backup::run(&repository, &order, &Timestamp::now, &monitor, &tell);
        let stopped = async {
            self.stop.wait().await;
            tokio::time::sleep(STOP_WITHIN).await;
        };
        let made = tokio::select! {
            made = running => made,
            () = stopped => Err(RunError::Stopped),
        };
        let made = made.map_err(|error| error.to_string())?;
        let record = &made.record;
        tracing::info!(
            backup = %made.path.display(),
            revision = record.snapshot.revision,
            keys = record.snapshot.total_keys,
            size_bytes = record.snapshot.size_bytes,
            written_bytes = record.written_bytes,
            verified = record.verified.join(","),
            took_ms = record.took_ms.values().sum::<u64>(),
            "backup made"
        );
        for warning in &record.warnings {
            tracing::warn!("{warning}");
        }
        self.tell_of_a_new_cluster(&repository, &record.member.cluster_id);
        let pruned = repository
            .lock()
            .and_then(|lock| backup::prune(&repository, &lock, self.policy, Some(ORIGIN)));
        match pruned {
            Ok(removals) => {
                for removal in removals {
                    tracing::info!("removed {}: {}", removal.name, removal.reason);
                }
            }
            // The backup is there all the same.
            Err(error) => tracing::error!("pruning failed: {error}"),
        }
        Ok(())
    }

    /// A cluster id that was not there before means a restore, or a wiped cluster.
    fn tell_of_a_new_cluster(&self, repository: &Repository, cluster_id: &str) {
        let Ok(entries) = repository.entries() else {
            return;
        };
        let before = entries.iter().filter_map(|entry| entry.record()).nth(1);
        if let Some(before) = before
            && before.member.cluster_id != cluster_id
        {
            tracing::error!(
                old_cluster_id = before.member.cluster_id,
                cluster_id,
                "the cluster id has changed: this is another cluster than before; backups of the old one stay until you remove them"
            );
        }
    }
}
