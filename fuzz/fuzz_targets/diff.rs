//! Any bytes as a database and its log: the keys can be read and compared with themselves, or there is an error.
#![no_main]

use etcd_file::keyspace::{Fingerprints, LiveKeys, Replayed, compare, read, replay};
use etcd_file::raft::Segment;
use etcd_lifeboat_fuzz::{fix_checksums, scratch};
use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;

/// A log of entries with right checksums, from pieces that begin with their length.
fn log(mut bytes: &[u8]) -> Vec<u8> {
    let mut log = Vec::new();
    let mut crc = 0;
    let mut record = |kind: u8, data: &[u8]| {
        crc = crc32c::crc32c_append(crc, data);
        let mut record = vec![0x08, kind, 0x10];
        let mut number = crc;
        while number >= 0x80 {
            record.push(number as u8 | 0x80);
            number >>= 7;
        }
        record.push(number as u8);
        record.extend([0x1a, data.len() as u8 & 0x7f]);
        record.extend(data);
        let padding = (8 - record.len() % 8) % 8;
        let frame = match padding {
            0 => record.len() as u64,
            padding => record.len() as u64 | (0x80 | padding as u64) << 56,
        };
        log.extend(frame.to_le_bytes());
        log.extend(&record);
        log.resize(log.len() + padding, 0);
    };
    let mut index = 0u8;
    while let Some((len, rest)) = bytes.split_first() {
        let (data, rest) = rest.split_at(rest.len().min(usize::from(*len % 100)));
        bytes = rest;
        index = (index + 1) & 0x7f;
        let mut entry = vec![0x08, 0, 0x10, 1, 0x18, index, 0x22, data.len() as u8];
        entry.extend(data);
        record(2, &entry);
    }
    log
}

fuzz_target!(|data: &[u8]| {
    // The last two bytes are the length of the requests.
    let Some((data, len)) = data.split_last_chunk() else {
        return;
    };
    let requests = data.len().saturating_sub(usize::from(u16::from_le_bytes(*len)));
    let (database, requests) = data.split_at(requests);
    let mut file = database.to_vec();
    fix_checksums(&mut file);
    let mut fingerprints = Fingerprints::default();
    let Ok(keys) = read(&file, &mut fingerprints, &scratch, &mut |_| {
        ControlFlow::Continue(())
    }) else {
        return;
    };
    let log = log(requests);
    let segments = [Segment {
        name: "0000000000000000-0000000000000000.wal".into(),
        bytes: &log,
    }];
    let nothing = Replayed::default();
    let replayed = replay(&file, &keys, &segments, &mut fingerprints, &scratch);
    for log in [Some(&nothing), replayed.as_ref().ok()].into_iter().flatten() {
        let mut one = LiveKeys::of(&keys, log);
        let mut other = LiveKeys::of(&keys, log);
        let mut last = None;
        let mut count = 0;
        while let Some(key) = one.next().expect("memory can be read") {
            assert!(last.as_ref() < Some(&key.key), "the keys are in order");
            last = Some(key.key);
            count += 1;
        }
        let mut one = LiveKeys::of(&keys, log);
        let unchanged = compare(
            &mut one,
            &mut other,
            &mut |change| panic!("it differs from itself: {change:?}"),
            &mut |_| ControlFlow::Continue(()),
        );
        assert_eq!(unchanged.ok(), Some(count));
    }
});
