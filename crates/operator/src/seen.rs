//! A cache of the cluster's objects, with one watch per resource. Controllers read the cache first. They ask the API server for objects
//! without a watch, and before they delete something.

use crate::lenient::Lenient;
use crate::names::{CRON_APP, JOB_APP, SERVER_APP};
use crate::telling::Shared;
use crate::watch_again::{Complaint, WatchAgain};
use crate::{Context, plain};
use cluster_api::resources::{Backup, EtcdBackup, NodeBackup};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Changes within this time are handled together.
const SETTLE: Duration = Duration::from_millis(500);
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How long to wait until a write is in the cache.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The cached objects.
pub(crate) struct Seen {
    /// Empty if upstream's operator handles `Backup`s.
    pub(crate) backups: Store<Backup>,
    /// Empty if upstream's operator handles `EtcdBackup`s.
    pub(crate) requests: Store<EtcdBackup>,
    /// Jobs that request backups, and Jobs that make them.
    pub(crate) jobs: Store<Job>,
    /// Pods of backup servers and of Jobs that make backups.
    pub(crate) pods: Store<Pod>,
    /// The metadata of all nodes.
    pub(crate) nodes: Store<PartialObjectMeta<Node>>,
    pub(crate) node_backups: Store<NodeBackup>,
    changes: watch::Sender<u64>,
}

impl Seen {
    /// Starts the watches as tasks, and waits until the cache is complete.
    pub(crate) async fn start(
        client: &Client,
        namespace: &str,
        ours: bool,
        telling: &Arc<Shared>,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Seen> {
        let changes = watch::Sender::new(0);
        let apps = |apps: &[&str]| {
            watcher::Config::default().labels(&format!("app in ({})", apps.join(",")))
        };
        let all = watcher::Config::default;
        let jobs: Api<Lenient<Job>> = Api::namespaced(client.clone(), namespace);
        let pods: Api<Lenient<Pod>> = Api::namespaced(client.clone(), namespace);
        let nodes: Api<Lenient<PartialObjectMeta<Node>>> = Api::all(client.clone());
        let mut keep = Keep {
            changes: &changes,
            telling,
            tasks,
        };
        let node_backups: Api<Lenient<NodeBackup>> = Api::all(client.clone());
        let (backups, requests) = if ours {
            let backups: Api<Lenient<Backup>> = Api::all(client.clone());
            let requests: Api<Lenient<EtcdBackup>> = Api::all(client.clone());
            (
                keep.stripped(watcher(backups, all())).await,
                keep.stripped(watcher(requests, all())).await,
            )
        } else {
            (keep.now(stream::pending()), keep.now(stream::pending()))
        };
        let jobs = if ours {
            keep.stripped(watcher(jobs, apps(&[CRON_APP, JOB_APP])))
                .await
        } else {
            keep.now(stream::pending())
        };
        Arc::new(Seen {
            backups,
            requests,
            jobs,
            pods: keep
                .stripped(watcher(pods, apps(&[SERVER_APP, JOB_APP])))
                .await,
            nodes: keep.stripped(watcher(nodes, all())).await,
            // Who wrote it, and when by the API server's clock, is needed here.
            node_backups: keep.first_seen(watcher(node_backups, all())).await,
            changes,
        })
    }

    /// Receives a message for every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until a write is in the cache, so that no decision uses the old object.
    pub(crate) async fn until_seen<K>(&self, store: &Store<K>, written: &K)
    where
        K: Resource + Clone + 'static,
        K::DynamicType: Eq + Hash + Clone + Default,
    {
        let version = |object: &K| object.resource_version()?.parse::<u64>().ok();
        let reference = ObjectRef::from_obj(written);
        let seen = async {
            while store
                .get(&reference)
                .is_none_or(|seen| version(&seen) < version(written))
            {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // It may be gone already.
        let _ = tokio::time::timeout(SEEN_WITHIN, seen).await;
    }
}

/// Acts on each change until the watches end.
pub(crate) async fn follow<'a>(
    context: &'a Context,
    seen: &'a Seen,
    name: &'static str,
    act: impl Fn() -> BoxFuture<'a, Result<(), kube::Error>>,
) {
    let mut changes = seen.changes();
    loop {
        tokio::time::sleep(SETTLE).await;
        changes.mark_unchanged();
        if let Err(error) = act().await {
            tracing::warn!("controller {name}: {}", plain(&error));
            context.telling.error(name);
            tokio::time::sleep(TRY_AGAIN).await;
        } else if changes.changed().await.is_err() {
            return;
        }
    }
}

/// An object type that can be watched.
trait Watched:
    Resource<DynamicType: Eq + Hash + Clone + Default + Debug + Send + Sync>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType: Eq + Hash + Clone + Default + Debug + Send + Sync>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// The events of a watch.
trait Events<K>: Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static {}

impl<K, S> Events<K> for S where
    S: Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static
{
}

/// Removes unreadable objects from an event, and reports them.
fn readable<K: Watched>(
    event: watcher::Event<Lenient<K>>,
    telling: &Shared,
) -> Option<watcher::Event<K>> {
    let look = |object: Lenient<K>| {
        telling.readable(
            &K::kind(&K::DynamicType::default()),
            &object.name_any(),
            object.problem(),
        );
        object.object.ok()
    };
    Some(match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(look(object)?),
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::Apply(object) => watcher::Event::Apply(look(object)?),
        watcher::Event::Delete(object) => {
            let of = K::DynamicType::default();
            telling.readable(&K::kind(&of), &object.name_any(), None);
            watcher::Event::Delete(object.object.ok()?)
        }
    })
}

struct Keep<'k> {
    changes: &'k watch::Sender<u64>,
    telling: &'k Arc<Shared>,
    tasks: &'k mut JoinSet<()>,
}

impl Keep<'_> {
    fn now<K: Watched>(&mut self, stream: impl Events<Lenient<K>>) -> Store<K> {
        let (store, writer) = reflector::store();
        let changes = self.changes.clone();
        let complaint = Complaint::default();
        let telling = self.telling.clone();
        self.tasks.spawn(async move {
            let mut events = stream
                .backoff(WatchAgain::default())
                .filter_map(move |event| {
                    let event = event.map(|event| readable(event, &telling)).transpose();
                    std::future::ready(event)
                })
                .reflect(writer)
                .boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                    Ok(_) => {
                        complaint.is_over();
                        changes.send_modify(|count| *count += 1);
                    }
                    Err(error) => complaint.hear(&error),
                }
            }
        });
        store
    }

    async fn first_seen<K: Watched>(&mut self, stream: impl Events<Lenient<K>>) -> Store<K> {
        let store = self.now(stream);
        // It is dropped only with everything else.
        let _ = store.wait_until_ready().await;
        store
    }

    /// Caches objects without `managedFields`, which would take half of the memory.
    async fn stripped<K: Watched>(&mut self, stream: impl Events<Lenient<K>>) -> Store<K> {
        self.first_seen(stream.modify(|object| object.managed_fields_mut().clear()))
            .await
    }
}
