//! The types and reasons of conditions and events. Users write alerts and scripts with them, so each is defined only here.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident,)*) => {
        /// Why a condition is as it is, and what an event reports. A condition that changes publishes an event with the same reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum StatusReason {
            $($(#[$doc])* $variant,)*
        }

        impl StatusReason {
            /// The word, in CamelCase as Kubernetes wants it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(StatusReason::$variant => stringify!($variant),)*
                }
            }
        }
    };
}

reasons! {
    /// All is well.
    AsExpected,
    /// The specification has a value that cannot be used.
    Invalid,
    /// The PersistentVolumeClaim of a `Backup` does not exist.
    PVCNotFound,
    /// The API server refused what the operator made from a `Backup`.
    Refused,
    /// The newest request of a `Backup` failed.
    LastBackupFailed,
    /// A CRD of another owner lacks fields that the operator writes.
    ApiNotSupported,
    /// The feature gate of automated backups is off, so `Backup/default` has no effect.
    FeatureGateOff,
    /// A node's backups are not copied to its volume.
    VolumeProblem,
    /// Backups were due and none was made.
    BackupsStale,
    /// No node has an etcd that is backed up.
    NoNodesCovered,
    /// The first backup is not made yet, or a request waits or runs.
    BackupPending,
    /// A request made its backup.
    BackupCompleted,
    /// A request, or a run of a backup server, made no backup.
    BackupFailed,
    /// Another request ran instead.
    BackupSkipped,
    /// A backup server makes backups again after failures.
    BackupRecovered,
    /// A backup was removed because its disk had not enough space.
    BackupRemovedForSpace,
    /// The operator created `Backup/default`.
    DefaultBackupCreated,
    /// `Backup/default` was deleted, and the operator does not create it again.
    DefaultBackupOptedOut,
}

impl fmt::Display for StatusReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The type of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionType {
    /// Of a `Backup`: its backups are not up to date.
    Degraded,
    /// Of a `Backup`: what makes its backups cannot be set up. The name is upstream's.
    PeriodicBackupControllerDegraded,
    /// Of a `Backup`: backups are not copied to the volumes of the nodes.
    VolumesDegraded,
    /// Of a `Backup`: a CRD of another owner lacks what the operator needs for requests.
    ApiNotSupported,
    /// Of an `EtcdBackup`: its outcome. Type and reason are the same word.
    Outcome(StatusReason),
}

impl ConditionType {
    /// The value of `type` in a condition, in CamelCase as Kubernetes requires.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ConditionType::Degraded => "Degraded",
            ConditionType::PeriodicBackupControllerDegraded => "PeriodicBackupControllerDegraded",
            ConditionType::VolumesDegraded => "VolumesDegraded",
            ConditionType::ApiNotSupported => "ApiNotSupported",
            ConditionType::Outcome(reason) => reason.name(),
        }
    }
}
