//! A maker of bbolt files, written from the format's description alone so that it can't share a
//! mistake with the reader under test. It makes what etcd would never write, too: other page sizes and
//! byte orders, nested and inline buckets, stored free lists.

use std::collections::BTreeMap;

/// One element of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A value.
    Value(Vec<u8>),
    /// A nested bucket.
    Bucket(Tree),
}

/// The elements of a bucket, by key.
pub type Tree = BTreeMap<Vec<u8>, Node>;

/// How a file is to be written.
#[derive(Debug, Clone)]
pub struct Options {
    /// Page size, in bytes.
    pub page_size: usize,
    /// As on s390x.
    pub big_endian: bool,
    /// Whether small buckets go into their parent's page, as bbolt does it.
    pub inline: bool,
    /// Maximum number of elements per page, to make deep trees with little data.
    pub max_elements: usize,
    /// The page ids of the stored free list. If `None`, no free list is stored, as etcd does it.
    pub freelist: Option<Vec<u64>>,
    /// Pages behind the ones in use that no tree refers to.
    pub unused_pages: u64,
    /// Transaction id of the meta on page 0; page 1 has the one before.
    pub txid: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            page_size: 4096,
            big_endian: false,
            inline: true,
            max_elements: 1000,
            freelist: None,
            unused_pages: 0,
            txid: 10,
        }
    }
}

/// Makes a tree of values.
pub fn values<K: Into<Vec<u8>>, V: Into<Vec<u8>>>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> Node {
    Node::Bucket(
        entries
            .into_iter()
            .map(|(key, value)| (key.into(), Node::Value(value.into())))
            .collect(),
    )
}

const NO_FREELIST: u64 = u64::MAX;
/// Page flag of a branch page.
pub const BRANCH: u16 = 1;
/// Page flag of a leaf page.
pub const LEAF: u16 = 2;
const META: u16 = 4;
const FREELIST: u16 = 16;

/// Writes a whole file.
pub fn write(root: &Tree, options: &Options) -> Vec<u8> {
    let mut writer = Writer {
        options,
        out: vec![0; 2 * options.page_size],
    };
    let freelist = match &options.freelist {
        None => NO_FREELIST,
        Some(ids) => {
            let mut payload = Vec::new();
            ids.iter().for_each(|id| writer.u64(&mut payload, *id));
            writer.page(FREELIST, ids.len() as u16, &payload)
        }
    };
    let root_page = writer.tree(root);
    writer
        .out
        .extend(vec![0; options.unused_pages as usize * options.page_size]);
    let pages = (writer.out.len() / options.page_size) as u64;
    let mut out = writer.out.clone();
    for slot in 0..2u64 {
        let meta = meta(
            options,
            slot,
            options.txid - slot,
            root_page,
            freelist,
            pages,
        );
        let at = slot as usize * options.page_size;
        out[at..at + meta.len()].copy_from_slice(&meta);
    }
    out
}

/// A page header and meta, with the right checksum.
pub fn meta(
    options: &Options,
    slot: u64,
    txid: u64,
    root: u64,
    freelist: u64,
    high_water_mark: u64,
) -> Vec<u8> {
    let writer = Writer {
        options,
        out: Vec::new(),
    };
    let mut page = writer.header(slot, META, 0, 0);
    let mut body = Vec::new();
    writer.u32(&mut body, 0xED0C_DAED);
    writer.u32(&mut body, 2);
    writer.u32(&mut body, options.page_size as u32);
    writer.u32(&mut body, 0);
    for field in [root, 0, freelist, high_water_mark, txid] {
        writer.u64(&mut body, field);
    }
    let checksum = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    writer.u64(&mut body, checksum);
    page.extend(body);
    page
}

/// Puts the right checksum on the meta of a page that a test has changed.
pub fn fix_checksum(file: &mut [u8], page_at: usize) {
    let body = &file[page_at + 16..page_at + 72];
    let checksum = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    file[page_at + 72..page_at + 80].copy_from_slice(&checksum.to_le_bytes());
}

struct Writer<'o> {
    options: &'o Options,
    out: Vec<u8>,
}

