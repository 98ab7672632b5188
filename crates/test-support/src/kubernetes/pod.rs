//! One pod: its volumes, its init containers one after another, its containers with their restarts, and what
//! the API server is told of it, until it ends or is deleted.

use super::container::{Launch, Mount, signal};
use super::kubelet::{Context, Wish};
use super::volumes;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, Pod, PodSpec, Secret, SecurityContext,
};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// What the kubelet takes of a termination message.
const MESSAGE_BYTES: usize = 4096;
const LOG_MESSAGE_BYTES: usize = 2048;
const LOG_MESSAGE_LINES: usize = 80;

/// What is known of a container.
#[derive(Debug, Clone, Default)]
struct Status {
    image: String,
    state: State,
    last: Option<Terminated>,
    restarts: i32,
    pid: Option<u32>,
}

#[derive(Debug, Clone)]
enum State {
    Waiting {
        reason: &'static str,
        message: String,
    },
    Running {
        since: String,
    },
    Terminated(Terminated),
}

impl Default for State {
    fn default() -> Self {
        State::Waiting {
            reason: "ContainerCreating",
            message: String::new(),
        }
    }
}

#[derive(Debug, Clone)]
struct Terminated {
    code: i32,
    reason: &'static str,
    message: String,
    started: String,
    finished: String,
    pid: u32,
}

/// A pod that is run.
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

/// How long something went on.
enum Outcome {
    /// To its end: everything exited.
    Done,
    /// Somebody wants an end.
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
    worker.bury().await;
}

fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
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

    /// The volumes, when all of them can be had; nothing if the pod is to end before that.
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
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel::<(String, Status)>();
        let mut tasks = tokio::task::JoinSet::new();
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
                told: told.clone(),
            };
            tasks.spawn(launcher.run());
        }
        drop(told);
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(expired);
        loop {
            tokio::select! {
                tell = tells.recv() => match tell {
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
        self.stop(&mut tasks, &mut tells).await;
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

    /// Ends what runs: with SIGTERM, and after the grace period with SIGKILL.
    async fn stop(
        &mut self,
        tasks: &mut tokio::task::JoinSet<()>,
        tells: &mut tokio::sync::mpsc::UnboundedReceiver<(String, Status)>,
    ) {
        let grace_s = match &*self.wishes.borrow() {
            Wish::End { grace_s } => *grace_s,
            Wish::Kill => 0,
            Wish::Run => self
                .spec
                .termination_grace_period_seconds
                .and_then(|seconds| seconds.try_into().ok())
                .unwrap_or(30),
        };
        let crashed = *self.kill.borrow();
        let pids: Vec<_> = self
            .statuses
            .values()
            .filter(|status| matches!(status.state, State::Running { .. }))
            .filter_map(|status| status.pid)
            .collect();
        for pid in &pids {
            signal(*pid, if crashed { "-KILL" } else { "-TERM" });
        }
        let end = Instant::now() + Duration::from_secs(grace_s);
        let mut killed = crashed;
        // What waits for its next start is not started any more.
        while self
            .statuses
            .values()
            .any(|status| matches!(status.state, State::Running { .. }))
        {
            tokio::select! {
                tell = tells.recv() => match tell {
                    Some((name, status)) => drop(self.statuses.insert(name, status)),
                    None => break,
                },
                () = tokio::time::sleep_until(end), if !killed => {
                    killed = true;
                    for pid in &pids {
                        signal(*pid, "-KILL");
                    }
                }
            }
        }
        tasks.abort_all();
    }

    /// After its end: waits until it is deleted, and says that nothing of it is left.
    async fn bury(&mut self) {
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
    }

    /// Tells the API server, until it has heard, or the pod is gone.
    async fn publish(&self) {
        if self.statuses.is_empty() || *self.kill.borrow() || *self.wishes.borrow() == Wish::Kill {
            return;
        }
        let patch = Patch::Merge(json!({"status": self.status()}));
        let pods: Api<Pod> = self.api();
        let params = PatchParams::default();
        // A node that is cut off goes on with its pods: it must not wait here for ever.
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

/// Until somebody wants an end.
async fn interrupted(wishes: &mut watch::Receiver<Wish>, kill: &mut watch::Receiver<bool>) {
    tokio::select! {
        _ = wishes.wait_for(|wish| *wish != Wish::Run) => {}
        _ = kill.wait_for(|kill| *kill) => {}
    }
}

fn container_status(name: &str, status: &Status) -> Value {
    let terminated = |end: &Terminated| {
        let mut terminated = json!({
            "exitCode": end.code,
            "reason": end.reason,
            "startedAt": end.started,
            "finishedAt": end.finished,
            "containerID": format!("process://{}", end.pid),
        });
        if !end.message.is_empty() {
            terminated["message"] = end.message.clone().into();
        }
        json!({"terminated": terminated})
    };
    let running = matches!(status.state, State::Running { .. });
    let state = match &status.state {
        State::Waiting { reason, message } => {
            json!({"waiting": {"reason": reason, "message": message}})
        }
        State::Running { since } => json!({"running": {"startedAt": since}}),
        State::Terminated(end) => terminated(end),
    };
    json!({
        "name": name,
        "image": status.image,
        "imageID": status.image,
        "containerID": status.pid.map(|pid| format!("process://{pid}")),
        "ready": running,
        "started": running,
        "restartCount": status.restarts,
        "state": state,
        "lastState": status.last.as_ref().map(terminated).unwrap_or_else(|| json!({})),
    })
}

/// Runs one container with its restarts.
struct Launcher {
    context: Arc<Context>,
    pod: Pod,
    container: Container,
    volumes: BTreeMap<String, PathBuf>,
    dir: PathBuf,
    again: fn(i32) -> bool,
    status: Status,
    told: tokio::sync::mpsc::UnboundedSender<(String, Status)>,
}

impl Launcher {
    fn tell(&self) {
        let _ = self
            .told
            .send((self.container.name.clone(), self.status.clone()));
    }

    async fn wait(&mut self, reason: &'static str, message: String, delay: Duration) {
        self.status.state = State::Waiting { reason, message };
        self.tell();
        tokio::time::sleep(delay).await;
    }

    async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let launched = match self.launch().await {
                Ok(launch) => {
                    let spawner = self.context.spawner.clone();
                    // One thread starts all of them, and is quick about it.
                    spawner
                        .launch(&launch)
                        .map(|running| (launch, running))
                        .map_err(|error| ("RunContainerError", error.to_string()))
                }
                Err(problem) => Err(problem),
            };
            let (launch, running) = match launched {
                Ok(launched) => launched,
                Err((reason, message)) => {
                    self.wait(reason, message, backoff).await;
                    continue;
                }
            };
            let started = now();
            self.status.pid = Some(running.pid);
            self.status.state = State::Running {
                since: started.clone(),
            };
            self.tell();
            let code = running.ended.await.unwrap_or(255);
            let end = Terminated {
                code,
                reason: if code == 0 { "Completed" } else { "Error" },
                message: self.message(code, &launch.log),
                started,
                finished: now(),
                pid: running.pid,
            };
            self.status.state = State::Terminated(end.clone());
            self.tell();
            if !(self.again)(code) {
                return;
            }
            self.status.last = Some(end);
            let message = format!(
                "back-off {} s restarting failed container",
                backoff.as_secs()
            );
            self.wait("CrashLoopBackOff", message, backoff).await;
            self.status.restarts += 1;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// What the container left as its last words, or the end of its log if it failed and the pod says so.
    fn message(&self, code: i32, log: &Path) -> String {
        let words = std::fs::read(self.dir.join("termination-log")).unwrap_or_default();
        if !words.is_empty() {
            let words = words.get(..MESSAGE_BYTES).unwrap_or(&words);
            return String::from_utf8_lossy(words).into_owned();
        }
        let policy = self.container.termination_message_policy.as_deref();
        if code == 0 || policy != Some("FallbackToLogsOnError") {
            return String::new();
        }
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_MESSAGE_LINES);
        let text = lines.get(from..).unwrap_or_default().join("\n");
        let mut from = text.len().saturating_sub(LOG_MESSAGE_BYTES);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text.get(from..).unwrap_or_default().to_string()
    }

    async fn launch(&self) -> Result<Launch, (&'static str, String)> {
        let name = self.container.image.clone().unwrap_or_default();
        let image = match self.context.images.lock() {
            Ok(images) => images.get(&name).cloned(),
            Err(_) => None,
        };
        let image = image.ok_or_else(|| {
            (
                "ErrImageNeverPull",
                format!("no image {name:?} on this node"),
            )
        })?;
        let config_error = |problem: String| ("CreateContainerConfigError", problem);
        let env = self.env().await.map_err(config_error)?;
        let expand = |words: &Option<Vec<String>>| -> Vec<String> {
            words
                .iter()
                .flatten()
                .map(|word| expanded(word, &env))
                .collect()
        };
        let mut command = expand(&self.container.command);
        if command.is_empty() {
            command = image.entrypoint();
        }
        command.extend(expand(&self.container.args));
        std::fs::create_dir_all(&self.dir).map_err(|error| config_error(error.to_string()))?;
        let termination_log = self.dir.join("termination-log");
        std::fs::write(&termination_log, "").map_err(|error| config_error(error.to_string()))?;
        let message_path = self.container.termination_message_path.clone();
        let mut mounts = vec![Mount {
            source: termination_log,
            at: message_path.unwrap_or_else(|| "/dev/termination-log".into()),
            read_only: false,
        }];
        for mount in self.container.volume_mounts.iter().flatten() {
            let volume = self.volumes.get(&mount.name).ok_or_else(|| {
                config_error(format!(
                    "no volume {:?} for {}",
                    mount.name, mount.mount_path
                ))
            })?;
            let source = match mount.sub_path.as_deref() {
                Some(path) => volume.join(path),
                None => volume.clone(),
            };
            mounts.push(Mount {
                source,
                at: mount.mount_path.clone(),
                read_only: mount.read_only.unwrap_or_default(),
            });
        }
        let context = self.container.security_context.clone().unwrap_or_default();
        let root = self.dir.join(format!("root-{}", self.status.restarts));
        Ok(Launch {
            root,
            read_only_root: context.read_only_root_filesystem.unwrap_or_default(),
            image,
            mounts,
            command,
            env,
            user: context.run_as_user.filter(|user| *user != 0),
            capabilities: capabilities(&context),
            no_new_privileges: context.allow_privilege_escalation == Some(false),
            log: self.dir.join(format!("{}.log", self.status.restarts)),
        })
    }

    /// The environment, in the order in which it is written, with what each pod gets.
    async fn env(&self) -> Result<Vec<(String, String)>, String> {
        let mut env = vec![
            (
                "KUBERNETES_SERVICE_HOST".to_string(),
                "127.0.0.1".to_string(),
            ),
            (
                "KUBERNETES_SERVICE_PORT".into(),
                self.context.api_port.to_string(),
            ),
            (
                "KUBERNETES_SERVICE_PORT_HTTPS".into(),
                self.context.api_port.to_string(),
            ),
        ];
        for source in self.container.env_from.iter().flatten() {
            let prefix = source.prefix.clone().unwrap_or_default();
            let mut all = BTreeMap::new();
            if let Some(map) = &source.config_map_ref {
                all.extend(self.config_map(&map.name).await?);
            }
            if let Some(secret) = &source.secret_ref {
                all.extend(self.secret(&secret.name).await?);
            }
            env.extend(
                all.into_iter()
                    .map(|(name, value)| (format!("{prefix}{name}"), value)),
            );
        }
        for variable in self.container.env.iter().flatten() {
            let value = self.value(variable, &env).await?;
            env.push((variable.name.clone(), value));
        }
        Ok(env)
    }

    async fn value(
        &self,
        variable: &EnvVar,
        before: &[(String, String)],
    ) -> Result<String, String> {
        let Some(from) = &variable.value_from else {
            return Ok(expanded(
                variable.value.as_deref().unwrap_or_default(),
                before,
            ));
        };
        let named = |all: BTreeMap<String, String>, key: &str, object: &str| {
            all.get(key)
                .cloned()
                .ok_or_else(|| format!("couldn't find key {key} in {object}"))
        };
        if let Some(field) = &from.field_ref {
            return Ok(volumes::field_of(&self.pod, &field.field_path).unwrap_or_default());
        }
        if let Some(key) = &from.config_map_key_ref {
            return named(self.config_map(&key.name).await?, &key.key, &key.name);
        }
        if let Some(key) = &from.secret_key_ref {
            return named(self.secret(&key.name).await?, &key.key, &key.name);
        }
        Err(format!(
            "{}: a source that this kubelet does not know",
            variable.name
        ))
    }

    fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), namespace)
    }

    async fn config_map(&self, name: &str) -> Result<BTreeMap<String, String>, String> {
        let map = self.namespaced::<ConfigMap>().get(name).await;
        Ok(map
            .map_err(|error| error.to_string())?
            .data
            .unwrap_or_default())
    }

    async fn secret(&self, name: &str) -> Result<BTreeMap<String, String>, String> {
        let secret = self.namespaced::<Secret>().get(name).await;
        let data = secret
            .map_err(|error| error.to_string())?
            .data
            .unwrap_or_default();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(data
            .into_iter()
            .map(|(name, bytes)| (name, text(bytes.0)))
            .collect())
    }
}

/// The capabilities that are left where all are dropped; where only some are, all stay.
fn capabilities(context: &SecurityContext) -> Option<Vec<String>> {
    let capabilities = context.capabilities.as_ref()?;
    let dropped = capabilities.drop.iter().flatten().any(|name| name == "ALL");
    dropped.then(|| capabilities.add.clone().unwrap_or_default())
}

/// A word with `$(NAME)` replaced, as Kubernetes does it: what is not known stays, and `$$` is `$`.
fn expanded(word: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let named = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        let value = named.and_then(|(name, after)| {
            let set = env.iter().rev().find(|(known, _)| known == name)?;
            Some((&set.1, after))
        });
        match value {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_as_kubernetes_expands_them() {
        let env = [
            ("A".to_string(), "1".to_string()),
            ("B".into(), "$(A)".into()),
        ];
        for (word, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(A)"),
            ("$$(A)", "$(A)"),
            ("$(C) $A ${A} $", "$(C) $A ${A} $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expanded(word, &env), expected);
        }
    }
}
