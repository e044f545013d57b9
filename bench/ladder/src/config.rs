//! What the gateway's access log needs of the gateway's plan, under the names it knows.

#![allow(dead_code, reason = "named by the access log")]

pub(crate) mod plan {
    use std::path::PathBuf;

    /// As in the gateway's plan.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) enum LogTarget {
        Off,
        Stdout,
        File(PathBuf),
    }

    /// As in the gateway's plan.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct AccessLog {
        pub(crate) target: LogTarget,
        pub(crate) redact_query: Vec<Box<str>>,
    }
}
