//! Malformed, ambiguous, odd and hostile bytes as data, and what became of them.
//!
//! The cases are text under `data/strictness`, one block each, an empty line between two:
//!
//! ```text
//! a name                       what is tried
//! listener trusted             another listener than `main`
//! > GET / HTTP/1.1             what the client sends
//! ~ HTTP/1.1 200 OK            what the upstream answers (answers.txt); `~! hang` how it goes on
//! = 400 host                   the statuses that the client must see, and the `code` of the last one
//! < GET / HTTP/1.1             exactly what the upstream must have received; in answers.txt the client
//! < @                          the three fields that say who the client is, for host h; `@ a` for host a
//! ```
//!
//! Lines end in CR LF; one that ends in `\` ends in nothing. `\r \n \t \0 \xHH \\` are bytes, `\{3*ab}` is `ababab`.
//! No `<` line in a file of requests means that the upstream must have received nothing; `cut` behind the statuses,
//! that it may have received the beginning of a request, never a whole one.
//!
//! Several gateways run side by side, each with its recording upstream; the cases of one follow each other, so what an
//! upstream receives belongs to the case. A good request comes behind each: it must be served as if nothing had been.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "this is test code: a panic is how a test tells"
)]

use std::fmt;
use std::time::Duration;
use wharf_harness::raw::{Connection, Ended, Heard};
use wharf_harness::upstream::{Act, ok};
use wharf_harness::wait::try_until;
use wharf_harness::{Reply, Upstream, Wharf};

/// All deadlines of the gateway under test are shorter than this together.
const HUNG: Duration = Duration::from_secs(9);
/// What must never get past the gateway, in either direction.
const LEAK: &[u8] = b"LEAK";
const FENCE: &[u8] = b"GET /fence HTTP/1.1\r\nHost: fence\r\n\r\n";

/// What a file of cases is about; says how a deviation counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Must be refused.
    Malformed,
    /// Some fields must end here.
    Fields,
    /// Must be served.
    Valid,
    /// Must not reach what is denied.
    Path,
    /// The upstream is the attacker.
    Answer,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    kind: Kind,
    name: String,
    listener: String,
    request: Vec<u8>,
    acts: Vec<Act>,
    statuses: Vec<u16>,
    code: Option<String>,
    cut: bool,
    /// Taken although the RFC would let us refuse it.
    pub repaired: bool,
    expected: Option<Vec<u8>>,
    /// For paths: what the upstream must see as target.
    target: Option<String>,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name says it")]
pub enum Wrong {
    Forwarded,
    Leak,
    Bypass,
    Hung,
    ValidRefused,
    /// None of these, and not what the case expects either.
    Other,
}

/// A case that did not go as expected.
#[derive(Debug)]
pub struct Failure {
    /// How it counts.
    pub wrong: Wrong,
    case: String,
    why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.wrong, self.case, self.why)
    }
}

/// A gateway with its upstream.
pub struct Rig {
    wharf: Wharf,
    upstream: Upstream,
}

impl Rig {
    /// Starts both.
    pub fn start() -> Rig {
        let upstream = Upstream::start(|_| Vec::new());
        let wharf = Wharf::start(CONFIG.replace("@UPSTREAM@", &upstream.address().to_string())).unwrap();
        Rig { wharf, upstream }
    }

