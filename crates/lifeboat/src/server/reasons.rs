//! Words that the loop and its reports share.

/// The origin of the backups that a server makes by its own schedule.
pub(crate) const ORIGIN: &str = "default";
/// The reason of a run that failed because the node's files cannot be read, or do not say where etcd is.
pub(crate) const NODE_UNKNOWN: &str = "node";
/// The reason of a run on a node without etcd: no file names an etcd, and nothing listens on the default endpoint.
pub(crate) const NO_ETCD: &str = "no-etcd";
