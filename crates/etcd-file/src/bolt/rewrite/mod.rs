//! Changing a database: new pages after the last one, and two metas that lead to them.
//!
//! No page that exists is changed, as in a transaction of bbolt: what a change touches is written again after the high-water
//! mark, up to the root. Until the metas are written, the database is what it was. The pages that are not used any more are free,
//! because no free list is stored: bbolt finds them when it opens the file.

mod change;
mod error;
mod pages;
mod spine;

pub use change::{Entries, Rewrite};
pub use error::{RewriteError, Rewritten};
