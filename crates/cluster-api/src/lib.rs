//! What the cluster stores, and the rules for it: the custom resources, their defaults and limits, and whether a node's backups
//! are stale. Values in, values out: no network and no clock.
//!
//! - [`resources`]: `Backup`, `EtcdBackup` and `NodeBackup`, and their CRDs.
//! - [`admission`]: what the API server itself refuses of a `Backup`.
//! - [`validation`]: a `Backup` with its defaults, or what is wrong with it.
//! - [`placement`]: where the backups of `Backup/default` are, and which servers make them.
//! - [`conditions`]: the words of conditions and events.
//! - [`freshness`]: whether the backups of a node, and of all nodes together, are stale.

pub mod admission;
pub mod conditions;
pub mod freshness;
pub mod placement;
pub mod resources;
pub mod validation;
