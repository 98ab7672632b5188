//! The commands of `cargo xtask` that need the Kubernetes libraries. `cargo xtask` starts this program.

mod cluster;
mod generate;
mod kit;
mod kubelets;
mod kubernetes;
mod measure;
mod stability;

use clap::{Parser, Subcommand};

/// Commands for the developers of etcd-lifeboat.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A real Kubernetes control plane on this machine, in one command
    Cluster(cluster::Args),
    /// Get the Kubernetes that the tests run beside
    Kubernetes(kubernetes::Args),
    /// Write the files that come from the program's own types
    Generate,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Cluster(args) => cluster::run(args),
        Command::Kubernetes(args) => kubernetes::run(&args),
        Command::Generate => generate::run(),
    }
}
