//! The RabbitMQ sink against a real RabbitMQ: the contract, and each row of
//! `docs/failures/rabbitmq.md` that a broker can be made to give.

mod broker;
mod busy;
mod connection;
mod declared;
mod messages;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use broker::{Broker, MESSAGE_BYTES_MAX};
use support::contract::{self, End};
use support::rabbitmq::{Options, RabbitMq};
use support::suite::{Shared, Suite};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let rabbit = Shared::new(|| {
        let config = vec![format!("max_message_size = {MESSAGE_BYTES_MAX}")];
        RabbitMq::start(Options { own: true, tls: true, config })
    });
    macro_rules! tests {
        ($($module:ident: $($name:ident),*;)*) => {$($(
            let shared = rabbit.clone();
            suite.test(stringify!($name), async move || {
                $module::$name(&Broker::new(shared.get().await)).await;
            });
        )*)*};
    }
    tests! {
        contract:
            keeps_order,
            confirms_what_is_there,
            settle_is_cancel_safe,
            closes_in_mid_batch,
            rejects_too_large,
            refuses_wrong_credentials,
            refuses_missing,
            survives_freeze;
        self:
            survives_stop,
            survives_kill;
        messages:
            rejects_unroutable,
            tells_unroutable_messages_apart,
            loses_unroutable_messages_only_if_told_to,
            rejects_a_forbidden_routing_key,
            rejects_a_routing_key_that_is_too_long,
            finds_every_offender_of_a_window,
            rejects_headers_that_fit_no_frame,
            keeps_a_long_id;
        busy:
            is_busy_while_a_queue_is_full,
            is_busy_when_a_queue_fails,
            is_busy_during_a_memory_alarm,
            is_busy_during_a_disk_alarm;
        declared:
            declares_exchange_queue_and_binding,
            refuses_a_type_of_exchange_that_does_not_exist,
            refuses_a_queue_of_another_connection,
            refuses_a_virtual_host_that_is_not_there,
            refuses_a_virtual_host_that_is_closed_to_it,
            refuses_a_header_that_the_broker_reads_itself,
            refuses_an_exchange_that_went_away,
            refuses_a_forbidden_exchange;
        connection:
            speaks_tls,
            refuses_an_untrusted_certificate,
            tries_its_hosts_in_turn,
            gives_up_a_silent_host_for_the_next,
            misses_the_heartbeat_of_a_broker,
            survives_an_operator_who_closes_connections,
            survives_an_error_inside_of_the_broker,
            survives_damaged_frames;
    }
    suite.run()
}

async fn survives_stop(broker: &Broker) {
    contract::survives_restart(broker, End::Stopped).await;
}

async fn survives_kill(broker: &Broker) {
    contract::survives_restart(broker, End::Killed).await;
}
