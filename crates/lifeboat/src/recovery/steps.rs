//! Does what the journal says, step by step. Each step can be done again.

use super::ask::say;
use super::checks::{check_old_member, check_others};
use super::etcd_program;
use super::node::Node;
use super::survey::{best_backup, name_or_id, survey_with};
use crate::cli::output;
use crate::cli::progress_bar::Bar;
use crate::cli::random::random;
use crate::commands::diff;
use anyhow::{Context, anyhow, bail};
use backup_plan::platform::control_plane::{Component, manifest_that_joins};
use backup_plan::restore::initial_cluster::{InitialCluster, peer_urls};
use backup_plan::restore::journal::{Journal, Operation, Step, Stopped};
use backup_plan::restore::revision::{Bump, Evidence};
use backup_plan::restore::token::RestoreId;
use backup_store::control_plane::{MemberDirs, api_server, processes};
use backup_store::durable_file;
use backup_store::member::Member;
use backup_store::restore::{
    Difference, Identity, OldMember, Order, Plan, Source, Survivor, Witnesses, choose, is_locked,
    plan, restore, restored_cluster,
};
use jiff::Timestamp;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kubelet has to end the pods.
const KUBELET_ENDS_WITHIN: Duration = Duration::from_secs(90);
/// How long no process must be seen before the kubelet is believed to start none again.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// How long a process has to end after SIGTERM.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How long a pod has to start and to answer.
const STARTS_WITHIN: Duration = Duration::from_secs(300);
/// How long a learner has to receive the data of the cluster.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(3600);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const CHANGES: &str = "changes.json";

/// A change of this node that is at work.
pub(super) struct Work<'n> {
    pub(super) node: &'n Node,
    pub(super) journal: Journal,
}

