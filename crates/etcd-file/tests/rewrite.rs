//! What a change of a database leaves: the same elements as before, with the change, in a file without a fault.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::ptr_arg
)]

use etcd_file::Failure;
use etcd_file::bolt::{Bolt, Entries, Entry, Rewrite, RewriteError, Visitor};
use etcd_file::finding::{Findings, Severity};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use test_support::bolt_file::{self, Node, Options, Tree, values};

struct Nothing;

impl Visitor for Nothing {
    fn bucket(&mut self, _: &[u8]) {}

    fn entry(&mut self, _: Entry<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Applies a change to the bytes of a file, as it is applied on a disk.
fn apply(file: &[u8], change: impl FnOnce(&mut Rewrite<'_, '_>)) -> Vec<u8> {
    let file = file.to_vec();
    let bolt = Bolt::open(&file).unwrap();
    let mut rewrite = Rewrite::of(&bolt).unwrap();
    change(&mut rewrite);
    let rewritten = rewrite.finish().unwrap();
    let mut changed = file[..rewritten.old_bytes as usize].to_vec();
    changed.extend(&rewritten.pages);
    assert_eq!(changed.len() as u64, rewritten.new_bytes);
    changed[..rewritten.metas.len()].copy_from_slice(&rewritten.metas);
    changed
}

/// All elements, after a check that finds nothing.
fn contents(file: &Vec<u8>) -> BTreeMap<Vec<u8>, Entries> {
    let bolt = Bolt::open(file).unwrap();
    let mut findings = Findings::default();
    etcd_file::bolt::check(&bolt, &mut Nothing, &mut findings, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let problems: Vec<_> = [Severity::Error, Severity::Warning]
        .into_iter()
        .flat_map(|severity| findings.of(severity))
        .map(ToString::to_string)
        .collect();
    assert!(problems.is_empty(), "{problems:?}");
    let rewrite = Rewrite::of(&bolt).unwrap();
    ["alarm", "auth", "key", "members", "meta", "new", "z"]
        .into_iter()
        .filter(|name| rewrite.has_bucket(name.as_bytes()))
        .map(|name| (name.into(), rewrite.read(name.as_bytes()).unwrap()))
        .collect()
}

fn number(n: u64) -> Vec<u8> {
    format!("{n:08}").into_bytes()
}

fn entries(bucket: &Node) -> Entries {
    let Node::Bucket(tree) = bucket else {
        panic!("a bucket")
    };
    tree.iter()
        .map(|(key, value)| match value {
            Node::Value(value) => (key.clone(), value.clone()),
            Node::Bucket(_) => panic!("a value"),
        })
        .collect()
}

fn changed_as_expected(tree: &Tree, options: &Options) {
    let file = bolt_file::write(tree, options);
    let mut expected: BTreeMap<_, _> = tree
        .iter()
        .map(|(name, bucket)| (name.clone(), entries(bucket)))
        .collect();
    let members = Entries::from([(b"1a".to_vec(), vec![7; 100])]);
    let changed = apply(&file, |rewrite| {
        rewrite.replace(b"members", members.clone()).unwrap();
        rewrite.append(b"key", b"99999999", b"").unwrap();
        rewrite.replace(b"new", Entries::new()).unwrap();
    });
    expected.insert(b"members".to_vec(), members);
    expected.insert(b"new".to_vec(), Entries::new());
    expected
        .entry(b"key".to_vec())
        .or_default()
        .insert(b"99999999".to_vec(), Vec::new());
    assert_eq!(contents(&changed), expected);
    // What was changed once can be changed again, also without a single page of the first writer.
    let again = apply(&changed, |rewrite| {
        rewrite.append(b"key", b"99999999x", &[1; 9000]).unwrap();
    });
    expected
        .get_mut(&b"key"[..])
        .unwrap()
        .insert(b"99999999x".to_vec(), vec![1; 9000]);
    assert_eq!(contents(&again), expected);
}

fn etcd_tree(keys: u64) -> Tree {
    Tree::from([
        (b"alarm".to_vec(), values::<Vec<u8>, Vec<u8>>([])),
        (b"auth".to_vec(), values([("authRevision", [0u8; 8])])),
        (
            b"key".to_vec(),
            values((0..keys).map(|n| (number(n), number(n * 7)))),
        ),
        (
            b"members".to_vec(),
            values([("8e9e05c52164694d", [b'x'; 200])]),
        ),
        (b"meta".to_vec(), values([("consistent_index", [0u8; 8])])),
    ])
}

#[test]
fn every_depth_page_size_and_byte_order_keeps_all_elements() {
    for page_size in [1024, 4096, 16384, 65536] {
        for big_endian in [false, true] {
            for inline in [false, true] {
                // With two elements a page, 60 keys make a tree of depth 6.
                for (keys, max_elements) in [(0, 9), (1, 9), (9, 9), (60, 2), (60, 3), (500, 1000)]
                {
                    let options = Options {
                        page_size,
                        big_endian,
                        inline,
                        max_elements,
                        ..Options::default()
                    };
                    changed_as_expected(&etcd_tree(keys), &options);
                }
            }
        }
    }
}

#[test]
fn a_database_without_buckets_and_one_with_a_stored_free_list_can_be_changed() {
    changed_as_expected(&Tree::new(), &Options::default());
    let listed = Options {
        unused_pages: 3,
        ..Options::default()
    };
    let pages = bolt_file::write(&etcd_tree(500), &listed).len() as u64 / 4096;
    let options = Options {
        freelist: Some((pages - 2..=pages).collect()),
        ..listed
    };
    let file = bolt_file::write(&etcd_tree(500), &options);
    assert!(Bolt::open(&file).unwrap().meta().freelist.is_some());
    let changed = apply(&file, |rewrite| {
        rewrite.replace(b"members", Entries::new()).unwrap();
    });
    assert_eq!(Bolt::open(&changed).unwrap().meta().freelist, None);
    changed_as_expected(&etcd_tree(500), &options);
}

#[test]
fn a_leaf_and_a_branch_that_are_full_get_a_neighbour() {
    // 14 elements of 16 + 8 + 256 bytes fill a page of 4096 bytes.
    for keys in [13, 14, 15, 28, 29] {
        let mut tree = etcd_tree(0);
        let full = (0..keys).map(|n| (number(n), vec![1u8; 256]));
        tree.insert(b"key".to_vec(), values(full));
        changed_as_expected(&tree, &Options::default());
    }
    // A branch of 1024 bytes has 42 children of 16 + 8 bytes, and each leaf has one element.
    for keys in [41, 42, 43, 44, 42 * 42 - 1, 42 * 42, 42 * 42 + 1] {
        let mut tree = etcd_tree(0);
        let full = (0..keys).map(|n| (number(n), vec![1u8; 980]));
        tree.insert(b"key".to_vec(), values(full));
        let options = Options {
            page_size: 1024,
            max_elements: 42,
            ..Options::default()
        };
        changed_as_expected(&tree, &options);
    }
}

#[test]
fn only_the_right_edge_is_written() {
    let file = bolt_file::write(&etcd_tree(200_000), &Options::default());
    let bolt = Bolt::open(&file).unwrap();
    let mut rewrite = Rewrite::of(&bolt).unwrap();
    rewrite.append(b"key", b"99999999", b"").unwrap();
    rewrite.replace(b"members", Entries::new()).unwrap();
    let rewritten = rewrite.finish().unwrap();
    assert!(rewritten.written_pages <= 10, "{}", rewritten.written_pages);
}

#[test]
fn a_key_that_is_not_the_last_and_one_that_is_too_long_are_refused() {
    for keys in [5, 500] {
        let file = bolt_file::write(&etcd_tree(keys), &Options::default());
        let bolt = Bolt::open(&file).unwrap();
        let mut rewrite = Rewrite::of(&bolt).unwrap();
        for key in [number(0), number(keys - 1)] {
            let error = rewrite.append(b"key", &key, b"").unwrap_err();
            assert!(matches!(error, RewriteError::NotLast { .. }), "{error}");
        }
        for key in [vec![b'9'; 32769], vec![]] {
            let long = Entries::from([(key, vec![])]);
            let error = rewrite.replace(b"meta", long).unwrap_err();
            assert!(matches!(error, RewriteError::KeyLength { .. }), "{error}");
        }
    }
}

#[test]
fn a_transaction_id_that_can_not_grow_is_refused() {
    let options = Options {
        txid: (1 << 62) - 1,
        ..Options::default()
    };
    let file = bolt_file::write(&etcd_tree(5), &options);
    let bolt = Bolt::open(&file).unwrap();
    let error = Rewrite::of(&bolt).unwrap().finish().err().unwrap();
    assert!(matches!(error, RewriteError::Overflow { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_written_is_read_again(
        bits in 10u32..14,
        big_endian: bool,
        inline: bool,
        max_elements in 2usize..40,
        keys in prop::collection::btree_map(prop::collection::vec(0u8..9, 1..40), prop::collection::vec(any::<u8>(), 0..3000), 0..60),
        small in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..40), prop::collection::vec(any::<u8>(), 0..900), 0..30),
    ) {
        let mut tree = etcd_tree(0);
        tree.insert(b"key".to_vec(), values(keys.clone()));
        let options = Options { page_size: 1 << bits, big_endian, inline, max_elements, ..Options::default() };
        let file = bolt_file::write(&tree, &options);
        let changed = apply(&file, |rewrite| {
            rewrite.replace(b"meta", small.clone()).unwrap();
            rewrite.append(b"key", b"\xff", b"end").unwrap();
        });
        let found = contents(&changed);
        let mut expected = keys;
        expected.insert(b"\xff".to_vec(), b"end".to_vec());
        prop_assert_eq!(&found[&b"key"[..]], &expected);
        prop_assert_eq!(&found[&b"meta"[..]], &small);
    }
}
