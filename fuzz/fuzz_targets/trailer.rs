//! Any bytes as a snapshot with or without its trailer.
#![no_main]

use etcd_file::snapshot_file::{Trailer, digests};
use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;

fuzz_target!(|data: &[u8]| {
    let size = data.len() as u64;
    match Trailer::of(size) {
        Trailer::Present { data_bytes } => {
            assert_eq!(data_bytes + 32, size);
            let found = digests(&data.to_vec(), data_bytes, &mut |_| ControlFlow::Continue(()));
            let found = found.expect("memory can always be read");
            assert_eq!(found.stored[..], data[data.len() - 32..]);
        }
        Trailer::Absent => assert_eq!(size % 512, 0),
        Trailer::Misplaced { odd_bytes } => assert!(odd_bytes > 0 && odd_bytes < 512),
    }
});
