//! Which parts of a file no page in use is in: bbolt keeps the pages that it frees, and writes them again later.

use super::bitmap::Bitmap;
use super::bucket::BucketRoot;
use super::page::{Kind, Page, PageError, PageHeader};
use super::{Bolt, CursorError, MAX_DEPTH};
use crate::Failure;
use std::ops::Range;

const HEADER_BYTES: usize = 16;

/// The blocks of `block_bytes` in which no page is in use, as offsets in the file, adjoining ones together. What is behind the
/// high-water mark is not among them.
///
/// # Errors
/// The file can't be read, or is damaged.
pub fn unused_blocks(bolt: &Bolt<'_>, block_bytes: u64) -> Result<Vec<Range<u64>>, CursorError> {
    let page_size = u64::from(bolt.meta.page_size);
    let end = bolt.logical_bytes();
    let block_bytes = block_bytes.max(page_size);
    let mut used = Used {
        bolt,
        blocks: Bitmap::new(end.div_ceil(block_bytes)),
        block_bytes,
        entered: Bitmap::new(bolt.meta.high_water_mark),
    };
    used.mark(0, 2 * page_size);
    if let Some(id) = bolt.meta.freelist {
        let start = bolt.offset_of(id);
        let mut header = [0; HEADER_BYTES];
        bolt.file
            .read_exact_at(&mut header, start)
            .map_err(Failure::read(start))?;
        let header = PageHeader::parse(bolt.meta.byte_order, &header);
        let pages = header.map_or(0, |header| u64::from(header.overflow)) + 1;
        used.mark(start, start.saturating_add(pages * page_size).min(end));
    }
    used.walk()?;
    let mut unused: Vec<Range<u64>> = Vec::new();
    // The last block may be shorter.
    for block in (0..end.div_ceil(block_bytes)).filter(|block| !used.blocks.contains(*block)) {
        let place = block * block_bytes..((block + 1) * block_bytes).min(end);
        match unused.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            _ => unused.push(place),
        }
    }
    Ok(unused)
}

struct Used<'b, 'f> {
    bolt: &'b Bolt<'f>,
    blocks: Bitmap,
    block_bytes: u64,
    entered: Bitmap,
}

impl Used<'_, '_> {
    fn mark(&mut self, start: u64, end: u64) {
        for block in start / self.block_bytes..end.div_ceil(self.block_bytes) {
            self.blocks.insert(block);
        }
    }

    /// Goes through the trees of all buckets.
    fn walk(&mut self) -> Result<(), CursorError> {
        let bolt = self.bolt;
        // For each page on the path, its children that are still to be entered, the next one last.
        let mut waiting: Vec<Vec<BucketRoot>> = vec![vec![BucketRoot::Page(bolt.meta.root)]];
        let mut hosts: Vec<u64> = vec![0];
        let mut page = Page::default();
        while let Some(children) = waiting.last_mut() {
            let Some(child) = children.pop() else {
                waiting.pop();
                hosts.pop();
                continue;
            };
            let host = hosts.last().copied().unwrap_or_default();
            let id = match child {
                BucketRoot::Page(id) => id,
                BucketRoot::Inline { .. } => host,
            };
            let on_page = |error| CursorError::on(id, bolt.offset_of(id), error);
            let damaged = |problem: &str| on_page(PageError::Damaged(problem.into()));
            if waiting.len() > MAX_DEPTH {
                return Err(damaged("the tree is too deep"));
            }
            if let BucketRoot::Page(id) = child
                && (!(2..bolt.meta.high_water_mark).contains(&id) || !self.entered.insert(id))
            {
                return Err(damaged("a tree refers to this page, which is not possible"));
            }
            child.load(bolt, &mut page, host).map_err(on_page)?;
            self.mark(page.start, page.end);
            let mut below = Vec::new();
            for index in 0..page.count {
                let element = page.element(bolt, index).map_err(on_page)?;
                if page.kind == Some(Kind::Branch) {
                    below.push(BucketRoot::Page(element.child));
                } else if element.is_bucket {
                    let (_, mut value) = page.key_and_value(bolt, &element).map_err(on_page)?;
                    below.push(BucketRoot::parse(bolt, &element, &mut value).map_err(on_page)?);
                }
            }
            if !below.is_empty() {
                below.reverse();
                waiting.push(below);
                hosts.push(id);
            }
        }
        Ok(())
    }
}
