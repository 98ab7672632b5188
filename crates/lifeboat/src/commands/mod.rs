//! One file for each subcommand: its flags, its help, and what it prints.

pub(crate) mod backup_server;
pub(crate) mod cluster_backup;
pub(crate) mod completions;
pub(crate) mod export;
pub(crate) mod hold;
pub(crate) mod list;
pub(crate) mod man_pages;
pub(crate) mod manifests;
pub(crate) mod operator;
pub(crate) mod prune_backups;
pub(crate) mod request_backup;
pub(crate) mod send_backup;
pub(crate) mod status;
pub(crate) mod verify;
