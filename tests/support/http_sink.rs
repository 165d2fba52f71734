//! An HTTP endpoint that keeps what is sent to it: what a registry notifies, or where a webhook goes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::process::{eventually, free_ports};

/// Whoever sends gets no answer, and the connection stays open.
pub const SILENT: u16 = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `POST /events`
    pub line: String,
    /// In the order they came, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The status it was answered with.
    pub status: u16,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a UTF-8 body")
    }
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    status: AtomicU16,
}

pub struct HttpSink {
    address: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl HttpSink {
    /// Answers 202 until told otherwise.
    pub async fn start() -> Self {
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let listener = TcpListener::bind(&address).await.expect("bind an endpoint");
        let shared = Arc::new(Shared { status: AtomicU16::new(202), ..Default::default() });
        let kept = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, Arc::clone(&kept)));
            }
        });
        Self { address, shared, task }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// The status of every answer from now on, or [`SILENT`].
    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    /// All so far, refused ones too.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no panic").clone()
    }

    /// Those that were answered with 2xx.
    pub fn taken(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| (200..300).contains(&request.status)).collect()
    }

    /// Waits until `expected` have been answered with 2xx.
    pub async fn take(&self, expected: usize, bound: Duration) -> Vec<Request> {
        let what = format!("{expected} requests at the HTTP sink");
        eventually(&what, bound, async || Some(self.taken()).filter(|taken| taken.len() >= expected)).await
    }

    /// Waits for a request whose body has all of `parts` in it.
    pub async fn heard(&self, what: &str, parts: &[&str], bound: Duration) -> Request {
        eventually(what, bound, async || {
            let mut requests = self.requests().into_iter();
            requests.find(|request| parts.iter().all(|part| request.text().contains(part)))
        })
        .await
    }
}

impl Drop for HttpSink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some(mut request) = read(&mut stream, &mut buffer).await {
        let status = shared.status.load(Ordering::Relaxed);
        request.status = status;
        shared.requests.lock().expect("no panic").push(request);
        if status == SILENT {
            // Until the other side gives up.
            while matches!(stream.read_buf(&mut buffer).await, Ok(count) if count > 0) {}
            return;
        }
        let answer = format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The next request of a connection, with a body of known length; what follows it stays in the buffer.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some((request, length)) = parse(buffer) {
            buffer.drain(..length);
            return Some(request);
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn parse(buffer: &[u8]) -> Option<(Request, usize)> {
    let end = buffer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&buffer[..end]).ok()?;
    let mut lines = head.lines();
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(Some(0), |(_, value)| value.parse().ok())?;
    let whole = end + 4 + length;
    let body = buffer.get(end + 4..whole)?.to_vec();
    Some((Request { line, headers, body, status: 0 }, whole))
}
