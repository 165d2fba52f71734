//! The destinations: how the relay is told of each, and the same publishing done with its client alone.

mod jetstream;
mod kafka;
mod rabbitmq;
pub mod webhook;

use std::sync::Arc;
use std::time::Instant;

use relay::event::Event;
use tokio::sync::mpsc::UnboundedReceiver;

pub use self::jetstream::JetStream;
pub use self::kafka::Kafka;
pub use self::rabbitmq::RabbitMq;
pub use self::webhook::Webhook;

/// A destination. A `place` in it is a topic, a stream, an exchange with its queue, or a path.
pub trait Destination {
    /// Makes a place.
    async fn prepare(&self, place: &str);

    /// The lines of a sink's entry in the configuration that send all events to the place.
    fn sink(&self, place: &str) -> String;

    /// Publishes `events` with nothing but the client library, with the relay's settings, and waits for
    /// the last confirmation; gives the rate in events a second.
    async fn publish(&self, place: &str, events: Arc<Vec<Event>>) -> f64;

    /// How many messages the place has.
    async fn count(&self, place: &str) -> u64;

    /// Removes the place with all that is in it.
    async fn remove(&self, place: &str);
}

/// A destination that others consume from.
pub trait Broker: Destination {
    /// The output of a route of the peer's that sends all to the place.
    fn peer_output(&self, place: &str) -> String;

    /// Publishes single events to the place, with the relay's settings.
    type Publisher: Publisher;
    async fn publisher(&self, place: &str) -> Self::Publisher;

    /// When each further message came to a consumer of the place.
    async fn arrivals(&self, place: &str) -> UnboundedReceiver<Instant>;
}

/// A client that publishes one event at a time. Whether it has arrived is the consumer's to say.
pub trait Publisher: Send + 'static {
    async fn publish(&mut self, event: Event);
}
