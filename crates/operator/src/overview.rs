//! What a person wants to know of a cluster's backups, node by node, read from what nodes and the operator have told.

use crate::freshness::{created, known_advance, pod_problem, problem_on};
use crate::names::{OPERATOR_APP, SERVER_APP};
use crate::pods::ROLES;
use crate::shape::{self, KindsOf};
use backup_plan::api::{
    Backup, DEFAULT_BACKUP, NodeBackup, NodeBackupEntry, NodeMember, ValidBackup, validate,
};
use backup_plan::cron::Schedule;
use backup_plan::freshness::{NodeView, Verdict, judge};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A cluster's backups. Its JSON is a contract with scripts.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// Whether each node that has something to back up has a proven backup that is new enough, and there is one.
    pub ok: bool,
    /// What is wrong with the whole; nothing if nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Node by node.
    pub nodes: Vec<NodeOverview>,
}

/// A node's backups.
#[derive(Debug, Clone, Serialize)]
pub struct NodeOverview {
    /// Its name.
    pub node: String,
    /// `fresh`, `awaited`, `stale`, or `not-applicable`.
    pub state: &'static str,
    /// The newest proven backup.
    pub last_verified: Option<NodeBackupEntry>,
    /// How many it keeps.
    pub kept: i64,
    /// When the next run is due.
    pub next_due: Option<String>,
    /// What is wrong, or why there is nothing to back up.
    pub problem: Option<String>,
    /// The newest of those it keeps.
    pub backups: Vec<NodeBackupEntry>,
}

/// Looks at a cluster.
///
/// # Errors
/// What the API server says.
pub async fn look(client: &Client, now: Timestamp) -> Result<Overview, kube::Error> {
    let shape = allowed(shape::look(client).await)?;
    if shape.as_ref().is_some_and(|shape| shape.external) {
        return Ok(Overview {
            ok: false,
            problems: vec![shape::ELSEWHERE.into()],
            nodes: Vec::new(),
        });
    }
    let upstream = shape.is_some_and(|shape| shape.kinds == KindsOf::Upstream);
    let all = ListParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&all).await?.items;
    let told = or_none(Api::<NodeBackup>::all(client.clone()).list(&all).await)?;
    let told: BTreeMap<_, _> = told
        .into_iter()
        .map(|told| (told.name_any(), told))
        .collect();
    // What upstream makes of a `Backup` is upstream's to tell; the servers run without one there.
    let backups = if upstream {
        Vec::new()
    } else {
        or_none(Api::<Backup>::all(client.clone()).list(&all).await)?
    };
    let ours = format!("app in ({SERVER_APP},{OPERATOR_APP})");
    let ours = all.clone().labels(&ours);
    let pods: Api<Pod> = Api::all(client.clone());
    let pods: Option<Vec<_>> =
        allowed(pods.list(&ours).await)?.map(|pods| pods.into_iter().map(Arc::new).collect());
    let default = backups
        .iter()
        .find(|backup| backup.name_any() == DEFAULT_BACKUP);
    let mut problems = problems(&backups);
    let servers_run = upstream || default.is_some();
    if !servers_run {
        problems.push(
            "there is no Backup called default: nothing is backed up on the nodes' own disks"
                .to_string(),
        );
    }
    problems.extend(pods.as_deref().and_then(operator_problem));
    let valid = default
        .and_then(|backup| validate(DEFAULT_BACKUP, &backup.spec).ok())
        .unwrap_or_else(ValidBackup::of_servers);
    let zone = TimeZone::get(&valid.time_zone).unwrap_or(TimeZone::UTC);
    let schedule = Schedule::parse(&valid.schedule).ok();
    let since = default.map_or(Timestamp::UNIX_EPOCH, |backup| created(&backup.metadata));
    let mut rows = Vec::new();
    for node in &nodes {
        let name = node.name_any();
        let has_role = ROLES.iter().any(|role| node.labels().contains_key(*role));
        let told = told.get(&name);
        // One that has lost its role still has its backups.
        if !has_role && told.is_none() {
            continue;
        }
        let status = told.and_then(|told| told.status.as_ref());
        let view = NodeView {
            name: &name,
            covered_since: created(&node.metadata).max(since),
            told: status,
            advanced_at: told.and_then(|told| known_advance(told, now)),
            pod_problem: pods
                .as_ref()
                .filter(|_| servers_run)
                .and_then(|pods| problem_on(&name, pods)),
        };
        let verdict = match &schedule {
            Some(schedule) if has_role => judge(schedule, &zone, &view, now),
            _ => Verdict::NotApplicable("it is not of the control plane".into()),
        };
        rows.push(row(&view, verdict));
    }
    rows.sort_by(|one, other| one.node.cmp(&other.node));
    if rows.iter().all(|row| row.state == "not-applicable") {
        problems.push("no node of the control plane has something to back up".into());
    }
    Ok(Overview {
        ok: problems.is_empty() && rows.iter().all(|row| row.state != "stale"),
        problems,
        nodes: rows,
    })
}

