//! One pod: its volumes, its init containers one after another, its containers with their restarts, and the
//! status that the API server gets, until the pod ends or is deleted.

use super::container::signal;
use super::container_status::{State, Status, container_status, now};
use super::launcher::Launcher;
use super::node_context::Context;
use super::volumes;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a pod's worker is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    Run,
    /// The pod was deleted and must end within this time.
    End {
        grace_s: u64,
    },
    /// The pod does not exist any more.
    Kill,
}

struct Worker {
    context: Arc<Context>,
    pod: Pod,
    spec: PodSpec,
    dir: PathBuf,
    statuses: BTreeMap<String, Status>,
    /// Why the pod failed, other than by its containers.
    failed: Option<(&'static str, String)>,
    wishes: watch::Receiver<Wish>,
    kill: watch::Receiver<bool>,
}

/// How the containers of a pod ended.
enum Outcome {
    /// All containers have exited.
    Done,
    /// The pod must end.
    Interrupted,
}

/// Runs a pod to its end.
pub(super) async fn run(
    context: Arc<Context>,
    pod: Pod,
    wishes: watch::Receiver<Wish>,
    kill: watch::Receiver<bool>,
) {
    let Some(spec) = pod.spec.clone() else {
        return;
    };
    let dir = context
        .pods
        .join(pod.metadata.uid.as_deref().unwrap_or_default());
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    let over = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
    let mut worker = Worker {
        context,
        dir,
        statuses: BTreeMap::new(),
        failed: None,
        wishes,
        kill,
        spec,
        pod,
    };
    if !over && *worker.wishes.borrow() == Wish::Run {
        worker.live().await;
    }
    worker.wait_for_deletion().await;
}

impl Worker {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), namespace)
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    async fn live(&mut self) {
        let containers = self
            .spec
            .init_containers
            .iter()
            .flatten()
            .chain(&self.spec.containers);
        self.statuses = containers
            .map(|container| {
                let image = container.image.clone().unwrap_or_default();
                let status = Status {
                    image,
                    ..Status::default()
                };
                (container.name.clone(), status)
            })
            .collect();
        self.publish().await;
        self.link_by_name();
        let Some(volumes) = self.volumes().await else {
            return;
        };
        let deadline = self
            .spec
            .active_deadline_seconds
            .and_then(|seconds| seconds.try_into().ok())
            .map(|seconds| Instant::now() + Duration::from_secs(seconds));
        for container in self.spec.init_containers.clone().unwrap_or_default() {
            let outcome = self
                .run_all(std::slice::from_ref(&container), &volumes, true, deadline)
                .await;
            let failed = !self.succeeded(&container.name);
            if matches!(outcome, Outcome::Interrupted) || failed {
                return self.publish().await;
            }
        }
        let containers = self.spec.containers.clone();
        self.run_all(&containers, &volumes, false, deadline).await;
        self.publish().await;
    }

    fn succeeded(&self, name: &str) -> bool {
        let status = self.statuses.get(name);
        status
            .is_some_and(|status| matches!(&status.state, State::Terminated(end) if end.code == 0))
    }

    /// Waits until all volumes are available. Returns `None` if the pod must end before that.
    async fn volumes(&mut self) -> Option<BTreeMap<String, PathBuf>> {
        loop {
            match volumes::prepare(&self.context, &self.pod, &self.dir.join("volumes")).await {
                Ok(volumes) => return Some(volumes),
                Err(problem) => {
                    for status in self.statuses.values_mut() {
                        status.state = State::Waiting {
                            reason: "ContainerCreating",
                            message: problem.clone(),
                        };
                    }
                    self.publish().await;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = interrupted(&mut self.wishes, &mut self.kill) => return None,
            }
        }
    }

    /// Runs containers side by side, with restarts, until none is to be started again.
    async fn run_all(
        &mut self,
        containers: &[Container],
        volumes: &BTreeMap<String, PathBuf>,
        init: bool,
        deadline: Option<Instant>,
    ) -> Outcome {
        let (sender, mut updates) = tokio::sync::mpsc::unbounded_channel::<(String, Status)>();
        let stop = watch::Sender::new(false);
        for container in containers {
            let launcher = Launcher {
                context: self.context.clone(),
                pod: self.pod.clone(),
                container: container.clone(),
                volumes: volumes.clone(),
                dir: self.dir.join(&container.name),
                again: self.restarts(init),
                status: self
                    .statuses
                    .get(&container.name)
                    .cloned()
                    .unwrap_or_default(),
                told: sender.clone(),
                stop: stop.subscribe(),
            };
            tokio::spawn(launcher.run());
        }
        drop(sender);
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(expired);
        loop {
            tokio::select! {
                update = updates.recv() => match update {
                    Some((name, status)) => {
                        self.statuses.insert(name, status);
                        self.publish().await;
                    }
                    None => return Outcome::Done,
                },
                () = interrupted(&mut self.wishes, &mut self.kill) => break,
                () = &mut expired => {
                    let message = "Pod was active on the node longer than the specified deadline";
                    self.failed = Some(("DeadlineExceeded", message.into()));
                    break;
                }
            }
        }
        stop.send_replace(true);
        self.stop(&mut updates).await;
        Outcome::Interrupted
    }

    /// Whether a container that exited with a code is started again.
    fn restarts(&self, init: bool) -> fn(i32) -> bool {
        match (self.spec.restart_policy.as_deref(), init) {
            (Some("Never"), _) => |_| false,
            (Some("OnFailure"), _) | (_, true) => |code| code != 0,
            _ => |_| true,
        }
    }

    /// Ends what runs: with SIGTERM, and after the grace period with SIGKILL. A container that was being started is
    /// reported as running only now, so that this ends when nobody reports any more.
    async fn stop(&mut self, updates: &mut tokio::sync::mpsc::UnboundedReceiver<(String, Status)>) {
        let grace_s = match &*self.wishes.borrow() {
            Wish::End { grace_s } => *grace_s,
            Wish::Kill => 0,
            Wish::Run => self
                .spec
                .termination_grace_period_seconds
                .and_then(|seconds| seconds.try_into().ok())
                .unwrap_or(30),
        };
        let end = Instant::now() + Duration::from_secs(grace_s);
        let mut is_killing = *self.kill.borrow();
        let name = |is_killing| if is_killing { "-KILL" } else { "-TERM" };
        self.signal_running(name(is_killing));
        loop {
            tokio::select! {
                update = updates.recv() => match update {
                    Some((container, status)) => {
                        if let (State::Running { .. }, Some(pid)) = (&status.state, status.pid) {
                            signal(pid, name(is_killing));
                        }
                        self.statuses.insert(container, status);
                    }
                    None => break,
                },
                () = tokio::time::sleep_until(end), if !is_killing => {
                    is_killing = true;
                    self.signal_running(name(is_killing));
                }
            }
        }
    }

    fn signal_running(&self, name: &str) {
        for status in self.statuses.values() {
            if let (State::Running { .. }, Some(pid)) = (&status.state, status.pid) {
                signal(pid, name);
            }
        }
    }

    /// After the pod has ended: waits until it is deleted, and confirms the deletion to the API server.
    async fn wait_for_deletion(&mut self) {
        loop {
            if *self.kill.borrow() || *self.wishes.borrow() == Wish::Kill {
                break;
            }
            if matches!(*self.wishes.borrow(), Wish::End { .. }) {
                self.publish().await;
                let params = DeleteParams::default().grace_period(0);
                let params = DeleteParams {
                    preconditions: Some(kube::api::Preconditions {
                        uid: self.pod.metadata.uid.clone(),
                        resource_version: None,
                    }),
                    ..params
                };
                let pods: Api<Pod> = self.api();
                match pods.delete(self.name(), &params).await {
                    Ok(_) => break,
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => break,
                    Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                }
                continue;
            }
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() { break },
                changed = self.kill.changed() => if changed.is_err() { break },
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        let link = self.by_name();
        if std::fs::read_link(&link).is_ok_and(|target| target == self.dir) {
            let _ = std::fs::remove_file(link);
        }
    }

    /// The link to the pod's directory, by the namespace and name of the pod.
    fn by_name(&self) -> PathBuf {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = format!("{namespace}_{}", self.name());
        self.context.pods.join("by-name").join(name)
    }

    fn link_by_name(&self) {
        let link = self.by_name();
        // An earlier pod with the same name has ended.
        let _ = std::fs::create_dir_all(self.context.pods.join("by-name"));
        let _ = std::fs::remove_file(&link);
        let _ = std::os::unix::fs::symlink(&self.dir, &link);
    }

    /// Writes the status to the API server, with a few retries.
    async fn publish(&self) {
        if self.statuses.is_empty() || *self.kill.borrow() || *self.wishes.borrow() == Wish::Kill {
            return;
        }
        let patch = Patch::Merge(json!({"status": self.status()}));
        let pods: Api<Pod> = self.api();
        let params = PatchParams::default();
        // A node without a connection continues to run its pods, so it must not wait here for ever.
        for _ in 0..5 {
            let patched = pods.patch_status(self.name(), &params, &patch);
            match tokio::time::timeout(Duration::from_secs(5), patched).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409 | 422) => {
                    return;
                }
                _ => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    fn status(&self) -> Value {
        let of = |containers: &[Container]| -> Vec<Value> {
            containers
                .iter()
                .filter_map(|container| {
                    Some(container_status(
                        &container.name,
                        self.statuses.get(&container.name)?,
                    ))
                })
                .collect()
        };
        let init = of(self.spec.init_containers.as_deref().unwrap_or_default());
        let main = of(&self.spec.containers);
        let main_names: Vec<_> = self
            .spec
            .containers
            .iter()
            .map(|container| &container.name)
            .collect();
        let main_states: Vec<_> = main_names
            .iter()
            .filter_map(|name| self.statuses.get(*name))
            .collect();
        let initialized = self
            .spec
            .init_containers
            .iter()
            .flatten()
            .all(|container| self.succeeded(&container.name));
        let ready = main_states
            .iter()
            .all(|status| matches!(status.state, State::Running { .. }));
        let init_failed = self.spec.init_containers.iter().flatten().any(|container| {
            self.statuses.get(&container.name).is_some_and(|status| {
                matches!(&status.state, State::Terminated(end) if end.code != 0)
                    && !self.restarts(true)(1)
            })
        });
        let ends: Vec<_> = main_states
            .iter()
            .filter_map(|status| match &status.state {
                State::Terminated(end) => Some(end.code),
                _ => None,
            })
            .collect();
        let all_ended = ends.len() == main_states.len();
        let phase = if self.failed.is_some() || init_failed {
            "Failed"
        } else if all_ended && ends.iter().all(|code| *code == 0) {
            "Succeeded"
        } else if all_ended {
            "Failed"
        } else if main_states.iter().any(|status| status.pid.is_some()) {
            "Running"
        } else {
            "Pending"
        };
        let over = matches!(phase, "Failed" | "Succeeded");
        let condition = |kind: &str, holds: bool| {
            let mut condition = json!({
                "type": kind,
                "status": if holds { "True" } else { "False" },
                "lastTransitionTime": now(),
            });
            if !holds && over {
                condition["reason"] = "PodCompleted".into();
            }
            condition
        };
        let mut status = json!({
            "phase": phase,
            "conditions": [
                condition("PodScheduled", true),
                condition("Initialized", initialized),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ],
            "hostIP": "127.0.0.1",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "startTime": self.started(),
            "initContainerStatuses": init,
            "containerStatuses": main,
        });
        if let Some((reason, message)) = &self.failed {
            status["reason"] = (*reason).into();
            status["message"] = message.clone().into();
        }
        status
    }

    fn started(&self) -> String {
        let created = self.pod.metadata.creation_timestamp.as_ref();
        created.map_or_else(now, |time| {
            time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
        })
    }
}

/// Returns when the pod must end.
async fn interrupted(wishes: &mut watch::Receiver<Wish>, kill: &mut watch::Receiver<bool>) {
    tokio::select! {
        _ = wishes.wait_for(|wish| *wish != Wish::Run) => {}
        _ = kill.wait_for(|kill| *kill) => {}
    }
}
