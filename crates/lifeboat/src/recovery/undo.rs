//! Undoes what was begun, as long as nothing can have been served.

use super::ask::{Consent, say};
use super::begin::work;
use super::node::Node;
use super::survey::survey;
use crate::cli::output;
use anyhow::bail;
use backup_plan::restore::diagnosis::PeerState;
use backup_plan::restore::journal::{Journal, Operation, Step};

/// Moves everything back to where it was.
pub(crate) async fn roll_back(mut node: Node, consent: Consent) -> anyhow::Result<()> {
    let Some(mut journal) = node.journal.clone() else {
        bail!("nothing was begun on this node, so there is nothing to undo");
    };
    if !journal.can_be_undone(node.etcd_is_in_folder()) {
        bail!(
            "this {} cannot be undone any more: etcd was started, and clients may have seen its data. To go back to other data, finish it, stand this node down, and restore another backup; the old member is in {}",
            journal.operation.name(),
            node.dirs(&journal.own_dir()).old_data_dir().display()
        );
    }
    let other = match other_cluster(&node).await {
        // Nothing of it was stopped.
        _ if journal.next == Step::Build => None,
        other => other,
    };
    if journal.operation == Operation::Join
        || journal.operation != Operation::StandDown && (journal.was_stood_down || other.is_some())
    {
        return stand_down_again(&mut node, &journal, other).await;
    }
    if let Some(other) = other {
        bail!(
            "{other}. Nothing was changed. Let this node join it: etcd-lifeboat cluster-restore --join"
        );
    }
    if journal.next != Step::Build {
        consent.ask(
            node.name(),
            "The old member of this node starts again. If any node was restored meanwhile, let this node join that one instead.",
        )?;
    }
    node.journal_file.lock(node.journal.as_ref())?;
    journal.is_undone = true;
    node.journal_file.write(&journal)?;
    say("moving the old member back");
    let dirs = node.dirs(&journal.own_dir());
    dirs.undo(journal.next >= Step::Place)?;
    for stopped in &journal.stopped {
        // One that the run did not come to is still there.
        if !node.manifests.is_in_folder(&stopped.file) {
            node.manifests.start(&stopped.file)?;
        }
    }
    node.journal_file.end(&journal)?;
    output::print(
        "Everything is as it was before. The kubelet starts the control plane of this node.\n",
    );
    Ok(())
}

/// Leads back to a node that is stood down: it was before, or its old member must not start again.
async fn stand_down_again(
    node: &mut Node,
    journal: &Journal,
    other: Option<String>,
) -> anyhow::Result<()> {
    if let Some(other) = other {
        say(&format!("{other}. This node is stood down"));
    }
    node.journal_file.lock(node.journal.as_ref())?;
    if journal.operation != Operation::Join {
        let mut undone = journal.clone();
        undone.is_undone = true;
        node.journal_file.write(&undone)?;
        let dirs = node.dirs(&journal.own_dir());
        dirs.discard_new(journal.next >= Step::Place)?;
    }
    let down = journal.stood_down();
    node.journal_file.write(&down)?;
    work(node, down).await
}

/// A cluster with a quorum that is not the one that this node was in: a member of the old one must not start beside it.
async fn other_cluster(node: &Node) -> Option<String> {
    let survey = survey(node).await;
    let own = survey.own_cluster_id;
    let mut endpoints = survey.endpoints_with_quorum.iter();
    if let Some(endpoint) = endpoints.find(|endpoint| Some(endpoint.cluster_id) != own) {
        return Some(format!(
            "the cluster {:x} at {} is not the one that this node was in: it was restored",
            endpoint.cluster_id, endpoint.url
        ));
    }
    let unreachable = survey
        .facts
        .peers
        .iter()
        .filter(|peer| peer.state == PeerState::Unreachable);
    let names: Vec<_> = unreachable.map(|peer| peer.name.as_str()).collect();
    if !names.is_empty() {
        say(&format!(
            "warning: {} do not answer, so whether they were restored is unknown",
            names.join(", ")
        ));
    }
    None
}
