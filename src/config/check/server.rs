//! Checks what the relay itself is: receiver, admin listener, journal.

use std::path::Path;
use std::time::Duration;

use super::Checker;
use crate::config::problem::KeyPath;
use crate::config::shape::{Admin, Journal, Receiver, Tls};
use crate::config::units::{Secret, Size};
use crate::config::{AdminConfig, JournalConfig, ReceiverConfig, TlsConfig};

/// A smaller body than this is an ordinary event: refusing it would stop a registry for good.
const BODY_BYTES_MIN: u64 = 64 << 10;
/// What leaves room above a registry's largest event of 4.3 MB, however it grows.
const BODY_BYTES_ADVISED: u64 = 16 << 20;
/// The largest body: it is held in memory.
const BODY_BYTES_MAX: u64 = 1 << 30;

impl Checker<'_> {
    pub(super) fn receiver(&mut self, shape: Receiver, path: &KeyPath) -> ReceiverConfig {
        self.body_max(&path.key("body_max"), shape.body_max);
        self.secrets(&path.key("tokens"), &shape.tokens);
        for (name, password) in &shape.users {
            let path = path.key("users").key(name);
            if name.is_empty() || name.contains(':') {
                self.error(&path, "a user's name must have a letter and no `:`, which ends it in basic auth");
            }
            if password.expose().is_empty() {
                self.error(&path, "an empty password lets everybody in; give one or take the user out");
            }
        }
        let open = shape.tokens.is_empty() && shape.users.is_empty();
        let guarded = self.is_given(&path.key("tokens")) || self.is_given(&path.key("users"));
        if open
            && !shape.listen.0.ip().is_loopback()
            && shape.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none())
        {
            let text = if guarded {
                "there are no tokens and no users in it, so everybody who reaches the receiver can send events"
            } else {
                "everybody who reaches the receiver can send events; give it `tokens` or `users`"
            };
            self.warn(path, text);
        }
        if shape.connections_max == 0 {
            self.error(&path.key("connections_max"), "must be at least 1");
        }
        ReceiverConfig {
            listen: shape.listen.0,
            paths: self.paths(&path.key("paths"), shape.paths),
            tokens: shape.tokens,
            users: shape.users.into_iter().collect(),
            body_bytes_max: shape.body_max.0,
            header_timeout: self.some_duration(&path.key("header_timeout"), shape.header_timeout),
            body_timeout: self.some_duration(&path.key("body_timeout"), shape.body_timeout),
            connections_max: shape.connections_max,
            tls: shape.tls.map(|tls| self.tls(tls, &path.key("tls"))),
        }
    }

    fn body_max(&mut self, path: &KeyPath, size: Size) {
        if size.0 < BODY_BYTES_MIN {
            let least = Size(BODY_BYTES_MIN);
            self.error(path, format!("{size} would refuse ordinary events; the least is {least}"));
        } else if size.0 > BODY_BYTES_MAX {
            let most = Size(BODY_BYTES_MAX);
            self.error(path, format!("{size} is too much to hold in memory; the most is {most}"));
        } else if size.0 < BODY_BYTES_ADVISED {
            let advised = Size(BODY_BYTES_ADVISED);
            self.warn(
                path,
                format!(
                    "a registry's event can have 4.3 MB, and one that is refused holds up all behind it; \
                     {advised} is advised"
                ),
            );
        }
    }

    fn secrets(&mut self, list: &KeyPath, secrets: &[Secret]) {
        for (index, secret) in self.kept(list).into_iter().zip(secrets) {
            let token = secret.expose();
            if token.is_empty() || token.contains(|c: char| !c.is_ascii_graphic()) {
                let text = "a token must have characters, and only those that a header can: no spaces, \
                            nothing outside ASCII";
                self.error(&list.index(index), text);
            }
        }
    }

    /// Paths without their trailing slashes, which the receiver takes or leaves.
    fn paths(&mut self, list: &KeyPath, paths: Vec<String>) -> Vec<String> {
        for (index, path) in self.kept(list).into_iter().zip(&paths) {
            if !path.starts_with('/') || path.contains(|c: char| !c.is_ascii_graphic() || "?#%".contains(c)) {
                let text = "must be a path like /registry/events, without `?`, `#`, `%` and spaces";
                self.error(&list.index(index), text);
            }
        }
        paths.into_iter().map(|path| path.trim_end_matches('/').to_owned()).collect()
    }

    fn tls(&mut self, shape: Tls, path: &KeyPath) -> TlsConfig {
        self.pem(&path.key("cert"), &shape.cert, "CERTIFICATE");
        self.pem(&path.key("key"), &shape.key, "PRIVATE KEY");
        if let Some(client_ca) = &shape.client_ca {
            self.pem(&path.key("client_ca"), client_ca, "CERTIFICATE");
        }
        TlsConfig { cert: shape.cert, key: shape.key, client_ca: shape.client_ca }
    }

    /// Whether a file is there and is what it should be, before anything is bound.
    fn pem(&mut self, path: &KeyPath, file: &Path, what: &str) {
        match (self.around.read)(file) {
            Err(error) => self.error(path, format!("cannot read `{}`: {error}", file.display())),
            Ok(text) if !text.contains(&format!("{what}-----")) => {
                self.error(path, format!("`{}` holds no PEM {}", file.display(), what.to_lowercase()));
            }
            Ok(_) => {}
        }
    }

    pub(super) fn admin(
        &mut self,
        shape: Admin,
        receiver: &ReceiverConfig,
        path: &KeyPath,
    ) -> Option<AdminConfig> {
        self.secrets(&path.key("tokens"), &shape.tokens);
        if shape.disabled {
            return None;
        }
        let listen = shape.listen.0;
        if listen == receiver.listen && listen.port() != 0 {
            self.error(&path.key("listen"), "the receiver has this address; give the two different ports");
        }
        if shape.tokens.is_empty() && !listen.ip().is_loopback() {
            self.warn(
                path,
                "everybody who reaches the admin listener can read every event; give it `tokens`",
            );
        }
        Some(AdminConfig { listen, tokens: shape.tokens })
    }

    /// The journal; deduplication and quarantine are the caller's to fill in.
    pub(super) fn journal(&mut self, shape: Journal, body_bytes_max: u64, path: &KeyPath) -> JournalConfig {
        let Journal { max_size, segment_size, .. } = shape;
        self.disk_size(&path.key("segment_size"), segment_size);
        // Room for the segment written to, a spare one, and those that are read from; and for a
        // few bodies, for which a segment is made larger.
        let least = segment_size.0.max(body_bytes_max).saturating_mul(4);
        if max_size.0 < least {
            let text = format!(
                "must be at least four times `segment_size` and `receiver.body_max`: {}",
                Size(least)
            );
            self.error(&path.key("max_size"), text);
        }
        if shape.path.as_os_str().is_empty() {
            self.error(&path.key("path"), "is empty; name a folder like ./relay-data");
        }
        JournalConfig {
            path: shape.path,
            bytes_max: max_size.0,
            retention: shape.retention.duration,
            segment_bytes: segment_size.0,
            deduplicate: Duration::ZERO,
            quarantine_bytes_max: 0,
            drain_timeout: self.some_duration(&path.key("drain_timeout"), shape.drain_timeout),
        }
    }
}
