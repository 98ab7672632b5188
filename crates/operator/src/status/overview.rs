//! The overview of a cluster's backups per node, from the status of `NodeBackup`s and `Backup`s.

use crate::cluster::api_schema::ApiProblems;
use crate::cluster::cluster_info::{self, CrdOwner};
use crate::cluster::lease;
use crate::cluster::lenient::{self, Lenient};
use crate::cluster::node_backups::{creation_time, estimate_newest_seen_at};
use crate::cluster::pod_problems::{pod_problem, server_problem};
use crate::names::{OPERATOR_APP, SERVER_APP};
use crate::objects::pod::ROLES;
use backup_plan::cron::Schedule;
use cluster_api::conditions::StatusReason;
use cluster_api::freshness::{NodeView, Verdict, judge};
use cluster_api::placement::has_server_pods;
use cluster_api::resources::{
    Backup, DEFAULT_BACKUP, NodeBackup, NodeBackupEntry, NodeMember, OtherEtcdStatus, VolumeStatus,
};
use cluster_api::validation::{ValidBackup, validate};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Time for another replica to take over, and for differences between clocks.
const OPERATOR_RENEWS_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// The backups of a cluster. Scripts depend on its JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// Whether no node is stale and there is no problem.
    pub ok: bool,
    /// Problems of the whole cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The backups per node.
    pub nodes: Vec<NodeOverview>,
}

/// The backups of a node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeOverview {
    /// Name of the node.
    pub node: String,
    /// `fresh`, `pending`, `stale`, or `not-applicable`.
    pub state: &'static str,
    /// The newest proven backup.
    pub last_verified: Option<NodeBackupEntry>,
    /// Number of proven backups.
    pub kept: i64,
    /// When the next run is due.
    pub next_due: Option<String>,
    /// The problem of the node, or why it has nothing to back up.
    pub problem: Option<String>,
    /// The newest proven backups.
    pub backups: Vec<NodeBackupEntry>,
    /// The copies on the volume of the node, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStatus>,
    /// Other etcds of the node, each with a part of the objects of Kubernetes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_etcds: Vec<OtherEtcdStatus>,
}

/// Reads the overview of a cluster.
///
/// # Errors
/// The error of the API server.
pub async fn read_overview(client: &Client, now: Timestamp) -> Result<Overview, kube::Error> {
    let info = none_if_forbidden(cluster_info::read_cluster_info(client).await)?;
    if info.as_ref().is_some_and(|info| info.external) {
        return Ok(Overview {
            ok: false,
            problems: vec![cluster_info::EXTERNAL_CONTROL_PLANE.into()],
            nodes: Vec::new(),
        });
    }
    Ok(read_objects(client, info).await?.overview(now))
}

/// What the cluster says about its backups.
struct Objects {
    nodes: Vec<PartialObjectMeta<Node>>,
    reports: BTreeMap<String, NodeBackup>,
    backups: Vec<Backup>,
    /// Pods of the operator and of the backup servers. `None` if the user is not allowed to read them.
    pods: Option<Vec<Arc<Pod>>>,
    /// When the operator last renewed its Lease, if it ever did. `None` if the user is not allowed to read it.
    operator_renewed: Option<Option<Timestamp>>,
    /// What is wrong with objects that could not be read.
    unreadable: Vec<String>,
    upstream: bool,
    api_problems: ApiProblems,
}

