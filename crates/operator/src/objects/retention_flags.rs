//! The flags for a retention policy.

use backup_plan::retention::Policy;

pub(crate) fn retention_flags(policy: Policy) -> Vec<String> {
    match policy {
        Policy::Number(number) => vec![
            "--type=RetentionNumber".to_string(),
            format!("--max-number-of-backups={number}"),
        ],
        Policy::SizeBytes(bytes) => vec![
            "--type=RetentionSize".to_string(),
            format!("--max-size-of-backups-gb={}", bytes >> 30),
        ],
        Policy::None => vec!["--type=None".to_string()],
    }
}
