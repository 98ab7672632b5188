//! The metrics of a backup server. `docs/metrics.md` explains each.

use super::observed::View;
use crate::http::openmetrics::{Metrics, flag, number, seconds};
use backup_plan::freshness::Freshness;
use backup_plan::reason::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

/// All reasons for failed runs.
fn reasons() -> impl Iterator<Item = Reason> {
    let all = Reason::ALL.iter().copied();
    all.filter(|reason| *reason != Reason::Stopped)
}

impl Collector for View {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Metrics::new(encoder);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        out.family(
            "build_info",
            "Version of the running program",
            [(version, ConstGauge::new(1u64))],
        )?;
        let enabled = self.plan.settings().is_some();
        out.gauge("enabled", "Whether backups are enabled", flag(enabled))?;
        out.gauge(
            "standby",
            "Whether this server waits because another one makes the backups of this node",
            flag(self.standby),
        )?;
        self.encode_attempts(&mut out)?;
        self.encode_schedule(&mut out)?;
        self.encode_newest(&mut out)?;
        self.encode_other_etcds(&mut out)?;
        self.encode_repository(&mut out)
    }
}

/// When a backup becomes stale, or 0 if there is none.
fn stale_at(freshness: Freshness) -> Option<f64> {
    match freshness {
        Freshness::Fresh { until: at } => at.map(seconds),
        Freshness::Stale { since } => Some(seconds(since)),
        Freshness::Pending { .. } => Some(0.0),
    }
}

impl View {
    fn encode_attempts(&self, out: &mut Metrics<'_>) -> fmt::Result {
        let attempts = &self.attempts;
        let failures = attempts.failures.values().sum::<u64>();
        out.family(
            "runs",
            "Runs by outcome, since the start",
            [
                (
                    [("outcome", "success")],
                    ConstCounter::new(attempts.successes),
                ),
                ([("outcome", "failure")], ConstCounter::new(failures)),
            ],
        )?;
        out.family(
            "failures",
            "Failed runs by reason, since the start",
            // All reasons from the start: Prometheus does not see an increase if the first value of a counter is 1.
            reasons().map(|reason| {
                let count = attempts.failures.get(&reason).copied().unwrap_or_default();
                ([("reason", reason.name())], ConstCounter::new(count))
            }),
        )?;
        out.gauge(
            "consecutive_failures",
            "Failed runs since the last successful run",
            number(attempts.consecutive_failures),
        )?;
        out.family(
            "backups_removed_for_space",
            "Proven backups that were removed to free disk space for newer backups, since the start",
            [(
                [("reason", "insufficient-space")],
                ConstCounter::new(attempts.given_up),
            )],
        )?;
        out.time(
            "last_attempt_timestamp_seconds",
            "When the last run started",
            attempts.last,
        )
    }

    fn encode_schedule(&self, out: &mut Metrics<'_>) -> fmt::Result {
        out.time(
            "next_due_timestamp_seconds",
            "When the next run is due",
            self.next_due,
        )?;
        // No value if backups are not enabled: then no backup is due.
        out.gauge(
            "stale_at_timestamp_seconds",
            "When the newest proven backup becomes stale by the schedule, or 0 if there is none",
            self.freshness.and_then(stale_at),
        )
    }

