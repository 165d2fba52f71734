//! The messages in flight, and what the server says about them.

use std::collections::VecDeque;

use async_nats::Subject;
use serde::Deserialize;

use crate::sinks::{Fault, Rejection, Settled};

/// A message's place in the order of all that was sent on one connection, from 0.
pub type Number = u64;

/// What is known of a message in flight.
#[derive(Debug)]
enum State {
    Waiting,
    Confirmed,
    Rejected(Rejection),
    /// No stream took it: there is none for its subject, or the one that there is cannot answer.
    NoResponders,
}

/// The messages in flight, oldest first.
#[derive(Debug, Default)]
pub struct Flight {
    messages: VecDeque<(Subject, State)>,
    /// The oldest one's number.
    first: Number,
}

impl Flight {
    /// Adds a message that is about to be published, and answers its number.
    pub fn push(&mut self, subject: Subject) -> Number {
        self.messages.push_back((subject, State::Waiting));
        self.first + self.messages.len() as Number - 1
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Forgets all of them; confirmations that still come are for none.
    pub fn clear(&mut self) {
        self.first += self.messages.len() as Number;
        self.messages.clear();
    }

    pub fn confirm(&mut self, number: Number) {
        self.set(number, State::Confirmed);
    }

    /// Confirms every message up to `number` that nothing else is known of.
    pub fn confirm_through(&mut self, number: Number) {
        let count = (number + 1).saturating_sub(self.first) as usize;
        for (_, state) in self.messages.iter_mut().take(count) {
            if matches!(state, State::Waiting) {
                *state = State::Confirmed;
            }
        }
    }

    pub fn reject(&mut self, number: Number, rejection: Rejection) {
        self.set(number, State::Rejected(rejection));
    }

    pub fn no_responders(&mut self, number: Number) {
        self.set(number, State::NoResponders);
    }

    fn set(&mut self, number: Number, new: State) {
        let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some((_, state)) = place.and_then(|place| self.messages.get_mut(place)) {
            *state = new;
        }
    }

    /// Rejects every message to `subject` that nothing is known of.
    pub fn reject_subject(&mut self, subject: &str, rejection: &Rejection) {
        self.reject_where(rejection, |at, state| at == subject && matches!(state, State::Waiting));
    }

    /// Rejects every message to `subject` that no stream took.
    pub fn reject_untaken(&mut self, subject: &str, rejection: &Rejection) {
        self.reject_where(rejection, |at, state| at == subject && matches!(state, State::NoResponders));
    }

    fn reject_where(&mut self, rejection: &Rejection, is: impl Fn(&str, &State) -> bool) {
        for (subject, state) in &mut self.messages {
            if is(subject, state) {
                *state = State::Rejected(rejection.clone());
            }
        }
    }

    /// Whether this message is still in flight.
    pub fn holds(&self, number: Number) -> bool {
        number >= self.first
    }

    /// The oldest message's subject, when no stream took that message.
    pub fn untaken(&self) -> Option<&Subject> {
        match self.messages.front() {
            Some((subject, State::NoResponders)) => Some(subject),
            _ => None,
        }
    }

    /// Takes off what is settled, up to the first message that is not; `None` when the oldest is
    /// not.
    pub fn take_settled(&mut self) -> Option<Settled> {
        let mut settled = Settled::default();
        while let Some((_, State::Confirmed | State::Rejected(_))) = self.messages.front() {
            if let Some((_, State::Rejected(rejection))) = self.messages.pop_front() {
                settled.rejected.push((settled.count, rejection));
            }
            settled.count += 1;
        }
        self.first += settled.count as Number;
        (settled.count > 0).then_some(settled)
    }
}

/// A stream's answer to a message.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    error: Option<AnswerError<'a>>,
    seq: Option<u64>,
}

#[derive(Deserialize)]
struct AnswerError<'a> {
    #[serde(default)]
    err_code: u64,
    #[serde(default, borrow)]
    description: std::borrow::Cow<'a, str>,
}

/// What a stream's answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Stored,
    Rejected(Rejection),
    /// The stream takes nothing now.
    Fault(Fault),
}

/// Reads a stream's answer (`PubAck`, or an error of nats-server's `server/errors.json`).
pub fn verdict(answer: &[u8]) -> Verdict {
    let answer: Answer<'_> = match serde_json::from_slice(answer) {
        Ok(answer) => answer,
        Err(error) => return Verdict::Fault(Fault::busy(format!("JetStream's answer is not JSON: {error}"))),
    };
    match (answer.error, answer.seq) {
        (Some(error), _) => error.verdict(),
        (None, Some(_)) => Verdict::Stored,
        (None, None) => Verdict::Fault(Fault::busy("JetStream's answer has no sequence number")),
    }
}

