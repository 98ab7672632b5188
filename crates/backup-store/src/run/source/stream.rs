//! Writes a member's snapshot stream to the disk. A separate thread writes to the disk. While the run waits for the disk, it
//! reads nothing. When the disk hangs, the stream is closed, because the member's database grows while it is open.

use super::super::error::{RunError, write_error};
use super::{SPACE_CHECK_BYTES, SYNCED_EVERY_BYTES, Source, SpaceGuard, Taken};
use crate::disk::{Disk, DiskHangs, HANGS_AFTER};
use crate::member::{Member, SnapshotStream};
use crate::progress::SharedMonitor;
use crate::{blocks, durable_file};
use backup_plan::hex::hex;
use backup_plan::record::{Level, SnapshotSource};
use etcd_file::snapshot_file::{TRAILER_BYTES, Trailer};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tonic::codegen::Bytes;

/// A stream that is slower than this on average fails. While it is open the member cannot reuse
/// pages, and its database grows.
const SLOWEST_BYTES_PER_S: u64 = 4 << 20;
/// Time that is always allowed, for a database of any size.
const STREAM_GRACE: Duration = Duration::from_secs(60);
/// How many pieces may wait for the disk. Members send 32 or 64 KiB per piece.
const PIECES_WAITING: usize = 64;
const WRITING: &str = "writing the snapshot";
/// How often a run checks whether it should stop, also without data.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The snapshot stream of a member.
pub(crate) struct StreamSource<'m> {
    pub(crate) member: &'m Member,
    /// The size of the member's database.
    pub(crate) expected_bytes: u64,
}

impl Source for StreamSource<'_> {
    const KIND: SnapshotSource = SnapshotSource::Stream;

    async fn take(
        &self,
        disk: &Disk,
        path: &Path,
        space: &SpaceGuard,
        monitor: &SharedMonitor,
    ) -> Result<Taken, RunError> {
        monitor.step("stream", self.expected_bytes);
        let mut stream = self.member.snapshot().await?;
        let (sender, pieces) = mpsc::channel(PIECES_WAITING);
        let (path, space) = (path.to_path_buf(), space.clone());
        let writing = disk.start(WRITING, move || write(&path, pieces, &space))?;
        let received = receive(&mut stream, &sender, self.expected_bytes, monitor).await;
        // The request to the member ends here, even if the writer is not finished.
        drop((sender, stream));
        if let Err(RunError::DiskHangs(_)) = received {
            return Err(disk.hangs(&writing, HANGS_AFTER).into());
        }
        // Also after another failure: the directory must not be removed while the writer uses it.
        let written = disk.end(writing).await?;
        received?;
        written
    }
}

/// Sends the pieces of the stream to the writer.
async fn receive(
    stream: &mut SnapshotStream,
    sender: &Sender<Bytes>,
    expected_bytes: u64,
    monitor: &SharedMonitor,
) -> Result<(), RunError> {
    let start = Instant::now();
    let allowed = STREAM_GRACE + Duration::from_secs(expected_bytes / SLOWEST_BYTES_PER_S);
    let mut received_bytes = 0u64;
    let mut waited_for_disk = Duration::ZERO;
    let stopped = || monitor.advance(0).is_break();
    while let Some(piece) = until_stopped(stream.next(), stopped).await?? {
        received_bytes += piece.len() as u64;
        if monitor.advance(piece.len() as u64).is_break() {
            return Err(RunError::Stopped);
        }
        let waiting_since = Instant::now();
        let sending = tokio::time::timeout(HANGS_AFTER, sender.send(piece));
        match until_stopped(sending, stopped).await? {
            Ok(Ok(())) => {}
            // The writer has ended. Its own result has the reason.
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                return Err(RunError::DiskHangs(DiskHangs {
                    what: WRITING,
                    for_at_least: HANGS_AFTER,
                }));
            }
        }
        waited_for_disk += waiting_since.elapsed();
        let took = start.elapsed();
        if took > allowed {
            return Err(RunError::TooSlow {
                received_bytes,
                took,
                waited_for_disk,
            });
        }
    }
    Ok(())
}

