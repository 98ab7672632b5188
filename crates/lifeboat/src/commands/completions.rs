//! `etcd-lifeboat completions`.

use crate::cli::exit_code;
use crate::cli::output;
use clap::Command;
use clap_complete::Shell;

/// Print the completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat completions bash > /etc/bash_completion.d/etcd-lifeboat
  etcd-lifeboat completions zsh > /usr/local/share/zsh/site-functions/_etcd-lifeboat")]
pub(crate) struct Args {
    /// Name of the shell
    shell: Shell,
}

pub(crate) fn run(args: Args, mut command: Command) -> anyhow::Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "etcd-lifeboat", &mut text);
    output::print(&String::from_utf8_lossy(&text));
    Ok(exit_code::DONE)
}
