//! A durable bridge from a container registry's notifications to message brokers.
//!
//! The modules in the order in which an event meets them.

#![forbid(unsafe_code)]

pub mod event;
pub mod receiver;
pub mod quarantine;
pub mod journal;
pub mod route;
pub mod delivery;
pub mod sinks;

pub mod admin;
pub mod http;
pub mod config;
pub mod telemetry;
pub mod logging;
pub mod app;
pub mod cli;
