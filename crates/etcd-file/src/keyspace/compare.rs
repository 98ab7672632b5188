//! Two sets of keys in one merge.

use super::key_state::KeyState;
use super::live_keys::LiveKeys;
use crate::failure::report;
use crate::{Failure, Progress};
use std::cmp::Ordering;

/// What happens to a key when one database takes the place of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only the first database has it.
    Vanishes(KeyState),
    /// Only the second database has it.
    Returns(KeyState),
    /// Both have it, with different values.
    Differs {
        /// In the first database.
        from: KeyState,
        /// In the second database.
        to: KeyState,
    },
}

/// Shows what changes if the keys `to` take the place of the keys `from`, in the order of the keys. Returns the number of keys that stay.
///
/// # Errors
/// The scratch file can't be read, or the caller stopped.
pub fn compare(
    from: &mut LiveKeys<'_>,
    to: &mut LiveKeys<'_>,
    on_change: &mut dyn FnMut(Change),
    progress: Progress<'_>,
) -> Result<u64, Failure> {
    let mut unchanged = 0;
    let (mut one, mut other) = (from.next()?, to.next()?);
    loop {
        report(progress, 1)?;
        let order = match (&one, &other) {
            (None, None) => return Ok(unchanged),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.key.cmp(&other.key),
        };
        let (taken, given) = (
            one.take_if(|_| order.is_le()),
            other.take_if(|_| order.is_ge()),
        );
        if order.is_le() {
            one = from.next()?;
        }
        if order.is_ge() {
            other = to.next()?;
        }
        match (taken, given) {
            (Some(key), None) => on_change(Change::Vanishes(key)),
            (None, Some(key)) => on_change(Change::Returns(key)),
            (Some(from), Some(to)) if !from.has_same_value(&to) => {
                on_change(Change::Differs { from, to });
            }
            _ => unchanged += 1,
        }
    }
}
