//! What callers of a ferry are told when a message was not carried over: numbers and texts that old callers know, each with
//! the HTTP status that the operator has chosen for it.

use std::borrow::Cow;
use wharf_core::fault::{Blame, Fault, FaultKind, Ferried, Retry};

/// What went wrong, as callers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// No answer came back in time.
    MessageTimeout,
    /// The message was not taken, or was not carried to its end.
    MessageError,
    /// The service on the other side did not answer in time.
    NetworkTimeout,
    /// The other side could not do it, or it is not known whether it was done.
    SystemError,
}

impl Code {
    /// All of them.
    pub const ALL: [Code; 4] = [Code::MessageTimeout, Code::MessageError, Code::NetworkTimeout, Code::SystemError];

    /// The number.
    pub fn number(self) -> u16 {
        match self {
            Code::MessageTimeout => 2001,
            Code::MessageError => 2002,
            Code::NetworkTimeout => 5001,
            Code::SystemError => 5000,
        }
    }

    /// The code of a number that came over a lane; any other number is [`Code::SystemError`].
    pub fn of(number: u16) -> Code {
        Code::ALL.into_iter().find(|code| code.number() == number).unwrap_or(Code::SystemError)
    }

    /// The text, the same for ever.
    pub fn text(self) -> &'static str {
        match self {
            Code::MessageTimeout => "Kafka message timeout",
            Code::MessageError => "Kafka message error",
            Code::NetworkTimeout => "network timeout",
            Code::SystemError => "system error",
        }
    }
}

/// The HTTP status of each code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// Of 2001.
    pub message_timeout: u16,
    /// Of 2002.
    pub message_error: u16,
    /// Of 5001.
    pub network_timeout: u16,
    /// Of 5000.
    pub system_error: u16,
}

impl Default for Statuses {
    /// What HTTP has for them (RFC 9110 section 15.6). Old callers expect 200 throughout.
    fn default() -> Statuses {
        Statuses { message_timeout: 504, message_error: 503, network_timeout: 504, system_error: 500 }
    }
}

impl Statuses {
    /// The status of a code.
    pub fn of(&self, code: Code) -> u16 {
        match code {
            Code::MessageTimeout => self.message_timeout,
            Code::MessageError => self.message_error,
            Code::NetworkTimeout => self.network_timeout,
            Code::SystemError => self.system_error,
        }
    }

    /// The fault of a code; `detail` is for the operator's log.
    pub fn fault(&self, code: Code, detail: impl Into<Cow<'static, str>>) -> Fault {
        let is_timeout = matches!(code, Code::MessageTimeout | Code::NetworkTimeout);
        let kind = FaultKind::Ferry(Ferried { code: code.number(), text: code.text(), status: self.of(code), is_timeout });
        // Nobody knows here what has been done there, so nothing tries it again by itself.
        Fault::new(kind, Blame::Upstream, Retry::Never, detail)
    }
}
