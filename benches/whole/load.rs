//! The load: a registry's requests over HTTP/1.1, sent as plainly as can be, so that the load takes as
//! little as possible of the two cores that it shares with what it measures.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use relay::cli::emit::Sample;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long an answer may take before a run counts as failed.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// Every event of one run of the bench has a number of its own: a repeated id would be dropped.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Over how many repositories the events are spread.
pub const REPOSITORIES: u64 = 100;

/// The registry whose events are sent: always the same ones, in a registry's own shape.
pub fn sample() -> Sample {
    let began = "2026-11-24T00:00:00Z".parse().expect("a time");
    Sample::new(7, REPOSITORIES, began)
}

/// The numbers of events that nobody has sent yet.
pub fn fresh(count: u64) -> std::ops::Range<u64> {
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    first..first + count
}

/// `count` requests with `batch` events each, as bytes on the wire.
pub fn requests(count: u64, batch: u64) -> Vec<Vec<u8>> {
    let sample = sample();
    let numbers = fresh(count * batch);
    (0..count)
        .map(|place| {
            let first = numbers.start + place * batch;
            request(&sample.envelope(first..first + batch))
        })
        .collect()
}

/// One request, with the headers of a registry's.
pub fn request(body: &str) -> Vec<u8> {
    format!(
        "POST /events HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nContent-Type: application/vnd.docker.distribution.events.v1+json\r\n\
         Accept-Encoding: gzip\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One sender, one request after the other, each on a connection of its own: a registry's way.
pub fn one_sender(to: SocketAddr, requests: &[Vec<u8>]) -> Duration {
    let began = Instant::now();
    for request in requests {
        exchange(&mut connect(to), request);
    }
    began.elapsed()
}

/// One sender on one connection.
pub fn one_connection(to: SocketAddr, requests: &[Vec<u8>]) -> Duration {
    let mut stream = connect(to);
    let began = Instant::now();
    for request in requests {
        exchange(&mut stream, request);
    }
    began.elapsed()
}

/// A connection as the load makes it.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap_or_else(|error| panic!("connect to {to}: {error}"));
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.set_read_timeout(Some(ANSWER_BOUND)).expect("a time limit");
    stream
}

/// Sends a request and reads the whole of its answer, which must be a 2xx.
pub fn exchange(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).expect("send a request");
    let mut answer = Answer::default();
    let mut buffer = [0; 2048];
    while !answer.is_whole() {
        let read = stream.read(&mut buffer).expect("read an answer");
        assert!(read > 0, "the connection was closed before the answer");
        answer.add(&buffer[..read]);
    }
}

/// `connections` senders at once, each on a connection that it keeps, together sending all of `requests`.
pub fn kept_alive(to: SocketAddr, requests: Vec<Vec<u8>>, connections: usize) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = tokio::net::TcpStream::connect(to).await.expect("connect");
            stream.set_nodelay(true).expect("TCP_NODELAY");
            streams.push(stream);
        }
        let (requests, next) = (Rc::new(requests), Rc::new(Cell::new(0)));
        let began = Instant::now();
        let senders: Vec<_> = streams
            .into_iter()
            .map(|stream| tokio::task::spawn_local(sender(stream, requests.clone(), next.clone())))
            .collect();
        for sender in senders {
            sender.await.expect("a sender");
        }
        began.elapsed()
    })
}

/// Takes the next request that nobody has taken, until there is none.
async fn sender(mut stream: tokio::net::TcpStream, requests: Rc<Vec<Vec<u8>>>, next: Rc<Cell<usize>>) {
    let mut buffer = [0; 2048];
    loop {
        let place = next.replace(next.get() + 1);
        let Some(request) = requests.get(place) else { return };
        stream.write_all(request).await.expect("send a request");
        let mut answer = Answer::default();
        while !answer.is_whole() {
            let read = tokio::time::timeout(ANSWER_BOUND, stream.read(&mut buffer)).await;
            let read = read.expect("an answer in time").expect("read an answer");
            assert!(read > 0, "the connection was closed before the answer");
            answer.add(&buffer[..read]);
        }
    }
}

/// An answer as it comes in.
#[derive(Default)]
struct Answer {
    bytes: Vec<u8>,
    /// The length of head and body, once the head is there.
    whole: Option<usize>,
}

impl Answer {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.whole.is_none()
            && let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n")
        {
            self.whole = Some(end + 4 + self.read_head(end));
        }
    }

    /// Checks the status, and answers the body's length.
    fn read_head(&self, end: usize) -> usize {
        let head = std::str::from_utf8(&self.bytes[..end]).expect("a head in ASCII");
        let shown = || String::from_utf8_lossy(&self.bytes).into_owned();
        assert!(head.starts_with("HTTP/1.1 2"), "not accepted: {}", shown());
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        length.unwrap_or_else(|| panic!("no length: {}", shown()))
    }

    fn is_whole(&self) -> bool {
        self.whole.is_some_and(|whole| self.bytes.len() >= whole)
    }
}
