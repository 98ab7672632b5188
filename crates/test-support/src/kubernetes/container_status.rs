//! The status of a container, and its form in a pod's status.

use serde_json::{Value, json};

#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    pub(super) image: String,
    pub(super) state: State,
    pub(super) last: Option<Terminated>,
    pub(super) restarts: i32,
    pub(super) pid: Option<u32>,
}

#[derive(Debug, Clone)]
pub(super) enum State {
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
pub(super) struct Terminated {
    pub(super) code: i32,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) started: String,
    pub(super) finished: String,
    pub(super) pid: u32,
}

/// The current time in the format of the API server.
pub(super) fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// The entry of a container in a pod's status.
pub(super) fn container_status(name: &str, status: &Status) -> Value {
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
