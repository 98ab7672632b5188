//! `blocks.b3`: a BLAKE3 hash for each 64 KiB of a snapshot, so that a check can go block by
//! block and report where the damage is.
//!
//! The file is a line of text, `lifeboat-blocks-1 65536 <bytes of the snapshot>`, and then 32 bytes per block.

use etcd_file::ReadAt;
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

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

/// The hashes of a snapshot, from `blocks.b3`.
pub struct Hashes<'h> {
    total_bytes: u64,
    hashes: &'h [[u8; 32]],
}

impl<'h> Hashes<'h> {
    /// Reads the content of `blocks.b3`.
    ///
    /// # Errors
    /// It is not in this format.
    pub fn parse(file: &'h [u8]) -> Result<Self, String> {
        let damaged = || format!("{FILE} is damaged");
        let end_of_line = file.iter().position(|byte| *byte == b'\n');
        let (line, hashes) = end_of_line
            .and_then(|end| file.split_at_checked(end))
            .ok_or_else(damaged)?;
        let line = std::str::from_utf8(line).map_err(|_| damaged())?;
        let total_bytes: u64 = line
            .strip_prefix(&format!("lifeboat-blocks-1 {BLOCK_BYTES} "))
            .and_then(|total| total.parse().ok())
            .ok_or_else(damaged)?;
        let (hashes, rest) = hashes.get(1..).unwrap_or_default().as_chunks::<32>();
        if !rest.is_empty() || hashes.len() as u64 != total_bytes.div_ceil(BLOCK_BYTES as u64) {
            return Err(damaged());
        }
        Ok(Hashes {
            total_bytes,
            hashes,
        })
    }

    /// The size of the snapshot, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The place of a block, as offsets in bytes.
    fn place(&self, index: usize) -> Range<u64> {
        let start = index as u64 * BLOCK_BYTES as u64;
        start..(start + BLOCK_BYTES as u64).min(self.total_bytes)
    }

    /// Whether a block is as it was written. `buf` is for its bytes.
    fn is_whole(&self, snapshot: &dyn ReadAt, index: usize, buf: &mut Vec<u8>) -> io::Result<bool> {
        let place = self.place(index);
        buf.resize((place.end - place.start) as usize, 0);
        snapshot.read_exact_at(buf, place.start)?;
        Ok(Some(blake3::hash(buf).as_bytes()) == self.hashes.get(index))
    }
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
    let hashes = Hashes::parse(hashes)?;
    let mut found = Vec::new();
    let mut buf = Vec::new();
    for index in 0..hashes.hashes.len() {
        let place = hashes.place(index);
        let bytes = place.end - place.start;
        if !hashes.is_whole(snapshot, index, &mut buf).unwrap_or(false) {
            found.push(place);
            if found.len() == at_most {
                break;
            }
        }
        if progress(bytes).is_break() {
            break;
        }
    }
    Ok(found)
}

/// Whether the first `total_bytes` of a file are as they were written. All processors work on it, up to eight. Returns the first
/// place that a thread found to be different.
///
/// # Errors
/// The file can't be read, or `progress` has stopped the work.
pub fn first_difference(
    file: &(dyn ReadAt + Sync),
    hashes: &Hashes<'_>,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Range<u64>>, NotCompared> {
    const MAX_THREADS: usize = 8;
    const AT_ONCE: usize = 64;
    let threads =
        std::thread::available_parallelism().map_or(1, |number| number.get().min(MAX_THREADS));
    let next = AtomicUsize::new(0);
    let ended = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (next, ended) = (&next, &ended);
            scope.spawn(move || {
                let mut buf = Vec::new();
                while !ended.load(Ordering::Relaxed) {
                    let from = next.fetch_add(AT_ONCE, Ordering::Relaxed);
                    let to = (from + AT_ONCE).min(hashes.hashes.len());
                    if from >= to {
                        break;
                    }
                    let judged = |index| match hashes.is_whole(file, index, &mut buf) {
                        Ok(true) => None,
                        Ok(false) => Some(Ok(hashes.place(index))),
                        Err(error) => Some(Err(NotCompared::Read {
                            offset_bytes: hashes.place(index).start,
                            error,
                        })),
                    };
                    let different = (from..to).find_map(judged).transpose();
                    let bytes = hashes.place(to - 1).end - hashes.place(from).start;
                    let _ = sender.send((bytes, different));
                }
            });
        }
        drop(sender);
        let mut found = Ok(None);
        for (bytes, different) in receiver {
            if progress(bytes).is_break() {
                found = Err(NotCompared::Stopped);
            }
            if let Ok(None) = found {
                found = different;
            }
            if !matches!(found, Ok(None)) {
                ended.store(true, Ordering::Relaxed);
            }
        }
        found
    })
}

/// Why blocks were not compared.
#[derive(Debug)]
pub enum NotCompared {
    /// The work was stopped on request.
    Stopped,
    /// The file can't be read.
    Read {
        /// Offset of the block, in bytes.
        offset_bytes: u64,
        /// The error of the operating system.
        error: io::Error,
    },
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
    fn several_threads_find_every_difference() {
        let bytes: Vec<u8> = (0..20_000_000u32)
            .map(|number| (number >> 7) as u8)
            .collect();
        let mut hasher = Hasher::default();
        hasher.update(&bytes);
        let hashes = hasher.finish();
        let hashes = Hashes::parse(&hashes).unwrap();
        let mut seen_bytes = 0;
        let found = first_difference(&bytes, &hashes, &mut |bytes| {
            seen_bytes += bytes;
            ControlFlow::Continue(())
        });
        assert!(matches!(found, Ok(None)), "{found:?}");
        assert_eq!(seen_bytes, bytes.len() as u64);
        for at in [0, 65_535, 65_536, 10_000_000, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x80;
            let found = first_difference(&flipped, &hashes, &mut |_| ControlFlow::Continue(()));
            assert!(found.unwrap().unwrap().contains(&(at as u64)), "{at}");
        }
        let cut = bytes[..bytes.len() - 1].to_vec();
        let found = first_difference(&cut, &hashes, &mut |_| ControlFlow::Continue(()));
        let last = 20_000_000 / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        assert!(
            matches!(found, Err(NotCompared::Read { offset_bytes, .. }) if offset_bytes == last)
        );
        let stopped = first_difference(&bytes, &hashes, &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(NotCompared::Stopped)));
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
