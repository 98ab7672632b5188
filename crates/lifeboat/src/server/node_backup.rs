//! In a cluster, writes the state of the server to the `NodeBackup` of its node, and Events for failures and recoveries. Backups
//! continue without the API server. When it is available again, the current state is written.

use super::observed::{KeptBackup, NEWEST_KEPT, Observed, OtherEtcd, View};
use super::plan::Plan;
use backup_plan::freshness::Freshness;
use backup_plan::reason::Reason;
use backup_store::repository::Entry;
use cluster_api::conditions::StatusReason;
use cluster_api::resources::{
    Attempt, NODE_BACKUP_ENTRIES, NodeBackup, NodeBackupEntry, NodeBackupStatus, NodeMember,
    OTHER_ETCD_ENTRIES, OtherEtcdStatus,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Config, Resource};
use operator::api_error_message;
use operator::names::SERVER_MANAGER;
use operator::status::events::Events;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

// The CRD does not allow more entries.
const _: () = assert!(NEWEST_KEPT <= NODE_BACKUP_ENTRIES);
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The API server, with the service account of this pod. `None` outside of a pod, and in a pod without a service account.
pub(crate) fn client_of_pod() -> Option<Client> {
    let config = Config::incluster().ok()?;
    Client::try_from(config)
        .inspect_err(|error| {
            tracing::error!(
                "cannot connect to the API server: {error}; no NodeBackup is written, backups continue"
            );
        })
        .ok()
}

/// Writes the `NodeBackup` until the process ends.
pub(crate) async fn tell(client: Client, node: String, observed: Arc<Observed>) {
    let mut writer = Writer {
        api: Api::all(client.clone()),
        events: Events::new(&client, SERVER_MANAGER, &node, "Backup"),
        node,
        written: None,
        object: None,
        published_given_up: 0,
    };
    let mut looks = observed.looks();
    let mut retry = FIRST_RETRY;
    loop {
        if !observed.reports() {
            writer.written = None;
            if looks.changed().await.is_err() {
                return;
            }
            continue;
        }
        let status = status(&observed);
        let (given_up, news) = observed.given_up();
        let writing = async {
            writer.write(status).await?;
            writer.publish_removals(given_up, news).await;
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(ANSWER_WITHIN, writing).await {
            Ok(Ok(())) => {
                retry = FIRST_RETRY;
                if looks.changed().await.is_err() {
                    return;
                }
            }
            failed => {
                let problem = match failed {
                    Ok(Err(error)) => api_error_message(&error),
                    _ => "the API server does not answer".into(),
                };
                tracing::warn!(
                    retry_s = retry.as_secs(),
                    "cannot write NodeBackup/{}: {problem}; backups continue",
                    writer.node
                );
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LONGEST_RETRY);
            }
        }
    }
}

struct Writer {
    api: Api<NodeBackup>,
    events: Events,
    node: String,
    /// The status that was last written to the API server.
    written: Option<NodeBackupStatus>,
    /// The object of the events.
    object: Option<ObjectReference>,
    /// The number of backups removed for space that had an event.
    published_given_up: u64,
}

impl Writer {
    /// Publishes an event for each backup that was removed for space since the last call.
    async fn publish_removals(&mut self, given_up: u64, news: VecDeque<String>) {
        let Some(object) = &self.object else {
            return;
        };
        let new = usize::try_from(given_up - self.published_given_up).unwrap_or(usize::MAX);
        for note in news.iter().skip(news.len().saturating_sub(new)) {
            self.events
                .warning(object, StatusReason::BackupRemovedForSpace, note)
                .await;
        }
        self.published_given_up = given_up;
    }

    /// Writes the status to the API server, if it has changed.
    async fn write(&mut self, status: NodeBackupStatus) -> Result<(), kube::Error> {
        if self.written.as_ref() == Some(&status) {
            return Ok(());
        }
        let params = PatchParams::apply(SERVER_MANAGER).force();
        let (api_version, kind) = (NodeBackup::api_version(&()), NodeBackup::kind(&()));
        let whole = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": self.node},
            "status": status,
        });
        let patch = Patch::Apply(&whole);
        let written = match self.api.patch_status(&self.node, &params, &patch).await {
            // The NodeBackup does not exist yet.
            Err(kube::Error::Api(refused)) if refused.code == 404 => {
                let empty = json!({
                    "apiVersion": api_version,
                    "kind": kind,
                    "metadata": {"name": self.node},
                    "spec": {},
                });
                self.api
                    .patch(&self.node, &params, &Patch::Apply(&empty))
                    .await?;
                self.api.patch_status(&self.node, &params, &patch).await?
            }
            other => other?,
        };
        let object = written.object_ref(&());
        match news(self.written.as_ref(), &status) {
            Some(News::Failed(note)) => {
                self.events
                    .warning(&object, StatusReason::BackupFailed, &note)
                    .await
            }
            Some(News::Recovered(note)) => {
                self.events
                    .normal(&object, StatusReason::BackupRecovered, &note)
                    .await;
            }
            None => {}
        }
        self.object = Some(object);
        self.written = Some(status);
        Ok(())
    }
}

