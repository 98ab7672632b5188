//! The control plane of a node as static pods, and the directories of its etcd: what a restore stops, moves and starts.

pub mod api_server;
mod error;
mod journal_file;
mod manifests;
mod member_dirs;
pub mod processes;

pub use error::NodeError;
pub use journal_file::{JournalFile, STATE_DIR};
pub use manifests::Manifests;
pub use member_dirs::MemberDirs;
