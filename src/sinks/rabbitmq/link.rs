//! A connection to one broker, with the channel to publish on.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPErrorKind;
use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use lapin::types::FieldTable;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Channel, ChannelState, Connection, ConnectionProperties, ErrorKind, Event};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::options::{RabbitMqOptions, Tls, host_and_port};
use super::verdict::fault;
use crate::sinks::Fault;

/// How long a polite end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How far the reason of an end may be behind the end.
const REASON_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct Link {
    connection: Connection,
    pub channel: Channel,
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    /// Why the connection has ended, if an event has told.
    ended: Option<lapin::Error>,
    pub address: String,
    socket: Socket,
}

impl Link {
    /// Connects to the first host that answers within its share of `timeout`, then declares what the
    /// options say.
    pub async fn open(options: &RabbitMqOptions, timeout: Duration) -> Result<Self, Fault> {
        let addresses =
            options.addresses().map_err(|(key, text)| Fault::refused(format!("{key}: {text}")))?;
        let share = timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = Fault::disconnected("no host to connect to");
        for address in addresses {
            let name = host_and_port(&address);
            let opened = tokio::time::timeout(share, Self::open_one(options, address, share)).await;
            match opened {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(fault)) => last = fault,
                Err(_) => last = Fault::disconnected(format!("{name}: no answer within {share:?}")),
            }
        }
        Err(last)
    }

    async fn open_one(options: &RabbitMqOptions, uri: AMQPUri, timeout: Duration) -> Result<Self, Fault> {
        let address = host_and_port(&uri);
        let socket = Socket::default();
        let connection = dial(options, uri, &socket, timeout).await?;
        let failed = |error| fault(&error, &address);
        let events = Box::pin(connection.events_listener());
        declare(&connection, options).await.map_err(failed)?;
        let channel = open_channel(&connection).await.map_err(failed)?;
        Ok(Self { connection, channel, events, ended: None, address, socket })
    }

    /// A new channel in the place of one that the broker closed, or whose messages were given up.
    ///
    /// # Errors
    /// Why the connection has ended, if it has.
    pub async fn reopen_channel(&mut self) -> lapin::Result<()> {
        match open_channel(&self.connection).await {
            Ok(channel) => self.channel = channel,
            Err(error) => return Err(self.reason(error).await),
        }
        Ok(())
    }

    /// The reason at the root of an error. Whoever asks for something after a connection has ended is told
    /// that it has, and no more; what the broker said comes as an event, which may be a moment behind.
    async fn reason(&mut self, error: lapin::Error) -> lapin::Error {
        let late = matches!(
            error.kind(),
            ErrorKind::InvalidConnectionState(_) | ErrorKind::InvalidChannelState(ChannelState::Error, _)
        );
        if !late {
            return error;
        }
        // It is kept: whoever is told may be dropped before anything came of it, and asks again.
        if self.ended.is_none() {
            let ends = self.events.as_mut().filter_map(async |event| end_of_connection(event));
            let next = async { std::pin::pin!(ends).next().await };
            self.ended = tokio::time::timeout(REASON_TIMEOUT, next).await.ok().flatten();
        }
        self.ended.clone().unwrap_or(error)
    }

    /// Whether the broker has told that it takes nothing now (a memory or disk alarm).
    pub fn blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Ready with the broker's reason when it begins to take nothing.
    pub fn poll_blocked(&mut self, context: &mut Context<'_>) -> Poll<String> {
        while let Poll::Ready(Some(event)) = self.events.as_mut().poll_next(context) {
            if let Event::ConnectionBlocked(reason) = event {
                return Poll::Ready(reason);
            }
            self.ended = end_of_connection(event).or(self.ended.take());
        }
        Poll::Pending
    }

    pub async fn close(self) {
        let closed = self.connection.close(200, "bye".into());
        if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, closed).await, Ok(Ok(()))) {
            tracing::debug!(address = %self.address, "the connection did not end politely");
        }
        drop(self.socket);
    }
}

