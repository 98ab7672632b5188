//! Buckets: a leaf element's value that is the start of another tree.

use super::Bolt;
use super::ByteOrder;
use super::page::{Element, Page, PageError, Value};

pub(crate) const BUCKET_HEADER_BYTES: u64 = 16;

/// Where the tree of a bucket starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BucketRoot {
    /// On a page of its own.
    Page(u64),
    /// In the value itself, at these offsets of the file.
    Inline { start: u64, end: u64 },
}

impl BucketRoot {
    /// Reads a bucket's header: root page and sequence number, and after it the page of an inline bucket.
    pub(crate) fn parse(
        bolt: &Bolt<'_>,
        element: &Element,
        value: &mut Value<'_>,
    ) -> Result<Self, PageError> {
        if element.value_bytes < BUCKET_HEADER_BYTES {
            return Err(PageError::Damaged(format!(
                "the bucket header has {} bytes, expected {BUCKET_HEADER_BYTES}",
                element.value_bytes
            )));
        }
        let header = value.piece(0, BUCKET_HEADER_BYTES)?;
        let order: ByteOrder = bolt.meta.byte_order;
        match order.u64_at(header, 0).unwrap_or_default() {
            0 => Ok(BucketRoot::Inline {
                start: element.value_at() + BUCKET_HEADER_BYTES,
                end: element.end(),
            }),
            _ if element.value_bytes != BUCKET_HEADER_BYTES => Err(PageError::Damaged(format!(
                "a bucket with its own page has a header of {} bytes, expected {BUCKET_HEADER_BYTES}",
                element.value_bytes
            ))),
            root => Ok(BucketRoot::Page(root)),
        }
    }

    /// Loads the first page of the bucket's tree; `host` is the page that the bucket's header is on.
    pub(crate) fn load(self, bolt: &Bolt<'_>, page: &mut Page, host: u64) -> Result<(), PageError> {
        match self {
            BucketRoot::Page(id) => page.load(bolt, id),
            BucketRoot::Inline { start, end } => page.load_inline(bolt, host, start, end),
        }
    }
}
