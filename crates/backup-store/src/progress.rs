//! Who hears how far long work is.

use std::ops::ControlFlow;

/// Listens to long work: a progress bar, a counter, a test.
pub trait Monitor {
    /// A step starts that will take `total_bytes`.
    fn step(&self, name: &'static str, total_bytes: u64);

    /// So many more bytes of the step are done; says whether to go on.
    fn advance(&self, bytes: u64) -> ControlFlow<()>;
}

/// Nobody listens.
pub struct Silent;

impl Monitor for Silent {
    fn step(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
