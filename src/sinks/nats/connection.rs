//! One connection to NATS, which lives once.
//!
//! `async-nats` repairs connections by itself and then goes on with whatever its queue holds: what
//! stood in the old socket is lost, what came after it is sent, and the order is gone. Here a lost
//! connection ends its client; the worker makes a new one and sends again what was not settled.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use tokio::sync::Notify;

use super::NatsOptions;
use crate::sinks::{Context, Fault};

/// A silent connection is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Nothing listens on port 0: a connection attempt fails at once.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// What the server says beside its answers: `-ERR` lines, which `async-nats` hands over by events.
#[derive(Debug, Default)]
pub struct Notices {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    denied: HashSet<String>,
    last_error: Option<String>,
}

impl Notices {
    /// Waits until there is something new.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes the subjects that we turned out to have no permission to publish to.
    pub fn take_denied(&self) -> HashSet<String> {
        std::mem::take(&mut self.lock().denied)
    }

    /// The last error that was not about publishing to one subject.
    pub fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }

    /// What keeps this connection from being of use, if something does: we may not read our inbox.
    pub fn refusal(&self) -> Option<Fault> {
        self.last_error().filter(|error| error.contains("Permissions Violation")).map(Fault::refused)
    }

    /// Waits until something is refused, before anything of ours was published: whatever it is, the
    /// connection is of no use.
    pub async fn refused(&self) -> Fault {
        loop {
            if let Some(subject) = self.take_denied().into_iter().next() {
                return Fault::refused(format!("no permission to publish to `{subject}`"));
            }
            if let Some(refusal) = self.refusal() {
                return refusal;
            }
            self.changed().await;
        }
    }

    fn note(&self, event: Event) {
        let Event::ServerError(error) = event else { return };
        let mut inner = self.lock();
        match denied_subject(&error) {
            Some(subject) => {
                inner.denied.insert(subject);
            }
            None => inner.last_error = Some(error.to_string()),
        }
        drop(inner);
        self.changed.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The subject of nats-server's `Permissions Violation for Publish to "subject"` (`client.go`,
/// `pubPermissionViolation`).
fn denied_subject(error: &ServerError) -> Option<String> {
    let ServerError::Other(text) = error else { return None };
    let quoted = text.trim_matches('\'').strip_prefix("Permissions Violation for Publish to ")?;
    // Go's `%q`: for what a subject can hold, a JSON string.
    serde_json::from_str(quoted).ok()
}

/// Connects to one of the servers.
pub async fn open(options: &NatsOptions, context: &Context) -> Result<(Client, Arc<Notices>), Fault> {
    let servers: Result<Vec<ServerAddr>, _> = options.servers.0.iter().map(|server| server.parse()).collect();
    let servers = servers.map_err(|_| Fault::refused("not an address of a NATS server"))?;
    let notices = Arc::new(Notices::default());
    let listener = Arc::clone(&notices);
    let client = tls(credentials(options).await?, options)
        .name(options.name.clone().unwrap_or_else(|| format!("relay/{}", context.name)))
        .custom_inbox_prefix(&options.inbox_prefix)
        .connection_timeout(context.timeout)
        .request_timeout(Some(context.timeout))
        .ping_interval(PING_INTERVAL)
        .ignore_discovered_servers()
        .max_reconnects(servers.len())
        .event_callback(move |event| {
            listener.note(event);
            std::future::ready(())
        })
        .connect(servers)
        .await
        .map_err(|error| fault(&error, options))?;
    // From here on there is nowhere to connect to: after `max_reconnects` attempts, which take no
    // time, a lost connection's client ends.
    client.set_server_pool(NOWHERE).await.map_err(Fault::disconnected)?;
    Ok((client, notices))
}

async fn credentials(options: &NatsOptions) -> Result<ConnectOptions, Fault> {
    let connect = ConnectOptions::new();
    if let Some(token) = &options.token {
        return Ok(connect.token(token.expose().to_owned()));
    }
    if let (Some(user), Some(password)) = (&options.user, &options.password) {
        return Ok(connect.user_and_password(user.clone(), password.expose().to_owned()));
    }
    if let Some(seed) = &options.nkey {
        return Ok(connect.nkey(seed.expose().trim().to_owned()));
    }
    if let Some(path) = &options.credentials {
        let read = connect.credentials_file(path).await;
        return read.map_err(|error| Fault::refused(format!("{}: {error}", path.display())));
    }
    Ok(connect)
}

fn tls(mut connect: ConnectOptions, options: &NatsOptions) -> ConnectOptions {
    let Some(tls) = &options.tls else { return connect };
    connect = connect.require_tls(tls.required);
    if tls.first {
        connect = connect.tls_first();
    }
    if let Some(ca) = &tls.ca {
        connect = connect.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        connect = connect.add_client_certificate(cert.clone(), key.clone());
    }
    connect
}

/// What a failed connection means. The client's own text names no credentials.
fn fault(error: &async_nats::ConnectError, options: &NatsOptions) -> Fault {
    use super::super::Options as _;
    let text = format!("{}: {error}", options.target());
    match error.kind() {
        ConnectErrorKind::Authentication
        | ConnectErrorKind::AuthorizationViolation
        | ConnectErrorKind::ServerParse
        | ConnectErrorKind::Tls => Fault::refused(text),
        _ => Fault::disconnected(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_which_subject_was_denied() {
        let denied = |text: &str| denied_subject(&ServerError::Other(text.to_owned()));
        assert_eq!(denied(r#"Permissions Violation for Publish to "a.b""#).as_deref(), Some("a.b"));
        assert_eq!(denied(r#"Permissions Violation for Publish to "a.b"#), None);
        assert_eq!(denied(r#"'Permissions Violation for Publish to "a.\"b"'"#).as_deref(), Some("a.\"b"));
        assert_eq!(denied(r#"Permissions Violation for Subscription to "_INBOX.x""#), None);
        assert_eq!(denied_subject(&ServerError::AuthorizationViolation), None);
    }
}
