//! The stream that a JetStream sink publishes to: checked at each connection, created if asked.

use std::error::Error;

use async_nats::Client;
use async_nats::jetstream::context::{
    ContextBuilder, CreateStreamError, CreateStreamErrorKind, GetStreamByNameError, GetStreamByNameErrorKind,
    GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::{self, stream};
use tracing::{info, warn};

use super::{CreateStream, JetStreamOptions, Storage};
use crate::sinks::{Context, Fault};

/// JetStream's context on this connection.
pub fn jetstream(client: Client, options: &JetStreamOptions, context: &Context) -> jetstream::Context {
    let builder = ContextBuilder::new().timeout(context.timeout);
    match &options.domain {
        Some(domain) => builder.domain(domain).build(client),
        None => builder.build(client),
    }
}

/// Checks the configured stream, or creates it; nothing to do when none is named.
pub async fn prepare(
    jetstream: &jetstream::Context,
    options: &JetStreamOptions,
    context: &Context,
) -> Result<(), Fault> {
    let Some(name) = &options.stream else { return Ok(()) };
    let stream = match jetstream.get_stream(name).await {
        Ok(stream) => stream,
        Err(error) => match (&options.create, is_missing(&error)) {
            (Some(create), true) => {
                let created = jetstream.create_stream(config(name, create)).await;
                let created = created.map_err(|error| create_fault(name, &error))?;
                info!(sink = context.name, stream = name, "created the stream");
                created
            }
            (None, true) => {
                let hint = "create it, or let the relay: `jetstream.create: {}`";
                return Err(Fault::refused(format!("there is no stream `{name}`; {hint}")));
            }
            (_, false) => return Err(get_fault(name, &error)),
        },
    };
    check(&stream.cached_info().config, context)
}

/// Whether the stream is fit, with a warning where it is but will surprise.
fn check(stream: &stream::Config, context: &Context) -> Result<(), Fault> {
    if stream.no_ack {
        let text = format!("stream `{}` confirms nothing (no_ack): nothing could count as sent", stream.name);
        return Err(Fault::refused(text));
    }
    let window = stream.duplicate_window;
    if window <= context.timeout {
        warn!(
            sink = context.name,
            stream = stream.name,
            "the stream forgets message ids after {window:?}, and the sink tries again after {:?}: copies \
             that a failure makes will be stored again; give the stream a longer duplicate window",
            context.timeout
        );
    }
    for topic in &context.literal_topics {
        if !stream.subjects.iter().any(|subject| captures(subject, topic)) {
            warn!(
                sink = context.name,
                stream = stream.name,
                subject = topic,
                "no subject of the stream ({}) captures this one: its events will become dead letters",
                stream.subjects.join(", ")
            );
        }
    }
    Ok(())
}

/// Whether a stream's subject, with its wildcards, takes `topic`.
fn captures(subject: &str, topic: &str) -> bool {
    let mut words = topic.split('.');
    for part in subject.split('.') {
        match (part, words.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(word)) if part == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

fn config(name: &str, create: &CreateStream) -> stream::Config {
    let or_unlimited =
        |limit: Option<u64>| limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    stream::Config {
        name: name.to_owned(),
        subjects: create.subjects.clone(),
        max_age: create.max_age.map(|age| age.duration).unwrap_or_default(),
        max_bytes: or_unlimited(create.max_bytes.map(|size| size.0)),
        max_messages: or_unlimited(create.max_messages),
        num_replicas: create.replicas.into(),
        duplicate_window: create.duplicate_window.duration,
        storage: match create.storage {
            Storage::File => stream::StorageType::File,
            Storage::Memory => stream::StorageType::Memory,
        },
        ..stream::Config::default()
    }
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error)
        if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}

fn get_fault(name: &str, error: &GetStreamError) -> Fault {
    let text = format!("stream `{name}`: {error}");
    match error.kind() {
        GetStreamErrorKind::JetStream(error) if is_unavailable(&error) => Fault::disconnected(text),
        GetStreamErrorKind::JetStream(_) | GetStreamErrorKind::InvalidStreamName => Fault::refused(text),
        _ if no_responders(error) => Fault::refused(format!("{text}; {IS_IT_ON}")),
        _ => Fault::disconnected(text),
    }
}

fn create_fault(name: &str, error: &CreateStreamError) -> Fault {
    let text = format!("cannot create stream `{name}`: {error}");
    match error.kind() {
        CreateStreamErrorKind::TimedOut => Fault::disconnected(text),
        CreateStreamErrorKind::JetStream(error) if is_unavailable(&error) => Fault::disconnected(text),
        _ => Fault::refused(text),
    }
}

/// What it means that JetStream does not say which stream captures a subject.
fn subject_fault(error: &GetStreamByNameError) -> Fault {
    let text = format!("JetStream does not answer: {error}");
    match refusal(error) {
        Some(error) if !is_unavailable(error) => Fault::refused(text),
        None if no_responders(error) => Fault::refused(format!("{text}; {IS_IT_ON}")),
        _ => Fault::busy(text),
    }
}

const IS_IT_ON: &str = "is JetStream on at this server?";

/// Whether a part of a cluster is missing: nobody over there has to mend a configuration.
fn is_unavailable(error: &jetstream::Error) -> bool {
    use jetstream::ErrorCode;
    let code = error.error_code();
    [ErrorCode::CLUSTER_NOT_AVAILABLE, ErrorCode::CLUSTER_NOT_LEADER, ErrorCode::STREAM_OFFLINE]
        .contains(&code)
}

/// Nobody listens to JetStream's own subjects.
fn no_responders(error: &(dyn Error + 'static)) -> bool {
    sources(error)
        .filter_map(|cause| cause.downcast_ref::<RequestError>())
        .any(|error| error.kind() == RequestErrorKind::NoResponders)
}

/// JetStream's own error among the causes.
fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a jetstream::Error> {
    sources(error).find_map(|cause| cause.downcast_ref())
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

/// Whether there is a stream for `subject`: the one named, or else any. It tells "there is none"
/// from "it cannot answer now", which look the same to a publisher.
pub async fn exists(
    jetstream: jetstream::Context,
    stream: Option<String>,
    subject: String,
) -> Result<bool, Fault> {
    let Some(name) = stream else {
        return match jetstream.stream_by_subject(subject).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => Ok(false),
            Err(error) => Err(subject_fault(&error)),
        };
    };
    match jetstream.get_stream(&name).await {
        Ok(stream) => Ok(stream.cached_info().config.subjects.iter().any(|at| captures(at, &subject))),
        Err(error) => match error.kind() {
            // The connection is good.
            GetStreamErrorKind::JetStream(offline) if is_unavailable(&offline) => {
                Err(Fault::busy(format!("stream `{name}`: {error}")))
            }
            // Deleted under us: not the event's fault, and seen at once when we connect again.
            _ => Err(get_fault(&name, &error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_capture() {
        for (subject, topic, expected) in [
            ("registry.>", "registry.push", true),
            ("registry.>", "registry.push.x", true),
            ("registry.>", "registry", false),
            ("registry.*", "registry.push", true),
            ("registry.*", "registry.push.x", false),
            ("registry.*.x", "registry.push.x", true),
            ("registry", "registry", true),
            ("registry", "registry.push", false),
            (">", "registry", true),
        ] {
            assert_eq!(captures(subject, topic), expected, "{subject} {topic}");
        }
    }
}
