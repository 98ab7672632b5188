//! `cluster-restore`: the restore of a node's control plane, step by step.

pub(crate) mod ask;
mod begin;
mod checks;
mod etcd_program;
mod node;
mod signs;
mod steps;
mod survey;
mod undo;

pub(crate) use begin::{
    RestoreOptions, go_on, join, restore, restore_from_this_disk, resume, stand_down,
};
pub(crate) use node::Node;
pub(crate) use survey::survey;
pub(crate) use undo::roll_back;