    /// Runs one case and judges it.
    pub fn run(&self, case: &Case) -> Vec<Failure> {
        let acts = case.acts.clone();
        self.upstream.script(move |seen| {
            let target = seen.request.target();
            match target.as_str() {
                "/fence" => vec![Act::Send(ok(b"fence"))],
                _ if !acts.is_empty() => acts.clone(),
                // It would take any protocol that it is offered, and one that it is not.
                "/switch" => {
                    let protocol = seen.request.field("upgrade").unwrap_or("h2c".into());
                    let head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
                    vec![Act::Send(head.into_bytes()), Act::Echo]
                }
                _ => vec![Act::Send(ok(b""))],
            }
        });
        self.upstream.forget();
        let mut connection = Connection::open(self.wharf.listener(&case.listener)).unwrap();
        // The gateway may refuse and close before it has read everything.
        let _ = connection.send(&case.request);
        let is_served = case.statuses.last().is_some_and(|&status| status < 400) && !case.cut;
        if is_served || case.kind == Kind::Answer {
            connection.finish();
        }
        let heard = connection.rest(HUNG);
        drop(connection);
        let mut failures = Vec::new();
        let mut fail = |wrong: Wrong, why: String| {
            failures.push(Failure { wrong, case: format!("{:?} {:?}", case.kind, case.name), why });
        };
        if heard.ended == Ended::Deadline {
            fail(Wrong::Hung, format!("neither answered nor closed in {HUNG:?}; so far {:?}", short(&heard.bytes)));
        }
        if let Err(why) = self.fence(case) {
            fail(Wrong::Forwarded, format!("the good request behind it: {why}"));
        }
        // Whatever was sent to connections that are closed by now has been read when they are gone.
        let open = try_until(Duration::from_secs(2), || (self.upstream.open() <= 1).then_some(()));
        if open.is_none() {
            fail(Wrong::Other, format!("{} upstream connections stay open", self.upstream.open()));
        }
        judge_client(case, &heard, &mut fail);
        self.judge_upstream(case, &mut fail);
        failures
    }

    fn fence(&self, case: &Case) -> Result<(), String> {
        let mut connection = Connection::open(self.wharf.listener(&case.listener)).map_err(|error| error.to_string())?;
        connection.send(FENCE).map_err(|error| error.to_string())?;
        let reply = connection.reply("GET").map_err(|error| error.to_string())?;
        match (reply.status, reply.body.as_slice()) {
            (200, b"fence") => Ok(()),
            (status, body) => Err(format!("answered by {status} {:?}", short(body))),
        }
    }

    fn judge_upstream(&self, case: &Case, fail: &mut impl FnMut(Wrong, String)) {
        let fence = [b"GET /fence HTTP/1.1\r\nhost: fence\r\n".as_slice(), &who("fence"), b"\r\n\r\n"].concat();
        let mut window = Vec::new();
        for stream in self.upstream.heard() {
            let mut rest = stream.as_slice();
            while let Some(before) = rest.strip_suffix(fence.as_slice()) {
                rest = before;
            }
            window.extend_from_slice(rest);
        }
        let requests: Vec<_> = self.upstream.requests().into_iter().filter(|request| request.target() != "/fence").collect();
        if holds(&window, LEAK) && case.kind != Kind::Answer {
            fail(Wrong::Leak, format!("the upstream saw {:?}", short(&window)));
        }
        for request in &requests {
            let head = &request.raw[request.head.clone()];
            if let Some(name) = hop_by_hop(head) {
                fail(Wrong::Leak, format!("the upstream saw field {name:?} in {:?}", short(head)));
            }
            if reads_as_admin(request.target().as_bytes()) {
                fail(Wrong::Bypass, format!("the upstream saw target {:?}", request.target()));
            }
        }
        if !window.is_empty()
            && let Err(why) = canonical_head(&window)
        {
            fail(Wrong::Forwarded, format!("{why} in what the upstream saw: {:?}", short(&window)));
        }
        match (&case.expected, &case.target) {
            (None, None) if case.kind == Kind::Answer => {}
            (Some(expected), _) if case.kind != Kind::Answer => {
                if window != *expected {
                    fail(Wrong::Forwarded, format!("the upstream saw\n  {:?}\n  not\n  {:?}", short(&window), short(expected)));
                }
            }
            (_, Some(target)) => {
                let seen: Vec<_> = requests.iter().map(|request| request.target()).collect();
                if seen != [target.as_str()] {
                    fail(Wrong::Other, format!("the upstream saw {seen:?}, not {target:?}"));
                }
            }
            _ if case.kind == Kind::Answer => {}
            _ if case.cut => {
                if !requests.is_empty() {
                    fail(Wrong::Forwarded, format!("the upstream saw a whole request: {:?}", short(&window)));
                }
            }
            _ => {
                if !window.is_empty() {
                    fail(Wrong::Forwarded, format!("the upstream saw {:?}", short(&window)));
                }
            }
        }
    }
}

