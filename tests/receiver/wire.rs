//! HTTP/1.1 by hand, so that tests decide about every byte and when it goes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::rig::PATIENCE;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The values of a header, in their order.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let of_name = |header: &&(String, String)| header.0.eq_ignore_ascii_case(name);
        self.headers.iter().filter(of_name).map(|header| header.1.as_str()).collect()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// `accepted`, `duplicates` and `quarantined` of a 202.
    pub fn counts(&self) -> (u64, u64, u64) {
        assert_eq!(self.status, 202, "{self:?}");
        let json = self.json();
        let count = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("{name} in {json}"));
        (count("accepted"), count("duplicates"), count("quarantined"))
    }

    /// Checks that this is a problem (RFC 9457) of a status and kind; gives its document.
    pub fn problem(&self, status: u16, kind: &str) -> serde_json::Value {
        assert_eq!(
            (self.status, self.header("content-type")),
            (status, vec!["application/problem+json"]),
            "{self:?}"
        );
        let json = self.json();
        assert_eq!(json["status"], status);
        assert_eq!(json["type"], format!("urn:relay:problem:{kind}"));
        for name in ["title", "detail"] {
            assert!(json[name].as_str().is_some_and(|text| !text.is_empty()), "{name} in {json}");
        }
        json
    }
}

/// A connection, with what was read ahead of an answer's end.
pub struct Connection<S = TcpStream> {
    pub stream: S,
    read: Vec<u8>,
}

impl Connection {
    pub async fn open(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.expect("connected"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("in time");
        sent.expect("sent");
    }

    /// A POST as a registry sends it, and its answer.
    pub async fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        self.request(&format!("POST {path}"), &[], body).await
    }

    /// A request with a `Content-Length`, and its answer.
    pub async fn request(&mut self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut bytes =
            format!("{line} HTTP/1.1\r\nHost: relay\r\nContent-Length: {}\r\n", body.len()).into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.send(bytes).await;
        self.answer().await
    }

    pub async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("an answer before the connection's end")
    }

    /// The next answer; `None` when the connection ends first.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        let end = self.read_until(|read| find(read, b"\r\n\r\n")).await? + 4;
        let head = String::from_utf8(self.read.drain(..end).collect()).expect("ASCII");
        let mut lines = head.trim_end().lines();
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("a status line in {head}"));
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: String::new() };
        let length =
            answer.header("content-length").first().map_or(0, |length| length.parse().expect("a length"));
        self.read_until(|read| (read.len() >= length).then_some(length)).await?;
        answer.body = String::from_utf8(self.read.drain(..length).collect()).expect("UTF-8");
        Some(answer)
    }

    /// Reads until `complete` finds an end; `None` when the connection ends first.
    async fn read_until(&mut self, complete: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        loop {
            if let Some(end) = complete(&self.read) {
                return Some(end);
            }
            let read =
                timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await.expect("an answer in time");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Waits until the other side closes; whatever it says before that is dropped.
    pub async fn closed(mut self) {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        // A reset is an end too.
        let (Ok(_) | Err(_)) = read.expect("closed in time");
    }

    /// Whether nothing comes for a while.
    pub async fn is_silent_for(&mut self, while_: Duration) -> bool {
        timeout(while_, self.stream.read_buf(&mut self.read)).await.is_err()
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
