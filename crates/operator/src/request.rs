//! A request for a backup: made, and followed to its end. One that is skipped for another is made again.

use crate::backup::{Outcome, outcome};
use crate::names::NODE_ANNOTATION;
use crate::plain;
use crate::shape::{self, KindsOf};
use crate::watch_again::{WatchAgain, words};
use cluster_api::resources::{BACKUP_ANNOTATION, EtcdBackup, EtcdBackupSpec};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

/// After a request was skipped the next one is made after this, then after twice as long each time.
const FIRST_AGAIN: Duration = Duration::from_secs(5);
/// The operator says of each request what it does with it, within a second or two.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(20);
const LONGEST_AGAIN: Duration = Duration::from_secs(60);

/// The Job that asks.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Order {
    /// What the `EtcdBackup` is called; the API server chooses if nobody does.
    pub name: Option<String>,
    /// The `Backup` it is for.
    pub backup: Option<String>,
    /// The one node that it is for, if it is not for all.
    pub node: Option<String>,
    /// The claim; empty for the nodes' own disks.
    pub pvc_name: String,
    /// The Job that asks, if one does.
    pub owner: Option<Owner>,
    /// How long to wait for its end.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// A proven backup was made.
    Completed {
        /// Of the `EtcdBackup`.
        name: String,
        /// What was said of it.
        message: String,
    },
    /// None was made.
    Failed {
        /// Of the `EtcdBackup`.
        name: String,
        /// Why not.
        message: String,
    },
    /// It was not even asked for.
    NotAsked {
        /// Why not, and what to do.
        message: String,
    },
}

/// Asks, and waits for the end.
///
/// # Errors
/// What the API server says to the request.
pub async fn run(client: Client, order: &Order, tell: &dyn Fn(&str)) -> Result<Ended, kube::Error> {
    // A Job asks only where the kinds are ours.
    if order.owner.is_none() && order.pvc_name.is_empty() && upstream_acts(&client).await {
        let message = "OpenShift's own operator acts on every EtcdBackup here, and makes them on volumes only: name a claim, by --pvc-name".into();
        return Ok(Ended::NotAsked { message });
    }
    let requests: Api<EtcdBackup> = Api::all(client);
    let deadline = Instant::now() + order.timeout;
    let mut again = FIRST_AGAIN;
    let mut number = 0u32;
    loop {
        number = number.saturating_add(1);
        let made = requests
            .create(&PostParams::default(), &request(order, number))
            .await?;
        let name = made.name_any();
        tell(&format!("asked by EtcdBackup {name}"));
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(ended) = tokio::time::timeout(left, end(&requests, &name, tell)).await else {
            let message = format!("no end after {} s", order.timeout.as_secs());
            return Ok(Ended::Failed { name, message });
        };
        match ended {
            Some((Outcome::Completed, message)) => return Ok(Ended::Completed { name, message }),
            Some((Outcome::Skipped, message)) if Instant::now() + again < deadline => {
                tell(&format!(
                    "EtcdBackup {name}: {message}; again in {} s",
                    again.as_secs()
                ));
                // Who may not delete it leaves it: it is over.
                if let Err(error) = requests.delete(&name, &DeleteParams::default()).await {
                    tell(&format!("EtcdBackup {name} stays: {}", plain(&error)));
                }
                tokio::time::sleep(again).await;
                again = (again * 2).min(LONGEST_AGAIN);
            }
            Some((_, message)) => return Ok(Ended::Failed { name, message }),
            None => {
                let message = "somebody has deleted it".into();
                return Ok(Ended::Failed { name, message });
            }
        }
    }
}

/// Whether the kinds are upstream's, as far as whoever asks may know.
async fn upstream_acts(client: &Client) -> bool {
    let shape = shape::look(client).await;
    shape.is_ok_and(|shape| shape.kinds == KindsOf::Upstream)
}

fn request(order: &Order, number: u32) -> EtcdBackup {
    let spec = EtcdBackupSpec {
        pvc_name: order.pvc_name.clone(),
    };
    let mut request = EtcdBackup::new("", spec);
    let metadata = &mut request.metadata;
    metadata.name = order.name.as_ref().map(|name| match number {
        1 => name.clone(),
        number => format!("{name}-{number}"),
    });
    if metadata.name.is_none() {
        metadata.generate_name = Some("on-demand-".into());
    }
    let backup = order.backup.iter().map(|name| (BACKUP_ANNOTATION, name));
    let node = order.node.iter().map(|name| (NODE_ANNOTATION, name));
    let annotations: BTreeMap<_, _> = backup
        .chain(node)
        .map(|(key, name)| (key.to_string(), name.clone()))
        .collect();
    metadata.annotations = Some(annotations).filter(|all| !all.is_empty());
    metadata.owner_references = order.owner.as_ref().map(|owner| {
        vec![OwnerReference {
            api_version: "batch/v1".into(),
            kind: "Job".into(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            ..OwnerReference::default()
        }]
    });
    request
}

/// What became of a request; nothing if it is gone.
async fn end(
    requests: &Api<EtcdBackup>,
    name: &str,
    tell: &dyn Fn(&str),
) -> Option<(Outcome, String)> {
    let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(requests.clone(), named)
        .backoff(WatchAgain::default())
        .boxed();
    let mut listed = false;
    let mut said = String::new();
    let mut patience = pin!(tokio::time::sleep(TAKEN_UP_WITHIN));
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            () = &mut patience, if !patience.is_elapsed() => {
                if said.is_empty() {
                    tell("nobody has taken it up yet: `status` says whether the operator works");
                }
                continue;
            }
        };
        let request = match event {
            Ok(watcher::Event::Init) => {
                listed = false;
                continue;
            }
            Ok(watcher::Event::InitApply(request)) => {
                listed = true;
                request
            }
            Ok(watcher::Event::Apply(request)) => request,
            Ok(watcher::Event::Delete(_)) => return None,
            Ok(watcher::Event::InitDone) if !listed => return None,
            Ok(watcher::Event::InitDone) => continue,
            Err(error) => {
                if let Some(problem) = words(&error).filter(|problem| *problem != said) {
                    tell(&format!("EtcdBackup {name} can't be followed: {problem}"));
                    said = problem;
                }
                continue;
            }
        };
        match outcome(&request) {
            Some((Outcome::Pending, condition)) if condition.message != said => {
                tell(&condition.message);
                said = condition.message;
            }
            Some((Outcome::Pending, _)) | None => {}
            Some((outcome, condition)) => return Some((outcome, condition.message)),
        }
    }
}