fn judge_client(case: &Case, heard: &Heard, fail: &mut impl FnMut(Wrong, String)) {
    if holds(&heard.bytes, LEAK) {
        fail(Wrong::Leak, format!("the client saw {:?}", short(&heard.bytes)));
    }
    // HEAD decides whether a body follows; no case pipelines it.
    let method = if case.request.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
    let (replies, rest) = heard.replies(&[method]);
    if case.cut && case.statuses == [200] {
        // A head that is followed by less than it promises, or nothing, or our word for it where nothing was sent yet: each
        // way the client knows.
        if replies.iter().any(|reply| reply.status != 502) {
            fail(Wrong::Forwarded, format!("what was cut was shown as whole: {:?}", short(&heard.bytes)));
        }
        return;
    }
    for reply in &replies {
        let head = &reply.raw[reply.head.clone()];
        if head.iter().any(|&byte| (byte < b' ' && !matches!(byte, b'\r' | b'\n' | b'\t')) || byte == 0x7f) {
            fail(Wrong::Forwarded, format!("a control byte in the answer {:?}", short(head)));
        }
    }
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    let is_tunnel = statuses == [101];
    if statuses != case.statuses {
        let refused = statuses.iter().any(|&status| status >= 400) && matches!(case.kind, Kind::Valid | Kind::Fields);
        let wrong = if refused { Wrong::ValidRefused } else { Wrong::Other };
        fail(wrong, format!("answered {statuses:?}, not {:?}: {:?}", case.statuses, short(&heard.bytes)));
    } else if !is_tunnel && !rest.is_empty() {
        fail(Wrong::Forwarded, format!("bytes behind the answers: {:?}", short(&rest)));
    } else if is_tunnel && !case.request.ends_with(&[b"\r\n\r\n".as_slice(), &rest].concat()) {
        // What is behind the request comes back from the upstream, which echoes it.
        fail(Wrong::Forwarded, format!("bytes behind the switch: {:?}", short(&rest)));
    }
    if let (Some(code), Some(last)) = (&case.code, replies.last()) {
        let said = serde_json::from_slice::<serde_json::Value>(&last.body).ok();
        let said = said.as_ref().and_then(|said| said["code"].as_str()).unwrap_or_default();
        if said != code {
            fail(Wrong::Other, format!("code {said:?}, not {code:?}: {:?}", short(&last.body)));
        }
        if code != "no_route" && matches!(case.kind, Kind::Malformed) && !last.closes() {
            fail(Wrong::Other, "the connection is kept behind an error".into());
        }
    }
    if case.kind == Kind::Answer
        && let Some(expected) = &case.expected
        && let [.., reply] = replies.as_slice()
        && without_date(reply) != *expected
    {
        fail(Wrong::Forwarded, format!("the client saw\n  {:?}\n  not\n  {:?}", short(&without_date(reply)), short(expected)));
    }
}

/// The bytes of an answer without field date and without what says whether the connection goes on.
fn without_date(reply: &Reply) -> Vec<u8> {
    let (head, body) = reply.raw.split_at(reply.head.end);
    let lines =
        head.split_inclusive(|&byte| byte == b'\n').filter(|line| !line.starts_with(b"date: ") && !line.starts_with(b"connection: "));
    [lines.collect::<Vec<_>>().concat().as_slice(), body].concat()
}

