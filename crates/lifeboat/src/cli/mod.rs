//! What all commands share: exit codes, flags, output, the runtime.

pub(crate) mod duration;
pub(crate) mod exit_code;
pub(crate) mod flags;
pub(crate) mod logging;
pub(crate) mod output;
pub(crate) mod progress_bar;
pub(crate) mod random;
pub(crate) mod report;
pub(crate) mod runtime;
pub(crate) mod stop;
