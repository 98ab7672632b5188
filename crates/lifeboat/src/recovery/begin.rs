//! Begins a restore, a stand-down or a join, and goes on with what was begun.

use super::ask::{Consent, say};
use super::checks::{check_backup, check_disk, check_node, check_peers};
use super::etcd_program;
use super::node::Node;
use super::steps::{Work, plan_of, revision_of};
use super::survey::{Survey, best_backup, survey, survey_with};
use crate::cli::output;
use crate::cli::random::random;
use anyhow::{Context, bail};
use backup_plan::platform::control_plane::{Component, manifest_that_joins};
use backup_plan::restore::diagnosis::{MemberState, PeerState};
use backup_plan::restore::journal::{Journal, Operation, Step};
use backup_plan::restore::token::RestoreId;
use backup_store::member::Member;
use backup_store::restore::{Plan, choose};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// What a person decides about a restore.
pub(crate) struct RestoreOptions {
    /// Name of a backup, `latest`, or a path.
    pub(crate) backup: String,
    /// Members that are stood down or destroyed.
    pub(crate) without: Vec<String>,
    /// Only show what would be done.
    pub(crate) is_plan: bool,
}

/// Restores a backup on this node, up to the point at which a person has to look.
pub(crate) async fn restore(
    mut node: Node,
    options: RestoreOptions,
    consent: Consent,
) -> anyhow::Result<()> {
    check_node(&node)?;
    let mut journal = begin(&node, Operation::Restore)?;
    // The one with the highest revision, and not the one that was made last: that may be of an etcd that began again with nothing.
    let best = match options.backup.as_str() {
        "latest" => best_backup(&node).map(|(best, _)| node.backup_path.join(best.name)),
        _ => None,
    };
    let backup = match best {
        Some(best) => best,
        None => choose(&options.backup, &node.backup_path)?.path,
    };
    let backup = std::path::absolute(&backup).context("cannot find the backup")?;
    journal.backup = Some(
        backup
            .to_str()
            .context("the path of the backup is not UTF-8")?
            .into(),
    );
    journal.without = options.without;
    let plan = plan_of(&node, &journal, &backup, false)?;
    let members = plan.facts.membership.as_ref();
    let survey = survey_with(&node, members.map_or(&[], |all| &all.members)).await;
    check_peers(&survey, &journal.without)?;
    if let Some(target) = &plan.facts.downgrade {
        bail!(
            "nothing was changed: the cluster of this backup was in a downgrade to etcd {target}, which etcd would go on with: use a backup from before it"
        );
    }
    if plan.needed_bytes > plan.free_bytes {
        bail!(
            "nothing was changed: {} has {} free, but the new member needs {} beside the old one: free some space",
            node.data_dir().display(),
            output::bytes(plan.free_bytes),
            output::bytes(plan.needed_bytes)
        );
    }
    let warnings = check_backup(&node, &survey, plan.source(), Timestamp::now())?;
    output::print(&plan_for_people(&node, &survey, &plan, &journal, &warnings));
    if options.is_plan {
        return Ok(());
    }
    consent.ask(
        node.name(),
        "The control plane of this node stops, and a new cluster with this one member begins from the backup.",
    )?;
    node.journal_file.lock(node.journal.as_ref())?;
    node.journal_file.write(&journal)?;
    work(&node, journal).await
}

/// Restores what the member of this node has on its own disk.
pub(crate) async fn restore_from_this_disk(
    mut node: Node,
    without: Vec<String>,
    is_plan: bool,
    consent: Consent,
) -> anyhow::Result<()> {
    check_node(&node)?;
    let mut journal = begin(&node, Operation::RestoreFromDisk)?;
    let survey = survey(&node).await;
    check_peers(&survey, &without)?;
    check_disk(&node, &survey)?;
    etcd_program::check(&node)?;
    if is_plan {
        output::print(
            "All checks that can be made while etcd is not stopped have passed. Nothing was changed.\n",
        );
        return Ok(());
    }
    journal.without = without;
    consent.ask(
        node.name(),
        "The control plane of this node stops, and a new cluster with this one member begins from the data on this disk. The old member stays beside it.",
    )?;
    node.journal_file.lock(node.journal.as_ref())?;
    node.journal_file.write(&journal)?;
    work(&node, journal).await
}