impl AnswerError<'_> {
    fn verdict(&self) -> Verdict {
        let text = format!("{} (error {})", self.description, self.err_code);
        let rejected = |code| Verdict::Rejected(Rejection { code, text: text.clone() });
        match self.err_code {
            // Message, and header, larger than the stream allows.
            10054 | 10097 => rejected("too_large"),
            // Another stream captures the subject than the one that was configured.
            10060 => rejected("no_such_stream"),
            // JetStream off, for the server or for the account; a sealed stream; a configured header
            // (`Nats-Rollup`, `Nats-TTL`) that the stream does not allow.
            10076 | 10039 | 10109 | 10111 | 10165 | 10166 => Verdict::Fault(Fault::refused(text)),
            // A full stream or disk, no leader, offline, and what later servers may say.
            _ => Verdict::Fault(Fault::busy(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(subjects: &[&'static str]) -> Flight {
        let mut flight = Flight::default();
        for subject in subjects {
            flight.push((*subject).into());
        }
        flight
    }

    fn rejection() -> Rejection {
        Rejection { code: "too_large", text: "so".into() }
    }

    #[test]
    fn settles_in_order_up_to_the_first_that_waits() {
        let mut flight = flight(&["a", "b", "c", "d"]);
        flight.confirm(1);
        assert!(flight.take_settled().is_none());
        flight.reject(2, rejection());
        flight.confirm(0);
        let settled = flight.take_settled().expect("three");
        assert_eq!((settled.count, settled.rejected), (3, vec![(2, rejection())]));
        assert!(flight.take_settled().is_none());
        flight.confirm(3);
        assert_eq!(flight.take_settled().expect("the last").count, 1);
    }

    #[test]
    fn late_answers_meet_nobody() {
        let mut flight = flight(&["a", "b"]);
        flight.clear();
        assert_eq!(flight.push("c".into()), 2);
        flight.confirm(0);
        flight.confirm_through(1);
        flight.confirm(7);
        assert!(flight.take_settled().is_none());
        flight.confirm_through(2);
        assert_eq!(flight.take_settled().expect("c").count, 1);
    }

    #[test]
    fn a_subject_is_rejected_but_for_what_was_confirmed() {
        let mut flight = flight(&["a", "b", "a", "a"]);
        flight.confirm(0);
        flight.reject_subject("a", &rejection());
        flight.confirm_through(3);
        let settled = flight.take_settled().expect("all");
        let places: Vec<_> = settled.rejected.iter().map(|(place, _)| *place).collect();
        assert_eq!((settled.count, places), (4, vec![2, 3]));
    }

    #[test]
    fn untaken_is_the_oldest_only() {
        let mut flight = flight(&["a", "b"]);
        flight.no_responders(1);
        assert!(flight.untaken().is_none());
        flight.confirm(0);
        flight.take_settled();
        assert_eq!(flight.untaken().map(|subject| subject.as_str()), Some("b"));
    }

    #[test]
    fn answers() {
        let error = |code: u64| format!(r#"{{"error":{{"code":400,"err_code":{code},"description":"so"}}}}"#);
        let busy = |text: &str| Verdict::Fault(Fault::busy(text));
        let rejected = |code, text: &str| Verdict::Rejected(Rejection { code, text: text.into() });
        for (answer, expected) in [
            (r#"{"stream":"S","seq":7}"#.to_owned(), Verdict::Stored),
            (r#"{"stream":"S","seq":7,"duplicate":true}"#.to_owned(), Verdict::Stored),
            (error(10054), rejected("too_large", "so (error 10054)")),
            (error(10097), rejected("too_large", "so (error 10097)")),
            (error(10060), rejected("no_such_stream", "so (error 10060)")),
            (error(10039), Verdict::Fault(Fault::refused("so (error 10039)"))),
            (error(10077), busy("so (error 10077)")),
            (error(99999), busy("so (error 99999)")),
            ("{}".to_owned(), busy("JetStream's answer has no sequence number")),
        ] {
            assert_eq!(verdict(answer.as_bytes()), expected, "{answer}");
        }
        assert!(matches!(verdict(b"+OK"), Verdict::Fault(_)));
    }
}
