//! Looks at the node, at the other members and at the backups. Changes nothing.

use super::node::Node;
use super::signs;
use backup_plan::record::Level;
use backup_plan::restore::diagnosis::{
    BackupFacts, DiskState, MemberState, NodeFacts, PeerFacts, PeerState, Unfinished,
};
use backup_plan::restore::initial_cluster::InitialCluster;
use backup_store::member::{Connection, Member, MemberError};
use backup_store::repository::Repository;
use backup_store::restore::{OldMember, RestoreError, StoredMember, is_locked};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long another machine has to accept a connection.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
const CLIENT_PORT: &str = "2379";

/// What is known, and where it is from.
pub(crate) struct Survey {
    pub(crate) facts: NodeFacts,
    /// The node's old member, if its files can be read.
    pub(crate) old: Option<OldMember>,
    /// The cluster that the node's own member is in, if it answers or its files can be read.
    pub(crate) own_cluster_id: Option<u64>,
    /// Where clients reach other members that have a quorum.
    pub(crate) endpoints_with_quorum: Vec<Endpoint>,
}

/// A member that has a quorum.
pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) cluster_id: u64,
}

/// Another member, and where it can be.
struct Peer {
    name: String,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
}

/// Looks at everything.
pub(crate) async fn survey(node: &Node) -> Survey {
    survey_with(node, &[]).await
}

/// Looks at everything, and also for these members, which a backup has.
pub(crate) async fn survey_with(node: &Node, members: &[StoredMember]) -> Survey {
    let (member, live_peers, live_cluster_id) = own_member(node).await;
    let (disk, old) = disk(node);
    let backup = best_backup(node);
    // A member that began again with nothing knows of no other, but the backup does.
    let known = [
        live_peers,
        old.as_ref().and_then(peers_of_old),
        backup.as_ref().map(|(_, peers)| peers_of_record(peers)),
        Some(peers_of_database(members)),
        Some(peers_of_manifest(node)),
    ];
    let others = others(node, known.into_iter().flatten().flatten());
    let (peers, endpoints_with_quorum) = look_at_peers(node, others).await;
    let unfinished = node.journal.as_ref().map(|journal| Unfinished {
        operation: journal.operation,
        next: journal.next,
        can_be_undone: journal.can_be_undone(node.etcd_is_in_folder()),
        is_undone: journal.is_undone,
    });
    Survey {
        facts: NodeFacts {
            unfinished,
            member,
            disk,
            peers,
            backup: backup.map(|(facts, _)| facts),
        },
        own_cluster_id: live_cluster_id.or(old.as_ref().and_then(|old| old.cluster_id)),
        old,
        endpoints_with_quorum,
    }
}

/// All but the own one, each once.
fn others(node: &Node, known: impl Iterator<Item = Peer>) -> Vec<Peer> {
    let own_urls = node.peer_urls();
    let mut others: Vec<Peer> = Vec::new();
    for peer in known {
        let is_same = |name: &str, urls: &[String]| {
            peer.name == name || peer.peer_urls.iter().any(|url| urls.contains(url))
        };
        if !is_same(node.name(), &own_urls)
            && !others
                .iter()
                .any(|other| is_same(&other.name, &other.peer_urls))
        {
            others.push(peer);
        }
    }
    others
}

async fn own_member(node: &Node) -> (MemberState, Option<Vec<Peer>>, Option<u64>) {
    let silent = |error: MemberError| MemberState::Silent {
        problem: error.to_string(),
    };
    let member = match Member::connect(&node.own_member()).await {
        Ok(member) => member,
        Err(error) => return (silent(error), None, None),
    };
    let peers = member.members().await.ok().map(|all| {
        let peers = all.into_iter().map(|peer| Peer {
            name: name_or_id(peer.name, peer.id),
            peer_urls: peer.peer_urls,
            client_urls: peer.client_urls,
        });
        peers.collect()
    });
    let status = member.status().await;
    let cluster_id = status.as_ref().ok().map(|status| status.cluster_id);
    let state = match (status, member.agreed_revision().await) {
        (Ok(status), Ok(Some(revision))) => MemberState::Quorum {
            learner: status.learner,
            revision,
        },
        (Ok(status), Ok(None)) => MemberState::NoQuorum {
            revision: status.revision,
        },
        // For example, because it asks for a password.
        (Ok(_), Err(error)) => MemberState::Unknown {
            problem: error.to_string(),
        },
        (Err(error), _) => silent(error),
    };
    (state, peers, cluster_id)
}

