//! Commands for the developers of etcd-lifeboat.

mod bench;
mod cluster;
mod command;
mod demo;
mod dist;
mod etcd;
mod fuzz;
mod generate;
mod image;
mod kubernetes;
mod skew;
mod soak;
mod test;

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
    /// Run all tests: formatting, lints, unit and integration tests beside real servers
    Test(test::Args),
    /// Get the etcd versions that the tests run beside
    Etcd,
    /// A real Kubernetes control plane on this machine, in one command
    Cluster(cluster::Args),
    /// Get the Kubernetes that the tests run beside
    Kubernetes(kubernetes::Args),
    /// Run the fuzz targets, which needs a nightly compiler
    Fuzz(fuzz::Args),
    /// Write the files that come from the program's own types
    Generate,
    /// Watch three nodes keep backups of a real cluster, for a minute
    Demo,
    /// Let servers run for long under disturbances, or kill one over and over
    Soak(soak::Args),
    /// Test this version beside another one, which it builds
    Skew(skew::Args),
    /// Build static programs for all architectures
    Dist,
    /// Build a container image for all architectures
    Image,
    /// Measure beside etcd's own tools
    Bench(bench::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Test(args) => test::run(&args),
        Command::Etcd => etcd::run(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Generate => generate::run(),
        Command::Demo => demo::run(),
        Command::Skew(args) => skew::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Kubernetes(args) => kubernetes::run(&args),
        Command::Cluster(args) => cluster::run(args),
        Command::Dist => dist::run(),
        Command::Image => image::run(),
        Command::Bench(args) => bench::run(&args),
    }
}
