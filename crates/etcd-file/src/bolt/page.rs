//! Pages of the tree, read piece by piece so that no page is too large.
//!
//! A logical page is one page and the `overflow` pages after it, so that it can contain a value of any size. Therefore
//! a page is never loaded completely, but through windows of 64 KiB. Most pages fit in the first window.

use super::meta::PAGE_HEADER_BYTES;
use super::{Bolt, ByteOrder, MAX_KEY_BYTES};
use crate::{Failure, ReadAt};

pub(crate) const FLAG_BRANCH: u16 = 0x01;
pub(crate) const FLAG_LEAF: u16 = 0x02;
pub(crate) const FLAG_META: u16 = 0x04;
pub(crate) const FLAG_FREELIST: u16 = 0x10;
pub(crate) const ELEMENT_BYTES: u64 = 16;
pub(crate) const LEAF_FLAG_BUCKET: u32 = 0x01;
const WINDOW_BYTES: u64 = 64 * 1024;
/// Keys up to this length are read, so that a key that is too long is reported and the walk continues.
const READABLE_KEY_BYTES: u32 = 2 * MAX_KEY_BYTES;

/// Why a page can't be read further.
#[derive(Debug)]
pub(crate) enum PageError {
    /// The disk failed.
    Failed(Failure),
    /// The bytes are wrong.
    Damaged(String),
}

impl From<Failure> for PageError {
    fn from(failure: Failure) -> Self {
        PageError::Failed(failure)
    }
}

/// Bytes of the file that are in memory.
#[derive(Default)]
pub(crate) struct Window {
    start: u64,
    valid_bytes: u64,
    /// Never shrinks, so that its bytes need not be set to zero for each page.
    buf: Vec<u8>,
}

impl Window {
    fn holds(&self, at: u64, len: u64) -> bool {
        at >= self.start && at + len <= self.start + self.valid_bytes
    }

    fn forget(&mut self) {
        self.valid_bytes = 0;
    }

    /// Reads at least `len` bytes. Reads up to one window ahead, but nothing at or after `end`.
    fn fill(&mut self, file: &dyn ReadAt, at: u64, len: u64, end: u64) -> Result<(), Failure> {
        let bytes = len.max(WINDOW_BYTES.min(end.saturating_sub(at)));
        self.start = at;
        self.valid_bytes = 0;
        if self.buf.len() < bytes as usize {
            self.buf.resize(bytes as usize, 0);
        }
        let wanted = self.buf.get_mut(..bytes as usize).unwrap_or_default();
        file.read_exact_at(wanted, at).map_err(Failure::read(at))?;
        self.valid_bytes = bytes;
        Ok(())
    }

    fn slice(&self, at: u64, len: u64) -> &[u8] {
        let start = at.saturating_sub(self.start) as usize;
        self.buf
            .get(start..start.saturating_add(len as usize))
            .unwrap_or_default()
    }

    fn get(&mut self, file: &dyn ReadAt, at: u64, len: u64, end: u64) -> Result<&[u8], Failure> {
        if !self.holds(at, len) {
            self.fill(file, at, len, end)?;
        }
        Ok(self.slice(at, len))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Branch,
    Leaf,
}

/// The header in front of each logical page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageHeader {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    pub(crate) overflow: u32,
}

impl PageHeader {
    pub(crate) fn parse(order: ByteOrder, bytes: &[u8]) -> Option<Self> {
        Some(PageHeader {
            id: order.u64_at(bytes, 0)?,
            flags: order.u16_at(bytes, 8)?,
            count: order.u16_at(bytes, 10)?,
            overflow: order.u32_at(bytes, 12)?,
        })
    }
}

/// The name of a page type, for messages.
pub(crate) fn flags_name(flags: u16) -> String {
    match flags {
        FLAG_BRANCH => "a branch page".into(),
        FLAG_LEAF => "a leaf page".into(),
        FLAG_META => "a meta page".into(),
        FLAG_FREELIST => "a free list page".into(),
        other => format!("of unknown type {other:#06x}"),
    }
}

/// Where one element's bytes are, as offsets in the file, all of them inside its page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element {
    pub(crate) key_at: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    /// The child of a branch element.
    pub(crate) child: u64,
    /// Whether a leaf element's value is a bucket.
    pub(crate) is_bucket: bool,
}

impl Element {
    pub(crate) fn value_at(&self) -> u64 {
        self.key_at + self.key_bytes
    }

    pub(crate) fn end(&self) -> u64 {
        self.value_at() + self.value_bytes
    }
}

