//! Records that are on disks stay readable: one of each version, as it was written.

use backup_plan::record::{Record, VERSION};
use serde_json::Value;

const FIXTURES: [(&str, &str); 3] = [
    ("version-2", include_str!("records/version-2.json")),
    ("version-1", include_str!("records/version-1.json")),
    (
        "version-1-without-later-fields",
        include_str!("records/version-1-without-later-fields.json"),
    ),
];

#[test]
fn there_is_a_record_of_each_version() {
    for version in 1..=VERSION {
        let prefix = format!("version-{version}");
        assert!(FIXTURES.iter().any(|(name, _)| name.starts_with(&prefix)));
    }
}

#[test]
fn old_records_are_read_with_all_that_is_in_them() {
    for (name, text) in FIXTURES {
        let record = Record::from_json(text.as_bytes()).unwrap();
        assert_eq!(record.snapshot.revision, 6670, "{name}");
        assert_eq!(record.members.len(), 3, "{name}");
        let is_later = name != "version-1-without-later-fields";
        assert_eq!(record.compared_at.is_some(), is_later);
        // Nothing is lost, and nothing comes to it but what has a default.
        let was: Value = serde_json::from_str(text).unwrap();
        let mut is = serde_json::to_value(&record).unwrap();
        if !is_later {
            assert_eq!(
                is.as_object_mut().unwrap().remove("compared_at"),
                Some(Value::Null)
            );
        }
        assert_eq!(is, was, "{name}");
    }
}

#[test]
fn records_of_versions_to_come_are_read_as_far_as_they_are_known() {
    let (_, text) = FIXTURES[0];
    let mut record: Value = serde_json::from_str(text).unwrap();
    record["version"] = (VERSION + 1).into();
    record["colour"] = "green".into();
    record["snapshot"]["pages"] = 7.into();
    let read: Record = serde_json::from_value(record).unwrap();
    assert_eq!(read.version, VERSION + 1);
    assert_eq!(read.snapshot.total_keys, 4994);
}

#[test]
fn a_record_with_one_flipped_bit_is_refused() {
    let (_, text) = FIXTURES[0];
    let record = Record::from_json(text.as_bytes()).unwrap();
    assert_eq!(record.to_json().unwrap(), text.as_bytes());
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut flipped = text.as_bytes().to_vec();
            flipped[at] ^= 1 << bit;
            let read = Record::from_json(&flipped);
            assert!(read.is_err(), "byte {at} bit {bit}");
        }
    }
}
