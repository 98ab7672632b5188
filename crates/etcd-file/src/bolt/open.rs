//! Opening a file: its page size, its byte order, and which of its two metas is used.

use super::meta::META_END;
use super::{MAX_PAGES, Meta, MetaProblem};
use crate::{Failure, ReadAt};

/// A bbolt file whose tree can be walked.
pub struct Bolt<'a> {
    pub(crate) file: &'a dyn ReadAt,
    pub(crate) size_bytes: u64,
    /// The valid meta with the higher transaction id.
    pub(crate) meta: Meta,
    /// Both metas as they were found; page 0's first.
    pub(crate) metas: [Result<Meta, MetaProblem>; 2],
}

/// Why a file can't be walked at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file could not be read.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The file has 0 bytes.
    #[error("the file is empty")]
    Empty,
    /// Not a bbolt file, or both metas are damaged.
    #[error("no valid meta page: page 0: {first}; page 1: {second}")]
    NoMeta {
        /// What is wrong with page 0.
        first: MetaProblem,
        /// What is wrong with page 1. If its place is unknown, the most specific problem at all possible places.
        second: MetaProblem,
    },
    /// The file is truncated: pages are missing.
    #[error(
        "the file has {size_bytes} bytes, expected at least {expected_bytes}: \
         {high_water_mark} pages of {page_size} bytes; the file is truncated"
    )]
    Cut {
        /// Size of the file, in bytes.
        size_bytes: u64,
        /// Size that the meta page requires, in bytes: pages × page size.
        expected_bytes: u128,
        /// Number of pages according to the meta page.
        high_water_mark: u64,
        /// Page size, in bytes.
        page_size: u32,
    },
    /// The meta refers to a page that cannot exist in the file.
    #[error(
        "meta of transaction {txid}: {field} is page {found}, expected from 2 to below the high-water mark {high_water_mark}"
    )]
    OutOfRange {
        /// The transaction that wrote the meta.
        txid: u64,
        /// The field: `the root` or `the free list`.
        field: &'static str,
        /// The page number in this field.
        found: u64,
        /// Number of pages according to the meta page.
        high_water_mark: u64,
    },
    /// More pages than [`MAX_PAGES`], the limit that keeps the memory bounded.
    #[error("the file has {high_water_mark} pages, more than the {MAX_PAGES} that can be checked")]
    TooManyPages {
        /// Number of pages according to the meta page.
        high_water_mark: u64,
    },
}

impl<'a> Bolt<'a> {
    /// Reads both metas and takes the valid one with the higher transaction id, as bbolt does.
    ///
    /// # Errors
    /// Why the file can't be walked.
    pub fn open(file: &'a dyn ReadAt) -> Result<Self, OpenError> {
        let size_bytes = file.size_bytes().map_err(Failure::read(0))?;
        if size_bytes == 0 {
            return Err(OpenError::Empty);
        }
        let first = read_meta(file, size_bytes, 0)?;
        let second = match first {
            Ok(meta) => at_own_place(
                read_meta(file, size_bytes, u64::from(meta.page_size))?,
                u64::from(meta.page_size),
            ),
            Err(_) => find_second_meta(file, size_bytes)?,
        };
        let second = match (first, second) {
            (Ok(first), Ok(second)) if first.byte_order != second.byte_order => {
                Err(MetaProblem::MixedByteOrder)
            }
            (_, second) => second,
        };
        let meta = match (first, second) {
            (Ok(first), Ok(second)) if second.txid > first.txid => second,
            (Ok(first), _) => first,
            (Err(_), Ok(second)) => second,
            (Err(first), Err(second)) => return Err(OpenError::NoMeta { first, second }),
        };
        let bolt = Bolt {
            file,
            size_bytes,
            meta,
            metas: [first, second],
        };
        bolt.refuse_impossible()?;
        Ok(bolt)
    }

    /// The valid meta with the higher transaction id.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes in use by the database: high-water mark × page size. The data of a snapshot has exactly this size.
    #[must_use]
    pub fn logical_bytes(&self) -> u64 {
        // Cannot overflow: `open` has checked that this is at most the size of the file.
        self.meta.high_water_mark * u64::from(self.meta.page_size)
    }

    /// Offset of a page in the file.
    pub(crate) fn offset_of(&self, page: u64) -> u64 {
        page.saturating_mul(u64::from(self.meta.page_size))
    }

    fn refuse_impossible(&self) -> Result<(), OpenError> {
        let Meta {
            high_water_mark,
            page_size,
            txid,
            root,
            freelist,
            ..
        } = self.meta;
        let expected_bytes = u128::from(high_water_mark) * u128::from(page_size);
        if expected_bytes > u128::from(self.size_bytes) {
            return Err(OpenError::Cut {
                size_bytes: self.size_bytes,
                expected_bytes,
                high_water_mark,
                page_size,
            });
        }
        if high_water_mark > MAX_PAGES {
            return Err(OpenError::TooManyPages { high_water_mark });
        }
        for (field, page) in [("the root", Some(root)), ("the free list", freelist)] {
            if let Some(found) = page
                && !(2..high_water_mark).contains(&found)
            {
                return Err(OpenError::OutOfRange {
                    txid,
                    field,
                    found,
                    high_water_mark,
                });
            }
        }
        Ok(())
    }
}

fn read_meta(
    file: &dyn ReadAt,
    size_bytes: u64,
    offset_bytes: u64,
) -> Result<Result<Meta, MetaProblem>, OpenError> {
    if offset_bytes + META_END as u64 > size_bytes {
        return Ok(Err(MetaProblem::Cut));
    }
    let mut page = [0; META_END];
    file.read_exact_at(&mut page, offset_bytes)
        .map_err(Failure::read(offset_bytes))?;
    Ok(Meta::parse(&page))
}

/// A meta is valid only at the place that its own page size requires. A copy elsewhere is part of a value, or old data.
fn at_own_place(meta: Result<Meta, MetaProblem>, page_size: u64) -> Result<Meta, MetaProblem> {
    match meta {
        Ok(meta) if u64::from(meta.page_size) != page_size => Err(MetaProblem::Place {
            expected: page_size,
            found: meta.page_size,
        }),
        other => other,
    }
}

/// Without a valid page 0 the page size is unknown: looks for page 1 at every possible place.
fn find_second_meta(
    file: &dyn ReadAt,
    size_bytes: u64,
) -> Result<Result<Meta, MetaProblem>, OpenError> {
    let mut reported = MetaProblem::Cut;
    for page_size in (10..=24).map(|bits| 1u64 << bits) {
        match at_own_place(read_meta(file, size_bytes, page_size)?, page_size) {
            Ok(meta) => return Ok(Ok(meta)),
            // The problem of a damaged meta is more specific than that of a place without a meta.
            Err(problem @ (MetaProblem::Checksum { .. } | MetaProblem::Version { .. })) => {
                reported = problem;
            }
            Err(problem) if reported == MetaProblem::Cut => reported = problem,
            Err(_) => {}
        }
    }
    Ok(Err(reported))
}