/// Stops the control plane of this node, and moves its member aside.
pub(crate) async fn stand_down(mut node: Node, consent: Consent) -> anyhow::Result<()> {
    check_node(&node)?;
    let journal = begin(&node, Operation::StandDown)?;
    if journal.was_stood_down {
        bail!(
            "this node is stood down already. `etcd-lifeboat cluster-restore` says what comes next"
        );
    }
    let works = match survey(&node).await.facts.member {
        MemberState::Quorum { .. } => {
            "The member of this node works, and its cluster has a quorum. "
        }
        _ => "",
    };
    consent.ask(
        node.name(),
        &format!("{works}The control plane of this node stops: etcd, the API server, the controller manager and the scheduler. Pods on all nodes go on. The data of etcd is moved aside, not removed."),
    )?;
    node.journal_file.lock(node.journal.as_ref())?;
    node.journal_file.write(&journal)?;
    work(&node, journal).await
}

/// Lets this node join a cluster that has a quorum, with an empty member.
pub(crate) async fn join(
    mut node: Node,
    endpoint: Option<String>,
    consent: Consent,
) -> anyhow::Result<()> {
    check_node(&node)?;
    let mut journal = begin(&node, Operation::Join)?;
    let survey = survey(&node).await;
    if let MemberState::Quorum { learner: false, .. } = survey.facts.member {
        bail!(
            "the member of this node works, with a quorum: it does not have to join. Nothing was changed"
        );
    }
    let endpoint = match endpoint {
        Some(endpoint) => endpoint,
        None => only_cluster(&survey)?,
    };
    let old = check_cluster(&node, &endpoint, &mut journal).await?;
    check_manifest(&node)?;
    let removed = match old {
        true => " Its old member is removed from the cluster, which cannot be undone.",
        false => "",
    };
    consent.ask(
        node.name(),
        &format!(
            "This node joins the cluster {} at {endpoint} with an empty member, and receives all data from it. What is on its disk now is moved aside.{removed}",
            journal.cluster_id.as_deref().unwrap_or_default()
        ),
    )?;
    node.journal_file.lock(node.journal.as_ref())?;
    journal.endpoint = Some(endpoint);
    node.journal_file.write(&journal)?;
    work(&node, journal).await
}

/// Whether the manifest of etcd has the form that is changed later, when there is no way back.
fn check_manifest(node: &Node) -> anyhow::Result<()> {
    let text = node.manifest_text(Component::Etcd)?;
    let sample = format!("{}=https://127.0.0.1:2380", node.name());
    match manifest_that_joins(&text, &sample) {
        Ok(_) => Ok(()),
        Err(problem) => bail!("nothing was changed: the manifest of etcd: {problem}"),
    }
}

/// A member of the only cluster that has a quorum. After a restore, the old cluster may have one, too.
fn only_cluster(survey: &Survey) -> anyhow::Result<String> {
    let endpoints = &survey.endpoints_with_quorum;
    let Some(first) = endpoints.first() else {
        bail!(
            "no other member with a quorum answers: restore one node first, or give the address of a member with --endpoint, such as https://10.0.0.1:2379"
        );
    };
    let mut others = endpoints.iter();
    match others.find(|other| other.cluster_id != first.cluster_id) {
        None => Ok(first.url.clone()),
        Some(other) => bail!(
            "nothing was changed: two clusters have a quorum, {:x} at {} and {:x} at {}. Stand down the nodes of the one that should not go on, or choose with --endpoint",
            first.cluster_id,
            first.url,
            other.cluster_id,
            other.url
        ),
    }
}

