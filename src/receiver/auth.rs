//! Who may post: bearer tokens and basic users, any number of each.
//!
//! A registry can send static headers and nothing else (`notifications.endpoints[].headers`), so
//! these two are all there is, beside a client certificate at a proxy's or in [`super::tls`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use siphasher::sip128::SipHasher24;
use subtle::{Choice, ConstantTimeEq as _};
use warp::http::HeaderValue;

use crate::config::Secret;

/// A keyed 128-bit hash of a scheme and its credentials.
type Tag = [u8; 16];

const BEARER: u8 = 0;
const BASIC: u8 = 1;

/// The credentials that are accepted, kept as tags only.
///
/// What a request shows is hashed under a key that is drawn at each start, and the tag is compared
/// with every accepted one in constant time. So neither the length of a secret, nor how much of it
/// was right, nor which of several it was, shows in the time of an answer; and a right tag for wrong
/// credentials has a chance of 2⁻¹²⁸ per try.
pub struct Auth {
    hasher: SipHasher24,
    accepted: Vec<Tag>,
    challenges: Vec<HeaderValue>,
}

impl Auth {
    pub fn new(tokens: &[Secret], users: &[(String, Secret)]) -> Self {
        let hasher = SipHasher24::new_with_key(uuid::Uuid::new_v4().as_bytes());
        let bearer = tokens.iter().map(|token| tag(&hasher, BEARER, token.expose().as_bytes()));
        let basic = users
            .iter()
            .map(|(name, password)| tag(&hasher, BASIC, format!("{name}:{}", password.expose()).as_bytes()));
        let accepted = bearer.chain(basic).collect();
        let mut challenges = Vec::new();
        if !tokens.is_empty() {
            challenges.push(HeaderValue::from_static("Bearer realm=\"relay\""));
        }
        if !users.is_empty() {
            challenges.push(HeaderValue::from_static("Basic realm=\"relay\", charset=\"UTF-8\""));
        }
        Self { hasher, accepted, challenges }
    }

    /// Whether nobody has to show anything.
    pub fn is_open(&self) -> bool {
        self.accepted.is_empty()
    }

    /// What a 401 asks for: one `WWW-Authenticate` line for each scheme that is configured.
    pub fn challenges(&self) -> &[HeaderValue] {
        &self.challenges
    }

    /// Whether a request with this `Authorization` header may post.
    pub fn admits(&self, authorization: Option<&HeaderValue>) -> bool {
        if self.is_open() {
            return true;
        }
        let Some(shown) = authorization.and_then(|value| self.shown(value.as_bytes())) else {
            return false;
        };
        let none = Choice::from(0);
        self.accepted.iter().fold(none, |found, accepted| found | accepted.ct_eq(&shown)).into()
    }

    /// The tag of what a header shows; `None` when it is of neither scheme.
    fn shown(&self, header: &[u8]) -> Option<Tag> {
        let space = header.iter().position(|&byte| byte == b' ')?;
        let (scheme, credentials) = (&header[..space], header[space..].trim_ascii());
        if scheme.eq_ignore_ascii_case(b"Bearer") {
            Some(tag(&self.hasher, BEARER, credentials))
        } else if scheme.eq_ignore_ascii_case(b"Basic") {
            Some(tag(&self.hasher, BASIC, &STANDARD.decode(credentials).ok()?))
        } else {
            None
        }
    }
}

fn tag(hasher: &SipHasher24, scheme: u8, credentials: &[u8]) -> Tag {
    use siphasher::sip128::Hasher128 as _;
    use std::hash::Hasher as _;
    let mut hasher = *hasher;
    hasher.write_u8(scheme);
    hasher.write(credentials);
    hasher.finish128().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_what_is_configured_and_nothing_else() {
        let auth = Auth::new(
            &[Secret::new("alpha"), Secret::new("beta")],
            &[("ci".to_owned(), Secret::new("p:w")), ("ops".to_owned(), Secret::new(""))],
        );
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let cases = [
            ("Bearer alpha".to_owned(), true),
            ("bearer  beta".to_owned(), true),
            ("BEARER beta ".to_owned(), true),
            ("Bearer".to_owned(), false),
            ("Bearer ".to_owned(), false),
            ("Bearer alph".to_owned(), false),
            ("Bearer alpha beta".to_owned(), false),
            ("Bearer Alpha".to_owned(), false),
            (basic("ci:p:w"), true),
            (basic("ops:"), true),
            (basic("ci:p"), false),
            (basic("ci"), false),
            (basic("alpha"), false),
            // A basic pair is not a token, nor the other way round.
            ("Bearer ci:p:w".to_owned(), false),
            ("Basic alpha".to_owned(), false),
            ("Basic %%%".to_owned(), false),
            ("Digest alpha".to_owned(), false),
            (String::new(), false),
        ];
        for (header, admitted) in cases {
            let value = HeaderValue::from_str(&header).expect(&header);
            assert_eq!(auth.admits(Some(&value)), admitted, "{header}");
        }
        assert!(!auth.admits(None));
        assert_eq!(auth.challenges().len(), 2);
    }

    #[test]
    fn open_when_nothing_is_configured() {
        let auth = Auth::new(&[], &[]);
        assert!(auth.is_open() && auth.admits(None));
        assert!(auth.admits(Some(&HeaderValue::from_static("Bearer anything"))));
    }
}
