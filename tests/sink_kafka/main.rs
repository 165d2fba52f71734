//! The Kafka sink against a real Apache Kafka: the contract, and each row of `docs/failures/kafka.md`
//! that a broker can be made to give.

mod access;
mod broken;
mod cluster;
mod pair;
mod records;
mod said;
#[path = "../support/mod.rs"]
mod support;
mod topics;

use std::process::ExitCode;

use cluster::{Cluster, QUICK_TO_MISS};
use pair::Pair;
use support::contract::{self, End};
use support::kafka::{Kafka, Options};
use support::suite::{Shared, Suite};

/// One broker for nearly everything.
async fn start() -> Kafka {
    let properties = [
        // The contract's messages arrived in 2025: a broker would delete them as too old.
        ("log.retention.ms", "-1"),
        QUICK_TO_MISS,
        ("listener.name.saslssl.sasl.enabled.mechanisms", "SCRAM-SHA-512"),
    ];
    let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    Kafka::start(Options {
        own: true,
        sasl: [("ada", "s3cret"), ("bob", "b0b")].map(text).into(),
        tls: true,
        acl: true,
        proxied: true,
        properties: properties.map(text).into(),
        ..Options::default()
    })
    .await
}

fn main() -> ExitCode {
    said::listen();
    let mut suite = Suite::new();
    let kafka = Shared::new(start);
    macro_rules! with_one {
        ($($module:ident: $($name:ident),*;)*) => {$($(
            let shared = kafka.clone();
            suite.test(stringify!($name), async move || {
                $module::$name(&Cluster::new(shared.get().await)).await;
            });
        )*)*};
    }
    with_one! {
        contract:
            keeps_order,
            confirms_what_is_there,
            settle_is_cancel_safe,
            closes_in_mid_batch,
            rejects_too_large,
            refuses_wrong_credentials,
            survives_freeze;
        self:
            survives_stop,
            survives_kill;
        records:
            rejects_a_record_of_another_time,
            rejects_a_record_that_fits_no_segment,
            a_compacted_topic_takes_events_of_no_repository,
            splits_batches_that_a_topic_does_not_take,
            finds_the_record_that_a_topic_does_not_take,
            rejects_what_is_over_its_own_limit_with_the_headers,
            waits_while_its_buffer_is_full;
        topics:
            rejects_unknown_topic,
            rejects_an_impossible_topic,
            creates_topics,
            sees_a_topic_that_is_created_later,
            rejects_what_is_for_a_topic_that_was_deleted,
            refuses_more_replicas_than_brokers,
            rejects_what_is_for_a_topic_against_the_policy;
        access:
            logs_in_by_every_mechanism,
            speaks_tls,
            refuses_an_untrusted_certificate,
            refuses_a_login_that_the_broker_does_not_know,
            tells_that_a_port_speaks_no_tls,
            tells_that_a_name_is_unknown,
            tells_at_once_that_nobody_listens,
            rejects_a_forbidden_topic;
        broken:
            sends_a_damaged_batch_again,
            begins_anew_when_the_broker_has_lost_records;
    }
    let two = Shared::new(Pair::start);
    macro_rules! with_two {
        ($($name:ident),* $(,)?) => {$(
            let shared = two.clone();
            suite.test(stringify!($name), async move || pair::$name(&*shared.get().await).await);
        )*};
    }
    with_two!(
        waits_while_a_replica_is_missing,
        begins_anew_when_a_replica_is_missing_for_long,
        asks_again_when_the_broker_waits_too_long_for_a_replica,
        waits_for_a_leader,
        follows_a_leader_that_has_moved,
        waits_for_a_disk,
        refuses_a_user_who_may_write_nothing,
    );
    suite.run()
}

async fn survives_stop(cluster: &Cluster) {
    contract::survives_restart(cluster, End::Stopped).await;
}

async fn survives_kill(cluster: &Cluster) {
    contract::survives_restart(cluster, End::Killed).await;
}
