//! What was done and found, where people look: Events beside the objects.

use crate::plain;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// What the API server takes of a note.
const NOTE_BYTES: usize = 1000;

/// Tells what happens.
pub struct Events {
    recorder: Recorder,
    action: &'static str,
}

impl Events {
    /// Tells as somebody, of what they do.
    #[must_use]
    pub fn new(client: &Client, who: &str, instance: &str, action: &'static str) -> Self {
        let reporter = Reporter {
            controller: who.into(),
            instance: Some(instance.into()),
        };
        Events {
            recorder: Recorder::new(client.clone(), reporter),
            action,
        }
    }

    /// As it should be.
    pub async fn normal(&self, object: &ObjectReference, reason: &str, note: &str) {
        self.publish(EventType::Normal, object, reason, note).await;
    }

    /// Worth a look.
    pub async fn warning(&self, object: &ObjectReference, reason: &str, note: &str) {
        self.publish(EventType::Warning, object, reason, note).await;
    }

    /// An event that can't be written must not stop what it tells of: that is in the log, too.
    async fn publish(&self, type_: EventType, object: &ObjectReference, reason: &str, note: &str) {
        let mut end = note.len().min(NOTE_BYTES);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        let event = Event {
            type_,
            reason: reason.into(),
            note: note.get(..end).map(String::from),
            action: self.action.into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, object).await {
            tracing::warn!("an event was not written: {}", plain(&error));
        }
    }
}
