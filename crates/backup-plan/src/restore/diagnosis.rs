//! What is wrong with the etcd of a node, and which command is right for it. The wrong one is how data is lost.

use super::journal::{Operation, Step};
use jiff::Timestamp;
use serde::Serialize;

/// What is known on a node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeFacts {
    /// What was begun here and is not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Unfinished>,
    /// The node's own member.
    pub member: MemberState,
    /// Its data directory.
    pub disk: DiskState,
    /// All other members of its cluster.
    pub peers: Vec<PeerFacts>,
    /// The proven backup with the highest revision that this node can see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupFacts>,
}

/// What was begun on a node and is not ended.
#[derive(Debug, Clone, Serialize)]
pub struct Unfinished {
    /// What was begun.
    pub operation: Operation,
    /// The next step.
    pub next: Step,
    /// Whether it can be undone.
    pub can_be_undone: bool,
    /// Whether it is being undone.
    pub is_undone: bool,
}

/// The state of the node's own member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum MemberState {
    /// It answers, and the cluster has a quorum.
    Quorum {
        /// Whether it has no vote yet.
        learner: bool,
        /// The revision that the cluster has agreed on.
        revision: i64,
    },
    /// It answers, but the cluster has no quorum.
    NoQuorum {
        /// The revision that it has.
        revision: i64,
    },
    /// It answers, but does not say whether the cluster has a quorum.
    Unknown {
        /// Why.
        problem: String,
    },
    /// It does not answer.
    Silent {
        /// Why.
        problem: String,
    },
}

/// The state of a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum DiskState {
    /// There is no member in it.
    Missing,
    /// etcd runs in it.
    InUse,
    /// It can be read.
    Readable {
        /// The highest revision that it can have.
        revision: i64,
        /// Entries of the log that are not in the database.
        unapplied_entries: u64,
        /// The term of the last entry of the log.
        last_term: u64,
        /// The index of the last entry. Of several disks, the one with the highest term and then the highest index has the newest data.
        last_index: u64,
        /// Whether its member had no vote.
        learner: bool,
        /// Whether the cluster had removed its member.
        removed: bool,
        /// Whether its data differed from that of other members.
        corrupt: bool,
    },
    /// It cannot be read.
    Damaged {
        /// Why.
        problem: String,
    },
}

/// Another member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerFacts {
    /// Its name.
    pub name: String,
    /// Where it is looked for.
    pub urls: Vec<String>,
    /// What is there.
    pub state: PeerState,
}

/// The state of another member, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// It answers, and its cluster has a quorum.
    Quorum,
    /// Something answers at its address.
    Answers,
    /// Its machine answers, but nothing listens: etcd is stopped there.
    Stopped,
    /// Nothing answers: its machine may be off, or cut off and at work.
    Unreachable,
}

impl PeerState {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            PeerState::Quorum => "answers, with a quorum",
            PeerState::Answers => "answers, without a quorum",
            PeerState::Stopped => "etcd is stopped there",
            PeerState::Unreachable => "does not answer: off, or cut off from here",
        }
    }
}

/// A proven backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupFacts {
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: i64,
    /// When it was complete.
    pub finished_at: Timestamp,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What is the case.
    pub situation: Situation,
    /// The same for people, with the reasons.
    pub text: String,
    /// What to run next, on this node if nothing else is said.
    pub next: Vec<String>,
}

/// What is the case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Situation {
    /// Something was begun here.
    Unfinished,
    /// This node waits for a restore elsewhere, or for one here.
    StoodDown,
    /// The node's member works.
    Healthy,
    /// etcd works, but without the data of the cluster.
    DataLost,
    /// The cluster works, this member does not.
    MemberLost,
    /// Whether there is a quorum is not known.
    Unknown,
    /// There is no quorum, and this node has data.
    QuorumLost,
    /// There is no quorum, and nothing to restore from on this node.
    NothingHere,
}

const COMMAND: &str = "etcd-lifeboat cluster-restore";

