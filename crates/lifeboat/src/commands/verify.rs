//! `etcd-lifeboat verify`.

use crate::cli::exit_code;
use crate::cli::flags::connection::ConnectionArgs;
use crate::cli::output::{self, Format};
use crate::cli::progress_bar::Bar;
use crate::cli::report::for_people;
use crate::cli::runtime::runtime;
use backup_store::member::Connection;
use backup_store::verify::{Level, Options, verify, verify_against_member};
use clap::ValueEnum;
use std::path::PathBuf;

/// Check that a snapshot is complete and restorable, and show its properties
///
/// PATH is a backup directory, a snapshot file made by any tool, or a copy of the db file of a stopped member. The command
/// only reads the file.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Levels (each level includes the levels above it):
  trailer    the SHA-256 at the end of the file matches the file
  structure  every page of the database is valid and in its place
  content    every record is readable and consistent with the records before it
  member     the member given by --against has the same data (HashKV);
             it accepts no writes while it computes the hash, so do not use the leader

Examples:
  etcd-lifeboat verify snapshot.db
  etcd-lifeboat verify /var/lib/etcd-auto-backup/2026-11-22_031500
  etcd-lifeboat verify --level content /var/lib/etcd/member/snap/db
  etcd-lifeboat verify --output json snapshot.db
  etcd-lifeboat verify snapshot.db --against https://127.0.0.1:2379 \\
      --cacert ca.crt --cert client.crt --key client.key

Exit codes: 0 verified, 1 damaged or not verified, 2 wrong usage.")]
pub(crate) struct Args {
    /// Backup directory or snapshot file
    path: PathBuf,
    /// How much to check [default: content, or member with --against]; if you set structure, content or member here, the
    /// file may have no trailer
    #[arg(long, value_enum)]
    level: Option<LevelArg>,
    /// Endpoint of a member to compare the data with
    #[arg(long, value_name = "ENDPOINT")]
    against: Option<String>,
    /// Output format
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

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let (options, against) = match args.options() {
        Ok(found) => found,
        Err(problem) => {
            output::error(&problem);
            return Ok(exit_code::USAGE);
        }
    };
    let bar = Bar::new();
    let report = match against {
        None => verify(&args.path, &options, &bar),
        Some(connection) => runtime()?.block_on(verify_against_member(
            &args.path,
            &options,
            &connection,
            &bar,
        )),
    };
    bar.finish();
    let report = report?;
    let text = match args.output {
        Format::Json => output::json(&report)?,
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
    fn options(&self) -> Result<(Options, Option<Connection>), String> {
        let level = self.level.unwrap_or(match self.against {
            Some(_) => LevelArg::Member,
            None => LevelArg::Content,
        });
        let endpoint = match &self.against {
            Some(endpoint) if level == LevelArg::Member => Some(endpoint.clone()),
            Some(_) => {
                return Err(
                    "--against needs --level member: leave --level out, or set it to member"
                        .into(),
                );
            }
            // Without --against, the endpoint is that of etcdctl.
            None if level == LevelArg::Member => {
                Some(std::env::var("ETCDCTL_ENDPOINTS").map_err(|_| {
                    "--level member needs the endpoint of a member: set --against ENDPOINT or ETCDCTL_ENDPOINTS"
                })?)
            }
            None => None,
        };
        let against = endpoint
            .map(|endpoint| self.connection.to_connection(endpoint))
            .transpose()?;
        let options = Options {
            level: match level {
                LevelArg::Trailer => Level::Trailer,
                LevelArg::Structure => Level::Structure,
                LevelArg::Content | LevelArg::Member => Level::Content,
            },
            // If you name a level beyond the trailer, you know what the file is.
            trailer_optional: self.level.is_some_and(|level| level != LevelArg::Trailer),
        };
        Ok((options, against))
    }
}
