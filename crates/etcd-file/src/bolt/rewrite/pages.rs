//! New pages: leaves, branches and metas, in the byte order of the file.

use super::error::{RewriteError, Rewritten};
use crate::bolt::meta::{META_END, PAGE_HEADER_BYTES};
use crate::bolt::page::{ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, FLAG_META, LEAF_FLAG_BUCKET};
use crate::bolt::{ByteOrder, MAX_KEY_BYTES, MAX_PAGES, Meta};

/// bbolt's limit for the number of elements of a page.
const MAX_ELEMENTS: usize = 0xFFFE;

/// An element of a new leaf.
pub(super) struct Leaf {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) is_bucket: bool,
}

/// An element of a branch: a page, and the first key in it.
#[derive(Clone)]
pub(super) struct Child {
    pub(super) key: Vec<u8>,
    pub(super) page: u64,
}

/// Pages after the high-water mark.
pub(super) struct NewPages {
    order: ByteOrder,
    page_size: usize,
    first: u64,
    bytes: Vec<u8>,
}

impl NewPages {
    pub(super) fn after(meta: &Meta) -> Self {
        NewPages {
            order: meta.byte_order,
            page_size: meta.page_size as usize,
            first: meta.high_water_mark,
            bytes: Vec::new(),
        }
    }

    /// The value of a bucket with these elements. A small one is inline, as bbolt has it.
    pub(super) fn bucket(
        &mut self,
        elements: &[Leaf],
        sequence: u64,
    ) -> Result<Vec<u8>, RewriteError> {
        check_keys(elements)?;
        let bytes = elements.iter().map(Leaf::bytes).sum::<usize>() + PAGE_HEADER_BYTES;
        if bytes <= self.page_size / 4 {
            let mut value = self.header(0, sequence);
            value.extend(self.leaf_bytes(0, 0, elements));
            return Ok(value);
        }
        let root = self.tree(elements)?;
        Ok(self.header(root, sequence))
    }

    /// The header of a bucket whose tree begins on this page.
    pub(super) fn header(&self, root: u64, sequence: u64) -> Vec<u8> {
        let mut header = Vec::new();
        self.order.put_u64(&mut header, root);
        self.order.put_u64(&mut header, sequence);
        header
    }

    /// Adds a tree with these elements, which are in the order of their keys. Returns its first page.
    pub(super) fn tree(&mut self, elements: &[Leaf]) -> Result<u64, RewriteError> {
        check_keys(elements)?;
        let mut children = Vec::new();
        for group in groups(elements, Leaf::bytes, self.page_size, 1) {
            let page = self.leaf(group)?;
            let key = group
                .first()
                .map(|leaf| leaf.key.clone())
                .unwrap_or_default();
            children.push(Child { key, page });
        }
        match children.is_empty() {
            true => self.leaf(&[]),
            false => self.branches(children),
        }
    }

    pub(super) fn leaf(&mut self, elements: &[Leaf]) -> Result<u64, RewriteError> {
        check_keys(elements)?;
        let bytes = elements.iter().map(Leaf::bytes).sum::<usize>() + PAGE_HEADER_BYTES;
        let id = self.next_page();
        let page = self.leaf_bytes(id, self.overflow(bytes), elements);
        self.add(page)?;
        Ok(id)
    }

    /// Adds branches above these pages until one is left, and returns it.
    pub(super) fn branches(&mut self, mut children: Vec<Child>) -> Result<u64, RewriteError> {
        while children.len() > 1 {
            children = self.branch_level(&children)?;
        }
        Ok(children.first().map_or(0, |root| root.page))
    }

    /// Adds one level of branches.
    pub(super) fn branch_level(&mut self, children: &[Child]) -> Result<Vec<Child>, RewriteError> {
        let mut level = Vec::new();
        for group in groups(children, Child::bytes, self.page_size, 2) {
            let page = self.branch(group)?;
            let key = group
                .first()
                .map(|child| child.key.clone())
                .unwrap_or_default();
            level.push(Child { key, page });
        }
        Ok(level)
    }

    fn branch(&mut self, children: &[Child]) -> Result<u64, RewriteError> {
        let bytes = children.iter().map(Child::bytes).sum::<usize>() + PAGE_HEADER_BYTES;
        let id = self.next_page();
        let mut page = Vec::new();
        self.page_header(
            &mut page,
            id,
            FLAG_BRANCH,
            children.len(),
            self.overflow(bytes),
        );
        let mut key_at = PAGE_HEADER_BYTES + children.len() * ELEMENT_BYTES as usize;
        for child in children {
            // An offset is relative to its own element.
            let pos = key_at - page.len();
            self.order.put_u32(&mut page, pos as u32);
            self.order.put_u32(&mut page, child.key.len() as u32);
            self.order.put_u64(&mut page, child.page);
            key_at += child.key.len();
        }
        children.iter().for_each(|child| page.extend(&child.key));
        self.add(page)?;
        Ok(id)
    }

