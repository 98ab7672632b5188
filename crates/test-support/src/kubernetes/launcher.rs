//! One container of a pod: its environment and mounts, its starts and restarts, its termination message.

use super::container::{Launch, Mount};
use super::container_status::{State, Status, Terminated, now};
use super::node_context::Context;
use super::volumes;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, SecurityContext};
use kube::api::Api;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// The kubelet reads at most this length of a termination message.
const MESSAGE_BYTES: usize = 4096;
const LOG_MESSAGE_BYTES: usize = 2048;
const LOG_MESSAGE_LINES: usize = 80;

/// Runs one container with its restarts.
pub(super) struct Launcher {
    pub(super) context: Arc<Context>,
    pub(super) pod: Pod,
    pub(super) container: Container,
    pub(super) volumes: BTreeMap<String, PathBuf>,
    pub(super) dir: PathBuf,
    pub(super) again: fn(i32) -> bool,
    pub(super) status: Status,
    pub(super) told: tokio::sync::mpsc::UnboundedSender<(String, Status)>,
    /// Whether nothing is to be started any more.
    pub(super) stop: tokio::sync::watch::Receiver<bool>,
}

impl Launcher {
    fn report(&self) {
        let _ = self
            .told
            .send((self.container.name.clone(), self.status.clone()));
    }

    /// Waits before the next start.
    async fn wait(&mut self, reason: &'static str, message: String, delay: Duration) {
        self.status.state = State::Waiting { reason, message };
        self.report();
        let stopped = self.stop.wait_for(|stop| *stop);
        let _ = tokio::time::timeout(delay, stopped).await;
    }

    pub(super) async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let mut stop = self.stop.clone();
            let launch = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                launch = self.launch() => launch,
            };
            let launched = match launch {
                Ok(launch) => {
                    let spawner = self.context.spawner.clone();
                    // One thread starts all containers, and each start takes only a moment.
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
            // For the program that runs commands in the container.
            let _ = std::fs::write(self.dir.join("pid"), running.pid.to_string());
            self.status.state = State::Running {
                since: started.clone(),
            };
            self.report();
            let code = running.ended.await.unwrap_or(255);
            let _ = std::fs::remove_file(self.dir.join("pid"));
            let end = Terminated {
                code,
                reason: if code == 0 { "Completed" } else { "Error" },
                message: self.message(code, &launch.log),
                started,
                finished: now(),
                pid: running.pid,
            };
            self.status.state = State::Terminated(end.clone());
            self.report();
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

    /// The termination message of the container, or the end of its log if it failed and the pod wants that.
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

/// The remaining capabilities if the container drops all. If it drops only some, returns `None` and all stay.
fn capabilities(context: &SecurityContext) -> Option<Vec<String>> {
    let capabilities = context.capabilities.as_ref()?;
    let dropped = capabilities.drop.iter().flatten().any(|name| name == "ALL");
    dropped.then(|| capabilities.add.clone().unwrap_or_default())
}

/// A word with `$(NAME)` replaced, as Kubernetes does it: an unknown name stays, and `$$` is `$`.
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
