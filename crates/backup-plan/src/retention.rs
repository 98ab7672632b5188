//! Which backups are kept.
//!
//! A lineage is all backups of one origin and one cluster id. Each lineage is judged for itself: backups of
//! a cluster that is gone are not pushed out by those of the one that came after it.

use std::collections::BTreeMap;

/// How many backups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The newest so many.
    Number(u64),
    /// The newest that fit in so many bytes, and the newest whether it fits or not.
    SizeBytes(u64),
    /// All.
    None,
}

/// What retention needs to know of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name in the repository.
    pub name: String,
    /// Its place in the order.
    pub sequence: u64,
    /// Who wanted it.
    pub origin: String,
    /// The cluster it is of.
    pub cluster_id: String,
    /// Whether its content was proven.
    pub verified: bool,
    /// Whether somebody holds it: then nothing automatic removes it, and it counts toward no limit.
    pub held: bool,
    /// What it takes on the disk, in bytes.
    pub disk_bytes: u64,
}

impl Candidate {
    /// Later is newer. Of two with the same sequence, as after a record that has the largest there is, the names decide:
    /// each new one is later than all before.
    fn order(&self) -> (u64, &str) {
        (self.sequence, &self.name)
    }
}

/// A backup that goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its name.
    pub name: String,
    /// Why it goes.
    pub reason: String,
    /// What it takes on the disk, in bytes.
    pub disk_bytes: u64,
}

/// Which backups of `origin` go under a policy, oldest first; those of all origins without one.
///
/// Only verified backups count, and the newest verified one of a lineage never goes. One that is not
/// verified goes when all that are kept are newer.
#[must_use]
pub fn removals(candidates: &[Candidate], policy: Policy, origin: Option<&str>) -> Vec<Removal> {
    let mut lineages: BTreeMap<(&str, &str), Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| !candidate.held) {
        if origin.is_none_or(|origin| origin == candidate.origin) {
            lineages
                .entry((&candidate.origin, &candidate.cluster_id))
                .or_default()
                .push(candidate);
        }
    }
    let mut gone: Vec<(&Candidate, Removal)> = Vec::new();
    for mut lineage in lineages.into_values() {
        lineage.sort_by(|one, other| other.order().cmp(&one.order()));
        let mut kept = 0u64;
        let mut kept_bytes = 0u64;
        let mut full = false;
        for candidate in lineage {
            if candidate.verified && !full {
                let bytes = kept_bytes.saturating_add(candidate.disk_bytes);
                full = kept > 0
                    && match policy {
                        Policy::Number(number) => kept >= number,
                        Policy::SizeBytes(limit) => bytes > limit,
                        Policy::None => false,
                    };
                if !full {
                    kept += 1;
                    kept_bytes = bytes;
                    continue;
                }
            }
            if !full {
                continue;
            }
            let reason = match policy {
                Policy::Number(_) => format!("{kept} newer ones are kept"),
                Policy::SizeBytes(limit) => {
                    format!("{kept} newer ones fill the {limit} bytes that may be kept")
                }
                Policy::None => continue,
            };
            gone.push((candidate, removal(candidate, reason)));
        }
    }
    gone.sort_by(|(one, _), (other, _)| one.order().cmp(&other.order()));
    gone.into_iter().map(|(_, removal)| removal).collect()
}

fn removal(candidate: &Candidate, reason: String) -> Removal {
    Removal {
        name: candidate.name.clone(),
        reason,
        disk_bytes: candidate.disk_bytes,
    }
}

/// Which backups to give up when the disk is short of so many bytes, oldest first: no more than it takes. None of the two
/// newest verified ones, not the newest verified one of any cluster (a wiped member's backups must not push out the last of
/// what was there before), and none that is held. Nothing if all that may go is not enough.
#[must_use]
pub fn removals_for_space(candidates: &[Candidate], shortage_bytes: u64) -> Option<Vec<Removal>> {
    const NEVER: usize = 2;
    let mut verified: Vec<_> = candidates
        .iter()
        .filter(|candidate| candidate.verified && !candidate.held)
        .collect();
    verified.sort_by(|one, other| other.order().cmp(&one.order()));
    let mut clusters = Vec::new();
    let mut safe = Vec::new();
    for (index, candidate) in verified.iter().enumerate() {
        let newest_of_cluster = !clusters.contains(&&candidate.cluster_id);
        if index < NEVER || newest_of_cluster {
            safe.push(&candidate.name);
        }
        clusters.push(&candidate.cluster_id);
    }
    let mut may_go: Vec<_> = candidates
        .iter()
        .filter(|candidate| !candidate.held && !safe.contains(&&candidate.name))
        .collect();
    may_go.sort_by(|one, other| one.order().cmp(&other.order()));
    let mut gained_bytes = 0u64;
    let mut gone = Vec::new();
    for candidate in may_go {
        if gained_bytes >= shortage_bytes {
            break;
        }
        gained_bytes = gained_bytes.saturating_add(candidate.disk_bytes);
        gone.push(removal(candidate, "the disk is short of space".into()));
    }
    (gained_bytes >= shortage_bytes).then_some(gone)
}
