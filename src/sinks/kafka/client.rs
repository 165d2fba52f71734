//! What librdkafka is told: its properties, from the sink's options.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::options::{Acks, Compression, KafkaOptions, Mechanism};

/// How records are put into batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batching {
    pub bytes_max: u64,
    /// One record a batch.
    pub single: bool,
}

impl Batching {
    /// Whether a record of so many bytes is certainly the only one of its batch: librdkafka puts a
    /// second one in only while both together stay below `batch.size`.
    pub fn alone(self, bytes: usize) -> bool {
        self.single || bytes as u64 > self.bytes_max
    }
}

impl KafkaOptions {
    /// All that librdkafka is told. `timeout`: how long an answer of the cluster may take.
    pub(super) fn client_config(&self, timeout: Duration, batching: Batching) -> ClientConfig {
        let mut config = ClientConfig::new();
        // First, so that nothing in here overrides what the relay relies on.
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        let timeout = timeout.as_millis().clamp(1, i32::MAX as u128);
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("acks", if self.acks == Acks::All { "all" } else { "1" })
            .set("enable.idempotence", self.idempotence.to_string())
            .set("compression.type", self.compression.as_str())
            .set("linger.ms", self.linger.duration.as_millis().to_string())
            .set("batch.size", batching.bytes_max.to_string())
            .set("message.max.bytes", self.message_max.0.to_string())
            .set("queue.buffering.max.kbytes", (self.buffer_max.0 >> 10).to_string())
            .set("queue.buffering.max.messages", self.window.to_string())
            // Never: a record that librdkafka gives up on is overtaken by those behind it, which it goes
            // on sending until somebody throws it away. The worker does, when nothing is confirmed
            // within `timeout`.
            .set("message.timeout.ms", "0");
        // What `debug` asks for is said at this level, and how much of it is written down the relay's own
        // level decides.
        let debug = config.get("debug").is_some();
        config.set_log_level(if debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        if batching.single {
            config.set("batch.num.messages", "1");
        }
        // One request at a time to a broker, with idempotence too. A broker takes any sequence number as
        // a new producer's first (Kafka's `ProducerAppendInfo.checkSequence`). So when it refuses the first
        // request to a partition, as a leader does that has just become one, and takes the second, which
        // was on its way already, the first would come behind it; and librdkafka does not even send it
        // again, but counts it as written (`rd_kafka_dr_implicit_ack`). Seen with topics just made: 3 of
        // 36,000 records confirmed and lost.
        config.set("max.in.flight.requests.per.connection", "1");
        // An unknown topic has to be known as such before its records time out, which would look
        // like a dead cluster.
        set_default(&mut config, "topic.metadata.propagation.max.ms", (timeout / 2).min(10_000));
        set_default(&mut config, "socket.timeout.ms", timeout.clamp(10, 60_000));
        set_default(&mut config, "socket.connection.setup.timeout.ms", timeout.clamp(1_000, 30_000));
        set_default(&mut config, "reconnect.backoff.max.ms", 1_000);
        set_default(&mut config, "socket.keepalive.enable", 1);
        set_default(&mut config, "socket.nagle.disable", 1);
        self.security(&mut config);
        config
    }

    fn security(&self, config: &mut ClientConfig) {
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(sasl) = &self.sasl {
            config.set("sasl.mechanism", sasl.mechanism.as_str());
            config.set("sasl.username", &sasl.username).set("sasl.password", sasl.password.expose());
        }
        let Some(tls) = &self.tls else { return };
        // The OpenSSL inside is built with the relay and knows of no system store: `probe` looks
        // where distributions keep theirs.
        config.set("ssl.ca.location", tls.ca.as_ref().map_or("probe".into(), |path| path.to_string_lossy()));
        if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
            config.set("ssl.certificate.location", cert.to_string_lossy());
            config.set("ssl.key.location", key.to_string_lossy());
        }
        if let Some(password) = &tls.key_password {
            config.set("ssl.key.password", password.expose());
        }
        if !tls.verify {
            config.set("enable.ssl.certificate.verification", "false");
            config.set("ssl.endpoint.identification.algorithm", "none");
        }
    }
}

fn set_default(config: &mut ClientConfig, key: &str, value: impl ToString) {
    if config.get(key).is_none() {
        config.set(key, value.to_string());
    }
}

impl Compression {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl Mechanism {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::Options as _;

    fn options(yaml: &str) -> KafkaOptions {
        serde_yaml::from_str(yaml).expect(yaml)
    }

    fn config(options: &KafkaOptions, timeout: Duration) -> ClientConfig {
        options.client_config(timeout, Batching { bytes_max: options.batch_max.0, single: false })
    }

    #[test]
    fn the_defaults_are_safe() {
        let options = options("brokers: a:9092, b:9092");
        assert!(options.problems().is_empty(), "{:?}", options.problems());
        let config = config(&options, Duration::from_secs(5));
        for (key, value) in [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("message.timeout.ms", "0"),
            ("topic.metadata.propagation.max.ms", "2500"),
            ("queue.buffering.max.kbytes", "32768"),
            ("security.protocol", "plaintext"),
        ] {
            assert_eq!(config.get(key), Some(value), "{key}");
        }
        config.create_native_config().expect("librdkafka takes it");
    }

    #[test]
    fn the_order_stands_with_and_without_idempotence() {
        for yaml in ["{brokers: a}", "{brokers: a, acks: 1, idempotence: false}"] {
            let config = config(&options(yaml), Duration::from_secs(5));
            assert_eq!(config.get("max.in.flight.requests.per.connection"), Some("1"), "{yaml}");
        }
    }

    #[test]
    fn librdkafka_takes_every_combination() {
        for yaml in [
            "{brokers: a, compression: gzip}",
            "{brokers: a, compression: snappy}",
            "{brokers: a, compression: lz4}",
            "{brokers: a, compression: zstd, linger: 0ms}",
            "{brokers: a, acks: 1, idempotence: false}",
            "{brokers: a, sasl: {mechanism: PLAIN, username: u, password: p}, tls: {}}",
            "{brokers: a, sasl: {mechanism: SCRAM-SHA-256, username: u, password: p}}",
            "{brokers: a, properties: {statistics.interval.ms: '0', client.rack: r1}}",
        ] {
            let options = options(yaml);
            assert!(options.problems().is_empty(), "{yaml}: {:?}", options.problems());
            config(&options, Duration::from_millis(1)).create_native_config().expect(yaml);
        }
    }
}
