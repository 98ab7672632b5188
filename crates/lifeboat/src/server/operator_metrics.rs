//! What the operator judges, as metrics. `docs/metrics.md` explains each.

use crate::http::listener::Answers;
use crate::http::openmetrics::{self, Metrics, flag, number, seconds};
use operator::Controllers;
use operator::telling::{Shared, Telling};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;

/// Answers with what the controllers last told.
pub(crate) struct Told(pub(crate) Arc<Shared>);

impl Answers for Told {
    fn metrics(&self) -> Result<String, fmt::Error> {
        openmetrics::text(View(self.0.now()))
    }

    // A replica that waits for its turn is as it should be.
    fn not_ready(&self) -> Option<String> {
        let telling = self.0.now();
        let blind = telling.leader && telling.judges && telling.judged_at.is_none();
        blind.then(|| {
            "it has not judged the nodes' backups yet: its log says what it waits for".into()
        })
    }
}

#[derive(Debug)]
struct View(Telling);

fn gauge(value: bool) -> ConstGauge<u64> {
    ConstGauge::new(u64::from(value))
}

impl Collector for View {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let telling = &self.0;
        let mut out = Metrics::new(encoder);
        out.gauge(
            "operator_leader",
            "Whether this replica of the operator works, and the others wait",
            flag(telling.leader),
        )?;
        // Only who works has looked.
        if !telling.leader {
            return Ok(());
        }
        out.gauge(
            "operator_opted_out",
            "Whether somebody has deleted Backup/default, so that it is not made again",
            flag(telling.opted_out),
        )?;
        out.family(
            "operator_errors",
            "Attempts of a controller that the API server refused or did not answer, since the start",
            Controllers::NAMES.map(|name| {
                let count = telling.errors.get(name).copied().unwrap_or_default();
                ([("controller", name)], ConstCounter::new(count))
            }),
        )?;
        out.time(
            "operator_last_evaluation_timestamp_seconds",
            "When the operator last judged whether backups are new enough",
            telling.judged_at,
        )?;
        out.gauge(
            "operator_unreadable_objects",
            "Objects of the cluster that the operator can't read and leaves out; its log names them",
            number(telling.unreadable.len() as u64),
        )?;
        let backups = || {
            telling
                .backups
                .iter()
                .map(|(name, told)| ([("backup", name.as_str())], told))
        };
        out.family(
            "operator_backup_reconciled",
            "Whether a Backup could be made into what it says",
            backups().map(|(labels, told)| (labels, gauge(told.reconciled))),
        )?;
        out.family(
            "operator_backup_fresh",
            "Whether the backups of a Backup are new enough",
            backups().filter_map(|(labels, told)| Some((labels, gauge(told.fresh?)))),
        )?;
        let nodes = || {
            telling
                .nodes
                .iter()
                .map(|(name, told)| ([("node", name.as_str())], told))
        };
        out.family(
            "operator_node_applicable",
            "Whether a control-plane node has something to back up",
            nodes().map(|(labels, told)| (labels, gauge(told.applicable))),
        )?;
        out.family(
            "operator_node_fresh",
            "Whether the newest proven backup of a control-plane node is new enough",
            nodes()
                .filter(|(_, told)| told.applicable)
                .map(|(labels, told)| (labels, gauge(told.fresh))),
        )?;
        out.family(
            "operator_node_last_new_backup_timestamp_seconds",
            "When a node's newest proven backup was seen to be a new one, by the operator's clock",
            nodes().filter_map(|(labels, told)| {
                Some((labels, ConstGauge::new(seconds(told.advanced_at?))))
            }),
        )?;
        out.family(
            "operator_requests",
            "EtcdBackups by what has become of them",
            telling
                .requests
                .iter()
                .map(|(outcome, count)| ([("condition", *outcome)], ConstGauge::new(*count))),
        )
    }
}