/// One that has never started has no name.
pub(crate) fn name_or_id(name: String, id: u64) -> String {
    match name.is_empty() {
        true => format!("{id:x}"),
        false => name,
    }
}

fn disk(node: &Node) -> (DiskState, Option<OldMember>) {
    let (data_dir, wal_dir) = node.old_data();
    if is_locked(&data_dir) {
        return (DiskState::InUse, None);
    }
    if data_dir.join("member").symlink_metadata().is_err() {
        return (DiskState::Missing, None);
    }
    match OldMember::read(&data_dir, wal_dir.as_deref()) {
        Ok(old) => {
            let membership = old.facts.membership.as_ref();
            let is_own = |id: &u64| Some(*id) == old.member_id;
            let state = DiskState::Readable {
                revision: old.revision,
                unapplied_entries: old
                    .last_index
                    .saturating_sub(old.facts.consistent_index.unwrap_or_default()),
                last_term: old.last_term,
                last_index: old.last_index,
                learner: membership.is_some_and(|all| {
                    let mut members = all.members.iter();
                    members.any(|member| is_own(&member.id) && member.is_learner)
                }),
                removed: membership.is_some_and(|all| all.removed.iter().any(is_own)),
                corrupt: !old.facts.corrupt.is_empty(),
            };
            (state, Some(old))
        }
        Err(RestoreError::EtcdRuns { .. }) => (DiskState::InUse, None),
        Err(error) => {
            let problem = error.to_string();
            (DiskState::Damaged { problem }, None)
        }
    }
}

fn peers_of_old(old: &OldMember) -> Option<Vec<Peer>> {
    Some(peers_of_database(&old.facts.membership.as_ref()?.members))
}

/// With which it was started first.
fn peers_of_manifest(node: &Node) -> Vec<Peer> {
    let members = node.control_plane.member.initial_cluster.as_deref();
    let members = members.and_then(|members| InitialCluster::parse(members).ok());
    let members = members.map(|members| peers_of_record(members.members()));
    members.unwrap_or_default()
}

fn peers_of_database(members: &[StoredMember]) -> Vec<Peer> {
    let members = members.iter().map(|member| Peer {
        name: name_or_id(member.name.clone(), member.id),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
    });
    members.collect()
}

pub(super) type Names = BTreeMap<String, Vec<String>>;

fn peers_of_record(members: &Names) -> Vec<Peer> {
    let peers = members.iter().map(|(name, peer_urls)| Peer {
        name: name.clone(),
        peer_urls: peer_urls.clone(),
        client_urls: Vec::new(),
    });
    peers.collect()
}

/// The proven backup with the highest revision that can be of this cluster, and the members of its cluster. A clock may have been wrong.
pub(super) fn best_backup(node: &Node) -> Option<(BackupFacts, Names)> {
    let entries = Repository::open(&node.backup_path).and_then(|all| all.entries());
    let entries = entries.ok()?;
    let mut proven: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((entry, entry.record()?)))
        .filter(|(_, record)| record.verified.contains(&Level::Content))
        .collect();
    proven.sort_by_key(|(_, record)| (record.snapshot.revision, record.sequence));
    let mut proven = proven.into_iter().rev();
    let (entry, record) =
        proven.find(|(entry, _)| signs::can_be_of(node, &node.backup_path.join(&entry.name)))?;
    let members = record.members.iter().map(|member| {
        let name = match member.name.is_empty() {
            true => member.id.clone(),
            false => member.name.clone(),
        };
        (name, member.peer_urls.clone())
    });
    let facts = BackupFacts {
        name: entry.name.clone(),
        revision: record.snapshot.revision,
        finished_at: record.finished_at,
    };
    Some((facts, members.collect()))
}