async fn read_objects(
    client: &Client,
    info: Option<cluster_info::ClusterInfo>,
) -> Result<Objects, kube::Error> {
    let upstream = info
        .as_ref()
        .is_some_and(|info| info.crd_owner == CrdOwner::Upstream);
    let api_problems = info.as_ref().map(|info| info.api_problems.clone());
    let operator_renewed = match &info {
        Some(info) => none_if_forbidden(lease::renewed_at(client, &info.namespace).await)?,
        None => None,
    };
    let all = ListParams::default();
    let nodes: Api<Lenient<PartialObjectMeta<Node>>> = Api::all(client.clone());
    let (nodes, mut unreadable) = lenient::list(&nodes, &all).await?;
    let reports: Api<Lenient<NodeBackup>> = Api::all(client.clone());
    let reports = empty_if_not_found(lenient::list(&reports, &all).await, &mut unreadable)?;
    // On OpenShift, a `Backup` belongs to upstream's own operator, and the servers run without one.
    let backups = if upstream {
        Vec::new()
    } else {
        let backups: Api<Lenient<Backup>> = Api::all(client.clone());
        empty_if_not_found(lenient::list(&backups, &all).await, &mut unreadable)?
    };
    let ours = all.labels(&format!("app in ({SERVER_APP},{OPERATOR_APP})"));
    let pods: Api<Lenient<Pod>> = match &info {
        Some(info) => Api::namespaced(client.clone(), &info.namespace),
        None => Api::all(client.clone()),
    };
    let pods = none_if_forbidden(lenient::list(&pods, &ours).await)?;
    Ok(Objects {
        nodes,
        reports: reports
            .into_iter()
            .map(|report| (report.name_any(), report))
            .collect(),
        backups,
        pods: pods.map(|(pods, _)| pods.into_iter().map(Arc::new).collect()),
        operator_renewed,
        unreadable,
        upstream,
        api_problems: api_problems.unwrap_or_default(),
    })
}

impl Objects {
    fn default_backup(&self) -> Option<&Backup> {
        self.backups
            .iter()
            .find(|backup| backup.name_any() == DEFAULT_BACKUP)
    }

    fn overview(&self, now: Timestamp) -> Overview {
        let mut problems = self.problems(now);
        let nodes = self.rows(now);
        if nodes.iter().all(|row| row.state == "not-applicable") {
            problems.push("no control-plane node has an etcd member to back up".into());
        }
        Overview {
            ok: problems.is_empty() && nodes.iter().all(|row| row.state != "stale"),
            problems,
            nodes,
        }
    }

    fn problems(&self, now: Timestamp) -> Vec<String> {
        let mut problems = condition_problems(&self.backups);
        problems.extend(self.unreadable.iter().cloned());
        problems.extend(self.api_problems.iter().cloned());
        match self.default_backup() {
            Some(backup) => problems.extend(outdated_evaluation(backup, now)),
            None if self.upstream => {}
            None => problems.push(
                "Backup/default does not exist: no scheduled backups are made on the disks of the nodes; create a Backup with the name default"
                    .to_string(),
            ),
        }
        problems.extend(self.operator_renewed.and_then(|renewed| {
            operator_problem(renewed, self.pods.as_deref().unwrap_or_default(), now)
        }));
        problems
    }

    /// The nodes in the order of their names: all control-plane nodes, and others that have a report.
    fn rows(&self, now: Timestamp) -> Vec<NodeOverview> {
        let default = self.default_backup();
        let servers_run =
            self.upstream || default.is_some_and(|backup| has_server_pods(backup.annotations()));
        let valid = default
            .and_then(|backup| validate(DEFAULT_BACKUP, &backup.spec).ok())
            .unwrap_or_else(ValidBackup::of_servers);
        let zone = TimeZone::get(&valid.time_zone).unwrap_or(TimeZone::UTC);
        let schedule = Schedule::parse(&valid.schedule).ok();
        let since = default.map_or(Timestamp::UNIX_EPOCH, |backup| {
            creation_time(&backup.metadata)
        });
        let mut rows = Vec::new();
        for node in &self.nodes {
            let name = node.name_any();
            let has_role = ROLES.iter().any(|role| node.labels().contains_key(*role));
            let report = self.reports.get(&name);
            // A node that has lost its role still has its backups.
            if !has_role && report.is_none() {
                continue;
            }
            let view = NodeView {
                name: &name,
                covered_since: creation_time(&node.metadata).max(since),
                reported: report.and_then(|report| report.status.as_ref()),
                advanced_at: report.and_then(|report| estimate_newest_seen_at(report, now)),
                pod_problem: self
                    .pods
                    .as_ref()
                    .filter(|_| servers_run)
                    .and_then(|pods| server_problem(&name, pods)),
            };
            let verdict = match &schedule {
                Some(schedule) if has_role => judge(schedule, &zone, &view, now),
                _ => Verdict::NotApplicable("it is not a control-plane node".into()),
            };
            rows.push(row(&view, verdict));
        }
        rows.sort_by(|one, other| one.node.cmp(&other.node));
        rows
    }
}

