//! The node itself: its jars, its configuration and its process.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    super::{
        Folder, given,
        process::{Proc, run},
        tls::Tls,
        tool, tools_dir,
    },
    Listener, Options, START_BOUND,
};

/// Checks access lists, but not for clients of a listener without a login.
pub(super) const AUTHORIZER: &str = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                                     super.users=User:ANONYMOUS\n";

pub(super) fn java() -> Command {
    let libs = given("RELAY_TEST_KAFKA_LIBS").map_or_else(|| tools_dir().join("kafka/libs"), PathBuf::from);
    let mut command = Command::new(tool("RELAY_TEST_JAVA", "java"));
    // A node that lives for a minute: start fast, stay small.
    command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    command.arg(libs.join("*"));
    command
}

pub(super) fn spawn(folder: &Folder) -> Proc {
    let mut command = java();
    command.arg("kafka.Kafka").arg(folder.join("server.properties")).current_dir(folder.path());
    Proc::spawn("kafka", command, &folder.join("log"))
}

/// `users` get a password for both SCRAM mechanisms.
pub(super) async fn format_storage(folder: &Folder, users: &[(String, String)]) {
    let mut command = java();
    command.args(["kafka.tools.StorageTool", "format", "-t", "cmVsYXktdGVzdC1jbHVzdA", "-c"]);
    command.arg(folder.join("server.properties"));
    for (user, password) in users {
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            command.arg("--add-scram").arg(format!("{mechanism}=[name={user},password={password}]"));
        }
    }
    run("kafka-storage format", command, START_BOUND).await;
}

pub(super) fn properties(
    options: &Options,
    listeners: &[Listener<'_>],
    controller: &str,
    tls: Option<&Tls>,
    data: &Path,
) -> String {
    let join =
        |each: &dyn Fn(&Listener<'_>) -> String| listeners.iter().map(each).collect::<Vec<_>>().join(",");
    let addresses = join(&|listener| format!("{}://{}", listener.name, listener.address));
    let advertised = join(&|listener| {
        format!("{}://{}", listener.name, listener.advertised.as_deref().unwrap_or(listener.address))
    });
    let protocols = join(&|listener| format!("{}:{}", listener.name, listener.protocol));
    let mut text = format!(
        "process.roles=broker,controller\nnode.id=1\n\
         controller.quorum.voters=1@{controller}\ncontroller.listener.names=CONTROLLER\n\
         listeners={addresses},CONTROLLER://{controller}\nadvertised.listeners={advertised}\n\
         listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT\n\
         inter.broker.listener.name=PLAINTEXT\n\
         offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\noffsets.topic.num.partitions=1\n\
         group.initial.rebalance.delay.ms=0\nnum.network.threads=2\nnum.io.threads=4\n\
         auto.create.topics.enable={}\n",
        options.auto_create,
    );
    writeln!(text, "log.dirs={}", data.display()).expect("to a string");
    if let Some(bytes) = options.message_max_bytes {
        writeln!(text, "message.max.bytes={bytes}").expect("to a string");
    }
    if !options.sasl.is_empty() {
        text += "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n";
        let module = "org.apache.kafka.common.security";
        let users: String =
            options.sasl.iter().map(|(user, password)| format!(" user_{user}=\"{password}\"")).collect();
        for listener in listeners.iter().filter(|listener| listener.protocol.starts_with("SASL")) {
            let name = listener.name.to_lowercase();
            writeln!(
                text,
                "listener.name.{name}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required{users};"
            )
            .expect("to a string");
            for mechanism in ["scram-sha-256", "scram-sha-512"] {
                writeln!(text, "listener.name.{name}.{mechanism}.sasl.jaas.config={module}.scram.ScramLoginModule required;")
                    .expect("to a string");
            }
        }
    }
    if let Some(tls) = tls {
        write!(
            text,
            "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n",
            tls.key_and_cert.display(),
            tls.ca.display(),
        )
        .expect("to a string");
    }
    if options.acl {
        text += AUTHORIZER;
        text += "allow.everyone.if.no.acl.found=true\n";
    }
    for (key, value) in &options.properties {
        writeln!(text, "{key}={value}").expect("to a string");
    }
    text
}
