//! Evaluates whether backups are up to date, outside of the processes that make them: for `Backup/default` on each control-plane
//! node, for any other `Backup` by its `EtcdBackup`s. The condition names the node and the reason.

use crate::backup::{Outcome, outcome};
use crate::conditions::{Saying, before};
use crate::lenient::{self, Lenient};
use crate::names::{SERVER_APP, SERVER_MANAGER};
use crate::pods::ROLES;
use crate::seen::Seen;
use crate::shape::KindsOf;
use crate::telling::NodeTold;
use crate::{Context, gone_is_well, plain};
use backup_plan::cron::Schedule;
use backup_plan::freshness::{self as schedule_freshness, Freshness};
use cluster_api::freshness::{Judgement, NodeView, Verdict, judge, sum_up};
use cluster_api::resources::{
    BACKUP_ANNOTATION, Backup, DEFAULT_BACKUP, EtcdBackup, NodeBackup, NodeBackupEntry,
};
use cluster_api::validation::{ValidBackup, validate};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, Node, ObjectReference, Pod};
use kube::api::{Api, DeleteParams};
use kube::core::PartialObjectMeta;
use kube::{CustomResourceExt, Resource, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Name of the controller in logs and metrics.
pub(crate) const NAME: &str = "freshness";
/// The field manager of this condition.
const MANAGER: &str = "etcd-lifeboat-operator-freshness";
const CONDITION: &str = "Degraded";
const SETTLE: Duration = Duration::from_millis(500);
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How often backups are evaluated again, even without a change. The time of the evaluation is in the status.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// A little less than the time between two evaluations.
const RENEWED_EVERY: SignedDuration = SignedDuration::from_secs(290);
/// How long the `NodeBackup` of a removed node is kept.
const LEFT_NODES_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// How long the operator waits after its start before it reports stale nodes. After an outage of the API server, nodes write their
/// status within 30 s.
const NODES_CATCH_UP: SignedDuration = SignedDuration::from_secs(45);

/// State that is not stored in the cluster.
#[derive(Default)]
struct Memory {
    /// Time of the first evaluation.
    started: Option<Timestamp>,
    /// The progress of the backups, by node.
    advanced: HashMap<String, Advance>,
    /// Since when a node is a control-plane node, by node.
    joined: HashMap<String, Timestamp>,
    /// The generation of a `Backup` and when it was first seen, by name.
    generations: HashMap<String, (i64, Option<Timestamp>)>,
    /// The last valid specification of `Backup/default`.
    valid: Option<ValidBackup>,
    /// Whether the first evaluation is complete.
    looked: bool,
    /// The last result, if there is no `Backup` for a condition.
    said: Option<(bool, String)>,
}

/// Identifies how new a backup is. The name is not enough: when the newest backup is removed, an older one becomes the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    sequence: i64,
    revision: i64,
    /// By the node's clock.
    finished_at: Timestamp,
}

