//! What an operator does to a cluster: topics and access lists.

use std::time::{Duration, Instant};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    types::RDKafkaErrorCode,
};

use super::{super::process::run, Kafka, START_BOUND, blocking, eventually, server};

const ANSWER_BOUND: Duration = Duration::from_secs(20);

impl Kafka {
    pub async fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]).await;
    }

    /// With the topic's own configuration, such as `max.message.bytes`. A topic that exists is fine.
    pub async fn create_topic_with(&self, name: &str, partitions: i32, configuration: &[(&str, &str)]) {
        self.create(NewTopic::new(name, partitions, TopicReplication::Fixed(1)), configuration).await;
    }

    /// One partition on the brokers of these ids, the first of which it prefers as its leader.
    pub async fn create_topic_on(&self, name: &str, brokers: &[i32], configuration: &[(&str, &str)]) {
        self.create(NewTopic::new(name, 1, TopicReplication::Variable(&[brokers])), configuration).await;
    }

    async fn create(&self, mut topic: NewTopic<'_>, configuration: &[(&str, &str)]) {
        for (key, value) in configuration {
            topic = topic.set(key, value);
        }
        let name = topic.name;
        let results = self.admin().create_topics(&[topic], &options()).await.expect("create topics");
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, error)) => panic!("create topic {topic}: {error}"),
            }
        }
        self.partitions(&[name], Instant::now() + ANSWER_BOUND).await;
    }

    /// Deletes a topic with all that is in it, and waits until no client finds it any more.
    pub async fn delete_topic(&self, name: &str) {
        for result in self.admin().delete_topics(&[name], &options()).await.expect("delete topics") {
            result.expect("a topic that exists");
        }
        let gone = async || self.leader_of(name).await.is_err().then_some(());
        eventually(&format!("topic {name} goes away"), ANSWER_BOUND, gone).await;
    }

    /// The broker that leads a topic's only partition, as the cluster tells it to its clients; an error's
    /// code where it tells one.
    pub async fn leader_of(&self, topic: &str) -> Result<i32, RDKafkaErrorCode> {
        let (client, topic) = (self.client(), topic.to_owned());
        blocking(move || {
            let consumer: BaseConsumer = client.create().expect("a consumer");
            let code = RDKafkaErrorCode::from;
            let found = consumer.fetch_metadata(Some(&topic), Duration::from_secs(5));
            let found =
                found.map_err(|error| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))?;
            let topic = found.topics().first().expect("the topic that was asked for");
            topic.error().map_or(Ok(()), |error| Err(code(error)))?;
            let partition = topic.partitions().first().ok_or(RDKafkaErrorCode::UnknownPartition)?;
            partition.error().map_or(Ok(partition.leader()), |error| Err(code(error)))
        })
        .await
    }

    /// Forbids `user` an operation (`Write`, `Create`, …) on a topic. Needs `acl: true`. Takes about two
    /// seconds: Kafka's own tool does it.
    pub async fn deny(&self, user: &str, operation: &str, topic: &str) {
        self.add_access("--deny-principal", user, operation, topic).await;
    }

    /// Allows `user` an operation on a topic; as [`Kafka::deny`].
    pub async fn allow(&self, user: &str, operation: &str, topic: &str) {
        self.add_access("--allow-principal", user, operation, topic).await;
    }

    async fn add_access(&self, verb: &str, user: &str, operation: &str, topic: &str) {
        let mut command = server::java();
        let user = format!("User:{user}");
        command.args(["org.apache.kafka.tools.AclCommand", "--bootstrap-server", &self.bootstrap, "--add"]);
        command.args([verb, &user, "--operation", operation, "--topic", topic]);
        run("kafka-acls", command, START_BOUND).await;
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client")
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ANSWER_BOUND))
}
