//! What is checked before a restore. Nothing was changed yet.

use super::node::Node;
use super::survey::Survey;
use crate::cli::flags::node::is_here;
use crate::cli::output;
use anyhow::{Context, bail};
use backup_plan::platform::control_plane::Component;
use backup_plan::platform::control_plane::MANIFESTS;
use backup_plan::restore::diagnosis::{DiskState, MemberState, PeerState};
use backup_plan::restore::fit::{ClusterSigns, compare};
use backup_store::control_plane::processes;
use backup_store::local_file::read_small;
use backup_store::restore::{Source, is_locked};
use jiff::Timestamp;
use std::path::Path;

const PKI: &str = "etc/kubernetes/pki/";
const MAX_FILE_BYTES: u64 = 1 << 20;
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
            "etcd answers on this node, and its cluster has a quorum: nothing was changed. If its data is wrong, make a backup of it (`etcd-lifeboat cluster-backup`), stand down the other nodes (`cluster-restore --stand-down`), then this one, and restore then"
        );
    }
    let peers = &survey.facts.peers;
    let with = |state| {
        let names = peers.iter().filter(move |peer| peer.state == state);
        names.map(|peer| peer.name.as_str()).collect::<Vec<_>>()
    };
    let quorum = with(PeerState::Quorum);
    if !quorum.is_empty() {
        bail!(
            "{} answers, and its cluster has a quorum: nothing was changed. To let this node join that cluster, run `cluster-restore --join`",
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
    if let Some(unknown) = without.iter().find(|name| !known.contains(&name.as_str())) {
        bail!(
            "--without {unknown}: there is no other member of this name, but {}",
            known.join(", ")
        );
    }
    let missing: Vec<_> = known
        .iter()
        .filter(|name| !without.iter().any(|given| given == *name))
        .copied()
        .collect();
    if !missing.is_empty() {
        let quorum = (peers.len() + 1) / 2 + 1;
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

/// Whether the member on this node's own disk is what should be restored. Gives warnings.
pub(crate) fn check_disk(node: &Node, survey: &Survey) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    let place = node.old_data().0;
    let place = place.display();
    let on_disk = match (&survey.facts.disk, &survey.facts.member) {
        (DiskState::Missing, _) => bail!("nothing was changed: {place} has no member"),
        (DiskState::Damaged { problem }, _) => {
            bail!(
                "nothing was changed: the member in {place} cannot be read: {problem}. Restore a backup instead"
            )
        }
        (DiskState::Readable { removed: true, .. }, _) => bail!(
            "nothing was changed: the member in {place} had been removed from its cluster, so its data is old. Restore a backup instead, or the disk of another member"
        ),
        (DiskState::Readable { corrupt: true, .. }, _) => bail!(
            "nothing was changed: a member had a CORRUPT alarm, so the data in {place} may be wrong. Restore a backup instead"
        ),
        (
            DiskState::Readable {
                revision, learner, ..
            },
            _,
        ) => {
            if *learner {
                warnings
                    .push("this member was a learner: it may not have received all data".into());
            }
            Some(*revision)
        }
        (DiskState::InUse, MemberState::NoQuorum { revision }) => Some(*revision),
        (DiskState::InUse, _) => None,
    };
    match (&survey.facts.backup, on_disk) {
        (Some(backup), Some(revision)) if backup.revision > revision => bail!(
            "nothing was changed: the proven backup {} is newer, at revision {}, than the member in {place}, which has at most revision {revision}. Restore the backup: etcd-lifeboat cluster-restore {}",
            backup.name,
            backup.revision,
            backup.name
        ),
        (_, None) => warnings
            .push("etcd runs, but does not answer: whether a backup is newer is unknown".into()),
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
    Ok(warnings)
}

/// Whether the backup fits this node. Gives warnings.
pub(crate) fn check_backup(
    node: &Node,
    survey: &Survey,
    source: &Source,
    now: Timestamp,
) -> anyhow::Result<Vec<String>> {
    let api_server = node.control_plane.manifest(Component::KubeApiserver);
    let own = |name: &str| read_small(&Path::new("/").join(PKI).join(name), MAX_FILE_BYTES).ok();
    let of_node = ClusterSigns {
        ca: own("ca.crt"),
        etcd_ca: own("etcd/ca.crt"),
        service_account_key: own("sa.pub"),
        api_server_tag: api_server.and_then(|manifest| manifest.image_tag.clone()),
        encryption: node.found().encryption.clone(),
    };
    let of_backup = signs_of(
        source,
        api_server.map_or("kube-apiserver.yaml", |all| &all.file),
    )?;
    let misfits = compare(&of_node, &of_backup);
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

fn signs_of(source: &Source, api_server_manifest: &str) -> anyhow::Result<ClusterSigns> {
    let manifest = format!("etc/kubernetes/manifests/{api_server_manifest}");
    let [ca, etcd_ca, key] = ["ca.crt", "etcd/ca.crt", "sa.pub"].map(|name| format!("{PKI}{name}"));
    let mut files = source.archived(&[&ca, &etcd_ca, &key, &manifest])?;
    let manifest = files.remove(&manifest);
    let manifest = manifest.and_then(|text| String::from_utf8(text).ok());
    Ok(ClusterSigns {
        ca: files.remove(&ca),
        etcd_ca: files.remove(&etcd_ca),
        service_account_key: files.remove(&key),
        api_server_tag: manifest.and_then(|text| {
            backup_plan::platform::control_plane::image_tag(&text, Component::KubeApiserver)
        }),
        encryption: source
            .record
            .as_ref()
            .map_or_else(Vec::new, |record| record.encryption.clone()),
    })
}
