//! The revision at which a restored cluster begins.
//!
//! Clients that watch remember the last revision that they saw. If a restored cluster goes on below it, they see nothing of what
//! happens until it is reached again, and then they take new revisions for old ones. So a restore can begin above every revision
//! that anyone may have seen, and mark all earlier ones as compacted: then clients read everything again.

use jiff::Timestamp;

/// How far above the highest known revision `auto` begins, at least.
pub const MARGIN: i64 = 1_000_000_000;
/// A cluster does not make more revisions in a second.
const PER_SECOND: i64 = 10_000;
/// A higher revision is not believed: there would be no room above it for later restores.
const HIGHEST: i64 = 1 << 62;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bump {
    /// The revision stays as it is.
    None,
    /// Above the last record of the snapshot by so many, as `etcdutl` counts.
    By(i64),
    /// At this revision.
    To(i64),
    /// Above every revision that is known of, with a margin.
    Auto,
}

/// A revision that someone may have seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Where it is known from, for messages.
    pub from: String,
    /// The revision.
    pub revision: i64,
    /// When it was reached. `None` if that is not known.
    pub at: Option<Timestamp>,
}

/// The revision at which the cluster begins, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The revision.
    pub revision: i64,
    /// The highest revision that was found, and how far above it `revision` is.
    pub reason: String,
    /// Evidence that was not believed.
    pub warnings: Vec<String>,
}

/// Why there is no such revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevisionProblem {
    /// There is no room above.
    #[error(
        "revision {from} + {by} is higher than {HIGHEST}, the highest revision of a restore: use a smaller number"
    )]
    Overflow {
        /// The revision that is counted from.
        from: i64,
        /// What is added.
        by: i64,
    },
    /// Clients would see revisions fall.
    #[error(
        "the cluster would begin at revision {target}, but the snapshot is already at revision {current}: use at least --bump-revision {}",
        .current.saturating_sub(*.last_record).saturating_add(1)
    )]
    Falls {
        /// The revision that was asked for.
        target: i64,
        /// The revision at which a member starts from the snapshot as it is.
        current: i64,
        /// The revision of the last record of the snapshot, from which `--bump-revision` counts.
        last_record: i64,
    },
}

/// Decides the revision. `last_record` and `current` are those of the snapshot (`History`).
///
/// # Errors
/// Why it can't be.
pub fn target(
    bump: Bump,
    last_record: i64,
    current: i64,
    evidence: &[Evidence],
    now: Timestamp,
) -> Result<Option<Target>, RevisionProblem> {
    let (from, by, reason, warnings) = match bump {
        Bump::None => return Ok(None),
        Bump::By(by) => (
            last_record,
            by,
            format!("{by} above the last record, {last_record}"),
            Vec::new(),
        ),
        Bump::To(revision) => (0, revision, "as ordered".into(), Vec::new()),
        Bump::Auto => auto(current, evidence, now),
    };
    let revision = from
        .checked_add(by)
        .filter(|revision| (0..=HIGHEST).contains(revision))
        .ok_or(RevisionProblem::Overflow { from, by })?;
    if revision <= current {
        return Err(RevisionProblem::Falls {
            target: revision,
            current,
            last_record,
        });
    }
    Ok(Some(Target {
        revision,
        reason,
        warnings,
    }))
}

fn auto(current: i64, evidence: &[Evidence], now: Timestamp) -> (i64, i64, String, Vec<String>) {
    let mut highest = (current, "the snapshot");
    let mut newest: Option<Timestamp> = None;
    let mut warnings = Vec::new();
    for found in evidence {
        if !(0..=HIGHEST).contains(&found.revision) {
            warnings.push(format!(
                "{}: revision {} is not possible; it is ignored",
                found.from, found.revision
            ));
            continue;
        }
        if found.revision > highest.0 {
            highest = (found.revision, &found.from);
        }
        // A time in the future is from a wrong clock.
        newest = newest.max(found.at.filter(|at| *at <= now));
    }
    // Since the newest evidence, the cluster may have gone on.
    let age_s = newest.map_or(0, |at| now.duration_since(at).as_secs());
    let by = age_s.saturating_mul(PER_SECOND).max(MARGIN);
    let reason = format!("{by} above revision {} of {}", highest.0, highest.1);
    (highest.0, by, reason, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn evidence(revision: i64, time: Option<&str>) -> Evidence {
        Evidence {
            from: "backup x".into(),
            revision,
            at: time.map(at),
        }
    }

    #[test]
    fn a_number_counts_from_the_last_record_and_never_falls() {
        let now = at("2026-11-22T00:00:00Z");
        let decide = |bump, last_record, current| target(bump, last_record, current, &[], now);
        assert_eq!(decide(Bump::None, 5, 9), Ok(None));
        assert_eq!(decide(Bump::By(10), 5, 9).unwrap().unwrap().revision, 15);
        assert_eq!(decide(Bump::To(10), 5, 9).unwrap().unwrap().revision, 10);
        let error = decide(Bump::By(4), 5, 9).unwrap_err();
        assert!(error.to_string().ends_with("--bump-revision 5"), "{error}");
        for (bump, last) in [
            (Bump::By(i64::MAX), 5),
            (Bump::By(1), i64::MAX),
            (Bump::To(-1), 5),
        ] {
            let error = decide(bump, last, 9).unwrap_err();
            assert!(matches!(error, RevisionProblem::Overflow { .. }), "{error}");
        }
    }

    #[test]
    fn auto_begins_above_everything_that_is_known() {
        let now = at("2026-11-22T00:00:00Z");
        let decide =
            |evidence: &[Evidence]| target(Bump::Auto, 5, 9, evidence, now).unwrap().unwrap();
        assert_eq!(decide(&[]).revision, 9 + MARGIN);
        // A newer backup of the same repository, from after an earlier restore.
        let restored = evidence(7_000_000_000, Some("2026-11-21T23:59:00Z"));
        let found = decide(&[evidence(6, None), restored.clone()]);
        assert_eq!(found.revision, 7_000_000_000 + MARGIN);
        assert!(found.reason.contains("of backup x"), "{}", found.reason);
        // The newest is ten days old: the cluster may have made 10,000 revisions a second since.
        let old = evidence(100, Some("2026-11-12T00:00:00Z"));
        assert_eq!(decide(&[old]).revision, 100 + 10 * 24 * 3600 * 10_000);
        // What can't be is named, and a time in the future says nothing.
        let found = decide(&[
            evidence(i64::MAX, None),
            evidence(-1, None),
            evidence(7, Some("2027-11-12T00:00:00Z")),
        ]);
        assert_eq!(found.revision, 9 + MARGIN);
        assert_eq!(found.warnings.len(), 2);
    }
}