/// A branch or leaf page.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) id: u64,
    /// Offset in the file.
    pub(crate) start: u64,
    /// Offset in the file where the last overflow page ends.
    pub(crate) end: u64,
    pub(crate) kind: Option<Kind>,
    pub(crate) count: u64,
    pub(crate) overflow: u32,
    /// Whether this is the page of an inline bucket, which is inside a value of another page.
    pub(crate) inline: bool,
    /// The start of the page: all of it if it is small, else its element array.
    head: Window,
    key: Window,
    value: Window,
}

impl Page {
    /// Reads page `id` of a tree and checks its header.
    pub(crate) fn load(&mut self, bolt: &Bolt<'_>, id: u64) -> Result<(), PageError> {
        let page_size = u64::from(bolt.meta.page_size);
        let start = bolt.offset_of(id);
        self.begin(bolt, start, start + page_size)?;
        let header = self.header(bolt)?;
        if header.id != id {
            return Err(PageError::Damaged(format!(
                "the page header says it is page {}",
                header.id
            )));
        }
        let pages = u64::from(header.overflow) + 1;
        if id + pages > bolt.meta.high_water_mark {
            return Err(PageError::Damaged(format!(
                "{} overflow pages reach beyond the high-water mark {}",
                header.overflow, bolt.meta.high_water_mark
            )));
        }
        self.id = id;
        self.inline = false;
        self.adopt(header, start + pages * page_size)
    }

    /// Reads the page of an inline bucket, which is the part `start..end` of another page.
    pub(crate) fn load_inline(
        &mut self,
        bolt: &Bolt<'_>,
        host: u64,
        start: u64,
        end: u64,
    ) -> Result<(), PageError> {
        if end - start < PAGE_HEADER_BYTES as u64 {
            return Err(PageError::Damaged(format!(
                "the inline bucket has {} bytes, expected at least {PAGE_HEADER_BYTES} for its page header",
                end - start
            )));
        }
        self.begin(bolt, start, end)?;
        let header = self.header(bolt)?;
        if header.id != 0 || header.flags != FLAG_LEAF || header.overflow != 0 {
            return Err(PageError::Damaged(format!(
                "the page of an inline bucket has id {}, is {} and has {} overflow pages, expected a leaf page with id 0 and no overflow pages",
                header.id,
                flags_name(header.flags),
                header.overflow
            )));
        }
        self.id = host;
        self.inline = true;
        self.adopt(header, end)
    }

    fn begin(&mut self, bolt: &Bolt<'_>, start: u64, end: u64) -> Result<(), PageError> {
        self.start = start;
        self.key.forget();
        self.value.forget();
        Ok(self
            .head
            .fill(bolt.file, start, PAGE_HEADER_BYTES as u64, end)?)
    }

    fn header(&self, bolt: &Bolt<'_>) -> Result<PageHeader, PageError> {
        let bytes = self.head.slice(self.start, PAGE_HEADER_BYTES as u64);
        PageHeader::parse(bolt.meta.byte_order, bytes)
            .ok_or_else(|| PageError::Damaged("the page header is truncated".into()))
    }

    fn adopt(&mut self, header: PageHeader, end: u64) -> Result<(), PageError> {
        self.kind = match header.flags {
            FLAG_BRANCH => Some(Kind::Branch),
            FLAG_LEAF => Some(Kind::Leaf),
            flags => {
                return Err(PageError::Damaged(format!(
                    "the page is {}, expected a branch or a leaf page",
                    flags_name(flags)
                )));
            }
        };
        self.end = end;
        self.count = u64::from(header.count);
        self.overflow = header.overflow;
        if self.data_start() > end {
            return Err(PageError::Damaged(format!(
                "{} elements of {ELEMENT_BYTES} bytes do not fit in {} bytes",
                self.count,
                end - self.start
            )));
        }
        if self.kind == Some(Kind::Branch) && self.count == 0 {
            return Err(PageError::Damaged("the branch page has no children".into()));
        }
        Ok(())
    }

    /// Offset in the file after the element array, where keys and values start.
    pub(crate) fn data_start(&self) -> u64 {
        self.start + PAGE_HEADER_BYTES as u64 + self.count * ELEMENT_BYTES
    }

