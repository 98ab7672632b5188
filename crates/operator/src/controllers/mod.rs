//! One file for each controller.

pub(crate) mod api_problems;
pub(crate) mod backup_progress;
pub(crate) mod backup_removal;
pub(crate) mod default_backup;
pub(crate) mod etcd_backup;
pub(crate) mod etcd_backup_plan;
pub(crate) mod freshness;
pub(crate) mod on_change;
pub(crate) mod periodic_backup;
pub(crate) mod volumes;
