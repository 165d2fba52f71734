//! From the journal to the sinks: one worker per sink, with a cursor and a breaker of its own.
//!
//! [`feed`] routes live events once for all sinks, and [`live`] is one sink's place in it; a
//! [`worker`] brings what such a [`source`] gives to a sink; [`breaker`] says when to try again,
//! [`queue`] holds what is on its way, [`dead_letters`] keeps what a destination will never take,
//! and [`status`] is what all that looks like from outside.

mod breaker;
mod dead_letters;
mod feed;
mod live;
mod queue;
mod source;
mod status;
mod worker;

pub use breaker::Breaker;
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
pub use feed::{Feed, FeedReader};
pub use live::Live;
pub use source::{Room, Source, Supply, Taken};
pub use status::{BreakerState, LastError, SinkSnapshot, SinkStatus};
pub use worker::{Stop, Surroundings, Worker};
