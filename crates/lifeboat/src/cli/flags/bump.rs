//! Flags for the revision at which a restored cluster begins.

use backup_plan::restore::revision::Bump;

#[derive(Debug, clap::Args)]
pub(crate) struct BumpArgs {
    /// Begin at a higher revision, so that clients that watch read everything again: `auto`, or the number that is added to the last
    /// revision of the snapshot. `auto` begins above the snapshot and all proven backups, with a margin
    #[arg(long, value_name = "N|auto", conflicts_with = "bump_to_revision")]
    bump_revision: Option<String>,
    /// Begin at this revision
    #[arg(long, value_name = "REVISION")]
    bump_to_revision: Option<i64>,
    /// Mark all earlier revisions as compacted; needed with --bump-revision N, as in etcdutl, and always done by `auto`
    #[arg(long)]
    mark_compacted: bool,
}

/// Reads the flags.
///
/// # Errors
/// They contradict each other, as `etcdutl` has it.
pub(crate) fn parse_bump(args: &BumpArgs) -> Result<Bump, String> {
    if let Some(revision) = args.bump_to_revision {
        return Ok(Bump::To(revision));
    }
    let number = match args.bump_revision.as_deref() {
        Some("auto") => return Ok(Bump::Auto),
        None => 0,
        Some(text) => text
            .parse::<u64>()
            .map_err(|_| format!("--bump-revision {text:?} is neither a number nor auto"))?,
    };
    match (number, args.mark_compacted) {
        (0, false) => Ok(Bump::None),
        (0, true) => Err("--mark-compacted needs --bump-revision".into()),
        (_, false) => Err(
            "--bump-revision needs --mark-compacted: otherwise clients that watch would not notice"
                .into(),
        ),
        (number, true) => i64::try_from(number)
            .map(Bump::By)
            .map_err(|_| format!("--bump-revision {number} is too high")),
    }
}
