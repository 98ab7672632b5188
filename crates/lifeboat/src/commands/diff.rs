//! `etcd-lifeboat diff`.

use crate::cli::exit_code;
use crate::cli::output::{self, Format};
use crate::cli::progress_bar::Bar;
use backup_store::repository::DEFAULT_ROOT;
use backup_store::restore::{ChangeType, ChangedKey, Difference, KeyRecord, Side, choose};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

/// Keys that a table shows. JSON has all.
const MAX_ROWS: usize = 50;
/// Rows of the summary. All other groups share one row.
const MAX_GROUPS: usize = 1000;
/// Objects that change all the time. They are counted, but a table does not show them one by one.
const COUNTED_ONLY: [&str; 2] = ["Event", "Lease"];

/// Show which keys a restore would change
///
/// FROM is what is there now, and TO is what would take its place. Each is the name of a backup, or `latest`, a backup directory, a
/// snapshot file made by any tool, a copy of the db file of a member, or the data directory of a stopped member. Of a data directory,
/// the log is read too, because the newest changes are only there. If etcd runs, take a snapshot of it and compare that.
///
/// A key vanishes if only FROM has it, returns if only TO has it, and differs if both have it with different values. Values are not
/// shown. The command does not check whether the sources are intact: `verify` does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat diff /var/lib/etcd latest
  etcd-lifeboat diff now.db snapshot.db
  etcd-lifeboat diff --output json now.db 2026-11-22_031500

Exit codes: 0 compared, 1 not compared, 2 wrong usage.")]
pub(crate) struct Args {
    /// What is there now: a data directory, a backup or a snapshot file
    from: String,
    /// What would take its place: a backup, a snapshot file or a data directory
    to: String,
    /// Directory of the log of a data directory, if it is not in it
    #[arg(long, value_name = "DIR")]
    wal_dir: Option<PathBuf>,
    /// Directory of the backups
    #[arg(long, alias = "backupPath", value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Totals {
    vanish: u64,
    r#return: u64,
    differ: u64,
}

impl Totals {
    fn count(&mut self, change: ChangeType) {
        match change {
            ChangeType::Vanishes => self.vanish += 1,
            ChangeType::Returns => self.r#return += 1,
            ChangeType::Differs => self.differ += 1,
        }
    }

    fn cells(self) -> [String; 3] {
        [self.vanish, self.r#return, self.differ].map(|count| count.to_string())
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let from = choose(&args.from, &args.backup_path)?.path;
    let to = choose(&args.to, &args.backup_path)?.path;
    let bar = Bar::new();
    let difference = Difference::read(&from, &to, args.wal_dir.as_deref(), &bar)?;
    match args.output {
        Format::Json => write_json(&difference, &mut std::io::stdout().lock(), &bar)?,
        Format::Table => output::print(&tables(&difference, &bar)?),
    }
    Ok(exit_code::DONE)
}

/// Writes each change when it is found, because there can be millions.
pub(crate) fn write_json(
    difference: &Difference,
    out: &mut dyn Write,
    bar: &Bar,
) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(out);
    let (from, to) = (
        output::json_line(&difference.from)?,
        output::json_line(&difference.to)?,
    );
    let mut totals = Totals::default();
    let mut written = write!(out, "{{\"from\":{from},\n\"to\":{to},\n\"changes\":[");
    let mut separator = "\n";
    let unchanged = difference.each(
        &mut |key| {
            totals.count(key.change);
            if written.is_ok() {
                written = output::json_line(&key)
                    .map_err(Into::into)
                    .and_then(|key| write!(out, "{separator}{key}"));
            }
            separator = ",\n";
        },
        bar,
    )?;
    bar.finish();
    let totals = output::json_line(&totals)?;
    written
        .and_then(|()| {
            writeln!(
                out,
                "\n],\n\"totals\":{totals},\n\"unchanged\":{unchanged}}}"
            )
        })
        .and_then(|()| out.flush())
        // A closed pipe is not an error.
        .or_else(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Ok(()),
            _ => Err(error),
        })?;
    Ok(())
}

