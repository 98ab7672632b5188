//! What is checked before a restore. Nothing was changed yet.

use super::node::Node;
use super::signs;
use super::survey::Survey;
use crate::cli::flags::node::is_here;
use crate::cli::output;
use anyhow::{Context, anyhow, bail};
use backup_plan::platform::control_plane::Component;
use backup_plan::platform::control_plane::MANIFESTS;
use backup_plan::restore::diagnosis::{BackupFacts, DiskState, MemberState, PeerState};
use backup_plan::restore::fit::compare;
use backup_store::control_plane::processes;
use backup_store::restore::{OldMember, Source, is_locked};
use jiff::Timestamp;

/// Segments of the log have 64 MB, and etcd makes new ones.
const REPLAY_BYTES: u64 = 512 << 20;

/// Everything that is the same for each change of a node.
pub(crate) fn check_node(node: &Node) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("cluster-restore stops and starts the control plane of this node: run it as root");
    }
    for url in node.peer_urls() {
        if !is_here(&url) {
            bail!(
                "{MANIFESTS}: the member {} has the peer URL {url}, but this address is not on this node: was the manifest copied from another node?",
                node.name()
            );
        }
    }
    let etcd = node.control_plane.manifest(Component::Etcd);
    let command = etcd.map(|etcd| etcd.command.clone()).unwrap_or_default();
    let pids =
        processes::with_command(&command).context("cannot list the processes of this node")?;
    if is_locked(node.data_dir()) && pids.is_empty() {
        bail!(
            "etcd runs in {}, but not with the command line of its manifest in {MANIFESTS}: find out who started it, and stop it first",
            node.data_dir().display()
        );
    }
    Ok(())
}

/// Whether the old cluster is really gone. `without` are the members that a person says are stood down or destroyed.
pub(crate) fn check_peers(survey: &Survey, without: &[String]) -> anyhow::Result<()> {
    if let MemberState::Quorum { .. } = survey.facts.member {
        bail!(
            "etcd answers on this node, and its cluster has a quorum: nothing was changed. If its data is wrong, make a backup of it (`etcd-lifeboat cluster-backup --backup-dir /var/lib/etcd-auto-backup`), stand down the other nodes (`cluster-restore --stand-down`), then this one, and restore then"
        );
    }
    if let MemberState::Unknown { problem } = &survey.facts.member {
        bail!(
            "etcd answers on this node, but whether its cluster has a quorum is unknown: {problem}. Nothing was changed"
        );
    }
    check_others(survey, without)?;
    let peers = &survey.facts.peers;
    let known: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
    if let Some(unknown) = without.iter().find(|name| !known.contains(&name.as_str())) {
        let known = match known.is_empty() {
            true => "no other member is known here".to_string(),
            false => format!("the others are {}", known.join(", ")),
        };
        bail!("--without {unknown}: there is no other member of this name; {known}");
    }
    Ok(())
}

/// The same without the node's own member, which may be of the restored cluster already.
pub(crate) fn check_others(survey: &Survey, without: &[String]) -> anyhow::Result<()> {
    let peers = &survey.facts.peers;
    let with = |state| {
        let names = peers.iter().filter(move |peer| peer.state == state);
        names.map(|peer| peer.name.as_str()).collect::<Vec<_>>()
    };
    let quorum = with(PeerState::Quorum);
    if !quorum.is_empty() {
        bail!(
            "a cluster with a quorum answers at {}: nothing was changed. To let this node join that cluster, run `cluster-restore --join`",
            quorum.join(", ")
        );
    }
    let answers = with(PeerState::Answers);
    if !answers.is_empty() {
        bail!(
            "etcd of {} still answers: nothing was changed. Run `etcd-lifeboat cluster-restore --stand-down` there first, or the old cluster and the restored one would both be at work",
            answers.join(", ")
        );
    }
    let known: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
    let missing: Vec<_> = known
        .iter()
        .filter(|name| !without.iter().any(|given| given == *name))
        .copied()
        .collect();
    if !missing.is_empty() {
        let all = peers.len() + 1;
        let quorum = all / 2 + 1;
        let danger = match missing.len() >= quorum {
            true => {
                " These alone are a quorum of the old cluster: if they are only cut off from here, they are at work now."
            }
            false => "",
        };
        bail!(
            "members of the old cluster do not answer, and may come back: {}.{danger} Make sure that each of them is destroyed, or run `cluster-restore --stand-down` on it; then name all of them with --without {}",
            missing.join(", "),
            known.join(",")
        );
    }
    Ok(())
}