impl Writer<'_> {
    fn u16(&self, out: &mut Vec<u8>, number: u16) {
        out.extend(if self.options.big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        });
    }

    fn u32(&self, out: &mut Vec<u8>, number: u32) {
        out.extend(if self.options.big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        });
    }

    fn u64(&self, out: &mut Vec<u8>, number: u64) {
        out.extend(if self.options.big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        });
    }

    fn header(&self, id: u64, flags: u16, count: u16, overflow: u32) -> Vec<u8> {
        let mut out = Vec::new();
        self.u64(&mut out, id);
        self.u16(&mut out, flags);
        self.u16(&mut out, count);
        self.u32(&mut out, overflow);
        out
    }

    fn page(&mut self, flags: u16, count: u16, payload: &[u8]) -> u64 {
        let page_size = self.options.page_size;
        let id = (self.out.len() / page_size) as u64;
        let pages = (16 + payload.len()).div_ceil(page_size);
        let header = self.header(id, flags, count, pages as u32 - 1);
        let end = self.out.len() + pages * page_size;
        self.out.extend(header);
        self.out.extend(payload);
        self.out.resize(end, 0);
        id
    }

    /// Writes a bucket's tree and gives its first page.
    fn tree(&mut self, tree: &Tree) -> u64 {
        let elements: Vec<_> = tree
            .iter()
            .map(|(key, node)| match node {
                Node::Value(value) => (0, key.clone(), value.clone()),
                Node::Bucket(bucket) => (1, key.clone(), self.bucket_value(bucket)),
            })
            .collect();
        let room = self.options.page_size - 16;
        let mut level = Vec::new();
        for chunk in self.chunks(
            &elements,
            |(_, key, value)| 16 + key.len() + value.len(),
            room,
        ) {
            let payload = self.leaf_payload(chunk);
            let first = chunk.first().map(|e| e.1.clone()).unwrap_or_default();
            level.push((first, self.page(LEAF, chunk.len() as u16, &payload)));
        }
        while level.len() > 1 {
            let mut above = Vec::new();
            for chunk in self.chunks(&level, |(key, _)| 16 + key.len(), room) {
                let (mut array, mut data) = (Vec::new(), Vec::<u8>::new());
                for (index, (key, child)) in chunk.iter().enumerate() {
                    let pos = 16 * (chunk.len() - index) + data.len();
                    self.u32(&mut array, pos as u32);
                    self.u32(&mut array, key.len() as u32);
                    self.u64(&mut array, *child);
                    data.extend(key);
                }
                array.extend(data);
                let page = self.page(BRANCH, chunk.len() as u16, &array);
                above.push((chunk[0].0.clone(), page));
            }
            level = above;
        }
        level[0].1
    }

    fn leaf_payload(&self, elements: &[(u32, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let (mut array, mut data) = (Vec::new(), Vec::<u8>::new());
        for (index, (flags, key, value)) in elements.iter().enumerate() {
            let pos = 16 * (elements.len() - index) + data.len();
            for field in [*flags, pos as u32, key.len() as u32, value.len() as u32] {
                self.u32(&mut array, field);
            }
            data.extend(key);
            data.extend(value);
        }
        array.extend(data);
        array
    }

    fn bucket_value(&mut self, tree: &Tree) -> Vec<u8> {
        let mut value = Vec::new();
        if self.options.inline {
            let elements: Option<Vec<_>> = tree
                .iter()
                .map(|(key, node)| match node {
                    Node::Value(value) => Some((0, key.clone(), value.clone())),
                    Node::Bucket(_) => None,
                })
                .collect();
            if let Some(elements) = elements {
                let payload = self.leaf_payload(&elements);
                if 16 + payload.len() <= self.options.page_size / 4 {
                    self.u64(&mut value, 0);
                    self.u64(&mut value, 0);
                    value.extend(self.header(0, LEAF, elements.len() as u16, 0));
                    value.extend(payload);
                    return value;
                }
            }
        }
        let root = self.tree(tree);
        self.u64(&mut value, root);
        self.u64(&mut value, 0);
        value
    }

    /// Splits elements into pages; an empty tree is one empty page.
    fn chunks<'e, T>(
        &self,
        elements: &'e [T],
        bytes: impl Fn(&T) -> usize,
        room: usize,
    ) -> Vec<&'e [T]> {
        let mut chunks = Vec::new();
        let mut start = 0;
        let mut used = 0;
        for (index, element) in elements.iter().enumerate() {
            let full = index - start >= self.options.max_elements;
            if index > start && (full || used + bytes(element) > room) {
                chunks.push(&elements[start..index]);
                start = index;
                used = 0;
            }
            used += bytes(element);
        }
        chunks.push(&elements[start..]);
        chunks
    }
}

/// Adds the SHA-256 that makes a snapshot of a database.
pub fn with_trailer(mut database: Vec<u8>) -> Vec<u8> {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(&database);
    database.extend(&digest[..]);
    database
}