/// Decides what is the case, and what to do.
#[must_use]
pub fn advise(facts: &NodeFacts) -> Advice {
    if let Some(unfinished) = &facts.unfinished {
        return go_on(facts, unfinished);
    }
    if let Some(advice) = began_again(facts) {
        return advice;
    }
    if let MemberState::Quorum { learner, .. } = facts.member {
        let mut text =
            "etcd answers on this node, and its cluster has a quorum. Nothing has to be restored."
                .to_string();
        if learner {
            text += " This member is a learner: it has no vote yet.";
        }
        text += " If the data itself is wrong, for example because objects were deleted: make a backup of what is there now, and stand down all nodes, this one last. Then restore an older backup here.";
        return Advice {
            situation: Situation::Healthy,
            text,
            next: Vec::new(),
        };
    }
    if let MemberState::Unknown { problem } = &facts.member {
        return Advice {
            situation: Situation::Unknown,
            text: format!(
                "etcd answers on this node, but whether its cluster has a quorum is unknown: {problem}. As long as that is so, nothing can be restored here."
            ),
            next: Vec::new(),
        };
    }
    let with_quorum: Vec<_> = names(facts, PeerState::Quorum);
    if !with_quorum.is_empty() {
        return Advice {
            situation: Situation::MemberLost,
            text: format!(
                "The cluster has a quorum ({} answers), but the member of this node does not work. A restore would begin a second cluster. Repair etcd here, or let this node join again with an empty member.",
                with_quorum.join(", ")
            ),
            next: vec![format!("{COMMAND} --join")],
        };
    }
    let Some(source) = source(facts) else {
        return Advice {
            situation: Situation::NothingHere,
            text: "No quorum answers, and this node has neither a proven backup nor a member that can be read. Look on the other nodes, or copy a backup to this node.".into(),
            next: vec![format!("{COMMAND} DIRECTORY-OF-THE-BACKUP")],
        };
    };
    Advice {
        situation: Situation::QuorumLost,
        text: quorum_lost(facts),
        next: next_without_quorum(facts, &source),
    }
}

/// A member whose data directory was emptied begins with nothing when it starts. With the manifest of `kubeadm init` its cluster even has
/// the same id again.
fn began_again(facts: &NodeFacts) -> Option<Advice> {
    let MemberState::Quorum { revision, .. } = facts.member else {
        return None;
    };
    let backup = facts.backup.as_ref()?;
    if revision >= backup.revision {
        return None;
    }
    let mut next = vec![format!("{COMMAND} --stand-down")];
    next.extend(next_without_quorum(facts, &backup.name));
    Some(Advice {
        situation: Situation::DataLost,
        text: format!(
            "etcd answers on this node, but it is at revision {revision}, and the best proven backup is at revision {}. Revisions never fall by themselves: probably the data directory was emptied, and etcd began again with nothing. Stand this node down at once, because controllers remove what they do not find.",
            backup.revision
        ),
        next,
    })
}

fn names(facts: &NodeFacts, state: PeerState) -> Vec<String> {
    let peers = facts.peers.iter().filter(|peer| peer.state == state);
    peers.map(|peer| peer.name.clone()).collect()
}

/// What to restore from: the argument of the command. Nothing if there is nothing.
fn source(facts: &NodeFacts) -> Option<String> {
    let backup = facts.backup.as_ref();
    match facts.disk {
        DiskState::Readable {
            revision,
            removed: false,
            corrupt: false,
            ..
        } if backup.is_none_or(|backup| backup.revision < revision) => {
            Some("--from-this-disk".into())
        }
        // It has everything that this member had: one that answers knows its revision.
        DiskState::InUse => match facts.member {
            MemberState::NoQuorum { revision }
                if backup.is_none_or(|backup| backup.revision <= revision) =>
            {
                Some("--from-this-disk".into())
            }
            _ => backup.map(|backup| backup.name.clone()),
        },
        _ => backup.map(|backup| backup.name.clone()),
    }
}

fn quorum_lost(facts: &NodeFacts) -> String {
    let all = facts.peers.len() + 1;
    let quorum = all / 2 + 1;
    let mut text = match facts.member {
        MemberState::NoQuorum { .. } => {
            format!("etcd answers on this node, but a quorum needs {quorum} of {all} members.")
        }
        _ => format!(
            "etcd does not answer on this node, and no quorum of the {all} members is known."
        ),
    };
    let unreachable = names(facts, PeerState::Unreachable);
    if !unreachable.is_empty() {
        text += &format!(
            " Cannot be reached: {}. Each may be off, or cut off from here and at work.",
            unreachable.join(", ")
        );
    }
    text += " First try to start the members that are lost: with a quorum, nothing has to be restored, and nothing is lost.";
    if let Some(backup) = &facts.backup {
        text += &format!(
            " The best proven backup here is {}, revision {}, from {}.",
            backup.name, backup.revision, backup.finished_at
        );
    }
    let of_backup = facts.backup.as_ref().map_or(-1, |backup| backup.revision);
    match &facts.disk {
        DiskState::Readable {
            revision,
            corrupt: false,
            removed: false,
            last_term,
            last_index,
            ..
        } if *revision > of_backup => {
            text += &format!(
                " The member on this node's own disk has up to revision {revision}, which is newer. Look at the disks of the other members too, if there are any: the one with the highest term, and then the highest index, is the newest. Here it is term {last_term}, index {last_index}."
            );
        }
        DiskState::Readable { removed: true, .. } => {
            text += " The member on this node's disk had been removed from the cluster: its data is old.";
        }
        DiskState::Readable { corrupt: true, .. } => {
            text += " The member on this node's disk had a CORRUPT alarm: do not use its data.";
        }
        DiskState::Damaged { problem } => {
            text += &format!(" The member on this node's disk cannot be read: {problem}.");
        }
        _ => {}
    }
    text
}