impl Mark {
    fn of(entry: &NodeBackupEntry) -> Self {
        Mark {
            sequence: entry.sequence,
            revision: entry.revision,
            finished_at: entry.finished_at.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    fn is_beyond(&self, other: &Mark) -> bool {
        self.sequence > other.sequence
            || self.revision > other.revision
            || self.finished_at > other.finished_at
    }

    fn max(&self, other: &Mark) -> Mark {
        Mark {
            sequence: self.sequence.max(other.sequence),
            revision: self.revision.max(other.revision),
            finished_at: self.finished_at.max(other.finished_at),
        }
    }
}

/// The progress of a node's backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Advance {
    highest: Mark,
    /// The mark of the newest backup that exists now.
    shown: Mark,
    /// When this backup was first seen.
    at: Timestamp,
}

impl Advance {
    /// Updates the progress with the newest backup, seen at `now`.
    fn see(&mut self, mark: Mark, now: Timestamp) {
        if mark.is_beyond(&self.highest) {
            self.highest = self.highest.max(&mark);
            self.at = now;
        } else {
            // An older one is the newest now. How much older it is, the node's own clock says.
            let older = self.shown.finished_at.duration_since(mark.finished_at);
            self.at = self
                .at
                .checked_sub(older)
                .unwrap_or(Timestamp::UNIX_EPOCH)
                .min(now);
        }
        self.shown = mark;
    }
}

/// Acts on each change, and at intervals.
pub(crate) async fn run(context: Arc<Context>, seen: Arc<Seen>) {
    let mut changes = seen.changes();
    let mut memory = Memory::default();
    loop {
        tokio::time::sleep(SETTLE).await;
        changes.mark_unchanged();
        let again = match look(&context, &seen, &mut memory).await {
            Ok(look_again_at) => look_again_at
                .and_then(|at| Duration::try_from(at.duration_since(Timestamp::now())).ok())
                .map_or(LOOK_AGAIN, |wait| wait + SETTLE)
                .min(LOOK_AGAIN),
            Err(error) => {
                tracing::warn!("controller {NAME}: {}", plain(&error));
                context.telling.error(NAME);
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
async fn look(
    context: &Context,
    seen: &Seen,
    memory: &mut Memory,
) -> Result<Option<Timestamp>, kube::Error> {
    let now = Timestamp::now();
    memory.started.get_or_insert(now);
    let mut again = look_at_nodes(context, seen, memory, now).await?;
    let mut by_backup: HashMap<String, Vec<Arc<EtcdBackup>>> = HashMap::new();
    for request in seen.requests.state() {
        if let Some(name) = request.annotations().get(BACKUP_ANNOTATION) {
            by_backup.entry(name.clone()).or_default().push(request);
        }
    }
    let backups = seen.backups.state();
    for backup in backups
        .iter()
        .filter(|backup| backup.name_any() != DEFAULT_BACKUP)
    {
        let name = backup.name_any();
        // What can't be done is told by another condition.
        let Ok(valid) = validate(&name, &backup.spec) else {
            continue;
        };
        let since = memory.asked_since(backup, now);
        let requests = by_backup.remove(&name).unwrap_or_default();
        let judged = judge_requests(&valid, since, &requests, now);
        again = again.into_iter().chain(judged.look_again_at).min();
        tell(context, backup, &judged).await?;
    }
    memory.looked = true;
    context
        .telling
        .change(|telling| telling.judged_at = Some(now));
    let is_there = |name: &String| backups.iter().any(|backup| backup.name_any() == *name);
    memory.generations.retain(|name, _| is_there(name));
    context.telling.change(|telling| {
        telling.backups.retain(|name, _| is_there(name));
    });
    let left = forget_nodes_that_left(context, seen, now).await?;
    Ok(again.into_iter().chain(left).min())
}

async fn look_at_nodes(
    context: &Context,
    seen: &Seen,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<Option<Timestamp>, kube::Error> {
    let backups = seen.backups.state();
    let default = backups
        .iter()
        .find(|backup| backup.name_any() == DEFAULT_BACKUP);
    let since = match (default, context.shape.kinds) {
        (Some(backup), _) => {
            if let Ok(valid) = validate(DEFAULT_BACKUP, &backup.spec) {
                memory.valid = Some(valid);
            }
            memory.asked_since(backup, now)
        }
        (None, KindsOf::Upstream) => memory.started.unwrap_or(now),
        // Nobody wants any.
        (None, KindsOf::Us) => {
            context.telling.change(|telling| telling.nodes.clear());
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
    let mut nodes = control_plane(seen);
    nodes.sort_by_key(|node| node.name_any());
    let pods = seen.pods.state();
    let told: HashMap<_, _> = seen
        .node_backups
        .state()
        .into_iter()
        .map(|told| (told.name_any(), told))
        .collect();
    let names: Vec<_> = nodes.iter().map(|node| node.name_any()).collect();
    let mut verdicts = Vec::new();
    let mut tellings = BTreeMap::new();
    for (node, name) in nodes.iter().zip(&names) {
        let joined = memory.joined(node, now);
        let told = told.get(name);
        let advanced_at = told.and_then(|told| memory.advanced(told, now));
        let mut view = NodeView {
            name,
            covered_since: joined.max(since),
            told: told.and_then(|told| told.status.as_ref()),
            advanced_at,
            pod_problem: problem_on(name, &pods),
        };
        let mut verdict = judge(&schedule, &zone, &view, now);
        if matches!(verdict, Verdict::Stale(_))
            && let Some(problem) = node_problem(context, name).await?
        {
            view.pod_problem = Some(problem);
            verdict = judge(&schedule, &zone, &view, now);
        }
        tellings.insert(
            name.clone(),
            NodeTold {
                applicable: !matches!(verdict, Verdict::NotApplicable(_)),
                fresh: matches!(verdict, Verdict::Fresh { .. }),
                advanced_at,
            },
        );
        verdicts.push((name.as_str(), verdict));
    }
    memory.joined.retain(|name, _| names.contains(name));
    // A NodeBackup that somebody has removed comes back with what was known already.
    memory.advanced.retain(|name, _| names.contains(name));
    context.telling.change(|telling| telling.nodes = tellings);
    let mut judged = sum_up(&verdicts);
    let known_from = memory
        .started
        .and_then(|at| at.checked_add(NODES_CATCH_UP).ok());
    if let Some(known_from) = known_from.filter(|from| judged.degraded && *from > now) {
        // What was told before stays, and nothing is told that may be over in a moment.
        judged.look_again_at = Some(known_from);
        return Ok(judged.look_again_at);
    }
    match default {
        Some(backup) => tell(context, backup, &judged).await?,
        None => tell_without_backup(context, memory, &judged).await,
    }
    Ok(judged.look_again_at)
}

impl Memory {
    /// When the current specification of a `Backup` was first seen.
    fn asked_since(&mut self, backup: &Backup, now: Timestamp) -> Timestamp {
        let created = created(&backup.metadata);
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
    fn joined(&mut self, node: &PartialObjectMeta<Node>, now: Timestamp) -> Timestamp {
        let since = if self.looked {
            now
        } else {
            created(&node.metadata)
        };
        *self.joined.entry(node.name_any()).or_insert(since)
    }

    /// When a node's newest proven backup was first seen.
    fn advanced(&mut self, told: &NodeBackup, now: Timestamp) -> Option<Timestamp> {
        let status = told.status.as_ref()?;
        let newest = status.last_verified.as_ref()?;
        let name = told.name_any();
        let mark = Mark::of(newest);
        if let Some(known) = self.advanced.get_mut(&name) {
            known.see(mark, now);
            return Some(known.at);
        }
        let at = known_advance(told, now)?;
        let advance = Advance {
            highest: mark,
            shown: mark,
            at,
        };
        self.advanced.insert(name, advance);
        Some(at)
    }
}

/// Estimates when a node's newest proven backup was new, without earlier observations. If the last run made it, this is the time when
/// the node wrote its status. Otherwise it is the time in the backup's record.
pub(crate) fn known_advance(told: &NodeBackup, now: Timestamp) -> Option<Timestamp> {
    let status = told.status.as_ref()?;
    let newest = status.last_verified.as_ref()?;
    let written = written_by_node(told).unwrap_or(now).min(now);
    let Ok(finished) = newest.finished_at.parse::<Timestamp>() else {
        return Some(written);
    };
    let of_last_run = status.last_attempt.as_ref().is_some_and(|attempt| {
        let started = attempt.started_at.parse::<Timestamp>();
        attempt.succeeded && started.is_ok_and(|started| started <= finished)
    });
    Some(if of_last_run {
        written
    } else {
        finished.min(written)
    })
}

pub(crate) fn created(metadata: &kube::api::ObjectMeta) -> Timestamp {
    let created = metadata.creation_timestamp.as_ref();
    created.map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// When the node last wrote its `NodeBackup`, by the API server's clock. Writes of others do not count.
fn written_by_node(told: &NodeBackup) -> Option<Timestamp> {
    let managers = told.metadata.managed_fields.iter().flatten();
    managers
        .filter(|manager| manager.manager.as_deref() == Some(SERVER_MANAGER))
        .filter_map(|manager| manager.time.as_ref())
        .map(|time| time.0)
        .max()
}

/// The control-plane nodes.
pub(crate) fn control_plane(seen: &Seen) -> Vec<Arc<PartialObjectMeta<Node>>> {
    let has_role = |node: &Arc<PartialObjectMeta<Node>>| {
        ROLES.iter().any(|role| node.labels().contains_key(*role))
    };
    seen.nodes.state().into_iter().filter(has_role).collect()
}

/// The problem of a node's backup server, if any.
pub(crate) fn problem_on(node: &str, pods: &[Arc<Pod>]) -> Option<String> {
    let mut own = pods
        .iter()
        .filter(|pod| pod.labels().get("app").is_some_and(|app| app == SERVER_APP))
        .filter(|pod| is_for(pod, node))
        .peekable();
    if own.peek().is_none() {
        return Some("the backup server has no pod on this node".into());
    }
    // While one is replaced there are two; one that is well is enough.
    let problems: Option<Vec<_>> = own.map(|pod| pod_problem(pod)).collect();
    problems.and_then(|mut problems| problems.pop())
}

/// Whether a pod of a DaemonSet is for this node, even if it is not scheduled yet.
fn is_for(pod: &Pod, node: &str) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    if let Some(bound) = &spec.node_name {
        return bound == node;
    }
    let affinity = json!(spec.affinity);
    let terms = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    affinity.pointer(terms).and_then(|value| value.as_str()) == Some(node)
}

/// The problem of a pod, or `None` if it runs or has succeeded.
pub(crate) fn pod_problem(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    if status.phase.as_deref() == Some("Succeeded") {
        return None;
    }
    let containers = || status.container_statuses.iter().flatten();
    let last_words = |state: &Option<ContainerState>| {
        let end = state.as_ref()?.terminated.as_ref()?;
        let message = end.message.as_deref().unwrap_or_default().trim();
        let reason = end.reason.as_deref().unwrap_or("Error");
        Some(if message.is_empty() {
            format!("{reason}, exit code {}", end.exit_code)
        } else {
            format!("exit code {}: {message}", end.exit_code)
        })
    };
    if status.phase.as_deref() == Some("Failed") {
        let words = containers().find_map(|container| last_words(&container.state));
        let why = match (&status.reason, &status.message) {
            (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
            (reason, _) => reason.clone(),
        };
        let told: Vec<_> = why.into_iter().chain(words).collect();
        return Some(format!("pod {name} failed: {}", told.join("; ")));
    }
    let waiting = containers().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        let words = last_words(&container.last_state);
        let message = words.or_else(|| waiting.message.clone().filter(|text| !text.is_empty()));
        Some(match message {
            Some(message) => format!("pod {name}: {reason}: {message}"),
            None => format!("pod {name}: {reason}"),
        })
    });
    if waiting.is_some() {
        return waiting;
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let message = unscheduled.message.as_deref().unwrap_or("no message");
    Some(format!("pod {name} is not scheduled: {message}"))
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
fn judge_requests(
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
        // It was parsed before.
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
            "LastBackupFailed",
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
        return judged(true, "BackupsStale", message);
    }
    match completed {
        Some(_) => judged(
            false,
            "AsExpected",
            "the newest backup is up to date".into(),
        ),
        None => judged(false, "BackupPending", "the first backup is pending".into()),
    }
}

async fn tell(context: &Context, backup: &Backup, judged: &Judgement) -> Result<(), kube::Error> {
    let saying = Saying {
        type_: CONDITION,
        holds: judged.degraded,
        reason: judged.reason,
        message: judged.message.clone(),
    };
    let name = backup.name_any();
    context.telling.change(|telling| {
        telling.backups.entry(name.clone()).or_default().fresh = Some(!judged.degraded);
    });
    let generation = backup.metadata.generation;
    let conditions = backup
        .status
        .as_ref()
        .map(|status| status.conditions.clone());
    let conditions = conditions.unwrap_or_default();
    let before = before(&conditions, CONDITION);
    let now = Timestamp::now();
    let is_old = saying.is_old(before, generation);
    let judged_at = backup.status.as_ref().and_then(|status| {
        let judged_at: Timestamp = status.last_evaluated.as_ref()?.parse().ok()?;
        Some(judged_at)
    });
    let is_renewed = judged_at.is_some_and(|at| now.duration_since(at).abs() < RENEWED_EVERY);
    if is_old && is_renewed {
        return Ok(());
    }
    if !is_old {
        context
            .announce(&backup.object_ref(&()), before, &saying)
            .await;
    }
    let condition = saying.after(before, generation, now);
    let judged_at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    context
        .tell_backup(
            &name,
            MANAGER,
            &condition,
            json!({"lastEvaluated": judged_at}),
        )
        .await
}

/// Publishes an event on the CRD of `NodeBackup`, because there is no `Backup` for a condition.
async fn tell_without_backup(context: &Context, memory: &mut Memory, judged: &Judgement) {
    let before = memory
        .said
        .replace((judged.degraded, judged.message.clone()));
    let was = before.as_ref().is_some_and(|(degraded, _)| *degraded);
    let kind = ObjectReference {
        api_version: Some("apiextensions.k8s.io/v1".into()),
        kind: Some("CustomResourceDefinition".into()),
        name: Some(NodeBackup::crd_name().into()),
        ..ObjectReference::default()
    };
    if judged.degraded && before.is_none_or(|(_, message)| message != judged.message) {
        tracing::warn!(reason = judged.reason, "{}", judged.message);
        let events = &context.events;
        events.warning(&kind, judged.reason, &judged.message).await;
    } else if was && !judged.degraded {
        tracing::info!(reason = judged.reason, "{}", judged.message);
        let events = &context.events;
        events.normal(&kind, judged.reason, &judged.message).await;
    }
}

/// Deletes the `NodeBackup`s of nodes that do not exist any more, one day after the last write. Returns the time of the next deletion.
async fn forget_nodes_that_left(
    context: &Context,
    seen: &Seen,
    now: Timestamp,
) -> Result<Option<Timestamp>, kube::Error> {
    let nodes = seen.nodes.state();
    let mut next = None;
    for told in seen.node_backups.state() {
        let name = told.name_any();
        if nodes.iter().any(|node| node.name_any() == name) {
            continue;
        }
        let written = written_by_node(&told).unwrap_or_else(|| created(&told.metadata));
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
        gone_is_well(context.write(all.delete(&name, &params)).await)?;
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn problem(status: Value) -> Option<String> {
        let pod = json!({"metadata": {"name": "p"}, "status": status});
        pod_problem(&serde_json::from_value(pod).unwrap())
    }

    fn mark(sequence: i64, revision: i64, finished_s: i64) -> Mark {
        Mark {
            sequence,
            revision,
            finished_at: Timestamp::from_second(finished_s).unwrap(),
        }
    }

    #[test]
    fn a_newest_backup_that_was_removed_makes_none_of_those_before_it_new() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let first = mark(7, 700, 1000);
        let mut advance = Advance {
            highest: first,
            shown: first,
            // The node's clock is an hour behind.
            at: second(4600),
        };
        let next = mark(8, 800, 1300);
        advance.see(next, second(4900));
        assert_eq!(advance.at, second(4900));
        // The newest is removed: what is shown is as old as it was.
        advance.see(first, second(5000));
        assert_eq!(advance.at, second(4600));
        // It comes back, from another disk, say.
        advance.see(next, second(5100));
        assert_eq!(advance.at, second(4900));
        // On a new disk sequences begin anew; a later time is enough, and so is a higher revision.
        advance.see(mark(1, 900, 1200), second(5200));
        assert_eq!(advance.at, second(5200));
        advance.see(mark(2, 100, 1500), second(5300));
        assert_eq!(advance.at, second(5300));
    }

    #[test]
    fn what_somebody_else_writes_on_a_node_backup_makes_no_backup_new() {
        let written = |manager: &str, time: &str| json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "time": time});
        let told: NodeBackup = serde_json::from_value(json!({
            "apiVersion": "lifeboat.etcd.io/v1alpha1",
            "kind": "NodeBackup",
            "metadata": {"name": "a", "managedFields": [
                written(SERVER_MANAGER, "2026-11-22T03:00:05Z"),
                written("kubectl-label", "2026-11-22T09:00:00Z"),
            ]},
            "spec": {},
            "status": {
                "lastVerified": {"name": "b", "finishedAt": "2026-11-22T03:00:00Z"},
                "lastAttempt": {"startedAt": "2026-11-22T03:00:00Z", "succeeded": true},
            },
        }))
        .unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(
            known_advance(&told, at("2026-11-22T10:00:00Z")),
            Some(at("2026-11-22T03:00:05Z"))
        );
        // Where the last run has not made what is newest, the node's word counts.
        let mut removed = told.clone();
        let status = removed.status.as_mut().unwrap();
        status.last_verified.as_mut().unwrap().finished_at = "2026-11-22T01:00:00Z".into();
        assert_eq!(
            known_advance(&removed, at("2026-11-22T10:00:00Z")),
            Some(at("2026-11-22T01:00:00Z"))
        );
    }

    #[test]
    fn what_is_wrong_with_a_pod_is_told_in_its_own_words() {
        let container = |state: Value, last: Value| json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last}]);
        let died =
            json!({"terminated": {"exitCode": 2, "reason": "Error", "message": "error: no\n"}});
        for (status, told) in [
            (json!({"phase": "Running"}), None),
            (json!({"phase": "Succeeded"}), None),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
                Some("pod p failed: Evicted: The node was low on resource: memory."),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": container(died.clone(), json!({}))}),
                Some("pod p failed: exit code 2: error: no"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": container(
                    json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}), died)}),
                Some("pod p: CrashLoopBackOff: exit code 2: error: no"),
            ),
            (
                json!({"phase": "Pending", "containerStatuses": container(
                    json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}), json!({}))}),
                Some("pod p: ErrImagePull: not found"),
            ),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]}),
                Some("pod p is not scheduled: 0/3 nodes are available"),
            ),
        ] {
            assert_eq!(problem(status).as_deref(), told);
        }
    }
}
