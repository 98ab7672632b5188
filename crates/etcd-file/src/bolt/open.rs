//! Opening a file: its page size, its byte order, and which of its two metas counts.

use super::meta::META_END;
use super::{MAX_PAGES, Meta, MetaProblem};
use crate::{Failure, ReadAt};

/// A bbolt file whose tree can be walked.
pub struct Bolt<'a> {
    pub(crate) file: &'a dyn ReadAt,
    pub(crate) size_bytes: u64,
    /// The meta that counts.
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
    /// Nothing to read.
    #[error("the file is empty")]
    Empty,
    /// Not a bbolt file, or both metas are damaged.
    #[error("no valid meta page: page 0: {first}; page 1: {second}")]
    NoMeta {
        /// What is wrong with page 0.
        first: MetaProblem,
        /// What is wrong with page 1, where it was looked for.
        second: MetaProblem,
    },
    /// The file is truncated: pages are missing.
    #[error(
        "the file has {size_bytes} bytes, expected at least {expected_bytes}: \
         {high_water_mark} pages of {page_size} bytes; the file is truncated"
    )]
    Cut {
        /// Bytes there are.
        size_bytes: u64,
        /// Bytes there should be.
        expected_bytes: u128,
        /// Number of pages according to the meta page.
        high_water_mark: u64,
        /// Page size, in bytes.
        page_size: u32,
    },
    /// The meta's own numbers make no sense.
    #[error(
        "meta of transaction {txid}: {field} is page {found}, expected from 2 to below the high-water mark {high_water_mark}"
    )]
    OutOfRange {
        /// The transaction that wrote the meta.
        txid: u64,
        /// Which of its fields.
        field: &'static str,
        /// The page number.
        found: u64,
        /// Number of pages according to the meta page.
        high_water_mark: u64,
    },
    /// Larger than what is checked with bounded memory.
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

    /// The meta that counts.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes in use by the database: high-water mark × page size. Snapshots have just these.
    #[must_use]
    pub fn logical_bytes(&self) -> u64 {
        // Not more than the file's size, which `open` has made sure of.
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

/// A meta counts only where its own page size puts it; a copy of one elsewhere is a value or rubbish.
fn at_own_place(meta: Result<Meta, MetaProblem>, page_size: u64) -> Result<Meta, MetaProblem> {
    match meta {
        Ok(meta) if u64::from(meta.page_size) != page_size => Err(MetaProblem::Place {
            expected: page_size,
            found: meta.page_size,
        }),
        other => other,
    }
}

/// Without page 0 the page size is not known: look wherever page 1 can be.
fn find_second_meta(
    file: &dyn ReadAt,
    size_bytes: u64,
) -> Result<Result<Meta, MetaProblem>, OpenError> {
    let mut told = MetaProblem::Cut;
    for page_size in (10..=24).map(|bits| 1u64 << bits) {
        match at_own_place(read_meta(file, size_bytes, page_size)?, page_size) {
            Ok(meta) => return Ok(Ok(meta)),
            // A damaged meta says more than the bytes where there is none.
            Err(problem @ (MetaProblem::Checksum { .. } | MetaProblem::Version { .. })) => {
                told = problem;
            }
            Err(problem) if told == MetaProblem::Cut => told = problem,
            Err(_) => {}
        }
    }
    Ok(Err(told))
}