    /// Element `index`, with its bounds checked.
    pub(crate) fn element(&mut self, bolt: &Bolt<'_>, index: u64) -> Result<Element, PageError> {
        let order = bolt.meta.byte_order;
        let at = self.start + PAGE_HEADER_BYTES as u64 + index * ELEMENT_BYTES;
        let raw = self.head.get(bolt.file, at, ELEMENT_BYTES, self.end)?;
        let u32_at = |offset| order.u32_at(raw, offset).unwrap_or_default();
        let (flags, pos, key_bytes, value_bytes, child) = match self.kind {
            Some(Kind::Branch) => {
                let child = order.u64_at(raw, 8).unwrap_or_default();
                (0, u32_at(0), u32_at(4), 0, child)
            }
            _ => (u32_at(0), u32_at(4), u32_at(8), u32_at(12), 0),
        };
        let element = Element {
            key_at: at + u64::from(pos),
            key_bytes: u64::from(key_bytes),
            value_bytes: u64::from(value_bytes),
            child,
            is_bucket: flags & LEAF_FLAG_BUCKET != 0,
        };
        let damaged =
            |problem: String| Err(PageError::Damaged(format!("element {index}: {problem}")));
        if flags & !LEAF_FLAG_BUCKET != 0 {
            return damaged(format!("flags are {flags:#x}, expected 0 or 1"));
        }
        if element.key_at < self.data_start() {
            return damaged(format!(
                "its key starts at offset {}, inside the element array that ends at {}",
                element.key_at,
                self.data_start()
            ));
        }
        if element.end() > self.end {
            return damaged(format!(
                "its key of {key_bytes} and value of {value_bytes} bytes end at offset {}, after the page's end at {}",
                element.end(),
                self.end
            ));
        }
        if key_bytes == 0 {
            return damaged("its key is empty".into());
        }
        if key_bytes > READABLE_KEY_BYTES {
            return damaged(format!(
                "its key has {key_bytes} bytes, expected at most {MAX_KEY_BYTES}"
            ));
        }
        Ok(element)
    }

    /// The key of an element, and its value. A value of more than 64 KiB that is not in memory is not read yet.
    pub(crate) fn key_and_value<'p>(
        &'p mut self,
        bolt: &Bolt<'p>,
        element: &Element,
    ) -> Result<(&'p [u8], Value<'p>), PageError> {
        let (head, key, value) = (&mut self.head, &mut self.key, &mut self.value);
        let key = if head.holds(element.key_at, element.key_bytes) {
            head.slice(element.key_at, element.key_bytes)
        } else {
            key.get(bolt.file, element.key_at, element.key_bytes, self.end)?
        };
        let (at, len) = (element.value_at(), element.value_bytes);
        let value = if head.holds(at, len) {
            Value(Inner::Whole(head.slice(at, len)))
        } else if len <= WINDOW_BYTES {
            Value(Inner::Whole(value.get(bolt.file, at, len, self.end)?))
        } else {
            Value(Inner::Long {
                file: bolt.file,
                start: at,
                len,
                window: value,
            })
        };
        Ok((key, value))
    }
}

/// A value of a leaf element; a long one is read piece by piece.
pub struct Value<'a>(Inner<'a>);

enum Inner<'a> {
    Whole(&'a [u8]),
    Long {
        file: &'a dyn ReadAt,
        start: u64,
        len: u64,
        window: &'a mut Window,
    },
}

impl<'a> Value<'a> {
    /// A value that is in memory.
    #[must_use]
    pub fn whole(bytes: &'a [u8]) -> Self {
        Value(Inner::Whole(bytes))
    }

    /// Length, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.0 {
            Inner::Whole(bytes) => bytes.len() as u64,
            Inner::Long { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if all of them are in memory, as those of every value up to 64 KiB are.
    #[must_use]
    pub fn in_memory(&self) -> Option<&[u8]> {
        match &self.0 {
            Inner::Whole(bytes) => Some(bytes),
            Inner::Long { .. } => None,
        }
    }

    /// The bytes from `at` on: `at_most` bytes, or fewer at the end of the value. At most 64 KiB of a value that is not
    /// in memory.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn piece(&mut self, at: u64, at_most: u64) -> Result<&[u8], Failure> {
        match &mut self.0 {
            Inner::Whole(bytes) => {
                let start = (at as usize).min(bytes.len());
                let rest = bytes.get(start..).unwrap_or_default();
                let end = usize::try_from(at_most).unwrap_or(usize::MAX);
                Ok(rest.get(..end).unwrap_or(rest))
            }
            Inner::Long {
                file,
                start,
                len,
                window,
            } => {
                let at = at.min(*len);
                let piece = at_most.min(*len - at).min(WINDOW_BYTES);
                window.get(*file, *start + at, piece, *start + *len)
            }
        }
    }

    /// Calls `each` with the bytes from `at` to `end`, in order, in as few pieces as possible.
    ///
    /// # Errors
    /// Why the file could not be read.
    pub fn pieces(
        &mut self,
        mut at: u64,
        end: u64,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Failure> {
        while at < end {
            let piece = self.piece(at, end - at)?;
            if piece.is_empty() {
                break;
            }
            each(piece);
            at += piece.len() as u64;
        }
        Ok(())
    }
}
