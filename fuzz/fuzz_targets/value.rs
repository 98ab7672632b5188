//! Any bytes as the value of a record; all places in it are inside it.
#![no_main]

use etcd_file::bolt::Value;
use etcd_file::mvcc::KeyValue;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(kv) = KeyValue::decode(&mut Value::whole(data)) {
        for place in [kv.key, kv.value] {
            assert!(place.start <= place.end && place.end <= data.len() as u64);
        }
    }
});
