//! The receiver, over real sockets, with a real journal and a real quarantine behind it.

mod auth;
mod captures;
mod emit;
mod ending;
mod limits;
mod malformed;
mod protocol;
mod refusals;
mod rig;
mod tls;
mod wire;
