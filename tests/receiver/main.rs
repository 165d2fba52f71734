//! The receiver, over real sockets, with a real journal and a real quarantine behind it.

mod rig;
mod wire;

mod captures;
mod protocol;
mod malformed;
mod refusals;
mod limits;
mod auth;
mod tls;
mod ending;
mod emit;
