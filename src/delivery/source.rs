//! Where a worker takes its messages from: the live feed, a stretch of the journal again, or dead
//! letters. The worker's policy is the same for all of them.

use async_trait::async_trait;

use crate::journal::{Offset, ReadError};
use crate::sinks::Message;

/// How much a worker can take.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub messages: usize,
    /// Of bodies. An event always fits where there is room for anything at all.
    pub bytes: usize,
}

impl Room {
    pub fn is_none(self) -> bool {
        self.messages == 0 || self.bytes == 0
    }

    /// What is left once `messages` are taken.
    pub fn without(self, messages: &[Taken]) -> Self {
        let bytes: usize = messages.iter().map(|taken| taken.message.body.len()).sum();
        Self {
            messages: self.messages.saturating_sub(messages.len()),
            bytes: self.bytes.saturating_sub(bytes),
        }
    }
}

/// A message, and where it stands in its source.
#[derive(Debug)]
pub struct Taken {
    pub message: Message,
    /// Ascending; the same for all messages of one event. An offset, or a dead letter's id.
    pub place: u64,
    /// The dead letter that this is another try of; 0: of none.
    pub letter: u64,
}

/// Whether a source has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// There may be.
    More,
    /// Not now: [`Source::wait`] tells when.
    CaughtUp,
    /// Never again.
    Ended,
}

/// A source of messages for one worker, in order.
///
/// The worker tells of each message once it is done with, in any order, by [`Source::settled`], and
/// of the place below which nothing is open by [`Source::done_below`].
#[async_trait]
pub trait Source: Send {
    /// Appends what comes next to `out`, as far as there is room; an event's messages stay
    /// together, so that there may be a few more. Reads from disk at most once: what that brings is
    /// to go out before more is read. `idle`: nothing of this source is under way. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// The journal's. `out` may have got something before.
    async fn take(&mut self, room: Room, idle: bool, out: &mut Vec<Taken>) -> Result<Supply, ReadError>;

    /// Waits until there may be more. Called after [`Supply::CaughtUp`]; cancel safe.
    async fn wait(&self);

    /// Everything below has been taken, or is not for this sink.
    fn at(&self) -> u64;

    /// Whether a relay that stops is to deliver more than what has been taken.
    fn has_more(&self) -> bool;

    /// A message of the event at `place` is done with: `confirmed` by the destination, or else a
    /// durable dead letter.
    fn settled(&mut self, _place: u64, _confirmed: bool) {}

    /// Everything below `place` is done with.
    fn done_below(&mut self, place: u64);

    /// How many events were gone since this was last asked.
    fn take_lost(&mut self) -> u64 {
        0
    }

    /// How many of the sink's events stand from [`Source::at`] on below `offset`. Only what follows
    /// the journal has any.
    ///
    /// # Errors
    /// The journal's.
    async fn count_below(&mut self, _offset: Offset) -> Result<u64, ReadError> {
        Ok(0)
    }

    /// Leaves out what [`Source::count_below`] counts.
    fn skip_to(&mut self, _offset: Offset) {}

    /// The worker has ended: makes durable what has been done.
    async fn close(&mut self) {}
}
