//! One connection to the endpoint: HTTP/1.1, one request after the other.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::target::Target;

/// How much of an answer's body is read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub type Post = Request<Full<Bytes>>;

/// What moves bytes. It ends with its connection.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// An open connection, until its peer closes it. Driven by whoever waits for something of it, in the
/// same task: hyper's other way, a task for each connection, costs two wake-ups a request.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    driver: Option<Driver>,
}

impl Connection {
    pub async fn open(to: &Target) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect((to.host.as_str(), to.port)).await?;
        stream.set_nodelay(true)?;
        match &to.tls {
            None => Self::speak(stream).await,
            Some((connector, name)) => Self::speak(connector.connect(name.clone(), stream).await?).await,
        }
    }

    async fn speak<S>(stream: S) -> Result<Self, Box<dyn Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Some(Box::pin(driver)) })
    }

    /// Whether a request can be sent, as far as is known here: the peer may have closed it.
    pub fn is_ready(&mut self) -> bool {
        if !self.sender.is_ready() {
            step(&mut self.driver, &mut quiet());
        }
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Whether the peer has closed it; wakes `cx` when it does.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> bool {
        step(&mut self.driver, cx);
        self.driver.is_none()
    }

    /// Sends a request, and waits for the head of its answer.
    ///
    /// # Errors
    /// Holds the request if nothing of it was written.
    pub async fn exchange(&mut self, request: Post) -> Result<Response<Incoming>, TrySendError<Post>> {
        let answer = self.sender.try_send_request(request);
        drive(&mut self.driver, answer).await
    }

    /// Reads the rest of an answer. False when it is too long or broke off: then the connection
    /// cannot be used again.
    pub async fn drain(&mut self, mut body: Incoming) -> bool {
        let mut read = 0;
        while !body.is_end_stream() {
            match drive(&mut self.driver, body.frame()).await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            }
            if read > ANSWER_BYTES_MAX {
                return false;
            }
        }
        true
    }
}

/// Waits for what a connection brings, and moves the connection's bytes meanwhile.
///
/// The two talk through channels which wake the one that is to go on. Here both are polled whenever
/// either can go on, so all that must wake this task is the socket. Had the channels its waker too,
/// each request would make it run twice more for nothing: hence the quiet ones, and last, before it
/// rests, a step of the connection that leaves the true one with the socket.
async fn drive<T>(driver: &mut Option<Driver>, brought: impl Future<Output = T>) -> T {
    let mut brought = pin!(brought);
    let mut was_woken = false;
    poll_fn(|cx| {
        if was_woken {
            step(driver, &mut quiet());
            if let Poll::Ready(brought) = brought.as_mut().poll(&mut quiet()) {
                return Poll::Ready(brought);
            }
        }
        was_woken = true;
        step(driver, cx);
        brought.as_mut().poll(&mut quiet())
    })
    .await
}

fn step(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
        // What still waits for it hears of its end by this.
        *driver = None;
    }
}

fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
