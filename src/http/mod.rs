//! What the two listeners share, the receiver's and the admin's: the accept loop and its end, and
//! how a failure is answered.

mod accept;
mod problem;

pub use accept::{Drained, Listener, Stopping, answer};
pub use problem::Problem;
