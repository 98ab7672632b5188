//! A cache of the cluster's objects, with one watch per resource. Controllers read the cache first. They ask the API server for objects
//! without a watch, and before they delete something.

use crate::cluster::lenient::Lenient;
use crate::cluster::watch_backoff::{WatchBackoff, WatchErrorLog};
use crate::names::{CRON_APP, JOB_APP, SERVER_APP, VOLUME_APP};
use crate::objects::pod::ROLES;
use crate::status::state::SharedState;
use cluster_api::resources::{Backup, EtcdBackup, NodeBackup};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
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

/// How long to wait until a write is in the cache.
const CACHE_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(crate) struct Cache {
    /// Whether this operator handles `Backup`s.
    ours: bool,
    /// Empty if upstream's operator handles `Backup`s.
    pub(crate) backups: Store<Backup>,
    /// Empty if upstream's operator handles `EtcdBackup`s.
    pub(crate) requests: Store<EtcdBackup>,
    /// Jobs that request backups, and Jobs that make them.
    pub(crate) jobs: Store<Job>,
    /// Pods of backup servers, of Jobs that make backups, and of the nodes' volumes.
    pub(crate) pods: Store<Pod>,
    /// The metadata of all nodes.
    pub(crate) nodes: Store<PartialObjectMeta<Node>>,
    pub(crate) node_backups: Store<NodeBackup>,
    /// The DaemonSets of backup servers.
    pub(crate) daemon_sets: Store<DaemonSet>,
    /// The StatefulSets of the nodes' volumes. Empty if upstream's operator handles `Backup`s.
    pub(crate) volume_sets: Store<StatefulSet>,
    /// Empty if upstream's operator handles `Backup`s.
    pub(crate) cron_jobs: Store<CronJob>,
    /// Empty if upstream's operator handles `Backup`s.
    pub(crate) pvcs: Store<PersistentVolumeClaim>,
    changes: watch::Sender<u64>,
    configuration_is_ready: watch::Sender<bool>,
    is_ready: watch::Sender<bool>,
}

