//! `etcd-lifeboat`: backups of etcd that are proven to be restorable.
//!
//! Parses the command line and starts the command; `commands` has a file for each.

mod cli;
mod commands;
mod http;
mod recovery;
mod sandbox;
mod server;
#[cfg(feature = "kubernetes")]
mod server_pod;
#[cfg(feature = "kubernetes")]
mod volume_pod;

use clap::{CommandFactory, Parser, Subcommand};
use cli::{exit_code, output};
use commands::{
    backup_server, cluster_backup, cluster_restore, completions, diff, hold, list, man_pages,
    prune_backups, restore, send_backup, verify,
};
#[cfg(feature = "kubernetes")]
use commands::{
    export, gather, hold_on_node, manifests, operator, request_backup, sidecar, sidecar_credential,
    status, volume_server,
};
use std::process::ExitCode;

/// Backups of etcd that are proven to be restorable.
#[derive(Parser)]
#[command(
    name = "etcd-lifeboat",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed or not verified, 2 wrong usage."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    BackupServer(backup_server::Args),
    ClusterBackup(cluster_backup::Args),
    ClusterRestore(cluster_restore::Args),
    #[cfg(feature = "kubernetes")]
    Export(export::Args),
    #[cfg(feature = "kubernetes")]
    Gather(gather::Args),
    Hold(hold::Args),
    List(list::Args),
    #[cfg(feature = "kubernetes")]
    Manifests(manifests::Args),
    #[cfg(feature = "kubernetes")]
    Operator(operator::Args),
    PruneBackups(prune_backups::Args),
    #[cfg(feature = "kubernetes")]
    RequestBackup(request_backup::Args),
    Restore(restore::Args),
    Diff(diff::Args),
    SendBackup(send_backup::Args),
    #[cfg(feature = "kubernetes")]
    Sidecar(sidecar::Args),
    #[cfg(feature = "kubernetes")]
    SidecarCredential(sidecar_credential::Args),
    #[cfg(feature = "kubernetes")]
    Status(status::Args),
    Verify(verify::Args),
    #[cfg(feature = "kubernetes")]
    VolumeServer(volume_server::Args),
    Completions(completions::Args),
    ManPages(man_pages::Args),
}

impl Command {
    /// Whether the command works on a node's files and never starts another program. Other commands may start one: a
    /// kubeconfig can name a credentials plugin.
    fn is_for_a_node(&self) -> bool {
        match self {
            Command::BackupServer(_)
            | Command::ClusterBackup(_)
            | Command::Diff(_)
            | Command::Hold(_)
            | Command::List(_)
            | Command::PruneBackups(_)
            | Command::Restore(_)
            | Command::SendBackup(_)
            | Command::Verify(_) => true,
            #[cfg(feature = "kubernetes")]
            Command::VolumeServer(_) => true,
            // It starts etcd, which replays a log.
            Command::ClusterRestore(_) | Command::Completions(_) | Command::ManPages(_) => false,
            #[cfg(feature = "kubernetes")]
            Command::Export(_)
            | Command::Gather(_)
            | Command::Manifests(_)
            | Command::Operator(_)
            | Command::RequestBackup(_)
            | Command::Sidecar(_)
            | Command::SidecarCredential(_)
            | Command::Status(_) => false,
        }
    }
}

#[cfg(feature = "kubernetes")]
/// Backups of a cluster's etcd that are proven to be restorable.
#[derive(Parser)]
#[command(
    name = "kubectl-lifeboat",
    bin_name = "kubectl lifeboat",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 failed or a problem was found, 2 wrong usage."
)]
struct Plugin {
    #[command(subcommand)]
    command: PluginCommand,
}

#[cfg(feature = "kubernetes")]
#[derive(Subcommand)]
enum PluginCommand {
    Status(status::Args),
    /// Show the newest backups of all nodes
    List(status::Args),
    /// Make a backup now and wait until it is complete
    Backup(request_backup::Args),
    Export(export::Args),
    Gather(gather::Args),
    Hold(hold_on_node::Args),
}

/// Whether the program was started as a kubectl plugin.
#[cfg(feature = "kubernetes")]
fn is_plugin() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name();
    name.is_some_and(|name| name == "kubectl-lifeboat")
}

fn main() -> ExitCode {
    #[cfg(feature = "kubernetes")]
    if is_plugin() {
        return ended(match Plugin::parse().command {
            PluginCommand::Status(args) => status::run(args),
            PluginCommand::List(args) => status::list(args),
            PluginCommand::Backup(args) => request_backup::run(args),
            PluginCommand::Export(args) => export::run(args),
            PluginCommand::Gather(args) => gather::run(args),
            PluginCommand::Hold(args) => hold_on_node::run(args),
        });
    }
    let command = Cli::parse().command;
    if command.is_for_a_node()
        && let Err(problem) = sandbox::enter()
    {
        output::error(&format!(
            "cannot restrict the system calls of this process: {problem}; continuing without this restriction"
        ));
    }
    ended(match command {
        Command::BackupServer(args) => backup_server::run(args),
        Command::ClusterBackup(args) => cluster_backup::run(args),
        Command::ClusterRestore(args) => cluster_restore::run(args),
        Command::Diff(args) => diff::run(args),
        #[cfg(feature = "kubernetes")]
        Command::Export(args) => export::run(args),
        #[cfg(feature = "kubernetes")]
        Command::Gather(args) => gather::run(args),
        Command::Hold(args) => hold::run(args),
        Command::List(args) => list::run(args),
        #[cfg(feature = "kubernetes")]
        Command::Manifests(args) => manifests::run(args),
        #[cfg(feature = "kubernetes")]
        Command::Operator(args) => operator::run(args),
        Command::PruneBackups(args) => prune_backups::run(args),
        #[cfg(feature = "kubernetes")]
        Command::RequestBackup(args) => request_backup::run(args),
        Command::Restore(args) => restore::run(args),
        Command::SendBackup(args) => send_backup::run(args),
        #[cfg(feature = "kubernetes")]
        Command::Sidecar(args) => sidecar::run(args),
        #[cfg(feature = "kubernetes")]
        Command::SidecarCredential(args) => sidecar_credential::run(args),
        #[cfg(feature = "kubernetes")]
        Command::Status(args) => status::run(args),
        Command::Verify(args) => verify::run(args),
        #[cfg(feature = "kubernetes")]
        Command::VolumeServer(args) => volume_server::run(args),
        Command::Completions(args) => completions::run(args, Cli::command()),
        Command::ManPages(args) => man_pages::run(args, Cli::command()),
    })
}

fn ended(result: anyhow::Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::error(&output::told(&error));
            ExitCode::from(exit_code::FAILED)
        }
    }
}
