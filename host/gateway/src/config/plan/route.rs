//! Routes, checked.

use super::*;
use bytes::Bytes;
use wharf_core::head::ResponseHead;
use wharf_http::check::Checks;
use wharf_http::compress::Compression;
use wharf_http::cors::Cors;
use wharf_http::edits::HeaderEdits;
use wharf_http::envelope::Envelope;
use wharf_http::lists::Lists;
use wharf_http::rate::{By, Rate};
use wharf_http::redirect::Redirect;
use wharf_http::rewrite::Rewrite;
use wharf_http::routes::Test;
use wharf_http::split::Sticky;
use wharf_http::steps::DefaultAnswer;

/// What a request must look like, and what happens to it.
#[derive(Clone, Debug)]
pub struct Route {
    /// Unique.
    pub name: Arc<str>,
    /// What a request must look like.
    pub matches: RouteMatch,
    /// Where it goes.
    pub target: Target,
    /// From the head of the request to the end of the answer.
    pub whole_timeout: Duration,
    /// Neither the route nor `defaults` says so.
    pub whole_is_default: bool,
    /// Largest request body.
    pub body_bytes_max: u64,
    /// Try again what is safe.
    pub retries: bool,
    /// Upstream statuses that count as faults for degrade plugins.
    pub degrade_statuses: Vec<u16>,
    /// Send the client's `host` upstream.
    pub preserve_host: bool,
    /// Its breaker, whatever service it leads to.
    pub breaker: Option<wharf_upstream::BreakerPolicy>,
    /// Whom it lets in.
    pub access: Option<Arc<Lists>>,
    /// How many requests.
    pub limits: Vec<RateLimit>,
    /// Pages of other origins.
    pub cors: Option<Arc<Cors>>,
    /// What callers may send and the service may answer.
    pub checks: Option<Arc<Checks>>,
    /// Another path for the upstream.
    pub rewrite: Option<Arc<Rewrite>>,
    /// Header edits of requests.
    pub request_headers: Option<Arc<HeaderEdits>>,
    /// Header edits of answers.
    pub response_headers: Option<Arc<HeaderEdits>>,
    /// Answers in the place of others.
    pub default_answers: Vec<Arc<DefaultAnswer>>,
    /// Errors in HTTP 200.
    pub envelope: Option<Arc<Envelope>>,
    /// Compression of answers.
    pub compression: Option<Arc<Compression>>,
    /// Copies for another service.
    pub mirror: Option<Mirror>,
    /// Which of its requests are recorded.
    pub sampling: wharf_http::record::Sampling,
    /// Copies of bodies for the record.
    pub capture: Option<Capture>,
    /// The attachments in the order they are asked: global, host, route, service; within each by `order`, then as written.
    /// For hosts of which `host_chains` knows nothing.
    pub chain: Vec<Attachment>,
    /// Chains for hosts that have attachments of their own; the most specific pattern counts
    /// (`wharf_http::routes::HostTable`). Empty where the host makes no difference.
    pub host_chains: Vec<(HostPattern, Vec<Attachment>)>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this service.
    Service {
        /// Its name.
        name: Arc<str>,
        /// Only to endpoints with this tag.
        subset: Option<Box<str>>,
    },
    /// One of these ways.
    Split {
        /// The ways, in the order in which their tests are tried.
        arms: Vec<SplitArm>,
        /// What requests stick to.
        sticky: Option<Sticky>,
    },
    /// Where this route plugin says; it may name any service.
    Plugin(Attachment),
    /// Over to the other side, on this lane.
    Ferry(Arc<str>),
    /// What came of a message that was sent on this lane.
    FerryAnswers(Arc<str>),
    /// Elsewhere: the client is told to ask there.
    Redirect(Redirect),
    /// Nowhere: this is the answer.
    Answer(Answer),
}

/// One way of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitArm {
    /// The service's name.
    pub service: Arc<str>,
    /// Only to endpoints with this tag.
    pub subset: Option<Box<str>>,
    /// Its part.
    pub weight: u32,
    /// Who passes them goes here whatever the weights; empty: nobody.
    pub tests: Vec<Test>,
}

/// An answer that needs no upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 599.
    pub status: u16,
    /// Fields, names in lower case.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The body.
    pub body: Box<str>,
}

impl Answer {
    /// As the room of HTTP wants it.
    pub fn parts(&self) -> (ResponseHead, Bytes) {
        let mut head = ResponseHead::new(self.status);
        for (name, value) in &self.headers {
            head.fields.add(name.as_bytes(), value.as_bytes());
        }
        (head, Bytes::from(self.body.as_bytes().to_vec()))
    }
}

/// A rate limit in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Unique for each count; routes that name the same limit share it.
    pub key: Box<str>,
    /// For people.
    pub name: Box<str>,
    /// How many.
    pub rate: Rate,
    /// Whom it is for.
    pub by: By,
}

/// Copies for another service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Its name.
    pub service: Arc<str>,
    /// Only to endpoints with this tag.
    pub subset: Option<Box<str>>,
    /// Of a million requests so many.
    pub share: u32,
    /// Requests with a larger body are not copied.
    pub body_bytes_max: usize,
    /// On their way at a time, on each core.
    pub in_flight_max: u32,
    /// For a copy and its answer.
    pub timeout: Duration,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = |f: &mut fmt::Formatter<'_>, name: &str, subset: Option<&str>| match subset {
            None => write!(f, "service {name}"),
            Some(subset) => write!(f, "service {name}, endpoints tagged {subset}"),
        };
        match self {
            Target::Service { name, subset } => service(f, name, subset.as_deref()),
            Target::Split { arms, .. } => {
                f.write_str("split:")?;
                for (at, arm) in arms.iter().enumerate() {
                    f.write_str(if at == 0 { " " } else { "; " })?;
                    service(f, &arm.service, arm.subset.as_deref())?;
                    write!(f, " ({})", arm.weight)?;
                }
                Ok(())
            }
            Target::Plugin(attachment) => write!(f, "route plugin {}", attachment.plugin),
            Target::Ferry(lane) => write!(f, "ferry lane {lane}"),
            Target::FerryAnswers(lane) => write!(f, "answers of ferry lane {lane}"),
            Target::Redirect(redirect) => write!(f, "redirect {}", redirect.status),
            Target::Answer(answer) => write!(f, "answer {}", answer.status),
        }
    }
}
