//! What librdkafka's error codes mean for a record: `docs/failures/kafka.md` is this table in prose.

use rdkafka::types::RDKafkaErrorCode as Code;

use crate::sinks::{Fault, Rejection};

/// What an error says about the record that it came back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This record will never be taken.
    Rejected(Rejection),
    /// The record's batch was refused, and the record may not be the reason: it has to be sent
    /// alone to know.
    Batch(Rejection),
    /// Not about the record.
    Failed(Fault),
}

/// Judges a record's error. `context` is what librdkafka last said about the cluster.
///
/// `alone`: the record was certainly the only one of its batch. A broker refuses a whole batch, and
/// librdkafka, unlike the Java client, does not split one that was too large.
pub(super) fn judge(code: Code, alone: bool, context: &str) -> Verdict {
    let rejected = |word| Rejection { code: word, text: code.to_string() };
    match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            let rejection = rejected("too_large");
            if alone { Verdict::Rejected(rejection) } else { Verdict::Batch(rejection) }
        }
        Code::InvalidRecord if alone => Verdict::Rejected(rejected("invalid_record")),
        Code::InvalidTimestamp if alone => Verdict::Rejected(rejected("invalid_timestamp")),
        // In the last case a neighbour was invalid.
        Code::InvalidRecord | Code::InvalidTimestamp | Code::InvalidDifferentRecord => {
            Verdict::Batch(rejected("invalid_record"))
        }
        Code::PolicyViolation => Verdict::Rejected(rejected("policy_violation")),
        Code::UnknownTopic | Code::UnknownTopicOrPartition => Verdict::Rejected(rejected("no_such_topic")),
        Code::InvalidTopic => Verdict::Rejected(rejected("invalid_topic")),
        Code::TopicAuthorizationFailed => Verdict::Rejected(rejected("not_authorised")),
        _ => Verdict::Failed(fault(code, context)),
    }
}

/// An error of the connection or the cluster. `context` is what librdkafka last said about it.
pub(super) fn fault(code: Code, context: &str) -> Fault {
    let text = if context.is_empty() { code.to_string() } else { format!("{code}: {context}") };
    match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::ClusterAuthorizationFailed
        | Code::SecurityDisabled
        | Code::SSL
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::UnsupportedVersion
        | Code::InvalidRequiredAcks
        | Code::InvalidReplicationFactor
        | Code::InvalidPartitions
        | Code::InvalidConfig => Fault::refused(text),
        _ => Fault::disconnected(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::FaultKind;

    #[test]
    fn permanent_for_the_record() {
        let table = [
            (Code::MessageSizeTooLarge, "too_large"),
            (Code::MessageBatchTooLarge, "too_large"),
            (Code::InvalidMessageSize, "too_large"),
            (Code::InvalidRecord, "invalid_record"),
            (Code::InvalidTimestamp, "invalid_timestamp"),
            (Code::PolicyViolation, "policy_violation"),
            (Code::UnknownTopic, "no_such_topic"),
            (Code::UnknownTopicOrPartition, "no_such_topic"),
            (Code::InvalidTopic, "invalid_topic"),
            (Code::TopicAuthorizationFailed, "not_authorised"),
        ];
        for (code, word) in table {
            let Verdict::Rejected(rejection) = judge(code, true, "") else { panic!("{code:?}") };
            assert_eq!(rejection.code, word, "{code:?}");
        }
    }

    #[test]
    fn a_refused_batch_convicts_nobody() {
        for code in [
            Code::MessageSizeTooLarge,
            Code::MessageBatchTooLarge,
            Code::InvalidRecord,
            Code::InvalidTimestamp,
            Code::InvalidDifferentRecord,
        ] {
            assert!(matches!(judge(code, false, ""), Verdict::Batch(_)), "{code:?}");
        }
    }

    #[test]
    fn faults() {
        let table = [
            (Code::MessageTimedOut, FaultKind::Disconnected),
            (Code::BrokerTransportFailure, FaultKind::Disconnected),
            (Code::NotEnoughReplicas, FaultKind::Disconnected),
            (Code::NotEnoughReplicasAfterAppend, FaultKind::Disconnected),
            (Code::NetworkException, FaultKind::Disconnected),
            (Code::KafkaStorageError, FaultKind::Disconnected),
            (Code::UnknownPartition, FaultKind::Disconnected),
            (Code::InvalidProducerEpoch, FaultKind::Disconnected),
            (Code::Fatal, FaultKind::Disconnected),
            (Code::Unknown, FaultKind::Disconnected),
            (Code::Authentication, FaultKind::Refused),
            (Code::UnsupportedSASLMechanism, FaultKind::Refused),
            (Code::IllegalSASLState, FaultKind::Refused),
            (Code::SSL, FaultKind::Refused),
            (Code::ClusterAuthorizationFailed, FaultKind::Refused),
            (Code::SecurityDisabled, FaultKind::Refused),
            (Code::UnsupportedCompressionType, FaultKind::Refused),
            (Code::UnsupportedForMessageFormat, FaultKind::Refused),
            (Code::UnsupportedVersion, FaultKind::Refused),
            (Code::InvalidRequiredAcks, FaultKind::Refused),
            (Code::InvalidReplicationFactor, FaultKind::Refused),
            (Code::InvalidPartitions, FaultKind::Refused),
            (Code::InvalidConfig, FaultKind::Refused),
        ];
        for (code, kind) in table {
            let Verdict::Failed(fault) = judge(code, true, "said so") else { panic!("{code:?}") };
            assert_eq!(fault.kind, kind, "{code:?}");
            assert!(fault.text.ends_with("said so"), "{}", fault.text);
        }
    }
}
