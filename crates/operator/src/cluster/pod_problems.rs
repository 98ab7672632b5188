//! What is wrong with a pod.

use crate::names::SERVER_APP;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::ResourceExt;
use serde_json::json;
use std::sync::Arc;

/// The problem of a node's backup server, if any.
pub(crate) fn server_problem(node: &str, pods: &[Arc<Pod>]) -> Option<String> {
    let mut own = pods
        .iter()
        .filter(|pod| pod.labels().get("app").is_some_and(|app| app == SERVER_APP))
        .filter(|pod| is_for(pod, node))
        .peekable();
    if own.peek().is_none() {
        return Some("the backup server has no pod on this node".into());
    }
    // While a pod is replaced there are two pods. One pod without a problem is enough.
    let problems: Option<Vec<_>> = own.map(|pod| pod_problem(pod)).collect();
    problems.and_then(|mut problems| problems.pop())
}

/// Whether a pod of a DaemonSet is for this node, even if it is not scheduled yet.
fn is_for(pod: &Pod, node: &str) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    if let Some(bound) = &spec.node_name {
        return bound == node;
    }
    let affinity = json!(spec.affinity);
    let terms = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    affinity.pointer(terms).and_then(|value| value.as_str()) == Some(node)
}

/// The problem of a pod, or `None` if it runs or has succeeded.
pub(crate) fn pod_problem(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    if status.phase.as_deref() == Some("Succeeded") {
        return None;
    }
    let containers = || status.container_statuses.iter().flatten();
    let end_message = |state: &Option<ContainerState>| {
        let end = state.as_ref()?.terminated.as_ref()?;
        let code = end.exit_code;
        let log = end.message.as_deref().unwrap_or_default().trim();
        let last_line = log.lines().last().unwrap_or_default();
        Some(match end.reason.as_deref().unwrap_or("Error") {
            "Error" if !last_line.is_empty() => format!("exit code {code}: {last_line}"),
            // If the program did not end by itself, its log does not say why.
            reason => format!("{reason}, exit code {code}"),
        })
    };
    if status.phase.as_deref() == Some("Failed") {
        let last_message = containers().find_map(|container| end_message(&container.state));
        let why = match (&status.reason, &status.message) {
            (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
            (reason, _) => reason.clone(),
        };
        let reasons: Vec<_> = why.into_iter().chain(last_message).collect();
        return Some(format!("pod {name} failed: {}", reasons.join("; ")));
    }
    let waiting = containers().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        let last_message = end_message(&container.last_state);
        let message =
            last_message.or_else(|| waiting.message.clone().filter(|text| !text.is_empty()));
        Some(match message {
            Some(message) => format!("pod {name}: {reason}: {message}"),
            None => format!("pod {name}: {reason}"),
        })
    });
    if waiting.is_some() {
        return waiting;
    }
    if let Some(end) = containers().find_map(|container| end_message(&container.state)) {
        return Some(format!("pod {name}: {end}"));
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let message = unscheduled.message.as_deref().unwrap_or("no message");
    Some(format!("pod {name} is not scheduled: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn problem(status: Value) -> Option<String> {
        let pod = json!({"metadata": {"name": "p"}, "status": status});
        pod_problem(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_is_wrong_with_a_pod_is_told_in_its_own_words() {
        let container = |state: Value, last: Value| json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last}]);
        let died =
            json!({"terminated": {"exitCode": 2, "reason": "Error", "message": "error: no\n"}});
        for (status, expected) in [
            (json!({"phase": "Running"}), None),
            (json!({"phase": "Succeeded"}), None),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
                Some("pod p failed: Evicted: The node was low on resource: memory."),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": container(died.clone(), json!({}))}),
                Some("pod p failed: exit code 2: error: no"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": container(
                    json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}), died)}),
                Some("pod p: CrashLoopBackOff: exit code 2: error: no"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": container(
                    json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}),
                    json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "info: a last line"}}))}),
                Some("pod p: CrashLoopBackOff: OOMKilled, exit code 137"),
            ),
            // Before the next start.
            (
                json!({"phase": "Running", "containerStatuses": container(
                    json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "info: a last line"}}), json!({}))}),
                Some("pod p: OOMKilled, exit code 137"),
            ),
            // With a whole log.
            (
                json!({"phase": "Running", "containerStatuses": container(
                    json!({"waiting": {"reason": "CrashLoopBackOff"}}),
                    json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "info: started\nerror: no\n"}}))}),
                Some("pod p: CrashLoopBackOff: exit code 1: error: no"),
            ),
            (
                json!({"phase": "Pending", "containerStatuses": container(
                    json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}), json!({}))}),
                Some("pod p: ErrImagePull: not found"),
            ),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]}),
                Some("pod p is not scheduled: 0/3 nodes are available"),
            ),
        ] {
            assert_eq!(problem(status).as_deref(), expected);
        }
    }
}
