//! The seeds of the fuzz targets: made here, so that they are never stale, and tried here, so that a
//! seed that once crashed never does again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use etcd_file::Scratch;
use etcd_file::check::{Origin, check};
use etcd_file::mvcc::{KeyValue, RecordKey};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use test_support::bolt_file::{Options, write};
use test_support::etcd_content::{Store, key_value, revision, set, tombstone};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target)
}

fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut store = Store::default();
    for number in 0..12u8 {
        store.put(
            &[b'a' + number % 5],
            &vec![number; usize::from(number) * 40],
        );
    }
    store.delete(b"a");
    let mut tree = store.database();
    set(&mut tree, "lease", 7u64.to_be_bytes(), "\x08\x07");
    set(&mut tree, "members", "ac", r#"{"id":172}"#);
    set(&mut tree, "alarm", b"\x08\x01\x10\x01".to_vec(), "");
    set(&mut tree, "meta", "scheduledCompactRev", revision(3, 0));
    set(&mut tree, "meta", "finishedCompactRev", revision(3, 0));
    let small = Options {
        page_size: 1024,
        max_elements: 4,
        ..Options::default()
    };
    let listed = Options {
        freelist: Some(vec![3]),
        ..small.clone()
    };
    let mut snapshot = b"0123456789abcdef".repeat(32);
    snapshot.extend([7; 32]);
    // Puts, a deletion and a transaction, each after its length; their length is in the last two bytes.
    let requests: &[&[u8]] = &[
        b"\x22\x06\x0a\x01a\x12\x01v",
        b"\x22\x08\x0a\x01b\x12\x01v\x18\x07",
        b"\x2a\x06\x0a\x01c\x12\x01d",
        b"\x32\x17\x0a\x09\x10\x03\x1a\x01a\x3a\x01v\x08\x00\x12\x0a\x12\x08\x0a\x01e\x12\x01w\x28\x00",
        b"\x4a\x02\x08\x07",
    ];
    let mut with_log = write(&tree, &small);
    let requests: Vec<u8> = requests
        .iter()
        .flat_map(|request| [&[request.len() as u8], *request].concat())
        .collect();
    with_log.extend(&requests);
    with_log.extend((requests.len() as u16).to_le_bytes());
    vec![
        ("diff", "log", with_log),
        ("bolt", "deep", write(&tree, &small)),
        ("bolt", "free-list", write(&tree, &listed)),
        (
            "bolt",
            "big-endian",
            write(
                &tree,
                &Options {
                    big_endian: true,
                    ..small
                },
            ),
        ),
        ("revision", "put", revision(5, 1)),
        ("revision", "deletion", tombstone(5, 1)),
        (
            "value",
            "put",
            key_value(b"key", 2, 300, 7, b"value", 1 << 60),
        ),
        ("trailer", "snapshot", snapshot),
    ]
}

#[test]
fn the_seeds_of_the_fuzz_targets_are_up_to_date() {
    for (target, name, bytes) in seeds() {
        let path = corpus(target).join(name);
        if std::env::var_os("UPDATE_SEEDS").is_some() {
            std::fs::create_dir_all(corpus(target)).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(
            kept == bytes,
            "{target}/{name} is stale: run the test with UPDATE_SEEDS=1"
        );
    }
}

#[test]
fn no_seed_makes_anything_panic() {
    let scratch = || -> std::io::Result<Box<dyn Scratch>> { Ok(Box::new(Vec::<u8>::new())) };
    for target in ["bolt", "revision", "value", "trailer"] {
        for entry in std::fs::read_dir(corpus(target)).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let _ = RecordKey::parse(&bytes);
            let _ = KeyValue::decode(&mut etcd_file::bolt::Value::whole(&bytes));
            let checked = check(&bytes, Origin::Database, &scratch, &mut |_| {
                ControlFlow::Continue(())
            });
            assert!(checked.is_ok());
        }
    }
}
