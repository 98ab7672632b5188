//! `etcd-lifeboat status`, also as `kubectl lifeboat status` and `kubectl lifeboat list`.

use crate::cli::exit_code;
use crate::cli::flags::cluster::ClusterArgs;
use crate::cli::output::{self, Format};
use crate::cli::runtime::runtime;
use anyhow::{Context, anyhow};
use jiff::Timestamp;
use operator::status::overview::{self, NodeOverview, Overview};
use std::time::Duration;

/// A user must not wait for minutes.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Show the backups of each node of a cluster, and all problems
///
/// The exit code is 1 if the newest proven backup of a node is stale, or if a Backup has a problem.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat status
  etcd-lifeboat status --output json")]
pub(crate) struct Args {
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let (overview, now) = look(&args.cluster)?;
    let text = match args.output {
        Format::Json => output::json(&overview)?,
        Format::Table => table(&overview, now),
    };
    output::print(&text);
    for problem in &overview.problems {
        output::error(problem);
    }
    Ok(if overview.ok {
        exit_code::DONE
    } else {
        exit_code::FAILED
    })
}

/// `kubectl lifeboat list`: shows the backups of all nodes.
pub(crate) fn list(args: Args) -> anyhow::Result<u8> {
    let (overview, _) = look(&args.cluster)?;
    let text = match args.output {
        Format::Json => output::json(&overview.nodes)?,
        Format::Table => {
            let rows = overview.nodes.iter().flat_map(|node| {
                let own = node.backups.iter().map(|backup| (String::new(), backup));
                let others = node.other_etcds.iter().filter_map(|etcd| {
                    let newest = etcd.last_verified.as_ref()?;
                    Some((format!("etcd-{}/", etcd.name), newest))
                });
                let copies = node.volume.iter().flat_map(|volume| &volume.backups);
                let copies = copies.map(|backup| ("volume: ".to_string(), backup));
                own.chain(others).chain(copies).map(|(directory, backup)| {
                    [
                        output::one_line(&node.node),
                        output::one_line(&format!("{directory}{}", backup.name)),
                        output::one_line(&backup.origin),
                        backup.revision.to_string(),
                        size(backup.size_bytes),
                        output::one_line(&backup.verified.join(",")),
                    ]
                })
            });
            output::table(
                ["NODE", "NAME", "ORIGIN", "REVISION", "SIZE", "VERIFIED"],
                rows,
            )
        }
    };
    output::print(&text);
    Ok(exit_code::DONE)
}

fn look(cluster: &ClusterArgs) -> anyhow::Result<(Overview, Timestamp)> {
    let runtime = runtime()?;
    let now = Timestamp::now();
    let overview = runtime.block_on(async {
        let client = cluster.client().await?;
        let looking = overview::read_overview(&client, now);
        let looked = tokio::time::timeout(ANSWER_WITHIN, looking).await;
        looked
            .context("the API server does not answer; run `etcd-lifeboat list` on a node to see its backups")?
            .map_err(|error| anyhow!("cannot read the state of the cluster: {}", operator::api_error_message(&error)))
    })?;
    Ok((overview, now))
}

fn table(overview: &Overview, now: Timestamp) -> String {
    let none = || "-".to_string();
    let rows = overview.nodes.iter().map(|node| {
        let newest = node.last_verified.as_ref();
        [
            output::one_line(&node.node),
            node.state.to_string(),
            newest.map_or_else(none, |newest| {
                output::one_line(&age(&newest.finished_at, now))
            }),
            newest.map_or_else(none, |newest| newest.revision.to_string()),
            newest.map_or_else(none, |newest| size(newest.size_bytes)),
            node.kept.to_string(),
            next(node, now).unwrap_or_else(none),
            node.problem.as_deref().map_or_else(none, output::one_line),
        ]
    });
    output::table(
        [
            "NODE", "STATE", "VERIFIED", "REVISION", "SIZE", "KEPT", "NEXT", "PROBLEM",
        ],
        rows,
    )
}

fn size(bytes: i64) -> String {
    output::bytes(u64::try_from(bytes).unwrap_or_default())
}

/// How long ago, in the largest unit that fits.
fn age(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => format!("{} ago", short(now.duration_since(time).as_secs())),
        Err(_) => time.into(),
    }
}

fn next(node: &NodeOverview, now: Timestamp) -> Option<String> {
    let due: Timestamp = node.next_due.as_ref()?.parse().ok()?;
    let seconds = due.duration_since(now).as_secs();
    Some(if seconds > 0 {
        format!("in {}", short(seconds))
    } else {
        "now".into()
    })
}

fn short(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{} s", seconds.max(0)),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
