//! The buckets of etcd that are read here.

/// The bucket of the records.
pub(crate) const KEY_BUCKET: &[u8] = b"key";
/// The bucket of the leases.
pub(crate) const LEASE_BUCKET: &[u8] = b"lease";
/// The bucket of everything that etcd keeps about the file itself.
pub(crate) const META_BUCKET: &[u8] = b"meta";
