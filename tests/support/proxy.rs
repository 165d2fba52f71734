//! A TCP proxy on loopback that breaks connections in the ways that networks do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use super::process::free_ports;

/// What happens to the bytes of one direction, from now on, on connections old and new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Nothing is read any more: the sender's buffers fill, and nothing arrives.
    Stall,
    /// Everything is read and thrown away: the sender notices nothing.
    Swallow,
    /// At most this many bytes a second.
    Slow(usize),
    /// Every so-many-th byte has its bits flipped.
    Corrupt(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
    Both,
}

#[derive(Clone, Copy)]
struct Control {
    accept: bool,
    to_server: Mode,
    to_client: Mode,
    /// A connection lives while this is what it was when it began.
    epoch: u64,
}

struct Shared {
    control: watch::Sender<Control>,
    target: String,
    accepted: AtomicUsize,
    open: AtomicUsize,
    to_server_bytes: AtomicU64,
    to_client_bytes: AtomicU64,
    /// Cut once this many bytes in all have gone to the server; `u64::MAX` for never.
    cut_at: AtomicU64,
}

pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own and connects on to `target` (`host:port`).
    pub async fn start(target: &str) -> Self {
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let (control, _) =
            watch::channel(Control { accept: true, to_server: Mode::Pass, to_client: Mode::Pass, epoch: 0 });
        let shared = Arc::new(Shared {
            control,
            target: target.to_owned(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            to_server_bytes: AtomicU64::new(0),
            to_client_bytes: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
        });
        let listener = TcpListener::bind(&address).await.expect("bind the proxy");
        let task = tokio::spawn(accept_loop(address.clone(), listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Everything as it should be: accepts, and passes on in both directions.
    pub fn pass(&self) {
        self.shared.cut_at.store(u64::MAX, Ordering::Relaxed);
        self.shared.control.send_modify(|control| {
            (control.accept, control.to_server, control.to_client) = (true, Mode::Pass, Mode::Pass);
        });
    }

    /// New connections are refused, as when nothing listens; those that are open go on.
    pub fn refuse(&self) {
        self.shared.control.send_modify(|control| control.accept = false);
    }

    /// Every open connection is reset, now. New ones are accepted.
    pub fn cut(&self) {
        self.shared.control.send_modify(|control| control.epoch += 1);
    }

    /// Refuses and cuts: the host is down.
    pub fn down(&self) {
        self.refuse();
        self.cut();
    }

    /// Cuts every connection once `bytes` more have gone to the server; then goes on as before.
    pub fn cut_after(&self, bytes: u64) {
        let sent = self.shared.to_server_bytes.load(Ordering::Relaxed);
        self.shared.cut_at.store(sent + bytes, Ordering::Relaxed);
    }

    pub fn set(&self, direction: Direction, mode: Mode) {
        self.shared.control.send_modify(|control| {
            if direction != Direction::ToClient {
                control.to_server = mode;
            }
            if direction != Direction::ToServer {
                control.to_client = mode;
            }
        });
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Bytes that have gone to the server and to the client.
    pub fn bytes(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.shared.to_server_bytes), load(&self.shared.to_client_bytes))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.down();
    }
}

async fn accept_loop(address: String, first: TcpListener, shared: Arc<Shared>) {
    let mut control = shared.control.subscribe();
    let mut listener = Some(first);
    loop {
        let accept = control.borrow_and_update().accept;
        if !accept {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(&address).await.ok();
            if listener.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        }
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = control.changed() => if changed.is_err() { return },
            accepted = next => if let Ok((client, _)) = accepted {
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connection(client, Arc::clone(&shared)));
            }
        }
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    let mut control = shared.control.subscribe();
    let epoch = control.borrow().epoch;
    let Ok(server) = TcpStream::connect(&shared.target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    // Dropped with unread or unsent bytes, or at a cut, a connection ends in a reset.
    let _ = (client.set_zero_linger(), server.set_zero_linger());
    shared.open.fetch_add(1, Ordering::Relaxed);
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let both = async {
        tokio::join!(
            copy(client_in, server_out, Direction::ToServer, epoch, &shared),
            copy(server_in, client_out, Direction::ToClient, epoch, &shared),
        )
    };
    tokio::select! {
        biased;
        _ = control.wait_for(|control| control.epoch != epoch) => {}
        _ = both => {}
    }
    shared.open.fetch_sub(1, Ordering::Relaxed);
}

/// Copies one direction until its end, under whatever mode is set at the time.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    epoch: u64,
    shared: &Shared,
) {
    let mut control = shared.control.subscribe();
    let counter = match direction {
        Direction::ToServer => &shared.to_server_bytes,
        _ => &shared.to_client_bytes,
    };
    let mut buffer = vec![0u8; 16 * 1024];
    let mut since_flip = 0;
    let mode_of = |control: &Control| match direction {
        Direction::ToServer => control.to_server,
        _ => control.to_client,
    };
    loop {
        let mode = {
            let control = control.borrow_and_update();
            if control.epoch != epoch {
                return;
            }
            mode_of(&control)
        };
        let limit = match mode {
            Mode::Stall => {
                if control.changed().await.is_err() {
                    return;
                } else {
                    continue;
                }
            }
            // A twentieth of a second's worth at a time.
            Mode::Slow(bytes_per_second) => (bytes_per_second / 20).clamp(1, buffer.len()),
            _ => buffer.len(),
        };
        let count = tokio::select! {
            // What was set before a byte was sent holds for that byte.
            biased;
            changed = control.changed() => if changed.is_err() { return } else { continue },
            count = from.read(&mut buffer[..limit]) => match count {
                Ok(count) if count > 0 => count,
                _ => break,
            },
        };
        match mode {
            Mode::Swallow => continue,
            Mode::Slow(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Mode::Corrupt(every) => {
                for byte in &mut buffer[..count] {
                    since_flip += 1;
                    if since_flip >= every.max(1) {
                        *byte = !*byte;
                        since_flip = 0;
                    }
                }
            }
            Mode::Pass | Mode::Stall => {}
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
        let sent = counter.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        if direction == Direction::ToServer && sent >= shared.cut_at.load(Ordering::Relaxed) {
            shared.cut_at.store(u64::MAX, Ordering::Relaxed);
            shared.control.send_modify(|control| control.epoch += 1);
        }
    }
    let _ = to.shutdown().await;
}
