//! Which backups are kept.
//!
//! A lineage is all backups of one origin and one cluster id. Retention applies to each lineage separately: backups of
//! a new cluster never replace those of an old cluster.

use std::collections::BTreeMap;

/// How many backups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Keep this many of the newest backups.
    Number(u64),
    /// Keep the newest backups that fit in this many bytes, and always the newest one.
    SizeBytes(u64),
    /// Keep all.
    None,
}

/// What retention knows about a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name in the repository.
    pub name: String,
    /// Its position in the order of backups.
    pub sequence: u64,
    /// Who requested it.
    pub origin: String,
    /// Its cluster.
    pub cluster_id: String,
    /// Whether its content was proven.
    pub verified: bool,
    /// Whether the backup is held: then it is never removed automatically, and it does not count for retention.
    pub held: bool,
    /// Its size on the disk, in bytes.
    pub disk_bytes: u64,
}

impl Candidate {
    /// Later is newer. Of two with the same sequence, as after a record that has the largest there is, the names decide:
    /// each new one is later than all before.
    fn order(&self) -> (u64, &str) {
        (self.sequence, &self.name)
    }
}

/// A backup to remove, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Its name.
    pub name: String,
    /// Why it is removed.
    pub reason: String,
    /// The disk space that its removal frees, in bytes.
    pub disk_bytes: u64,
}

/// The backups of `origin`, or of all origins, that a policy removes, oldest first.
///
/// Only verified backups count. The newest verified backup of a lineage is never removed. A backup that is not
/// verified is removed if all kept backups are newer.
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
                Policy::Number(_) => format!("{kept} newer backups are kept"),
                Policy::SizeBytes(limit) => {
                    format!("{kept} newer backups fill the limit of {limit} bytes")
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

/// The backups to remove to free `shortage_bytes`, oldest first, and not more than necessary. Never removes the two newest
/// verified backups, the newest verified backup of any cluster (backups of a wiped member must not replace those from before),
/// or a held backup. None if removing all others would not free enough. `freed_by` says what removing these backups together
/// frees: backups can share space.
#[must_use]
pub fn removals_for_space(
    candidates: &[Candidate],
    shortage_bytes: u64,
    freed_by: impl Fn(&[&str]) -> u64,
) -> Option<Vec<Removal>> {
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
    let mut names = Vec::new();
    let mut gone = Vec::new();
    for candidate in may_go {
        if gained_bytes >= shortage_bytes {
            break;
        }
        names.push(candidate.name.as_str());
        let together_bytes = freed_by(&names);
        gone.push(Removal {
            disk_bytes: together_bytes.saturating_sub(gained_bytes),
            ..removal(candidate, "not enough space on the disk".into())
        });
        gained_bytes = together_bytes;
    }
    (gained_bytes >= shortage_bytes).then_some(gone)
}