/// A kind that is not there has no objects.
fn or_none<K: Clone>(
    listed: Result<kube::core::ObjectList<K>, kube::Error>,
) -> Result<Vec<K>, kube::Error> {
    match listed {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        listed => listed.map(|list| list.items),
    }
}

/// Who may not see something sees all the rest.
fn allowed<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        answer => answer.map(Some),
    }
}

/// What the operator says of each `Backup`; of the nodes of the default one each row tells.
fn problems(backups: &[Backup]) -> Vec<String> {
    let mut problems = Vec::new();
    for backup in backups {
        let name = backup.name_any();
        let conditions = backup.status.iter().flat_map(|status| &status.conditions);
        problems.extend(
            conditions
                .filter(|condition| condition.status == "True")
                .filter(|condition| condition.reason != "BackupsStale" || name != DEFAULT_BACKUP)
                .map(|condition| {
                    format!("Backup {name}: {}: {}", condition.reason, condition.message)
                }),
        );
    }
    problems
}

/// What is wrong with the operator, where its pods are: one that is ready is enough.
fn operator_problem(pods: &[Arc<Pod>]) -> Option<String> {
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| &status.conditions);
        conditions
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let own = |pod: &&Arc<Pod>| {
        pod.labels()
            .get("app")
            .is_some_and(|app| app == OPERATOR_APP)
    };
    let own: Vec<_> = pods.iter().filter(own).collect();
    if own.is_empty() || own.iter().any(|pod| is_ready(pod)) {
        return None;
    }
    let why = own.iter().find_map(|pod| pod_problem(pod));
    let why = why.unwrap_or_else(|| "none of its pods is ready".into());
    Some(format!(
        "the operator does not work: {why}. Backups on the nodes go on, and nobody follows what is written in a Backup"
    ))
}

fn row(view: &NodeView<'_>, verdict: Verdict) -> NodeOverview {
    let status = view.told.cloned().unwrap_or_default();
    let own = status.problem.clone();
    let (state, problem) = match verdict {
        Verdict::Fresh { .. } => ("fresh", view.pod_problem.clone().or(own)),
        Verdict::Awaited { .. } => ("awaited", view.pod_problem.clone().or(own)),
        Verdict::Stale(why) => ("stale", Some(why)),
        Verdict::NotApplicable(why) => ("not-applicable", Some(why)),
    };
    NodeOverview {
        node: view.name.into(),
        state,
        kept: status.kept,
        next_due: status
            .next_due
            .filter(|_| status.member != NodeMember::None),
        last_verified: status.last_verified,
        problem,
        backups: status.backups,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(app: &str, ready: bool, waits: &str) -> Arc<Pod> {
        let state = json!([{"name": "c", "image": "", "imageID": "", "ready": ready, "restartCount": 0,
            "state": if waits.is_empty() { json!({}) } else { json!({"waiting": {"reason": waits}}) }}]);
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": "p", "labels": {"app": app}},
            "status": {"conditions": [{"type": "Ready", "status": status}], "containerStatuses": state},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn an_operator_that_does_not_work_is_told_where_its_pods_are() {
        let server = || pod(SERVER_APP, false, "");
        let operator = |ready, waits| pod(OPERATOR_APP, ready, waits);
        assert_eq!(operator_problem(&[server()]), None);
        assert_eq!(
            operator_problem(&[server(), operator(false, ""), operator(true, "")]),
            None
        );
        let told = operator_problem(&[operator(false, "ErrImagePull")]).unwrap();
        assert!(told.contains("pod p: ErrImagePull"), "{told}");
        let told = operator_problem(&[operator(false, "")]).unwrap();
        assert!(told.contains("none of its pods is ready"), "{told}");
    }
}