/// All at once, because each may take its time.
async fn look_at_peers(node: &Node, peers: Vec<Peer>) -> (Vec<PeerFacts>, Vec<Endpoint>) {
    let mut looks = JoinSet::new();
    for (place, peer) in peers.into_iter().enumerate() {
        let connections: Vec<_> = client_endpoints(&peer)
            .iter()
            .map(|endpoint| node.member_at(endpoint))
            .collect();
        looks.spawn(async move { (place, look_at(peer, connections).await) });
    }
    let mut seen: Vec<_> = looks.join_all().await;
    seen.sort_by_key(|(place, _)| *place);
    let (mut facts, mut endpoints) = (Vec::new(), Vec::new());
    for (_, (peer, endpoint)) in seen {
        facts.push(peer);
        endpoints.extend(endpoint);
    }
    (facts, endpoints)
}

/// Where it listens to clients. One that never said it is looked for at the usual port of its address.
fn client_endpoints(peer: &Peer) -> Vec<String> {
    if !peer.client_urls.is_empty() {
        return peer.client_urls.clone();
    }
    let endpoints = peer.peer_urls.iter().filter_map(|url| {
        let (start, _) = url.rsplit_once(':')?;
        Some(format!("{start}:{CLIENT_PORT}"))
    });
    endpoints.collect()
}

async fn look_at(peer: Peer, connections: Vec<Connection>) -> (PeerFacts, Option<Endpoint>) {
    let mut state = PeerState::Unreachable;
    let mut endpoint = None;
    for connection in connections {
        let found = match state_of_client(&connection).await {
            Ok(cluster_id) => {
                endpoint = Some(Endpoint {
                    url: connection.endpoint,
                    cluster_id,
                });
                PeerState::Quorum
            }
            Err(state) => state,
        };
        state = stronger(state, found);
    }
    if !matches!(state, PeerState::Quorum | PeerState::Answers) {
        for url in &peer.peer_urls {
            state = stronger(state, state_of_address(url).await);
        }
    }
    let facts = PeerFacts {
        name: peer.name,
        urls: peer.peer_urls,
        state,
    };
    (facts, endpoint)
}

/// Of two looks, the one that saw more.
fn stronger(one: PeerState, other: PeerState) -> PeerState {
    let rank = |state| match state {
        PeerState::Quorum => 3,
        PeerState::Answers => 2,
        PeerState::Stopped => 1,
        PeerState::Unreachable => 0,
    };
    match rank(other) > rank(one) {
        true => other,
        false => one,
    }
}

/// The id of its cluster if that has a quorum.
async fn state_of_client(connection: &Connection) -> Result<u64, PeerState> {
    // Whatever went wrong with TLS: the address says whether anything listens.
    let Ok(member) = Member::connect(connection).await else {
        return Err(state_of_address(&connection.endpoint).await);
    };
    match (member.agreed_revision().await, member.status().await) {
        (Ok(Some(_)), Ok(status)) => Ok(status.cluster_id),
        _ => Err(PeerState::Answers),
    }
}

/// Whether anything listens at the host and port of a URL.
async fn state_of_address(url: &str) -> PeerState {
    let address = url.split_once("://").map_or(url, |(_, rest)| rest);
    let connected = tokio::time::timeout(ANSWERS_WITHIN, TcpStream::connect(address)).await;
    match connected {
        Ok(Ok(_)) => PeerState::Answers,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => PeerState::Stopped,
        Ok(Err(_)) | Err(_) => PeerState::Unreachable,
    }
}
