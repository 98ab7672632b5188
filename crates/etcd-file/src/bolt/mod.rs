//! bbolt: the database file of etcd, file format version 2.
//!
//! A file is an array of pages of one size. Two of them are metas, which name the root page of a
//! copy-on-write B+tree of buckets; a transaction writes its changed pages to free places and then one
//! meta. Numbers are in the byte order of the machine that wrote the file (etcd-io/bbolt:
//! `internal/common/{page,meta,bucket,inode}.go`, `db.go`, `tx_check.go`).

mod bitmap;
mod bucket;
mod byte_order;
pub(crate) mod check;
mod cursor;
mod freelist;
mod meta;
mod open;
mod page;

pub use byte_order::ByteOrder;
pub use check::{Entry, Report, Visitor, check};
pub use cursor::{Cursor, CursorError};
pub use meta::{Meta, MetaProblem};
pub use open::{Bolt, OpenError};
pub use page::Value;

/// Longest key that bbolt accepts, in bytes.
pub const MAX_KEY_BYTES: u32 = 32768;

/// How deep a tree, with the buckets nested in it, may be. Real ones of etcd have five levels at most.
pub const MAX_DEPTH: usize = 64;

/// Most pages of a file that this crate checks: the visited pages are a bitmap in memory, and this one
/// takes 8 MiB. With 4 KiB pages it is 256 GiB, 32 times the size that etcd is recommended for.
pub const MAX_PAGES: u64 = 1 << 26;
