//! `etcd-lifeboat cluster-restore`.

use crate::cli::exit_code;
use crate::cli::output::{self, Format};
use crate::cli::runtime::runtime;
use crate::recovery::ask::Consent;
use crate::recovery::{self, Node, RestoreOptions, survey};
use backup_plan::restore::diagnosis::{
    Advice, DiskState, MemberState, NodeFacts, Situation, advise,
};
use backup_store::repository::DEFAULT_ROOT;
use serde::Serialize;
use std::path::PathBuf;

/// Restore the control plane of this node after a disaster, or let it join again
///
/// Without arguments, the command changes nothing: it says what is the case on this node, and which command comes next. Run it as root on
/// a control-plane node whose etcd is a static pod, as kubeadm makes it. It needs no API server and no quorum.
///
/// A restore happens on one node only. All other control-plane nodes are stood down first, and join the restored one afterwards.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat cluster-restore
  etcd-lifeboat cluster-restore --stand-down
  etcd-lifeboat cluster-restore latest --without node2,node3 --plan
  etcd-lifeboat cluster-restore latest --without node2,node3
  etcd-lifeboat cluster-restore --from-this-disk --without node2,node3
  etcd-lifeboat cluster-restore --continue
  etcd-lifeboat cluster-restore --join

Exit codes: 0 done, or nothing has to be done; 1 not done, or something has to be done; 2 wrong usage.")]
pub(crate) struct Args {
    /// Restore this backup: its name, `latest`, or its directory
    #[arg(value_name = "BACKUP", group = "action")]
    backup: Option<String>,
    /// Restore what the member on this node's own disk has, with the entries that are only in its log
    #[arg(long, group = "action")]
    from_this_disk: bool,
    /// Stop the control plane of this node, and move its member aside
    #[arg(long, group = "action")]
    stand_down: bool,
    /// Join a cluster that has a quorum, with an empty member
    #[arg(long, group = "action")]
    join: bool,
    /// Start the controller manager and the scheduler, after you have looked at the restored cluster
    #[arg(long, group = "action")]
    r#continue: bool,
    /// Go on with what did not end
    #[arg(long, group = "action")]
    resume: bool,
    /// Undo what was begun, as long as etcd was not started
    #[arg(long, group = "action")]
    rollback: bool,
    /// The other members of the old cluster, with commas between them: you say that each is destroyed, or stood down
    #[arg(
        long,
        value_name = "NAME[,…]",
        value_delimiter = ',',
        requires = "backup"
    )]
    without: Vec<String>,
    /// Only show what a restore would do, after all checks
    #[arg(long)]
    plan: bool,
    /// A member to join, such as <https://10.0.0.1:2379> [default: one with a quorum that is known here]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Directory of the backups
    #[arg(long, alias = "backupPath", value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
    /// Output format, without another action
    #[arg(long, value_enum, default_value = "table", conflicts_with = "action")]
    output: Format,
}

/// The diagnosis. Scripts depend on its JSON.
#[derive(Serialize)]
struct Diagnosis<'f> {
    node: &'f str,
    #[serde(flatten)]
    facts: &'f NodeFacts,
    #[serde(flatten)]
    advice: &'f Advice,
}

