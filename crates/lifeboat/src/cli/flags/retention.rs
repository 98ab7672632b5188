//! The flags of the retention policy, also as upstream spells them.

use backup_plan::retention::Policy;
use clap::ValueEnum;

/// Number of backups to keep if `RetentionNumber` has no number.
pub(crate) const DEFAULT_NUMBER: u64 = 15;
/// Size in GiB if `RetentionSize` has no size.
const DEFAULT_SIZE_GIB: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub(crate) enum Type {
    /// Keep the newest N backups, with N from --max-number-of-backups.
    RetentionNumber,
    /// Keep the newest backups that fit into --max-size-of-backups-gb.
    RetentionSize,
    /// Keep all backups.
    None,
}

/// Flags of the retention policy.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Retention")]
pub(crate) struct RetentionArgs {
    /// Number of backups to keep, with --type RetentionNumber
    #[arg(long, alias = "maxNumberOfBackups", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_number_of_backups: Option<u64>,
    /// Total size of the backups to keep, in GiB, with --type RetentionSize
    #[arg(long, alias = "maxSizeOfBackupsGb", value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..))]
    max_size_of_backups_gb: Option<u64>,
}

impl RetentionArgs {
    /// Makes the policy, or returns an error if the flags contradict each other.
    pub(crate) fn policy(&self, kind: Type, default_number: u64) -> Result<Policy, String> {
        let misplaced = |flag: &str, kind: &str| {
            Err(format!(
                "{flag} needs --type {kind}: leave it out or change --type"
            ))
        };
        match kind {
            Type::RetentionNumber if self.max_size_of_backups_gb.is_some() => {
                misplaced("--max-size-of-backups-gb", "RetentionSize")
            }
            Type::RetentionSize if self.max_number_of_backups.is_some() => {
                misplaced("--max-number-of-backups", "RetentionNumber")
            }
            Type::None if self.max_number_of_backups.is_some() => {
                misplaced("--max-number-of-backups", "RetentionNumber")
            }
            Type::None if self.max_size_of_backups_gb.is_some() => {
                misplaced("--max-size-of-backups-gb", "RetentionSize")
            }
            Type::RetentionNumber => Ok(Policy::Number(
                self.max_number_of_backups.unwrap_or(default_number),
            )),
            Type::RetentionSize => Ok(Policy::SizeBytes(
                self.max_size_of_backups_gb
                    .unwrap_or(DEFAULT_SIZE_GIB)
                    .saturating_mul(1 << 30),
            )),
            Type::None => Ok(Policy::None),
        }
    }
}
