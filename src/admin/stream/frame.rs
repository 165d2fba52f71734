//! Server-sent events, as bytes (WHATWG HTML, section 9.2.6).

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};

use crate::event::{Event, compact};
use crate::journal::Offset;

/// How long a client waits before it comes back after a connection was lost, in milliseconds.
const RETRY_MS: u32 = 1000;

/// What a stream begins with: where it stands, so that a client that is cut off before its first
/// event comes back to the same place.
pub(super) fn hello(next: Offset) -> Bytes {
    format!("retry: {RETRY_MS}\n: reads on from offset {next}\nid: {}\n\n", next.saturating_sub(1)).into()
}

/// Keeps the connection alive. With `seen`, moves the client's place past events that were not
/// for it; without data nothing is dispatched.
pub(super) fn heartbeat(seen: Option<Offset>) -> Bytes {
    seen.map_or(Bytes::from_static(b": heartbeat\n\n"), |seen| format!(": heartbeat\nid: {seen}\n\n").into())
}

/// Says that offsets were lost below `next`.
pub(super) fn put_gap(out: &mut BytesMut, lost: u64, next: Offset) {
    put_text(out, format_args!("event: gap\ndata: {{\"lost\":{lost},\"next\":{next}}}\n\n"));
}

/// Puts `event` once under each topic. Only the last bears the id: a client that is cut off before
/// it gets all of them again.
pub(super) fn put_event(out: &mut BytesMut, offset: Offset, topics: &[String], event: &Event) {
    let carried = carried(event.raw());
    for (index, topic) in topics.iter().enumerate() {
        if index + 1 == topics.len() {
            put_text(out, format_args!("id: {offset}\n"));
        }
        // `Naming::Plain` replaces what events bring; the template's own text may hold anything.
        let topic = topic.replace(char::is_control, "_");
        put_text(out, format_args!("event: {topic}\n"));
        for line in carried.split(|&byte| byte == b'\n') {
            out.put_slice(b"data: ");
            out.put_slice(line);
            out.put_u8(b'\n');
        }
        out.put_u8(b'\n');
    }
}

/// The event's bytes, or, where they hold what ends a line for a client but cannot be told apart
/// by it, the same JSON on one line.
fn carried(raw: &Bytes) -> Bytes {
    if raw.contains(&b'\r') { compact(raw) } else { raw.clone() }
}

fn put_text(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    // Writing to a buffer that grows does not fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(topics: &[&str], json: &'static str) -> String {
        let mut out = BytesMut::new();
        let topics: Vec<_> = topics.iter().map(|&topic| topic.to_owned()).collect();
        put_event(&mut out, 7, &topics, &Event::parse(json.into()).expect("an event"));
        String::from_utf8(out.to_vec()).expect("text")
    }

    #[test]
    fn a_line_of_data_for_each_of_the_events() {
        assert_eq!(
            put(&["registry.push"], "{\n   \"action\": \"push\"\n\n}"),
            "id: 7\nevent: registry.push\ndata: {\ndata:    \"action\": \"push\"\ndata: \ndata: }\n\n"
        );
    }

    #[test]
    fn the_id_comes_with_the_last_topic() {
        assert_eq!(put(&["a", "b"], "{}"), "event: a\ndata: {}\n\nid: 7\nevent: b\ndata: {}\n\n");
    }

    #[test]
    fn carriage_returns_cost_the_white_space_and_nothing_else() {
        assert_eq!(
            put(&["a\nb"], "{\r\n \"a\": \"\\r b\"}"),
            "id: 7\nevent: a_b\ndata: {\"a\":\"\\r b\"}\n\n"
        );
    }
}
