//! The keys that users see at the end of a database, in their order, in bounded memory.
//!
//! etcd stores every change of a key, ordered by revision. To compare two databases key by key, the newest record of each key is
//! needed, ordered by key. So the records are sorted in a scratch file ([`read`]), what a log adds is laid over them
//! ([`Replayed`]), and two sets of keys are compared in one merge ([`compare`]).

mod compare;
mod error;
mod key_state;
mod live_keys;
mod object;
mod read;
mod replay;
mod sorted;
mod sorter;
mod sources;

pub use compare::{Change, compare};
pub use error::KeyspaceError;
pub use key_state::{KeyState, MAX_KEY_BYTES};
pub use live_keys::LiveKeys;
pub use object::Object;
pub use read::read;
pub use replay::{Replayed, Stopped, changes_data, replay};
pub use sorted::SortedKeys;
pub use sources::Fingerprints;
