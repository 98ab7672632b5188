//! `etcd-lifeboat list`.

use crate::cli::exit_code;
use crate::cli::output::{self, Format};
use backup_plan::record::{Level, names_of};
use backup_store::repository::{DEFAULT_ROOT, Entry, Kind, Repository};
use jiff::Timestamp;
use serde::Serialize;
use std::path::PathBuf;

/// List the backups in a directory, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat list
  etcd-lifeboat list --backup-path /var/backups/etcd --output json")]
pub(crate) struct Args {
    /// Directory of the backups
    #[arg(long, alias = "backupPath", value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// A line of the list. Scripts depend on its JSON.
#[derive(Serialize)]
struct Listed {
    name: String,
    /// The etcd, if it is not the one with all objects of Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd: Option<String>,
    origin: Option<String>,
    kind: &'static str,
    time: Option<Timestamp>,
    revision: Option<i64>,
    size_bytes: Option<u64>,
    written_bytes: Option<u64>,
    verified: Vec<Level>,
    /// Whether the backup is protected from automatic removal.
    held: bool,
    /// Why the backup is unreadable.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Listed {
    fn of(entry: Entry, etcd: Option<String>) -> Self {
        let (kind, problem) = match &entry.kind {
            Kind::Backup(_) => ("backup", None),
            Kind::Unreadable(problem) => ("unreadable", Some(problem.clone())),
            Kind::Foreign => ("foreign", None),
            Kind::Partial => ("partial", None),
        };
        let record = entry.record().cloned();
        Listed {
            name: entry.name,
            etcd,
            kind,
            held: entry.held,
            problem,
            origin: record.as_ref().map(|record| record.origin.clone()),
            time: record.as_ref().map(|record| record.started_at),
            revision: record.as_ref().map(|record| record.snapshot.revision),
            size_bytes: record.as_ref().map(|record| record.snapshot.size_bytes),
            written_bytes: record.as_ref().map(|record| record.written_bytes),
            verified: record
                .map(|record| record.verified.clone())
                .unwrap_or_default(),
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let repository = Repository::open(&args.backup_path)?;
    let entries = repository.entries()?.into_iter();
    let mut listed: Vec<_> = entries.map(|entry| Listed::of(entry, None)).collect();
    for (etcd, repository) in repository.other_etcds()? {
        let entries = repository.entries()?.into_iter();
        listed.extend(entries.map(|entry| Listed::of(entry, Some(etcd.clone()))));
    }
    let problems: Vec<_> = listed
        .iter()
        .filter_map(|line| {
            let problem = line.problem.as_ref()?;
            let text = format!("cannot read backup {}: {problem}", line.name);
            Some(output::one_line(&text))
        })
        .collect();
    let text = match args.output {
        Format::Json => output::json(&listed)?,
        Format::Table => {
            let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
            output::table(
                [
                    "NAME", "KIND", "ORIGIN", "REVISION", "SIZE", "WRITTEN", "VERIFIED", "HELD",
                ],
                listed.into_iter().map(|line| {
                    let name = match &line.etcd {
                        // As its path below the directory of the backups.
                        Some(etcd) => format!("etcd-{etcd}/{}", line.name),
                        None => line.name,
                    };
                    [
                        output::one_line(&name),
                        line.kind.into(),
                        or_dash(line.origin),
                        or_dash(line.revision.map(|revision| revision.to_string())),
                        or_dash(line.size_bytes.map(output::bytes)),
                        or_dash(line.written_bytes.map(output::bytes)),
                        or_dash((!line.verified.is_empty()).then(|| names_of(&line.verified, ","))),
                        or_dash(line.held.then(|| "held".into())),
                    ]
                }),
            )
        }
    };
    output::print(&text);
    for problem in problems {
        output::error(&problem);
    }
    Ok(exit_code::DONE)
}
