//! From the journal to the sinks: one worker per sink, with a cursor and a breaker of its own.
//!
//! [`feed`] routes live events once for all sinks, and [`live`] is one sink's place in it. A
//! [`worker`] brings what such a [`source`] gives to a sink: [`breaker`] says when to try again,
//! [`queue`] holds what is on its way, [`dead_letters`] keeps what a destination will never take,
//! [`backlog`] gives up what a sink is too far behind with and [`gaps`] notes it, and [`status`] is
//! what all that looks like from outside. Other sources are [`replay`]s and [`copies`] of dead
//! letters.

mod backlog;
mod breaker;
mod copies;
mod dead_letters;
mod feed;
mod gaps;
mod lines;
mod live;
mod queue;
mod replay;
mod source;
mod status;
mod worker;

pub use backlog::{Backlog, watch_holder};
pub use breaker::Breaker;
pub use copies::Copies;
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters, LetterFilter};
pub use feed::{Feed, FeedReader};
pub use gaps::{Gap, Gaps};
pub use live::Live;
pub use replay::{
    JournalReplay, RUNNING_MAX, ReplayKind, ReplayRefused, ReplaySnapshot, ReplayState, Replays,
};
pub use source::{Room, Source, Supply, Taken};
pub use status::{BreakerState, LastError, SinkSnapshot, SinkStatus};
pub use worker::{Stop, Surroundings, Worker};
