//! In which order the members of a cluster take their backups: one at a time, best effort, with no
//! coordinator. Each member knows the voters, and so its own place.

use std::time::Duration;

/// A member never waits longer for its place than this, times the voters before it.
const LONGEST_SLOT: Duration = Duration::from_secs(60);

/// How long after the due time a member starts: by rank among the voters' ids, the leader last.
///
/// A member that is no voter, or knows no voters, starts at once.
#[must_use]
pub fn delay(voters: &[u64], member: u64, leader: u64, period: Duration) -> Duration {
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
    let slot = (period / count.max(1)).min(LONGEST_SLOT);
    slot * rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_take_turns_and_the_leader_is_last() {
        let voters = [30, 10, 20];
        let five_minutes = Duration::from_secs(300);
        let delays =
            |leader| voters.map(|member| delay(&voters, member, leader, five_minutes).as_secs());
        assert_eq!(delays(30), [120, 0, 60]);
        assert_eq!(delays(10), [60, 120, 0]);
        assert_eq!(delays(0), [120, 0, 60]);
    }

    #[test]
    fn slots_fit_in_the_period() {
        let ten_seconds = Duration::from_secs(10);
        assert_eq!(delay(&[1, 2, 3, 4, 5], 4, 9, ten_seconds).as_secs(), 6);
        assert_eq!(delay(&[1], 1, 1, ten_seconds), Duration::ZERO);
        assert_eq!(delay(&[], 1, 1, ten_seconds), Duration::ZERO);
        assert_eq!(delay(&[1, 2], 7, 1, ten_seconds), Duration::ZERO);
    }
}
