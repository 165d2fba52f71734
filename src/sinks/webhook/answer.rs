//! What an endpoint's answer means.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};

use crate::sinks::{Fault, FaultKind, Rejection};

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    /// The endpoint will never take this.
    Rejected(Rejection),
    Fault(Fault),
}

/// Reads an answer from `endpoint`; `reject` are the statuses that mean "never".
///
/// A registry tries everything but 2xx and 3xx again for ever (distribution's
/// `notifications/http.go`). So does this, except that a redirect, which a registry takes for
/// success, is a failure here, and that 413 will not change for the same body.
pub fn verdict(
    endpoint: &str,
    status: StatusCode,
    headers: &HeaderMap,
    reject: &[u16],
    now: SystemTime,
) -> Verdict {
    let text = || format!("{endpoint} answered {status}");
    let fault = |kind| Verdict::Fault(Fault { kind, text: text() });
    let rejected = |code| Verdict::Rejected(Rejection { code, text: text() });
    match status.as_u16() {
        200..=299 => Verdict::Taken,
        code if reject.contains(&code) => rejected("rejected"),
        413 => rejected("too_large"),
        408 | 425 | 429 | 500..=599 => fault(FaultKind::Busy { retry_after: retry_after(headers, now) }),
        // Wrong credentials, a wrong path, a redirect, something that does not know envelopes.
        _ => fault(FaultKind::Refused),
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let left = at.duration_since(jiff::Timestamp::try_from(now).ok()?);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let busy = FaultKind::Busy { retry_after: None };
        for (status, expected) in [
            (200, Ok(None)),
            (202, Ok(None)),
            (204, Ok(None)),
            (301, Err(FaultKind::Refused)),
            (304, Err(FaultKind::Refused)),
            (400, Err(FaultKind::Refused)),
            (401, Err(FaultKind::Refused)),
            (403, Err(FaultKind::Refused)),
            (404, Err(FaultKind::Refused)),
            (408, Err(busy)),
            (413, Ok(Some("too_large"))),
            (422, Ok(Some("rejected"))),
            (425, Err(busy)),
            (429, Err(busy)),
            (500, Err(busy)),
            (503, Err(busy)),
            (599, Err(busy)),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let found = match verdict("http://a/b", status, &HeaderMap::new(), &[422], SystemTime::now()) {
                Verdict::Taken => Ok(None),
                Verdict::Rejected(rejection) => Ok(Some(rejection.code)),
                Verdict::Fault(fault) => Err(fault.kind),
            };
            assert_eq!(found, expected, "{status}");
        }
    }

    #[test]
    fn when_to_come_back() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
        for (text, expected) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Mon, 24 Nov 2025 16:01:00 GMT", Some(60)),
            ("Mon, 24 Nov 2025 15:00:00 GMT", Some(0)),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().expect("a value"))]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
