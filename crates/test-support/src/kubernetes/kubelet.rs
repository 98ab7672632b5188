//! A kubelet whose containers are processes: for each pod that is bound to its node it starts what the pod says
//! and reports what comes of it. It speaks with the node's own identity, so that the API server lets it do no
//! more than a real one.
//!
//! Not supported: probes, resource limits, pod networks, static pods, forwarded ports. Restarts back off
//! from 1 s to 30 s, quicker than a real one's.

use super::node_context::Context;
use super::part::Part;
use super::pod::Wish;
use super::{node, pod};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::watcher;
use kube::runtime::{WatchStreamExt, watcher::Event};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A kubelet; aborting its tasks leaves its containers alone, as when a real one stops.
pub(super) struct Kubelet {
    tasks: Vec<JoinHandle<()>>,
    streams: Part,
    kill: Arc<watch::Sender<bool>>,
}

impl Kubelet {
    pub(super) fn start(context: Arc<Context>, mut streams: Part) -> Self {
        // If this program was not built, logs and commands are not available.
        if streams.is_there() {
            streams.start_again();
        }
        let kill = Arc::new(watch::Sender::new(false));
        let heartbeat = tokio::spawn(node::keep_ready(context.clone()));
        let pods = tokio::spawn(run_pods(context, kill.clone()));
        Kubelet {
            tasks: vec![heartbeat, pods],
            streams,
            kill,
        }
    }

    /// Ends it and all its containers, as when a node loses its power.
    pub(super) fn crash(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.kill.send_replace(true);
        self.streams.stop();
    }
}

async fn run_pods(context: Arc<Context>, kill: Arc<watch::Sender<bool>>) {
    let all: Api<Pod> = Api::all(context.client.clone());
    let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", context.node));
    let mut events = watcher(all, of_node).default_backoff().boxed();
    let mut workers: HashMap<String, watch::Sender<Wish>> = HashMap::new();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.push(uid(&pod));
                update_worker(&context, &kill, &mut workers, pod);
            }
            // Pods that are not listed any more were deleted while the watch was interrupted.
            Ok(Event::InitDone) => workers.retain(|uid, worker| {
                let exists = listed.contains(uid);
                if !exists {
                    worker.send_replace(Wish::Kill);
                }
                exists
            }),
            Ok(Event::Apply(pod)) => update_worker(&context, &kill, &mut workers, pod),
            Ok(Event::Delete(pod)) => {
                if let Some(worker) = workers.remove(&uid(&pod)) {
                    worker.send_replace(Wish::Kill);
                }
            }
            // The watch tries again.
            Err(_) => {}
        }
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn update_worker(
    context: &Arc<Context>,
    kill: &Arc<watch::Sender<bool>>,
    workers: &mut HashMap<String, watch::Sender<Wish>>,
    pod: Pod,
) {
    let wish = match pod.metadata.deletion_timestamp {
        None => Wish::Run,
        Some(_) => Wish::End {
            grace_s: pod
                .metadata
                .deletion_grace_period_seconds
                .and_then(|seconds| seconds.try_into().ok())
                .unwrap_or_default(),
        },
    };
    match workers.get(&uid(&pod)) {
        Some(worker) => {
            worker.send_if_modified(|old| {
                let changed = *old != wish;
                *old = wish;
                changed
            });
        }
        None => {
            let (sender, wishes) = watch::channel(wish);
            workers.insert(uid(&pod), sender);
            tokio::spawn(pod::run(context.clone(), pod, wishes, kill.subscribe()));
        }
    }
}
