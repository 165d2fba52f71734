//! Publishing to NATS, and knowing what arrived.
//!
//! Confirmations come to one inbox of our own, by the message's number in its last word:
//! - JetStream: each message names its place in the inbox as its reply subject, and the stream
//!   answers there.
//! - Core: now and then a marker is published into the inbox itself. A server handles one
//!   connection's messages in order, so the marker's coming back says that it has taken those
//!   before it. (`async-nats`' own `flush` says only that they were written to a socket.)
//!
//! A message to a subject that we may not publish to gets no answer, only a notice (`-ERR`) on the
//! connection, before the answers to what came after. The client hands notices and messages over
//! by different tasks, so a core message counts as taken on the second return of a marker: the
//! notice has had a whole round trip to be seen by then ([`super::rounds`]).

use std::sync::Arc;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::jetstream;
use async_nats::{Client, PublishError, PublishErrorKind, StatusCode, Subject, Subscriber};
use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connection::{self, Notices};
use super::flight::{Flight, Number, Verdict, verdict};
use super::rounds::Rounds;
use super::{NatsOptions, stream};
use crate::sinks::format::percent_encoded;
use crate::sinks::{Context, Fault, FaultKind, Message, Options, Rejection, Settled, Sink};

const ID: HeaderName = HeaderName::from_static("id");
const CONTENT_TYPE: HeaderName = HeaderName::from_static("Content-Type");

pub struct NatsSink {
    options: NatsOptions,
    context: Context,
    live: Option<Live>,
}

impl NatsSink {
    pub fn new(options: NatsOptions, context: Context) -> Self {
        Self { options, context, live: None }
    }

    /// What to do at a fault: after `Busy` the connection stays, and only what is in flight goes.
    fn faulted(&mut self, fault: Fault) -> Fault {
        match (fault.kind, &mut self.live) {
            (FaultKind::Busy { .. }, Some(live)) => live.forget(),
            _ => self.live = None,
        }
        fault
    }
}

fn not_connected() -> Fault {
    Fault::disconnected("not connected")
}

#[async_trait]
impl Sink for NatsSink {
    async fn connect(&mut self) -> Result<(), Fault> {
        self.live = None;
        self.live = Some(Live::open(&self.options, &self.context).await?);
        Ok(())
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        let live = self.live.as_mut().ok_or_else(not_connected)?;
        let sent = live.send(batch).await;
        sent.map_err(|fault| self.faulted(fault))
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        let live = self.live.as_mut().ok_or_else(not_connected)?;
        let settled = live.settle().await;
        settled.map_err(|fault| self.faulted(fault))
    }

    async fn close(&mut self) {
        // What is in flight is not waited for: it is not settled, so it will be sent again.
        self.live = None;
    }

    fn window(&self) -> usize {
        self.options.window
    }
}

/// A connection and what is in flight on it.
struct Live {
    client: Client,
    notices: Arc<Notices>,
    target: String,
    /// The inbox, without a message's number.
    inbox: String,
    answers: Subscriber,
    flight: Flight,
    /// The most messages in flight.
    window: usize,
    mode: Mode,
}

enum Mode {
    /// Kept here so that dropping `settle` forgets no marker.
    Core(Rounds),
    JetStream {
        context: Box<jetstream::Context>,
        /// The stream that must take each message, when one is configured.
        stream: Option<String>,
        /// The question whether a stream captures the oldest message's subject; a task, so that
        /// dropping `settle` does not ask again.
        lookup: Option<JoinHandle<Result<bool, Fault>>>,
    },
}

impl Live {
    async fn open(options: &NatsOptions, context: &Context) -> Result<Self, Fault> {
        let (client, notices) = connection::open(options, context).await?;
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(Fault::disconnected)?;
        let mode = match &options.jetstream {
            None => Mode::Core(Rounds::default()),
            Some(jetstream) => {
                let js = stream::jetstream(client.clone(), jetstream, context);
                tokio::select! {
                    prepared = stream::prepare(&js, jetstream, context) => prepared?,
                    refused = notices.refused() => return Err(refused),
                }
                Mode::JetStream { context: Box::new(js), stream: jetstream.stream.clone(), lookup: None }
            }
        };
        let target = options.target();
        let (flight, window) = (Flight::default(), options.window);
        Ok(Self { client, notices, target, inbox, answers, flight, window, mode })
    }

    /// Forgets what is in flight, and keeps the connection.
    fn forget(&mut self) {
        self.flight.clear();
        match &mut self.mode {
            Mode::Core(rounds) => *rounds = Rounds::default(),
            Mode::JetStream { lookup, .. } => *lookup = None,
        }
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        let mut last = None;
        for message in batch {
            let subject = Subject::from(message.topic.as_str());
            let headers = self.headers(message)?;
            let number = self.flight.push(subject.clone());
            last = Some(number);
            let body = message.body.clone();
            let published = match self.mode {
                Mode::Core(_) => self.client.publish_with_headers(subject, headers, body).await,
                Mode::JetStream { .. } => {
                    let reply = self.place(number);
                    self.client.publish_with_reply_and_headers(subject, reply, headers, body).await
                }
            };
            if let Err(error) = published {
                self.not_published(number, &error)?;
            }
        }
        let hurry = self.has_little_room();
        let is_due = match (&mut self.mode, last) {
            (Mode::Core(rounds), Some(last)) => rounds.published(last, hurry, Instant::now()),
            _ => false,
        };
        if is_due { self.mark().await } else { Ok(()) }
    }

    fn has_little_room(&self) -> bool {
        self.flight.len() * 2 > self.window
    }