/// A change that is published as an event.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Failed(String),
    Recovered(String),
}

/// Compares two statuses and returns the change to publish.
fn news(before: Option<&NodeBackupStatus>, now: &NodeBackupStatus) -> Option<News> {
    let failed = |status: &NodeBackupStatus| {
        let attempt = status
            .last_attempt
            .as_ref()
            .filter(|attempt| !attempt.succeeded);
        attempt.map(|attempt| (attempt.reason.clone(), attempt.message.clone()))
    };
    match (before.and_then(failed), failed(now)) {
        // Another failure for the same reason is not a change.
        (Some((before, _)), Some((reason, _))) if before == reason => None,
        (_, Some((reason, message))) => Some(News::Failed(format!("{reason}: {message}"))),
        (Some(_), None) => {
            let newest = now.last_verified.as_ref()?;
            let note = format!("backup {} was made and proven", newest.name);
            Some(News::Recovered(note))
        }
        (None, None) => None,
    }
}

fn status(observed: &Observed) -> NodeBackupStatus {
    let view = observed.view(Timestamp::now());
    let kept: u64 = view.kept.lineages.values().sum();
    let settings = view.plan.settings();
    NodeBackupStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        schedule: settings.map_or_else(String::new, |set| set.schedule_text.clone()),
        time_zone: settings
            .and_then(|set| set.zone.iana_name())
            .unwrap_or("UTC")
            .into(),
        member: member(&view),
        last_verified: view.kept.entries.first().map(entry),
        last_attempt: attempt(&view),
        problem: problem(&view),
        next_due: view.next_due.map(|due| due.to_string()),
        kept: signed(kept),
        unreadable: signed(view.kept.unreadable.len() as u64),
        backups: view.kept.entries.iter().map(entry).collect(),
        // Another process reports it.
        volume: None,
        other_etcds: view
            .others
            .iter()
            .take(OTHER_ETCD_ENTRIES)
            .map(other_etcd)
            .collect(),
    }
}

fn other_etcd(etcd: &OtherEtcd) -> OtherEtcdStatus {
    OtherEtcdStatus {
        name: etcd.name.clone(),
        last_verified: etcd.newest.as_ref().map(entry),
        kept: signed(etcd.kept),
        // Without a backup it is stale after its first failure: the main etcd has one by then.
        stale: match etcd.freshness {
            Some(Freshness::Stale { .. }) => true,
            Some(_) => etcd.newest.is_none() && etcd.problem.is_some(),
            None => false,
        },
        problem: etcd.problem.clone().map(short),
    }
}

/// The role of the node's etcd member, from the result of the last run.
fn member(view: &View) -> NodeMember {
    match view.attempts.reason {
        Some(Reason::Learner) => NodeMember::Learner,
        Some(Reason::NoEtcd) => NodeMember::None,
        _ if view.attempts.successes > 0 || view.kept.newest.is_some() => NodeMember::Voter,
        _ => NodeMember::Unknown,
    }
}

fn attempt(view: &View) -> Option<Attempt> {
    let attempts = &view.attempts;
    Some(Attempt {
        started_at: to_the_second(attempts.last_ended?),
        succeeded: attempts.problem.is_none(),
        reason: attempts.reason.map_or("", Reason::name).into(),
        message: short(attempts.problem.clone().unwrap_or_default()),
        consecutive_failures: signed(attempts.consecutive_failures),
    })
}