/// Waits for `work`, and checks regularly whether the run should stop.
async fn until_stopped<T>(
    work: impl Future<Output = T>,
    stopped: impl Fn() -> bool,
) -> Result<T, RunError> {
    let mut work = pin!(work);
    loop {
        match tokio::time::timeout(LOOK_EVERY, &mut work).await {
            Ok(value) => return Ok(value),
            Err(_) if stopped() => return Err(RunError::Stopped),
            Err(_) => {}
        }
    }
}

/// Receives pieces until the stream ends, and writes them.
fn write(path: &Path, mut pieces: Receiver<Bytes>, space: &SpaceGuard) -> Result<Taken, RunError> {
    let mut file = durable_file::create(path).map_err(write_error(path))?;
    let mut digest = Sha256::new();
    let mut blocks = blocks::Hasher::default();
    // The last 32 bytes so far: they may be the trailer.
    let mut tail: Vec<u8> = Vec::new();
    let mut received_bytes = 0u64;
    let (mut space_checked_at, mut synced_at) = (0, 0);
    while let Some(piece) = pieces.blocking_recv() {
        received_bytes += piece.len() as u64;
        durable_file::append(&mut file, &piece).map_err(write_error(path))?;
        blocks.update(&piece);
        hold_back(&mut tail, &piece, &mut digest);
        if received_bytes - synced_at >= SYNCED_EVERY_BYTES {
            synced_at = received_bytes;
            durable_file::sync_data(&file).map_err(write_error(path))?;
        }
        if received_bytes - space_checked_at >= SPACE_CHECK_BYTES {
            space_checked_at = received_bytes;
            space.check()?;
        }
    }
    let Trailer::Present { data_bytes } = Trailer::of(received_bytes) else {
        return Err(RunError::Cut {
            received_bytes,
            problem: "this is not a complete database with a SHA-256 at its end".into(),
        });
    };
    // The digest of the file also includes the trailer.
    let mut whole = digest.clone();
    whole.update(&tail);
    let found = digest.finalize();
    if found[..] != tail[..] {
        return Err(RunError::Trailer {
            expected: hex(&tail),
            found: hex(&found),
        });
    }
    durable_file::sync(&file).map_err(write_error(path))?;
    Ok(Taken {
        data_bytes,
        file_bytes: data_bytes + TRAILER_BYTES,
        file_sha256: hex(&whole.finalize()),
        blocks: blocks.finish(),
        verified: vec![Level::Trailer],
    })
}

/// Hashes everything except the last 32 bytes so far, which stay in `tail`.
fn hold_back(tail: &mut Vec<u8>, piece: &[u8], digest: &mut Sha256) {
    const HELD: usize = TRAILER_BYTES as usize;
    match piece
        .len()
        .checked_sub(HELD)
        .and_then(|cut| piece.split_at_checked(cut))
    {
        Some((now, held)) => {
            digest.update(&*tail);
            digest.update(now);
            tail.clear();
            tail.extend_from_slice(held);
        }
        None => {
            tail.extend_from_slice(piece);
            let over = tail.len().saturating_sub(HELD);
            digest.update(tail.get(..over).unwrap_or_default());
            tail.drain(..over);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trailer_is_held_back_however_the_stream_is_cut() {
        let data: Vec<u8> = (0..1000u32).map(|number| number as u8).collect();
        let wanted = Sha256::digest(&data[..968]);
        for size in [1, 7, 31, 32, 33, 100, 999, 1000] {
            let (mut tail, mut digest) = (Vec::new(), Sha256::new());
            for piece in data.chunks(size) {
                hold_back(&mut tail, piece, &mut digest);
            }
            assert_eq!(tail, &data[968..], "{size}");
            assert_eq!(digest.finalize(), wanted, "{size}");
        }
    }
}
