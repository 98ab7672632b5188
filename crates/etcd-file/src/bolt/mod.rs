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
mod limits;
mod meta;
mod open;
mod page;
mod rewrite;
mod unused;

pub use byte_order::ByteOrder;
pub use check::{Entry, Report, Visitor, check};
pub use cursor::{Cursor, CursorError};
pub use limits::{MAX_DEPTH, MAX_KEY_BYTES, MAX_PAGES};
pub use meta::{Meta, MetaProblem};
pub use open::{Bolt, OpenError};
pub use page::Value;
pub use rewrite::{Entries, Rewrite, RewriteError, Rewritten};
pub use unused::unused_blocks;
