//! The result of a request for a backup.

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestResult {
    /// A proven backup was made.
    Completed {
        /// Name of the `EtcdBackup`, or of the last Job.
        name: String,
        /// The message of its condition.
        message: String,
    },
    /// The `EtcdBackup` or a Job failed, was skipped or deleted, or was not complete in time.
    Failed {
        /// Name of the `EtcdBackup`, or of the last Job.
        name: String,
        /// The reason.
        message: String,
    },
    /// Nothing was created.
    NotCreated {
        /// The reason, and what to do.
        message: String,
    },
}
