//! Records as etcd writes them, and a store that makes them as etcd does.

use crate::bolt_file::{Node, Tree, values};
use std::collections::BTreeMap;

/// The key of a record.
pub fn revision(main: i64, sub: i64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()].concat()
}

/// The key of a deletion's record.
pub fn tombstone(main: i64, sub: i64) -> Vec<u8> {
    [revision(main, sub), b"t".to_vec()].concat()
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A record's value; zeros are left out, as protobuf does it.
pub fn key_value(
    key: &[u8],
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    value: &[u8],
    lease: i64,
) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, number, bytes) in [
        (1, 0, Some(key)),
        (2, create_revision, None),
        (3, mod_revision, None),
        (4, version, None),
        (5, 0, Some(value)),
        (6, lease, None),
    ] {
        match bytes {
            Some([]) => {}
            Some(bytes) => {
                varint(&mut out, field << 3 | 2);
                varint(&mut out, bytes.len() as u64);
                out.extend(bytes);
            }
            None if number == 0 => {}
            None => {
                varint(&mut out, field << 3);
                varint(&mut out, number as u64);
            }
        }
    }
    out
}

/// A small store with one change per revision, as etcd numbers them.
#[derive(Debug, Clone)]
pub struct Store {
    /// The newest revision; an empty store is at 1.
    pub revision: i64,
    /// Bucket `key`.
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
    alive: BTreeMap<Vec<u8>, (i64, i64)>,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            revision: 1,
            records: BTreeMap::new(),
            alive: BTreeMap::new(),
        }
    }
}

impl Store {
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_with_lease(key, value, 0);
    }

    /// Puts a value and attaches the key to a lease.
    pub fn put_with_lease(&mut self, key: &[u8], value: &[u8], lease: i64) {
        self.revision += 1;
        let (create, version) = self.alive.get(key).copied().unwrap_or((self.revision, 0));
        self.alive.insert(key.to_vec(), (create, version + 1));
        let record = key_value(key, create, self.revision, version + 1, value, lease);
        self.records.insert(revision(self.revision, 0), record);
    }

    /// Deletes a key, if it is alive.
    pub fn delete(&mut self, key: &[u8]) {
        if self.alive.remove(key).is_some() {
            self.revision += 1;
            self.records
                .insert(tombstone(self.revision, 0), key_value(key, 0, 0, 0, b"", 0));
        }
    }

    /// How many keys have a value.
    pub fn live_keys(&self) -> u64 {
        self.alive.len() as u64
    }

    /// A whole database with these records.
    pub fn database(&self) -> Tree {
        let consistent_index = (self.revision as u64 + 3).to_be_bytes();
        let mut tree = Tree::new();
        for name in [
            "alarm",
            "authRoles",
            "authUsers",
            "lease",
            "members",
            "members_removed",
        ] {
            tree.insert(name.into(), values::<Vec<u8>, Vec<u8>>([]));
        }
        tree.insert(
            "auth".into(),
            values([("authRevision", 1u64.to_be_bytes())]),
        );
        tree.insert("cluster".into(), values([("clusterVersion", "3.5.0")]));
        tree.insert("key".into(), values(self.records.clone()));
        tree.insert(
            "meta".into(),
            values([("consistent_index", consistent_index)]),
        );
        tree
    }
}

/// Adds or replaces one value of a bucket.
pub fn set(tree: &mut Tree, bucket: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
    match tree
        .entry(bucket.into())
        .or_insert_with(|| Node::Bucket(Tree::new()))
    {
        Node::Bucket(bucket) => bucket.insert(key.into(), Node::Value(value.into())),
        Node::Value(_) => panic!("{bucket} is a value"),
    };
}
