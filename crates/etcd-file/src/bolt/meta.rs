//! The meta pages: where the tree of a transaction starts.

use super::ByteOrder;

/// Bytes of a page header.
pub(crate) const PAGE_HEADER_BYTES: usize = 16;
/// Bytes of page header and meta together.
pub(crate) const META_END: usize = PAGE_HEADER_BYTES + 64;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const CHECKSUMMED_BYTES: usize = 56;
/// `freelist` of a file whose writer does not store it; etcd on Linux never does.
const NO_FREELIST: u64 = u64::MAX;
const MIN_PAGE_SIZE: u32 = 1 << 10;
const MAX_PAGE_SIZE: u32 = 1 << 24;

/// A meta whose magic, version and checksum are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Byte order of the whole file.
    pub byte_order: ByteOrder,
    /// Page size, in bytes.
    pub page_size: u32,
    /// Page on which the tree of buckets starts.
    pub root: u64,
    /// First page of the free list, where one is stored.
    pub freelist: Option<u64>,
    /// The first page number that was never allocated.
    pub high_water_mark: u64,
    /// The transaction that wrote this meta.
    pub txid: u64,
    /// The page number in the header in front of the meta, which bbolt itself does not look at.
    pub(crate) header_id: u64,
    /// The page type in that header.
    pub(crate) header_flags: u16,
}

/// Why a meta page can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetaProblem {
    /// The file ends before the meta does.
    #[error("the file ends before the meta page does")]
    Cut,
    /// Not a bbolt file, or a meta that was overwritten.
    #[error("magic is {found:08x}, expected {MAGIC:08x} in either byte order")]
    Magic {
        /// The magic in the file, read as little-endian.
        found: u32,
    },
    /// A format that did not exist when this was written.
    #[error("file format version is {found}, expected {VERSION}")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// A torn or damaged meta.
    #[error("checksum is {found:016x}, expected {expected:016x}")]
    Checksum {
        /// The computed checksum.
        expected: u64,
        /// The checksum in the file.
        found: u64,
    },
    /// The page size is not a power of two, or is too small or too large.
    #[error(
        "page size is {found}, expected a power of two from {MIN_PAGE_SIZE} to {MAX_PAGE_SIZE}"
    )]
    PageSize {
        /// The page size in the file.
        found: u32,
    },
    /// The meta page is not where its page size requires it.
    #[error("page size is {found}, but this is the place of a meta page with page size {expected}")]
    Place {
        /// The page size that its position requires.
        expected: u64,
        /// The page size that it contains.
        found: u32,
    },
    /// This meta page and the other one were written by machines of different byte orders.
    #[error("its byte order differs from the other meta page")]
    MixedByteOrder,
}

impl Meta {
    /// Reads the meta of a page from the page's first 80 bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(page: &[u8]) -> Result<Meta, MetaProblem> {
        let meta = page
            .get(PAGE_HEADER_BYTES..META_END)
            .ok_or(MetaProblem::Cut)?;
        let found = ByteOrder::Little.u32_at(meta, 0).ok_or(MetaProblem::Cut)?;
        let byte_order = match found {
            MAGIC => ByteOrder::Little,
            _ if found == MAGIC.swap_bytes() => ByteOrder::Big,
            _ => return Err(MetaProblem::Magic { found }),
        };
        let u32_at = |at| byte_order.u32_at(meta, at).ok_or(MetaProblem::Cut);
        let u64_at = |at| byte_order.u64_at(meta, at).ok_or(MetaProblem::Cut);

        let version = u32_at(4)?;
        if version != VERSION {
            return Err(MetaProblem::Version { found: version });
        }
        let found = u64_at(CHECKSUMMED_BYTES)?;
        let expected = fnv1a_64(meta.get(..CHECKSUMMED_BYTES).ok_or(MetaProblem::Cut)?);
        if found != expected {
            return Err(MetaProblem::Checksum { expected, found });
        }
        let page_size = u32_at(8)?;
        if !page_size.is_power_of_two() || !(MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&page_size) {
            return Err(MetaProblem::PageSize { found: page_size });
        }
        let freelist = u64_at(32)?;
        Ok(Meta {
            byte_order,
            page_size,
            root: u64_at(16)?,
            freelist: (freelist != NO_FREELIST).then_some(freelist),
            high_water_mark: u64_at(40)?,
            txid: u64_at(48)?,
            header_id: byte_order.u64_at(page, 0).ok_or(MetaProblem::Cut)?,
            header_flags: byte_order.u16_at(page, 8).ok_or(MetaProblem::Cut)?,
        })
    }
}

impl Meta {
    /// The page header and the meta, with its checksum.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let order = self.byte_order;
        let mut page = Vec::with_capacity(META_END);
        order.put_u64(&mut page, self.header_id);
        order.put_u16(&mut page, self.header_flags);
        order.put_u16(&mut page, 0);
        order.put_u32(&mut page, 0);
        for number in [MAGIC, VERSION, self.page_size, 0] {
            order.put_u32(&mut page, number);
        }
        let freelist = self.freelist.unwrap_or(NO_FREELIST);
        // The sequence number of the root bucket is 0: etcd and bbolt never set it.
        for number in [self.root, 0, freelist, self.high_water_mark, self.txid] {
            order.put_u64(&mut page, number);
        }
        let checksum = fnv1a_64(page.get(PAGE_HEADER_BYTES..).unwrap_or_default());
        order.put_u64(&mut page, checksum);
        page
    }
}

/// FNV-1a with 64 bits, the checksum of meta pages.
fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_gives_the_published_values() {
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn zeros_are_no_meta() {
        assert_eq!(
            Meta::parse(&[0; 4096]),
            Err(MetaProblem::Magic { found: 0 })
        );
        assert_eq!(Meta::parse(&[0; 79]), Err(MetaProblem::Cut));
    }
}
