//! An event as an AMQP message.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::options::{NAME_BYTES_MAX, RabbitMqOptions};
use crate::sinks::{Message, Rejection};

/// The properties have to fit into one frame (AMQP 0-9-1, 4.2.6.1), of 128 KiB with RabbitMQ's
/// default `frame_max`. Half of it leaves room for what else is in there.
const HEADER_BYTES_MAX: usize = 64 << 10;

const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// `timestamp` is the time of arrival; the event's own is in the body, with more digits than the
/// seconds that AMQP has.
pub(super) fn properties(options: &RabbitMqOptions, message: &Message) -> BasicProperties {
    let mut headers = FieldTable::default();
    if message.id.len() > NAME_BYTES_MAX {
        headers.insert("id".into(), AMQPValue::LongString(message.id.as_str().into()));
    }
    for (name, value) in &message.headers {
        headers.insert(short(name), AMQPValue::LongString(value.as_str().into()));
    }
    BasicProperties::default()
        .with_message_id(short(&message.id))
        .with_type(short(message.event.action()))
        .with_timestamp(u64::try_from(message.arrived / 1_000_000).unwrap_or_default())
        .with_content_type(message.content_type.into())
        .with_app_id(short(&options.connection_name))
        .with_delivery_mode(if options.persistent { PERSISTENT } else { TRANSIENT })
        .with_headers(headers)
}

/// Why a message cannot even be put into frames, if it cannot.
pub(super) fn impossible(message: &Message) -> Option<Rejection> {
    let size: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if message.id.len() + size > HEADER_BYTES_MAX {
        let text = format!("its headers have {size} bytes, of {HEADER_BYTES_MAX} at most");
        return Some(Rejection { code: "too_large", text });
    }
    let length = message.topic.len();
    (length > NAME_BYTES_MAX).then(|| Rejection {
        code: "invalid_topic",
        text: format!("a routing key has {NAME_BYTES_MAX} bytes at most, not {length}"),
    })
}

/// As much of `text` as an AMQP short string holds. A longer id stands whole in the header `id`.
pub(super) fn short(text: &str) -> ShortString {
    text[..text.floor_char_boundary(NAME_BYTES_MAX)].into()
}