/// Whether the cluster can take this member. Says whether it has an old one of this node.
async fn check_cluster(node: &Node, endpoint: &str, journal: &mut Journal) -> anyhow::Result<bool> {
    let cluster = Member::connect(&node.member_at(endpoint)).await?;
    let members = cluster.agreed_members().await?;
    let cluster_id = cluster.status().await?.cluster_id;
    let own_urls = node.peer_urls();
    let name = node.name();
    let has_name = |peer: &&backup_store::member::Peer| peer.name == name;
    let has_url = |peer: &&backup_store::member::Peer| {
        peer.peer_urls.iter().any(|url| own_urls.contains(url))
    };
    let half = members.iter().find(|peer| {
        let is_named = has_name(peer) || peer.name.is_empty();
        (has_name(peer) && !has_url(peer)) || (has_url(peer) && !is_named)
    });
    if let Some(peer) = half {
        bail!(
            "nothing was changed: the cluster has a member {} with the peer URL {}, but this node is {name} with {}. If that member is this node's old one, remove it by `etcdctl member remove {:x}`",
            peer.name,
            peer.peer_urls.join(", "),
            own_urls.join(", "),
            peer.id
        );
    }
    let others: Vec<_> = members
        .iter()
        .filter(|peer| !has_name(peer) && !has_url(peer))
        .collect();
    if let Some(learner) = others.iter().find(|peer| peer.learner) {
        bail!(
            "nothing was changed: {} joins the cluster at this moment. Wait until it has its vote: only one member can join at a time",
            learner.name
        );
    }
    // etcd itself lets the removal of a member that is down pass.
    let mut healthy = BTreeSet::new();
    for peer in &others {
        for url in &peer.client_urls {
            let Ok(member) = Member::connect(&node.member_at(url)).await else {
                continue;
            };
            if let Ok(status) = member.status().await
                && (status.cluster_id, status.member_id) == (cluster_id, peer.id)
                && status.leader != 0
            {
                healthy.insert(peer.id);
            }
        }
    }
    let needed = others.len() / 2 + 1;
    if healthy.len() < needed {
        bail!(
            "nothing was changed: {} of the {} other members answer, but {needed} must, so that the cluster keeps its quorum while this member joins",
            healthy.len(),
            others.len()
        );
    }
    journal.cluster_id = Some(format!("{cluster_id:x}"));
    Ok(others.len() < members.len())
}

/// The journal of something new. What was begun before must have ended, or be a stand-down.
fn begin(node: &Node, operation: Operation) -> anyhow::Result<Journal> {
    let before = node.journal.as_ref();
    if let Some(before) = before
        && (before.operation, before.next, before.is_undone)
            != (Operation::StandDown, Step::Done, false)
    {
        bail!(
            "a {} was begun on this node and did not end: run `etcd-lifeboat cluster-restore` to see what comes next",
            before.operation.name()
        );
    }
    let id = RestoreId::of_random(random()?);
    let (manifests, now) = (&node.control_plane.manifests, Timestamp::now());
    Ok(Journal::begin(
        operation,
        manifests,
        before,
        id.as_str(),
        now,
    ))
}

/// Goes on after a crash, or after an error whose cause was removed. `endpoint` is another member of the cluster that is joined.
pub(crate) async fn resume(mut node: Node, endpoint: Option<String>) -> anyhow::Result<()> {
    let Some(mut journal) = node.journal.clone() else {
        bail!(
            "nothing was begun on this node. `etcd-lifeboat cluster-restore` says what is the case"
        );
    };
    if journal.is_undone {
        bail!(
            "this {} was being undone. Go on with that: etcd-lifeboat cluster-restore --rollback",
            journal.operation.name()
        );
    }
    node.journal_file.lock(node.journal.as_ref())?;
    if endpoint.is_some() {
        journal.endpoint = endpoint;
    }
    say(&format!(
        "going on with the {}: {}",
        journal.operation.name(),
        journal.next.name()
    ));
    work(&node, journal).await
}

pub(super) async fn work(node: &Node, journal: Journal) -> anyhow::Result<()> {
    let mut work = Work { node, journal };
    work.go_on().await?;
    let journal = work.journal.clone();
    match (journal.operation, journal.next) {
        (Operation::StandDown, _) => {
            output::print(
                "This node is stood down. Its pods go on without an API server.\nNext: restore on one node with `etcd-lifeboat cluster-restore`. When that node serves, run here: etcd-lifeboat cluster-restore --join\n",
            );
            Ok(())
        }
        (Operation::Join, Step::Continue) if !journal.was_stood_down => finish(&mut work),
        _ => {
            output::print(&pause_text(node, &journal));
            Ok(())
        }
    }
}

