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
use lapin::types::ShortString;
use lapin::{Confirmation, Error};

use crate::sinks::{Message, Rejection, Settled};

pub(super) type Confirm = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

#[derive(Default)]
pub(super) struct Flight {
    slots: VecDeque<Slot>,
    /// Why what is not confirmed will not be any more.
    broken: Option<Error>,
}

struct Slot {
    id: ShortString,
    key: ShortString,
    state: State,
    rejection: Option<Rejection>,
}

enum State {
    /// Not published: it waits until the one before it is confirmed.
    Held(Box<Message>),
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
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes a message that is being published.
    pub fn publish(&mut self, id: ShortString, key: ShortString, confirm: Confirm) {
        let state = self.begin(confirm);
        self.slots.push_back(Slot { id, key, state, rejection: None });
    }

    /// Takes a message that is to be published later.
    pub fn hold(&mut self, id: ShortString, key: ShortString, message: Message) {
        self.slots.push_back(Slot { id, key, state: State::Held(Box::new(message)), rejection: None });
    }

    /// Takes a message that is not to be published at all.
    pub fn reject(&mut self, rejection: Rejection) {
        let (id, key) = (ShortString::default(), ShortString::default());
        self.slots.push_back(Slot { id, key, state: State::Confirmed, rejection: Some(rejection) });
    }

    /// The oldest message if it is held.
    pub fn held(&self) -> Option<&Message> {
        match self.slots.front().map(|slot| &slot.state) {
            Some(State::Held(message)) => Some(message),
            _ => None,
        }
    }

    /// Whether the newest message is held: then the next has to stand behind it.
    pub fn ends_held(&self) -> bool {
        matches!(self.slots.back(), Some(Slot { state: State::Held(_), .. }))
    }

    /// Publishes the oldest message, which is held.
    pub fn publish_held(&mut self, confirm: Confirm) {
        let state = self.begin(confirm);
        if let Some(slot) = self.slots.front_mut() {
            slot.state = state;
        }
    }

    /// Publishes all that are held, in order.
    pub fn publish_all_held(&mut self, publish: impl Fn(&Message) -> Confirm) {
        let first = self.slots.iter().position(|slot| matches!(slot.state, State::Held(_)));
        for place in first.unwrap_or(self.slots.len())..self.slots.len() {
            if let State::Held(message) = &self.slots[place].state {
                let confirm = publish(message);
                self.slots[place].state = self.begin(confirm);
            }
        }
    }

    /// Lets a message begin: lapin queues its frames at the first poll, so that messages go out in the
    /// order of these calls.
    fn begin(&mut self, mut confirm: Confirm) -> State {
        match confirm.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => State::Published(confirm),
            Poll::Ready(result) => self.landed(result).0,
        }
    }

    /// Calls the oldest message rejected, which was alone in flight.
    pub fn convict(&mut self, rejection: Rejection) {
        self.broken = None;
        if let Some(slot) = self.slots.front_mut() {
            slot.state = State::Confirmed;
            slot.rejection = Some(rejection);
        }
    }

    /// Ready when the oldest message is done with, one way or another.
    pub fn poll_front(&mut self, context: &mut Context<'_>) -> Poll<Front> {
        if let Some(Slot { state: State::Published(confirm), .. }) = self.slots.front_mut() {
            let Poll::Ready(result) = confirm.as_mut().poll(context) else { return Poll::Pending };
            self.land(0, result);
        }
        self.look_at_all();
        let settled = self.take();
        if settled.count > 0 {
            return Poll::Ready(Front::Settled(settled));
        }
        match self.slots.front().map(|slot| &slot.state) {
            Some(State::Nacked) => Poll::Ready(Front::Nacked),
            _ => self.broken.clone().map_or(Poll::Pending, |error| Poll::Ready(Front::Broken(error))),
        }
    }

    /// Front to back, so that a confirmation that completed before an older one is seen with it.
    fn look_at_all(&mut self) {
        let context = &mut Context::from_waker(Waker::noop());
        for place in 0..self.slots.len() {
            if let State::Published(confirm) = &mut self.slots[place].state
                && let Poll::Ready(result) = confirm.as_mut().poll(context)
            {
                self.land(place, result);
            }
        }
    }

    fn land(&mut self, place: usize, result: lapin::Result<Confirmation>) {
        let (state, returned) = self.landed(result);
        self.slots[place].state = state;
        if let Some(message) = returned {
            self.returned(&message);
        }
    }

    fn landed(&mut self, result: lapin::Result<Confirmation>) -> (State, Option<Box<BasicReturnMessage>>) {
        match result {
            Ok(Confirmation::Ack(returned)) => (State::Confirmed, returned.map(Box::new)),
            Ok(Confirmation::Nack(returned)) => (State::Nacked, returned.map(Box::new)),
            // Confirmations are switched on before the first message, so that this does not happen;
            // if it did, nothing would have been confirmed.
            Ok(Confirmation::NotRequested) => (State::Nacked, None),
            Err(error) => {
                self.broken.get_or_insert(error);
                (State::Lost, None)
            }
        }
    }

    fn returned(&mut self, message: &BasicReturnMessage) {
        let id = message.delivery.properties.message_id().as_ref();
        let key = &message.delivery.routing_key;
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.rejection.is_none() && slot.key == *key && Some(&slot.id) == id);
        // None: a copy from before the last fault, whose message has been sent again since.
        if let Some(slot) = slot {
            let text = format!("{} ({})", message.reply_text, message.reply_code);
            slot.rejection = Some(Rejection { code: "unroutable", text });
        }
    }

    fn take(&mut self) -> Settled {
        let mut settled = Settled::default();
        while let Some(Slot { state: State::Confirmed, .. }) = self.slots.front() {
            let rejection = self.slots.pop_front().and_then(|slot| slot.rejection);
            if let Some(rejection) = rejection {
                settled.rejected.push((settled.count, rejection));
            }
            settled.count += 1;
        }
        settled
    }
}
