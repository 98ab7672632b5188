//! `blocks.b3`: a BLAKE3 hash for each 64 KiB of a snapshot, so that damage is named by its place and a
//! whole check can be done block by block.
//!
//! The file is a line of text, `lifeboat-blocks-1 65536 <bytes of the snapshot>`, and then 32 bytes a block.

/// Bytes of a block; the last one may be shorter.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Hashes blocks of bytes that come in pieces of any size.
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

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
