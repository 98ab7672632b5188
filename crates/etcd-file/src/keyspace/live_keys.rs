//! Keys in order: those of a database, and over them what a log changed.

use super::Replayed;
use super::key_state::{KeyState, key_of};
use super::replay::Changed;
use super::sorted::{SortedKeys, SortedReader};
use crate::Failure;
use std::collections::btree_map::Range;
use std::iter::Peekable;

/// Goes through keys in their order.
pub struct LiveKeys<'k> {
    base: SortedReader<'k>,
    changed: Peekable<Range<'k, Vec<u8>, Option<Changed>>>,
}

impl<'k> LiveKeys<'k> {
    /// All keys of a database, as a log left them.
    #[must_use]
    pub fn of(base: &'k SortedKeys, log: &'k Replayed) -> Self {
        LiveKeys {
            base: base.reader(),
            changed: log.changed.range::<[u8], _>(..).peekable(),
        }
    }

    /// The next key.
    ///
    /// # Errors
    /// The scratch file can't be read.
    // Not an iterator: it can fail, and nothing follows a failure.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<KeyState>, Failure> {
        loop {
            let Some(record) = self.base.peek()? else {
                match self.changed.next() {
                    None => return Ok(None),
                    Some((_, None)) => continue,
                    Some((key, Some(changed))) => return Ok(Some(changed.state(key))),
                }
            };
            let key = key_of(record);
            let is_stored = |changed: &(&Vec<u8>, _)| changed.0.as_slice() <= key;
            let Some((changed_key, changed)) = self.changed.next_if(is_stored) else {
                return self.base.next()?.map(KeyState::decode).transpose();
            };
            if changed_key == key {
                self.base.next()?;
            }
            if let Some(changed) = changed {
                return Ok(Some(changed.state(changed_key)));
            }
        }
    }
}
