//! Evaluates whether backups are up to date, outside of the processes that make them: for `Backup/default` on each control-plane
//! node, for any other `Backup` by its `EtcdBackup`s. The condition names the node and the reason.

use super::backup_progress::{BackupMark, BackupProgress};
use crate::api_error::api_error_message;
use crate::api_error::ignore_not_found;
use crate::cluster::cache::Cache;
use crate::cluster::cluster_info::{CrdOwner, gate_off_message};
use crate::cluster::lenient::{self, Lenient};
use crate::cluster::node_backups::{creation_time, estimate_newest_seen_at, written_by_node};
use crate::cluster::pod_problems::server_problem;
use crate::context::Context;
use crate::options::FRESHNESS as NAME;
use crate::status::conditions::{ConditionUpdate, find_condition};
use crate::status::outcome::{Outcome, outcome};
use crate::status::state::NodeState;
use backup_plan::cron::Schedule;
use backup_plan::freshness::{self as schedule_freshness, Freshness};
use cluster_api::conditions::{ConditionType, StatusReason};
use cluster_api::freshness::{Judgement, NodeView, Verdict, judge, sum_up};
use cluster_api::placement::has_server_pods;
use cluster_api::resources::{BACKUP_ANNOTATION, Backup, DEFAULT_BACKUP, EtcdBackup, NodeBackup};
use cluster_api::validation::{ValidBackup, validate};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{Api, DeleteParams};
use kube::core::PartialObjectMeta;
use kube::{CustomResourceExt, Resource, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The field manager of this condition.
const MANAGER: &str = "etcd-lifeboat-operator-freshness";
const CONDITION: ConditionType = ConditionType::Degraded;
const SETTLE: Duration = Duration::from_millis(500);
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How often backups are evaluated again, even without a change. The time of the evaluation is in the status.
const EVALUATE_EVERY: Duration = Duration::from_secs(300);
/// After this time, an unchanged status gets the time of the evaluation again. A little less than `EVALUATE_EVERY`.
const RENEWED_EVERY: SignedDuration = SignedDuration::from_secs(290);
/// How long the `NodeBackup` of a removed node is kept.
const LEFT_NODES_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// How long the operator waits after its start before it reports stale nodes. After an outage of the API server, nodes write their
/// status within 30 s.
const NODES_CATCH_UP: SignedDuration = SignedDuration::from_secs(45);

/// State that is not stored in the cluster.
#[derive(Default)]
struct EvaluationState {
    /// Time of the first evaluation.
    started: Option<Timestamp>,
    /// The progress of the backups, by node.
    advanced: HashMap<String, BackupProgress>,
    /// Since when a node is a control-plane node, by node.
    joined: HashMap<String, Timestamp>,
    /// The generation of a `Backup` and when it was first seen, by name.
    generations: HashMap<String, (i64, Option<Timestamp>)>,
    /// The last valid specification of `Backup/default`.
    valid: Option<ValidBackup>,
    /// Whether the first evaluation is complete.
    evaluated: bool,
    /// The last result, if there is no `Backup` for a condition.
    last_result: Option<(bool, String)>,
}

/// Acts on each change, and at intervals.
pub(crate) async fn run(context: Arc<Context>, cache: Arc<Cache>) {
    cache.ready().await;
    let mut changes = cache.changes();
    let mut memory = EvaluationState::default();
    loop {
        tokio::time::sleep(SETTLE).await;
        changes.mark_unchanged();
        let again = match evaluate(&context, &cache, &mut memory).await {
            Ok(look_again_at) => look_again_at
                .and_then(|at| Duration::try_from(at.duration_since(Timestamp::now())).ok())
                .map_or(EVALUATE_EVERY, |wait| wait + SETTLE)
                .min(EVALUATE_EVERY),
            Err(error) => {
                tracing::warn!("controller {NAME}: {}", api_error_message(&error));
                context.state.count_error(NAME);
                TRY_AGAIN
            }
        };
        if matches!(
            tokio::time::timeout(again, changes.changed()).await,
            Ok(Err(_))
        ) {
            return;
        }
    }
}

/// Evaluates all backups and writes the conditions. Returns the time of the next evaluation.
async fn evaluate(
    context: &Context,
    cache: &Cache,
    memory: &mut EvaluationState,
) -> Result<Option<Timestamp>, kube::Error> {
    let now = Timestamp::now();
    memory.started.get_or_insert(now);
    let mut again = evaluate_nodes(context, cache, memory, now).await?;
    let mut by_backup: HashMap<String, Vec<Arc<EtcdBackup>>> = HashMap::new();
    for request in cache.requests.state() {
        if let Some(name) = request.annotations().get(BACKUP_ANNOTATION) {
            by_backup.entry(name.clone()).or_default().push(request);
        }
    }
    let backups = cache.backups.state();
    for backup in backups
        .iter()
        .filter(|backup| backup.name_any() != DEFAULT_BACKUP)
    {
        let name = backup.name_any();
        // An invalid Backup is reported by another condition.
        let Ok(valid) = validate(&name, &backup.spec) else {
            continue;
        };
        let since = memory.spec_since(backup, now);
        let requests = by_backup.remove(&name).unwrap_or_default();
        let judged = evaluate_requests(&valid, since, &requests, now);
        again = again.into_iter().chain(judged.look_again_at).min();
        write_condition(context, backup, &judged).await?;
    }
    memory.evaluated = true;
    context.state.update(|state| state.evaluated_at = Some(now));
    let is_there = |name: &String| backups.iter().any(|backup| backup.name_any() == *name);
    memory.generations.retain(|name, _| is_there(name));
    context.state.update(|state| {
        state.backups.retain(|name, _| is_there(name));
    });
    let left = delete_old_node_backups(context, cache, now).await?;
    Ok(again.into_iter().chain(left).min())
}

async fn evaluate_nodes(
    context: &Context,
    cache: &Cache,
    memory: &mut EvaluationState,
    now: Timestamp,
) -> Result<Option<Timestamp>, kube::Error> {
    let backups = cache.backups.state();
    let default = backups
        .iter()
        .find(|backup| backup.name_any() == DEFAULT_BACKUP);
    let since = match (default, context.cluster.crd_owner) {
        (Some(backup), _) if !context.options.automated_backup => {
            context.state.update(|state| state.nodes.clear());
            let off = Judgement {
                degraded: true,
                reason: StatusReason::FeatureGateOff,
                message: gate_off_message(),
                look_again_at: None,
            };
            write_condition(context, backup, &off).await?;
            return Ok(None);
        }
        (Some(backup), _) => {
            if let Ok(valid) = validate(DEFAULT_BACKUP, &backup.spec) {
                memory.valid = Some(valid);
            }
            memory.spec_since(backup, now)
        }
        (None, CrdOwner::Upstream) => memory.started.unwrap_or(now),
        // Without Backup/default, no node needs backups.
        (None, CrdOwner::Lifeboat) => {
            context.state.update(|state| state.nodes.clear());
            return Ok(None);
        }
    };
    let valid = memory.valid.clone().unwrap_or_else(ValidBackup::of_servers);
    let (Ok(schedule), Ok(zone)) = (
        Schedule::parse(&valid.schedule),
        TimeZone::get(&valid.time_zone),
    ) else {
        return Ok(None);
    };
    let mut nodes = cache.control_plane();
    nodes.sort_by_key(|node| node.name_any());
    let pods = cache.pods.state();
    let reports: HashMap<_, _> = cache
        .node_backups
        .state()
        .into_iter()
        .map(|report| (report.name_any(), report))
        .collect();
    let names: Vec<_> = nodes.iter().map(|node| node.name_any()).collect();
    let has_pods = default.is_none_or(|backup| has_server_pods(backup.annotations()));
    let mut verdicts = Vec::new();
    let mut states = BTreeMap::new();
    for (node, name) in nodes.iter().zip(&names) {
        let joined = memory.needs_backups_since(node, now);
        let report = reports.get(name);
        let advanced_at = report.and_then(|report| memory.newest_seen_at(report, now));
        let view = NodeView {
            name,
            covered_since: joined.max(since),
            reported: report.and_then(|report| report.status.as_ref()),
            advanced_at,
            pod_problem: server_problem(name, &pods).filter(|_| has_pods),
        };
        let verdict = judge_node(context, view, |view| judge(&schedule, &zone, view, now)).await?;
        let state = NodeState {
            applicable: !matches!(verdict, Verdict::NotApplicable(_)),
            fresh: matches!(verdict, Verdict::Fresh { .. }),
            advanced_at,
        };
        states.insert(name.clone(), state);
        verdicts.push((name.as_str(), verdict));
    }
    memory.joined.retain(|name, _| names.contains(name));
    // If a user deletes a NodeBackup, the node writes it again. Its backups are not new then.
    memory.advanced.retain(|name, _| names.contains(name));
    context.state.update(|state| state.nodes = states);
    let mut judged = sum_up(&verdicts);
    let known_from = memory
        .started
        .and_then(|at| at.checked_add(NODES_CATCH_UP).ok());
    if let Some(known_from) = known_from.filter(|from| judged.degraded && *from > now) {
        // The condition stays as it is: what is wrong now may be over in a moment.
        judged.look_again_at = Some(known_from);
        return Ok(judged.look_again_at);
    }
    match default {
        Some(backup) => write_condition(context, backup, &judged).await?,
        None => publish_without_backup(context, memory, &judged).await,
    }
    Ok(judged.look_again_at)
}

/// Judges a node. If it is stale, the API server is asked whether the node itself is the reason.
async fn judge_node(
    context: &Context,
    mut view: NodeView<'_>,
    judge: impl Fn(&NodeView<'_>) -> Verdict,
) -> Result<Verdict, kube::Error> {
    let verdict = judge(&view);
    if matches!(verdict, Verdict::Stale(_))
        && let Some(problem) = node_problem(context, view.name).await?
    {
        view.pod_problem = Some(problem);
        return Ok(judge(&view));
    }
    Ok(verdict)
}

impl EvaluationState {
    /// When the current specification of a `Backup` was first seen.
    fn spec_since(&mut self, backup: &Backup, now: Timestamp) -> Timestamp {
        let created = creation_time(&backup.metadata);
        let generation = backup.metadata.generation.unwrap_or_default();
        let known = self
            .generations
            .entry(backup.name_any())
            .or_insert((generation, None));
        if known.0 != generation {
            *known = (generation, Some(now));
        }
        known.1.unwrap_or(created).max(created)
    }

    /// Since when a node needs backups. It can get its role long after its creation.
    fn needs_backups_since(&mut self, node: &PartialObjectMeta<Node>, now: Timestamp) -> Timestamp {
        let since = if self.evaluated {
            now
        } else {
            creation_time(&node.metadata)
        };
        *self.joined.entry(node.name_any()).or_insert(since)
    }

    /// When a node's newest proven backup was first seen.
    fn newest_seen_at(&mut self, report: &NodeBackup, now: Timestamp) -> Option<Timestamp> {
        let status = report.status.as_ref()?;
        let newest = status.last_verified.as_ref()?;
        let name = report.name_any();
        let mark = BackupMark::of(newest);
        if let Some(known) = self.advanced.get_mut(&name) {
            known.update(mark, now);
            return Some(known.at);
        }
        let at = estimate_newest_seen_at(report, now)?;
        let advance = BackupProgress {
            highest: mark,
            shown: mark,
            at,
        };
        self.advanced.insert(name, advance);
        Some(at)
    }
}

/// The problem of the node itself, if any.
async fn node_problem(context: &Context, name: &str) -> Result<Option<String>, kube::Error> {
    let nodes: Api<Lenient<Node>> = Api::all(context.client.clone());
    let node = lenient::get(&nodes, name).await?;
    let conditions = node.and_then(|node| node.status?.conditions);
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    Ok(ready.filter(|ready| ready.status != "True").map(|ready| {
        format!(
            "the node is not ready: {}",
            ready.message.unwrap_or_default()
        )
    }))
}

/// Evaluates a `Backup` by its `EtcdBackup`s.
fn evaluate_requests(
    valid: &ValidBackup,
    since: Timestamp,
    requests: &[Arc<EtcdBackup>],
    now: Timestamp,
) -> Judgement {
    let ended = requests.iter().filter_map(|request| {
        let (outcome, condition) = outcome(request)?;
        let at = condition.last_transition_time.0;
        matches!(outcome, Outcome::Completed | Outcome::Failed)
            .then(|| (at, outcome, request.name_any(), condition.message))
    });
    let ended: Vec<_> = ended.collect();
    let newest = ended.iter().max_by_key(|(at, ..)| *at);
    let completed = ended
        .iter()
        .filter(|(_, outcome, ..)| *outcome == Outcome::Completed)
        .map(|(at, ..)| *at)
        .max();
    let freshness = match (
        Schedule::parse(&valid.schedule),
        TimeZone::get(&valid.time_zone),
    ) {
        (Ok(schedule), Ok(zone)) => {
            schedule_freshness::judge(&schedule, &zone, completed, since, now)
        }
        // `validate` has already parsed both.
        _ => Freshness::Pending { until: None },
    };
    let until = match freshness {
        Freshness::Fresh { until } | Freshness::Pending { until } => until,
        Freshness::Stale { .. } => None,
    };
    let judged = |degraded, reason, message| Judgement {
        degraded,
        reason,
        message,
        look_again_at: until.filter(|_| !degraded),
    };
    if let Some((_, Outcome::Failed, name, message)) = newest {
        return judged(
            true,
            StatusReason::LastBackupFailed,
            format!("EtcdBackup {name}: {message}"),
        );
    }
    if matches!(freshness, Freshness::Stale { .. }) {
        let last = completed.map_or("no backup was made yet".to_string(), |at| {
            format!("the newest is from {at}")
        });
        let message = format!(
            "two backups were due and none was made ({last}); look at the Jobs and pods of the CronJob"
        );
        return judged(true, StatusReason::BackupsStale, message);
    }
    match completed {
        Some(_) => judged(
            false,
            StatusReason::AsExpected,
            "the newest backup is up to date".into(),
        ),
        None => judged(
            false,
            StatusReason::BackupPending,
            "the first backup is pending".into(),
        ),
    }
}

async fn write_condition(
    context: &Context,
    backup: &Backup,
    judged: &Judgement,
) -> Result<(), kube::Error> {
    let update = ConditionUpdate {
        type_: CONDITION,
        is_true: judged.degraded,
        reason: judged.reason,
        message: judged.message.clone(),
    };
    let name = backup.name_any();
    context.state.update(|state| {
        state.backups.entry(name.clone()).or_default().fresh = Some(!judged.degraded);
    });
    let generation = backup.metadata.generation;
    let conditions = backup
        .status
        .as_ref()
        .map(|status| status.conditions.clone());
    let conditions = conditions.unwrap_or_default();
    let before = find_condition(&conditions, CONDITION.name());
    let now = Timestamp::now();
    let is_old = update.is_unchanged(before, generation);
    let evaluated_at = backup.status.as_ref().and_then(|status| {
        let evaluated_at: Timestamp = status.last_evaluated.as_ref()?.parse().ok()?;
        Some(evaluated_at)
    });
    let is_renewed = evaluated_at.is_some_and(|at| now.duration_since(at).abs() < RENEWED_EVERY);
    if is_old && is_renewed {
        return Ok(());
    }
    if !is_old {
        context
            .publish_condition_event(&backup.object_ref(&()), before, &update)
            .await;
    }
    let condition = update.to_condition(before, generation, now);
    let evaluated_at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    context
        .patch_backup_status(
            &name,
            MANAGER,
            &condition,
            json!({"lastEvaluated": evaluated_at}),
        )
        .await
}

/// Publishes an event on the CRD of `NodeBackup`, because there is no `Backup` for a condition.
async fn publish_without_backup(
    context: &Context,
    memory: &mut EvaluationState,
    judged: &Judgement,
) {
    let before = memory
        .last_result
        .replace((judged.degraded, judged.message.clone()));
    let was = before.as_ref().is_some_and(|(degraded, _)| *degraded);
    let kind = ObjectReference {
        api_version: Some("apiextensions.k8s.io/v1".into()),
        kind: Some("CustomResourceDefinition".into()),
        name: Some(NodeBackup::crd_name().into()),
        ..ObjectReference::default()
    };
    if judged.degraded && before.is_none_or(|(_, message)| message != judged.message) {
        tracing::warn!(reason = judged.reason.name(), "{}", judged.message);
        let events = &context.events;
        events.warning(&kind, judged.reason, &judged.message).await;
    } else if was && !judged.degraded {
        tracing::info!(reason = judged.reason.name(), "{}", judged.message);
        let events = &context.events;
        events.normal(&kind, judged.reason, &judged.message).await;
    }
}

/// Deletes the `NodeBackup`s of nodes that do not exist any more, one day after the last write. Returns the time of the next deletion.
async fn delete_old_node_backups(
    context: &Context,
    cache: &Cache,
    now: Timestamp,
) -> Result<Option<Timestamp>, kube::Error> {
    let nodes = cache.nodes.state();
    let mut next = None;
    for report in cache.node_backups.state() {
        let name = report.name_any();
        if nodes.iter().any(|node| node.name_any() == name) {
            continue;
        }
        let written = written_by_node(&report).unwrap_or_else(|| creation_time(&report.metadata));
        let Ok(goes_at) = written.checked_add(LEFT_NODES_KEPT) else {
            continue;
        };
        if goes_at > now {
            next = next.into_iter().chain([goes_at]).min();
            continue;
        }
        tracing::info!(
            "deleting NodeBackup/{name}: its node does not exist, and its last report is more than a day old"
        );
        let all: Api<NodeBackup> = Api::all(context.client.clone());
        let params = DeleteParams::default();
        ignore_not_found(context.write(all.delete(&name, &params)).await)?;
    }
    Ok(next)
}