/// Why a connection has ended; the same event tells why a channel has, which is AMQP's soft errors.
fn end_of_connection(event: Event) -> Option<lapin::Error> {
    let Event::Error(error) = event else { return None };
    let soft = matches!(error.kind(), ErrorKind::ProtocolError(said) if matches!(said.kind(), AMQPErrorKind::Soft(_)));
    (!soft).then_some(error)
}

/// The connection's socket, to end it by force: lapin's thread waits for a silent broker for ever
/// while it connects, and for an answer when a connection is dropped.
#[derive(Default)]
struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(stream) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be closed already, which is as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

async fn dial(
    options: &RabbitMqOptions,
    uri: AMQPUri,
    socket: &Socket,
    timeout: Duration,
) -> Result<Connection, Fault> {
    let address = host_and_port(&uri);
    let failed = |error: lapin::Error| fault(&error, &address);
    let tls = match uri.scheme {
        AMQPScheme::AMQPS => Some(
            tls_connector(options.tls.as_ref())
                .map_err(|text| Fault::refused(format!("{address}: {text}")))?,
        ),
        AMQPScheme::AMQP => None,
    };
    let properties =
        ConnectionProperties::default().with_connection_name(options.connection_name.as_str().into());
    let runtime = lapin::runtime::default_runtime().map_err(failed)?;
    let kept = Arc::clone(&socket.0);
    // Written in place: so the compiler knows the runtime, whose stream lapin has no name for.
    Connection::connector(
        uri,
        runtime,
        async move |uri, runtime| {
            let host = uri.authority.host.as_str();
            let resolved = tokio::net::lookup_host((host, uri.authority.port)).await?;
            let stream = AsyncTcpStream::connect(&runtime, resolved.collect::<Vec<_>>());
            let stream = tokio::time::timeout(timeout, stream).await.map_err(io::Error::from)??;
            if let AsyncTcpStream::Plain(plain) = &stream {
                plain.get_ref().set_nodelay(true)?;
                let copy = plain.get_ref().as_fd().try_clone_to_owned()?;
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy.into());
            }
            match &tls {
                Some(tls) => Ok(stream.into_rustls(tls, host).await?),
                None => Ok(stream),
            }
        },
        properties,
    )
    .await
    .map_err(failed)
}

fn tls_connector(tls: Option<&Tls>) -> Result<RustlsConnector, String> {
    let none = Tls::default();
    let tls = tls.unwrap_or(&none);
    let file = |path: &std::path::Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let certificates = |path: &std::path::Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| file(path, &error))
    };
    let config = match &tls.ca {
        Some(ca) => RustlsConnectorConfig::default().with_parsable_certificates(certificates(ca)?),
        None => RustlsConnectorConfig::new_with_native_certs().map_err(|error| error.to_string())?,
    };
    let connector = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, &error))?;
            config.connector_with_single_cert(certificates(cert)?, key)
        }
        _ => config.connector_with_no_client_auth(),
    };
    connector.map_err(|error| error.to_string())
}

/// On a channel of its own, since the broker closes it at the first thing that is not as declared.
async fn declare(connection: &Connection, options: &RabbitMqOptions) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    let exchange = &options.exchange;
    // The default exchange is always there and cannot be declared.
    if !exchange.name.is_empty() {
        let declare = ExchangeDeclareOptions {
            passive: !exchange.declare,
            durable: exchange.durable,
            ..ExchangeDeclareOptions::default()
        };
        let name = exchange.name.as_str().into();
        channel.exchange_declare(name, exchange.kind(), declare, FieldTable::default()).await?;
    }
    if let Some(queue) = &options.queue {
        let declare = QueueDeclareOptions { durable: queue.durable, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.name.as_str().into(), declare, queue.arguments()).await?;
        for key in &queue.bindings {
            let (queue, exchange) = (queue.name.as_str().into(), exchange.name.as_str().into());
            let (key, bind) = (key.as_str().into(), QueueBindOptions::default());
            channel.queue_bind(queue, exchange, key, bind, FieldTable::default()).await?;
        }
    }
    channel.close(200, "declared".into()).await
}

async fn open_channel(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}
