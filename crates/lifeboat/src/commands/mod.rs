//! One file for each subcommand: its flags, its help, and what it prints.

pub(crate) mod backup_server;
pub(crate) mod cluster_backup;
pub(crate) mod completions;
pub(crate) mod diff;
#[cfg(feature = "kubernetes")]
pub(crate) mod export;
pub(crate) mod hold;
#[cfg(feature = "kubernetes")]
pub(crate) mod hold_on_node;
pub(crate) mod list;
pub(crate) mod man_pages;
#[cfg(feature = "kubernetes")]
pub(crate) mod manifests;
#[cfg(feature = "kubernetes")]
pub(crate) mod operator;
pub(crate) mod prune_backups;
#[cfg(feature = "kubernetes")]
pub(crate) mod request_backup;
pub(crate) mod restore;
pub(crate) mod send_backup;
#[cfg(feature = "kubernetes")]
pub(crate) mod status;
pub(crate) mod verify;
