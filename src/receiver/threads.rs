//! The receiver's threads: each has a runtime of its own, with its own poll for sockets.
//!
//! A registry waits for each answer, so the way from the journal's thread back to the socket counts.
//! Here the journal wakes the one thread that holds the connection. In a runtime of several threads
//! it wakes whichever polls the sockets, which hands the work to another, which looks for more.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// One thread takes some 80,000 events a second (docs/performance.md); more are for TLS handshakes.
const THREADS_MAX: usize = 8;

/// So many more connections may the accepting thread have than another: handing one over costs a
/// wake-up, which a lone sender should not pay.
const AHEAD_MAX: usize = 8;

/// Half of the machine's cores: the journal and the sinks need the rest.
fn count() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).clamp(1, THREADS_MAX)
}

/// The threads. They end with the value, and what still runs on them is dropped.
pub struct Threads {
    /// The one that accepts, and serves what it does not hand over.
    first: Thread,
    others: Vec<Thread>,
}

/// A thread with a runtime of its own.
struct Thread {
    runtime: Handle,
    /// Connections that are served here.
    open: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

/// Counts a connection for as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn on(thread: &Thread) -> Self {
        thread.open.fetch_add(1, Relaxed);
        Self(Arc::clone(&thread.open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Thread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("receiver".into()).spawn(move || {
            let _ = runtime.block_on(stopped); // an error: the value is gone
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, open: Arc::default(), _stop: stop })
    }
}

impl Threads {
    /// As many as suit the machine.
    ///
    /// # Errors
    /// The operating system's: no thread, or no poll.
    pub fn start() -> io::Result<Self> {
        Self::of(count())
    }

    fn of(count: usize) -> io::Result<Self> {
        let others = (1..count).map(|_| Thread::start()).collect::<io::Result<_>>()?;
        Ok(Self { first: Thread::start()?, others })
    }

    /// Where connections are to be accepted.
    pub fn first(&self) -> &Handle {
        &self.first.runtime
    }

    /// Serves a connection by `serve`, where it was accepted or on a thread that has clearly fewer, and
    /// waits for its end.
    pub async fn serve<F>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(thread) = self.idler() else {
            let _open = Open::on(&self.first);
            return serve(stream).await;
        };
        let open = Open::on(thread);
        let moved = stream.into_std().map(|stream| {
            thread.runtime.spawn(async move {
                let _open = open;
                match TcpStream::from_std(stream) {
                    Ok(stream) => serve(stream).await,
                    Err(error) => tracing::warn!(%peer, %error, "a connection cannot be served"),
                }
            })
        });
        match moved {
            Ok(served) => {
                if let Err(error) = served.await {
                    tracing::error!(%peer, %error, "a connection's task has panicked");
                }
            }
            Err(error) => tracing::warn!(%peer, %error, "a connection cannot be served"),
        }
    }

    /// The thread with the fewest connections, when those are clearly fewer than the first one's.
    fn idler(&self) -> Option<&Thread> {
        let open = |thread: &Thread| thread.open.load(Relaxed);
        let idlest = self.others.iter().min_by_key(|thread| open(thread))?;
        (open(idlest) + AHEAD_MAX <= open(&self.first)).then_some(idlest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;

    const BOUND: Duration = Duration::from_secs(20);

    /// Answers with the thread that it runs on.
    async fn tell_thread(mut stream: TcpStream) {
        let thread = format!("{:?}\n", std::thread::current().id());
        stream.write_all(thread.as_bytes()).await.expect("an answer");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("until the client closes");
    }

    async fn line(client: &mut TcpStream) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(timeout(BOUND, client.read_u8()).await.expect("in time").expect("a line"));
        }
        String::from_utf8_lossy(&line).into_owned()
    }

    #[tokio::test]
    async fn only_a_crowd_is_shared() {
        let threads = Arc::new(Threads::of(3).expect("threads"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("bound");
        let (mut clients, mut served, mut on) = (Vec::new(), JoinSet::new(), BTreeMap::new());
        for _ in 0..4 * AHEAD_MAX {
            let mut client = TcpStream::connect(addr).await.expect("connect");
            let (stream, peer) = listener.accept().await.expect("accept");
            let threads = Arc::clone(&threads);
            served.spawn(async move { threads.serve(stream, peer, tell_thread).await });
            *on.entry(line(&mut client).await).or_insert(0) += 1;
            clients.push(client);
            if clients.len() <= AHEAD_MAX {
                assert_eq!(on.len(), 1, "a few are not worth it");
            }
        }
        let counts: Vec<usize> = on.into_values().collect();
        assert_eq!(counts.len(), 3, "{counts:?}");
        assert!(counts.iter().all(|&count| count >= AHEAD_MAX), "{counts:?}");
        drop(clients);
        timeout(BOUND, served.join_all()).await.expect("all end");
        let all = std::iter::once(&threads.first).chain(&threads.others);
        assert_eq!(all.map(|thread| thread.open.load(Relaxed)).sum::<usize>(), 0);
    }
}
