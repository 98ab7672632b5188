//! Which backups are kept.
//!
//! A lineage is all backups of one origin and one life of a cluster. Retention applies to each lineage separately: backups of
//! a new cluster never replace those of an old cluster.
//!
//! A cluster id alone does not tell two lives apart: etcd derives it from its first members, so with kubeadm's first manifest an
//! emptied data directory gives the same ids again. But the revision of a member never falls as long as it lives.

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
    /// Who requested it: the name of a `Backup`, or `on-demand`.
    pub origin: String,
    /// The id of its cluster, as hex digits.
    pub cluster_id: String,
    /// The id of its member, as hex digits.
    pub member_id: String,
    /// The revision of its last change.
    pub revision: i64,
    /// Whether its content was proven.
    pub verified: bool,
    /// Whether the backup is held: then it is never removed automatically, and it does not count for retention.
    pub held: bool,
    /// Its size on the disk, in bytes.
    pub disk_bytes: u64,
}

impl Candidate {
    /// A greater value is newer. Two backups can have the same sequence, if a record has the largest possible one. Then
    /// the names decide: a new backup gets a later name than all before.
    fn order(&self) -> (u64, &str) {
        (self.sequence, &self.name)
    }
}

/// The life of its cluster that each candidate is of. A new one begins when the revision of a member falls.
fn lives(candidates: &[Candidate]) -> Vec<(&str, u32)> {
    let mut places: Vec<_> = candidates.iter().enumerate().collect();
    places.sort_by(|(_, one), (_, other)| one.order().cmp(&other.order()));
    let mut current: BTreeMap<&str, u32> = BTreeMap::new();
    let mut revisions: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    let mut lives = vec![("", 0); candidates.len()];
    for (place, candidate) in places {
        let life = current.entry(&candidate.cluster_id).or_default();
        if candidate.verified {
            let member = (candidate.cluster_id.as_str(), candidate.member_id.as_str());
            let before = revisions.insert(member, candidate.revision);
            if before.is_some_and(|before| candidate.revision < before) {
                *life += 1;
            }
        }
        if let Some(slot) = lives.get_mut(place) {
            *slot = (&candidate.cluster_id, *life);
        }
    }
    lives
}

/// A backup to remove, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Name of the backup in the repository.
    pub name: String,
    /// Why it is removed, as a text for people.
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
    let mut lineages: BTreeMap<(&str, (&str, u32)), Vec<&Candidate>> = BTreeMap::new();
    for (candidate, life) in candidates.iter().zip(lives(candidates)) {
        if !candidate.held && origin.is_none_or(|origin| origin == candidate.origin) {
            lineages
                .entry((&candidate.origin, life))
                .or_default()
                .push(candidate);
        }
    }
    let mut removed: Vec<(&Candidate, Removal)> = Vec::new();
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
            removed.push((candidate, removal(candidate, reason)));
        }
    }
    removed.sort_by(|(one, _), (other, _)| one.order().cmp(&other.order()));
    removed.into_iter().map(|(_, removal)| removal).collect()
}

fn removal(candidate: &Candidate, reason: String) -> Removal {
    Removal {
        name: candidate.name.clone(),
        reason,
        disk_bytes: candidate.disk_bytes,
    }
}

/// The backups to remove to free `shortage_bytes`, oldest first, and not more than necessary. Never removes the two newest
/// verified backups, the newest verified backup of any life of a cluster (backups of a wiped member must not replace those from before),
/// or a held backup. Returns `None` if removing all others would not free enough. `freed_by` returns what removing these
/// backups together frees: backups can share space.
#[must_use]
pub fn removals_for_space(
    candidates: &[Candidate],
    shortage_bytes: u64,
    freed_by: impl Fn(&[&str]) -> u64,
) -> Option<Vec<Removal>> {
    const ALWAYS_KEPT: usize = 2;
    let mut verified: Vec<_> = candidates
        .iter()
        .zip(lives(candidates))
        .filter(|(candidate, _)| candidate.verified && !candidate.held)
        .collect();
    verified.sort_by(|(one, _), (other, _)| other.order().cmp(&one.order()));
    let mut seen = Vec::new();
    let mut protected = Vec::new();
    for (index, (candidate, life)) in verified.iter().enumerate() {
        if index < ALWAYS_KEPT || !seen.contains(life) {
            protected.push(&candidate.name);
        }
        seen.push(*life);
    }
    let mut removable: Vec<_> = candidates
        .iter()
        .filter(|candidate| !candidate.held && !protected.contains(&&candidate.name))
        .collect();
    removable.sort_by(|one, other| one.order().cmp(&other.order()));
    let mut freed_bytes = 0u64;
    let mut names = Vec::new();
    let mut removed = Vec::new();
    for candidate in removable {
        if freed_bytes >= shortage_bytes {
            break;
        }
        names.push(candidate.name.as_str());
        let together_bytes = freed_by(&names);
        removed.push(Removal {
            disk_bytes: together_bytes.saturating_sub(freed_bytes),
            ..removal(candidate, "not enough space on the disk".into())
        });
        freed_bytes = together_bytes;
    }
    (freed_bytes >= shortage_bytes).then_some(removed)
}
