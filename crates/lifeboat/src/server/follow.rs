//! Follows a `Backup` of the cluster: its specification, for a server in a static pod, and requests for a backup now, for every server.
//!
//! Without the API server the last known specification counts. It is kept beside the backups, so it also survives a restart.

use super::credential::{Credential, State};
use super::node_backup;
use super::observed::{Observed, has_come};
use super::origin::ORIGIN;
use super::plan::{Plan, Settings};
use backup_plan::cron::Schedule;
use backup_store::disk::Disk;
use cluster_api::resources::{BackupSpec, REQUESTED_AT};
use cluster_api::validation::validate;
use futures::StreamExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::Client;
use operator::cluster::backup_watch::{BackupChange, FollowedBackup, watch_backup};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often a missing credential is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often it is checked whether the credential needs to be renewed.
const RENEW_CHECK: Duration = Duration::from_secs(600);
/// Priority for the kernel when memory runs out, from -1000 (last) to 1000 (first). etcd's own pod has -997.
const OOM_SCORE_ADJ: &str = "900";

/// Why a server makes no backups while a `Backup` is missing.
fn no_backup(name: &str) -> String {
    format!("Backup/{name} is not known to this node: no backups are made until it exists")
}

/// In etcd's own pod, all processes are protected like etcd. This one must go first.
pub(crate) fn give_way_if_memory_runs_out() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ) {
        tracing::warn!(
            "cannot set the priority of this process for when memory runs out: {error}; continuing"
        );
    }
}

/// Starts what follows the cluster: the tasks end with the process.
pub(crate) fn start(
    follow_backup: Option<&str>,
    node: &str,
    observed: &Arc<Observed>,
    plan: watch::Sender<Plan>,
    requests: watch::Sender<u64>,
) {
    let follower = Follower {
        name: follow_backup.unwrap_or(ORIGIN).to_string(),
        observed: observed.clone(),
        plan,
        requests,
        requested_at: None,
        reported: String::new(),
        disk: Disk::default(),
    };
    let node = node.to_string();
    match follow_backup {
        Some(_) => {
            let state = State::beside(observed.repository());
            tokio::spawn(follower.follow_with_credential(state, node));
        }
        None => {
            if let Some(client) = node_backup::client_of_pod() {
                let telling = node_backup::tell(client.clone(), node, observed.clone());
                tokio::spawn(telling);
                tokio::spawn(follower.follow_requests(client));
            } else {
                // The senders must live as long as the server.
                tokio::spawn(follower.keep());
            }
        }
    }
}

struct Follower {
    /// The name of the `Backup`.
    name: String,
    observed: Arc<Observed>,
    plan: watch::Sender<Plan>,
    requests: watch::Sender<u64>,
    /// The last request that was seen.
    requested_at: Option<String>,
    /// The last problem that was logged.
    reported: String,
    /// The disk with the state. It may hang, and this must not stop the answers to health checks.
    disk: Disk,
}

/// Why a connection with a credential ended.
enum Ended {
    /// The credential was renewed.
    Renewed,
    /// A person has written another one, or the API server has ended the watch.
    Other,
}

impl Follower {
    async fn keep(self) {
        std::future::pending::<()>().await;
    }

    /// For a server that is configured by flags: only requests.
    async fn follow_requests(mut self, client: Client) {
        let mut changes = watch_backup(client, &self.name).boxed();
        while let Some(change) = changes.next().await {
            match change {
                BackupChange::Is(backup) => {
                    self.reported.clear();
                    self.request(&backup).await;
                }
                BackupChange::Gone => self.requested_at = None,
                BackupChange::Failed(problem) => self.report(&format!(
                    "cannot watch Backup/{}: {problem}; scheduled backups continue, but requests by its annotation have no effect",
                    self.name
                )),
            }
        }
        self.keep().await;
    }