    fn leaf_bytes(&self, id: u64, overflow: u32, elements: &[Leaf]) -> Vec<u8> {
        let mut page = Vec::new();
        self.page_header(&mut page, id, FLAG_LEAF, elements.len(), overflow);
        let mut key_at = PAGE_HEADER_BYTES + elements.len() * ELEMENT_BYTES as usize;
        for leaf in elements {
            let pos = key_at - page.len();
            let flags = if leaf.is_bucket { LEAF_FLAG_BUCKET } else { 0 };
            self.order.put_u32(&mut page, flags);
            self.order.put_u32(&mut page, pos as u32);
            self.order.put_u32(&mut page, leaf.key.len() as u32);
            self.order.put_u32(&mut page, leaf.value.len() as u32);
            key_at += leaf.key.len() + leaf.value.len();
        }
        for leaf in elements {
            page.extend(&leaf.key);
            page.extend(&leaf.value);
        }
        page
    }

    fn page_header(&self, page: &mut Vec<u8>, id: u64, flags: u16, count: usize, overflow: u32) {
        self.order.put_u64(page, id);
        self.order.put_u16(page, flags);
        self.order.put_u16(page, count as u16);
        self.order.put_u32(page, overflow);
    }

    fn overflow(&self, bytes: usize) -> u32 {
        (bytes.div_ceil(self.page_size) - 1) as u32
    }

    fn next_page(&self) -> u64 {
        self.first + (self.bytes.len() / self.page_size) as u64
    }

    fn add(&mut self, page: Vec<u8>) -> Result<(), RewriteError> {
        let end = self.bytes.len() + page.len().next_multiple_of(self.page_size);
        self.bytes.extend(page);
        self.bytes.resize(end, 0);
        let found = self.next_page();
        if found > MAX_PAGES {
            return Err(RewriteError::Overflow {
                what: "number of pages",
                found,
            });
        }
        Ok(())
    }

    /// Both metas for a tree that begins on page `root`. The one on page 0 is used, because its transaction is later; as bbolt has
    /// it, that is an even number.
    pub(super) fn finish(self, root: u64, before: &Meta) -> Result<Rewritten, RewriteError> {
        let overflow = RewriteError::Overflow {
            what: "transaction id",
            found: before.txid,
        };
        // The id is even and at least two higher, so that both metas are later than any that is in the file.
        let txid = before
            .txid
            .checked_add(3)
            .map(|txid| txid & !1)
            .filter(|txid| *txid < 1 << 62);
        let txid = txid.ok_or(overflow)?;
        let mut metas = vec![0; 2 * self.page_size];
        for (page, id) in (0u64..).zip([txid, txid - 1]) {
            let bytes = Meta {
                root,
                freelist: None,
                high_water_mark: self.next_page(),
                txid: id,
                header_id: page,
                header_flags: FLAG_META,
                ..*before
            }
            .to_bytes();
            let at = page as usize * self.page_size;
            if let Some(place) = metas.get_mut(at..at + META_END) {
                place.copy_from_slice(&bytes);
            }
        }
        let page_size = self.page_size as u64;
        let old_bytes = self.first * page_size;
        Ok(Rewritten {
            old_bytes,
            new_bytes: old_bytes + self.bytes.len() as u64,
            written_pages: self.bytes.len() as u64 / page_size + 2,
            pages: self.bytes,
            metas,
        })
    }
}

impl Leaf {
    fn bytes(&self) -> usize {
        ELEMENT_BYTES as usize + self.key.len() + self.value.len()
    }
}

impl Child {
    fn bytes(&self) -> usize {
        ELEMENT_BYTES as usize + self.key.len()
    }
}

fn check_keys(elements: &[Leaf]) -> Result<(), RewriteError> {
    let wrong = elements
        .iter()
        .map(|leaf| leaf.key.len())
        .find(|len| !(1..=MAX_KEY_BYTES as usize).contains(len));
    match wrong {
        Some(found) => Err(RewriteError::KeyLength { found }),
        None => Ok(()),
    }
}

/// Divides elements so that each group fits in a page where it can. A group has at least `min` elements, except the only one.
fn groups<T>(
    elements: &[T],
    bytes_of: impl Fn(&T) -> usize,
    page_size: usize,
    min: usize,
) -> Vec<&[T]> {
    let mut groups = Vec::new();
    let mut rest = elements;
    while !rest.is_empty() {
        let mut bytes = PAGE_HEADER_BYTES;
        let mut fitting = 0;
        for element in rest.iter().take(MAX_ELEMENTS) {
            bytes += bytes_of(element);
            if bytes > page_size && fitting >= min {
                break;
            }
            fitting += 1;
        }
        // What would be left alone gets company.
        let left = rest.len() - fitting;
        if (1..min).contains(&left) && fitting > min {
            fitting -= min - left;
        } else if (1..min).contains(&left) {
            fitting = rest.len();
        }
        let (group, later) = rest.split_at(fitting.min(rest.len()));
        groups.push(group);
        rest = later;
    }
    groups
}
