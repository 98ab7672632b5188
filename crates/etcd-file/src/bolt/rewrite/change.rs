//! Changing top-level buckets.

use super::error::{MAX_BYTES, RewriteError, Rewritten};
use super::pages::{Leaf, NewPages};
use super::spine;
use crate::bolt::Bolt;
use std::collections::BTreeMap;

/// A small bucket.
pub type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// An element of the root: the value of a bucket is its header, and its page if it is inline.
struct RootElement {
    value: Vec<u8>,
    is_bucket: bool,
}

/// A change of a database that is not written yet.
pub struct Rewrite<'b, 'f> {
    bolt: &'b Bolt<'f>,
    root: BTreeMap<Vec<u8>, RootElement>,
    new: NewPages,
}

impl<'b, 'f> Rewrite<'b, 'f> {
    /// Begins a change.
    ///
    /// # Errors
    /// The list of buckets can't be read.
    pub fn of(bolt: &'b Bolt<'f>) -> Result<Self, RewriteError> {
        let mut root = BTreeMap::new();
        let mut buckets = bolt.buckets()?;
        let mut read_bytes = 0;
        while let Some(mut item) = buckets.next()? {
            read_bytes += item.key.len() as u64 + item.value.len();
            if read_bytes > MAX_BYTES {
                return Err(RewriteError::TooLarge {
                    what: "the list of buckets".into(),
                });
            }
            let mut value = Vec::new();
            let len = item.value.len();
            item.value
                .pieces(0, len, |piece| value.extend_from_slice(piece))?;
            let element = RootElement {
                value,
                is_bucket: item.is_bucket,
            };
            root.insert(item.key.to_vec(), element);
        }
        Ok(Rewrite {
            bolt,
            root,
            new: NewPages::after(bolt.meta()),
        })
    }

    /// Whether the database has a top-level bucket of this name.
    #[must_use]
    pub fn has_bucket(&self, name: &[u8]) -> bool {
        self.root.get(name).is_some_and(|element| element.is_bucket)
    }

    /// All elements of a small top-level bucket, as the file has them; none if there is no such bucket.
    ///
    /// # Errors
    /// It can't be read, or is not small.
    pub fn read(&self, name: &[u8]) -> Result<Entries, RewriteError> {
        let mut entries = Entries::new();
        let Some(mut cursor) = self.bolt.cursor(name)? else {
            return Ok(entries);
        };
        let mut read_bytes = 0;
        while let Some(mut item) = cursor.next()? {
            read_bytes += item.key.len() as u64 + item.value.len();
            if read_bytes > MAX_BYTES {
                return Err(RewriteError::TooLarge {
                    what: name_of(name),
                });
            }
            let mut value = Vec::new();
            let len = item.value.len();
            item.value
                .pieces(0, len, |piece| value.extend_from_slice(piece))?;
            entries.insert(item.key.to_vec(), value);
        }
        Ok(entries)
    }

    /// The last key of a top-level bucket of any size.
    ///
    /// # Errors
    /// The bucket can't be read.
    pub fn last_key(&self, name: &[u8]) -> Result<Option<Vec<u8>>, RewriteError> {
        match self.page_of(name)? {
            Some(root) => spine::last_key(self.bolt, root),
            None => Ok(self.read(name)?.pop_last().map(|(key, _)| key)),
        }
    }

    /// Replaces the content of a top-level bucket, or creates it.
    ///
    /// # Errors
    /// A key that bbolt refuses, or too many pages.
    pub fn replace(&mut self, name: &[u8], entries: Entries) -> Result<(), RewriteError> {
        let leaves: Vec<_> = entries
            .into_iter()
            .map(|(key, value)| Leaf {
                key,
                value,
                is_bucket: false,
            })
            .collect();
        let sequence = self.sequence(name);
        let value = self.new.bucket(&leaves, sequence)?;
        self.set(name, value);
        Ok(())
    }

    /// Adds an element after all others of a top-level bucket, which may have any size. Reads and writes only the pages from the
    /// root to the last leaf, and not that leaf itself: the element has a new one.
    ///
    /// # Errors
    /// The bucket can't be read, or has an equal or greater key.
    pub fn append(&mut self, name: &[u8], key: &[u8], value: &[u8]) -> Result<(), RewriteError> {
        let Some(root) = self.page_of(name)? else {
            let mut entries = self.read(name)?;
            if entries
                .last_key_value()
                .is_some_and(|(last, _)| &**last >= key)
            {
                return Err(RewriteError::NotLast {
                    bucket: name_of(name),
                });
            }
            entries.insert(key.to_vec(), value.to_vec());
            return self.replace(name, entries);
        };
        let leaf = Leaf {
            key: key.to_vec(),
            value: value.to_vec(),
            is_bucket: false,
        };
        let root = spine::append(self.bolt, &mut self.new, root, leaf)
            .map_err(|error| error.in_bucket(name))?;
        let sequence = self.sequence(name);
        let header = self.new.header(root, sequence);
        self.set(name, header);
        Ok(())
    }

    /// The pages and metas of the changed database.
    ///
    /// # Errors
    /// Too many pages, or a transaction id that can't grow.
    pub fn finish(mut self) -> Result<Rewritten, RewriteError> {
        let elements: Vec<_> = std::mem::take(&mut self.root)
            .into_iter()
            .map(|(key, element)| Leaf {
                key,
                value: element.value,
                is_bucket: element.is_bucket,
            })
            .collect();
        let root = self.new.tree(&elements)?;
        self.new.finish(root, self.bolt.meta())
    }

    fn set(&mut self, name: &[u8], value: Vec<u8>) {
        let element = RootElement {
            value,
            is_bucket: true,
        };
        self.root.insert(name.to_vec(), element);
    }

    /// The number that is kept beside the root page. etcd does not use it.
    fn sequence(&self, name: &[u8]) -> u64 {
        let order = self.bolt.meta().byte_order;
        self.root
            .get(name)
            .and_then(|element| order.u64_at(&element.value, 8))
            .unwrap_or_default()
    }

    /// The first page of a bucket; nothing if there is no such bucket, or it is inline.
    fn page_of(&self, name: &[u8]) -> Result<Option<u64>, RewriteError> {
        let order = self.bolt.meta().byte_order;
        let element = self.root.get(name).filter(|element| element.is_bucket);
        let page = element.and_then(|element| order.u64_at(&element.value, 0));
        Ok(page.filter(|page| *page != 0))
    }
}

fn name_of(bucket: &[u8]) -> String {
    format!("bucket {}", crate::finding::printable(bucket))
}

impl RewriteError {
    fn in_bucket(self, name: &[u8]) -> Self {
        match self {
            RewriteError::NotLast { .. } => RewriteError::NotLast {
                bucket: name_of(name),
            },
            other => other,
        }
    }
}
