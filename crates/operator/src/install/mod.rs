//! What is installed in a cluster.

pub(crate) mod crds;
pub mod manifests;
pub(crate) mod policies;
pub mod sidecar;