/// Returns an empty list if the CRD does not exist.
fn empty_if_not_found<K>(
    listed: Result<(Vec<K>, Vec<String>), kube::Error>,
    unreadable: &mut Vec<String>,
) -> Result<Vec<K>, kube::Error> {
    match listed {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        listed => listed.map(|(objects, problems)| {
            unreadable.extend(problems);
            objects
        }),
    }
}

/// Returns `None` if the user is not allowed to read this, so that the rest is still shown.
fn none_if_forbidden<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        answer => answer.map(Some),
    }
}

/// The problems of each `Backup`. Stale nodes of `Backup/default` are in the rows of the nodes.
fn condition_problems(backups: &[Backup]) -> Vec<String> {
    let mut problems = Vec::new();
    for backup in backups {
        let name = backup.name_any();
        let conditions = backup.status.iter().flat_map(|status| &status.conditions);
        problems.extend(
            conditions
                .filter(|condition| condition.status == "True")
                .filter(|condition| {
                    condition.reason != StatusReason::BackupsStale.name() || name != DEFAULT_BACKUP
                })
                .map(|condition| {
                    format!("Backup {name}: {}: {}", condition.reason, condition.message)
                }),
        );
    }
    // Two conditions can have the same reason.
    let mut seen = BTreeSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    problems
}

/// Reports if the conditions of a `Backup` were not evaluated for too long.
fn outdated_evaluation(backup: &Backup, now: Timestamp) -> Option<String> {
    const RENEWED_WITHIN: SignedDuration = SignedDuration::from_mins(15);
    let evaluated_at = backup.status.as_ref()?.last_evaluated.as_ref()?;
    let age = now.duration_since(evaluated_at.parse::<Timestamp>().ok()?);
    (age > RENEWED_WITHIN).then(|| {
        format!(
            "Backup {DEFAULT_BACKUP} was last evaluated at {evaluated_at}: its conditions may be out of date; look at Deployment {OPERATOR_APP}"
        )
    })
}

/// The problem of the operator, if its lease was not renewed.
fn operator_problem(
    renewed_at: Option<Timestamp>,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Option<String> {
    if renewed_at.is_some_and(|at| now.duration_since(at) < OPERATOR_RENEWS_WITHIN) {
        return None;
    }
    let own = |pod: &&Arc<Pod>| {
        pod.labels()
            .get("app")
            .is_some_and(|app| app == OPERATOR_APP)
    };
    let why = pods.iter().filter(own).find_map(|pod| pod_problem(pod));
    let why = why.unwrap_or_else(|| match renewed_at {
        Some(at) => format!("its lease was last renewed at {at:.0}"),
        None => "no replica has ever held its lease".into(),
    });
    Some(format!(
        "the operator does not work: {why}; look at Deployment {OPERATOR_APP}. The nodes continue to make backups, but changes to a Backup have no effect"
    ))
}

fn row(view: &NodeView<'_>, verdict: Verdict) -> NodeOverview {
    let status = view.reported.cloned().unwrap_or_default();
    let own = status.problem.clone();
    let (state, problem) = match verdict {
        Verdict::Fresh { .. } => ("fresh", view.pod_problem.clone().or(own)),
        Verdict::Pending { .. } => ("pending", view.pod_problem.clone().or(own)),
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
        volume: status.volume,
        other_etcds: status.other_etcds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_operator_that_does_not_work_is_told_with_the_reason() {
        let pod = |app: &str| {
            let waits = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ErrImagePull"}}}]);
            let pod = json!({
                "metadata": {"name": "p", "labels": {"app": app}},
                "status": {"containerStatuses": waits},
            });
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let now: Timestamp = "2026-11-22T03:00:00Z".parse().unwrap();
        let ago = |seconds: i64| Some(now - SignedDuration::from_secs(seconds));
        // One replica that works is enough, even if the other one waits for something.
        assert_eq!(operator_problem(ago(20), &[pod(OPERATOR_APP)], now), None);
        // The clock of the machine that runs the command may be behind.
        assert_eq!(operator_problem(ago(-300), &[], now), None);
        for (renewed_at, pods, expected) in [
            (ago(70), vec![pod(OPERATOR_APP)], "pod p: ErrImagePull"),
            (
                ago(70),
                vec![pod(SERVER_APP)],
                "renewed at 2026-11-22T02:58:50Z",
            ),
            (None, vec![], "no replica has ever held its lease"),
        ] {
            let problem = operator_problem(renewed_at, &pods, now).unwrap();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
