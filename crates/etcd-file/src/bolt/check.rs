//! The structural check: everything that `bbolt check` checks, and damage that a hostile file could hide from it.
//!
//! One iterative walk over the tree of the valid meta with the higher transaction id. A bitmap with one bit per page
//! detects cycles, shared pages and overlapping overflow before they are followed, so the work is bounded by the
//! high-water mark. The other meta's tree is never walked: in a file cloned from a live member it may be partly overwritten.

use super::bitmap::Bitmap;
use super::bucket::BucketRoot;
use super::freelist::{self, Freelist};
use super::page::{Element, Kind, Page, PageError};
use super::{Bolt, MAX_DEPTH, MAX_KEY_BYTES, Value};
use crate::failure::report;
use crate::finding::{Finding, Findings};
use crate::{Failure, Progress};

/// Receives every element of every top-level bucket while the structure is checked.
///
/// Elements come in the order of the tree, which is key order in an intact file. After the first error in
/// the findings, a visitor may not receive all elements.
pub trait Visitor {
    /// A top-level bucket starts.
    fn bucket(&mut self, name: &[u8]);

    /// The next element of the bucket that started last.
    ///
    /// # Errors
    /// Why the walk must end early.
    fn entry(&mut self, entry: Entry<'_>) -> Result<(), Failure>;
}

/// An element of a top-level bucket.
pub struct Entry<'a> {
    /// The key as raw bytes. Never empty, and at most twice [`MAX_KEY_BYTES`].
    pub key: &'a [u8],
    /// Whether it is a nested bucket.
    pub is_bucket: bool,
    /// The value. Empty for a nested bucket, as in bbolt's own cursor.
    pub value: Value<'a>,
    /// The page of the element. For an inline bucket, the page that contains the bucket.
    pub page: u64,
    /// Offset of the key in the file, in bytes.
    pub offset_bytes: u64,
}

/// The numbers of the structural check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of pages that the trees use, including overflow pages.
    pub tree_pages: u64,
    /// Number of top-level buckets.
    pub buckets: u64,
}

/// Checks the structure of `bolt`, and passes its elements to `visitor`.
///
/// # Errors
/// Why the walk ended early. Damage is not an error but a finding.
pub fn check(
    bolt: &Bolt<'_>,
    visitor: &mut dyn Visitor,
    findings: &mut Findings,
    progress: Progress<'_>,
) -> Result<Report, Failure> {
    let mut walk = Walk {
        bolt,
        findings,
        visited: Bitmap::new(bolt.meta.high_water_mark),
        freelist: None,
        stack: Vec::new(),
        buckets: Vec::new(),
        spare: Vec::new(),
        report: Report::default(),
    };
    walk.check_meta_headers();
    walk.read_freelist()?;
    walk.enter_bucket(b"", BucketRoot::Page(bolt.meta.root), 0)?;
    while !walk.stack.is_empty() {
        let before = walk.report.tree_pages;
        walk.step(visitor)?;
        let pages = walk.report.tree_pages - before;
        if pages > 0 {
            report(progress, pages * u64::from(bolt.meta.page_size))?;
        }
    }
    walk.check_all_accounted_for();
    Ok(walk.report)
}

struct Walk<'w, 'f> {
    bolt: &'w Bolt<'f>,
    findings: &'w mut Findings,
    visited: Bitmap,
    freelist: Option<Freelist>,
    stack: Vec<Level>,
    buckets: Vec<OpenBucket>,
    spare: Vec<Page>,
    report: Report,
}

/// A page on the path from the root to the current element.
struct Level {
    page: Page,
    next: u64,
    /// Whether it is the first page of its bucket.
    starts_bucket: bool,
    /// End of the data of the elements so far. In a file that bbolt wrote there are no gaps between elements.
    data_end: u64,
    packed: bool,
}

/// A bucket on the path from the root to the current element.
struct OpenBucket {
    name: Vec<u8>,
    /// The last key. No later key may be less.
    bound: Vec<u8>,
    /// Whether the next key may equal `bound`: the first key of a child page equals its key in the parent page.
    may_equal: bool,
    /// Depth of the bucket's leaf pages, as the first of them shows.
    leaf_depth: Option<usize>,
    /// Index in the stack of the bucket's first page.
    base: usize,
}