impl Work<'_> {
    /// Goes on until a person has to look, or until the end.
    pub(super) async fn go_on(&mut self) -> anyhow::Result<()> {
        while !matches!(self.journal.next, Step::Continue | Step::Done) {
            self.step(self.journal.next).await?;
            self.journal.next = self.journal.after_next();
            self.node.journal_file.write(&self.journal)?;
        }
        Ok(())
    }

    async fn step(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Build => self.build(),
            Step::Stop => {
                self.check_others().await?;
                self.stop().await
            }
            Step::MoveAside if self.journal.has_abandoned_member => Ok(self.dirs().abandon()?),
            Step::MoveAside => {
                if self.dirs().has_member() {
                    say("moving the old member aside");
                }
                Ok(self.dirs().move_aside()?)
            }
            Step::Compare => self.compare(),
            Step::Rebuild => self.rebuild(),
            Step::Place => Ok(self.dirs().place()?),
            Step::AddMember => self.add_member().await,
            Step::StartEtcd => self.start_etcd().await,
            Step::Promote => self.promote().await,
            Step::StartApiServer => self.start_api_server().await,
            Step::Continue => self.start_others(),
            Step::Done => Ok(()),
        }
    }

    /// A restore may have waited for a person, or for power, while another node was restored.
    async fn check_others(&self) -> anyhow::Result<()> {
        match self.journal.operation {
            Operation::Restore | Operation::RestoreFromDisk => {
                let source = self.journal.backup.as_deref().map(Path::new);
                let members = source.map(|path| Source::open(path).and_then(|all| all.members()));
                let members = members.transpose()?.unwrap_or_default();
                check_others(&survey_with(self.node, &members).await, &self.journal.without)
                    .context("the restore does not go on. To give it up, run `etcd-lifeboat cluster-restore --rollback`")
            }
            Operation::StandDown | Operation::Join => Ok(()),
        }
    }

    /// Whether the member in the data directory is the one that is to be started: any other one would be another cluster.
    fn check_place(&self) -> anyhow::Result<()> {
        let data_dir = self.node.data_dir();
        let found = restored_cluster(data_dir);
        match self.journal.operation {
            Operation::Restore | Operation::RestoreFromDisk if found == self.journal.cluster_id => {
                Ok(())
            }
            Operation::Join if !self.dirs().has_member() => Ok(()),
            _ => bail!(
                "{}/member is not what this {} has put there: etcd is not started. Run `etcd-lifeboat cluster-restore --rollback`",
                data_dir.display(),
                self.journal.operation.name()
            ),
        }
    }

    pub(super) fn dirs(&self) -> MemberDirs {
        self.node.dirs(&self.journal.own_dir())
    }

    fn build(&mut self) -> anyhow::Result<()> {
        say("building the new member, and proving it; nothing is stopped yet");
        let dirs = self.dirs();
        // What is complete there is of a run that ended before it wrote down what it made.
        dirs.discard_new(false)?;
        let source = self.journal.backup.clone().unwrap_or_default();
        self.build_from(Path::new(&source), false)
    }

    fn build_from(&mut self, source: &Path, is_raw: bool) -> anyhow::Result<()> {
        let plan = plan_of(self.node, &self.journal, source, is_raw)?;
        let bar = Bar::new();
        restore(&plan, Timestamp::now(), &bar)?;
        bar.finish();
        self.dirs().give_new_to_owner()?;
        self.journal.revision = Some(revision_of(&plan));
        self.journal.cluster_id = Some(format!("{:x}", plan.cluster_id));
        Ok(())
    }

    /// Builds the new member from all that the old one has, now that nothing writes it any more.
    fn rebuild(&mut self) -> anyhow::Result<()> {
        let dirs = self.dirs();
        dirs.discard_new(false)?;
        let old = OldMember::read(&dirs.old_data_dir(), dirs.old_wal_dir().as_deref())?;
        let best = best_backup(self.node).map(|(best, _)| best);
        check_old_member(&old, best.as_ref()).map_err(|problem| {
            anyhow!("{problem}. Run `etcd-lifeboat cluster-restore --rollback` first")
        })?;
        say("collecting what the old member has");
        let survivor = Survivor {
            data_dir: dirs.old_data_dir(),
            wal_dir: dirs.old_wal_dir(),
            etcd: dirs.etcd_program(),
            quota_backend_bytes: self.node.control_plane.member.quota_backend_bytes.clone(),
        };
        let survived = survivor.collect(&dirs.replay_dir())?;
        say(&format!(
            "etcd replayed {} entries of its log that were not in the database; {} of them were perhaps never confirmed to a client",
            survived.replayed_entries, survived.maybe_unconfirmed_entries
        ));
        self.build_from(&survived.db, true)?;
        say(&format!(
            "the new member is built and proven; its cluster begins at revision {}",
            self.journal.revision.unwrap_or_default()
        ));
        Ok(dirs.discard_replay()?)
    }

    async fn stop(&self) -> anyhow::Result<()> {
        if self.journal.operation == Operation::RestoreFromDisk {
            etcd_program::keep(self.node, &self.dirs())?;
        }
        let has_kubelet = processes::kubelet_runs();
        if !has_kubelet {
            say("no kubelet runs on this node: the processes get SIGTERM from here");
        }
        for stopped in self.journal.stopped.iter().rev() {
            say(&format!("stopping {}", stopped.component.name()));
            self.node.manifests.stop(&stopped.file)?;
        }
        self.wait_until_gone(has_kubelet).await
    }

    async fn wait_until_gone(&self, has_kubelet: bool) -> anyhow::Result<()> {
        let (kubelet_within, settles_within) = match has_kubelet {
            true => (KUBELET_ENDS_WITHIN, SETTLES_WITHIN),
            false => (Duration::ZERO, Duration::ZERO),
        };
        let started = Instant::now();
        let mut gone_since = None;
        let mut signals = 0;
        loop {
            let all = self.journal.stopped.iter();
            let running: Vec<_> = all.filter(|stopped| is_running(stopped)).collect();
            let is_locked = is_locked(self.node.data_dir());
            let waited = started.elapsed();
            let due = kubelet_within + ENDS_WITHIN * signals;
            if running.is_empty() && !is_locked {
                // A kubelet that just starts a container again has not seen yet that its manifest is gone.
                let since = *gone_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= settles_within {
                    return Ok(());
                }
            } else if let [only] = running.as_slice()
                && only.component == Component::KubeApiserver
                && !is_locked
            {
                // It waits for watches to end. Without its etcd it can finish nothing.
                processes::end(&only.command, true).context("cannot end kube-apiserver")?;
            } else if waited >= due && signals < 2 {
                for stopped in &running {
                    let name = stopped.component.name();
                    if has_kubelet {
                        let seconds = waited.as_secs();
                        say(&format!(
                            "{name} still runs after {seconds} s: it gets a signal"
                        ));
                    }
                    processes::end(&stopped.command, signals > 0)
                        .with_context(|| format!("cannot end {name}"))?;
                }
                gone_since = None;
                signals += 1;
            } else if waited >= due {
                let names: Vec<_> = running.iter().map(|all| all.component.name()).collect();
                let names = match names.is_empty() {
                    true => "a process that has the database open".into(),
                    false => names.join(", "),
                };
                bail!(
                    "still running: {names}. The disk may hang. End it, and run `etcd-lifeboat cluster-restore --resume`, or `--rollback`"
                );
            } else {
                gone_since = None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Compares the old data with the backup, now that nothing writes it any more.
    fn compare(&self) -> anyhow::Result<()> {
        let dirs = self.dirs();
        if !dirs.has_old() {
            return Ok(());
        }
        let (old_dir, old_wal) = (dirs.old_data_dir(), dirs.old_wal_dir());
        match OldMember::read(&old_dir, old_wal.as_deref()) {
            Ok(old)
                if self
                    .journal
                    .revision
                    .is_some_and(|begin| begin <= old.revision) =>
            {
                bail!(
                    "the old member may have reached revision {}, but the restored cluster would begin at {}: clients would miss changes. Run `etcd-lifeboat cluster-restore --rollback`, and restore again",
                    old.revision,
                    self.journal.revision.unwrap_or_default()
                )
            }
            Ok(_) => {}
            Err(error) => {
                say(&format!(
                    "warning: what the restore changes is unknown: {error}"
                ));
                return Ok(());
            }
        }
        let backup = self.journal.backup.as_deref().unwrap_or_default();
        let compared = write_changes(&old_dir, old_wal.as_deref(), Path::new(backup));
        match compared {
            Ok(table) => {
                output::print(&table);
                let path = old_dir.join(CHANGES);
                say(&format!("all changes are in {}", path.display()));
            }
            Err(error) => say(&format!(
                "warning: what the restore changes is unknown: {error:#}"
            )),
        }
        Ok(())
    }

    async fn start_etcd(&self) -> anyhow::Result<()> {
        self.check_others().await?;
        // Once it was started, a member that joins has a directory.
        if !self.node.etcd_is_in_folder() {
            self.check_place()?;
        }
        say("starting etcd");
        self.start(Component::Etcd)?;
        let member = self.node.own_member();
        let is_join = self.journal.operation == Operation::Join;
        let started = Instant::now();
        loop {
            let last = match Member::connect(&member).await {
                Err(error) => error.to_string(),
                Ok(own) => match self.is_up(&own, is_join).await {
                    Ok(None) => return Ok(()),
                    Ok(Some(problem)) => problem,
                    Err(error) => format!("{error:#}"),
                },
            };
            if started.elapsed() > STARTS_WITHIN {
                return Err(not_started("etcd", &last));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// `None` if the own member serves, or why it does not.
    async fn is_up(&self, own: &Member, is_join: bool) -> anyhow::Result<Option<String>> {
        let status = own.status().await?;
        let cluster_id = format!("{:x}", status.cluster_id);
        if let Some(expected) = &self.journal.cluster_id
            && *expected != cluster_id
        {
            bail!("the etcd that answers is of cluster {cluster_id}, expected {expected}");
        }
        if is_join {
            return Ok(None);
        }
        let Some(revision) = own.agreed_revision().await? else {
            return Ok(Some("it has no quorum yet".into()));
        };
        let removed = own.remove_alarms_of_others(&[status.member_id]).await?;
        if removed > 0 {
            say(&format!(
                "removed {removed} alarms of members that are gone"
            ));
        }
        say(&format!(
            "etcd serves cluster {cluster_id} at revision {revision}"
        ));
        Ok(None)
    }

    async fn start_api_server(&self) -> anyhow::Result<()> {
        let Some(connection) = self.node.api_server() else {
            return Ok(());
        };
        say("starting the API server");
        self.start(Component::KubeApiserver)?;
        let started = Instant::now();
        loop {
            let last = match api_server::readiness(&connection).await {
                Ok(None) => {
                    say("the API server is ready");
                    return Ok(());
                }
                Ok(Some(status)) => format!("/readyz answers with HTTP status {status}"),
                Err(error) => error.to_string(),
            };
            if started.elapsed() > STARTS_WITHIN {
                return Err(not_started("kube-apiserver", &last));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Starts what waited for a person.
    pub(super) fn start_others(&self) -> anyhow::Result<()> {
        self.start(Component::KubeControllerManager)?;
        self.start(Component::KubeScheduler)
    }

    fn start(&self, component: Component) -> anyhow::Result<()> {
        let mut stopped = self.journal.stopped.iter();
        match stopped.find(|stopped| stopped.component == component) {
            Some(stopped) => Ok(self.node.manifests.start(&stopped.file)?),
            None => Ok(()),
        }
    }

    /// Adds this node to the cluster as a learner, in the place of its old member. Before etcd can start, its manifest names all members:
    /// with the first one of kubeadm, an empty member would begin a cluster of its own.
    async fn add_member(&mut self) -> anyhow::Result<()> {
        let endpoint = self.journal.endpoint.clone().unwrap_or_default();
        let cluster = Member::connect(&self.node.member_at(&endpoint)).await?;
        let cluster_id = format!("{:x}", cluster.status().await?.cluster_id);
        if self.journal.cluster_id.as_ref() != Some(&cluster_id) {
            bail!(
                "{endpoint} is of cluster {cluster_id} now, expected {}: it was restored meanwhile. Run `etcd-lifeboat cluster-restore --rollback`, and join again",
                self.journal.cluster_id.as_deref().unwrap_or_default()
            );
        }
        let own_urls = self.node.peer_urls();
        let name = self.node.name();
        let mut members = cluster.agreed_members().await?;
        let is_own = |peer: &backup_store::member::Peer| {
            peer.name == name || peer.peer_urls.iter().any(|url| own_urls.contains(url))
        };
        let mut all = Vec::new();
        for peer in members.iter().filter(|peer| !is_own(peer)) {
            let name = name_or_id(peer.name.clone(), peer.id);
            all.extend(peer.peer_urls.iter().map(|url| format!("{name}={url}")));
        }
        all.extend(own_urls.iter().map(|url| format!("{name}={url}")));
        let mut stopped = self.journal.stopped.iter();
        let etcd = stopped
            .find(|stopped| stopped.component == Component::Etcd)
            .context("the journal has no manifest of etcd")?;
        let text = self.node.manifest_text(Component::Etcd)?;
        let joins = manifest_that_joins(&text, &all.join(","))
            .map_err(|problem| anyhow!("the manifest of etcd: {problem}"))?;
        self.node.manifests.replace_stopped(&etcd.file, &joins)?;
        members.retain(is_own);
        for old in members {
            let id = format!("{:x}", old.id);
            // One that this run added, and that has never started.
            if self.journal.learner_id.as_ref() == Some(&id) {
                return Ok(());
            }
            say(&format!(
                "removing the old member {id} of this node from the cluster"
            ));
            cluster.remove_member(old.id).await?;
        }
        let id = cluster.add_learner(own_urls.clone()).await?;
        say(&format!("added this member as learner {id:x}"));
        self.journal.learner_id = Some(format!("{id:x}"));
        Ok(self.node.journal_file.write(&self.journal)?)
    }

    async fn promote(&self) -> anyhow::Result<()> {
        say("the learner receives the data of the cluster");
        let endpoint = self.journal.endpoint.clone().unwrap_or_default();
        let id = self.journal.learner_id.as_deref().unwrap_or_default();
        let id = u64::from_str_radix(id, 16).context("the journal has no id of a learner")?;
        let started = Instant::now();
        let mut last = String::from("it does not have all data yet");
        loop {
            match self.promoted(&endpoint, id).await {
                Ok(Some(true)) => break,
                Ok(Some(false)) => {}
                Ok(None) => bail!(
                    "the cluster has no member {id:x} any more: it was removed. Run `etcd-lifeboat cluster-restore --rollback`, and join again"
                ),
                Err(error) => last = format!("{error:#}"),
            }
            if started.elapsed() > CATCHES_UP_WITHIN {
                bail!(
                    "the learner {id:x} did not get its vote within {} s: {last}. Run `etcd-lifeboat cluster-restore --resume`, with --endpoint and another member if {endpoint} is gone",
                    CATCHES_UP_WITHIN.as_secs()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        say("this member has its vote");
        Ok(())
    }

    /// `None` if the cluster has no such member.
    async fn promoted(&self, endpoint: &str, id: u64) -> anyhow::Result<Option<bool>> {
        let cluster = Member::connect(&self.node.member_at(endpoint)).await?;
        let members = cluster.agreed_members().await?;
        let own = members.iter().find(|peer| peer.id == id);
        let Some(own) = own else { return Ok(None) };
        if own.learner && !cluster.promote(id).await? {
            return Ok(Some(false));
        }
        let own = Member::connect(&self.node.own_member()).await?;
        Ok(Some(own.agreed_revision().await?.is_some()))
    }
}

fn is_running(stopped: &Stopped) -> bool {
    // What cannot be listed is taken for running.
    processes::with_command(&stopped.command).map_or(true, |pids| !pids.is_empty())
}

fn not_started(name: &str, problem: &str) -> anyhow::Error {
    let kubelet = match processes::kubelet_runs() {
        true => format!("look at its log: crictl logs $(crictl ps -a --name {name} -q | head -1)"),
        false => "no kubelet runs on this node: systemctl start kubelet".into(),
    };
    anyhow!(
        "{name} does not serve after {} s: {problem}. {kubelet}. Then run `etcd-lifeboat cluster-restore --resume`",
        STARTS_WITHIN.as_secs()
    )
}

fn write_changes(old: &Path, wal: Option<&Path>, backup: &Path) -> anyhow::Result<String> {
    let bar = Bar::new();
    let difference = Difference::read(old, backup, wal, &bar)?;
    let path = old.join(CHANGES);
    if path.symlink_metadata().is_ok() {
        durable_file::remove_file(&path)?;
    }
    let mut file = durable_file::create(&path)?;
    diff::write_json(&difference, &mut file, &bar)?;
    durable_file::sync(&file)?;
    diff::tables(&difference, &bar)
}

/// The revision at which the restored cluster begins.
pub(super) fn revision_of(plan: &Plan) -> i64 {
    let target = plan.target.as_ref();
    target.map_or(plan.facts.current_revision, |target| target.revision)
}

/// The revisions at which earlier restores on this node began. The data that followed may be lost.
fn earlier_restores(node: &Node) -> Vec<Evidence> {
    // What was undone was never served.
    let ended = node.journal_file.ended().into_iter();
    let ended = ended.filter(|journal| !journal.is_undone);
    let evidence = ended.filter_map(|journal| {
        Some(Evidence {
            from: format!("a restore on this node at {}", journal.started_at),
            revision: journal.revision?,
            at: Some(journal.started_at),
        })
    });
    evidence.collect()
}

/// How the member is built: alone in its cluster, with a random token, above every revision that anyone may have seen.
pub(super) fn plan_of(
    node: &Node,
    journal: &Journal,
    source: &Path,
    is_raw: bool,
) -> anyhow::Result<Plan> {
    let dirs = node.dirs(&journal.own_dir());
    let source = source
        .to_str()
        .context("the path of the source is not UTF-8")?;
    let chosen = choose(source, &node.backup_path)?;
    let urls = node.peer_urls();
    let name = node.name();
    let cluster: Vec<_> = urls.iter().map(|url| format!("{name}={url}")).collect();
    let (old_dir, old_wal) = match dirs.has_old() {
        true => (dirs.old_data_dir(), dirs.old_wal_dir()),
        false => node.old_data(),
    };
    // One that cannot be read, or is in use, shows nothing. Its revision is compared again when it is stopped.
    let is_readable = OldMember::read(&old_dir, old_wal.as_deref()).is_ok();
    let order = Order {
        source: chosen.path,
        data_dir: dirs.new_data_dir(),
        wal_dir: dirs.new_wal_dir(),
        name: name.into(),
        cluster: InitialCluster::parse(&cluster.join(","))?,
        identity: Identity::Restore {
            id: RestoreId::of_random(random()?),
            is_given: false,
        },
        bump: Bump::Auto,
        id: RestoreId::of_random(random()?).as_str().into(),
        etcd_version: node.control_plane.member.version,
        // The database of a member has no SHA-256.
        skip_hash_check: is_raw,
        allow_corrupt_alarm: false,
        witnesses: Witnesses {
            repositories: chosen.repositories,
            data_dir: is_readable.then_some(old_dir),
            wal_dir: old_wal.filter(|_| is_readable),
            known: earlier_restores(node),
        },
    };
    let advertised = peer_urls("--initial-advertise-peer-urls", &urls.join(","))?;
    Ok(plan(&order, &advertised, Timestamp::now())?)
}
