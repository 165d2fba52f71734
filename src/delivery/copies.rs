//! Dead letters on their way to another sink too: `dead_letters.also_to`.
//!
//! A source that follows a store of dead letters, with a durable cursor of its own: the file
//! `copied.json` beside the letters. A letter that was discarded, or delivered by a replay, before
//! its copy went out has none. A sink that is named anew begins with the next letter.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
use super::lines;
use super::source::{Room, Source, Supply, Taken};
use crate::event::Event;
use crate::journal::{ReadError, Stored};
use crate::route::Target;
use crate::sinks::Message;
use crate::sinks::format::Renderer;

const CURSOR_FILE: &str = "copied.json";

/// How much is read at a time, in letters and in bytes of events.
const READ_LETTERS: usize = 64;
const READ_BYTES: usize = 1 << 20;

/// The cursor is saved after so many letters, and whenever there are no more.
const SAVE_AT: u64 = 64;

/// Where the copies stand.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    to: String,
    /// The first letter that has not been copied.
    next: u64,
}

/// The dead letters of one sink, as messages for another.
pub struct Copies {
    from: String,
    to: String,
    store: Arc<DeadLetters>,
    /// Where the other sink sends what no route names.
    target: Target,
    renderer: Renderer,
    waiting: VecDeque<DeadLetter>,
    read_to: u64,
    done: u64,
    saved: u64,
}

impl Copies {
    /// Goes on where the cursor stands. `from` and `to` are the sinks' names, `target` and
    /// `renderer` those of the sink that gets the copies.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(
        from: String,
        to: String,
        store: Arc<DeadLetters>,
        target: Target,
        renderer: Renderer,
    ) -> Result<Self, DeadLetterError> {
        let path = store.file(CURSOR_FILE);
        let found = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Cursor>(&bytes).ok(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(DeadLetterError::Io { path, error }),
        };
        let next = match found {
            Some(cursor) if cursor.to == to => cursor.next,
            _ => {
                let next = store.next_id();
                save(path, &Cursor { to: to.clone(), next })?;
                next
            }
        };
        let waiting = VecDeque::new();
        Ok(Self { from, to, store, target, renderer, waiting, read_to: next - 1, done: next, saved: next })
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let (store, after) = (self.store.clone(), self.read_to);
        let end = store.next_id(); // before reading: what comes meanwhile is for the next time
        let read = tokio::task::spawn_blocking(move || batch(&store, after)).await;
        let letters = read
            .map_err(|error| ReadError::Io(error.to_string()))?
            .map_err(|error| ReadError::Io(error.to_string()))?;
        self.read_to = letters.last().map_or(end - 1, |letter| letter.id);
        self.waiting.extend(letters);
        Ok(())
    }

    fn take_one(&self, letter: &DeadLetter, out: &mut Vec<Taken>) {
        let Ok(event) = Event::parse(letter.event.clone().into()) else {
            tracing::error!(id = letter.id, offset = letter.offset, "a dead letter's event cannot be read");
            return;
        };
        let stored = Stored { offset: letter.offset, arrived: letter.arrived, event };
        let mut messages = Vec::with_capacity(1);
        self.renderer.render(&stored, [&self.target], &mut messages);
        out.extend(messages.into_iter().map(|message| Taken {
            message: marked(message, &self.from, letter),
            place: letter.id,
            letter: 0,
        }));
    }

    async fn save(&mut self) -> Result<(), ReadError> {
        let (path, next) = (self.store.file(CURSOR_FILE), self.done);
        let cursor = Cursor { to: self.to.clone(), next };
        let saved = tokio::task::spawn_blocking(move || save(path, &cursor)).await;
        match saved {
            Ok(Ok(())) => {
                self.saved = next;
                Ok(())
            }
            Ok(Err(error)) => Err(ReadError::Io(error.to_string())),
            Err(error) => Err(ReadError::Io(error.to_string())),
        }
    }
}

fn save(path: PathBuf, cursor: &Cursor) -> Result<(), DeadLetterError> {
    let text = serde_json::to_vec(cursor).expect("a name and a number are JSON");
    lines::replace(&path, &text).map_err(|error| DeadLetterError::Io { path, error })
}

fn batch(store: &DeadLetters, after: u64) -> Result<Vec<DeadLetter>, DeadLetterError> {
    let (mut letters, mut bytes) = (Vec::new(), 0);
    store.visit(after, &mut |letter| {
        bytes += letter.event.len();
        letters.push(letter);
        letters.len() < READ_LETTERS && bytes < READ_BYTES
    })?;
    Ok(letters)
}

/// Says in headers what it is a copy of. Its id for brokers that drop duplicates is its own: the
/// sink may have had the event itself.
fn marked(mut message: Message, from: &str, letter: &DeadLetter) -> Message {
    message.dedup_id = format!("{}:dead-letter:{from}", message.dedup_id);
    for (name, value) in [
        ("relay-dead-letter-sink", from),
        ("relay-dead-letter-code", &letter.code),
        ("relay-dead-letter-reason", &letter.reason),
        ("relay-dead-letter-topic", &letter.topic),
    ] {
        message.headers.push((name.into(), header_value(value)));
    }
    message
}

/// What every protocol takes in a header.
fn header_value(text: &str) -> String {
    const CHARACTERS_MAX: usize = 512;
    text.chars()
        .take(CHARACTERS_MAX)
        .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

#[async_trait]
impl Source for Copies {
    async fn take(&mut self, room: Room, idle: bool, out: &mut Vec<Taken>) -> Result<Supply, ReadError> {
        if self.done >= self.saved + SAVE_AT || (idle && self.done > self.saved) {
            self.save().await?;
        }
        if !self.has_more() {
            return Ok(Supply::CaughtUp);
        }
        if self.waiting.is_empty() {
            self.read().await?;
        }
        let begin = out.len();
        while !room.without(&out[begin..]).is_none() {
            let Some(letter) = self.waiting.pop_front() else { break };
            self.take_one(&letter, out);
        }
        Ok(Supply::More)
    }

    async fn wait(&self) {
        self.store.added().await;
    }

    fn at(&self) -> u64 {
        self.waiting.front().map_or(self.read_to + 1, |letter| letter.id)
    }

    fn has_more(&self) -> bool {
        !self.waiting.is_empty() || self.read_to + 1 < self.store.next_id()
    }

    fn done_below(&mut self, place: u64) {
        self.done = place;
    }

    async fn close(&mut self) {
        if self.done > self.saved
            && let Err(error) = self.save().await
        {
            tracing::error!(%error, "the place of the copied dead letters cannot be saved: some are copied again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_becomes_a_header_that_every_protocol_takes() {
        assert_eq!(header_value("NAK: \"no\"\r\nX: y\u{e9}"), "NAK: \"no\"??X: y?");
        assert_eq!(header_value(&"x".repeat(10_000)).len(), 512);
    }
}
