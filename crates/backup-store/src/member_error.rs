//! Why a request to a member failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A stream without data for this long is dead: a frozen member keeps its connections open.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request to a member failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The address of the member is not valid.
    #[error("endpoint {endpoint:?}: {problem}")]
    Endpoint {
        /// The endpoint as it was given.
        endpoint: String,
        /// What is wrong with the endpoint.
        problem: String,
    },
    /// A certificate file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The connection or the TLS handshake failed.
    #[error("cannot connect to {endpoint}: {problem}")]
    Dial {
        /// The URL of the member.
        endpoint: String,
        /// The error with all its causes.
        problem: String,
        /// Whether the connection was refused.
        refused: bool,
    },
    /// The member did not answer in time.
    #[error(
        "{endpoint} did not answer {what} within {} s: the member may be frozen, or its disk may hang", .within.as_secs()
    )]
    NoAnswer {
        /// The URL of the member.
        endpoint: String,
        /// The request, such as `the status request`.
        what: &'static str,
        /// The time limit.
        within: Duration,
    },
    /// The connection broke before the answer.
    #[error("{endpoint} closed the connection without an answer: {problem}{}", hint(.endpoint, *.had_certificate))]
    Closed {
        /// The URL of the member.
        endpoint: String,
        /// The error of the connection with all its causes.
        problem: String,
        /// Whether a client certificate was sent.
        had_certificate: bool,
    },
    /// The snapshot stream stopped.
    #[error("{endpoint} sent nothing for {} s: the member may be frozen, or its disk may hang", STALL_TIMEOUT.as_secs())]
    Stalled {
        /// The URL of the member.
        endpoint: String,
    },
    /// A server whose disk fails in the middle of a snapshot sends empty pieces forever.
    #[error(
        "{endpoint} sends no data although {remaining_bytes} bytes are missing: the member cannot read its own database"
    )]
    EmptyPieces {
        /// The URL of the member.
        endpoint: String,
        /// How many bytes are missing, as the member reports.
        remaining_bytes: u64,
    },
    /// The member answered with an error.
    #[error("{endpoint} answered: {} ({:?})", .status.message(), .status.code())]
    Refused {
        /// The URL of the member.
        endpoint: String,
        /// The error of the member.
        status: Box<tonic::Status>,
    },
}

/// With TLS 1.3 a server rejects a client certificate only after the handshake. The client sees only
/// a broken connection.
fn hint(endpoint: &str, had_certificate: bool) -> &'static str {
    match (endpoint.starts_with("https://"), had_certificate) {
        (false, _) => "",
        (true, false) => "; the member may require a client certificate: use --cert and --key",
        (true, true) => {
            "; the member may not accept the client certificate: check its certificate authority and its expiry date"
        }
    }
}
