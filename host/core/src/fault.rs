//! What can go wrong on a road, in three answers: who is to blame, may it be tried again, what happened.
//!
//! `Display` is for the operator's log. What the caller is told, and with which status, is decided in one place per
//! protocol (`http/reply.rs`).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Who has to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client's request.
    Caller,
    /// A plugin.
    Plugin,
    /// The service behind us.
    Upstream,
    /// Ourselves: a limit of ours, our configuration, a fault in us.
    Host,
}

/// May the same call be made again, elsewhere or later?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No: it would fail again, or it may have had its effect.
    Never,
    /// Yes, by anyone: not a byte of it reached an upstream.
    Safe,
    /// Yes if the method is idempotent: it may have had its effect.
    IfIdempotent,
}

/// Which wait was too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the phase")]
pub enum Phase {
    Connect,
    Head,
    Body,
    Whole,
    Plugin,
}

impl Phase {
    /// The word for logs and metrics; also the name of the setting that bounds it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::Head => "head",
            Phase::Body => "body",
            Phase::Whole => "whole",
            Phase::Plugin => "plugin",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The request is not what it must be. The text is for the caller.
    Malformed,
    /// Body, head or field count beyond a limit; the status a caller gets is 413 or 431.
    TooLarge {
        /// Is it the head (431) or the body (413)?
        head: bool,
    },
    /// No route, or the route plugin knows no place for it.
    NoRoute,
    /// The method is not served here; refused with 405 or 501.
    MethodRefused,
    /// A list of the route lets no such request pass.
    Denied,
    /// The caller has used up what a rate limit gives it.
    Limited(Limited),
    /// The body is of a type that the route does not take.
    WrongType,
    /// An argument is not what it must be. The text is for the caller: which, where, and what was expected.
    BadArgument,
    /// The request is for another host than the one its connection was made to, and other rules hold there.
    Misdirected,
    /// A wait was too long.
    Timeout(Phase),
    /// The client was too slow: head, body or reading the answer.
    ClientTimeout(Phase),
    /// The client went away.
    ClientGone,
    /// No connection to the endpoint.
    Connect,
    /// The connection broke in the middle.
    Reset,
    /// The upstream's answer is not valid HTTP or breaks a limit.
    BadAnswer,
    /// A service or subset without endpoints.
    NoEndpoint,
    /// A limit of ours: its name.
    Overload(&'static str),
    /// A plugin failed: its name.
    Plugin(Arc<str>),
    /// The answer of a plugin breaks the contract: its name.
    PluginAnswer(Arc<str>),
    /// A message was not carried over, or its answer not back.
    Ferry(Ferried),
}

/// What callers of a ferry are told: numbers and texts that they have known for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ferried {
    /// 2001 and the like; see `wharf_ferry::codes`.
    pub code: u16,
    /// The text that belongs to it.
    pub text: &'static str,
    /// The status that the operator has chosen for it.
    pub status: u16,
    /// Nobody waited any longer.
    pub is_timeout: bool,
}

/// The limit that a caller has used up. Small: every answer that is handed on has room for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// How many in `per_ms`.
    pub limit: u32,
    /// The time that `limit` is for, milliseconds.
    pub per_ms: u32,
    /// When the next one is taken, milliseconds from now; at most 49 days.
    pub after_ms: u32,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// Who has to change something.
    pub blame: Blame,
    /// May it be tried again?
    pub retry: Retry,
    /// Seconds after which it may go better, for the caller; 0: not known.
    pub retry_after: u16,
    detail: Cow<'static, str>,
}

impl Fault {
    /// A fault; `detail` names the object, the limit and the remedy.
    pub fn new(kind: FaultKind, blame: Blame, retry: Retry, detail: impl Into<Cow<'static, str>>) -> Fault {
        Fault { kind, blame, retry, retry_after: 0, detail: detail.into() }
    }

    /// The caller's fault, never to be tried again.
    pub fn caller(kind: FaultKind, detail: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(kind, Blame::Caller, Retry::Never, detail)
    }

    /// An upstream's fault.
    pub fn upstream(kind: FaultKind, retry: Retry, detail: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(kind, Blame::Upstream, retry, detail)
    }

    /// A plugin's fault, never to be tried again within the exchange.
    pub fn plugin(kind: FaultKind, detail: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(kind, Blame::Plugin, Retry::Never, detail)
    }

    /// A limit of ours.
    pub fn overload(limit: &'static str, detail: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(FaultKind::Overload(limit), Blame::Host, Retry::Safe, detail)
    }