/// Whether the member on this node's own disk is what should be restored.
pub(crate) fn check_disk(node: &Node, survey: &Survey) -> anyhow::Result<()> {
    let place = node.old_data().0;
    let place = place.display();
    let best = survey.facts.backup.as_ref();
    match (&survey.facts.disk, &survey.facts.member, &survey.old) {
        (DiskState::Missing, ..) => bail!("nothing was changed: {place} has no member"),
        (DiskState::Damaged { problem }, ..) => bail!(
            "nothing was changed: the member in {place} cannot be read: {problem}. Restore a backup instead"
        ),
        (DiskState::Readable { .. }, _, Some(old)) => {
            check_old_member(old, best)
                .map_err(|problem| anyhow!("nothing was changed: {problem}"))?;
        }
        (DiskState::InUse, MemberState::NoQuorum { revision }, _) => {
            check_newer(*revision, best)
                .map_err(|problem| anyhow!("nothing was changed: {problem}"))?;
        }
        // It is looked at again when etcd is stopped.
        _ => {}
    }
    let db_bytes =
        std::fs::metadata(node.old_data().0.join("member/snap/db")).map_or(0, |db| db.len());
    // A copy for the replay, and the new member.
    let needed_bytes = db_bytes.saturating_mul(2).saturating_add(REPLAY_BYTES);
    let space = rustix::fs::statvfs(node.data_dir()).context("cannot ask for the free space")?;
    let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
    if needed_bytes > free_bytes {
        bail!(
            "nothing was changed: {} has {} free, but {} are needed for a copy of the member and for the new one: free some space",
            node.data_dir().display(),
            output::bytes(free_bytes),
            output::bytes(needed_bytes)
        );
    }
    Ok(())
}

/// Whether the data of a member that is stopped can be restored.
pub(crate) fn check_old_member(old: &OldMember, best: Option<&BackupFacts>) -> Result<(), String> {
    let membership = old.facts.membership.as_ref();
    if membership.is_some_and(|all| all.removed.iter().any(|id| Some(*id) == old.member_id)) {
        return Err("the member on this disk had been removed from its cluster, so its data is old. Restore a backup instead, or the disk of another member".into());
    }
    if !old.facts.corrupt.is_empty() {
        return Err("a member had a CORRUPT alarm, so the data on this disk may be wrong. Restore a backup instead".into());
    }
    if let Some(target) = &old.facts.downgrade {
        return Err(format!(
            "the cluster was in a downgrade to etcd {target}, which etcd would go on with. Restore a backup from before it instead"
        ));
    }
    check_newer(old.revision, best)
}

fn check_newer(revision: i64, best: Option<&BackupFacts>) -> Result<(), String> {
    match best.filter(|backup| backup.revision > revision) {
        Some(backup) => Err(format!(
            "the proven backup {} is newer, at revision {}, than the member on this disk, which has at most revision {revision}. Restore the backup: etcd-lifeboat cluster-restore {}",
            backup.name, backup.revision, backup.name
        )),
        None => Ok(()),
    }
}

/// Whether the backup fits this node. Gives warnings.
pub(crate) fn check_backup(
    node: &Node,
    survey: &Survey,
    source: &Source,
    now: Timestamp,
) -> anyhow::Result<Vec<String>> {
    let misfits = compare(&signs::of_node(node), &signs::of_backup(node, source)?);
    let mut refusals = misfits.refusals;
    let mut warnings = misfits.warnings;
    if let Some(record) = &source.record
        && record.finished_at > now
    {
        refusals.push(format!(
            "the clock of this node says {now}, but the backup was complete at {}: set the clock first, certificates and leases depend on it",
            record.finished_at
        ));
    }
    if let (Some(best), Some(record)) = (&survey.facts.backup, &source.record)
        && best.revision > record.snapshot.revision
    {
        warnings.push(format!(
            "the proven backup {} is newer, at revision {}",
            best.name, best.revision
        ));
    }
    if let Some(old) = &survey.old {
        if let Some(target) = &old.facts.downgrade {
            warnings.push(format!(
                "the old cluster was in a downgrade to etcd {target}"
            ));
        }
        if old.facts.has_no_space {
            warnings.push(
                "the old cluster had a NOSPACE alarm: its database had reached the quota".into(),
            );
        }
    }
    match refusals.is_empty() {
        true => Ok(warnings),
        false => bail!("nothing was changed: {}", refusals.join("\n  and ")),
    }
}
