//! `etcd-lifeboat restore`.

use crate::cli::exit_code;
use crate::cli::flags::bump::{BumpArgs, parse_bump};
use crate::cli::output::{self, Format};
use crate::cli::progress_bar::Bar;
use crate::cli::random::random;
use backup_plan::encryption::EncryptedResources;
use backup_plan::restore::etcd_version::EtcdVersion;
use backup_plan::restore::initial_cluster::{InitialCluster, peer_urls};
use backup_plan::restore::revision::{Bump, Target};
use backup_plan::restore::token::RestoreId;
use backup_store::repository::DEFAULT_ROOT;
use backup_store::restore::{
    Chosen, Identity, Order, Placing, Plan, Proof, Witnesses, choose, plan, prove_source,
    raise_snapshot, restore,
};
use jiff::Timestamp;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

const DEFAULT_NAME: &str = "default";
const DEFAULT_URL: &str = "http://localhost:2380";

/// Make a data directory that etcd starts from, out of a backup or any snapshot
///
/// The flags are those of `etcdutl snapshot restore`. SNAPSHOT is the name of a backup, or `latest`, or a backup directory, or a
/// snapshot file made by any tool, or, with --skip-hash-check, a copy of the db file of a member. etcd is not needed.
///
/// A single member gets a random token, so that it never meets members of the old cluster. To restore several members, run the command
/// on the first node, and then on the others with the flags that it prints: they must all restore the same snapshot.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  etcd-lifeboat restore latest --data-dir /var/lib/etcd
  etcd-lifeboat restore snapshot.db --data-dir /var/lib/etcd --bump-revision auto
  etcd-lifeboat restore 2026-11-22_031500 --data-dir /var/lib/etcd --plan
  etcd-lifeboat restore snapshot.db --data-dir /var/lib/etcd --name m1 \\
      --initial-cluster m1=https://10.0.0.1:2380,m2=https://10.0.0.2:2380,m3=https://10.0.0.3:2380 \\
      --initial-advertise-peer-urls https://10.0.0.1:2380
  etcd-lifeboat restore latest --to-snapshot . --bump-revision auto

Exit codes: 0 restored, 1 not restored, 2 wrong usage.")]
pub(crate) struct Args {
    /// Name of a backup, `latest`, backup directory, or snapshot file
    snapshot: String,
    /// Data directory to make; it must not exist, or be empty [default: NAME.etcd]
    #[arg(long, value_name = "DIR", conflicts_with = "to_snapshot")]
    data_dir: Option<PathBuf>,
    /// Directory for the log, if it is not in the data directory; it must not exist
    #[arg(long, value_name = "DIR", conflicts_with = "to_snapshot")]
    wal_dir: Option<PathBuf>,
    /// Name of the member
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// All members of the new cluster, as NAME=URL with commas between them
    #[arg(long, value_name = "MEMBERS", default_value_t = format!("{DEFAULT_NAME}={DEFAULT_URL}"))]
    initial_cluster: String,
    /// Token of the new cluster; members that were restored from different snapshots with the same token serve different data
    #[arg(long, value_name = "TOKEN", conflicts_with = "restore_id")]
    initial_cluster_token: Option<String>,
    /// URLs of this member for the other members, with commas between them
    #[arg(long, value_name = "URLS", default_value = DEFAULT_URL)]
    initial_advertise_peer_urls: String,
    /// Do not compare the SHA-256 at the end of the snapshot; needed for a copy of the db file of a member
    #[arg(long)]
    skip_hash_check: bool,
    #[command(flatten)]
    bump: BumpArgs,
    /// Old data directory of this member, of a stopped etcd: `auto` also begins above what it has
    #[arg(long, value_name = "DIR")]
    replaces: Option<PathBuf>,
    /// Directory of the log of the old data directory, if it is not in it
    #[arg(long, value_name = "DIR", requires = "replaces")]
    replaced_wal_dir: Option<PathBuf>,
    /// The restore of several members that this one belongs to, as the first node printed it
    #[arg(long, value_name = "ID")]
    restore_id: Option<String>,
    /// Version of the etcd that will start, such as 3.6 [default: that of the snapshot]
    #[arg(long, value_name = "VERSION")]
    etcd_version: Option<String>,
    /// Restore data that differed from that of other members
    #[arg(long)]
    allow_corrupt_alarm: bool,
    /// Directory of the backups
    #[arg(long, alias = "backupPath", value_name = "DIR", default_value = DEFAULT_ROOT)]
    backup_path: PathBuf,
    /// Only show what would be restored
    #[arg(long, conflicts_with = "to_snapshot")]
    plan: bool,
    /// Write a snapshot that begins at the new revision, for the restore of another tool, such as k3s and RKE2; in a directory, its
    /// name has the revision
    #[arg(long, value_name = "FILE|DIR")]
    to_snapshot: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
    /// Ignored: etcdutl has it
    #[arg(long, value_name = "BYTES", hide = true)]
    initial_memory_map_size: Option<u64>,
}

