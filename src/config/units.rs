//! Durations, sizes, addresses and secrets as a configuration writes them.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use super::BacklogMax;

/// A duration with a unit: `500ms`, `5s`, `10m`, `24h`, `1h 30m`.
///
/// A bare number is taken as milliseconds, with [`Time::unitless`] set so that the check can warn:
/// a registry reads it as nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub duration: Duration,
    pub unitless: bool,
}

impl Time {
    pub const fn from_secs(seconds: u64) -> Self {
        Self { duration: Duration::from_secs(seconds), unitless: false }
    }

    pub const fn from_millis(millis: u64) -> Self {
        Self { duration: Duration::from_millis(millis), unitless: false }
    }

    /// Reads `5s`, `1h 30m`, or a bare number of milliseconds.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(millis) = text.parse::<u64>() {
            return Ok(Self { duration: Duration::from_millis(millis), unitless: true });
        }
        // Go writes fractions (`1.5s`), which humantime does not read.
        let parsed = humantime::parse_duration(text).ok().or_else(|| go_duration(text));
        match parsed {
            Some(duration) => Ok(Self { duration, unitless: false }),
            None => Err(format!("`{text}` is not a duration; write it like 500ms, 5s, 10m or 24h")),
        }
    }
}

/// One number with a fraction and one unit, as Go's `time.ParseDuration` takes it.
fn go_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without days, which not everybody reads (Go, so registries), and without blanks, so that a
        // table's cell stays one word.
        let (mut rest, mut any) = (self.duration.as_nanos(), false);
        for (unit, name) in [
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
            (1, "ns"),
        ] {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                (rest, any) = (rest % unit, true);
            }
        }
        if any { Ok(()) } else { f.write_str("0s") }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Scalar("a duration like 500ms, 5s or 24h"))
            .and_then(|text| Time::parse(&text).map_err(D::Error::custom))
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "integer"], "format": "duration"})
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A size in bytes with a unit: `512KiB`, `16MiB`, `10GiB`, `1MB`; a bare number is bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// # Errors
    /// A sentence that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse::<bytesize::ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| format!("`{text}` is not a size; write it like 512KiB, 16MiB or 10GiB"))
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << unit && self.0.is_multiple_of(1 << unit) {
                return write!(f, "{}{name}", self.0 >> unit);
            }
        }
        match self.0 {
            bytes if bytes >= 1_000_000 && bytes.is_multiple_of(1_000_000) => {
                write!(f, "{}MB", bytes / 1_000_000)
            }
            bytes => write!(f, "{bytes}B"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Scalar("a size like 16MiB"))
            .and_then(|text| Size::parse(&text).map_err(D::Error::custom))
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "integer"], "format": "size"})
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BacklogMax {
    /// What ends in `B` is a size, anything else an age.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_str(Scalar("a size like 2GiB or an age like 24h"))?;
        if text.ends_with(['B', 'b']) {
            return Size::parse(&text).map(|size| Self::Bytes(size.0)).map_err(D::Error::custom);
        }
        match Time::parse(&text) {
            Ok(Time { duration, unitless: false }) => Ok(Self::Age(duration)),
            _ => Err(D::Error::custom(format!(
                "`{text}` is neither a size nor an age; write it like 2GiB or 24h"
            ))),
        }
    }
}

impl JsonSchema for BacklogMax {
    fn schema_name() -> Cow<'static, str> {
        "SizeOrDuration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "size or duration"})
    }
}

/// An address to listen on: `127.0.0.1:8081`, `[::]:8080`, `localhost:8080`, or `:8080` for every
/// IPv4 address, as registries write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl Address {
    /// # Errors
    /// A sentence that says what was expected. Names other than `localhost` are not looked up.
    pub fn parse(text: &str) -> Result<Self, String> {
        let full = match text.rsplit_once(':') {
            Some(("", port)) => format!("0.0.0.0:{port}"),
            Some(("localhost", port)) => format!("127.0.0.1:{port}"),
            _ => text.to_owned(),
        };
        full.parse().map(Self).map_err(|_| {
            format!("`{text}` is not an address and port; write it like 0.0.0.0:8080 or [::]:8080")
        })
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Scalar("an address and port like 0.0.0.0:8080"))
            .and_then(|text| Self::parse(&text).map_err(D::Error::custom))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "address"})
    }
}

/// A password, token or key: shown nowhere, not even by `{:?}`.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The secret itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for Secret {
    /// In constant time for secrets of equal length.
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.expose().as_bytes(), other.expose().as_bytes()).into()
    }
}

impl Eq for Secret {}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Scalar("a secret, as a string")).map(Secret::new)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "password"})
    }
}

/// A scalar as its text; never repeats the value in an error, which may be a secret.
pub(super) struct Scalar(pub &'static str);

impl Visitor<'_> for Scalar {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
    fn visit_f64<E>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("500ms", 500), ("5s", 5000), ("1h 30m", 5_400_000), ("1.5s", 1500), ("250", 250)]
        {
            assert_eq!(Time::parse(text).expect(text).duration.as_millis(), millis, "{text}");
        }
        assert!(Time::parse("500").expect("bare").unitless);
        for odd in ["", "s", "5 parsecs", "-1s", "1e400s"] {
            assert!(Time::parse(odd).is_err(), "{odd}");
        }
        for text in ["1h30m", "24h", "1s500ms", "250us", "0s"] {
            assert_eq!(Time::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(Size::parse("16MiB"), Ok(Size::mib(16)));
        assert_eq!(Size::parse("1000"), Ok(Size(1000)));
        for text in ["10GiB", "1000B", "1MB", "16MiB", "0B"] {
            assert_eq!(Size::parse(text).expect(text).to_string(), text);
        }
        assert!(Size::parse("many").is_err());
    }

    #[test]
    fn a_secret_shows_nowhere() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        let error = serde_json::from_str::<Secret>("[\"hunter2\"]").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
