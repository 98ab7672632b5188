//! Why a run made no backup, as one word: in metrics, conditions and statuses.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// Why a run made no backup.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// All reasons, in the order in which they are defined.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The reason as one word, such as `no-etcd`, for metrics, conditions and statuses.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Reason::$variant => $word,)*
                }
            }
        }
    };
}

reasons! {
    /// The node's files cannot be read, or do not say where etcd is.
    Node = "node",
    /// The node has no etcd: no file names an etcd, and nothing listens on the default endpoint.
    NoEtcd = "no-etcd",
    /// The member cannot be reached, or refused the request.
    Member = "member",
    /// Another process uses the repository.
    Locked = "locked",
    /// The repository cannot be used.
    Repository = "repository",
    /// The member is a learner.
    Learner = "learner",
    /// The snapshot stream ended early, was changed in transit, or is too slow.
    Stream = "stream",
    /// The member's own database is damaged.
    Damaged = "damaged",
    /// The member lags behind the cluster.
    Behind = "behind",
    /// There is not enough space on the disk.
    InsufficientSpace = "insufficient-space",
    /// The disk does not hold the data that was written to it.
    DiskCorruption = "disk-corruption",
    /// The disk does not answer.
    DiskHangs = "disk-hangs",
    /// The disk reported an error.
    Write = "write",
    /// The snapshot could not be checked.
    Check = "check",
    /// The run was stopped on request.
    Stopped = "stopped",
}