/// The result. Scripts depend on its JSON.
#[derive(Serialize)]
struct RestoreResult {
    cluster_id: String,
    member_id: String,
    revision: i64,
    took_ms: u64,
    snapshot: PathBuf,
    data_dir: PathBuf,
    token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_id: Option<String>,
    etcd_version: String,
    proof: Proof,
    #[serde(skip_serializing_if = "Option::is_none")]
    placed: Option<Placing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rewritten_bytes: Option<u64>,
    needed_bytes: u64,
    free_bytes: u64,
    /// How the API server encrypted what is in the snapshot, if that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    encryption: Vec<EncryptedResources>,
}

pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let usage = |problem: String| {
        output::error(&problem);
        Ok(exit_code::USAGE)
    };
    let bump = match parse_bump(&args.bump) {
        Ok(bump) => bump,
        Err(problem) => return usage(problem),
    };
    let chosen = choose(&args.snapshot, &args.backup_path)?;
    if args.to_snapshot.is_some() {
        return to_snapshot(&args, &chosen, bump);
    }
    let (order, advertised) = match args.order(&chosen, bump) {
        Ok(order) => order,
        Err(problem) => return usage(problem),
    };
    let started = Instant::now();
    let bar = Bar::new();
    let now = Timestamp::now();
    let plan = plan(&order, &advertised, now)?;
    for warning in plan.target.iter().flat_map(|target| &target.warnings) {
        bar.print(&output::one_line(&format!("warning: {warning}")));
    }
    if let Identity::Token(_) = order.identity {
        bar.print("warning: members with this token that were restored from another snapshot would form a cluster that serves different data");
    }
    let (proof, restored) = match args.plan {
        true => (prove_source(&plan, &bar)?, None),
        false => {
            let restored = restore(&plan, now, &bar)?;
            (restored.proof, Some(restored))
        }
    };
    bar.finish();
    let restore_id = match &order.identity {
        // A plan alone has no id yet: the restore has another one.
        Identity::Restore { id, is_given }
            if plan.members.len() > 1 && (*is_given || !args.plan) =>
        {
            Some(id.as_str().to_string())
        }
        _ => None,
    };
    let result = RestoreResult {
        cluster_id: format!("{:x}", plan.cluster_id),
        member_id: format!("{:x}", plan.member_id),
        revision: plan
            .target
            .as_ref()
            .map_or(plan.facts.current_revision, |target| target.revision),
        took_ms: started.elapsed().as_millis() as u64,
        snapshot: plan.source().path.clone(),
        data_dir: plan.order.data_dir.clone(),
        token: plan.token.clone(),
        restore_id,
        etcd_version: plan.etcd_version.to_string(),
        proof,
        placed: restored.as_ref().map(|restored| restored.placed),
        rewritten_bytes: restored.as_ref().map(|restored| restored.rewritten_bytes),
        needed_bytes: plan.needed_bytes,
        free_bytes: plan.free_bytes,
        encryption: plan
            .source()
            .record
            .as_ref()
            .map_or_else(Vec::new, |record| record.encryption.clone()),
    };
    let text = match args.output {
        Format::Json => output::json(&result)?,
        Format::Table => for_people(&plan, &result),
    };
    output::print(&text);
    Ok(exit_code::DONE)
}

