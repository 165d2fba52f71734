//! The messages in flight, in the order in which they were sent, and what became of each.
//!
//! lapin hangs a returned message on whichever confirmation it completes next, since the broker may
//! confirm many with one frame. Two things follow. A returned message is matched by what it carries,
//! its id and its routing key; two messages with both in common are the same event to the same
//! queues, and it does not matter which of them is called unroutable. And before the oldest messages
//! are called settled, all confirmations behind them are looked at: the return of an older message
//! hangs on one that completed before, wherever it stands.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use lapin::message::BasicReturnMessage;
use lapin::{Confirmation, Error};

use super::message::short;
use crate::sinks::{Message, Rejection, Settled};

pub(super) type Confirm = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

#[derive(Default)]
pub(super) struct Flight {
    slots: VecDeque<Slot>,
    /// How many messages are held.
    held: usize,
    /// How many of the slots at the front are to be published alone, each when the one before it is
    /// done with.
    suspects: usize,
    /// Why what is not confirmed will not be any more.
    broken: Option<Error>,
}

struct Slot {
    message: Message,
    state: State,
    rejection: Option<Rejection>,
}

enum State {
    Held,
    Published(Confirm),
    Confirmed,
    /// The broker could not store it.
    Nacked,
    /// Its channel or connection ended.
    Lost,
}

/// What there is to do about the oldest message.
#[derive(Debug)]
pub(super) enum Front {
    Settled(Settled),
    Nacked,
    Broken(Error),
}

impl Flight {
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes a message; [`Flight::launch`] publishes it.
    pub fn hold(&mut self, message: Message) {
        self.slots.push_back(Slot { message, state: State::Held, rejection: None });
        self.held += 1;
    }

    /// Takes a message that is not to be published at all.
    pub fn reject(&mut self, message: Message, rejection: Rejection) {
        self.slots.push_back(Slot { message, state: State::Confirmed, rejection: Some(rejection) });
    }

    /// Whether [`Flight::launch`] has something to do.
    pub fn has_to_launch(&self) -> bool {
        if self.suspects > 0 { self.is_held(0) } else { self.held > 0 }
    }

    /// Publishes what is held: all of it, or the oldest alone while there is suspicion.
    pub fn launch(&mut self, publish: impl Fn(&Message) -> Confirm) {
        let places = if self.suspects > 0 { 0..1 } else { self.first_held()..self.slots.len() };
        for place in places {
            if self.is_held(place) {
                let slot = &mut self.slots[place];
                slot.state = State::Published(publish(&slot.message));
                self.held -= 1;
                // lapin queues the frames at the first poll: messages go out in the order of these.
                self.look_at(place, &mut Context::from_waker(Waker::noop()));
            }
        }
    }

    fn is_held(&self, place: usize) -> bool {
        self.slots.get(place).is_some_and(|slot| matches!(slot.state, State::Held))
    }

    /// Looked for from the newest on: there are few, at the end of a full window.
    fn first_held(&self) -> usize {
        let (mut place, mut left) = (self.slots.len(), self.held);
        while left > 0 && place > 0 {
            place -= 1;
            left -= usize::from(self.is_held(place));
        }
        place
    }

    /// Whether the oldest message is alone with the broker.
    pub fn suspicious(&self) -> bool {
        self.suspects > 0
    }

    /// One of the messages made the broker close the channel: all that are not confirmed are held
    /// again, to be published one by one. Answers how many messages that concerns.
    pub fn suspect_all(&mut self) -> usize {
        self.broken = None;
        self.suspects = self.slots.len();
        for slot in &mut self.slots {
            if !matches!(slot.state, State::Confirmed | State::Held) {
                slot.state = State::Held;
                self.held += 1;
            }
        }
        self.suspects
    }

    /// Calls the oldest message rejected, which was alone.
    pub fn convict(&mut self, rejection: Rejection) {
        self.broken = None;
        if let Some(slot) = self.slots.front_mut() {
            slot.state = State::Confirmed;
            slot.rejection = Some(rejection);
        }
    }

    /// Ready when the oldest message is done with, one way or another.
    pub fn poll_front(&mut self, context: &mut Context<'_>) -> Poll<Front> {
        if self.slots.is_empty() || !self.look_at(0, context) {
            return Poll::Pending;
        }
        // Front to back, so that a confirmation that completed before an older one is seen with it.
        for place in 1..self.slots.len() {
            self.look_at(place, &mut Context::from_waker(Waker::noop()));
        }
        let settled = self.take();
        if settled.count > 0 {
            return Poll::Ready(Front::Settled(settled));
        }
        match self.slots.front().map(|slot| &slot.state) {
            Some(State::Nacked) => Poll::Ready(Front::Nacked),
            _ => self.broken.clone().map_or(Poll::Pending, |error| Poll::Ready(Front::Broken(error))),
        }
    }

    /// Whether the broker has said, now or before, what became of a message.
    fn look_at(&mut self, place: usize, context: &mut Context<'_>) -> bool {
        let slot = &mut self.slots[place];
        let State::Published(confirm) = &mut slot.state else { return true };
        let Poll::Ready(result) = confirm.as_mut().poll(context) else { return false };
        let (state, returned) = match result {
            Ok(Confirmation::Ack(returned)) => (State::Confirmed, returned),
            Ok(Confirmation::Nack(returned)) => (State::Nacked, returned),
            // Confirmations are switched on before the first message, so that this does not happen;
            // if it did, nothing would have been confirmed.
            Ok(Confirmation::NotRequested) => (State::Nacked, None),
            Err(error) => {
                self.broken.get_or_insert(error);
                (State::Lost, None)
            }
        };
        slot.state = state;
        if let Some(message) = returned {
            self.returned(&message);
        }
        true
    }

    fn returned(&mut self, returned: &BasicReturnMessage) {
        let key = returned.delivery.routing_key.as_str();
        let Some(id) = returned.delivery.properties.message_id() else { return };
        let slot = self.slots.iter_mut().find(|slot| {
            slot.rejection.is_none() && slot.message.topic == key && short(&slot.message.id) == *id
        });
        if let Some(slot) = slot {
            let text = format!("{} ({})", returned.reply_text, returned.reply_code);
            slot.rejection = Some(Rejection { code: "unroutable", text });
        }
    }

    fn take(&mut self) -> Settled {
        let mut settled = Settled::default();
        while let Some(slot) = self.slots.pop_front_if(|slot| matches!(slot.state, State::Confirmed)) {
            if let Some(rejection) = slot.rejection {
                settled.rejected.push((settled.count, rejection));
            }
            settled.count += 1;
        }
        self.suspects = self.suspects.saturating_sub(settled.count);
        settled
    }
}
