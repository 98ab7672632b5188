//! Decides what to do for requests: one at a time, in the order of their names, and one node after another.

use crate::status::outcome::Outcome;

/// Part of the message of a running Job. After the Job's pod was deleted, the message still has the pod's problem.
const IS_RUNNING: &str = " is running";

/// An `EtcdBackup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestView {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) pvc: Option<String>,
    /// The only node to back up.
    pub(crate) node: Option<String>,
    /// `None` if it has no status yet.
    pub(crate) outcome: Option<Outcome>,
    /// The message of its last condition.
    pub(crate) last_message: String,
    /// The Job in its status.
    pub(crate) job: Option<String>,
}

/// A Job that makes a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobView {
    pub(crate) name: String,
    /// Uid of the request.
    pub(crate) owner_uid: String,
    pub(crate) node: Option<String>,
    pub(crate) end: Option<JobEnd>,
    /// The problem of its pod.
    pub(crate) pod_problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JobEnd {
    Complete,
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Create a Job for a request, on a node or with its PersistentVolumeClaim.
    CreateJob {
        request: String,
        node: Option<String>,
    },
    /// Write the outcome to the status of a request.
    WriteOutcome {
        request: String,
        outcome: Outcome,
        message: String,
    },
}

/// Decides on all actions. `nodes` are the nodes to back up, in order.
pub(crate) fn decide(requests: &[RequestView], jobs: &[JobView], nodes: &[String]) -> Vec<Action> {
    let mut all = Vec::new();
    let write_outcome =
        |request: &RequestView, outcome: Outcome, message: String| Action::WriteOutcome {
            request: request.name.clone(),
            outcome,
            message,
        };
    let mut current = None;
    let mut waiting = Vec::new();
    for request in requests {
        if matches!(request.outcome, Some(outcome) if outcome != Outcome::Pending) {
            continue;
        }
        let mut own: Vec<_> = jobs
            .iter()
            .filter(|job| job.owner_uid == request.uid)
            .collect();
        // The order of the Jobs must not change the message.
        own.sort_by(|one, other| one.name.cmp(&other.name));
        if own.is_empty() && request.job.is_none() {
            waiting.push(request);
            continue;
        }
        current.get_or_insert(&request.name);
        all.push(if own.is_empty() {
            let job = request.job.as_deref().unwrap_or_default();
            write_outcome(
                request,
                Outcome::Failed,
                format!("its Job {job} was deleted"),
            )
        } else {
            next_action(request, &own, &nodes_of_request(request, nodes))
        });
    }
    waiting.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(running) = current {
        let message =
            format!("waiting for EtcdBackup {running}: only one EtcdBackup runs at a time");
        let pending = waiting
            .into_iter()
            .map(|request| write_outcome(request, Outcome::Pending, message.clone()));
        all.extend(pending);
        return all;
    }
    let Some((first, others)) = waiting.split_first() else {
        return all;
    };
    all.push(match (&first.pvc, nodes_of_request(first, nodes).first()) {
        (None, None) => write_outcome(first, Outcome::Failed, no_node_message(first)),
        (None, Some(node)) => Action::CreateJob {
            request: first.name.clone(),
            node: Some(node.clone()),
        },
        (Some(_), _) => Action::CreateJob {
            request: first.name.clone(),
            node: None,
        },
    });
    let message = format!(
        "skipped because EtcdBackup {} runs: only one EtcdBackup runs at a time; create a new EtcdBackup later",
        first.name
    );
    all.extend(
        others
            .iter()
            .map(|request| write_outcome(request, Outcome::Skipped, message.clone())),
    );
    all
}

/// The nodes that a request is for.
fn nodes_of_request(request: &RequestView, nodes: &[String]) -> Vec<String> {
    let is_for = |node: &&String| request.node.as_ref().is_none_or(|only| only == *node);
    nodes.iter().filter(is_for).cloned().collect()
}

