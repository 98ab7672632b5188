//! What retention promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use backup_plan::retention::{Candidate, Policy, removals, removals_for_space};
use proptest::prelude::*;

fn candidate(
    sequence: u64,
    origin: &str,
    cluster_id: &str,
    verified: bool,
    disk_bytes: u64,
) -> Candidate {
    Candidate {
        name: format!("b{sequence}"),
        sequence,
        origin: origin.into(),
        cluster_id: cluster_id.into(),
        member_id: "m".into(),
        revision: sequence as i64,
        verified,
        held: false,
        disk_bytes,
    }
}

fn names(candidates: &[Candidate], policy: Policy, origin: Option<&str>) -> Vec<String> {
    removals(candidates, policy, origin)
        .into_iter()
        .map(|removal| removal.name)
        .collect()
}

#[test]
fn the_newest_n_are_kept_and_the_oldest_goes_first() {
    let all: Vec<_> = (1..=5)
        .map(|n| candidate(n, "default", "c", true, 10))
        .collect();
    assert_eq!(names(&all, Policy::Number(3), None), ["b1", "b2"]);
    assert_eq!(names(&all, Policy::SizeBytes(25), None), ["b1", "b2", "b3"]);
    assert_eq!(names(&all, Policy::None, None), [""; 0]);
}

#[test]
fn backups_of_a_member_that_began_again_with_nothing_never_replace_those_from_before() {
    // With kubeadm's first manifest, an emptied data directory gives the same ids again.
    let at = |sequence, member_id: &str, revision| Candidate {
        member_id: member_id.into(),
        revision,
        ..candidate(sequence, "default", "c", true, 10)
    };
    let mut all: Vec<_> = (1..=4).map(|n| at(n, "m", 1000 + n as i64)).collect();
    all.extend((5..=9).map(|n| at(n, "m", n as i64)));
    assert_eq!(names(&all, Policy::Number(3), None), ["b1", "b5", "b6"]);
    let kept = removals_for_space(&all, 60, |names| 10 * names.len() as u64).unwrap();
    assert!(kept.iter().all(|removal| removal.name != "b4"), "{kept:?}");
    // Of several members in one directory, one may be behind.
    let all: Vec<_> = (1..=6)
        .map(|n| match n % 2 {
            0 => at(n, "behind", 998 + n as i64),
            _ => at(n, "m", 1000 + n as i64),
        })
        .collect();
    assert_eq!(names(&all, Policy::Number(3), None), ["b1", "b2", "b3"]);
}

#[test]
fn by_size_retention_never_deletes_the_newest() {
    let all = [
        candidate(1, "default", "c", true, 10),
        candidate(2, "default", "c", true, 1 << 40),
    ];
    assert_eq!(names(&all, Policy::SizeBytes(5), None), ["b1"]);
}

#[test]
fn an_unverified_backup_never_pushes_a_verified_one_out() {
    let mut all: Vec<_> = (1..=3)
        .map(|n| candidate(n, "default", "c", true, 10))
        .collect();
    all.extend((4..=9).map(|n| candidate(n, "default", "c", false, 10)));
    assert_eq!(names(&all, Policy::Number(3), None), [""; 0]);
    all.push(candidate(0, "default", "c", false, 10));
    all.push(candidate(10, "default", "c", true, 10));
    assert_eq!(names(&all, Policy::Number(3), None), ["b0", "b1"]);
}

#[test]
fn a_wiped_members_empty_backups_never_push_out_the_old_lineage() {
    let mut all: Vec<_> = (1..=3)
        .map(|n| candidate(n, "default", "old", true, 10))
        .collect();
    all.extend((4..=20).map(|n| candidate(n, "default", "new", true, 1)));
    let gone = names(&all, Policy::Number(3), None);
    assert_eq!(gone.len(), 14);
    assert!(
        !gone
            .iter()
            .any(|name| ["b1", "b2", "b3"].contains(&name.as_str()))
    );
}

#[test]
fn on_demand_backups_and_scheduled_ones_do_not_push_each_other_out() {
    let all = [
        candidate(1, "on-demand", "c", true, 10),
        candidate(2, "default", "c", true, 10),
        candidate(3, "default", "c", true, 10),
    ];
    assert_eq!(names(&all, Policy::Number(1), None), ["b2"]);
    assert_eq!(names(&all, Policy::Number(1), Some("on-demand")), [""; 0]);
}

