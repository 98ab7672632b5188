//! Any bytes as a backup's record: read or refused, and what was read is written and read again alike.
#![no_main]

use backup_plan::record::Record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = serde_json::from_slice::<Record>(data) {
        let written = serde_json::to_vec(&record).expect("a record can be written");
        let again: Record = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(record, again);
    }
    if let Ok(record) = Record::from_json(data) {
        let text = record.to_json().expect("a record can be written");
        assert!(Record::from_json(&text).is_ok());
    }
});
