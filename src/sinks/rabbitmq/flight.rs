//! The messages in flight, in the order in which they were sent, and what became of each.
//!
//! lapin hangs a returned message on whichever confirmation it completes next, since the broker may
//! confirm many with one frame. Two things follow. A returned message is matched by what it carries,
//! its id and its routing key; two messages with both in common are the same event to the same
//! queues, and it does not matter which of them is called unroutable. And before the oldest messages
//! are called settled, all confirmations behind them are looked at that have moved: the return of an
//! older message hangs on one that completed before, wherever it stands.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use lapin::message::BasicReturnMessage;
use lapin::{Confirmation, Error};

use super::bells::Bells;
use super::message::short;
use crate::sinks::{Message, Rejection, Settled};

pub(super) type Confirm = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

#[derive(Default)]
pub(super) struct Flight {
    slots: VecDeque<Slot>,
    bells: Bells,
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
                self.look_at(place);
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
        self.bells.listen(context);
        // Front to back: when the last of the oldest is seen to be complete, whatever completed before
        // it and stands behind it has rung already.
        for group in 0..self.bells.groups() {
            for place in self.bells.rung(group).into_iter().flatten() {
                self.look_at(place);
            }
        }
        let settled = self.take();
        if settled.count > 0 {
            return Poll::Ready(Front::Settled(settled));
        }
        match self.slots.front().map(|slot| &slot.state) {
            Some(State::Nacked) => Poll::Ready(Front::Nacked),
            Some(State::Lost) => {
                self.broken.clone().map_or(Poll::Pending, |error| Poll::Ready(Front::Broken(error)))
            }
            _ => Poll::Pending,
        }
    }

    /// Takes up what the broker has said about a message.
    fn look_at(&mut self, place: usize) {
        let waker = self.bells.waker(place);
        let Some(slot) = self.slots.get_mut(place) else { return };
        let State::Published(confirm) = &mut slot.state else { return };
        let Poll::Ready(result) = confirm.as_mut().poll(&mut Context::from_waker(&waker)) else { return };
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
        self.bells.pass(settled.count);
        self.suspects = self.suspects.saturating_sub(settled.count);
        settled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use lapin::ErrorKind;
    use tokio::sync::oneshot;

    use super::*;
    use crate::event::Event;

    type Answer = oneshot::Sender<lapin::Result<Confirmation>>;

    fn message(id: usize) -> Message {
        let event = Event::parse("{\"id\":\"e\"}".into()).expect("an event");
        Message {
            offset: id as u64,
            arrived: 0,
            id: id.to_string(),
            dedup_id: id.to_string(),
            topic: "t".to_owned(),
            key: String::new(),
            headers: Vec::new(),
            content_type: "application/json",
            body: event.raw().clone(),
            event,
        }
    }

    /// Publishes what there is to publish; the senders answer as the broker would, by id.
    fn launch(flight: &mut Flight) -> Vec<(String, Answer)> {
        let answers = Arc::new(std::sync::Mutex::new(Vec::new()));
        flight.launch(|message| {
            let (answer, answered) = oneshot::channel();
            answers.lock().expect("answers").push((message.id.clone(), answer));
            Box::pin(async move { answered.await.expect("an answer") })
        });
        std::mem::take(&mut *answers.lock().expect("answers"))
    }

    fn flight(count: usize) -> (Flight, Vec<Answer>) {
        let mut flight = Flight::default();
        (0..count).for_each(|id| flight.hold(message(id)));
        let answers = launch(&mut flight).into_iter().map(|(_, answer)| answer).collect();
        (flight, answers)
    }

    fn front(flight: &mut Flight) -> Option<Front> {
        std::future::poll_fn(|context| flight.poll_front(context)).now_or_never()
    }

    fn settled(flight: &mut Flight) -> usize {
        match front(flight) {
            Some(Front::Settled(settled)) => settled.count,
            None => 0,
            other => panic!("{other:?}"),
        }
    }

    fn ack(answer: Answer) {
        answer.send(Ok(Confirmation::Ack(None))).expect("somebody waits");
    }

    fn closed() -> Error {
        ErrorKind::ChannelsLimitReached.into()
    }

    #[test]
    fn settles_the_contiguous_prefix_over_many_groups() {
        let (mut flight, answers) = flight(300);
        let mut answers: Vec<_> = answers.into_iter().map(Some).collect();
        let mut acknowledge = |place: usize| ack(answers[place].take().expect("once"));
        (1..150).rev().for_each(&mut acknowledge);
        assert_eq!(settled(&mut flight), 0);
        acknowledge(0);
        assert_eq!(settled(&mut flight), 150);
        (150..300).for_each(&mut acknowledge);
        assert_eq!(settled(&mut flight), 150);
        assert_eq!(settled(&mut flight), 0);
    }

    #[test]
    fn what_is_held_goes_out_in_order_around_what_is_rejected() {
        let mut flight = Flight::default();
        let rejection = Rejection { code: "too_large", text: String::new() };
        flight.hold(message(0));
        flight.reject(message(1), rejection.clone());
        flight.hold(message(2));
        assert!(flight.has_to_launch());
        let (ids, answers): (Vec<_>, Vec<_>) = launch(&mut flight).into_iter().unzip();
        assert_eq!(ids, ["0", "2"]);
        assert!(!flight.has_to_launch());
        answers.into_iter().for_each(ack);
        let Some(Front::Settled(settled)) = front(&mut flight) else { panic!("all three") };
        assert_eq!((settled.count, settled.rejected), (3, vec![(1, rejection)]));
    }

    #[test]
    fn suspects_go_one_by_one_and_what_comes_later_waits() {
        let (mut flight, mut answers) = flight(4);
        ack(answers.remove(2));
        for answer in answers {
            answer.send(Err(closed())).expect("somebody waits");
        }
        assert!(matches!(front(&mut flight), Some(Front::Broken(_))));
        assert_eq!(flight.suspect_all(), 4);
        flight.hold(message(4));
        let mut order = Vec::new();
        while flight.has_to_launch() {
            for (id, answer) in launch(&mut flight) {
                order.push(id.clone());
                if id == "1" {
                    answer.send(Err(closed())).expect("somebody waits");
                } else {
                    ack(answer);
                }
            }
            if let Some(Front::Broken(_)) = front(&mut flight) {
                assert!(flight.suspicious());
                flight.convict(Rejection { code: "too_large", text: String::new() });
                // The convicted one, and the one behind it that had been confirmed.
                let Some(Front::Settled(settled)) = front(&mut flight) else { panic!("convicted") };
                assert_eq!((settled.count, settled.rejected.len()), (2, 1));
            }
        }
        assert_eq!(order, ["0", "1", "3", "4"]);
        assert!(!flight.suspicious());
    }

    #[test]
    fn a_nack_is_told_once_it_is_the_oldest() {
        let (mut flight, answers) = flight(2);
        let [first, second] = <[Answer; 2]>::try_from(answers).expect("two");
        second.send(Ok(Confirmation::Nack(None))).expect("somebody waits");
        assert!(front(&mut flight).is_none());
        ack(first);
        assert_eq!(settled(&mut flight), 1);
        assert!(matches!(front(&mut flight), Some(Front::Nacked)));
    }
}