impl Cache {
    /// Starts the watches as tasks.
    pub(crate) fn start(
        client: &Client,
        namespace: &str,
        ours: bool,
        state: &Arc<SharedState>,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Cache> {
        let changes = watch::Sender::new(0);
        let apps = |apps: &[&str]| {
            watcher::Config::default().labels(&format!("app in ({})", apps.join(",")))
        };
        let all = watcher::Config::default;
        let mut starter = WatchStarter {
            changes: &changes,
            state,
            tasks,
        };
        let of_cluster = (
            Api::<Lenient<PartialObjectMeta<Node>>>::all(client.clone()),
            Api::<Lenient<NodeBackup>>::all(client.clone()),
        );
        let sets: Api<Lenient<DaemonSet>> = Api::namespaced(client.clone(), namespace);
        let pods: Api<Lenient<Pod>> = Api::namespaced(client.clone(), namespace);
        let nodes = starter.watch_without_managed_fields(watcher(of_cluster.0, all()));
        // With managed fields: they have the time of the node's last write, by the API server's clock.
        let node_backups = starter.start_watch(watcher(of_cluster.1, all()));
        let daemon_sets = starter.watch_without_managed_fields(watcher(sets, apps(&[SERVER_APP])));
        let pods = starter
            .watch_without_managed_fields(watcher(pods, apps(&[SERVER_APP, JOB_APP, VOLUME_APP])));
        let (backups, requests, jobs, cron_jobs, pvcs, volume_sets) = if ours {
            let backups: Api<Lenient<Backup>> = Api::all(client.clone());
            let requests: Api<Lenient<EtcdBackup>> = Api::all(client.clone());
            let jobs: Api<Lenient<Job>> = Api::namespaced(client.clone(), namespace);
            let cron_jobs: Api<Lenient<CronJob>> = Api::namespaced(client.clone(), namespace);
            let pvcs: Api<Lenient<PersistentVolumeClaim>> =
                Api::namespaced(client.clone(), namespace);
            let volume_sets: Api<Lenient<StatefulSet>> = Api::namespaced(client.clone(), namespace);
            (
                starter.watch_without_managed_fields(watcher(backups, all())),
                starter.watch_without_managed_fields(watcher(requests, all())),
                starter.watch_without_managed_fields(watcher(jobs, apps(&[CRON_APP, JOB_APP]))),
                starter.watch_without_managed_fields(watcher(cron_jobs, apps(&[CRON_APP]))),
                starter.watch_without_managed_fields(watcher(pvcs, all())),
                starter.watch_without_managed_fields(watcher(volume_sets, apps(&[VOLUME_APP]))),
            )
        } else {
            (
                starter.start_watch(stream::empty()),
                starter.start_watch(stream::empty()),
                starter.start_watch(stream::empty()),
                starter.start_watch(stream::empty()),
                starter.start_watch(stream::empty()),
                starter.start_watch(stream::empty()),
            )
        };
        let cache = Arc::new(Cache {
            ours,
            backups,
            requests,
            jobs,
            pods,
            nodes,
            node_backups,
            daemon_sets,
            cron_jobs,
            pvcs,
            volume_sets,
            changes,
            configuration_is_ready: watch::Sender::new(false),
            is_ready: watch::Sender::new(false),
        });
        let waiting = cache.clone();
        tasks.spawn(async move { waiting.wait_for_all_stores().await });
        cache
    }

    /// Waits until every watch has listed its objects once.
    pub(crate) async fn ready(&self) {
        wait_for(&self.is_ready).await;
    }

    /// Waits only for the watches that decide which objects are applied, so that backups begin even if another watch fails.
    pub(crate) async fn configuration_ready(&self) {
        wait_for(&self.configuration_is_ready).await;
    }

    /// Sets the flags for all waiting tasks: the library wakes only one task that waits for a store.
    async fn wait_for_all_stores(&self) {
        // An error means that a watch has ended, which happens only when the operator ends.
        let _ = self.nodes.wait_until_ready().await;
        let _ = self.daemon_sets.wait_until_ready().await;
        if self.ours {
            let _ = self.backups.wait_until_ready().await;
            let _ = self.cron_jobs.wait_until_ready().await;
            let _ = self.pvcs.wait_until_ready().await;
        }
        self.configuration_is_ready.send_replace(true);
        if self.ours {
            let _ = self.requests.wait_until_ready().await;
            let _ = self.jobs.wait_until_ready().await;
            let _ = self.volume_sets.wait_until_ready().await;
        }
        let _ = self.pods.wait_until_ready().await;
        let _ = self.node_backups.wait_until_ready().await;
        self.is_ready.send_replace(true);
    }

    /// The nodes with one of the role labels.
    pub(crate) fn control_plane(&self) -> Vec<Arc<PartialObjectMeta<Node>>> {
        let has_role = |node: &Arc<PartialObjectMeta<Node>>| {
            ROLES.iter().any(|role| node.labels().contains_key(*role))
        };
        self.nodes.state().into_iter().filter(has_role).collect()
    }

    /// Receives a message for every change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until a write is in the cache, so that no decision uses the old object.
    pub(crate) async fn wait_until_cached<K>(&self, store: &Store<K>, written: &K)
    where
        K: Resource + Clone + 'static,
        K::DynamicType: Eq + Hash + Clone + Default,
    {
        let version = |object: &K| object.resource_version()?.parse::<u64>().ok();
        let reference = ObjectRef::from_obj(written);
        let arrival = async {
            while store
                .get(&reference)
                .is_none_or(|cached| version(&cached) < version(written))
            {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // Continue after the timeout, because the object may have been deleted already.
        let _ = tokio::time::timeout(CACHE_TIMEOUT, arrival).await;
    }
}

async fn wait_for(flag: &watch::Sender<bool>) {
    let mut flag = flag.subscribe();
    // This cannot fail, because the cache keeps the sender.
    let _ = flag.wait_for(|is_set| *is_set).await;
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
    state: &SharedState,
) -> Option<watcher::Event<K>> {
    let read_object = |object: Lenient<K>| {
        state.set_readable(
            &K::kind(&K::DynamicType::default()),
            &object.name_any(),
            object.problem(),
        );
        object.object.ok()
    };
    Some(match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(read_object(object)?),
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::Apply(object) => watcher::Event::Apply(read_object(object)?),
        watcher::Event::Delete(object) => {
            let of = K::DynamicType::default();
            state.set_readable(&K::kind(&of), &object.name_any(), None);
            watcher::Event::Delete(object.object.ok()?)
        }
    })
}

struct WatchStarter<'k> {
    changes: &'k watch::Sender<u64>,
    state: &'k Arc<SharedState>,
    tasks: &'k mut JoinSet<()>,
}

impl WatchStarter<'_> {
    fn start_watch<K: Watched>(&mut self, stream: impl Events<Lenient<K>>) -> Store<K> {
        let (store, writer) = reflector::store();
        let changes = self.changes.clone();
        let errors = WatchErrorLog::default();
        let state = self.state.clone();
        self.tasks.spawn(async move {
            let mut events = stream
                .backoff(WatchBackoff::default())
                .filter_map(move |event| {
                    let event = event.map(|event| readable(event, &state)).transpose();
                    std::future::ready(event)
                })
                .reflect(writer)
                .boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                    Ok(_) => {
                        errors.reset();
                        changes.send_modify(|count| *count += 1);
                    }
                    Err(error) => errors.report(&error),
                }
            }
        });
        store
    }

    /// Caches objects without `managedFields`, which would take half of the memory.
    fn watch_without_managed_fields<K: Watched>(
        &mut self,
        stream: impl Events<Lenient<K>>,
    ) -> Store<K> {
        self.start_watch(stream.modify(|object| object.managed_fields_mut().clear()))
    }
}
