//! From the journal to the sinks: one worker per sink, with a cursor and a breaker of its own.
//!
//! [`feed`] routes live events once for all sinks, [`worker`] brings one sink's events to it,
//! [`breaker`] says when to try again, [`queue`] holds what is on its way, [`dead_letters`] keeps
//! what a destination will never take, and [`status`] is what all that looks like from outside.

mod breaker;
mod dead_letters;
mod feed;
mod queue;
mod status;
mod worker;

pub use breaker::Breaker;
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
pub use feed::{Feed, FeedReader};
pub use status::{BreakerState, LastError, SinkSnapshot, SinkStatus};
pub use worker::{Stop, Surroundings, Worker};