#[test]
fn a_short_disk_takes_nothing_in_vain_and_never_the_last_of_a_cluster() {
    let mut all: Vec<_> = (1..=3)
        .map(|n| candidate(n, "default", "old", true, 10))
        .collect();
    all.extend((4..=6).map(|n| candidate(n, "default", "new", true, 10)));
    // 1, 2 and 4 may go: 3 is the last of its cluster, 5 and 6 are the two newest.
    assert_eq!(removals_for_space(&all, 31, freed(&all)), None);
    assert_eq!(for_space(&all, 30), ["b1", "b2", "b4"]);
    assert_eq!(for_space(&all, 11), ["b1", "b2"]);
    assert_eq!(for_space(&all, 10), ["b1"]);
    assert_eq!(for_space(&all, 0), [""; 0]);
}

/// Nothing is shared: each frees its own size.
fn freed(all: &[Candidate]) -> impl Fn(&[&str]) -> u64 {
    |names| {
        let gone = all.iter().filter(|one| names.contains(&one.name.as_str()));
        gone.map(|one| one.disk_bytes).sum()
    }
}

#[test]
fn where_all_space_is_shared_nothing_is_removed_for_space() {
    let all: Vec<_> = (1..=6)
        .map(|n| candidate(n, "default", "c", true, 10))
        .collect();
    assert_eq!(removals_for_space(&all, 1, |_| 0), None);
    // Two that share all they have free it together.
    let together = |names: &[&str]| if names.len() < 2 { 0 } else { 10 };
    let gone = removals_for_space(&all, 5, together).unwrap();
    let gone: Vec<_> = gone
        .iter()
        .map(|gone| (gone.name.as_str(), gone.disk_bytes))
        .collect();
    assert_eq!(gone, [("b1", 0), ("b2", 10)]);
}

fn for_space(all: &[Candidate], shortage_bytes: u64) -> Vec<String> {
    let gone = removals_for_space(all, shortage_bytes, freed(all)).unwrap();
    gone.into_iter().map(|removal| removal.name).collect()
}

#[test]
fn what_somebody_holds_goes_for_no_reason_and_counts_toward_no_limit() {
    let mut all: Vec<_> = (1..=6)
        .map(|n| candidate(n, "default", "c", true, 10))
        .collect();
    all[0].held = true;
    all[5].held = true;
    assert_eq!(names(&all, Policy::Number(3), None), ["b2"]);
    assert_eq!(names(&all, Policy::SizeBytes(20), None), ["b2", "b3"]);
    // The two newest of the others stay as well.
    assert_eq!(for_space(&all, 20), ["b2", "b3"]);
    assert_eq!(removals_for_space(&all, 21, freed(&all)), None);
}

#[test]
fn the_largest_sequence_there_is_makes_no_new_backup_an_old_one() {
    let mut all: Vec<_> = (1..=4)
        .map(|n| candidate(u64::MAX, "default", "c", true, n))
        .collect();
    for (number, one) in (1..).zip(&mut all) {
        one.name = format!("b{number}");
    }
    assert_eq!(names(&all, Policy::Number(3), None), ["b1"]);
    assert_eq!(for_space(&all, 1), ["b1"]);
}

proptest! {
    #[test]
    fn newest_verified_backup_of_a_lineage_survives_any_retention(
        kinds in proptest::collection::vec((0..3u8, 0..3u8, any::<bool>(), 0..100u64), 0..40),
        limit in 0..200u64,
        by_size in any::<bool>(),
    ) {
        let all: Vec<_> = (0..).zip(&kinds).map(|(n, (origin, cluster, verified, bytes))| {
            candidate(n, &origin.to_string(), &cluster.to_string(), *verified, *bytes)
        }).collect();
        let policy = if by_size { Policy::SizeBytes(limit) } else { Policy::Number(limit) };
        let gone = names(&all, policy, None);
        for one in all.iter().filter(|one| one.verified) {
            let newest = all.iter().filter(|other| {
                other.verified && other.origin == one.origin && other.cluster_id == one.cluster_id
            }).map(|other| other.sequence).max();
            prop_assert!(newest != Some(one.sequence) || !gone.contains(&one.name));
        }
        // What is left is stable: a second run removes nothing more.
        let left: Vec<_> = all.into_iter().filter(|one| !gone.contains(&one.name)).collect();
        prop_assert_eq!(names(&left, policy, None), Vec::<String>::new());
    }

    #[test]
    fn space_is_never_made_of_the_two_newest_verified_backups(
        kinds in proptest::collection::vec(any::<bool>(), 0..20),
    ) {
        let mut all: Vec<_> = (0..).zip(&kinds)
            .map(|(n, verified)| candidate(n, "default", "c", *verified, 1))
            .collect();
        let verified = all.iter().filter(|one| one.verified).count();
        let may_go = all.len() - verified.min(2);
        let gone = for_space(&all, may_go as u64);
        all.retain(|one| !gone.contains(&one.name));
        prop_assert_eq!(all.len(), verified.min(2));
        prop_assert!(all.iter().all(|one| one.verified));
    }
}
