//! Publishes Kubernetes Events.

use crate::api_error::api_error_message;
use cluster_api::conditions::StatusReason;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Limit of the API server for a note.
const NOTE_BYTES: usize = 1000;
/// Maximum number of events that are remembered, to count repeated ones.
const MAX_COUNTED: usize = 256;

type ObjectAndReason = (String, &'static str);

/// Publishes events and counts repeated ones.
pub struct Events {
    client: Client,
    reporter: Reporter,
    action: &'static str,
    /// The last note and its recorder, by name of the object and reason. A recorder counts repeated events but keeps the first
    /// note, so a new note needs a new recorder.
    published: Mutex<HashMap<ObjectAndReason, (String, Recorder)>>,
}

impl Events {
    /// Makes a publisher with this controller name, instance and action.
    #[must_use]
    pub fn new(client: &Client, who: &str, instance: &str, action: &'static str) -> Self {
        let reporter = Reporter {
            controller: who.into(),
            instance: Some(instance.into()),
        };
        Events {
            client: client.clone(),
            reporter,
            action,
            published: Mutex::default(),
        }
    }

    /// The recorder of the same event, or a new one.
    fn recorder(&self, object: &ObjectReference, reason: StatusReason, note: &str) -> Recorder {
        let mut published = self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if published.len() >= MAX_COUNTED {
            published.clear();
        }
        let key = (object.name.clone().unwrap_or_default(), reason.name());
        if let Some((last_note, recorder)) = published.get(&key)
            && last_note == note
        {
            return recorder.clone();
        }
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        published.insert(key, (note.into(), recorder.clone()));
        recorder
    }

    /// Publishes a `Normal` event.
    pub async fn normal(&self, object: &ObjectReference, reason: StatusReason, note: &str) {
        self.publish(EventType::Normal, object, reason, note).await;
    }

    /// Publishes a `Warning` event.
    pub async fn warning(&self, object: &ObjectReference, reason: StatusReason, note: &str) {
        self.publish(EventType::Warning, object, reason, note).await;
    }

    /// Publishes an event. A failure is only logged.
    async fn publish(
        &self,
        type_: EventType,
        object: &ObjectReference,
        reason: StatusReason,
        note: &str,
    ) {
        let mut end = note.len().min(NOTE_BYTES);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        let note = note.get(..end).unwrap_or_default();
        let event = Event {
            type_,
            reason: reason.name().into(),
            note: Some(note.into()),
            action: self.action.into(),
            secondary: None,
        };
        let recorder = self.recorder(object, reason, note);
        if let Err(error) = recorder.publish(&event, object).await {
            tracing::warn!("cannot write an event: {}", api_error_message(&error));
        }
    }
}
