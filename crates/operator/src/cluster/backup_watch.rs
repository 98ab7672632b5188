//! Watches one `Backup`, for servers on a node.

use crate::cluster::lenient::Lenient;
use crate::cluster::watch_backoff::{WatchBackoff, watch_error_message};
use cluster_api::resources::{Backup, BackupSpec};
use futures::{Stream, StreamExt};
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;

/// What a server on a node reads of a `Backup`.
#[derive(Debug, Clone, PartialEq)]
pub struct FollowedBackup {
    /// Its specification.
    pub spec: BackupSpec,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A change of the watched `Backup`.
#[derive(Debug, Clone, PartialEq)]
pub enum BackupChange {
    /// It is like this.
    Is(Box<FollowedBackup>),
    /// It does not exist.
    Gone,
    /// It cannot be read now, and why. The watch goes on.
    Failed(String),
}

/// Watches the `Backup` with this name. The first change is its current state.
pub fn watch_backup(client: Client, name: &str) -> impl Stream<Item = BackupChange> + use<> {
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let all: Api<Lenient<Backup>> = Api::all(client);
    let events = watcher(all, named).backoff(WatchBackoff::default());
    let mut listed = false;
    events.filter_map(move |event| {
        let change = match event {
            Ok(watcher::Event::Init) => {
                listed = false;
                None
            }
            Ok(watcher::Event::InitApply(found)) => {
                listed = true;
                Some(change_of(found))
            }
            Ok(watcher::Event::InitDone) => (!listed).then_some(BackupChange::Gone),
            Ok(watcher::Event::Apply(found)) => Some(change_of(found)),
            Ok(watcher::Event::Delete(_)) => Some(BackupChange::Gone),
            Err(error) => watch_error_message(&error).map(BackupChange::Failed),
        };
        std::future::ready(change)
    })
}

fn change_of(found: Lenient<Backup>) -> BackupChange {
    match found.object {
        // One that is being deleted still counts: it may wait for its finalizers.
        Ok(backup) => BackupChange::Is(Box::new(FollowedBackup {
            annotations: backup.annotations().clone(),
            spec: backup.spec,
        })),
        Err(problem) => BackupChange::Failed(problem),
    }
}
