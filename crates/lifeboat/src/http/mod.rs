//! The HTTP listener of the server and the operator, and the metrics that it answers with.

pub(crate) mod listener;
pub(crate) mod openmetrics;
