//! The endpoint that registries post to.
//!
//! It owes a registry three things. An answer that is soon: a registry sends one event at a time and
//! waits, so the time of an answer is its rate. Never a refusal for content: a registry retries a
//! refused event for ever, with everything behind it. And 202 only for what is durable. So a request
//! is authenticated, its body read under a cap (`body`), and handed to the [`Intake`], which puts
//! it into the journal, or into the quarantine when it cannot be read.
//!
//! Routing is warp's (`routes`); the accept loop is ours ([`Receiver::serve`]), since warp 0.4 has
//! no limit on a header's time, no bound on connections, no TLS and no deadline on its shutdown.

mod listen;
mod threads;
mod tls;
mod routes;
mod auth;
mod body;
mod intake;
mod instances;
mod answer;

pub use crate::http::Drained;
pub use intake::{Intake, Outcome, Refusal, Replayed};
pub use listen::{BindError, Receiver};
pub use tls::TlsError;

use crate::journal::local::now;
