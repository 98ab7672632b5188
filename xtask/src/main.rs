//! Commands for the developers of etcd-lifeboat.

mod bench;
mod book;
mod demo;
mod dist;
mod fuzz;
mod image;
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
    #[command(disable_help_flag = true)]
    Cluster(Passed),
    /// Get the Kubernetes that the tests run beside
    #[command(disable_help_flag = true)]
    Kubernetes(Passed),
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
    /// Build the documentation as a book, in target/book
    Book,
    /// Build static programs for all architectures
    Dist,
    /// Build a container image for all architectures
    Image {
        /// For this machine's architecture alone, where the tests on nodes with kubelets look for it
        #[arg(long)]
        for_tests: bool,
    },
    /// Measure beside etcd's own tools
    Bench(bench::Args),
}

/// For a program that is built only when it is needed.
#[derive(clap::Args)]
struct Passed {
    /// See `--help` of the command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<std::ffi::OsString>,
}

fn in_cluster_crate(name: &str, passed: &Passed) -> anyhow::Result<()> {
    let status = xtask::command::cargo()
        .args(["run", "--quiet", "--package", "xtask-cluster", "--", name])
        .args(&passed.args)
        .current_dir(std::env::current_dir()?)
        .status()?;
    // It has said why.
    std::process::exit(status.code().unwrap_or(1));
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Test(args) => test::run(&args),
        Command::Etcd => xtask::etcd::run(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Generate => in_cluster_crate("generate", &Passed { args: Vec::new() }),
        Command::Demo => demo::run(),
        Command::Skew(args) => skew::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Kubernetes(args) => in_cluster_crate("kubernetes", &args),
        Command::Cluster(args) => in_cluster_crate("cluster", &args),
        Command::Book => book::run(),
        Command::Dist => dist::run(),
        Command::Image { for_tests: true } => image::for_this_machine(),
        Command::Image { for_tests: false } => image::run(),
        Command::Bench(args) => bench::run(&args),
    }
}
