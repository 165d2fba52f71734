//! Reading server-sent events (WHATWG HTML, section 9.2.6).

use bytes::{Buf as _, BytesMut};

/// The longest line that is taken, in bytes: over what the largest event can have.
const LINE_BYTES_MAX: usize = 64 << 20;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// Its type: the topic. Empty when the stream gave none.
    pub event: String,
    /// The `data` lines, joined by line feeds.
    pub data: Vec<u8>,
}

/// Takes a stream's bytes as they come, in any pieces, and gives whole messages.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffer: BytesMut,
    /// How much of `buffer` holds no line's end.
    scanned: usize,
    message: Message,
    has_data: bool,
    id: Option<String>,
    last_id: Option<String>,
}

/// A line beyond [`LINE_BYTES_MAX`]: what comes is no relay's stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Parser {
    /// The last id that a message, or an empty block, came with.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Takes more bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.buffer.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(TooLong);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole message of what was fed.
    pub(super) fn next(&mut self) -> Option<Message> {
        while let Some(end) = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
            let mut line = self.buffer.split_to(self.scanned + end);
            self.buffer.advance(1);
            self.scanned = 0;
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if line.is_empty() {
                if let Some(message) = self.dispatch() {
                    return Some(message);
                }
            } else {
                self.field(&line);
            }
        }
        self.scanned = self.buffer.len();
        None
    }

    /// Forgets what was begun: the connection is a new one. The last id stays.
    pub(super) fn restart(&mut self) {
        *self = Self { last_id: self.last_id.take(), ..Self::default() };
    }

    fn field(&mut self, line: &[u8]) {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                if self.has_data {
                    self.message.data.push(b'\n');
                }
                self.has_data = true;
                self.message.data.extend_from_slice(value);
            }
            b"event" => self.message.event = String::from_utf8_lossy(value).into_owned(),
            b"id" => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            // Comments, `retry`, and what a later relay may say.
            _ => {}
        }
    }

    /// Ends a block. One without data moves the id, and is no message.
    fn dispatch(&mut self) -> Option<Message> {
        if let Some(id) = self.id.take() {
            self.last_id = Some(id);
        }
        let message = std::mem::take(&mut self.message);
        std::mem::take(&mut self.has_data).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 1000\n: hello\nid: 6\n\nid: 7\nevent: a\ndata: {\ndata:  1\ndata:\ndata: }\n\n\
                          : heartbeat\nid: 9\n\ndata: x\n\nevent: cut\ndata: y\n";

    fn message(event: &str, data: &str) -> Message {
        Message { event: event.into(), data: data.into() }
    }

    #[test]
    fn pieces_of_any_size_give_the_same_messages() {
        for size in 1..STREAM.len() {
            let (mut parser, mut messages) = (Parser::default(), Vec::new());
            for piece in STREAM.as_bytes().chunks(size) {
                parser.feed(piece).expect("short lines");
                while let Some(message) = parser.next() {
                    messages.push((message, parser.last_id().map(str::to_owned)));
                }
            }
            let id = |id: &str| Some(id.to_owned());
            assert_eq!(messages, [(message("a", "{\n 1\n\n}"), id("7")), (message("", "x"), id("9"))]);
        }
    }

    #[test]
    fn a_cut_message_is_forgotten_and_its_id_too() {
        let mut parser = Parser::default();
        parser.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n").expect("short lines");
        assert_eq!(parser.next(), Some(message("", "a")));
        assert_eq!(parser.next(), None);
        parser.restart();
        assert_eq!(parser.last_id(), Some("1"));
        parser.feed(b"id: 2\ndata: b\n\n").expect("short lines");
        assert_eq!(parser.next(), Some(message("", "b")));
    }
}