    fn encode_newest(&self, out: &mut Metrics<'_>) -> fmt::Result {
        out.time(
            "last_success_timestamp_seconds",
            "When this server's newest backup was complete",
            self.kept.last_success,
        )?;
        let newest = self.kept.newest.as_ref();
        out.gauge(
            "last_verified_timestamp_seconds",
            "When the newest proven backup was complete, 0 if there is none",
            Some(newest.map_or(0.0, |record| seconds(record.finished_at))),
        )?;
        let Some(newest) = newest else {
            return Ok(());
        };
        out.family(
            "last_run_step_seconds",
            "How long each step of the newest proven backup took",
            newest.took_ms.iter().map(|(step, ms)| {
                (
                    [("step", step.as_str())],
                    ConstGauge::new(*ms as f64 / 1000.0),
                )
            }),
        )?;
        out.gauge(
            "snapshot_size_bytes",
            "Size of the newest proven snapshot",
            number(newest.snapshot.size_bytes),
        )?;
        out.gauge(
            "snapshot_written_bytes",
            "Bytes that were written for the newest proven backup",
            number(newest.written_bytes),
        )?;
        out.gauge(
            "snapshot_revision",
            "Revision of the newest proven snapshot",
            Some(newest.snapshot.revision as f64),
        )?;
        out.gauge(
            "snapshot_keys",
            "Number of keys in the newest proven snapshot",
            number(newest.snapshot.total_keys),
        )?;
        out.gauge(
            "snapshot_linearized",
            "Whether the cluster had a quorum when the newest proven snapshot was taken",
            flag(newest.linearized),
        )?;
        let source = [
            ("source", newest.source.name()),
            ("reason", newest.source_reason.as_str()),
        ];
        out.family(
            "source_info",
            "Where the newest proven snapshot came from, and why",
            [(source, ConstGauge::new(1u64))],
        )?;
        let member = &newest.member;
        let member = [
            ("cluster_id", member.cluster_id.as_str()),
            ("member_id", member.id.as_str()),
            ("etcd_version", member.etcd_version.as_str()),
        ];
        out.family(
            "member_info",
            "The etcd member of the newest proven snapshot",
            [(member, ConstGauge::new(1u64))],
        )
    }

    fn encode_other_etcds(&self, out: &mut Metrics<'_>) -> fmt::Result {
        let etcds = || {
            self.others
                .iter()
                .map(|etcd| ([("etcd", etcd.name.as_str())], etcd))
        };
        out.family(
            "other_etcd_stale_at_timestamp_seconds",
            "When the newest proven backup of another etcd of this node becomes stale by the schedule, or 0 if there is none",
            etcds().filter_map(|(label, etcd)| {
                let at = etcd.freshness.and_then(stale_at)?;
                Some((label, ConstGauge::new(at)))
            }),
        )?;
        out.family(
            "other_etcd_backups",
            "Number of proven backups of another etcd of this node",
            etcds().map(|(label, etcd)| (label, ConstGauge::new(etcd.kept))),
        )
    }

    fn encode_repository(&self, out: &mut Metrics<'_>) -> fmt::Result {
        out.family(
            "backups",
            "Number of proven backups, by origin and cluster",
            self.kept
                .lineages
                .iter()
                .map(|((origin, cluster_id), count)| {
                    let labels = [
                        ("origin", origin.as_str()),
                        ("cluster_id", cluster_id.as_str()),
                    ];
                    (labels, ConstGauge::new(*count))
                }),
        )?;
        out.gauge(
            "unreadable_backups",
            "Backups whose record or files are damaged or missing",
            number(self.kept.unreadable.len() as u64),
        )?;
        out.gauge(
            "held_backups",
            "Held backups, which are not removed automatically",
            number(self.kept.held),
        )?;
        out.gauge(
            "archive_complete",
            "Whether the newest proven backup has all control-plane files",
            self.kept
                .newest
                .as_ref()
                .and_then(|newest| flag(newest.archive_missing.is_empty())),
        )?;
        out.gauge(
            "cluster_changed",
            "Whether some backups are of another etcd cluster than the newest backup",
            flag(self.kept.cluster_changed()),
        )?;
        let space = self.kept.space;
        out.gauge(
            "disk_free_bytes",
            "Free space on the filesystem of the backups, as df shows it",
            space.and_then(|space| number(space.free_bytes)),
        )?;
        out.gauge(
            "disk_size_bytes",
            "Size of the filesystem of the backups",
            space.and_then(|space| number(space.total_bytes)),
        )?;
        out.gauge(
            "disk_reserve_bytes",
            "Free space that runs leave on the filesystem",
            self.reserve_bytes.and_then(number),
        )
    }
}
