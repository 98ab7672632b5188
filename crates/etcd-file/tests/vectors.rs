//! The published test vectors of etcd and bbolt.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use etcd_file::bolt::Bolt;
use etcd_file::check::{Checked, Origin, check};
use etcd_file::finding::Severity;
use etcd_file::mvcc::hash_kv;
use etcd_file::{ReadAt, Scratch};
use std::ops::ControlFlow;
use test_support::bolt_file::{Node, Options, Tree, values, write};
use test_support::etcd_content::{Store, key_value, revision, set, tombstone};

fn scratch() -> std::io::Result<Box<dyn Scratch>> {
    Ok(Box::new(Vec::<u8>::new()))
}

fn checked(file: &dyn ReadAt) -> Checked {
    check(file, Origin::Database, &scratch, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

fn errors(checked: &Checked) -> Vec<String> {
    checked
        .structure
        .of(Severity::Error)
        .chain(checked.content.of(Severity::Error))
        .map(ToString::to_string)
        .collect()
}

#[test]
fn status_hash_of_a_fresh_server_after_ten_puts_is_the_one_that_etcdutl_expects() {
    for (version, hash) in [
        ("3.6.0", 0x6213_2b4d),
        ("3.7.0", 0xe7a6_e44b),
        ("3.8.0", 0x4b84_b1be),
    ] {
        let mut store = Store::default();
        for key in 0..10 {
            store.put(key.to_string().as_bytes(), &[0; 100]);
        }
        let mut tree = store.database();
        set(&mut tree, "cluster", "clusterVersion", version);
        set(
            &mut tree,
            "members",
            "8e9e05c52164694d",
            r#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default","clientURLs":["http://localhost:2379"]}"#,
        );
        set(
            &mut tree,
            "meta",
            "confState",
            r#"{"voters":[10276657743932975437],"auto_leave":false}"#,
        );
        set(&mut tree, "meta", "consistent_index", 14u64.to_be_bytes());
        set(&mut tree, "meta", "storageVersion", version);
        set(&mut tree, "meta", "term", 2u64.to_be_bytes());
        let file = write(&tree, &Options::default());
        let checked = checked(&file);
        assert_eq!(errors(&checked), [""; 0]);
        let summary = checked.summary.unwrap();
        assert_eq!(summary.status_hash, hash, "{version}");
        assert_eq!(summary.revision, 11);
        assert_eq!(summary.live_keys, 10);
        assert_eq!(summary.members, 1);
        assert_eq!(summary.storage_version.as_deref(), Some(version));
    }
}

/// etcd's own sequence of keys for its tables of HashKV.
fn pick_key(number: i64) -> &'static str {
    match number {
        n if n % 142 == 30 => "zenek",
        n if n % 71 == 30 => "xavery",
        n => [
            "alice",
            "bob",
            "celine",
            "dominik",
            "eve",
            "frederica",
            "gorge",
        ][(n % 7) as usize],
    }
}

const HASHES_BY_REVISION: [(u32, i64, i64); 19] = [
    (4_082_599_214, -1, 35),
    (2_279_933_401, 35, 106),
    (3_284_231_217, 106, 177),
    (126_286_495, 177, 248),
    (900_108_730, 248, 319),
    (2_475_485_232, 319, 390),
    (1_226_296_507, 390, 461),
    (2_503_661_030, 461, 532),
    (4_155_130_747, 532, 603),
    (106_915_399, 603, 674),
    (406_914_006, 674, 745),
    (1_882_211_381, 745, 816),
    (806_177_088, 816, 887),
    (664_311_366, 887, 958),
    (1_496_914_449, 958, 1029),
    (2_434_525_091, 1029, 1100),
    (3_988_652_253, 1100, 1171),
    (1_122_462_288, 1171, 1242),
    (724_436_716, 1242, 1883),
];

const HASHES_AT_LAST_REVISION: [(u32, i64, i64); 19] = [
    (1_913_897_190, -1, 73),
    (224_860_069, 73, 145),
    (1_565_167_519, 145, 217),
    (1_566_261_620, 217, 289),
    (2_037_173_024, 289, 361),
    (691_659_396, 361, 433),
    (2_713_730_748, 433, 505),
    (3_919_322_507, 505, 577),
    (769_967_540, 577, 649),
    (2_909_194_793, 649, 721),
    (1_576_921_157, 721, 793),
    (4_067_701_532, 793, 865),
    (2_226_384_237, 865, 937),
    (2_923_408_134, 937, 1009),
    (2_680_329_256, 1009, 1081),
    (1_546_717_673, 1081, 1153),
    (2_713_657_846, 1153, 1225),
    (1_046_575_299, 1225, 1297),
    (2_017_735_779, 1297, 2508),
];

fn hash_kv_of(store: &Store, revision: i64, compact_revision: i64) -> u32 {
    let file = write(&store.database(), &Options::default());
    let bolt = Bolt::open(&file).unwrap();
    hash_kv(&bolt, revision, compact_revision, &scratch, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

/// Takes away what a compaction does: of each key all records up to the revision but its newest put.
fn compact(store: &mut Store, compact_revision: i64) {
    let mut newest = std::collections::BTreeMap::new();
    for (raw, value) in &store.records {
        let main = i64::from_be_bytes(raw[..8].try_into().unwrap());
        if main <= compact_revision {
            let key_len = usize::from(value[1]);
            newest.insert(value[2..2 + key_len].to_vec(), raw.clone());
        }
    }
    store.records.retain(|raw, value| {
        let main = i64::from_be_bytes(raw[..8].try_into().unwrap());
        let key_len = usize::from(value[1]);
        main > compact_revision
            || newest.get(&value[2..2 + key_len]) == Some(raw) && raw.len() == 17
    });
}

#[test]
fn hash_kv_equals_all_published_values_before_and_after_compaction() {
    for table in [HASHES_BY_REVISION, HASHES_AT_LAST_REVISION] {
        for compacts in [false, true] {
            let mut store = Store::default();
            let mut start = 0;
            for (index, (hash, compact_revision, revision)) in table.into_iter().enumerate() {
                let count = if index + 1 == table.len() { 1210 } else { 71 };
                for number in start..=start + count {
                    store.put(pick_key(number).as_bytes(), number.to_string().as_bytes());
                }
                start += count;
                assert_eq!(
                    hash_kv_of(&store, revision, compact_revision),
                    hash,
                    "revision {revision}, compacted {compacts}"
                );
                if compacts {
                    compact(&mut store, revision);
                }
            }
        }
    }
}

#[test]
fn a_free_list_with_a_page_twice_and_a_page_nobody_has_is_told_as_bbolt_tells_it() {
    // The shape of etcd's corrupted_backup.db: free list [3, 3] on page 3, page 4 lost.
    let buckets: Tree = [
        "alarm",
        "auth",
        "authRoles",
        "authUsers",
        "cluster",
        "key",
        "lease",
        "members",
        "members_removed",
        "meta",
    ]
    .into_iter()
    .map(|name| (name.into(), values([("k", "v")])))
    .collect();
    let options = Options {
        freelist: Some(vec![3, 3]),
        unused_pages: 1,
        ..Options::default()
    };
    let file = write(&buckets, &options);
    let checked = checked(&file);
    let structure: Vec<_> = checked
        .structure
        .of(Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        structure,
        [
            "page 3, offset 12288: the free list contains this page twice",
            "page 3, offset 12288: the free list contains this page, but a tree uses it",
            "page 4, offset 16384: no tree uses this page, and the free list does not contain it",
        ]
    );
}

#[test]
fn the_marker_of_a_revision_bump_is_no_damage_and_counts_as_one_key() {
    let mut store = Store::default();
    store.put(b"a", b"1");
    store.delete(b"a");
    store.put(b"a", b"2");
    let mut tree = store.database();
    set(&mut tree, "key", revision(1_000_004, 0), "");
    set(
        &mut tree,
        "meta",
        "scheduledCompactRev",
        revision(1_000_004, 0),
    );
    let checked = checked(&write(&tree, &Options::default()));
    assert_eq!(errors(&checked), [""; 0]);
    let summary = checked.summary.unwrap();
    assert_eq!(summary.live_keys, 2);
    assert_eq!(summary.current_revision, 1_000_004);
    assert_eq!(summary.compact_revision, 1_000_004);
}

#[test]
fn records_that_do_not_follow_from_one_another_are_told() {
    type Record = (Vec<u8>, Vec<u8>);
    let put = |main, create, version| -> Record {
        (
            revision(main, 0),
            key_value(b"k", create, main, version, b"v", 0),
        )
    };
    let deletion = |main| -> Record { (tombstone(main, 0), key_value(b"k", 0, 0, 0, b"", 0)) };
    let other_mod = |main| -> Record { (revision(main, 0), key_value(b"k", 2, 99, 1, b"v", 0)) };
    for (records, told) in [
        (
            vec![put(2, 2, 1), put(3, 2, 2), deletion(4), put(5, 5, 1)],
            None,
        ),
        (vec![deletion(3), put(4, 4, 1)], None),
        (vec![put(5, 2, 4), put(6, 2, 5)], None),
        (vec![put(2, 2, 1), put(3, 2, 3)], Some("its version is 3")),
        (
            vec![put(4, 2, 2), put(5, 3, 3)],
            Some("its create_revision is 3"),
        ),
        (
            vec![put(2, 2, 1), deletion(3), put(4, 2, 2)],
            Some("revision 3 had deleted"),
        ),
        (
            vec![put(2, 2, 1), deletion(3), deletion(4)],
            Some("deletes a key"),
        ),
        (
            vec![other_mod(2)],
            Some("its mod_revision is 99, expected 2"),
        ),
        (
            vec![put(3, 4, 1)],
            Some("its create_revision is 4, expected 1 to 3"),
        ),
        (vec![put(3, 3, 0)], Some("its version is 0")),
        (
            vec![put(3, 3, 2)],
            Some("its version is 2, but it was created"),
        ),
        (
            vec![(b"short".to_vec(), vec![])],
            Some("a revision of 5 bytes"),
        ),
        (
            vec![(revision(2, 0), vec![0xff])],
            Some("a field without its field number"),
        ),
    ] {
        let mut tree = Store::default().database();
        for (key, value) in records {
            set(&mut tree, "key", key, value);
        }
        let checked = checked(&write(&tree, &Options::default()));
        let found = errors(&checked);
        match told {
            None => assert_eq!(found, [""; 0]),
            Some(told) => assert!(
                found.iter().any(|error| error.contains(told)),
                "{told}: {found:?}"
            ),
        }
    }
}

#[test]
fn a_key_attached_to_a_lease_that_does_not_exist_is_a_warning() {
    let mut store = Store::default();
    store.put_with_lease(b"a", b"1", 0x1234);
    store.put_with_lease(b"b", b"1", 0x77);
    let mut tree = store.database();
    set(&mut tree, "lease", 0x77u64.to_be_bytes(), "\x08\x77");
    let checked = checked(&write(&tree, &Options::default()));
    assert_eq!(errors(&checked), [""; 0]);
    let warnings: Vec<_> = checked
        .content
        .of(Severity::Warning)
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        warnings,
        [
            "bucket \"lease\": 1 live keys are attached to leases that do not exist, such as lease 1234; these keys never expire"
        ]
    );
}

#[test]
fn what_etcd_needs_and_is_not_there_is_told() {
    let checked_tree = |change: &dyn Fn(&mut Tree)| {
        let mut tree = Store::default().database();
        change(&mut tree);
        errors(&checked(&write(&tree, &Options::default()))).join("; ")
    };
    let remove = |name: &'static str| move |tree: &mut Tree| drop(tree.remove(name.as_bytes()));
    assert!(checked_tree(&remove("key")).contains("bucket \"key\" is missing"));
    assert!(checked_tree(&remove("meta")).contains("bucket \"meta\" is missing"));
    assert_eq!(checked_tree(&remove("cluster")), "");
    assert!(
        checked_tree(&|tree| {
            set(
                tree,
                "key",
                revision(2, 0),
                key_value(b"k", 2, 2, 1, b"v", 0),
            );
            set(tree, "meta", "consistent_index", 0u64.to_be_bytes());
        })
        .contains("consistent_index is missing or 0")
    );
    assert!(
        checked_tree(&|tree| set(tree, "members", "ab", r#"{"id":172}"#))
            .contains("member ab: its own id is ac")
    );
    assert!(
        checked_tree(&|tree| set(tree, "members", "ab", "{")).contains("not the expected JSON")
    );
    assert!(
        checked_tree(&|tree| {
            tree.insert(b"loose".to_vec(), Node::Value(b"value".to_vec()));
        })
        .contains("a value where only buckets are allowed")
    );
}
