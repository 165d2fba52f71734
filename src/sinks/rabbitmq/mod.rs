//! The RabbitMQ sink: one connection, one channel, publisher confirms in a window.
//!
//! A message that no queue takes comes back (`mandatory`) and is a dead letter. A message that the
//! broker takes offence at (too large, a routing key that is not allowed) makes it close the channel
//! without a word about which message it was: then all that were in flight are published once more,
//! one by one, until each is cleared or convicted. The other messages are no worse for it, and the
//! sink has not failed.

mod bells;
mod flight;
mod link;
mod message;
mod options;
mod verdict;

use std::future::poll_fn;
use std::task::Poll;

use async_trait::async_trait;
use lapin::options::BasicPublishOptions;

use self::flight::{Confirm, Flight, Front};
use self::link::Link;
pub use self::options::{Argument, Exchange, Queue, QueueKind, RabbitMqOptions, Tls};
use self::verdict::{Verdict, fault, judge, late_frames};
use super::{Context, Fault, FaultKind, Message, Settled, Sink};

pub struct RabbitMqSink {
    options: RabbitMqOptions,
    context: Context,
    link: Option<Link>,
    flight: Flight,
    /// The channel was closed, or has messages that were given up: the next ones need another.
    stale_channel: bool,
    /// The connection was renewed without a fault, and nothing was settled since.
    renewed: bool,
}

impl RabbitMqSink {
    pub(super) fn new(options: RabbitMqOptions, context: Context) -> Self {
        Self { options, context, link: None, flight: Flight::default(), stale_channel: false, renewed: false }
    }

    /// Forgets what is in flight, and the connection with it unless only the broker is busy.
    fn give_up(&mut self, fault: &Fault) {
        self.stale_channel = true;
        if !matches!(fault.kind, FaultKind::Busy { .. }) {
            self.link = None;
        }
        self.flight.clear();
    }

    async fn try_send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        let link = self.link.as_ref().ok_or_else(not_connected)?;
        if link.blocked() {
            return Err(Fault::busy(format!("{}: the broker takes nothing now (an alarm)", link.address)));
        }
        for message in batch {
            match message::impossible(message) {
                Some(rejection) => self.flight.reject(message.clone(), rejection),
                None => self.flight.hold(message.clone()),
            }
        }
        self.launch().await
    }

    async fn try_settle(&mut self) -> Result<Settled, Fault> {
        loop {
            self.launch().await?;
            match self.front().await? {
                Front::Settled(settled) => {
                    self.renewed = false;
                    return Ok(settled);
                }
                Front::Nacked => {
                    return Err(Fault::busy(format!("{}: a queue refused a message (nack)", self.address())));
                }
                Front::Broken(error) => self.broken(&error)?,
            }
        }
    }

    /// Publishes what is held, on a channel that is good.
    async fn launch(&mut self) -> Result<(), Fault> {
        if !self.flight.has_to_launch() {
            return Ok(());
        }
        if self.stale_channel {
            self.renew_channel().await?;
            self.stale_channel = false;
        }
        let link = self.link.as_ref().ok_or_else(not_connected)?;
        self.flight.launch(|message| publish(&self.options, link, message));
        Ok(())
    }

    /// Another channel; and another connection for it, if the old one did not survive that a channel was
    /// closed over a message ([`late_frames`]). That is no fault, unless it comes again before anything is
    /// settled.
    async fn renew_channel(&mut self) -> Result<(), Fault> {
        let link = self.link.as_mut().ok_or_else(not_connected)?;
        let Err(error) = link.reopen_channel().await else { return Ok(()) };
        if self.renewed || !late_frames(&error) {
            return Err(fault(&error, &link.address));
        }
        tracing::debug!(%error, "the connection ended with a channel that the broker closed; making another");
        self.link = Some(Link::open(&self.options, self.context.timeout).await?);
        self.renewed = true;
        Ok(())
    }

    /// Waits until there is something to do about the oldest message.
    async fn front(&mut self) -> Result<Front, Fault> {
        let link = self.link.as_mut().ok_or_else(not_connected)?;
        let flight = &mut self.flight;
        poll_fn(|context| match flight.poll_front(context) {
            Poll::Ready(front) => Poll::Ready(Ok(front)),
            Poll::Pending => link
                .poll_blocked(context)
                .map(|reason| Err(Fault::busy(format!("the broker takes nothing now: {reason}")))),
        })
        .await
    }

    /// The channel or the connection has ended, and the oldest message is not confirmed.
    fn broken(&mut self, error: &lapin::Error) -> Result<(), Fault> {
        let rejection = match judge(error, self.address()) {
            Verdict::Failed(fault) => return Err(fault),
            Verdict::Suspect(rejection) => rejection,
            Verdict::TooLate => {
                self.stale_channel = true;
                self.flight.suspect_all();
                return Ok(());
            }
        };
        self.stale_channel = true;
        if self.flight.suspicious() {
            self.flight.convict(rejection);
        } else {
            let messages = self.flight.suspect_all();
            tracing::debug!(
                address = self.address(),
                messages,
                reason = rejection.text,
                "the broker closed the channel over a message; sending them one by one to find it"
            );
        }
        Ok(())
    }

    fn address(&self) -> &str {
        self.link.as_ref().map_or("", |link| link.address.as_str())
    }
}

#[async_trait]
impl Sink for RabbitMqSink {
    async fn connect(&mut self) -> Result<(), Fault> {
        self.link = None;
        self.flight.clear();
        self.link = Some(Link::open(&self.options, self.context.timeout).await?);
        self.stale_channel = false;
        self.renewed = false;
        Ok(())
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        self.try_send(batch).await.inspect_err(|fault| self.give_up(fault))
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        self.try_settle().await.inspect_err(|fault| self.give_up(fault))
    }

    async fn close(&mut self) {
        self.flight.clear();
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }

    fn window(&self) -> usize {
        self.options.window
    }
}

fn not_connected() -> Fault {
    Fault::disconnected("not connected")
}

/// The way of one message to its confirmation; nothing happens before it is polled.
fn publish(options: &RabbitMqOptions, link: &Link, message: &Message) -> Confirm {
    let publish = BasicPublishOptions { mandatory: options.mandatory, ..BasicPublishOptions::default() };
    let exchange = message::short(&options.exchange.name);
    let key = message::short(&message.topic);
    let properties = message::properties(options, message);
    let channel = link.channel.clone();
    let body = message.body.clone();
    Box::pin(async move { channel.basic_publish(exchange, key, publish, &body, properties).await?.await })
}