fn no_node_message(request: &RequestView) -> String {
    match &request.node {
        Some(node) => format!("{node} is not a control-plane node with a voting etcd member"),
        None => "no node with a role label control-plane, master or etcd has a voting etcd member"
            .into(),
    }
}

/// Decides on the action for a request that has a Job.
fn next_action(request: &RequestView, jobs: &[&JobView], nodes: &[String]) -> Action {
    let write_outcome = |outcome, message| Action::WriteOutcome {
        request: request.name.clone(),
        outcome,
        message,
    };
    let place = |job: &JobView| {
        let node = job.node.iter().map(|node| format!(" on {node}"));
        format!("Job {}{}", job.name, node.collect::<String>())
    };
    let done = jobs
        .iter()
        .filter(|job| job.end == Some(JobEnd::Complete))
        .count();
    let running = jobs.iter().find(|job| job.end.is_none());
    if let Some(job) = running {
        let pod = job.pod_problem.iter().map(|pod| format!(": {pod}"));
        let so_far = if request.pvc.is_none() {
            format!("{done} of {} nodes done; ", nodes.len().max(jobs.len()))
        } else {
            String::new()
        };
        let message = format!(
            "{so_far}{}{IS_RUNNING}{}",
            place(job),
            pod.collect::<String>()
        );
        return write_outcome(Outcome::Pending, message);
    }
    if request.pvc.is_none()
        && let Some(node) = nodes
            .iter()
            .find(|node| jobs.iter().all(|job| job.node.as_ref() != Some(node)))
    {
        return Action::CreateJob {
            request: request.name.clone(),
            node: Some(node.clone()),
        };
    }
    let failed: Vec<_> = jobs
        .iter()
        .filter_map(|job| match &job.end {
            Some(JobEnd::Failed(why)) => Some(format!(
                "{}: {}",
                place(job),
                // The pod's problem is more precise. The pod of an overdue Job does not exist any more.
                job.pod_problem.as_ref().unwrap_or(why)
            )),
            _ => None,
        })
        .collect();
    if failed.is_empty() {
        let places: Vec<_> = jobs.iter().map(|job| place(job)).collect();
        return write_outcome(
            Outcome::Completed,
            format!("a proven backup was made by {}", places.join(", ")),
        );
    }
    let mut message = if request.pvc.is_none() {
        format!("{done} of {} nodes have a new backup. ", jobs.len())
    } else {
        String::new()
    };
    message += &failed.join(". ");
    // The pods do not exist any more, but the last message has the problem of one.
    if jobs.iter().all(|job| job.pod_problem.is_none())
        && request.last_message.contains(&format!("{IS_RUNNING}: "))
    {
        message += &format!(" (before: {})", request.last_message);
    }
    write_outcome(Outcome::Failed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str) -> RequestView {
        RequestView {
            name: name.into(),
            uid: format!("uid-{name}"),
            pvc: None,
            node: None,
            outcome: None,
            last_message: String::new(),
            job: None,
        }
    }

    fn with_pvc(name: &str) -> RequestView {
        RequestView {
            pvc: Some("pvc".into()),
            ..request(name)
        }
    }

    fn job(of: &str, node: Option<&str>, end: Option<JobEnd>) -> JobView {
        JobView {
            name: format!("{of}-{}", node.unwrap_or("pvc")),
            owner_uid: format!("uid-{of}"),
            node: node.map(String::from),
            end,
            pod_problem: None,
        }
    }

    fn nodes(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_string()).collect()
    }

    /// The actions in short form.
    fn decided(requests: &[RequestView], jobs: &[JobView], on: &[&str]) -> Vec<String> {
        decide(requests, jobs, &nodes(on))
            .into_iter()
            .map(|decision| match decision {
                Action::CreateJob { request, node } => {
                    format!("{request} make {}", node.unwrap_or_default())
                }
                Action::WriteOutcome {
                    request, outcome, ..
                } => format!("{request} {outcome:?}"),
            })
            .collect()
    }

    #[test]
    fn of_several_the_first_by_name_is_made_and_the_others_are_skipped() {
        let all = [with_pvc("c"), with_pvc("a"), with_pvc("b")];
        assert_eq!(
            decided(&all, &[], &["n1"]),
            ["a make ", "b Skipped", "c Skipped"]
        );
    }

    #[test]
    fn while_one_is_made_the_others_wait() {
        let running = job("b", Some("n1"), None);
        assert_eq!(
            decided(&[request("a"), request("b")], &[running], &["n1"]),
            ["b Pending", "a Pending"]
        );
    }

    #[test]
    fn one_node_comes_after_another_and_each_failure_is_told() {
        let on = ["n1", "n2", "n3"];
        let end = |node, end| job("a", Some(node), Some(end));
        let mut jobs = Vec::new();
        for node in on {
            assert_eq!(
                decided(&[request("a")], &jobs, &on),
                [format!("a make {node}")]
            );
            jobs.push(end(node, JobEnd::Complete));
        }
        assert_eq!(decided(&[request("a")], &jobs, &on), ["a Completed"]);
        jobs.pop();
        jobs.push(end("n3", JobEnd::Failed("the disk is full".into())));
        let actions = decide(&[request("a")], &jobs, &nodes(&on));
        let Some(Action::WriteOutcome {
            outcome, message, ..
        }) = actions.first()
        else {
            panic!("the outcome is written");
        };
        assert_eq!(*outcome, Outcome::Failed);
        assert!(message.starts_with("2 of 3 nodes have"), "{message}");
        assert!(message.contains("on n3: the disk is full"), "{message}");
    }

    #[test]
    fn what_a_pod_that_is_gone_waited_for_is_still_told() {
        let waits = JobView {
            pod_problem: Some("pod a-n1-x: ErrImagePull".into()),
            ..job("a", Some("n1"), None)
        };
        let message = |request: &RequestView, job: JobView| match decide(
            std::slice::from_ref(request),
            &[job],
            &nodes(&["n1"]),
        )
        .pop()
        {
            Some(Action::WriteOutcome { message, .. }) => message,
            other => panic!("{other:?} tells nothing"),
        };
        let first = message(&request("a"), waits);
        let pending = RequestView {
            outcome: Some(Outcome::Pending),
            last_message: first,
            ..request("a")
        };
        let overdue = JobEnd::Failed("Job was active longer than specified deadline".into());
        let last = message(&pending, job("a", Some("n1"), Some(overdue)));
        assert!(last.contains("longer than specified"), "{last}");
        assert!(last.contains("ErrImagePull"), "{last}");
    }

    #[test]
    fn a_request_for_one_node_is_made_there_or_refused() {
        let only = |node: &str| RequestView {
            node: Some(node.into()),
            ..request("a")
        };
        assert_eq!(decided(&[only("n2")], &[], &["n1", "n2"]), ["a make n2"]);
        assert_eq!(decided(&[only("n7")], &[], &["n1", "n2"]), ["a Failed"]);
        let done = job("a", Some("n2"), Some(JobEnd::Complete));
        assert_eq!(
            decided(&[only("n2")], &[done], &["n1", "n2"]),
            ["a Completed"]
        );
    }

    #[test]
    fn what_has_an_end_keeps_it_and_a_job_that_was_deleted_is_one() {
        let over = RequestView {
            outcome: Some(Outcome::Completed),
            ..request("a")
        };
        assert_eq!(decided(&[over], &[], &["n1"]), Vec::<String>::new());
        let lost = RequestView {
            outcome: Some(Outcome::Pending),
            job: Some("a-n1".into()),
            ..request("a")
        };
        assert_eq!(decided(&[lost], &[], &["n1"]), ["a Failed"]);
        assert_eq!(decided(&[request("a")], &[], &[]), ["a Failed"]);
    }
}