/// Starts what waited for a person, and ends.
pub(crate) fn go_on(mut node: Node) -> anyhow::Result<()> {
    let journal = node
        .journal
        .clone()
        .filter(|journal| journal.next == Step::Continue);
    let Some(journal) = journal else {
        bail!(
            "nothing waits for --continue on this node. `etcd-lifeboat cluster-restore` says what is the case"
        );
    };
    node.journal_file.lock(node.journal.as_ref())?;
    finish(&mut Work {
        node: &node,
        journal,
    })
}

fn finish(work: &mut Work<'_>) -> anyhow::Result<()> {
    work.start_others()?;
    let ended = work.node.journal_file.end(&work.journal)?;
    let aside = work.dirs();
    let mut text = String::from("Done: the whole control plane of this node is started.\n");
    if aside.has_old() {
        text += &format!(
            "The old member stays in {}. Remove it when you are sure that you do not need it.\n",
            aside.old_data_dir().display()
        );
    }
    text += &format!("What was done is in {}.\n", ended.display());
    output::print(&text);
    Ok(())
}

fn pause_text(node: &Node, journal: &Journal) -> String {
    let mut text = format!(
        "\netcd and the API server of {} serve. Its controller manager and scheduler are still stopped.\n",
        node.name()
    );
    if journal.operation != Operation::Join {
        text += "Kubelets and controllers that run as pods act again at once.\n\nLook at the cluster now: kubectl get nodes, pods -A, pv. Nodes that joined after the backup are unknown to it; they may still run pods with volumes.\n";
    }
    text += "Then, on this node:\n  etcd-lifeboat cluster-restore --continue\n  systemctl restart kubelet\n";
    if !journal.without.is_empty() {
        text += &format!(
            "On {}, one after another:\n  etcd-lifeboat cluster-restore --stand-down    (if that was not done)\n  etcd-lifeboat cluster-restore --join\n  etcd-lifeboat cluster-restore --continue\n",
            journal.without.join(", ")
        );
    }
    text
}

fn plan_for_people(
    node: &Node,
    survey: &Survey,
    plan: &Plan,
    journal: &Journal,
    warnings: &[String],
) -> String {
    let source = plan.source();
    let made = source.record.as_ref().map_or_else(
        || "a snapshot without a record".into(),
        |record| {
            format!(
                "revision {}, complete at {}",
                record.snapshot.revision, record.finished_at
            )
        },
    );
    let old = match node.old_data().0.join("member").symlink_metadata() {
        Ok(_) => node
            .dirs(&journal.own_dir())
            .old_data_dir()
            .display()
            .to_string(),
        Err(_) => "this node has none".into(),
    };
    let mut rows = vec![
        ["node".to_string(), node.name().to_string()],
        [
            "backup".into(),
            format!("{}, {made}", source.path.display()),
        ],
        [
            "data directory".into(),
            node.data_dir().display().to_string(),
        ],
        ["old member goes to".into(), old],
        [
            "cluster begins at".into(),
            format!("revision {}", revision_of(plan)),
        ],
        [
            "space".into(),
            format!(
                "needs {}, {} are free",
                output::bytes(plan.needed_bytes),
                output::bytes(plan.free_bytes)
            ),
        ],
    ];
    for peer in &survey.facts.peers {
        let state = match peer.state {
            PeerState::Stopped | PeerState::Unreachable => {
                format!(
                    "{}; you say that it is stood down or destroyed",
                    peer.state.text()
                )
            }
            state => state.text().into(),
        };
        rows.push([format!("member {}", peer.name), state]);
    }
    let target = plan.target.iter().flat_map(|target| &target.warnings);
    for warning in warnings.iter().chain(target) {
        rows.push(["warning".into(), output::one_line(warning)]);
    }
    output::table(["PLAN", ""], rows)
}