impl Args {
    /// Flags that the chosen action does not have. It would ignore them.
    fn misplaced_flag(&self) -> Option<&'static str> {
        let is_restore = self.backup.is_some() || self.from_this_disk;
        if !self.without.is_empty() && !is_restore {
            return Some("--without needs a BACKUP, or --from-this-disk");
        }
        if self.plan && !is_restore {
            return Some("--plan needs a BACKUP, or --from-this-disk");
        }
        if self.endpoint.is_some() && !(self.join || self.resume) {
            return Some("--endpoint needs --join or --resume");
        }
        None
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    if let Some(problem) = args.misplaced_flag() {
        output::error(problem);
        return Ok(exit_code::USAGE);
    }
    let node = Node::read(&args.backup_path)?;
    let consent = Consent { is_given: args.yes };
    let runtime = runtime()?;
    if let Some(backup) = args.backup {
        let options = RestoreOptions {
            backup,
            without: args.without,
            is_plan: args.plan,
        };
        runtime.block_on(recovery::restore(node, options, consent))?;
    } else if args.from_this_disk {
        runtime.block_on(recovery::restore_from_this_disk(
            node,
            args.without,
            args.plan,
            consent,
        ))?;
    } else if args.stand_down {
        runtime.block_on(recovery::stand_down(node, consent))?;
    } else if args.join {
        runtime.block_on(recovery::join(node, args.endpoint, consent))?;
    } else if args.resume {
        runtime.block_on(recovery::resume(node, args.endpoint))?;
    } else if args.rollback {
        runtime.block_on(recovery::roll_back(node, consent))?;
    } else if args.r#continue {
        recovery::go_on(node)?;
    } else {
        return diagnose(&node, args.output, &runtime);
    }
    Ok(exit_code::DONE)
}

fn diagnose(node: &Node, format: Format, runtime: &tokio::runtime::Runtime) -> anyhow::Result<u8> {
    let facts = runtime.block_on(survey(node)).facts;
    let advice = advise(&facts);
    let text = match format {
        Format::Json => output::json(&Diagnosis {
            node: node.name(),
            facts: &facts,
            advice: &advice,
        })?,
        Format::Table => for_people(node, &facts, &advice),
    };
    output::print(&text);
    Ok(match advice.situation {
        Situation::Healthy => exit_code::DONE,
        _ => exit_code::FAILED,
    })
}

fn for_people(node: &Node, facts: &NodeFacts, advice: &Advice) -> String {
    let member = match &facts.member {
        MemberState::Quorum {
            revision, learner, ..
        } => {
            let learner = if *learner { ", as a learner" } else { "" };
            format!("answers, with a quorum, at revision {revision}{learner}")
        }
        MemberState::NoQuorum { revision } => {
            format!("answers, without a quorum, at revision {revision}")
        }
        MemberState::Unknown { problem } => {
            format!(
                "answers, its quorum is unknown: {}",
                output::one_line(problem)
            )
        }
        MemberState::Silent { problem } => {
            format!("does not answer: {}", output::one_line(problem))
        }
    };
    let disk = match &facts.disk {
        DiskState::Missing => "no member".into(),
        DiskState::InUse => "in use by etcd".into(),
        DiskState::Readable {
            revision,
            unapplied_entries,
            learner,
            last_term,
            last_index,
            ..
        } => {
            let learner = if *learner { ", a learner" } else { "" };
            format!(
                "a member with up to revision {revision}{learner}; {unapplied_entries} entries are only in its log, which ends at term {last_term}, index {last_index}"
            )
        }
        DiskState::Damaged { problem } => format!("cannot be read: {}", output::one_line(problem)),
    };
    let backup = facts.backup.as_ref().map_or_else(
        || format!("none in {}", node.backup_path.display()),
        |backup| {
            format!(
                "{}, revision {}, complete at {}",
                backup.name, backup.revision, backup.finished_at
            )
        },
    );
    let mut rows = vec![
        [
            "this member".to_string(),
            format!("{} {member}", node.name()),
        ],
        [node.data_dir().display().to_string(), disk],
        ["best proven backup".into(), backup],
    ];
    for peer in &facts.peers {
        let text = format!("{} ({})", peer.state.text(), peer.urls.join(", "));
        rows.push([format!("member {}", peer.name), output::one_line(&text)]);
    }
    let mut text = output::table(["FOUND", ""], rows);
    text += &format!("\n{}\n", output::one_line(&advice.text));
    if !advice.next.is_empty() {
        text += "\nNext:\n";
        for next in &advice.next {
            text += &format!("  {}\n", output::one_line(next));
        }
    }
    text
}
