//! Reading a bucket's elements in key order.

use super::bucket::BucketRoot;
use super::page::{Element, Kind, Page, PageError};
use super::{Bolt, MAX_DEPTH, Value};
use crate::Failure;
use crate::finding::Finding;

/// Why a cursor cannot continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// The file could not be read.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The tree is damaged. [`super::check`] finds all such places.
    #[error("{0}")]
    Damaged(Finding),
}

impl CursorError {
    pub(super) fn on(page: u64, offset_bytes: u64, error: PageError) -> Self {
        match error {
            PageError::Failed(failure) => CursorError::Failed(failure),
            PageError::Damaged(problem) => {
                CursorError::Damaged(Finding::error(problem).on_page(page, offset_bytes))
            }
        }
    }
}

/// Goes through the elements of one bucket in ascending key order, with bounded memory, also on a
/// damaged tree.
pub struct Cursor<'b, 'f> {
    bolt: &'b Bolt<'f>,
    root: BucketRoot,
    /// The page that the bucket's header is on.
    host: u64,
    stack: Vec<Level>,
    spare: Vec<Page>,
    /// Limits the walk: a tree with shared pages could be endless. An intact tree has no more pages than the file.
    pages_left: u64,
}

struct Level {
    page: Page,
    next: u64,
}

/// An element of a bucket.
pub struct Item<'p> {
    /// The key as raw bytes.
    pub key: &'p [u8],
    /// The value. For a nested bucket, its header, and its page if it is an inline bucket.
    pub value: Value<'p>,
    /// Whether the element is a nested bucket.
    pub is_bucket: bool,
    element: Element,
    page: u64,
}

impl<'f> Bolt<'f> {
    /// A cursor at the first top-level bucket.
    pub(super) fn buckets<'b>(&'b self) -> Result<Cursor<'b, 'f>, CursorError> {
        let mut buckets = Cursor::at(self, BucketRoot::Page(self.meta.root), 0);
        buckets.seek(b"")?;
        Ok(buckets)
    }

    /// A cursor at the start of the top-level bucket `name`, if there is one.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn cursor<'b>(&'b self, name: &[u8]) -> Result<Option<Cursor<'b, 'f>>, CursorError> {
        let mut buckets = Cursor::at(self, BucketRoot::Page(self.meta.root), 0);
        buckets.seek(name)?;
        let Some(mut item) = buckets.next()? else {
            return Ok(None);
        };
        if item.key != name || !item.is_bucket {
            return Ok(None);
        }
        let host = item.page;
        let root = BucketRoot::parse(self, &item.element, &mut item.value)
            .map_err(|error| CursorError::on(host, self.offset_of(host), error))?;
        let mut cursor = Cursor::at(self, root, host);
        cursor.seek(b"")?;
        Ok(Some(cursor))
    }
}

impl<'b, 'f: 'b> Cursor<'b, 'f> {
    fn at(bolt: &'b Bolt<'f>, root: BucketRoot, host: u64) -> Self {
        Cursor {
            bolt,
            root,
            host,
            stack: Vec::new(),
            spare: Vec::new(),
            pages_left: 0,
        }
    }

    /// Goes to the first element whose key is `key` or greater.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), CursorError> {
        self.spare
            .extend(self.stack.drain(..).map(|level| level.page));
        self.pages_left = self.bolt.meta.high_water_mark;
        let mut from = Some(self.root);
        while let Some(root) = from.take() {
            let mut page = self.load(root)?;
            let (id, start) = (page.id, page.start);
            let (next, child) = self
                .position(&mut page, key)
                .map_err(|error| CursorError::on(id, start, error))?;
            self.stack.push(Level { page, next });
            from = child.map(BucketRoot::Page);
        }
        Ok(())
    }

    /// The next element, or nothing at the end of the bucket.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    // Not an iterator: the returned element borrows a page that the next call may replace.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Item<'_>>, CursorError> {
        loop {
            let Some(level) = self.stack.last_mut() else {
                return Ok(None);
            };
            if level.next >= level.page.count {
                self.spare.extend(self.stack.pop().map(|level| level.page));
                continue;
            }
            if level.page.kind == Some(Kind::Leaf) {
                break;
            }
            let (id, start) = (level.page.id, level.page.start);
            let element = level
                .page
                .element(self.bolt, level.next)
                .map_err(|error| CursorError::on(id, start, error))?;
            level.next += 1;
            let page = self.load(BucketRoot::Page(element.child))?;
            self.stack.push(Level { page, next: 0 });
        }
        let bolt = self.bolt;
        let Some(Level { page, next }) = self.stack.last_mut() else {
            return Ok(None);
        };
        let (id, start, index) = (page.id, page.start, *next);
        *next += 1;
        let on_page = |error| CursorError::on(id, start, error);
        let element = page.element(bolt, index).map_err(on_page)?;
        let (key, value) = page.key_and_value(bolt, &element).map_err(on_page)?;
        Ok(Some(Item {
            key,
            value,
            is_bucket: element.is_bucket,
            element,
            page: id,
        }))
    }

    fn load(&mut self, root: BucketRoot) -> Result<Page, CursorError> {
        let id = match root {
            BucketRoot::Page(id) => id,
            BucketRoot::Inline { .. } => self.host,
        };
        let offset_bytes = self.bolt.offset_of(id);
        let damaged =
            |problem: String| CursorError::on(id, offset_bytes, PageError::Damaged(problem));
        if self.stack.len() >= MAX_DEPTH {
            return Err(damaged(format!(
                "the tree is deeper than {MAX_DEPTH} pages"
            )));
        }
        if !(2..self.bolt.meta.high_water_mark).contains(&id) {
            return Err(damaged(format!(
                "a tree refers to this page, expected a page from 2 to below the high-water mark {}",
                self.bolt.meta.high_water_mark
            )));
        }
        let Some(pages_left) = self.pages_left.checked_sub(1) else {
            return Err(damaged("the tree has more pages than the file".into()));
        };
        self.pages_left = pages_left;
        let mut page = self.spare.pop().unwrap_or_default();
        root.load(self.bolt, &mut page, self.host)
            .map_err(|error| CursorError::on(id, offset_bytes, error))?;
        Ok(page)
    }

    /// The index of the next element after a seek. On a branch page, also the child page to continue with.
    fn position(&self, page: &mut Page, key: &[u8]) -> Result<(u64, Option<u64>), PageError> {
        // The first element whose key is greater (branch) or not less (leaf) than `key`.
        let branch = page.kind == Some(Kind::Branch);
        let (mut low, mut high) = (0, page.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let element = page.element(self.bolt, middle)?;
            let (found, _) = page.key_and_value(self.bolt, &element)?;
            if found < key || branch && found == key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if !branch {
            return Ok((low, None));
        }
        let index = low.saturating_sub(1);
        let child = page.element(self.bolt, index)?.child;
        Ok((index + 1, Some(child)))
    }
}
