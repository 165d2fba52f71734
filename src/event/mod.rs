//! An event of a registry: its own bytes, and what routing needs of them.
//!
//! [`Envelope::parse`] splits a request's body into events without copying it. Each [`Event`] is a
//! slice of the body plus a small table of where its fields stand in that slice, so that neither
//! workers nor sinks parse JSON again, and what is forwarded is what came, byte for byte.

mod codec;
mod compact;
mod parse;
mod shapes;

use bytes::Bytes;

pub use codec::CodecError;
pub use compact::compact;
pub use parse::{Envelope, EnvelopeError};

/// A field that is derived from an event's JSON on arrival.
///
/// The discriminant is the field's place in the table that the journal stores: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Field {
    Id,
    Timestamp,
    Action,
    MediaType,
    Digest,
    Repository,
    FromRepository,
    Tag,
    Url,
    RequestId,
    Method,
    Actor,
    SourceAddr,
    SourceInstance,
}

/// How many fields there are.
pub(crate) const FIELDS: usize = 14;

/// Where a field's text stands: in `raw`, or in `extra` when JSON escapes had to be undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first byte's place; the highest bit says that it is one in `extra`.
    start: u32,
    len: u32,
}

const IN_EXTRA: u32 = 1 << 31;

impl Span {
    /// Both below 2^31, as an event's bytes are.
    fn in_raw(start: usize, len: usize) -> Self {
        Self { start: start as u32, len: len as u32 }
    }

    fn in_extra(start: usize, len: usize) -> Self {
        Self { start: start as u32 | IN_EXTRA, len: len as u32 }
    }

    fn len(self) -> usize {
        self.len as usize
    }

    fn is_in_extra(self) -> bool {
        self.start & IN_EXTRA != 0
    }

    /// The text, unless the bytes end before it does.
    fn of<'b>(self, raw: &'b [u8], extra: &'b [u8]) -> Option<&'b [u8]> {
        let start = (self.start & !IN_EXTRA) as usize;
        let source = if self.is_in_extra() { extra } else { raw };
        source.get(start..start + self.len())
    }
}

/// What an event is about. Derived, since no registry says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An image manifest or an index of them.
    Manifest,
    /// A layer, a configuration, any other blob.
    Blob,
    /// A tag alone: its deletion.
    Tag,
    /// A whole repository: its deletion or renaming.
    Repository,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Manifest, Kind::Blob, Kind::Tag, Kind::Repository];

    /// The word used in configurations, templates and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Manifest => "manifest",
            Kind::Blob => "blob",
            Kind::Tag => "tag",
            Kind::Repository => "repository",
        }
    }
}

/// One event, as a registry sent it. Cloning is cheap: the bytes are shared.
///
/// Every accessor answers `""` for a field that is absent: a registry's `""` and an absent field
/// mean the same (`omitempty` in distribution's `notifications/event.go`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    raw: Bytes,
    extra: Bytes,
    fields: [Span; FIELDS],
}

impl Event {
    /// The event's own JSON, untouched, with the registry's white space.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The text of a derived field; `""` when absent.
    pub fn field(&self, field: Field) -> &str {
        // Spans are checked where they are made (`parse`, `codec`), so this cannot fail.
        std::str::from_utf8(self.field_bytes(field)).unwrap_or_default()
    }

    /// The same, for who does not care that it is text.
    pub(crate) fn field_bytes(&self, field: Field) -> &[u8] {
        self.fields[field as usize].of(&self.raw, &self.extra).unwrap_or_default()
    }

    pub fn id(&self) -> &str {
        self.field(Field::Id)
    }

    /// `push`, `pull`, `mount`, `delete`, `rename`, or whatever else a registry may say.
    pub fn action(&self) -> &str {
        self.field(Field::Action)
    }

    pub fn repository(&self) -> &str {
        self.field(Field::Repository)
    }

    /// The repository's path without its last part: `team` of `team/app`, `""` of `app`.
    pub fn namespace(&self) -> &str {
        self.repository().rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn tag(&self) -> &str {
        self.field(Field::Tag)
    }

    pub fn digest(&self) -> &str {
        self.field(Field::Digest)
    }

    pub fn media_type(&self) -> &str {
        self.field(Field::MediaType)
    }

    /// The HTTP method of the request that caused the event: a `pull` by `HEAD` is only a check.
    pub fn method(&self) -> &str {
        self.field(Field::Method)
    }

    /// `actor.name`: who did it, where the registry authenticates.
    pub fn actor(&self) -> &str {
        self.field(Field::Actor)
    }

    /// `source.addr`: the registry's own name and port.
    pub fn source(&self) -> &str {
        self.field(Field::SourceAddr)
    }

    /// `source.instanceID`: new at each start of the registry.
    pub fn source_instance(&self) -> &str {
        self.field(Field::SourceInstance)
    }

    /// `timestamp`, RFC 3339, as the registry wrote it.
    pub fn timestamp(&self) -> &str {
        self.field(Field::Timestamp)
    }

    /// What the event is about.
    ///
    /// The media type decides where there is one. A deletion has none: with a tag it is the tag's,
    /// with only a repository the repository's. A deletion by digest says neither manifest nor
    /// blob; it is taken as a manifest's, which is what clients delete (blobs go by garbage
    /// collection, which sends no event).
    pub fn kind(&self) -> Kind {
        let media_type = self.media_type();
        if !media_type.is_empty() {
            return if is_manifest(media_type) { Kind::Manifest } else { Kind::Blob };
        }
        if !self.digest().is_empty() {
            let url = self.field(Field::Url);
            return if url.contains("/blobs/") { Kind::Blob } else { Kind::Manifest };
        }
        if self.tag().is_empty() { Kind::Repository } else { Kind::Tag }
    }

    /// The same event in memory of its own: what it was read with can go.
    pub fn detached(&self) -> Self {
        let mut both = Vec::with_capacity(self.raw.len() + self.extra.len());
        both.extend_from_slice(&self.raw);
        both.extend_from_slice(&self.extra);
        let mut raw = Bytes::from(both);
        let extra = raw.split_off(self.raw.len());
        Self { raw, extra, fields: self.fields }
    }

    /// How much memory the event's bytes take, in bytes, for bounds on queues.
    pub fn weight(&self) -> usize {
        self.raw.len() + self.extra.len() + size_of::<Self>()
    }
}

/// Whether a media type is a manifest's: Docker's schema 1 and 2, OCI's image manifest and index,
/// and artifact manifests, all of which have `manifest` or `image.index` in their names.
fn is_manifest(media_type: &str) -> bool {
    media_type.contains("manifest") || media_type.contains("image.index")
}

#[cfg(test)]
mod tests;
