//! Flags that several commands have.

pub(crate) mod bump;
#[cfg(feature = "kubernetes")]
pub(crate) mod cluster;
pub(crate) mod connection;
pub(crate) mod node;
pub(crate) mod retention;
