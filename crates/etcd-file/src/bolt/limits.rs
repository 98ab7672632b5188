//! Limits for a file.

/// Longest key that bbolt accepts, in bytes.
pub const MAX_KEY_BYTES: u32 = 32768;

/// How deep a tree, with the buckets nested in it, may be. The trees of a real etcd have at most five levels.
pub const MAX_DEPTH: usize = 64;

/// The largest number of pages that this crate checks. The visited pages are a bitmap in memory, which takes 8 MiB
/// for this number. With 4 KiB pages this is 256 GiB, 32 times the largest database that etcd recommends.
pub const MAX_PAGES: u64 = 1 << 26;
