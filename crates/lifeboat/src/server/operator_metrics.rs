//! The operator's metrics. `docs/metrics.md` explains each.

use crate::http::listener::Answers;
use crate::http::openmetrics::{self, Metrics, flag, number, seconds};
use operator::options::Controllers;
use operator::status::state::{OperatorState, SharedState};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;

/// Serves the last state of the controllers.
pub(crate) struct OperatorMetrics(pub(crate) Arc<SharedState>);

impl Answers for OperatorMetrics {
    fn metrics(&self) -> Result<String, fmt::Error> {
        openmetrics::text(View(self.0.snapshot()))
    }

    // A replica that waits for the lease is ready.
    fn not_ready(&self) -> Option<String> {
        let state = self.0.snapshot();
        let not_evaluated = state.leader && state.evaluates && state.evaluated_at.is_none();
        not_evaluated.then(|| {
            "the operator has not evaluated the backups of the nodes yet: see the log of the operator".into()
        })
    }
}

#[derive(Debug)]
struct View(OperatorState);

fn gauge(value: bool) -> ConstGauge<u64> {
    ConstGauge::new(u64::from(value))
}

impl Collector for View {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let state = &self.0;
        let mut out = Metrics::new(encoder);
        out.gauge(
            "operator_leader",
            "Whether this replica is the active operator",
            flag(state.leader),
        )?;
        // Only the active replica evaluates backups.
        if !state.leader {
            return Ok(());
        }
        out.gauge(
            "operator_opted_out",
            "Whether a user deleted Backup/default, so that the operator does not create it again",
            flag(state.opted_out),
        )?;
        out.family(
            "operator_errors",
            "Requests of a controller that the API server refused or did not answer, since the start",
            Controllers::NAMES.map(|name| {
                let count = state.errors.get(name).copied().unwrap_or_default();
                ([("controller", name)], ConstCounter::new(count))
            }),
        )?;
        out.time(
            "operator_last_evaluation_timestamp_seconds",
            "When the operator last evaluated whether backups are up to date",
            state.evaluated_at,
        )?;
        out.gauge(
            "operator_unsupported_crds",
            "CRDs of another owner that lack fields which the operator writes; its log names them",
            number(state.api_problems as u64),
        )?;
        out.gauge(
            "operator_unreadable_objects",
            "Objects of the cluster that the operator cannot read and ignores; its log names them",
            number(state.unreadable.len() as u64),
        )?;
        let backups = || {
            state
                .backups
                .iter()
                .map(|(name, backup)| ([("backup", name.as_str())], backup))
        };
        out.family(
            "operator_backup_reconciled",
            "Whether the operator could apply the specification of a Backup",
            backups().map(|(labels, backup)| (labels, gauge(backup.reconciled))),
        )?;
        out.family(
            "operator_backup_fresh",
            "Whether the backups of a Backup are up to date",
            backups().filter_map(|(labels, backup)| Some((labels, gauge(backup.fresh?)))),
        )?;
        let nodes = || {
            state
                .nodes
                .iter()
                .map(|(name, node)| ([("node", name.as_str())], node))
        };
        out.family(
            "operator_node_applicable",
            "Whether a control-plane node has an etcd member to back up",
            nodes().map(|(labels, node)| (labels, gauge(node.applicable))),
        )?;
        out.family(
            "operator_node_fresh",
            "Whether the newest proven backup of a control-plane node is up to date",
            nodes()
                .filter(|(_, node)| node.applicable)
                .map(|(labels, node)| (labels, gauge(node.fresh))),
        )?;
        out.family(
            "operator_node_last_new_backup_timestamp_seconds",
            "When the operator first saw the newest proven backup of a node, by the operator's clock",
            nodes().filter_map(|(labels, node)| {
                Some((labels, ConstGauge::new(seconds(node.advanced_at?))))
            }),
        )?;
        out.family(
            "operator_volume_copied",
            "Whether the backups of a node are copied to its volume",
            state
                .volumes
                .iter()
                .map(|(node, copied)| ([("node", node.as_str())], gauge(*copied))),
        )?;
        out.family(
            "operator_requests",
            "EtcdBackups by their condition",
            state
                .requests
                .iter()
                .map(|(outcome, count)| ([("condition", *outcome)], ConstGauge::new(*count))),
        )
    }
}