fn for_people(plan: &Plan, result: &RestoreResult) -> String {
    let revision = match &plan.target {
        None => format!(
            "{}, as in the snapshot: clients that watch may miss changes; use --bump-revision auto",
            result.revision
        ),
        Some(Target { reason, .. }) => format!("{}: {reason}", result.revision),
    };
    let proof = format!("proven by {}", result.proof.name());
    let placed = match result.placed {
        None => format!("{} (not made: --plan)", result.data_dir.display()),
        Some(Placing::Clone) => format!(
            "{}; it shares blocks with the snapshot until they change",
            result.data_dir.display()
        ),
        Some(Placing::Copy) => result.data_dir.display().to_string(),
    };
    let mut rows = vec![
        [
            "snapshot".to_string(),
            format!("{}, {proof}", result.snapshot.display()),
        ],
        ["data directory".into(), placed],
        ["etcd".into(), format!("{} or later", result.etcd_version)],
        ["revision".into(), revision],
        [
            "cluster".into(),
            format!("{}, token {}", result.cluster_id, result.token),
        ],
        ["member".into(), result.member_id.clone()],
        [
            "space".into(),
            format!(
                "needs {}, {} are free",
                output::bytes(result.needed_bytes),
                output::bytes(result.free_bytes)
            ),
        ],
    ];
    for encrypted in &result.encryption {
        let encrypted = format!("{encrypted}; the API server needs these keys");
        rows.push(["encryption".into(), output::one_line(&encrypted)]);
    }
    if let Some(id) = &result.restore_id {
        let bump = match &plan.target {
            Some(target) => format!(" --bump-to-revision {}", target.revision),
            None => String::new(),
        };
        rows.push([
            "other members".into(),
            format!("restore the same snapshot there with --restore-id {id}{bump}"),
        ]);
    }
    let title = if result.placed.is_some() {
        "RESTORED"
    } else {
        "PLAN"
    };
    output::table([title, ""], rows)
}

fn to_snapshot(args: &Args, chosen: &Chosen, bump: Bump) -> anyhow::Result<u8> {
    let Some(out) = &args.to_snapshot else {
        return Ok(exit_code::USAGE);
    };
    if bump == Bump::None {
        output::error(
            "--to-snapshot needs --bump-revision or --bump-to-revision: without it the snapshot would be the same",
        );
        return Ok(exit_code::USAGE);
    }
    let bar = Bar::new();
    let source = backup_store::restore::Source::open(&chosen.path)?;
    let (made, target) = raise_snapshot(
        &source,
        out,
        bump,
        &args.witnesses(chosen),
        args.skip_hash_check,
        Timestamp::now(),
        &bar,
    )?;
    bar.finish();
    for warning in target.iter().flat_map(|target| &target.warnings) {
        output::error(&format!("warning: {warning}"));
    }
    let text = match args.output {
        Format::Json => output::json(&made)?,
        Format::Table => format!(
            "{}\nrevision {}: {}\n",
            made.snapshot.display(),
            made.revision,
            target.map(|target| target.reason).unwrap_or_default()
        ),
    };
    output::print(&text);
    Ok(exit_code::DONE)
}

impl Args {
    fn witnesses(&self, chosen: &Chosen) -> Witnesses {
        Witnesses {
            repositories: chosen.repositories.clone(),
            data_dir: self.replaces.clone(),
            wal_dir: self.replaced_wal_dir.clone(),
            known: Vec::new(),
        }
    }

    /// What is to be done, and the member's own URLs.
    fn order(&self, chosen: &Chosen, bump: Bump) -> Result<(Order, Vec<String>), String> {
        let text = |problem: &dyn ToString| problem.to_string();
        let cluster = InitialCluster::parse(&self.initial_cluster).map_err(|error| text(&error))?;
        let advertised = peer_urls(
            "--initial-advertise-peer-urls",
            &self.initial_advertise_peer_urls,
        )
        .map_err(|error| text(&error))?;
        let etcd_version: Option<EtcdVersion> = self
            .etcd_version
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(|error| text(&error))?;
        let identity = match (&self.initial_cluster_token, &self.restore_id) {
            (Some(token), _) => Identity::Token(token.clone()),
            (None, Some(id)) => Identity::Restore {
                id: RestoreId::parse(id).map_err(|error| text(&error))?,
                is_given: true,
            },
            (None, None) => Identity::Restore {
                id: RestoreId::of_random(random().map_err(|error| format!("{error:#}"))?),
                is_given: false,
            },
        };
        let order = Order {
            source: chosen.path.clone(),
            data_dir: self
                .data_dir
                .clone()
                .unwrap_or_else(|| format!("{}.etcd", self.name).into()),
            wal_dir: self.wal_dir.clone(),
            name: self.name.clone(),
            cluster,
            identity,
            bump,
            id: RestoreId::of_random(random().map_err(|error| format!("{error:#}"))?)
                .as_str()
                .into(),
            etcd_version,
            skip_hash_check: self.skip_hash_check,
            allow_corrupt_alarm: self.allow_corrupt_alarm,
            witnesses: self.witnesses(chosen),
        };
        Ok((order, advertised))
    }
}
