//! Creating topics, where the configuration asks for it.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::aside::Aside;
use super::options::CreateTopics;
use super::verdict::fault;
use crate::sinks::{Context, Fault};

/// How many topics are remembered as existing. Beyond it all are forgotten and asked for again: an
/// event can name a topic, so that their number is not ours to choose.
const KNOWN_MAX: usize = 10_000;

pub(super) struct Topics {
    admin: Aside<AdminClient<Quiet>>,
    create: CreateTopics,
    timeout: Duration,
    known: HashSet<String>,
}

/// What goes wrong is in the answers; by itself the client would write it down as well.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl Topics {
    /// Creates all topics that are known in advance.
    pub async fn create(
        config: &ClientConfig,
        create: &CreateTopics,
        context: &Context,
    ) -> Result<Self, Fault> {
        let admin = Aside::new(config.create_with_context(Quiet).map_err(Fault::refused)?);
        let mut topics =
            Self { admin, create: create.clone(), timeout: context.timeout, known: HashSet::new() };
        for topic in &context.literal_topics {
            topics.ensure(topic).await?;
        }
        Ok(topics)
    }

    /// Creates `topic` unless it is known to exist. One that may not be created, by an access list or
    /// a policy, is left to the broker's answer to its first record: it may exist all the same.
    pub async fn ensure(&mut self, topic: &str) -> Result<(), Fault> {
        if self.known.contains(topic) {
            return Ok(());
        }
        let replicas = self.create.replication.map_or(-1, i32::from);
        let partitions = i32::from(self.create.partitions);
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
        let options =
            AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout));
        let results = self.admin.create_topics(&[new], &options).await;
        let results = results.map_err(|error| fault(error.rdkafka_error_code().unwrap_or(Code::Fail), ""))?;
        for (topic, code) in results.into_iter().filter_map(Result::err) {
            match code {
                Code::TopicAlreadyExists => {}
                Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::PolicyViolation
                | Code::InvalidTopic => {
                    tracing::warn!(topic, reason = %code, "a topic could not be created");
                }
                code => return Err(fault(code, &format!("creating topic {topic}"))),
            }
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(topic.to_owned());
        Ok(())
    }
}
