//! Files that somebody or something has damaged on purpose: told, in bounded work, never a panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::ptr_arg
)]

use etcd_file::Scratch;
use etcd_file::bolt::Bolt;
use etcd_file::check::{Checked, Origin, check};
use etcd_file::finding::Severity;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use test_support::bolt_file::{Node, Options, Tree, fix_checksum, meta, values, write};
use test_support::etcd_content::{Store, set};

fn scratch() -> std::io::Result<Box<dyn Scratch>> {
    Ok(Box::new(Vec::<u8>::new()))
}

fn check_bytes(file: &Vec<u8>) -> Checked {
    let mut done = 0;
    let checked = check(file, Origin::Database, &scratch, &mut |bytes| {
        done += bytes;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(
        done <= file.len() as u64,
        "more work than the file is large"
    );
    checked
}

fn structure_errors(file: &Vec<u8>) -> String {
    let checked = check_bytes(file);
    let told: Vec<_> = checked
        .structure
        .of(Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert_eq!(told.is_empty(), checked.summary.is_some());
    told.join("\n")
}

const PAGE: usize = 1024;

/// A database with three levels of pages, inline buckets and overflow.
fn sample() -> Vec<u8> {
    let mut store = Store::default();
    for number in 0..60u32 {
        let key = format!("key-{:02}", number % 20);
        store.put(key.as_bytes(), &vec![b'v'; 30 + number as usize]);
    }
    store.put(b"big", &[b'b'; 5000]);
    let options = Options {
        page_size: PAGE,
        max_elements: 4,
        ..Options::default()
    };
    write(&store.database(), &options)
}

/// The pages of a sample that have this flag and more than one element.
fn pages_with(file: &[u8], flag: u8) -> Vec<usize> {
    (2..file.len() / PAGE)
        .filter(|page| {
            let at = page * PAGE;
            let id = u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
            id == *page as u64 && file[at + 8] == flag && file[at + 10] > 1
        })
        .collect()
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn the_sample_itself_is_whole() {
    let file = sample();
    assert_eq!(structure_errors(&file), "");
    assert!(pages_with(&file, 1).len() > 3 && pages_with(&file, 2).len() > 10);
}

#[test]
fn a_file_that_was_cut_anywhere_is_told() {
    let file = sample();
    for len in (0..file.len()).step_by(61) {
        let told = structure_errors(&file[..len].to_vec());
        assert_ne!(told, "", "cut at {len}");
    }
    assert_eq!(structure_errors(&Vec::new()), "the file is empty");
    let cut = structure_errors(&file[..file.len() - 1].to_vec());
    assert!(cut.contains("the file is truncated"), "{cut}");
}

#[test]
fn every_field_of_a_meta_out_of_range_is_told_or_falls_back_to_the_other_meta() {
    let whole = sample();
    // magic, version, page size, root, free list, high-water mark; with and without a right checksum.
    for (offset, width) in [(16, 4), (20, 4), (24, 4), (32, 8), (48, 8), (56, 8)] {
        for value in [0u64, 1, 3, 1 << 20, u64::MAX - 1, u64::MAX] {
            for right_checksum in [false, true] {
                let mut file = whole.clone();
                for page_at in [0, PAGE] {
                    put(&mut file, page_at + offset, &value.to_le_bytes()[..width]);
                    if right_checksum {
                        fix_checksum(&mut file, page_at);
                    }
                }
                let told = structure_errors(&file);
                let unchanged = file == whole;
                // No free list is what the sample says already; root 3 is a page of it, and a root of
                // another tree is a matter of content.
                if !unchanged && (offset, value) != (32, 3) {
                    assert_ne!(told, "", "offset {offset}, value {value}, {right_checksum}");
                }
            }
        }
    }
}

#[test]
fn one_damaged_meta_is_a_warning_in_a_database_and_an_error_in_a_snapshot() {
    for page in [0, 1] {
        let mut file = sample();
        file[page * PAGE + 30] ^= 1;
        let checked = check_bytes(&file);
        assert_eq!(checked.structure.errors(), 0);
        let warning = checked.structure.of(Severity::Warning).next().unwrap();
        let told = warning.to_string();
        assert!(told.starts_with(&format!("page {page}, ")), "{told}");
        assert!(told.contains("checksum"), "{told}");
        assert!(checked.summary.is_some());
        let strict = check(&file, Origin::Snapshot, &scratch, &mut |_| {
            ControlFlow::Continue(())
        });
        assert_eq!(strict.unwrap().structure.errors(), 1);
    }
}

#[test]
fn every_field_of_a_page_out_of_range_is_told_with_its_page() {
    let whole = sample();
    for flag in [1u8, 2] {
        for page in pages_with(&whole, flag) {
            let at = page * PAGE;
            // id, flags, count, overflow of the page; then flags or pos, pos or ksize, ksize, vsize of
            // its second element.
            for (offset, width) in [
                (0, 8),
                (8, 2),
                (10, 2),
                (12, 4),
                (32, 4),
                (36, 4),
                (40, 4),
                (44, 4),
            ] {
                for value in [u64::MAX, 1 << 30, 0xfff0] {
                    let mut file = whole.clone();
                    put(&mut file, at + offset, &value.to_le_bytes()[..width]);
                    let told = structure_errors(&file);
                    // 2^30 is 0 in two bytes: an empty leaf page, which is no damage to see by itself,
                    // or a branch page without children, which is.
                    let empty_leaf = flag == 2 && (offset, value) == (10, 1 << 30);
                    if !empty_leaf {
                        let named = format!("page {page}, ");
                        // A wrong child is told of the page it names.
                        let named = told.contains(&named) || flag == 1 && offset >= 40;
                        assert!(
                            named,
                            "page {page}, offset {offset}, value {value:#x}: {told:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn cycles_and_shared_pages_are_told_and_not_followed() {
    let whole = sample();
    let branches = pages_with(&whole, 1);
    for page in &branches {
        for target in branches.iter().chain(&pages_with(&whole, 2)) {
            let mut file = whole.clone();
            // The child of the second element.
            put(&mut file, page * PAGE + 40, &(*target as u64).to_le_bytes());
            if file == whole {
                continue;
            }
            let told = structure_errors(&file);
            // A branch that jumps over a level loses keys, and shares no page: only the depth tells.
            let uneven = check_bytes(&file)
                .structure
                .of(Severity::Warning)
                .any(|finding| finding.problem.contains("at depth"));
            assert!(
                told.contains("more than once") || told.contains("is not greater") || uneven,
                "page {page} → {target}: {told:?}"
            );
        }
    }
}

#[test]
fn overflow_over_pages_in_use_is_told() {
    let whole = sample();
    let leaf = pages_with(&whole, 2)[0];
    let mut file = whole.clone();
    put(&mut file, leaf * PAGE + 12, &1u32.to_le_bytes());
    let told = structure_errors(&file);
    assert!(
        told.contains("also used elsewhere") || told.contains("more than once"),
        "{told}"
    );
}

#[test]
fn keys_out_of_order_are_told_with_page_and_bucket() {
    let mut file = sample();
    // In the second element's key of a leaf of bucket "key", the main revision.
    let page = pages_with(&file, 2)
        .into_iter()
        .find(|page| {
            let at = page * PAGE + 32;
            u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) == 17
        })
        .unwrap();
    let element = page * PAGE + 32;
    let pos = u32::from_le_bytes(file[element + 4..element + 8].try_into().unwrap()) as usize;
    put(&mut file, element + pos, &[0; 8]);
    let told = structure_errors(&file);
    let named = format!(
        "page {page}, offset {}, bucket \"key\": element 1: ",
        element + pos
    );
    assert!(told.contains(&named), "{told}");
}

#[test]
fn overlapping_elements_are_refused_since_the_work_would_not_be_bounded() {
    // A page of 4,000 elements that all claim the same value of 60,000 bytes: 240 MB of it to read.
    const SIZE: usize = 1 << 17;
    let options = Options {
        page_size: SIZE,
        inline: false,
        max_elements: 65_000,
        ..Options::default()
    };
    let records = values((0..4000u32).map(|number| (number.to_be_bytes(), [])));
    let mut file = write(&Tree::from([(b"key".to_vec(), records)]), &options);
    let page_at = 2 * SIZE;
    assert_eq!(file[page_at + 10..page_at + 12], 4000u16.to_le_bytes());
    for index in 0..4000 {
        put(
            &mut file,
            page_at + 16 + 16 * index + 12,
            &40_000u32.to_le_bytes(),
        );
    }
    let checked = check_bytes(&file);
    assert_eq!(checked.structure.errors(), 3999);
    assert_eq!(checked.structure.of(Severity::Error).count(), 50);
}

#[test]
fn a_tree_deeper_than_any_is_told() {
    let mut tree = values([("leaf", "value")]);
    for _ in 0..100 {
        tree = Node::Bucket(Tree::from([(b"nested".to_vec(), tree)]));
    }
    let options = Options {
        page_size: PAGE,
        inline: false,
        ..Options::default()
    };
    let told = structure_errors(&write(&Tree::from([(b"top".to_vec(), tree)]), &options));
    assert!(told.contains("deeper than 64 pages"), "{told}");
}

#[test]
fn inline_buckets_that_lie_are_told() {
    let options = Options::default();
    let tree = Tree::from([(b"meta".to_vec(), values([("key", "value")]))]);
    let whole = write(&tree, &options);
    let page = 2 * 4096;
    // Behind page header, one element and the name "meta" comes the bucket's header, then its page.
    let inline = page + 16 + 16 + 4 + 16;
    for (at, bytes, told) in [
        (inline, &[9u8][..], "the page of an inline bucket has id 9"),
        (inline + 8, &[1], "a branch page"),
        (inline + 10, &[200], "200 elements"),
        (inline + 12, &[1], "1 overflow pages"),
        (inline + 16, &[1], "a bucket inside an inline bucket"),
        (inline + 24, &[0], "its key is empty"),
        (inline + 28, &[255], "after the page's end"),
        (
            inline - 16,
            &[3],
            "a bucket with its own page has a header of",
        ),
        (page + 28, &[10], "the bucket header has 10 bytes"),
        (page + 28, &[20], "the inline bucket has 4 bytes"),
    ] {
        let mut file = whole.clone();
        put(&mut file, at, bytes);
        let found = structure_errors(&file);
        assert!(found.contains(told), "expected {told:?} in {found:?}");
    }
}

#[test]
fn free_lists_that_lie_are_told() {
    let list = |ids: Vec<u64>, unused_pages| {
        let options = Options {
            freelist: Some(ids),
            unused_pages,
            ..Options::default()
        };
        write(&Store::default().database(), &options)
    };
    // Pages 0, 1 metas, 2 the list, 3 the tree, from 4 on unused.
    assert_eq!(structure_errors(&list(vec![4, 5], 2)), "");
    for (ids, unused, told) in [
        (vec![5, 4], 2, "expected ascending order"),
        (vec![4, 4], 1, "contains this page twice"),
        (vec![4], 2, "page 5, offset 20480: no tree uses this page"),
        (vec![3, 4], 1, "but a tree uses it"),
        (vec![2, 4], 1, "the free list itself is stored on it"),
        (vec![4, 99], 1, "below the high-water mark"),
    ] {
        let found = structure_errors(&list(ids, unused));
        assert!(found.contains(told), "expected {told:?} in {found:?}");
    }
    let whole = list(vec![4, 5], 2);
    for (at, bytes, told) in [
        (2 * 4096 + 10, &[0xff, 0x7f][..], "it has space for only"),
        (2 * 4096 + 10, &[0xff, 0xff], "it has space for only"),
        (2 * 4096 + 8, &[2], "expected a free list page"),
        (2 * 4096 + 12, &[200], "beyond the high-water mark"),
    ] {
        let mut file = whole.clone();
        if bytes == [0xff, 0xff] {
            put(&mut file, 2 * 4096 + 16, &u64::MAX.to_le_bytes());
        }
        put(&mut file, at, bytes);
        let found = structure_errors(&file);
        assert!(found.contains(told), "expected {told:?} in {found:?}");
    }
    // With 65,535 ids or more their number stands in front of them.
    let many: Vec<u64> = (0x21..0x21 + 0x10000).collect();
    let file = {
        let mut ids = vec![many.len() as u64];
        ids.extend(&many);
        // Page 2 to 0x81 hold the list with the number in front; then the tree, then unused pages.
        let pages = (16 + 8 * ids.len()).div_ceil(4096) as u64;
        let first_free = 2 + pages + 1;
        ids.truncate(1);
        ids.extend((0..many.len() as u64).map(|n| first_free + n));
        let options = Options {
            freelist: Some(ids),
            unused_pages: many.len() as u64,
            ..Options::default()
        };
        let mut file = write(&Store::default().database(), &options);
        put(&mut file, 2 * 4096 + 10, &[0xff, 0xff]);
        file
    };
    assert_eq!(structure_errors(&file), "");
}

#[test]
fn a_meta_that_promises_more_pages_than_can_be_checked_is_refused_at_once() {
    struct Sparse(Vec<u8>);
    impl etcd_file::ReadAt for Sparse {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            buf.fill(0);
            for (index, byte) in buf.iter_mut().enumerate() {
                *byte = self.0.get(offset as usize + index).copied().unwrap_or(0);
            }
            Ok(())
        }
        fn size_bytes(&self) -> std::io::Result<u64> {
            Ok(1 << 60)
        }
    }
    let options = Options::default();
    let file = Sparse(meta(&options, 0, 10, 3, u64::MAX, 1 << 40));
    let checked = check(&file, Origin::Database, &scratch, &mut |_| {
        ControlFlow::Continue(())
    });
    let told = checked
        .unwrap()
        .structure
        .of(Severity::Error)
        .next()
        .unwrap()
        .to_string();
    assert!(
        told.contains("more than the 67108864 that can be checked"),
        "{told}"
    );
}

#[test]
fn both_byte_orders_and_all_page_sizes_are_read() {
    let mut store = Store::default();
    for number in 0..500u32 {
        store.put(&number.to_be_bytes(), &vec![1; number as usize * 7 % 3000]);
    }
    let mut hashes = Vec::new();
    for page_size in [1024, 4096, 16384, 65536, 1 << 20] {
        for big_endian in [false, true] {
            let options = Options {
                page_size,
                big_endian,
                ..Options::default()
            };
            let checked = check_bytes(&write(&store.database(), &options));
            assert_eq!(checked.structure.errors() + checked.content.errors(), 0);
            hashes.push(checked.summary.unwrap().status_hash);
        }
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
}

fn trees() -> impl Strategy<Value = (BTreeMap<Vec<u8>, Vec<u8>>, usize, bool)> {
    let key = proptest::collection::vec(any::<u8>(), 1..40);
    let value = proptest::collection::vec(any::<u8>(), 0..3000);
    (
        proptest::collection::btree_map(key, value, 0..80),
        2..40usize,
        any::<bool>(),
    )
}

fn file_of(entries: &BTreeMap<Vec<u8>, Vec<u8>>, max_elements: usize, inline: bool) -> Vec<u8> {
    let mut tree = Store::default().database();
    tree.insert(b"other".to_vec(), values(entries.clone()));
    set(&mut tree, "zz", "last", "bucket");
    let options = Options {
        page_size: PAGE,
        max_elements,
        inline,
        ..Options::default()
    };
    write(&tree, &options)
}

proptest! {
    #[test]
    fn what_is_in_a_file_comes_out_again_in_order_and_from_any_key(
        (entries, max_elements, inline) in trees(),
        from in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let file = file_of(&entries, max_elements, inline);
        prop_assert_eq!(structure_errors(&file), "");
        let bolt = Bolt::open(&file).unwrap();
        prop_assert!(bolt.cursor(b"nothing").unwrap().is_none());
        let mut cursor = bolt.cursor(b"other").unwrap().unwrap();
        let mut found = Vec::new();
        while let Some(item) = cursor.next().unwrap() {
            found.push((item.key.to_vec(), item.value.in_memory().unwrap().to_vec()));
        }
        let wanted: Vec<_> = entries.clone().into_iter().collect();
        prop_assert_eq!(&found, &wanted);
        cursor.seek(&from).unwrap();
        let next = cursor.next().unwrap().map(|item| item.key.to_vec());
        let wanted = entries.range(from..).next().map(|(key, _)| key.clone());
        prop_assert_eq!(next, wanted);
    }

    #[test]
    fn no_damage_makes_the_check_or_the_cursor_panic_or_run_away(
        (entries, max_elements, inline) in trees(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut file = file_of(&entries, max_elements, inline);
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        check_bytes(&file);
        let Ok(bolt) = Bolt::open(&file) else { return Ok(()) };
        let mut elements = 0;
        if let Ok(Some(mut cursor)) = bolt.cursor(b"other") {
            while let Ok(Some(_)) = cursor.next() {
                elements += 1;
                prop_assert!(elements < file.len() * 64, "endless");
            }
        }
    }
}
