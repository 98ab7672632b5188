//! Any bytes as a log of one or two segments: it ends, and no record is longer than the log.
#![no_main]

use etcd_file::raft::{Segment, WalRecord, read_wal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let split = data.first().map_or(0, |first| usize::from(*first) * data.len() / 256);
    let (first, second) = (data[..split].to_vec(), data[split..].to_vec());
    for parts in [vec![&second], vec![&first, &second]] {
        let segments: Vec<_> = (0..)
            .zip(parts)
            .map(|(number, bytes)| Segment {
                name: format!("{number:016x}-{number:016x}.wal"),
                bytes,
            })
            .collect();
        let _ = read_wal(&segments, &mut |record| {
            if let WalRecord::Entry(entry) = record {
                assert!(entry.data.len() <= data.len());
            }
            Ok(())
        });
    }
});
