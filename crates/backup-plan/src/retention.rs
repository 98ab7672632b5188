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
    /// What it takes on the disk, in bytes.
    pub disk_bytes: u64,
}

/// A backup that goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its name.
    pub name: String,
    /// Why it goes.
    pub reason: String,
}

/// Which backups of `origin` go under a policy, oldest first; those of all origins without one.
///
/// Only verified backups count, and the newest verified one of a lineage never goes. One that is not
/// verified goes when all that are kept are newer.
#[must_use]
pub fn removals(candidates: &[Candidate], policy: Policy, origin: Option<&str>) -> Vec<Removal> {
    let mut lineages: BTreeMap<(&str, &str), Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        if origin.is_none_or(|origin| origin == candidate.origin) {
            lineages
                .entry((&candidate.origin, &candidate.cluster_id))
                .or_default()
                .push(candidate);
        }
    }
    let mut gone: Vec<(u64, Removal)> = Vec::new();
    for mut lineage in lineages.into_values() {
        lineage.sort_by_key(|candidate| std::cmp::Reverse(candidate.sequence));
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
            let name = candidate.name.clone();
            gone.push((candidate.sequence, Removal { name, reason }));
        }
    }
    gone.sort_by_key(|(sequence, _)| *sequence);
    gone.into_iter().map(|(_, removal)| removal).collect()
}

/// The next backup to give up when the disk is short of so many bytes: the oldest of all, but none of the
/// two newest verified ones, and not the newest verified one of any cluster: a wiped member's backups
/// must not push out the last of what was there before. Nothing if all that may go is not enough.
#[must_use]
pub fn next_for_space(candidates: &[Candidate], shortage_bytes: u64) -> Option<Removal> {
    const NEVER: usize = 2;
    let mut verified: Vec<_> = candidates
        .iter()
        .filter(|candidate| candidate.verified)
        .collect();
    verified.sort_by_key(|candidate| std::cmp::Reverse(candidate.sequence));
    let mut clusters = Vec::new();
    let mut safe = Vec::new();
    for (index, candidate) in verified.iter().enumerate() {
        let newest_of_cluster = !clusters.contains(&&candidate.cluster_id);
        if index < NEVER || newest_of_cluster {
            safe.push(&candidate.name);
        }
        clusters.push(&candidate.cluster_id);
    }
    let may_go = || {
        candidates
            .iter()
            .filter(|candidate| !safe.contains(&&candidate.name))
    };
    let gained_bytes = may_go().fold(0u64, |sum, candidate| {
        sum.saturating_add(candidate.disk_bytes)
    });
    if gained_bytes < shortage_bytes {
        return None;
    }
    may_go()
        .min_by_key(|candidate| candidate.sequence)
        .map(|candidate| Removal {
            name: candidate.name.clone(),
            reason: "the disk is short of space".into(),
        })
}