/// Is the head in the one form that we write?
fn canonical_head(bytes: &[u8]) -> Result<(), String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Err("no whole head".into()) };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    if first.split(' ').count() != 3 || !first.ends_with(" HTTP/1.1") {
        return Err(format!("request line {first:?}"));
    }
    if text.replace("\r\n", "").contains(|byte: char| (byte < ' ' && byte != '\t') || byte == '\x7f') {
        return Err("a control byte".into());
    }
    let mut counts = [0; 3];
    for line in lines {
        let Some((name, _)) = line.split_once(": ") else { return Err(format!("field line {line:?}")) };
        if name.is_empty()
            || name.contains(|letter: char| letter.is_ascii_uppercase() || letter <= ' ' || "(),/:;<=>?@[\\]{}\"".contains(letter))
        {
            return Err(format!("field name {name:?}"));
        }
        for (count, framing) in counts.iter_mut().zip(["host", "content-length", "transfer-encoding"]) {
            *count += u32::from(name == framing);
        }
    }
    match counts {
        [1, 0 | 1, 0] | [1, 0, 1] => Ok(()),
        _ => Err(format!("{counts:?} of host, content-length and transfer-encoding")),
    }
}

/// A field that is about the client's connection only.
fn hop_by_hop(head: &[u8]) -> Option<String> {
    const ENDS_HERE: [&str; 8] =
        ["keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "te", "trailer", "http2-settings", "expect"];
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let switches = text.contains("\r\nconnection: upgrade\r\n") && text.contains("\r\nupgrade: ");
    text.split("\r\n").skip(1).filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        let is_ours = switches && (name == "upgrade" || (name == "connection" && value == " upgrade"));
        let about_connection = ENDS_HERE.contains(&name) || ((name == "connection" || name == "upgrade") && !is_ours);
        about_connection.then(|| name.to_owned())
    })
}

/// One careless way to read a path.
type Step = fn(&[u8]) -> Vec<u8>;

/// Would some server take this target for /admin, or something below it that is not /admin/open? Servers are careless in different ways and in
/// different orders, so everything is tried that can be read out of the path by any of these steps, one after another.
fn reads_as_admin(target: &[u8]) -> bool {
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default().to_vec();
    let mut readings = vec![path];
    let mut at = 0;
    while at < readings.len() {
        let path = readings[at].clone();
        at += 1;
        let mut names = path.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty());
        if names.next() == Some(b"admin") && !names.next().is_some_and(|below| below.starts_with(b"open")) {
            return true;
        }
        let steps: [Step; 8] = [decoded, without_parameters, with_slashes, cut_short, resolved, shortened, without_blanks, without_tabs];
        for step in steps {
            let read = step(&path);
            if !readings.contains(&read) {
                readings.push(read);
            }
        }
    }
    false
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let digits = path.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if path[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}

fn segments(path: &[u8], change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    path.split(|&byte| byte == b'/').map(change).collect::<Vec<_>>().join(&b'/')
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    segments(path, |segment| segment.split(|&byte| byte == b';').next().unwrap_or_default().to_vec())
}

fn with_slashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|&byte| if byte == b'\\' { b'/' } else { byte }).collect()
}

fn cut_short(path: &[u8]) -> Vec<u8> {
    let path = path.split(|byte| matches!(byte, 0 | b'?' | b'#' | b'\r' | b'\n')).next().unwrap_or_default();
    path.trim_ascii_end().to_vec()
}

fn resolved(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    for segment in path.split(|&byte| byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(out.pop()),
            name => out.push(name),
        }
    }
    [b"/", out.join(&b'/').as_slice()].concat()
}

/// Names without what is white space to anybody, in ASCII, Latin-1 or UTF-8.
fn without_blanks(path: &[u8]) -> Vec<u8> {
    segments(path, |name| {
        let mut name = match std::str::from_utf8(name) {
            Ok(text) => text.trim().as_bytes(),
            Err(_) => name,
        };
        while let [0..=b' ' | 0x85 | 0xa0, rest @ ..] = name {
            name = rest;
        }
        while let [rest @ .., 0..=b' '] = name {
            name = rest;
        }
        while std::str::from_utf8(name).is_err()
            && let [rest @ .., 0x85 | 0xa0] = name
        {
            name = rest;
        }
        name.to_vec()
    })
}

fn without_tabs(path: &[u8]) -> Vec<u8> {
    path.iter().copied().filter(|&byte| byte != b'\t').collect()
}