    /// Says when it may go better: in whole seconds, at least one.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Fault {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
        self.retry_after = u16::try_from(seconds).unwrap_or(u16::MAX);
        self
    }

    /// What happened in words, for the log.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// A bounded word for metrics and the access log.
    pub fn word(&self) -> &'static str {
        match &self.kind {
            FaultKind::Malformed => "malformed",
            FaultKind::TooLarge { head: true } => "head_too_large",
            FaultKind::TooLarge { head: false } => "body_too_large",
            FaultKind::NoRoute => "no_route",
            FaultKind::MethodRefused => "method_refused",
            FaultKind::Denied => "denied",
            FaultKind::Limited(_) => "limited",
            FaultKind::WrongType => "wrong_type",
            FaultKind::BadArgument => "bad_argument",
            FaultKind::Misdirected => "misdirected",
            FaultKind::Timeout(Phase::Connect) => "timeout_connect",
            FaultKind::Timeout(Phase::Head) => "timeout_head",
            FaultKind::Timeout(Phase::Body) => "timeout_body",
            // The time that the caller gave it: see `Exchange::whose_time`.
            FaultKind::Timeout(Phase::Whole) if self.blame == Blame::Caller => "client_timeout",
            FaultKind::Timeout(Phase::Whole) => "timeout_whole",
            FaultKind::Timeout(Phase::Plugin) => "timeout_plugin",
            FaultKind::ClientTimeout(_) => "client_timeout",
            FaultKind::ClientGone => "client_gone",
            FaultKind::Connect => "connect",
            FaultKind::Reset => "reset",
            FaultKind::BadAnswer => "bad_answer",
            FaultKind::NoEndpoint => "no_endpoint",
            FaultKind::Overload(_) => "overload",
            FaultKind::Plugin(_) => "plugin",
            FaultKind::PluginAnswer(_) => "plugin_answer",
            FaultKind::Ferry(Ferried { is_timeout: true, .. }) => "ferry_timeout",
            FaultKind::Ferry(_) => "ferry",
        }
    }
}

/// Is this the word of a fault that is not the caller's: a service, a plugin or the gateway itself failed? Those are errors
/// whatever the status says, which is 200 for calls of gRPC and for errors in an envelope. `upstream_status`, which is no
/// fault's word but stands where theirs do, is one of them.
pub fn is_word_of_server(word: &str) -> bool {
    matches!(
        word,
        "timeout_connect"
            | "timeout_head"
            | "timeout_body"
            | "timeout_whole"
            | "timeout_plugin"
            | "connect"
            | "reset"
            | "bad_answer"
            | "no_endpoint"
            | "overload"
            | "plugin"
            | "plugin_answer"
            | "ferry"
            | "ferry_timeout"
            | "upstream_status"
    )
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who failed, for each kind there is: a new one does not compile until it says so here, and is not tried until it
    /// stands below.
    fn is_servers(kind: &FaultKind) -> bool {
        match kind {
            FaultKind::Malformed
            | FaultKind::TooLarge { .. }
            | FaultKind::NoRoute
            | FaultKind::MethodRefused
            | FaultKind::Denied
            | FaultKind::Limited(_)
            | FaultKind::WrongType
            | FaultKind::BadArgument
            | FaultKind::Misdirected
            | FaultKind::ClientTimeout(_)
            | FaultKind::ClientGone => false,
            FaultKind::Timeout(Phase::Connect | Phase::Head | Phase::Body | Phase::Whole | Phase::Plugin)
            | FaultKind::Connect
            | FaultKind::Reset
            | FaultKind::BadAnswer
            | FaultKind::NoEndpoint
            | FaultKind::Overload(_)
            | FaultKind::Plugin(_)
            | FaultKind::PluginAnswer(_)
            | FaultKind::Ferry(_) => true,
        }
    }

    #[test]
    fn every_word_says_whether_a_server_failed() {
        let limited = Limited { limit: 1, per_ms: 1000, after_ms: 1 };
        let phases = [Phase::Connect, Phase::Head, Phase::Body, Phase::Whole, Phase::Plugin];
        let kinds = [
            FaultKind::Malformed,
            FaultKind::TooLarge { head: true },
            FaultKind::TooLarge { head: false },
            FaultKind::NoRoute,
            FaultKind::MethodRefused,
            FaultKind::Denied,
            FaultKind::Limited(limited),
            FaultKind::WrongType,
            FaultKind::BadArgument,
            FaultKind::Misdirected,
            FaultKind::ClientTimeout(Phase::Body),
            FaultKind::ClientGone,
            FaultKind::Connect,
            FaultKind::Reset,
            FaultKind::BadAnswer,
            FaultKind::NoEndpoint,
            FaultKind::Overload("x"),
            FaultKind::Plugin("x".into()),
            FaultKind::PluginAnswer("x".into()),
            FaultKind::Ferry(Ferried { code: 5000, text: "system error", status: 500, is_timeout: false }),
            FaultKind::Ferry(Ferried { code: 2001, text: "timeout", status: 504, is_timeout: true }),
        ];
        let mut words = Vec::new();
        for kind in kinds.into_iter().chain(phases.map(FaultKind::Timeout)) {
            let servers = is_servers(&kind);
            let word = Fault::upstream(kind, Retry::Never, "x").word();
            assert_eq!(is_word_of_server(word), servers, "{word}");
            words.push(word);
        }
        let all = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all, "a word of its own for each: {words:?}");
        // How little time a caller gives is its own affair.
        assert!(!is_word_of_server(Fault::caller(FaultKind::Timeout(Phase::Whole), "x").word()));
        assert!(is_word_of_server("upstream_status") && !is_word_of_server("something"));
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_too_short() {
        let told = |wait| Fault::overload("x", "x").after(wait).retry_after;
        let cases = [(0, 1), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (7_500, 8), (u64::MAX, u16::MAX)];
        for (ms, seconds) in cases {
            assert_eq!(told(Duration::from_millis(ms)), seconds, "{ms} ms");
        }
        // It has room where there was none used: a fault goes through many hands.
        assert!(size_of::<Fault>() <= 56, "{}", size_of::<Fault>());
    }
}
