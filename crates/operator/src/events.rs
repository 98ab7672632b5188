//! What was done and found, where people look: Events beside the objects.

use crate::plain;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// What the API server takes of a note.
const NOTE_BYTES: usize = 1000;
/// Beyond that they are told anew, and not counted.
const MAX_COUNTED: usize = 256;

/// Tells what happens.
pub struct Events {
    client: Client,
    reporter: Reporter,
    action: &'static str,
    /// What was last told, by the object's name and the reason. Who records an event a second time counts it, and keeps
    /// the words of the first: other words are another event.
    told: Mutex<HashMap<(String, String), (String, Recorder)>>,
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
            client: client.clone(),
            reporter,
            action,
            told: Mutex::default(),
        }
    }

    /// The recorder that counts this event, or a new one.
    fn recorder(&self, object: &ObjectReference, reason: &str, note: &str) -> Recorder {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MAX_COUNTED {
            told.clear();
        }
        let key = (object.name.clone().unwrap_or_default(), reason.into());
        let known = told.get(&key).filter(|(words, _)| words == note);
        if let Some((_, recorder)) = known {
            return recorder.clone();
        }
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        told.insert(key, (note.into(), recorder.clone()));
        recorder
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
        let note = note.get(..end).unwrap_or_default();
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note.into()),
            action: self.action.into(),
            secondary: None,
        };
        let recorder = self.recorder(object, reason, note);
        if let Err(error) = recorder.publish(&event, object).await {
            tracing::warn!("an event was not written: {}", plain(&error));
        }
    }
}
