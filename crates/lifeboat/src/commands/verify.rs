//! `etcd-lifeboat verify`.

use crate::cli::exit_code;
use crate::cli::flags::connection::ConnectionArgs;
use crate::cli::output::{self, Format};
use crate::cli::progress_bar::Bar;
use crate::cli::report::for_people;
use crate::cli::runtime::runtime;
use backup_store::verify::{Level, Options, verify};
use clap::ValueEnum;
use std::path::PathBuf;

/// Check that a snapshot is whole and restorable, and show what is in it
///
/// Takes a backup directory, a snapshot file that any tool made, or a copy of a stopped member's db. Reads
/// the file and changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Levels, each with all before it:
  trailer    the SHA-256 at the end of the file is that of the file
  structure  every page of the database is where and what it should be
  content    every record can be read and follows from the ones before
  member     the member named by --against has the same data (HashKV);
             it stops writing while it computes the hash, so better not ask the leader

Examples:
  etcd-lifeboat verify snapshot.db
  etcd-lifeboat verify /var/lib/etcd-auto-backup/2026-11-22_031500
  etcd-lifeboat verify --level content /var/lib/etcd/member/snap/db
  etcd-lifeboat verify --output json snapshot.db
  etcd-lifeboat verify snapshot.db --against https://127.0.0.1:2379 \\
      --cacert ca.crt --cert client.crt --key client.key

Exit codes: 0 verified, 1 damaged or not verified, 2 wrong usage.")]
pub(crate) struct Args {
    /// A backup directory, or a file
    path: PathBuf,
    /// How much to check [default: content, or member with --against]; structure, content and member take a
    /// file without a trailer, too
    #[arg(long, value_enum)]
    level: Option<LevelArg>,
    /// A member to compare with
    #[arg(long, value_name = "ENDPOINT")]
    against: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LevelArg {
    Trailer,
    Structure,
    Content,
    Member,
}

impl From<LevelArg> for Level {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Trailer => Level::Trailer,
            LevelArg::Structure => Level::Structure,
            LevelArg::Content => Level::Content,
            LevelArg::Member => Level::Member,
        }
    }
}

/// Verifies and prints.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let options = match args.options() {
        Ok(options) => options,
        Err(problem) => {
            output::error(&problem);
            return Ok(exit_code::USAGE);
        }
    };
    let runtime = runtime()?;
    let bar = Bar::new();
    let report = runtime.block_on(verify(&args.path, &options, &bar));
    bar.finish();
    let report = report?;
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
        Format::Table => for_people(&report.file.display().to_string(), &report),
    };
    output::print(&text);
    Ok(if report.ok {
        exit_code::DONE
    } else {
        exit_code::FAILED
    })
}

impl Args {
    fn options(&self) -> Result<Options, String> {
        let level = self.level.map_or_else(
            || match self.against {
                Some(_) => Level::Member,
                None => Level::Content,
            },
            Level::from,
        );
        let endpoint = match &self.against {
            Some(endpoint) if level == Level::Member => Some(endpoint.clone()),
            Some(_) => {
                return Err(
                    "--against compares with a member, which only --level member does: leave --level out"
                        .into(),
                );
            }
            // Without the flag, as etcdctl would find it.
            None if level == Level::Member => {
                Some(std::env::var("ETCDCTL_ENDPOINTS").map_err(|_| {
                    "--level member needs a member: name it by --against ENDPOINT or in ETCDCTL_ENDPOINTS"
                })?)
            }
            None => None,
        };
        let against = endpoint
            .map(|endpoint| self.connection.to_connection(endpoint))
            .transpose()?;
        Ok(Options {
            level,
            // Whoever names a level beyond the trailer knows what the file is.
            trailer_optional: self.level.is_some_and(|level| level != LevelArg::Trailer),
            against,
        })
    }
}
