//! A small HTTP client for a relay's admin listener. Plain HTTP, one connection a request: it works
//! whichever features the relay was built with.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use warp::http::header::{AUTHORIZATION, HOST, HeaderName};
use warp::http::uri::Authority;
use warp::http::{Method, Request, Response, StatusCode, Uri};

use super::Failure;
use crate::config::Secret;

/// How long a relay may take to accept a connection, and then to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to do something.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// Which relay to ask.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ClientArgs {
    /// The relay's admin listener
    #[arg(
        long,
        env = "RELAY_ADMIN_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8081",
        value_name = "URL"
    )]
    url: String,

    /// A bearer token, where the relay has `admin.tokens`
    #[arg(long, env = "RELAY_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

/// A client of one relay.
#[derive(Debug)]
pub(super) struct Client {
    authority: Authority,
    token: Option<Secret>,
}

impl Client {
    /// # Errors
    /// [`Failure::Other`]: the URL is none of a listener's.
    pub(super) fn new(args: &ClientArgs) -> Result<Self, Failure> {
        let unfit = |why: &str| Failure::Other(format!("--url {}: {why}", args.url));
        let url: Uri =
            args.url.parse().map_err(|_| unfit("not a URL; write it like http://127.0.0.1:8081"))?;
        if url.scheme_str().is_some_and(|scheme| scheme != "http") {
            return Err(unfit("the admin listener speaks plain http"));
        }
        let authority = url.authority().cloned().ok_or_else(|| unfit("has no host"))?;
        Ok(Self { authority, token: args.token.clone().map(Secret::new) })
    }

    /// The address, for messages.
    pub(super) fn address(&self) -> &str {
        self.authority.as_str()
    }

    /// A `GET` that was answered well.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] when nothing answers, else what the answer says is wrong.
    pub(super) async fn get(
        &self,
        path: &str,
        header: Option<(HeaderName, String)>,
    ) -> Result<Response<Incoming>, Failure> {
        self.request(Method::GET, path, header).await
    }

    /// A `GET` of JSON; the answer's bytes too.
    pub(super) async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<(Bytes, T), Failure> {
        self.json(Method::GET, path).await
    }

    /// Any request that is answered with JSON; the answer's bytes too. What is to be said stands in
    /// `path`'s query.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(Bytes, T), Failure> {
        let body = self.request(method, path, None).await?.into_body().collect().await;
        let broken = |error: String| Failure::Other(format!("{} at {path}: {error}", self.authority));
        let bytes = body.map_err(|error| broken(error.to_string()))?.to_bytes();
        let value = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        Ok((bytes, value))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        header: Option<(HeaderName, String)>,
    ) -> Result<Response<Incoming>, Failure> {
        // What changes something may have much to do before it can answer.
        let limit = if method == Method::GET { ANSWER_TIMEOUT } else { CHANGE_TIMEOUT };
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.authority.as_str());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::Other(format!("cannot ask for {path}: {error}")))?;
        let answer = timeout(limit, self.send(request)).await;
        let answer = answer
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
            .map_err(|why| Failure::Unavailable(format!("no relay answers at {}: {why}", self.authority)))?;
        if answer.status().is_success() { Ok(answer) } else { Err(refused(answer).await) }
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String> {
        let (host, port) = (self.authority.host(), self.authority.port_u16().unwrap_or(80));
        // An IPv6 address stands in brackets in a URL, and without them in a socket's address.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Ends when the answer's body has been read or dropped.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| error.to_string())
    }
}

/// What an answer says that is none.
async fn refused(answer: Response<Incoming>) -> Failure {
    #[derive(serde::Deserialize)]
    struct Problem {
        detail: String,
    }
    let status = answer.status();
    let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let detail = serde_json::from_slice(&body).map(|problem: Problem| problem.detail);
    if status == StatusCode::UNAUTHORIZED {
        return Failure::Other("the relay wants a token: --token, or RELAY_ADMIN_TOKEN".to_owned());
    }
    Failure::Other(detail.unwrap_or_else(|_| format!("answered {status}; is this a relay's admin listener?")))
}

/// A path with a query, put together.
#[derive(Clone, Debug)]
pub(super) struct Query(String);

impl Query {
    pub(super) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn with(mut self, name: &str, value: impl ToString) -> Self {
        let separator = if self.0.contains('?') { '&' } else { '?' };
        self.0 += &format!("{separator}{name}={}", query_value(&value.to_string()));
        self
    }

    /// Each of `values`, in order; for an `Option` too.
    pub(super) fn with_all(self, name: &str, values: impl IntoIterator<Item: ToString>) -> Self {
        values.into_iter().fold(self, |query, value| query.with(name, value))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A value as it may stand in a query.
pub(super) fn query_value(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Result<Client, Failure> {
        Client::new(&ClientArgs { url: url.into(), token: None })
    }

    #[test]
    fn takes_a_url_or_only_an_address() {
        for (url, address) in [
            ("http://127.0.0.1:8081", "127.0.0.1:8081"),
            ("http://[::1]:8081/", "[::1]:8081"),
            ("relay.example:80", "relay.example:80"),
        ] {
            assert_eq!(client(url).expect(url).address(), address);
        }
        for odd in ["https://relay", "/status", "", "a b"] {
            assert!(client(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn queries_are_put_together() {
        let query =
            Query::new("/api").with("sink", "a b").with_all("id", [1, 2]).with_all("code", None::<&str>);
        assert_eq!(query.as_str(), "/api?sink=a%20b&id=1&id=2");
    }

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(query_value("registry.{a,b}&x=**"), "registry.%7Ba%2Cb%7D%26x%3D**");
    }
}
