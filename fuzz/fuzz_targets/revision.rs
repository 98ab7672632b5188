//! Any bytes as the key of a record; what is read says the same when it is written again.
#![no_main]

use etcd_file::mvcc::RecordKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = RecordKey::parse(data) {
        let mut again = key.revision.main.to_be_bytes().to_vec();
        again.push(b'_');
        again.extend(key.revision.sub.to_be_bytes());
        if key.tombstone {
            again.push(b't');
        }
        assert_eq!(again, data);
    }
});
