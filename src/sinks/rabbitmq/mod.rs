//! The RabbitMQ sink: one connection, one channel, publisher confirms in a window.
//!
//! A message that no queue takes comes back (`mandatory`) and is a dead letter. A message that the
//! broker takes offence at (too large, a routing key that is not allowed) makes it close the channel
//! without a word about which message it was: then all that were in flight are sent once more, one
//! by one, until each is cleared or convicted.

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
use self::verdict::{Verdict, judge};
use super::{Context, Fault, Message, Settled, Sink};

pub struct RabbitMqSink {
    options: RabbitMqOptions,
    context: Context,
    link: Option<Link>,
    flight: Flight,
    /// How many of the next messages are sent one by one: one of them made the broker close a channel.
    suspects: usize,
    /// The channel still has messages that were given up; the next ones need one of their own.
    stale_channel: bool,
}

impl RabbitMqSink {
    pub(super) fn new(options: RabbitMqOptions, context: Context) -> Self {
        Self { options, context, link: None, flight: Flight::default(), suspects: 0, stale_channel: false }
    }

    /// Forgets what is in flight, and the connection with it unless only the broker is busy.
    fn give_up(&mut self, fault: Fault) -> Fault {
        self.stale_channel = true;
        if !matches!(fault.kind, super::FaultKind::Busy { .. }) {
            self.link = None;
        }
        self.flight.clear();
        fault
    }

    async fn try_send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        let Some(link) = &mut self.link else { return Err(Fault::disconnected("not connected")) };
        if link.blocked() {
            return Err(Fault::busy(format!("{}: the broker takes nothing now (an alarm)", link.address)));
        }
        if self.stale_channel {
            link.reopen_channel().await?;
            self.stale_channel = false;
        }
        for message in batch {
            let (id, key) = (message::short(&message.id), message::short(&message.topic));
            if let Some(rejection) = message::impossible(message) {
                self.flight.reject(rejection);
            } else if self.suspects > 0 || self.flight.ends_held() {
                self.flight.hold(id, key, message.clone());
            } else {
                self.flight.publish(id, key, publish(&self.options, link, message));
            }
        }
        Ok(())
    }

    async fn try_settle(&mut self) -> Result<Settled, Fault> {
        loop {
            self.publish_held().await?;
            match self.front().await? {
                Front::Settled(settled) => {
                    self.suspects = self.suspects.saturating_sub(settled.count);
                    return Ok(settled);
                }
                Front::Nacked => {
                    return Err(Fault::busy(format!("{}: a queue refused a message (nack)", self.address())));
                }
                Front::Broken(error) => match judge(&error, self.address()) {
                    Verdict::Failed(fault) => return Err(fault),
                    // Each is alone in flight now.
                    Verdict::Suspect(rejection) if self.suspects > 0 => {
                        self.stale_channel = true;
                        self.flight.convict(rejection);
                    }
                    Verdict::Suspect(rejection) => {
                        self.suspects = self.flight.len();
                        return Err(Fault::disconnected(format!(
                            "{}: the broker closed the channel for one of {} messages; sending them one by \
                             one to find it: {}",
                            self.address(),
                            self.suspects,
                            rejection.text,
                        )));
                    }
                },
            }
        }
    }

    /// Publishes the oldest message if it is held; without suspicion all that are.
    async fn publish_held(&mut self) -> Result<(), Fault> {
        let Some(link) = &mut self.link else { return Err(Fault::disconnected("not connected")) };
        if self.flight.held().is_some() && self.stale_channel {
            link.reopen_channel().await?;
            self.stale_channel = false;
        }
        if self.suspects == 0 {
            self.flight.publish_all_held(|message| publish(&self.options, link, message));
        } else if let Some(message) = self.flight.held() {
            let confirm = publish(&self.options, link, message);
            self.flight.publish_held(confirm);
        }
        Ok(())
    }

    /// Waits until there is something to do about the oldest message.
    async fn front(&mut self) -> Result<Front, Fault> {
        let Some(link) = &mut self.link else { return Err(Fault::disconnected("not connected")) };
        let flight = &mut self.flight;
        poll_fn(|context| {
            if let Poll::Ready(front) = flight.poll_front(context) {
                return Poll::Ready(Ok(front));
            }
            link.poll_blocked(context)
                .map(|reason| Err(Fault::busy(format!("the broker takes nothing now: {reason}"))))
        })
        .await
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
        Ok(())
    }

    async fn send(&mut self, batch: &[Message]) -> Result<(), Fault> {
        let sent = self.try_send(batch).await;
        sent.map_err(|fault| self.give_up(fault))
    }

    async fn settle(&mut self) -> Result<Settled, Fault> {
        let settled = self.try_settle().await;
        settled.map_err(|fault| self.give_up(fault))
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