fn problem(view: &View) -> Option<String> {
    if let Plan::Off(why) = &view.plan {
        return Some(short(why.clone()));
    }
    if view.kept.cluster_changed() {
        let changed = "some backups are of another etcd cluster than the newest backup, because etcd was restored or created again; remove them when you do not need them";
        return Some(changed.into());
    }
    let kept = view.kept.problem.clone();
    kept.or(view.attempts.problem.clone())
        .or_else(|| other_etcd_problem(view))
        .or_else(|| archive_problem(view))
        .or_else(|| unreadable_problem(view))
        .map(short)
}

fn other_etcd_problem(view: &View) -> Option<String> {
    let mut failing = view.others.iter().filter_map(|etcd| {
        let problem = etcd.problem.as_ref()?;
        Some(format!("etcd {}: {problem}", etcd.name))
    });
    failing.next().or_else(|| {
        let newest = view.kept.newest.as_ref()?;
        newest.not_backed_up.first().cloned()
    })
}

fn archive_problem(view: &View) -> Option<String> {
    let missing = &view.kept.newest.as_ref()?.archive_missing;
    let first = missing.first()?;
    Some(format!(
        "the archive of the newest backup is incomplete, and a restore on a new machine needs the missing files: {first}"
    ))
}

fn unreadable_problem(view: &View) -> Option<String> {
    let (name, problem) = view.kept.unreadable.first()?;
    Some(format!(
        "damaged backups: {}; the first is {name}: {problem}; copy the files that you need, then remove the backup by hand",
        view.kept.unreadable.len()
    ))
}

/// Limits the length of a string in a `NodeBackup`, so that the object has a limit, too.
fn short(text: String) -> String {
    const MAX_CHARS: usize = 1024;
    if text.chars().count() <= MAX_CHARS {
        return text;
    }
    text.chars().take(MAX_CHARS).chain(['…']).collect()
}

/// The newest proven backups of a repository as they are in a `NodeBackup`, and the number of all.
pub(crate) fn newest_entries(entries: &[Entry]) -> (Vec<NodeBackupEntry>, i64) {
    let proven = || {
        let proven = |entry: &&Entry| entry.candidate().is_some_and(|found| found.verified);
        entries.iter().filter(proven)
    };
    let newest = proven().take(NODE_BACKUP_ENTRIES).filter_map(|found| {
        Some(entry(&KeptBackup {
            name: found.name.clone(),
            held: found.held,
            record: found.record()?.clone(),
        }))
    });
    (newest.collect(), signed(proven().count() as u64))
}

fn entry(kept: &KeptBackup) -> NodeBackupEntry {
    // Records are read from a disk, so their strings could have any length.
    const MAX_CHARS: usize = 253;
    let short = |text: &str| text.chars().take(MAX_CHARS).collect::<String>();
    let record = &kept.record;
    let snapshot = format!("snapshot_{}.db", kept.name);
    NodeBackupEntry {
        name: kept.name.clone(),
        origin: short(&record.origin),
        finished_at: to_the_second(record.finished_at),
        revision: record.snapshot.revision,
        keys: signed(record.snapshot.total_keys),
        size_bytes: signed(record.snapshot.size_bytes),
        cluster_id: short(&record.member.cluster_id),
        verified: record
            .verified
            .iter()
            .take(8)
            .map(|level| short(level.name()))
            .collect(),
        sequence: signed(record.sequence),
        sha256: record.sha256.get(&snapshot).map(|sha256| short(sha256)),
        held: kept.held,
    }
}

/// Formats a time as Kubernetes does.
fn to_the_second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(reason: Option<&str>) -> NodeBackupStatus {
        NodeBackupStatus {
            last_verified: Some(NodeBackupEntry {
                name: "newest".into(),
                ..NodeBackupEntry::default()
            }),
            last_attempt: Some(Attempt {
                succeeded: reason.is_none(),
                reason: reason.unwrap_or_default().into(),
                ..Attempt::default()
            }),
            ..NodeBackupStatus::default()
        }
    }

    #[test]
    fn a_failure_is_an_event_once_and_so_is_its_end() {
        let (well, member, disk) = (
            after(None),
            after(Some("member")),
            after(Some("insufficient-space")),
        );
        let failed = |message: &str| Some(News::Failed(message.into()));
        assert_eq!(news(None, &well), None);
        assert_eq!(news(None, &member), failed("member: "));
        assert_eq!(news(Some(&member), &member), None);
        assert_eq!(news(Some(&member), &disk), failed("insufficient-space: "));
        let over = Some(News::Recovered("backup newest was made and proven".into()));
        assert_eq!(news(Some(&disk), &well), over);
    }
}
