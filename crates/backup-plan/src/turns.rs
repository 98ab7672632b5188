//! The order in which the members of a cluster make their backups: one at a time, best effort, without a
//! coordinator. Each member knows the voters and so its own place in the order.

use std::time::Duration;

/// The time for a run with a small database, including its verification and a margin.
const SHORTEST_SLOT: Duration = Duration::from_secs(3);
/// The longest turn of one member.
const LONGEST_SLOT: Duration = Duration::from_secs(60);
/// The speed of a slow disk.
const BYTES_PER_S: u64 = 32 << 20;

/// The length of a member's turn, by the size of its database. The size is rounded up to a power of two, because the databases
/// of the members differ a little and all members should get the same result.
#[must_use]
pub fn slot(db_bytes: u64) -> Duration {
    let rounded = db_bytes.checked_next_power_of_two().unwrap_or(u64::MAX);
    Duration::from_secs(rounded / BYTES_PER_S).clamp(SHORTEST_SLOT, LONGEST_SLOT)
}

/// How long after the due time a member starts: by rank among the voters' ids, the leader last. `db_bytes` is the size of its
/// database.
///
/// A member that is not a voter, or knows no voters, starts at once.
#[must_use]
pub fn delay(
    voters: &[u64],
    member: u64,
    leader: u64,
    db_bytes: u64,
    period: Duration,
) -> Duration {
    let mut order: Vec<_> = voters.to_vec();
    order.sort_unstable_by_key(|voter| (*voter == leader, *voter));
    order.dedup();
    let Ok(count) = u32::try_from(order.len()) else {
        return Duration::ZERO;
    };
    let rank = order
        .iter()
        .position(|voter| *voter == member)
        .and_then(|rank| u32::try_from(rank).ok())
        .unwrap_or(0);
    (period / count.max(1)).min(slot(db_bytes)) * rank
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = 8 << 30;

    #[test]
    fn members_take_turns_and_the_leader_is_last() {
        let voters = [30, 10, 20];
        let five_minutes = Duration::from_secs(300);
        let delays = |leader| {
            voters.map(|member| delay(&voters, member, leader, LARGE, five_minutes).as_secs())
        };
        assert_eq!(delays(30), [120, 0, 60]);
        assert_eq!(delays(10), [60, 120, 0]);
        assert_eq!(delays(0), [120, 0, 60]);
    }

    #[test]
    fn slots_fit_in_the_period() {
        let ten_seconds = Duration::from_secs(10);
        assert_eq!(
            delay(&[1, 2, 3, 4, 5], 4, 9, LARGE, ten_seconds).as_secs(),
            6
        );
        for (voters, member) in [(&[1][..], 1), (&[], 1), (&[1, 2], 7)] {
            let delay = delay(voters, member, 1, LARGE, ten_seconds);
            assert_eq!(delay, Duration::ZERO);
        }
    }

    #[test]
    fn a_turn_is_as_long_as_the_database_is_large_and_the_same_for_all_members() {
        for (mib, seconds) in [(0, 3), (20, 3), (100, 4), (300, 16), (500, 16), (2000, 60)] {
            assert_eq!(slot(mib << 20).as_secs(), seconds, "{mib} MiB");
        }
        assert_eq!(slot(u64::MAX).as_secs(), 60);
    }
}