/// UTF-8 read without a look at whether it is the shortest form, how long it may be and what continues it.
fn shortened(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        let more = first.leading_ones().saturating_sub(1) as usize;
        let value = tail.get(..more).filter(|_| more > 0).map(|behind| {
            let bits = u64::from(first) & (0x7f >> first.leading_ones());
            behind.iter().fold(bits, |value, byte| value << 6 | u64::from(byte & 0x3f))
        });
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(ascii @ 0..=0x7f) => {
                out.push(ascii);
                rest = &tail[more..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

fn short(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(700)]).into_owned();
    if bytes.len() > 700 { format!("{text}... ({} bytes)", bytes.len()) } else { text }
}

/// What the gateway tells the upstream about the client, without the last line end.
fn who(host: &str) -> Vec<u8> {
    format!("x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: {host}").into_bytes()
}

/// All cases of all files.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // The slowest first: they wait for deadlines.
    cases.extend(blocks(Kind::Answer, include_str!("../data/strictness/answers.txt")));
    cases.extend(blocks(Kind::Malformed, include_str!("../data/strictness/malformed.txt")));
    cases.extend(blocks(Kind::Fields, include_str!("../data/strictness/fields.txt")));
    cases.extend(blocks(Kind::Valid, include_str!("../data/strictness/valid.txt")));
    cases.extend(
        include_str!("../data/strictness/paths.txt").lines().filter(|line| line.contains(" = ") && !line.starts_with('#')).map(path_case),
    );
    cases
}

/// How many there are of a kind.
pub fn count(cases: &[Case], kind: Kind) -> usize {
    cases.iter().filter(|case| case.kind == kind).count()
}

fn path_case(line: &str) -> Case {
    let (target, outcome) = line.split_once(" = ").unwrap();
    let status = outcome.parse().unwrap_or(200);
    Case {
        kind: Kind::Path,
        name: target.to_owned(),
        listener: "main".into(),
        request: bytes(&format!("GET {target} HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")),
        acts: Vec::new(),
        statuses: vec![status],
        code: None,
        cut: false,
        repaired: false,
        expected: None,
        target: (status == 200).then(|| outcome.to_owned()),
    }
}

fn blocks(kind: Kind, text: &str) -> Vec<Case> {
    let is_case = |block: &&str| block.lines().any(|line| line.starts_with('='));
    text.split("\n\n").filter(is_case).map(|block| block_case(kind, block)).collect()
}

fn block_case(kind: Kind, block: &str) -> Case {
    let mut lines = block.lines().filter(|line| !line.starts_with('#'));
    let name = lines.next().unwrap().to_owned();
    let mut case = Case {
        kind,
        name,
        listener: "main".into(),
        request: Vec::new(),
        acts: Vec::new(),
        statuses: Vec::new(),
        code: None,
        cut: false,
        repaired: false,
        expected: None,
        target: None,
    };
    let (mut answer, mut then) = (Vec::new(), vec![Act::Close]);
    for line in lines {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "listener" => case.listener = rest.to_owned(),
            ">" => case.request.extend(line_bytes(rest)),
            "~" => answer.extend(line_bytes(rest)),
            "~!" => {
                then = match rest.split_once(' ').unwrap_or((rest, "")) {
                    ("hang", _) => vec![Act::Hang],
                    ("reset", _) => vec![Act::Reset],
                    ("keep", _) => vec![],
                    ("drip", what) => vec![Act::Trickle(bytes(what), Duration::from_millis(50)), Act::Close],
                    other => panic!("{:?}: how does an upstream {other:?}?", case.name),
                }
            }
            "=" => {
                for word in rest.split(' ') {
                    match (word, word.parse()) {
                        (_, Ok(status)) => case.statuses.push(status),
                        ("cut", _) => case.cut = true,
                        ("repaired", _) => case.repaired = true,
                        (code, _) => case.code = Some(code.to_owned()),
                    }
                }
            }
            "<" => {
                let expected = case.expected.get_or_insert_default();
                match rest.strip_prefix('@') {
                    Some(host) => {
                        let host = host.trim();
                        expected.extend(who(if host.is_empty() { "h" } else { host }));
                        expected.extend(b"\r\n");
                    }
                    None => expected.extend(line_bytes(rest)),
                }
            }
            _ => panic!("{:?}: what is {line:?}?", case.name),
        }
    }
    if kind == Kind::Answer {
        if case.request.is_empty() {
            case.request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
        }
        case.acts.extend((!answer.is_empty()).then_some(Act::Send(answer)));
        case.acts.extend(then);
    }
    assert!(!case.statuses.is_empty() && !case.request.is_empty(), "{:?} says nothing", case.name);
    case
}

