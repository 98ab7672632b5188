//! What a server does: by fixed flags, or by a `Backup` that can change at any time.

use backup_plan::cron::Schedule;
use backup_plan::retention::Policy;
use jiff::tz::TimeZone;

/// What a server does at the moment.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    /// It makes backups.
    On(Settings),
    /// It makes no backups, and why.
    Off(String),
    /// It has not read yet what it is to do.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    Reading,
}

/// When backups are made, and which are kept.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The schedule as the user wrote it.
    pub(crate) schedule_text: String,
    pub(crate) schedule: Schedule,
    pub(crate) zone: TimeZone,
    pub(crate) policy: Policy,
}

impl Plan {
    pub(crate) fn settings(&self) -> Option<&Settings> {
        match self {
            Plan::On(settings) => Some(settings),
            Plan::Off(_) | Plan::Reading => None,
        }
    }

    /// Whether both plans are the same. A new plan ends the agenda of the old one.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code))]
    pub(crate) fn is_same(&self, other: &Plan) -> bool {
        match (self, other) {
            (Plan::On(one), Plan::On(other)) => {
                one.schedule_text == other.schedule_text
                    && one.zone == other.zone
                    && one.policy == other.policy
            }
            (Plan::Off(one), Plan::Off(other)) => one == other,
            _ => false,
        }
    }
}
