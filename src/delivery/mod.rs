//! From the journal to the sinks: one worker per sink, with a cursor and a breaker of its own.

mod status;

pub use status::{BreakerState, LastError, SinkSnapshot, SinkStatus};
