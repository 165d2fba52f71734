//! Where a client of the stream begins, or a replay.

use std::time::Duration;

use crate::config::Time;
use crate::journal::{Journal, Micros, Offset};

/// Where to begin, as a client says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With what comes next.
    Head,
    /// With the oldest event there is.
    Beginning,
    /// With this offset, or the oldest there is if that is greater.
    At(Offset),
    /// After this offset, whatever was lost since.
    After(Offset),
    /// With what arrived at this time or later.
    Since(Micros),
    /// With what arrived so long ago or later.
    Ago(Duration),
}

impl Start {
    /// Reads a `Last-Event-ID`.
    pub(super) fn after(id: &str) -> Result<Self, String> {
        let id = id.trim();
        // A browser sends an empty one when it has seen none.
        if id.is_empty() {
            return Ok(Self::Head);
        }
        id.parse().map(Self::After).map_err(|_| format!("`{id}` is no id of this stream; ids are offsets"))
    }

    /// Reads a `from`: `head`, `beginning`, an offset, an RFC 3339 time or an age.
    pub(super) fn parse(from: &str) -> Result<Self, String> {
        match from {
            "head" => return Ok(Self::Head),
            "beginning" => return Ok(Self::Beginning),
            _ => {}
        }
        if let Ok(offset) = from.parse() {
            return Ok(Self::At(offset));
        }
        if let Ok(time) = from.parse::<jiff::Timestamp>() {
            return Ok(Self::Since(time.as_microsecond()));
        }
        Time::parse(from).map(|age| Self::Ago(age.duration)).map_err(|_| {
            format!("`{from}` is no start; give head, beginning, an offset, a time like 2026-01-31T12:00:00Z, or an age like 10m")
        })
    }

    /// The offset to read from first.
    pub(super) async fn resolve(self, journal: &dyn Journal, now: Micros) -> Offset {
        let (first, head) = (journal.stats().first, journal.head());
        match self {
            Self::Head => head,
            Self::Beginning => first.min(head),
            Self::At(offset) => offset.clamp(first.min(head), head),
            // Beyond the head: the client knew a journal that was since begun anew, of which it
            // has seen nothing.
            Self::After(id) if id >= head => first.min(head),
            Self::After(id) => id + 1,
            Self::Since(at) => journal.seek(at).await,
            Self::Ago(age) => {
                let age = Micros::try_from(age.as_micros()).unwrap_or(Micros::MAX);
                journal.seek(now.saturating_sub(age)).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        for (text, expected) in [
            ("head", Start::Head),
            ("beginning", Start::Beginning),
            ("42", Start::At(42)),
            ("1970-01-01T00:00:01Z", Start::Since(1_000_000)),
            ("1970-01-01T00:01Z", Start::Since(60_000_000)),
            ("1970-01-01T01:00:01+01:00", Start::Since(1_000_000)),
            ("10m", Start::Ago(Duration::from_secs(600))),
        ] {
            assert_eq!(Start::parse(text), Ok(expected));
        }
        for odd in ["", "tail", "-1", "2026-13-01T00:00:00Z"] {
            assert!(Start::parse(odd).is_err(), "{odd}");
        }
        assert_eq!(Start::after(" 7 "), Ok(Start::After(7)));
        assert_eq!(Start::after(""), Ok(Start::Head));
        assert!(Start::after("x").is_err());
    }
}