    /// A message's own subject below the inbox.
    fn place(&self, number: Number) -> String {
        format!("{}.{number}", self.inbox)
    }

    /// Sends a marker behind all that was published; JetStream needs none.
    async fn mark(&mut self) -> Result<(), Fault> {
        let Mode::Core(rounds) = &self.mode else { return Ok(()) };
        let Some((number, payload)) = rounds.marker() else { return Ok(()) };
        self.client.publish(self.place(number), payload).await.map_err(|_| self.lost())?;
        if let Mode::Core(rounds) = &mut self.mode {
            rounds.sent(Instant::now());
        }
        Ok(())
    }

    /// What it means that the client did not take a message.
    fn not_published(&mut self, number: Number, error: &PublishError) -> Result<(), Fault> {
        let code = match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => "too_large",
            PublishErrorKind::InvalidSubject => "no_such_subject",
            // The client's tasks have ended.
            _ => return Err(self.lost()),
        };
        self.flight.reject(number, Rejection { code, text: error.to_string() });
        Ok(())
    }

    fn headers(&self, message: &Message) -> Result<HeaderMap, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, message.content_type);
        for (name, value) in &message.headers {
            let refused =
                || Fault::refused(format!("header `{name}`: NATS does not allow its name or value"));
            let name: HeaderName = name.parse().map_err(|_| refused())?;
            let value: HeaderValue = value.parse().map_err(|_| refused())?;
            headers.insert(name, value);
        }
        headers.insert(ID, percent_encoded(&message.id).as_ref());
        if let Mode::JetStream { stream, .. } = &self.mode {
            headers.insert(NATS_MESSAGE_ID, percent_encoded(&message.dedup_id).as_ref());
            if let Some(stream) = stream {
                headers.insert(NATS_EXPECTED_STREAM, stream.as_str());
            }
        }
        Ok(headers)
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        loop {
            self.note_denied()?;
            if let Some(settled) = self.flight.take_settled() {
                return Ok(settled);
            }
            if self.flight.untaken().is_some() {
                self.look_up().await?;
                continue;
            }
            let due = if let Mode::Core(rounds) = &self.mode { rounds.due() } else { None };
            tokio::select! {
                answer = self.answers.next() => {
                    let answer = answer.ok_or_else(|| self.lost())?;
                    self.note(&answer)?;
                }
                () = self.notices.changed() => {}
                () = passed(due) => self.mark().await?,
            }
            // Whatever else is there already, so that one call settles much.
            while let Some(answer) = self.answers.next().now_or_never() {
                let answer = answer.ok_or_else(|| self.lost())?;
                self.note(&answer)?;
            }
        }
    }

    /// Rejects what is in flight to subjects that we may not publish to.
    fn note_denied(&mut self) -> Result<(), Fault> {
        for subject in self.notices.take_denied() {
            let text = format!("no permission to publish to `{subject}`");
            if subject.starts_with(&self.inbox) {
                return Err(Fault::refused(format!("{text}; core NATS confirms by it (`inbox_prefix`)")));
            }
            self.flight.reject_subject(&subject, &Rejection { code: "not_authorised", text });
        }
        self.notices.refusal().map_or(Ok(()), Err)
    }

    /// Takes one message of the inbox.
    fn note(&mut self, answer: &async_nats::Message) -> Result<(), Fault> {
        let number = answer.subject.rsplit('.').next().and_then(|word| word.parse::<Number>().ok());
        let Some(number) = number else { return Ok(()) };
        let hurry = self.has_little_room();
        match &mut self.mode {
            Mode::Core(rounds) => {
                if let Some(taken) = rounds.returned(number, &answer.payload, hurry, Instant::now()) {
                    self.note_denied()?;
                    self.flight.confirm_through(taken);
                }
            }
            Mode::JetStream { .. } if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                self.flight.no_responders(number);
            }
            Mode::JetStream { .. } => match verdict(&answer.payload) {
                Verdict::Stored => self.flight.confirm(number),
                Verdict::Rejected(rejection) => self.flight.reject(number, rejection),
                Verdict::Fault(fault) if self.flight.holds(number) => return Err(fault),
                Verdict::Fault(_) => {}
            },
        }
        Ok(())
    }

    /// When no stream took the oldest message: finds out whether there is one for its subject. If so
    /// it cannot answer now (its leader is being elected), which is a fault; if not, the message is
    /// rejected, and others to the same subject that met the same.
    async fn look_up(&mut self) -> Result<(), Fault> {
        let Some(subject) = self.flight.untaken().cloned() else { return Ok(()) };
        let Mode::JetStream { context, stream, lookup } = &mut self.mode else { return Ok(()) };
        let asking = lookup.get_or_insert_with(|| {
            tokio::spawn(stream::exists((**context).clone(), stream.clone(), subject.to_string()))
        });
        let exists = asking.await;
        *lookup = None;
        if exists.map_err(Fault::busy)?? {
            return Err(Fault::busy(format!("the stream of `{subject}` does not answer")));
        }
        let text = format!("no stream captures `{subject}`");
        self.flight.reject_untaken(&subject, &Rejection { code: "no_such_stream", text });
        Ok(())
    }

    /// The fault of a connection that ended, with what the server said last, if it said something.
    fn lost(&self) -> Fault {
        match self.notices.last_error() {
            Some(error) => Fault::disconnected(format!("{}: {error}", self.target)),
            None => Fault::disconnected(format!("{}: the connection is lost", self.target)),
        }
    }
}

/// Waits until a marker is due, for ever when none is.
async fn passed(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
