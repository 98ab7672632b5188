//! Any bytes as a database: the whole check, then HashKV. The metas get a right checksum, since no
//! fuzzer finds one.
#![no_main]

use etcd_file::Scratch;
use etcd_file::bolt::Bolt;
use etcd_file::check::{Origin, check};
use etcd_file::mvcc::hash_kv;
use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;

fn scratch() -> std::io::Result<Box<dyn Scratch>> {
    Ok(Box::new(Vec::<u8>::new()))
}

fn fix_checksum(page: &mut [u8]) {
    let Some(meta) = page.get_mut(16..80) else {
        return;
    };
    let checksum = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    meta[56..].copy_from_slice(&checksum.to_le_bytes());
}

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    fix_checksum(&mut file);
    if let Some(page) = file.get_mut(1024..) {
        fix_checksum(page);
    }
    for origin in [Origin::Snapshot, Origin::Database] {
        let mut done = 0;
        let checked = check(&file, origin, &scratch, &mut |bytes| {
            done += bytes;
            ControlFlow::Continue(())
        });
        let checked = checked.expect("memory can always be read");
        assert!(done <= file.len() as u64, "more pages than the file has");
        if checked.structure.errors() > 0 {
            return;
        }
        if let (Some(summary), Ok(bolt)) = (checked.summary, Bolt::open(&file)) {
            let compacted = summary.compact_revision;
            let _ = hash_kv(&bolt, summary.current_revision, compacted, &scratch, &mut |_| {
                ControlFlow::Continue(())
            });
        }
    }
});
