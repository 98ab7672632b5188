//! Undoes what was begun, as long as nothing can have been served.

use super::ask::{Consent, say};
use super::node::Node;
use super::survey::survey;
use crate::cli::output;
use anyhow::bail;
use backup_plan::restore::diagnosis::PeerState;
use backup_plan::restore::journal::{Operation, Step};
use backup_store::member::Member;

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
    if journal.operation == Operation::StandDown {
        check_no_new_cluster(&node).await?;
        consent.ask(
            node.name(),
            "The old member of this node starts again. If any node was restored meanwhile, let this node join that one instead.",
        )?;
    }
    node.journal_file.lock()?;
    let dirs = node.dirs(&journal.own_dir());
    let may_be_placed = journal.next >= Step::Place;
    if journal.was_stood_down {
        dirs.discard_new(may_be_placed)?;
        journal.operation = Operation::StandDown;
        journal.next = Step::Done;
        journal.was_stood_down = false;
        journal.backup = None;
        journal.without.clear();
        (journal.revision, journal.cluster_id, journal.endpoint) = (None, None, None);
        node.journal_file.write(&journal)?;
        output::print("This node is stood down again, as before.\n");
        return Ok(());
    }
    say("moving the old member back");
    dirs.undo(may_be_placed)?;
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

/// A member of the old cluster must not start beside a restored one.
async fn check_no_new_cluster(node: &Node) -> anyhow::Result<()> {
    let survey = survey(node).await;
    let old = survey.old.as_ref().and_then(|old| old.cluster_id);
    for endpoint in &survey.endpoints_with_quorum {
        let member = Member::connect(&node.member_at(endpoint)).await?;
        let cluster_id = member.status().await?.cluster_id;
        if Some(cluster_id) != old {
            bail!(
                "the cluster {cluster_id:x} at {endpoint} is not the one that this node was in: it was restored. Nothing was changed. Let this node join it: etcd-lifeboat cluster-restore --join"
            );
        }
    }
    let unreachable = survey
        .facts
        .peers
        .iter()
        .filter(|peer| peer.state == PeerState::Unreachable);
    let names: Vec<_> = unreachable.map(|peer| peer.name.as_str()).collect();
    if !names.is_empty() {
        say(&format!(
            "warning: {} does not answer, so whether it was restored is unknown",
            names.join(", ")
        ));
    }
    Ok(())
}
