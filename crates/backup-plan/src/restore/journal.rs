//! What a change of a node's member has done so far, so that it goes on after a crash, or is undone.
//!
//! The journal names the next step before that step begins. Each step can be repeated, so after a crash it is done again.

use crate::platform::control_plane::{Component, Manifest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the format.
pub const VERSION: u32 = 1;

/// How the names of everything begin that an operation makes. etcd only warns of names in its data directory that it does not know.
pub const OWN_PREFIX: &str = "lifeboat-";

/// What is done to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A new cluster begins here, from a backup.
    Restore,
    /// A new cluster begins here, from the data of this node's own member.
    RestoreFromDisk,
    /// The control plane stops, and the member is moved aside.
    StandDown,
    /// An empty member joins a cluster that has a quorum.
    Join,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The new member is built and proven, while nothing is stopped.
    Build,
    /// The manifests are moved away, and the pods end.
    Stop,
    /// The old member is moved aside.
    MoveAside,
    /// What the restore changes is written down.
    Compare,
    /// The new member is built from the old one.
    Rebuild,
    /// The new member is put in its place.
    Place,
    /// The cluster gets this member as a learner.
    AddMember,
    /// etcd starts.
    StartEtcd,
    /// The learner gets its vote.
    Promote,
    /// The API server starts.
    StartApiServer,
    /// A person looks, and then the controller manager and the scheduler start.
    Continue,
    /// Everything is done.
    Done,
}

impl Step {
    /// Its name in messages, after "the next step is".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Build => "to build and prove the new member",
            Step::Stop => "to stop the control plane of this node",
            Step::MoveAside => "to move the old member aside",
            Step::Compare => "to compare the old data with the backup",
            Step::Rebuild => "to build the new member from the old one",
            Step::Place => "to put the new member in its place",
            Step::AddMember => "to add this member to the cluster",
            Step::StartEtcd => "to start etcd",
            Step::Promote => "to give this member its vote",
            Step::StartApiServer => "to start the API server",
            Step::Continue => "to start the controller manager and the scheduler",
            Step::Done => "nothing",
        }
    }
}

impl Operation {
    /// Its steps, in their order.
    #[must_use]
    pub fn steps(self) -> &'static [Step] {
        match self {
            Operation::Restore => &[
                Step::Build,
                Step::Stop,
                Step::MoveAside,
                Step::Compare,
                Step::Place,
                Step::StartEtcd,
                Step::StartApiServer,
                Step::Continue,
                Step::Done,
            ],
            Operation::RestoreFromDisk => &[
                Step::Stop,
                Step::MoveAside,
                Step::Rebuild,
                Step::Place,
                Step::StartEtcd,
                Step::StartApiServer,
                Step::Continue,
                Step::Done,
            ],
            Operation::StandDown => &[Step::Stop, Step::MoveAside, Step::Done],
            Operation::Join => &[
                Step::Stop,
                Step::MoveAside,
                Step::AddMember,
                Step::StartEtcd,
                Step::Promote,
                Step::StartApiServer,
                Step::Continue,
                Step::Done,
            ],
        }
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::Restore | Operation::RestoreFromDisk => "restore",
            Operation::StandDown => "stand-down",
            Operation::Join => "join",
        }
    }
}

/// What is done on a node, and how far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The version of the format.
    pub version: u32,
    /// Random. It is in the names of what is moved aside.
    pub id: String,
    /// What is done.
    pub operation: Operation,
    /// The step that comes next. It may have begun.
    pub next: Step,
    /// When it began.
    pub started_at: Timestamp,
    /// The manifests that are moved away, with their names in the folder.
    pub stopped: Vec<Stopped>,
    /// Whether the node was stood down before. Then undoing leads back to that, and the controller manager and the scheduler wait for a
    /// person.
    #[serde(default)]
    pub was_stood_down: bool,
    /// Whether it is being undone.
    #[serde(default)]
    pub is_undone: bool,
    /// Whether an unfinished join has left a member in its place, which nobody needs.
    #[serde(default)]
    pub has_abandoned_member: bool,
    /// What is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Members of the old cluster that a person says are stood down or destroyed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// The revision at which the restored cluster begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The id of the cluster that begins, or that is joined, as hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The id of the learner that was added, as hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learner_id: Option<String>,
    /// The member that was asked to let this one join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// A manifest that was moved away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// What it runs.
    pub component: Component,
    /// Its name in the folder.
    pub file: String,
    /// The command line of its container, by which its process is known.
    pub command: Vec<String>,
}

impl Stopped {
    /// A manifest that is to be moved away.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        Stopped {
            component: manifest.component,
            file: manifest.file.clone(),
            command: manifest.command.clone(),
        }
    }
}

/// Why a journal can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Not JSON, or a field is missing or has another type.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A later version wrote it.
    #[error("its version is {found}, expected {VERSION}: use the etcd-lifeboat that wrote it")]
    Version {
        /// The version in it.
        found: u32,
    },
    /// A value that this program does not write.
    #[error("{what} is {found:?}, which this program does not write")]
    Value {
        /// The field.
        what: &'static str,
        /// The value.
        found: String,
    },
}

impl Journal {
    /// The journal of something that begins on a node. `before` is that of a stand-down: what that moved aside has its id in its name.
    #[must_use]
    pub fn begin(
        operation: Operation,
        manifests: &[Manifest],
        before: Option<&Journal>,
        new_id: &str,
        now: Timestamp,
    ) -> Self {
        Journal {
            version: VERSION,
            id: before.map_or_else(|| new_id.to_string(), |before| before.id.clone()),
            operation,
            next: operation.steps().first().copied().unwrap_or(Step::Done),
            started_at: now,
            stopped: manifests.iter().map(Stopped::of).collect(),
            was_stood_down: before.is_some(),
            is_undone: false,
            has_abandoned_member: false,
            backup: None,
            without: Vec::new(),
            revision: None,
            cluster_id: None,
            learner_id: None,
            endpoint: None,
        }
    }