fn next_without_quorum(facts: &NodeFacts, source: &str) -> Vec<String> {
    let mut next = Vec::new();
    for peer in &facts.peers {
        match peer.state {
            PeerState::Answers => next.push(format!("on {}: {COMMAND} --stand-down", peer.name)),
            PeerState::Unreachable => {
                next.push(format!(
                    "on {}, unless it is destroyed: {COMMAND} --stand-down",
                    peer.name
                ));
            }
            PeerState::Quorum | PeerState::Stopped => {}
        }
    }
    let names: Vec<_> = facts.peers.iter().map(|peer| peer.name.as_str()).collect();
    let is_known = |peer: &PeerFacts| peer.state != PeerState::Unreachable;
    let without = match names.is_empty() {
        true => String::new(),
        false if facts.peers.iter().all(is_known) => format!(" --without {}", names.join(",")),
        // A person types these, because only a person can know.
        false => " --without MEMBERS-THAT-ARE-STOOD-DOWN-OR-DESTROYED".into(),
    };
    next.push(format!("{COMMAND} {source}{without}"));
    next
}

fn go_on(facts: &NodeFacts, unfinished: &Unfinished) -> Advice {
    let Unfinished {
        operation,
        next: step,
        can_be_undone,
        is_undone,
    } = unfinished;
    let undo = format!("{COMMAND} --rollback");
    let advice = |situation, text: String, next| Advice {
        situation,
        text,
        next,
    };
    if *is_undone {
        return advice(
            Situation::Unfinished,
            format!(
                "A {} was being undone on this node, and that did not end.",
                operation.name()
            ),
            vec![undo],
        );
    }
    match (operation, step) {
        (Operation::StandDown, Step::Done) => {
            let mut next = Vec::new();
            let mut text = "This node is stood down: its control plane is stopped, and its member is aside.".to_string();
            let with_quorum = names(facts, PeerState::Quorum);
            if with_quorum.is_empty() {
                text += " No quorum answers. Restore one node first, this one or another, and then let the others join it.";
                if let Some(source) = source(facts) {
                    next.extend(next_without_quorum(facts, &source));
                }
                next.push(format!("{undo}    (only as long as no node was restored)"));
            } else {
                text += &format!(" A cluster with a quorum answers at {}: this node can join it.", with_quorum.join(", "));
                next.push(format!("{COMMAND} --join"));
            }
            advice(Situation::StoodDown, text, next)
        }
        (_, Step::Continue) => advice(
            Situation::Unfinished,
            "etcd and the API server run. The controller manager and the scheduler of this node wait until you have looked at the cluster.".into(),
            vec![format!("{COMMAND} --continue")],
        ),
        (operation, step) => {
            let mut next = vec![format!("{COMMAND} --resume")];
            let mut text = format!(
                "A {} was begun on this node and did not end. The next step is {}.",
                operation.name(),
                step.name()
            );
            match can_be_undone {
                true => next.push(undo),
                false => text += " It cannot be undone any more.",
            }
            advice(Situation::Unfinished, text, next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> NodeFacts {
        let peer = |name: &str| PeerFacts {
            name: name.into(),
            urls: vec![format!("https://{name}:2380")],
            state: PeerState::Unreachable,
        };
        NodeFacts {
            unfinished: None,
            member: MemberState::Silent {
                problem: "refused".into(),
            },
            disk: DiskState::Missing,
            peers: vec![peer("node2"), peer("node3")],
            backup: Some(BackupFacts {
                name: "2026-11-22_031500".into(),
                revision: 100,
                finished_at: Timestamp::UNIX_EPOCH,
            }),
        }
    }

    fn with_peer(state: PeerState) -> NodeFacts {
        let mut facts = facts();
        facts.peers.first_mut().unwrap().state = state;
        facts
    }

    #[test]
    fn with_a_quorum_nothing_is_restored() {
        let advice = advise(&NodeFacts {
            member: MemberState::Quorum {
                learner: false,
                revision: 100,
            },
            ..facts()
        });
        assert_eq!(advice.situation, Situation::Healthy);
        assert!(advice.next.is_empty());
        let advice = advise(&NodeFacts {
            member: MemberState::Quorum {
                learner: false,
                revision: 99,
            },
            ..facts()
        });
        assert_eq!(advice.situation, Situation::DataLost);
        assert!(
            advice.text.contains("began again with nothing"),
            "{}",
            advice.text
        );
        let advice = advise(&NodeFacts {
            member: MemberState::Unknown {
                problem: "permission denied".into(),
            },
            ..facts()
        });
        assert_eq!(advice.situation, Situation::Unknown);
        assert!(advice.next.is_empty());
        let advice = advise(&with_peer(PeerState::Quorum));
        assert_eq!(advice.situation, Situation::MemberLost);
        assert_eq!(advice.next, ["etcd-lifeboat cluster-restore --join"]);
        assert!(advice.text.contains("second cluster"), "{}", advice.text);
    }

    #[test]
    fn without_a_quorum_the_best_backup_is_proposed_with_all_that_must_be_stood_down() {
        let advice = advise(&with_peer(PeerState::Answers));
        assert_eq!(advice.situation, Situation::QuorumLost);
        assert_eq!(
            advice.next,
            [
                "on node2: etcd-lifeboat cluster-restore --stand-down",
                "on node3, unless it is destroyed: etcd-lifeboat cluster-restore --stand-down",
                "etcd-lifeboat cluster-restore 2026-11-22_031500 --without MEMBERS-THAT-ARE-STOOD-DOWN-OR-DESTROYED"
            ]
        );
        assert!(advice.text.contains("of the 3 members"), "{}", advice.text);
        assert!(
            advice.text.contains("cut off from here and at work"),
            "{}",
            advice.text
        );
        let mut stopped = facts();
        for peer in &mut stopped.peers {
            peer.state = PeerState::Stopped;
        }
        let next = advise(&stopped).next;
        assert_eq!(
            next,
            ["etcd-lifeboat cluster-restore 2026-11-22_031500 --without node2,node3"]
        );
        let disk = |revision, corrupt, removed| {
            let disk = DiskState::Readable {
                revision,
                unapplied_entries: 0,
                last_term: 3,
                last_index: 300,
                learner: false,
                removed,
                corrupt,
            };
            advise(&NodeFacts { disk, ..facts() })
        };
        let from_disk = |advice: &Advice| advice.next.concat().contains("--from-this-disk");
        let newer = disk(101, false, false);
        assert!(
            newer.text.contains("up to revision 101") && from_disk(&newer),
            "{newer:?}"
        );
        assert!(newer.text.contains("term 3, index 300"), "{newer:?}");
        let older = disk(100, false, false);
        assert!(
            !older.text.contains("newer") && !from_disk(&older),
            "{older:?}"
        );
        let corrupt = disk(101, true, false);
        assert!(corrupt.text.contains("CORRUPT") && !from_disk(&corrupt));
        let removed = disk(101, false, true);
        assert!(removed.text.contains("removed from the cluster") && !from_disk(&removed));
        let advice = advise(&NodeFacts {
            member: MemberState::NoQuorum { revision: 1 },
            ..facts()
        });
        assert!(advice.text.contains("needs 2 of 3"), "{}", advice.text);
        let advice = advise(&NodeFacts {
            backup: None,
            ..facts()
        });
        assert_eq!(advice.situation, Situation::NothingHere);
    }

    #[test]
    fn what_was_begun_goes_on_first() {
        let unfinished = |operation, next, can_be_undone| NodeFacts {
            unfinished: Some(Unfinished {
                operation,
                next,
                can_be_undone,
                is_undone: false,
            }),
            ..facts()
        };
        let advice = advise(&unfinished(Operation::Restore, Step::Place, true));
        assert_eq!(advice.next.len(), 2, "{advice:?}");
        assert!(advice.text.contains("The next step is"), "{}", advice.text);
        let advice = advise(&unfinished(Operation::Join, Step::Promote, false));
        assert_eq!(advice.next, ["etcd-lifeboat cluster-restore --resume"]);
        let advice = advise(&unfinished(Operation::Restore, Step::Continue, false));
        assert_eq!(advice.next, ["etcd-lifeboat cluster-restore --continue"]);
        let mut undone = unfinished(Operation::StandDown, Step::Done, true);
        if let Some(unfinished) = &mut undone.unfinished {
            unfinished.is_undone = true;
        }
        assert_eq!(
            advise(&undone).next,
            ["etcd-lifeboat cluster-restore --rollback"]
        );
        let mut stood_down = unfinished(Operation::StandDown, Step::Done, true);
        let advice = advise(&stood_down);
        assert_eq!(advice.situation, Situation::StoodDown);
        assert!(
            advice.next.iter().any(|next| next.contains("--rollback")),
            "{advice:?}"
        );
        stood_down.peers.first_mut().unwrap().state = PeerState::Quorum;
        assert_eq!(
            advise(&stood_down).next,
            ["etcd-lifeboat cluster-restore --join"]
        );
    }
}
