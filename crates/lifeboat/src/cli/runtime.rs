//! The runtime for asynchronous code. It has one thread.

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    let built = Builder::new_current_thread().enable_all().build();
    built.context("cannot start")
}
