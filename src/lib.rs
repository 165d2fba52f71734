//! A durable bridge from a container registry's notifications to message brokers.
//!
//! The modules in the order in which an event meets them.

#![forbid(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod event;
pub mod http;
pub mod journal;
pub mod logging;
pub mod quarantine;
pub mod receiver;
pub mod route;
pub mod sinks;
pub mod telemetry;