fn line_bytes(line: &str) -> Vec<u8> {
    match line.strip_suffix('\\') {
        // An escaped backslash at the end is a byte.
        Some(open) if !line.ends_with("\\\\") => bytes(open),
        _ => [bytes(line).as_slice(), b"\r\n"].concat(),
    }
}

fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = rest[at + 1..].chars().next().unwrap_or_else(|| panic!("an open escape in {text:?}"));
        rest = &rest[at + 2..];
        match escape {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            '0' => out.push(0),
            '\\' => out.push(b'\\'),
            'x' => {
                out.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            '{' => {
                let end = closing(rest);
                let (times, what) = rest[..end].split_once('*').unwrap();
                out.extend(bytes(what).repeat(times.parse().unwrap()));
                rest = &rest[end + 1..];
            }
            other => panic!("escape {other:?} in {text:?}"),
        }
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// Where the brace that is open ends.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => return at,
            '}' => depth -= 1,
            _ => {}
        }
    }
    panic!("an open brace in {text:?}")
}

const CONFIG: &str = r#"
node: {state_dir: "@DIR@/state"}
access_log: {to: off}
admin: {bind: "127.0.0.1:0"}
workers: 1
listeners:
  main:
    bind: "127.0.0.1:0"
    timeouts: {head: 1s, body: 1s, keep_alive: 2s, quiet: 2s}
  trusted:
    bind: "127.0.0.1:0"
    trusted_proxies: [127.0.0.0/8]
    timeouts: {head: 1s, body: 1s, keep_alive: 2s, quiet: 2s}
services:
  up:
    endpoints: ["@UPSTREAM@"]
    timeouts: {connect: 1s, head: 1s, body: 1s}
defaults: {timeouts: {whole: 3s}, body_bytes_max: 64KiB}
routes:
  - {name: rest, match: {path: {prefix: /}}, to: up, preserve_host: true}
  - name: denied
    match: {path: {prefix: /admin}}
    to: {answer: {status: 403, body: "denied\n"}}
  - {name: open, match: {path: {prefix: /admin/open}}, to: up, preserve_host: true}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_careless_reader_is_careless() {
        for walks_around in [
            "/admin",
            "//admin/x",
            "/%61dmin",
            "/%2561dmin",
            "/a/..;x/admin",
            "/a\\..\\admin",
            "/;x/admin;y",
            "/a/%c0%ae%c0%ae/admin",
            "/admin%00.png",
            "/admin%3Fa",
            "/admin%20/x",
            "/admin%3Fx/open",
            "/admin/open/..%23",
            "/ad%09min",
            "/a/..%C2%A0/admin",
            "/a/..%85/admin",
            "/a/%C0n%C0n/admin",
            "/a/%F8%80%80%80%AE./admin",
            "/a/%25C0%25AE./admin",
        ] {
            assert!(reads_as_admin(walks_around.as_bytes()), "{walks_around}");
        }
        for other in [
            "/",
            "/administrator",
            "/a/admin",
            "/a;admin",
            "/?/admin",
            "/ADMIN",
            "/admin%20x",
            "/admin/open/x",
            "/admin/open%3F/x",
            "/admin%C3%A0",
            "/a/%C3%80n./admin",
        ] {
            assert!(!reads_as_admin(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn escapes_are_bytes() {
        assert_eq!(line_bytes("a\\tb\\x00"), b"a\tb\0\r\n");
        assert_eq!(line_bytes("\\{2*a\\{2*b}\\r\\n}\\"), b"abb\r\nabb\r\n");
        assert_eq!(line_bytes("a\\\\"), b"a\\\r\n");
    }
}
