//! What a file may have at most.

/// Longest key that bbolt accepts, in bytes.
pub const MAX_KEY_BYTES: u32 = 32768;

/// How deep a tree, with the buckets nested in it, may be. Real ones of etcd have five levels at most.
pub const MAX_DEPTH: usize = 64;

/// Most pages of a file that this crate checks: the visited pages are a bitmap in memory, and this one
/// takes 8 MiB. With 4 KiB pages it is 256 GiB, 32 times the size that etcd is recommended for.
pub const MAX_PAGES: u64 = 1 << 26;
