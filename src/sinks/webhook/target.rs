//! Where requests go, and what is the same in all of them: made once, not once an event.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use hyper::{Method, Request, Uri};
use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use url::{Position, Url};

use super::WebhookOptions;
use super::queue::Content;
use super::tls;
use crate::sinks::{Fault, Message};

const RELAY_ID: HeaderName = HeaderName::from_static("relay-id");

/// An endpoint, checked.
pub struct Target {
    /// What texts call it: holds no secret.
    pub name: String,
    pub host: String,
    pub port: u16,
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
    path_and_query: Uri,
    /// What every request has, whatever its message.
    headers: HeaderMap,
}

impl Target {
    /// Reads the TLS files.
    ///
    /// # Errors
    /// `Refused` when the address or a file cannot be used.
    pub fn new(options: &WebhookOptions) -> Result<Self, Fault> {
        let refused = |what: &str| Fault::refused(format!("{}: {what}", options.url));
        let url = options.url.parsed().ok_or_else(|| Fault::refused("not an address"))?;
        // Within a URL an IPv6 address stands in brackets.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        Ok(Self {
            name: options.url.to_string(),
            port: url.port_or_known_default().unwrap_or(80),
            tls: tls(options, &url, &host)?,
            host,
            path_and_query: url[Position::BeforePath..Position::AfterQuery]
                .parse()
                .map_err(|_| refused("HTTP does not allow its path or query"))?,
            headers: headers(&url).ok_or_else(|| refused("HTTP does not allow its host"))?,
        })
    }

    /// `head` is [`Heads::of`] the message, or of the first of several.
    pub fn request(&self, content: Content) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(content.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path_and_query.clone();
        let mut headers = HeaderMap::clone(&content.head);
        match content.id {
            Some(id) => headers.insert(RELAY_ID, id),
            None => headers.remove(RELAY_ID),
        };
        *request.headers_mut() = headers;
        request
    }
}

/// Files that are named are read without https too: whoever names them wants to know of what is wrong.
fn tls(
    options: &WebhookOptions,
    url: &Url,
    host: &str,
) -> Result<Option<(TlsConnector, ServerName<'static>)>, Fault> {
    let is_wanted = url.scheme() == "https";
    if !is_wanted && options.tls.is_none() {
        return Ok(None);
    }
    let connector = tls::connector(options)?;
    let name = ServerName::try_from(host.to_owned());
    let name =
        name.map_err(|_| Fault::refused(format!("{}: no certificate has such a name", options.url)))?;
    Ok(is_wanted.then_some((connector, name)))
}

fn headers(url: &Url) -> Option<HeaderMap> {
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let mut headers = HeaderMap::from_iter([
        (HOST, HeaderValue::from_str(host).ok()?),
        (USER_AGENT, HeaderValue::from_static(concat!("relay/", env!("CARGO_PKG_VERSION")))),
        (ACCEPT, HeaderValue::from_static("*/*")),
    ]);
    if !url.username().is_empty() || url.password().is_some() {
        let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let password = decoded(url.password().unwrap_or_default());
        let credentials = STANDARD.encode([decoded(url.username()), b":".to_vec(), password].concat());
        let mut value = HeaderValue::from_str(&format!("Basic {credentials}")).ok()?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Some(headers)
}

/// The headers of messages, but for their ids: nearly always those of the message before, and then
/// not made again.
#[derive(Default)]
pub struct Heads {
    last: Option<Head>,
}

struct Head {
    content_type: &'static str,
    given: Vec<(Cow<'static, str>, String)>,
    headers: Arc<HeaderMap>,
}

impl Heads {
    /// # Errors
    /// `Refused` when HTTP does not allow a configured header.
    pub fn of(&mut self, message: &Message, target: &Target) -> Result<Arc<HeaderMap>, Fault> {
        if let Some(last) = &self.last
            && last.content_type == message.content_type
            && last.given == message.headers
        {
            return Ok(Arc::clone(&last.headers));
        }
        let headers = Arc::new(head(message, target)?);
        self.last = Some(Head {
            content_type: message.content_type,
            given: message.headers.clone(),
            headers: Arc::clone(&headers),
        });
        Ok(headers)
    }
}

/// What is configured takes the place of what is not; so does a content type that of the format.
fn head(message: &Message, target: &Target) -> Result<HeaderMap, Fault> {
    let mut headers = target.headers.clone();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(message.content_type));
    for (name, value) in &message.headers {
        let refused = || Fault::refused(format!("header `{name}`: HTTP does not allow its name or value"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|_| refused())?);
    }
    // Its place: the map of a request does not grow for it.
    headers.insert(RELAY_ID, HeaderValue::from_static(""));
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        let options = serde_yaml::from_str(&format!("{{url: '{url}'}}")).expect(url);
        Target::new(&options).expect(url)
    }

    fn text(target: &Target, name: HeaderName) -> Option<&str> {
        target.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    #[test]
    fn addresses() {
        for (url, host, port, authority, path) in [
            ("http://a", "a", 80, "a", "/"),
            ("http://a:80/b", "a", 80, "a", "/b"),
            ("http://a:8080/b c/d?e=f g#h", "a", 8080, "a:8080", "/b%20c/d?e=f%20g"),
            ("https://a/b?", "a", 443, "a", "/b?"),
            ("https://a:443/", "a", 443, "a", "/"),
            ("http://[::1]/b", "::1", 80, "[::1]", "/b"),
            ("http://u:p@[::1]:81/b", "::1", 81, "[::1]:81", "/b"),
            ("http://bücher.example/ü", "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/%C3%BC"),
        ] {
            let target = target(url);
            assert_eq!((target.host.as_str(), target.port), (host, port), "{url}");
            assert_eq!(text(&target, HOST), Some(authority), "{url}");
            assert_eq!(target.path_and_query.to_string(), path, "{url}");
            assert_eq!(target.tls.is_some(), url.starts_with("https"), "{url}");
        }
    }

    #[test]
    fn credentials() {
        for (url, expected) in [
            ("http://a/b", None),
            ("http://@a/b", None),
            ("http://u:p@a/b", Some("u:p")),
            ("http://u@a/b", Some("u:")),
            ("http://:p@a/b", Some(":p")),
            ("http://us%3Aer:p%40%C3%BC@a/b", Some("us:er:p@ü")),
        ] {
            let expected = expected.map(|text| format!("Basic {}", STANDARD.encode(text)));
            assert_eq!(text(&target(url), AUTHORIZATION), expected.as_deref(), "{url}");
        }
    }
}
