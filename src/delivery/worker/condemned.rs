//! What a destination will never take, on its way to the dead letters.

use std::sync::atomic::Ordering::Relaxed;

use super::{Trouble, Worker};
use crate::delivery::dead_letters::DeadLetter;
use crate::delivery::queue::Tries;
use crate::delivery::source::Room;
use crate::journal::Micros;
use crate::sinks::{Message, Rejection};
use crate::telemetry::CodeLabel;

/// How many may wait to be written; one event's more at the end.
pub(super) const CONDEMNED_MAX: usize = 256;

/// Messages that are to become dead letters, and are not yet durable as such.
#[derive(Debug, Default)]
pub(super) struct Condemned(Vec<(Message, Tries, Rejection)>);

impl Condemned {
    pub(super) fn push(&mut self, message: Message, tries: Tries, rejection: Rejection) {
        self.0.push((message, tries, rejection));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lowest place among them.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.0.iter().map(|(_, tries, _)| tries.place).min()
    }

    /// What of `room` can be used: each message taken may turn out to be one of these.
    pub(super) fn limit(&self, room: Room) -> Room {
        let bytes: usize = self.0.iter().map(|(message, ..)| message.body.len()).sum();
        Room {
            messages: room.messages.min(CONDEMNED_MAX.saturating_sub(self.0.len())),
            bytes: room.bytes.saturating_sub(bytes),
        }
    }

    fn letters(&self) -> Vec<DeadLetter> {
        self.0.iter().map(|(message, tries, rejection)| letter(message, tries, rejection)).collect()
    }
}

/// What `message_max` says of a message.
pub(super) fn too_large(message: &Message, body_bytes_max: Option<u64>) -> Option<Rejection> {
    let max = body_bytes_max?;
    let bytes = message.body.len() as u64;
    (bytes > max).then(|| Rejection {
        code: "too_large",
        text: format!("{bytes} bytes are more than this sink's message_max of {max}"),
    })
}

impl Worker {
    /// Makes dead letters of what the destination will never take, before anything else goes on.
    pub(super) async fn bury(&mut self) -> Result<(), Trouble> {
        if self.condemned.is_empty() {
            return Ok(());
        }
        let mut letters = self.condemned.letters();
        let store = self.letters.clone();
        let written = tokio::task::spawn_blocking(move || store.keep(&mut letters)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Trouble::Own(error.to_string())),
            Err(error) => return Err(Trouble::Own(error.to_string())),
        }
        for (message, tries, rejection) in std::mem::take(&mut self.condemned.0) {
            tracing::warn!(sink = %self.status.name, offset = message.offset, id = %message.id,
                topic = %message.topic, code = rejection.code, reason = %rejection.text, "a dead letter");
            let label = CodeLabel { sink: self.metrics.sink.clone(), code: rejection.code.to_owned() };
            self.metrics.all.sink_dead_lettered.get_or_create(&label).inc();
            self.status.dead_lettered.fetch_add(1, Relaxed);
            self.source.settled(tries.place, false);
        }
        self.save_cursor();
        Ok(())
    }

    /// Condemns what has been tried for too long.
    pub(super) fn give_up(&mut self, now: Micros) {
        let Some(after) = self.give_up_after else { return };
        let reason = self.status.last_error().unwrap_or_default();
        for (message, tries) in self.queue.take_older(now - after) {
            self.condemned.push(message, tries, Rejection { code: "gave_up", text: reason.clone() });
        }
    }
}

fn letter(message: &Message, tries: &Tries, rejection: &Rejection) -> DeadLetter {
    let event = &message.event;
    DeadLetter {
        id: tries.letter, // 0, of a new one: given by the store
        offset: message.offset,
        code: rejection.code.to_owned(),
        reason: rejection.text.clone(),
        attempts: tries.attempts,
        first: tries.first,
        last: tries.last,
        arrived: message.arrived,
        topic: message.topic.clone(),
        key: message.key.clone(),
        event_id: event.id().to_owned(),
        action: event.action().to_owned(),
        repository: event.repository().to_owned(),
        event: String::from_utf8_lossy(event.raw()).into_owned(),
    }
}
