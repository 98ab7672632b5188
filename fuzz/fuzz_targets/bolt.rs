//! Any bytes as a database: the whole check, then HashKV. The metas get a right checksum, since no
//! fuzzer finds one.
#![no_main]

use etcd_file::bolt::Bolt;
use etcd_file::check::{Origin, check};
use etcd_file::mvcc::hash_kv;
use etcd_lifeboat_fuzz::{fix_checksums, scratch};
use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    fix_checksums(&mut file);
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
