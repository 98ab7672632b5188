//! `blocks.b3`: a BLAKE3 hash for each 64 KiB of a snapshot, so that a check can go block by
//! block and report where the damage is.
//!
//! The file is a line of text, `lifeboat-blocks-1 65536 <bytes of the snapshot>`, and then 32 bytes per block.

use etcd_file::ReadAt;
use std::ops::{ControlFlow, Range};

/// Bytes of a block; the last one may be shorter.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Hashes a stream block by block.
pub struct Hasher {
    block: blake3::Hasher,
    block_bytes: usize,
    total_bytes: u64,
    hashes: Vec<u8>,
}

impl Default for Hasher {
    fn default() -> Self {
        Hasher {
            block: blake3::Hasher::new(),
            block_bytes: 0,
            total_bytes: 0,
            hashes: Vec::new(),
        }
    }
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.total_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.block_bytes;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.update(now);
            self.block_bytes += now.len();
            if self.block_bytes == BLOCK_BYTES {
                self.end_block();
            }
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        self.hashes
            .extend_from_slice(self.block.finalize().as_bytes());
        self.block.reset();
        self.block_bytes = 0;
    }

    /// The contents of `blocks.b3`.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.block_bytes > 0 {
            self.end_block();
        }
        let mut file =
            format!("lifeboat-blocks-1 {BLOCK_BYTES} {}\n", self.total_bytes).into_bytes();
        file.append(&mut self.hashes);
        file
    }
}

/// The name of the file in a backup.
pub const FILE: &str = "blocks.b3";

/// The largest possible size of `blocks.b3` for a snapshot of this size.
#[must_use]
pub fn max_bytes(snapshot_bytes: u64) -> u64 {
    const LINE_BYTES: u64 = 64;
    snapshot_bytes.div_ceil(BLOCK_BYTES as u64) * 32 + LINE_BYTES
}

/// Finds the parts of a snapshot that differ from what was written, as offsets in bytes: at most `at_most` of them.
///
/// # Errors
/// The hashes are not in this format, or the snapshot cannot be read. `progress` receives the number of bytes read, and
/// can stop the check: the blocks after that are not checked.
pub fn damaged(
    snapshot: &dyn ReadAt,
    hashes: &[u8],
    at_most: usize,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Vec<Range<u64>>, String> {
    let no_hashes = || format!("{FILE} is damaged");
    let end_of_line = hashes.iter().position(|byte| *byte == b'\n');
    let (line, hashes) = end_of_line
        .and_then(|end| hashes.split_at_checked(end))
        .ok_or_else(no_hashes)?;
    let line = std::str::from_utf8(line).map_err(|_| no_hashes())?;
    let total_bytes: u64 = line
        .strip_prefix(&format!("lifeboat-blocks-1 {BLOCK_BYTES} "))
        .and_then(|total| total.parse().ok())
        .ok_or_else(no_hashes)?;
    let (hashes, rest) = hashes.get(1..).unwrap_or_default().as_chunks::<32>();
    let block_bytes = BLOCK_BYTES as u64;
    if !rest.is_empty() || hashes.len() as u64 != total_bytes.div_ceil(block_bytes) {
        return Err(no_hashes());
    }
    let size_bytes = snapshot.size_bytes().map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    let mut buf = vec![0; BLOCK_BYTES];
    for (index, expected) in (0..).zip(hashes) {
        let start = index * block_bytes;
        let end = (start + block_bytes).min(total_bytes);
        let block = buf.get_mut(..(end - start) as usize).unwrap_or_default();
        let whole = end <= size_bytes
            && snapshot.read_exact_at(block, start).is_ok()
            && blake3::hash(block).as_bytes() == expected;
        if !whole {
            found.push(start..end);
            if found.len() == at_most {
                break;
            }
        }
        if progress(end - start).is_break() {
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_damaged(
        snapshot: &dyn ReadAt,
        hashes: &[u8],
        at_most: usize,
    ) -> Result<Vec<Range<u64>>, String> {
        damaged(
            snapshot,
            hashes,
            at_most,
            &mut |_| ControlFlow::Continue(()),
        )
    }

    #[test]
    fn hashes_do_not_depend_on_how_the_bytes_come() {
        let bytes: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        let mut whole = Hasher::default();
        whole.update(&bytes);
        let mut pieces = Hasher::default();
        bytes.chunks(777).for_each(|piece| pieces.update(piece));
        let whole = whole.finish();
        assert_eq!(whole, pieces.finish());
        let head = b"lifeboat-blocks-1 65536 200000\n";
        assert_eq!(&whole[..head.len()], head);
        assert_eq!(whole.len(), head.len() + 4 * 32);
        let last = blake3::hash(&bytes[3 * BLOCK_BYTES..]);
        assert_eq!(&whole[whole.len() - 32..], last.as_bytes());

        assert_eq!(all_damaged(&bytes, &whole, 9), Ok(vec![]));
        let mut flipped = bytes.clone();
        flipped[70_000] ^= 1;
        flipped[199_999] ^= 1;
        let places = vec![65_536..131_072, 196_608..200_000];
        assert_eq!(all_damaged(&flipped, &whole, 9), Ok(places.clone()));
        assert_eq!(all_damaged(&flipped, &whole, 1), Ok(places[..1].to_vec()));
        assert_eq!(
            all_damaged(&bytes[..199_999].to_vec(), &whole, 9),
            Ok(places[1..].to_vec())
        );
        for wrong in [
            &whole[..40],
            b"",
            b"lifeboat-blocks-1 65536 x\n",
            &whole[3..],
        ] {
            assert!(all_damaged(&bytes, wrong, 9).is_err());
        }
    }
}
