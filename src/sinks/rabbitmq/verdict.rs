//! What RabbitMQ's errors mean: `docs/failures/rabbitmq.md` is this in prose.

use std::io;

use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{ChannelState, Error, ErrorKind};

use crate::sinks::{Fault, Rejection};

/// What it says when the broker ends a channel or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One of the messages in flight is at fault, and the broker does not say which: they have to be
    /// sent one by one to know.
    Suspect(Rejection),
    /// It was published while the channel was already closing over an earlier one, and was not looked at;
    /// the broker's word on that one may come after this.
    TooLate,
    /// Not about a message.
    Failed(Fault),
}

/// Judges the end of a channel that was published on.
pub(super) fn judge(error: &Error, address: &str) -> Verdict {
    let protocol = match error.kind() {
        ErrorKind::ProtocolError(protocol) => protocol,
        ErrorKind::InvalidChannelState(
            ChannelState::Closing | ChannelState::Closed | ChannelState::Error,
            _,
        ) => {
            return Verdict::TooLate;
        }
        _ => return Verdict::Failed(fault(error, address)),
    };
    let suspect = |code| Verdict::Suspect(Rejection { code, text: said(protocol) });
    let text = protocol.get_message().as_str();
    if late_frames(error) {
        return Verdict::TooLate;
    }
    match protocol.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::CONTENTTOOLARGE) => suspect("too_large"),
        // `rabbit_channel.erl`: "message size ~B is larger than (configured) max size ~B".
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if text.contains("message size") => {
            suspect("too_large")
        }
        // `rabbit_access_control.erl`: a topic permission is about the routing key; any other is about
        // the exchange, and so about every message.
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) if text.contains("access to topic") => {
            suspect("not_authorised")
        }
        _ => Verdict::Failed(fault(error, address)),
    }
}

/// Whether the broker ended the connection over what lapin had queued for a channel and sent behind its
/// answer to that channel's close (504, "expected 'channel.open'").
pub(super) fn late_frames(error: &Error) -> bool {
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return false };
    *protocol.kind() == AMQPErrorKind::Hard(AMQPHardError::CHANNELERROR)
}

/// Any other error, of a connection or of its making.
pub(super) fn fault(error: &Error, address: &str) -> Fault {
    match error.kind() {
        ErrorKind::ProtocolError(protocol) => {
            let text = format!("{address}: {}", said(protocol));
            match protocol.kind() {
                // 503 (`rabbit_exchange.erl`): a type of exchange that this broker has not; later ones say 406.
                AMQPErrorKind::Soft(_)
                | AMQPErrorKind::Hard(
                    AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH | AMQPHardError::COMMANDINVALID,
                ) => Fault::refused(text),
                AMQPErrorKind::Hard(_) => Fault::disconnected(text),
            }
        }
        // rustls reports a certificate that it does not trust as invalid data.
        ErrorKind::IOError(io) if io.kind() == io::ErrorKind::InvalidData => {
            Fault::refused(format!("{address}: {io}"))
        }
        ErrorKind::AuthProviderError(text) => Fault::refused(format!("{address}: {text}")),
        ErrorKind::IOError(io) => Fault::disconnected(format!("{address}: {io}")),
        _ => Fault::disconnected(format!("{address}: {error}")),
    }
}

/// The broker's own words, which begin with the name of the code.
fn said(error: &AMQPError) -> String {
    format!("{} ({})", error.get_message(), error.get_id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::FaultKind;

    fn error(kind: AMQPErrorKind, text: &str) -> Error {
        ErrorKind::ProtocolError(AMQPError::new(kind, text.into())).into()
    }

    #[test]
    fn about_one_message() {
        for (kind, text, code) in [
            (AMQPSoftError::CONTENTTOOLARGE, "CONTENT_TOO_LARGE", "too_large"),
            (
                AMQPSoftError::PRECONDITIONFAILED,
                "PRECONDITION_FAILED - message size 9 is larger than max size 8",
                "too_large",
            ),
            (
                AMQPSoftError::ACCESSREFUSED,
                "ACCESS_REFUSED - access to topic 'a.b' in exchange 'registry' in vhost '/' refused for user 'u'",
                "not_authorised",
            ),
        ] {
            let Verdict::Suspect(rejection) = judge(&error(kind.into(), text), "mq:5672") else {
                panic!("{text}")
            };
            assert_eq!(rejection.code, code, "{text}");
        }
    }

    #[test]
    fn published_into_a_closing_channel() {
        for state in [ChannelState::Closing, ChannelState::Closed, ChannelState::Error] {
            let error = ErrorKind::InvalidChannelState(state, "basic.publish").into();
            assert_eq!(judge(&error, "mq:5672"), Verdict::TooLate);
        }
        let behind = error(AMQPHardError::CHANNELERROR.into(), "CHANNEL_ERROR - expected 'channel.open'");
        assert_eq!(judge(&behind, "mq:5672"), Verdict::TooLate);
    }

    #[test]
    fn about_the_sink() {
        for (kind, text, expected) in [
            (
                AMQPSoftError::ACCESSREFUSED.into(),
                "ACCESS_REFUSED - access to exchange 'registry' in vhost '/' refused for user 'u'",
                FaultKind::Refused,
            ),
            // Said of a header that is configured, and so of every message.
            (
                AMQPSoftError::PRECONDITIONFAILED.into(),
                "PRECONDITION_FAILED - unsupported CC header",
                FaultKind::Refused,
            ),
            (AMQPSoftError::NOTFOUND.into(), "NOT_FOUND - no exchange 'registry'", FaultKind::Refused),
            (AMQPHardError::NOTALLOWED.into(), "NOT_ALLOWED - vhost x not found", FaultKind::Refused),
            (AMQPHardError::INVALIDPATH.into(), "INVALID_PATH", FaultKind::Refused),
            (
                AMQPHardError::COMMANDINVALID.into(),
                "COMMAND_INVALID - unknown exchange type",
                FaultKind::Refused,
            ),
            (AMQPHardError::CONNECTIONFORCED.into(), "CONNECTION_FORCED", FaultKind::Disconnected),
            (AMQPHardError::FRAMEERROR.into(), "FRAME_ERROR", FaultKind::Disconnected),
            (AMQPHardError::SYNTAXERROR.into(), "SYNTAX_ERROR", FaultKind::Disconnected),
            (AMQPHardError::UNEXPECTEDFRAME.into(), "UNEXPECTED_FRAME", FaultKind::Disconnected),
            (AMQPHardError::RESOURCEERROR.into(), "RESOURCE_ERROR", FaultKind::Disconnected),
            (AMQPHardError::NOTIMPLEMENTED.into(), "NOT_IMPLEMENTED", FaultKind::Disconnected),
            (AMQPHardError::INTERNALERROR.into(), "INTERNAL_ERROR", FaultKind::Disconnected),
        ] {
            let Verdict::Failed(fault) = judge(&error(kind, text), "mq:5672") else { panic!("{text}") };
            assert_eq!(fault.kind, expected, "{text}");
            assert!(fault.text.starts_with("mq:5672: "), "{}", fault.text);
        }
    }

    #[test]
    fn a_broken_socket_is_a_lost_connection_and_a_wrong_certificate_is_not() {
        for (kind, expected) in [
            (io::ErrorKind::ConnectionReset, FaultKind::Disconnected),
            (io::ErrorKind::InvalidData, FaultKind::Refused),
        ] {
            assert_eq!(fault(&io::Error::new(kind, "said so").into(), "mq:5672").kind, expected);
        }
    }
}