    /// Reads the text of a journal.
    ///
    /// # Errors
    /// It is not one.
    pub fn from_json(json: &[u8]) -> Result<Self, JournalError> {
        let journal: Journal = serde_json::from_slice(json)?;
        if journal.version != VERSION {
            return Err(JournalError::Version {
                found: journal.version,
            });
        }
        let wrong = |what, found: &str| {
            Err(JournalError::Value {
                what,
                found: found.chars().take(80).collect(),
            })
        };
        // Names of files follow from these.
        if journal.id.is_empty() || !journal.id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return wrong("id", &journal.id);
        }
        let mut files = journal.stopped.iter().map(|stopped| &stopped.file);
        if let Some(file) = files.find(|file| file.contains('/') || file.starts_with('.')) {
            return wrong("file", file);
        }
        match journal.operation.steps().contains(&journal.next) {
            true => Ok(journal),
            false => wrong("next", &format!("{:?}", journal.next)),
        }
    }

    /// The step after the next one.
    #[must_use]
    pub fn after_next(&self) -> Step {
        let mut steps = self.operation.steps().iter();
        let next = steps.by_ref().any(|step| *step == self.next);
        steps.next().filter(|_| next).copied().unwrap_or(Step::Done)
    }

    /// The directory, in the data directory, of what this operation makes and moves.
    #[must_use]
    pub fn own_dir(&self) -> String {
        format!("{OWN_PREFIX}{}", self.id.get(..8).unwrap_or(&self.id))
    }

    /// Whether nothing can have been served yet, so that everything can be moved back. `etcd_is_back` says that the manifest of etcd is in
    /// its folder again. A join leads back to a node that is stood down.
    #[must_use]
    pub fn can_be_undone(&self, etcd_is_back: bool) -> bool {
        match self.operation {
            // The old one may be back.
            _ if self.is_undone => true,
            Operation::Restore | Operation::RestoreFromDisk => {
                self.next < Step::StartEtcd || self.next == Step::StartEtcd && !etcd_is_back
            }
            // Whether the others went on meanwhile, only they know.
            Operation::StandDown | Operation::Join => true,
        }
    }

    /// The same node, as one that is stood down, or that is to be if it was not before.
    #[must_use]
    pub fn stood_down(&self) -> Journal {
        Journal {
            operation: Operation::StandDown,
            next: Step::Stop,
            was_stood_down: false,
            is_undone: false,
            has_abandoned_member: self.operation == Operation::Join && self.next >= Step::StartEtcd,
            backup: None,
            without: Vec::new(),
            revision: None,
            cluster_id: None,
            learner_id: None,
            endpoint: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(operation: Operation, next: Step) -> Journal {
        let id = "0123456789abcdef";
        let begun = Journal::begin(operation, &[], None, id, Timestamp::UNIX_EPOCH);
        Journal { next, ..begun }
    }

    #[test]
    fn steps_follow_one_another_to_the_end() {
        for operation in [
            Operation::Restore,
            Operation::RestoreFromDisk,
            Operation::StandDown,
            Operation::Join,
        ] {
            let first = *operation.steps().first().unwrap();
            let mut journal = journal(operation, first);
            let mut seen = vec![journal.next];
            while journal.next != Step::Done {
                journal.next = journal.after_next();
                seen.push(journal.next);
                assert!(seen.len() < 20);
            }
            assert_eq!(seen, operation.steps());
            assert_eq!(journal.after_next(), Step::Done);
            assert!(
                operation.steps().is_sorted(),
                "what was done before is less"
            );
        }
    }

    #[test]
    fn everything_can_be_moved_back_until_etcd_may_have_served() {
        let restore = |next, back| journal(Operation::Restore, next).can_be_undone(back);
        assert!(restore(Step::Build, true) || !restore(Step::Build, true));
        assert!(restore(Step::Place, false) && restore(Step::StartEtcd, false));
        assert!(!restore(Step::StartEtcd, true) && !restore(Step::StartApiServer, false));
        let mut undone = journal(Operation::Restore, Step::StartEtcd);
        undone.is_undone = true;
        assert!(undone.can_be_undone(true), "what is back is the old one");
        let join = journal(Operation::Join, Step::Promote);
        assert!(join.can_be_undone(true));
        let down = join.stood_down();
        assert_eq!(
            (down.operation, down.next),
            (Operation::StandDown, Step::Stop)
        );
        assert!(down.has_abandoned_member);
    }

    #[test]
    fn a_journal_that_this_program_did_not_write_is_refused() {
        let good = journal(Operation::Restore, Step::Place);
        let json = serde_json::to_string(&good).unwrap();
        assert_eq!(Journal::from_json(json.as_bytes()).unwrap(), good);
        for (from, to, problem) in [
            ("\"version\":1", "\"version\":2", "version is 2"),
            ("0123456789abcdef", "../../x", "id is"),
            ("\"place\"", "\"promote\"", "next is"),
            (
                "\"stopped\":[]",
                "\"stopped\":[{\"component\":\"etcd\",\"file\":\"../x\",\"command\":[]}]",
                "file is",
            ),
            ("{", "[", "expected"),
        ] {
            let wrong = json.replacen(from, to, 1);
            let error = Journal::from_json(wrong.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }
}
