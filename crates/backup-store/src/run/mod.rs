//! One run: from a member to a published backup, or to the reason why there is none.
//!
//! A backup is published only after it was proven: the complete snapshot, the bytes on the disk, every page,
//! every record, and all changes that the cluster had agreed on before the run began.
//!
//! - `runner`: the run, stage after stage.
//! - `room`: space for it. `source`: where the snapshot comes from. `proof`: what is checked. `seal`: what is written beside
//!   it. `prune`: retention after it.

mod archive;
mod error;
mod events;
mod notes;
mod order;
mod proof;
mod prune;
mod read_back;
mod room;
mod runner;
mod seal;
mod source;
mod steps;

pub use error::RunError;
pub use events::RunEvent;
pub use order::Order;
pub use prune::{Pruned, planned_removals, prune};
pub use runner::{Finished, Runner};