    /// For a server in a static pod: everything, with the credential of the node.
    async fn follow_with_credential(mut self, state: State, node: String) {
        let last_known = match self.on_disk(&state, State::last_known).await {
            Ok(Ok(spec)) => spec,
            Ok(Err(problem)) | Err(problem) => {
                tracing::warn!("{problem}");
                None
            }
        };
        if last_known.is_some() {
            tracing::info!("using the last known Backup/{}", self.name);
        }
        self.apply(last_known.as_ref());
        let mut renewal = tokio::time::interval(RENEW_CHECK);
        let mut telling: Option<tokio::task::JoinHandle<()>> = None;
        loop {
            let read = self.on_disk(&state, State::credential).await;
            let (credential, client) = match read.and_then(|read| connect(read, &node)) {
                Ok(connected) => connected,
                Err(problem) => {
                    self.report(&problem);
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            };
            if let Some(old) = telling.take() {
                old.abort();
            }
            let reporting = node_backup::tell(client.clone(), node.clone(), self.observed.clone());
            telling = Some(tokio::spawn(reporting));
            let ended = self
                .follow_until_renewed(&state, &credential, client, &mut renewal)
                .await;
            // A renewed credential is looked at again later, so that an API server with short tokens is not asked all the time.
            if matches!(ended, Ended::Other) {
                renewal.reset_immediately();
            }
        }
    }

    /// Follows until there is a new credential.
    async fn follow_until_renewed(
        &mut self,
        state: &State,
        credential: &Credential,
        client: Client,
        renewal: &mut tokio::time::Interval,
    ) -> Ended {
        let mut changes = watch_backup(client.clone(), &self.name).boxed();
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    None => {
                        tokio::time::sleep(LOOK_AGAIN).await;
                        return Ended::Other;
                    }
                    Some(BackupChange::Is(backup)) => {
                        self.reported.clear();
                        // Only what is valid survives a restart.
                        if self.apply(Some(&backup.spec)) {
                            self.store(state, Some(backup.spec.clone())).await;
                        }
                        self.request(&backup).await;
                    }
                    Some(BackupChange::Gone) => {
                        self.reported.clear();
                        self.requested_at = None;
                        self.apply(None);
                        self.store(state, None).await;
                    }
                    Some(BackupChange::Failed(problem)) => {
                        let problem = format!(
                            "cannot watch Backup/{}: {problem}; going on with its last known state",
                            self.name
                        );
                        self.report(&problem);
                    }
                },
                _ = renewal.tick() => {
                    if !credential.needs_renewal(Timestamp::now()) {
                        continue;
                    }
                    match credential.renew(&client).await {
                        Ok(new) => match self.on_disk(state, move |state| state.store_credential(&new)).await {
                            Ok(Ok(())) => {
                                tracing::info!("the credential of this node was renewed");
                                return Ended::Renewed;
                            }
                            Ok(Err(error)) => tracing::warn!("cannot store the renewed credential: {error}"),
                            Err(problem) => tracing::warn!("cannot store the renewed credential: {problem}"),
                        },
                        Err(problem) => tracing::warn!("cannot renew the credential of this node: {problem}"),
                    }
                }
                // A person may have written a new one.
                _ = look_again.tick() => {
                    let read = self.on_disk(state, State::credential).await;
                    if read.is_ok_and(|read| read.is_ok_and(|now| now != *credential)) {
                        return Ended::Other;
                    }
                }
            }
        }
    }

    /// Logs a problem once.
    fn report(&mut self, problem: &str) {
        if self.reported != problem {
            tracing::warn!("{problem}");
            self.reported = problem.into();
        }
    }

    async fn store(&self, state: &State, spec: Option<BackupSpec>) {
        let storing = move |state: &State| state.store_last_known(spec.as_ref());
        let stored = self.on_disk(state, storing).await;
        if let Err(problem) = stored.and_then(|stored| stored.map_err(|error| error.to_string())) {
            tracing::warn!(
                "cannot store the last known Backup/{}: {problem}",
                self.name
            );
        }
    }

    /// Reads or writes the state, without waiting for a disk that hangs.
    async fn on_disk<T: Send + 'static>(
        &self,
        state: &State,
        work: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, String> {
        let state = state.clone();
        let done = self
            .disk
            .run("using the state of the sidecar", move || work(&state));
        done.await.map_err(|hangs| hangs.to_string())
    }

    /// Works by this specification from now on. One that is not valid changes nothing, unless there was none before: then the server
    /// reports why it makes no backups. Returns whether it is valid.
    fn apply(&mut self, spec: Option<&BackupSpec>) -> bool {
        let mut is_valid = true;
        let plan = match spec {
            None => Plan::Off(no_backup(&self.name)),
            Some(spec) => match settings(&self.name, spec) {
                Ok(settings) => Plan::On(settings),
                Err(problem) => {
                    is_valid = false;
                    let problem = format!("Backup/{} is not valid: {problem}", self.name);
                    if self.plan.borrow().settings().is_some() {
                        self.report(&format!("{problem}; going on with its last valid state"));
                        return false;
                    }
                    Plan::Off(problem)
                }
            },
        };
        self.plan.send_if_modified(|current| {
            let is_new = !current.is_same(&plan);
            if is_new {
                *current = plan;
            }
            is_new
        });
        is_valid
    }

    /// Asks for a backup now, if the request is newer than the newest backup.
    async fn request(&mut self, backup: &FollowedBackup) {
        let requested_at = backup.annotations.get(REQUESTED_AT);
        if requested_at == self.requested_at.as_ref() {
            return;
        }
        self.requested_at = requested_at.cloned();
        let Some(text) = requested_at else {
            return;
        };
        let Ok(requested) = text.parse::<Timestamp>() else {
            let short: String = text.chars().take(64).collect();
            self.report(&format!(
                "the annotation {REQUESTED_AT} of Backup/{} is {short:?}, which is not a time: write for example {}",
                self.name,
                Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")
            ));
            return;
        };
        if !has_come(requested, Timestamp::now()) {
            self.report(&format!(
                "the annotation {REQUESTED_AT} of Backup/{} is in the future: {requested}; it is ignored",
                self.name
            ));
            return;
        }
        // Until then it is unknown whether a backup was made since.
        self.observed.first_look().await;
        let view = self.observed.view(Timestamp::now());
        let newest = view.kept.newest.as_ref().map(|record| record.started_at);
        if newest.is_none_or(|newest| newest < requested) {
            self.requests.send_modify(|number| *number += 1);
        }
    }
}

fn connect(read: Result<Credential, String>, node: &str) -> Result<(Credential, Client), String> {
    let credential = read.map_err(|problem| {
        format!(
            "{problem}; to create it, run on this node: etcd-lifeboat sidecar-credential --node-name {node}"
        )
    })?;
    let client = credential.client()?;
    Ok((credential, client))
}

fn settings(name: &str, spec: &BackupSpec) -> Result<Settings, String> {
    let valid = validate(name, spec).map_err(|error| error.to_string())?;
    let schedule = Schedule::parse(&valid.schedule).map_err(|error| error.to_string())?;
    let zone = TimeZone::get(&valid.time_zone).map_err(|error| error.to_string())?;
    Ok(Settings {
        schedule_text: valid.schedule,
        schedule,
        zone,
        policy: valid.policy,
    })
}