/// The tables for people.
pub(crate) fn tables(difference: &Difference, bar: &Bar) -> anyhow::Result<String> {
    let mut groups: BTreeMap<[String; 2], Totals> = BTreeMap::new();
    let mut others = Totals::default();
    let mut totals = Totals::default();
    let mut rows: Vec<[String; 3]> = Vec::new();
    let mut not_shown = 0u64;
    let unchanged = difference.each(
        &mut |key| {
            totals.count(key.change);
            let group = group(&key);
            let has_space = groups.len() < MAX_GROUPS || groups.contains_key(&group);
            match has_space {
                true => groups.entry(group).or_default().count(key.change),
                false => others.count(key.change),
            }
            let is_shown = !COUNTED_ONLY.map(Some).contains(&key.kind.as_deref());
            match is_shown && rows.len() < MAX_ROWS {
                true => rows.push(row(key)),
                false => not_shown += 1,
            }
        },
        bar,
    )?;
    bar.finish();
    let mut text = output::table(
        ["", ""],
        [
            ["from".to_string(), for_people(&difference.from)],
            ["to".to_string(), for_people(&difference.to)],
            ["unchanged".to_string(), format!("{unchanged} keys")],
        ],
    );
    let line = |names: [String; 2], totals: Totals| {
        let [kind, namespace] = names;
        let [vanish, r#return, differ] = totals.cells();
        [kind, namespace, vanish, r#return, differ]
    };
    let mut lines: Vec<_> = groups
        .into_iter()
        .map(|(names, totals)| line(names, totals))
        .collect();
    let total = others.vanish + others.r#return + others.differ;
    if total > 0 {
        lines.push(line(["(others)".into(), String::new()], others));
    }
    lines.push(line(["all".into(), String::new()], totals));
    text.push('\n');
    text += &output::table(["KIND", "NAMESPACE", "VANISH", "RETURN", "DIFFER"], lines);
    if !rows.is_empty() {
        text.push('\n');
        text += &output::table(["CHANGE", "KEY", "REVISION"], rows);
    }
    if not_shown > 0 {
        text += &format!(
            "\n{not_shown} more changes: --output json shows all. Events and leases are only counted here.\n"
        );
    }
    Ok(text)
}

fn for_people(side: &Side) -> String {
    let mut text = format!("{}, revision {}", side.path.display(), side.revision);
    let Some(log) = &side.log else {
        return text;
    };
    text += &format!(", {} entries of its log included", log.entries);
    if log.maybe_uncommitted_entries > 0 {
        text += &format!(
            ", the last {} of them perhaps never confirmed to a client",
            log.maybe_uncommitted_entries
        );
    }
    if let Some(reason) = &log.left_out_because {
        text += &format!(
            "; the last {} entries are NOT included: {}",
            log.left_out_entries,
            output::one_line(reason)
        );
    }
    text
}

/// The row of the summary in which a key counts.
fn group(key: &ChangedKey) -> [String; 2] {
    let kind = key.kind.as_ref().or(key.resource.as_ref());
    let kind = kind.map_or("(not an object)", String::as_str);
    [kind, key.namespace.as_deref().unwrap_or_default()].map(output::one_line)
}

fn row(key: ChangedKey) -> [String; 3] {
    let revision = |record: &Option<KeyRecord>| {
        let record = record.as_ref();
        record.map_or("-".to_string(), |record| record.mod_revision.to_string())
    };
    let revisions = format!("{} → {}", revision(&key.from), revision(&key.to));
    let change = match key.change {
        ChangeType::Vanishes => "vanishes",
        ChangeType::Returns => "returns",
        ChangeType::Differs => "differs",
    };
    let [kind, _] = group(&key);
    let name = match (&key.name, &key.namespace) {
        (Some(name), Some(namespace)) => format!("{kind} {namespace}/{name}"),
        (Some(name), None) => format!("{kind} {name}"),
        _ => key.key,
    };
    [change.into(), output::one_line(&name), revisions]
}
