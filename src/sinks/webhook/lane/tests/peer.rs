//! An endpoint that reads and writes what a test says.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::sinks::webhook::lane::Orders;
use crate::sinks::webhook::target::Target;

/// How long anything may take that ought to happen.
pub const BOUND: Duration = Duration::from_secs(20);

pub async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(BOUND, what).await.expect("in time")
}

/// An endpoint's end of things.
pub struct Peer(TcpListener);

impl Peer {
    pub async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("bind"))
    }

    pub fn orders(&self) -> Orders {
        let address = self.0.local_addr().expect("an address");
        let yaml = format!("{{url: 'http://u:secret@{address}/events?secret'}}");
        let options = serde_yaml::from_str(&yaml).expect("options");
        Orders {
            target: Arc::new(Target::new(&options).expect("a target")),
            reject: vec![422],
            timeout: BOUND,
            batch: 1,
            window: 64,
        }
    }

    pub async fn accept(&self) -> Wire {
        Wire(within(self.0.accept()).await.expect("accept").0)
    }

    /// Whether somebody has connected who was not accepted yet: whoever comes later is behind.
    pub async fn is_wanted(&self) -> bool {
        let last = TcpStream::connect(self.0.local_addr().expect("an address")).await.expect("connect");
        let next = self.accept().await;
        next.0.peer_addr().expect("an address") != last.local_addr().expect("an address")
    }
}

/// An accepted connection.
pub struct Wire(pub TcpStream);

impl Wire {
    /// A request's body; `None` when the connection has ended instead.
    pub async fn request(&mut self) -> Option<String> {
        let (mut got, mut whole) = (Vec::new(), None);
        while whole.is_none_or(|whole| got.len() < whole) {
            if within(self.0.read_buf(&mut got)).await.unwrap_or(0) == 0 {
                return None;
            }
            let text = String::from_utf8_lossy(&got);
            whole = text.split_once("\r\n\r\n").map(|(head, _)| head.len() + 4 + content_length(head));
        }
        let text = String::from_utf8(got).expect("text");
        Some(text.split_once("\r\n\r\n").expect("a head").1.to_owned())
    }

    pub async fn answer(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("written");
    }
}

fn content_length(head: &str) -> usize {
    let line = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    line.expect("a length").parse().expect("a number")
}