impl<'f> Walk<'_, 'f> {
    fn check_meta_headers(&mut self) {
        for (page, meta) in (0..).zip(self.bolt.metas) {
            let Ok(meta) = meta else { continue };
            const META: u16 = 0x04;
            if meta.header_id != page || meta.header_flags != META {
                self.findings.push(
                    Finding::error(format!(
                        "the page header says page {} and type {:#06x}, expected page {page} and type {META:#06x} (meta)",
                        meta.header_id, meta.header_flags
                    ))
                    .on_page(page, self.bolt.offset_of(page)),
                );
            }
        }
    }

    fn read_freelist(&mut self) -> Result<(), Failure> {
        self.visited.insert(0);
        self.visited.insert(1);
        let Some(page) = self.bolt.meta.freelist else {
            return Ok(());
        };
        match freelist::read(self.bolt, page, self.findings) {
            Ok(list) => {
                for own in list.first_page..list.first_page + list.pages {
                    self.visited.insert(own);
                    if list.free.contains(own) {
                        self.findings.push(
                            Finding::error(
                                "the free list contains this page, but the free list itself is stored on it",
                            )
                            .on_page(own, self.bolt.offset_of(own)),
                        );
                    }
                }
                self.freelist = Some(list);
                Ok(())
            }
            Err(error) => self.report_error(page, error),
        }
    }

    /// Adds a page error to the findings, or ends the walk if the file cannot be read.
    fn report_error(&mut self, page: u64, error: PageError) -> Result<(), Failure> {
        match error {
            PageError::Failed(failure) => Err(failure),
            PageError::Damaged(problem) => {
                let finding = Finding::error(problem).on_page(page, self.bolt.offset_of(page));
                self.push(finding);
                Ok(())
            }
        }
    }

    fn push(&mut self, finding: Finding) {
        let finding = match self.bucket_name() {
            Some(name) => finding.in_bucket(name),
            None => finding,
        };
        self.findings.push(finding);
    }

    /// The name of the innermost bucket with one: the root bucket has none.
    fn bucket_name(&self) -> Option<&[u8]> {
        let bucket = self.buckets.last()?;
        (!bucket.name.is_empty()).then_some(bucket.name.as_slice())
    }

    fn enter_bucket(&mut self, name: &[u8], root: BucketRoot, host: u64) -> Result<(), Failure> {
        self.buckets.push(OpenBucket {
            name: name.to_vec(),
            bound: Vec::new(),
            may_equal: false,
            leaf_depth: None,
            base: self.stack.len(),
        });
        if !self.enter_page(root, host, true)? {
            self.buckets.pop();
        }
        Ok(())
    }

    /// Puts a page on the stack, unless it cannot be read or was already visited.
    fn enter_page(
        &mut self,
        root: BucketRoot,
        host: u64,
        starts_bucket: bool,
    ) -> Result<bool, Failure> {
        let id = match root {
            BucketRoot::Page(id) => id,
            BucketRoot::Inline { .. } => host,
        };
        if self.stack.len() >= MAX_DEPTH {
            self.report_error(
                id,
                PageError::Damaged(format!("the tree is deeper than {MAX_DEPTH} pages")),
            )?;
            return Ok(false);
        }
        if let BucketRoot::Page(_) = root
            && !self.may_visit(id)?
        {
            return Ok(false);
        }
        let mut page = self.spare.pop().unwrap_or_default();
        if let Err(error) = root.load(self.bolt, &mut page, host) {
            self.report_error(id, error)?;
            self.spare.push(page);
            return Ok(false);
        }
        if let BucketRoot::Page(_) = root {
            self.mark(id, page.overflow)?;
        }
        self.stack.push(Level {
            next: 0,
            starts_bucket,
            data_end: page.data_start(),
            packed: true,
            page,
        });
        self.check_depth(id);
        Ok(true)
    }

    fn may_visit(&mut self, id: u64) -> Result<bool, Failure> {
        let high_water_mark = self.bolt.meta.high_water_mark;
        if !(2..high_water_mark).contains(&id) {
            self.report_error(
                id,
                PageError::Damaged(format!(
                    "a tree refers to this page, expected a page from 2 to below the high-water mark {high_water_mark}"
                )),
            )?;
            return Ok(false);
        }
        if self.visited.contains(id) {
            self.report_error(
                id,
                PageError::Damaged("a tree refers to this page more than once".into()),
            )?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Marks a page and its overflow as used.
    fn mark(&mut self, id: u64, overflow: u32) -> Result<(), Failure> {
        for used in id..=id + u64::from(overflow) {
            self.report.tree_pages += 1;
            if !self.visited.insert(used) {
                let problem =
                    format!("this is an overflow page of page {id}, but it is also used elsewhere");
                self.report_error(used, PageError::Damaged(problem))?;
            }
            if self
                .freelist
                .as_ref()
                .is_some_and(|list| list.free.contains(used))
            {
                let problem = "the free list contains this page, but a tree uses it".into();
                self.report_error(used, PageError::Damaged(problem))?;
            }
        }
        Ok(())
    }

    fn check_depth(&mut self, id: u64) {
        let depth = self.stack.len();
        let (Some(level), Some(bucket)) = (self.stack.last(), self.buckets.last_mut()) else {
            return;
        };
        if level.page.kind != Some(Kind::Leaf) {
            return;
        }
        let depth = depth - bucket.base;
        let expected = *bucket.leaf_depth.get_or_insert(depth);
        if depth != expected {
            let offset = self.bolt.offset_of(id);
            let problem =
                format!("this leaf page is at depth {depth}, the others are at depth {expected}");
            self.push(Finding::error(problem).as_warning().on_page(id, offset));
        }
    }

    /// Continues the walk by one element.
    fn step(&mut self, visitor: &mut dyn Visitor) -> Result<(), Failure> {
        let Some(mut level) = self.stack.pop() else {
            return Ok(());
        };
        if level.next >= level.page.count {
            if level.starts_bucket {
                self.buckets.pop();
            }
            self.spare.push(level.page);
            return Ok(());
        }
        if level.page.kind == Some(Kind::Branch) {
            return self.step_branch(level);
        }
        // A leaf page without nested buckets is checked in one step.
        while level.next < level.page.count {
            if let Some((name, root)) = self.leaf_element(&mut level, visitor)? {
                let host = level.page.id;
                self.stack.push(level);
                return self.enter_bucket(&name, root, host);
            }
        }
        self.stack.push(level);
        Ok(())
    }

    fn step_branch(&mut self, mut level: Level) -> Result<(), Failure> {
        let (id, index) = (level.page.id, level.next);
        level.next += 1;
        let child = match level.page.element(self.bolt, index) {
            Ok(element) => match level.page.key_and_value(self.bolt, &element) {
                Ok((key, _)) => {
                    self.check_order(id, element.key_at, index, key);
                    if let Some(bucket) = self.buckets.last_mut() {
                        bucket.may_equal = true;
                    }
                    self.check_packed(&mut level, &element);
                    Some(element.child)
                }
                Err(error) => {
                    self.report_error(id, error)?;
                    None
                }
            },
            Err(error) => {
                self.report_error(id, error)?;
                None
            }
        };
        self.stack.push(level);
        if let Some(child) = child {
            self.enter_page(BucketRoot::Page(child), id, false)?;
        }
        Ok(())
    }

    /// Checks one leaf element and passes it to the visitor. Returns the nested bucket to enter, if it is one.
    fn leaf_element(
        &mut self,
        level: &mut Level,
        visitor: &mut dyn Visitor,
    ) -> Result<Option<(Vec<u8>, BucketRoot)>, Failure> {
        let (id, index) = (level.page.id, level.next);
        level.next += 1;
        let element = match level.page.element(self.bolt, index) {
            Ok(element) => element,
            Err(error) => {
                self.report_error(id, error)?;
                return Ok(None);
            }
        };
        if !self.check_packed(level, &element) {
            return Ok(None);
        }
        if element.is_bucket && level.page.inline {
            let problem = format!("element {index}: a bucket inside an inline bucket");
            self.report_error(id, PageError::Damaged(problem))?;
            return Ok(None);
        }
        let (key, mut value) = match level.page.key_and_value(self.bolt, &element) {
            Ok(both) => both,
            Err(error) => {
                self.report_error(id, error)?;
                return Ok(None);
            }
        };
        self.check_order(id, element.key_at, index, key);
        let bucket_depth = self.buckets.len();
        let root = if element.is_bucket {
            match BucketRoot::parse(self.bolt, &element, &mut value) {
                Ok(root) => Some((key.to_vec(), root)),
                Err(error) => {
                    self.report_error(id, error)?;
                    return Ok(None);
                }
            }
        } else {
            None
        };
        match (bucket_depth, &root) {
            (1, Some(_)) => {
                self.report.buckets += 1;
                visitor.bucket(key);
            }
            (1, None) => {
                let problem = format!("element {index}: a value where only buckets are allowed");
                self.push(Finding::error(problem).on_page(id, element.key_at));
            }
            (2, _) => {
                let entry = Entry {
                    key,
                    is_bucket: root.is_some(),
                    value: if root.is_some() {
                        Value::whole(b"")
                    } else {
                        value
                    },
                    page: id,
                    offset_bytes: element.key_at,
                };
                visitor.entry(entry)?;
            }
            _ => {}
        }
        Ok(root)
    }

    /// Reports gaps and overlaps between the elements' data. Returns false for an overlap: if overlaps were followed,
    /// the work on a page would not be bounded by its size.
    fn check_packed(&mut self, level: &mut Level, element: &Element) -> bool {
        let overlaps = element.key_at < level.data_end;
        if element.key_at != level.data_end && (overlaps || level.packed) {
            level.packed = false;
            let finding = Finding::error(format!(
                "element {}: its data starts at offset {}, but the element before it ends at {}",
                level.next - 1,
                element.key_at,
                level.data_end
            ));
            let finding = if overlaps {
                finding
            } else {
                finding.as_warning()
            };
            self.push(finding.on_page(level.page.id, level.page.start));
        }
        level.data_end = level.data_end.max(element.end());
        !overlaps
    }

    fn check_order(&mut self, page: u64, key_at: u64, index: u64, key: &[u8]) {
        let Some(bucket) = self.buckets.last_mut() else {
            return;
        };
        // The first key of a page may equal its key in the parent page.
        let may_equal = bucket.may_equal && index == 0;
        let unordered = match key.cmp(bucket.bound.as_slice()) {
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => !may_equal,
            std::cmp::Ordering::Less => true,
        };
        let differs_from_parent = may_equal && key > bucket.bound.as_slice();
        bucket.may_equal = false;
        if !unordered {
            bucket.bound.clear();
            bucket.bound.extend_from_slice(key);
        }
        let finding = if unordered {
            Finding::error(format!(
                "element {index}: its key is not greater than the key before it"
            ))
        } else if differs_from_parent {
            Finding::error(format!(
                "element {index}: its key is greater than its key in the parent page"
            ))
            .as_warning()
        } else if key.len() > MAX_KEY_BYTES as usize {
            Finding::error(format!(
                "element {index}: its key has {} bytes, expected at most {MAX_KEY_BYTES}",
                key.len()
            ))
            .as_warning()
        } else {
            return;
        };
        self.push(finding.on_page(page, key_at));
    }

    /// With a stored free list every page must be used or free. Without one, every page that is not used is free.
    fn check_all_accounted_for(&mut self) {
        let Some(list) = &self.freelist else {
            return;
        };
        for page in 2..self.bolt.meta.high_water_mark {
            if !self.visited.contains(page) && !list.free.contains(page) {
                self.findings.push(
                    Finding::error("no tree uses this page, and the free list does not contain it")
                        .on_page(page, self.bolt.offset_of(page)),
                );
            }
        }
    }
}
