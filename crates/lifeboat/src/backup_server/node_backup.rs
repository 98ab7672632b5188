//! In a cluster: what the server knows, as its node's `NodeBackup`, and Events of what changes for the worse or the
//! better. Without an API server backups go on; when it is back it is told how things are then.

use super::observed::{Observed, View};
use super::serve::NODE_UNKNOWN;
use backup_plan::api::{Attempt, NodeBackup, NodeBackupEntry, NodeBackupStatus, NodeMember};
use backup_plan::record::Record;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Config, Resource};
use operator::events::Events;
use operator::names::SERVER_MANAGER;
use operator::plain;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Tells for ever, if this is a pod of a cluster.
pub(super) async fn tell(node: String, observed: Arc<Observed>) {
    // No pod, or one without a service account: then nobody is to be told.
    let Ok(config) = Config::incluster() else {
        return;
    };
    let client = match Client::try_from(config) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!("no NodeBackup: {error}; backups go on");
            return;
        }
    };
    let mut teller = Teller {
        api: Api::all(client.clone()),
        events: Events::new(&client, SERVER_MANAGER, &node, "Backup"),
        node,
        told: None,
    };
    let mut looks = observed.looks();
    let mut retry = FIRST_RETRY;
    loop {
        let status = status(&observed);
        match tokio::time::timeout(ANSWER_WITHIN, teller.bring(status)).await {
            Ok(Ok(())) => {
                retry = FIRST_RETRY;
                if looks.changed().await.is_err() {
                    return;
                }
            }
            failed => {
                let problem = match failed {
                    Ok(Err(error)) => plain(&error),
                    _ => "the API server does not answer".into(),
                };
                tracing::warn!(
                    retry_s = retry.as_secs(),
                    "NodeBackup/{} was not written: {problem}; backups go on",
                    teller.node
                );
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LONGEST_RETRY);
            }
        }
    }
}

struct Teller {
    api: Api<NodeBackup>,
    events: Events,
    node: String,
    /// What the API server has heard.
    told: Option<NodeBackupStatus>,
}

impl Teller {
    /// Brings the API server to know this.
    async fn bring(&mut self, status: NodeBackupStatus) -> Result<(), kube::Error> {
        if self.told.as_ref() == Some(&status) {
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
        let told = match self.api.patch_status(&self.node, &params, &patch).await {
            // There is none yet.
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
            told => told?,
        };
        let object = told.object_ref(&());
        match news(self.told.as_ref(), &status) {
            Some(News::Failed(note)) => self.events.warning(&object, "BackupFailed", &note).await,
            Some(News::Recovered(note)) => {
                self.events.normal(&object, "BackupRecovered", &note).await;
            }
            None => {}
        }
        self.told = Some(status);
        Ok(())
    }
}

/// What is worth an event.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Failed(String),
    Recovered(String),
}

/// What is news of what has changed.
fn news(before: Option<&NodeBackupStatus>, now: &NodeBackupStatus) -> Option<News> {
    let failed = |status: &NodeBackupStatus| {
        let attempt = status
            .last_attempt
            .as_ref()
            .filter(|attempt| !attempt.succeeded);
        attempt.map(|attempt| (attempt.reason.clone(), attempt.message.clone()))
    };
    match (before.and_then(failed), failed(now)) {
        // Again for the same reason is nothing new.
        (Some((before, _)), Some((reason, _))) if before == reason => None,
        (_, Some((reason, message))) => Some(News::Failed(format!("{reason}: {message}"))),
        (Some(_), None) => {
            let newest = now.last_verified.as_ref()?;
            let note = format!("{} was made and proven", newest.name);
            Some(News::Recovered(note))
        }
        (None, None) => None,
    }
}

fn status(observed: &Observed) -> NodeBackupStatus {
    let fixed = observed.fixed();
    let view = observed.view(Timestamp::now());
    let kept: u64 = view.kept.lineages.values().sum();
    NodeBackupStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        schedule: fixed.schedule_text.clone(),
        time_zone: fixed.zone.iana_name().unwrap_or("UTC").into(),
        member: member(&view),
        last_verified: view.kept.entries.first().map(entry),
        last_attempt: attempt(&view),
        problem: problem(&view),
        next_due: view.next_due.map(|due| due.to_string()),
        kept: signed(kept),
        backups: view.kept.entries.iter().map(entry).collect(),
    }
}

/// What the node has of etcd, by what became of the last run.
fn member(view: &View) -> NodeMember {
    match view.attempts.reason {
        Some("learner") => NodeMember::Learner,
        Some(NODE_UNKNOWN) => NodeMember::None,
        _ if view.attempts.successes > 0 || view.kept.newest.is_some() => NodeMember::Voter,
        _ => NodeMember::Unknown,
    }
}

fn attempt(view: &View) -> Option<Attempt> {
    let attempts = &view.attempts;
    Some(Attempt {
        started_at: to_the_second(attempts.last_ended?),
        succeeded: attempts.problem.is_none(),
        reason: attempts.reason.unwrap_or_default().into(),
        message: attempts.problem.clone().unwrap_or_default(),
        failures_in_a_row: signed(attempts.failures_in_a_row),
    })
}

fn problem(view: &View) -> Option<String> {
    if !view.enabled {
        return Some("backups are not enabled on this node".into());
    }
    if view.kept.cluster_changed() {
        let changed = "there are backups of another cluster than that of the newest: etcd was restored or made anew";
        return Some(changed.into());
    }
    let kept = view.kept.problem.clone();
    kept.or(view.attempts.problem.clone())
}

fn entry((name, record): &(String, Record)) -> NodeBackupEntry {
    NodeBackupEntry {
        name: name.clone(),
        origin: record.origin.clone(),
        finished_at: to_the_second(record.finished_at),
        revision: record.snapshot.revision,
        keys: signed(record.snapshot.total_keys),
        size_bytes: signed(record.snapshot.size_bytes),
        cluster_id: record.member.cluster_id.clone(),
        verified: record.verified.clone(),
    }
}

/// As Kubernetes writes times.
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
            after(Some("disk-short")),
        );
        let failed = |message: &str| Some(News::Failed(message.into()));
        assert_eq!(news(None, &well), None);
        assert_eq!(news(None, &member), failed("member: "));
        assert_eq!(news(Some(&member), &member), None);
        assert_eq!(news(Some(&member), &disk), failed("disk-short: "));
        let over = Some(News::Recovered("newest was made and proven".into()));
        assert_eq!(news(Some(&disk), &well), over);
    }
}
