//! The stored free list, where there is one.

use super::Bolt;
use super::bitmap::Bitmap;
use super::page::{FLAG_FREELIST, PageError, PageHeader, flags_name};
use crate::Failure;
use crate::finding::{Finding, Findings};

/// The count in a header if the number of ids does not fit there. The number is then stored in front of the ids.
const COUNT_ELSEWHERE: u16 = 0xFFFF;
const HEADER_BYTES: u64 = 16;
const ID_BYTES: u64 = 8;

/// The free pages of a file, and the pages that the list itself is on.
pub(crate) struct Freelist {
    pub(crate) free: Bitmap,
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
}

/// Reads the free list at `page`. Reports ids that are out of range, out of order or listed twice.
pub(crate) fn read(
    bolt: &Bolt<'_>,
    page: u64,
    findings: &mut Findings,
) -> Result<Freelist, PageError> {
    let meta = bolt.meta;
    let page_size = u64::from(meta.page_size);
    let start = bolt.offset_of(page);
    let mut bytes = [0; HEADER_BYTES as usize + ID_BYTES as usize];
    read_at(bolt, &mut bytes, start)?;
    let truncated = || PageError::Damaged("the page header is truncated".into());
    let header = PageHeader::parse(meta.byte_order, &bytes).ok_or_else(truncated)?;
    if header.id != page || header.flags != FLAG_FREELIST {
        return Err(PageError::Damaged(format!(
            "the page header says it is page {} and {}, expected a free list page",
            header.id,
            flags_name(header.flags)
        )));
    }
    let pages = u64::from(header.overflow) + 1;
    if page + pages > meta.high_water_mark {
        return Err(PageError::Damaged(format!(
            "{} overflow pages reach beyond the high-water mark {}",
            header.overflow, meta.high_water_mark
        )));
    }
    let (count, ids_at) = match header.count {
        COUNT_ELSEWHERE => (
            meta.byte_order
                .u64_at(&bytes, HEADER_BYTES as usize)
                .ok_or_else(truncated)?,
            start + HEADER_BYTES + ID_BYTES,
        ),
        count => (u64::from(count), start + HEADER_BYTES),
    };
    let room = (start + pages * page_size - ids_at) / ID_BYTES;
    if count > room {
        return Err(PageError::Damaged(format!(
            "the free list says it has {count} ids, but it has space for only {room}"
        )));
    }

    let mut free = Bitmap::new(meta.high_water_mark);
    let mut before = 0;
    let mut chunk = [0; 4096];
    let mut done = 0;
    while done < count {
        let ids = (count - done).min(chunk.len() as u64 / ID_BYTES);
        let bytes = chunk
            .get_mut(..(ids * ID_BYTES) as usize)
            .unwrap_or_default();
        read_at(bolt, bytes, ids_at + done * ID_BYTES)?;
        for raw in bytes.chunks_exact(ID_BYTES as usize) {
            let id = meta.byte_order.u64_at(raw, 0).ok_or_else(truncated)?;
            let mut report = |problem: String| {
                findings.push(Finding::error(problem).on_page(id, bolt.offset_of(id)));
            };
            if !(2..meta.high_water_mark).contains(&id) {
                report(format!(
                    "the free list contains this page, expected pages from 2 to below the high-water mark {}",
                    meta.high_water_mark
                ));
            } else if !free.insert(id) {
                report("the free list contains this page twice".into());
            } else if id < before {
                report(format!(
                    "the free list contains this page after page {before}, expected ascending order"
                ));
            }
            before = id;
        }
        done += ids;
    }
    Ok(Freelist {
        free,
        first_page: page,
        pages,
    })
}

fn read_at(bolt: &Bolt<'_>, buf: &mut [u8], offset_bytes: u64) -> Result<(), PageError> {
    Ok(bolt
        .file
        .read_exact_at(buf, offset_bytes)
        .map_err(Failure::read(offset_bytes))?)
}
