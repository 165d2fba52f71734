//! What the receiver is measured against: a bare warp handler that makes each body durable and does
//! nothing else. No parsing, no routing, no authentication, no limits.
//!
//! It hands the body to a thread, which writes it to a file that was filled with zeros before, calls
//! `fdatasync`, and only then lets the answer go. Bodies that wait meanwhile share the next write and
//! the next `fdatasync`; a single sender gets one of each for each body. It runs in a process of its
//! own, with the relay's allocator and the relay's kind of runtime.

use std::convert::Infallible;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, oneshot};
use warp::Filter;
use warp::http::StatusCode;

use crate::support::Folder;
use crate::support::process::{Proc, accepts, free_ports};

/// The file's size; the writing begins again at its start.
const FILE_BYTES: u64 = 256 << 20;
/// One write takes at most about this much.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// The first argument that makes the bench's binary this handler.
pub const ARGUMENT: &str = "bare-handler";

type Body = (Bytes, oneshot::Sender<()>);

/// A running handler; it ends with the value.
pub struct Handler {
    pub address: SocketAddr,
    process: Proc,
    _folder: Folder,
}

impl Handler {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub async fn start() -> Self {
        let folder = Folder::new("bare-handler");
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args([ARGUMENT, &address]).arg(folder.join("bodies"));
        let mut process = Proc::spawn(ARGUMENT, command, &folder.join("log"));
        process.ready("accepts connections", Duration::from_secs(60), || accepts(&address)).await;
        Self { address: address.parse().expect("an address"), process, _folder: folder }
    }
}

/// Serves until killed: `bare-handler ADDRESS FILE`.
pub fn serve(arguments: &[String]) -> ! {
    let [address, file] = arguments else { panic!("usage: {ARGUMENT} ADDRESS FILE") };
    let (address, file) = (address.parse().expect("an address"), PathBuf::from(file));
    let file = zeroed(&file);
    let (bodies, queue) = mpsc::channel(4096);
    std::thread::spawn(move || write(&file, queue));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(listen(address, bodies));
    unreachable!("the listener goes on until the process is killed")
}

async fn listen(address: SocketAddr, bodies: mpsc::Sender<Body>) {
    let answer = warp::any().and(warp::body::bytes()).and_then(move |body: Bytes| {
        let bodies = bodies.clone();
        async move {
            let (durable, is_durable) = oneshot::channel();
            bodies.send((body, durable)).await.expect("the writer goes on");
            is_durable.await.expect("written");
            Ok::<_, Infallible>(warp::reply::with_status(Vec::new(), StatusCode::ACCEPTED))
        }
    });
    let service = TowerToHyperService::new(warp::service(answer.boxed()));
    let listener = listener(address);
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new());
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            let _ = connection.await; // the load closes its connections as it likes
        });
    }
}

fn listener(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket.bind(address).expect("bind");
    socket.listen(4096).expect("listen")
}

fn zeroed(path: &Path) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(path).expect("a file");
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at).expect("write zeros");
    }
    file.sync_all().expect("fsync");
    file
}

fn write(file: &File, mut queue: mpsc::Receiver<Body>) {
    let mut out = Out::new(file);
    let mut waiting = Vec::new();
    while let Some((body, durable)) = queue.blocking_recv() {
        out.gather(&body);
        waiting.push(durable);
        while out.buffer.len() < BATCH_BYTES_MAX
            && let Ok((body, durable)) = queue.try_recv()
        {
            out.gather(&body);
            waiting.push(durable);
        }
        out.commit();
        for durable in waiting.drain(..) {
            let _ = durable.send(()); // whoever has gone does not want to know
        }
    }
}

/// The file with what is to be written next.
struct Out<'f> {
    file: &'f File,
    buffer: Vec<u8>,
    at: u64,
}

impl<'f> Out<'f> {
    fn new(file: &'f File) -> Self {
        Self { file, buffer: Vec::new(), at: 0 }
    }

    fn gather(&mut self, body: &[u8]) {
        self.buffer.extend_from_slice(body);
    }

    fn commit(&mut self) {
        if self.at + self.buffer.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&self.buffer, self.at).expect("write");
        self.file.sync_data().expect("fdatasync");
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
    }
}

/// The file alone, without HTTP: each body written and synced by itself.
pub fn file_alone(bodies: &[Vec<u8>]) -> Duration {
    let folder = Folder::new("file-alone");
    let file = zeroed(&folder.join("bodies"));
    let mut out = Out::new(&file);
    let began = Instant::now();
    for body in bodies {
        out.gather(body);
        out.commit();
    }
    began.elapsed()
}
