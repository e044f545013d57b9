//! HTTP/1.1 messages as a tester needs them: kept as the bytes they were, read just far enough to know where they end.
//!
//! Deliberately not strict: whether something is malformed is what the tests decide, from the bytes.

use std::io::{self, Read};
use std::ops::Range;

/// Largest message the tester takes; more is a test gone wrong.
pub const MESSAGE_MAX: usize = 64 << 20;

/// One message with the bytes it came as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Head and body with all their framing.
    pub raw: Vec<u8>,
    /// The head: start line and fields, with the empty line.
    pub head: Range<usize>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Did a chunked body come?
    pub chunked: bool,
    /// Trailer lines of a chunked body.
    pub trailers: Vec<(String, String)>,
}

/// What is at the start of some bytes.
enum Found {
    Whole(Message),
    /// The message has no end but the connection's.
    UntilClose(Message),
    More,
}

impl Message {
    /// The start line.
    pub fn start_line(&self) -> String {
        String::from_utf8_lossy(&self.raw[self.head.clone()]).lines().next().unwrap_or_default().to_owned()
    }

    /// All field lines in order, names as they came.
    pub fn fields(&self) -> Vec<(String, String)> {
        fields(&self.raw[self.head.clone()])
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.fields().into_iter().filter(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The first value of a field.
    pub fn field(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {:?}", String::from_utf8_lossy(&self.raw)),
        }
    }
}

/// A request as an upstream received it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Its bytes.
    pub message: Message,
}

impl std::ops::Deref for Request {
    type Target = Message;
    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Request {
    /// The method.
    pub fn method(&self) -> String {
        self.start_line().split(' ').next().unwrap_or_default().to_owned()
    }

    /// The target as it stands in the start line.
    pub fn target(&self) -> String {
        self.start_line().split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Takes the next whole request from the front of `bytes`.
    pub(crate) fn take(bytes: &mut Vec<u8>) -> Option<Request> {
        match find(bytes, None) {
            Found::Whole(message) => {
                bytes.drain(..message.raw.len());
                Some(Request { message })
            }
            // A request without framing has no body.
            Found::UntilClose(_) | Found::More => None,
        }
    }
}

/// An answer as a client received it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Its bytes.
    pub message: Message,
    /// Its status; 0 when the status line is none.
    pub status: u16,
}

impl std::ops::Deref for Reply {
    type Target = Message;
    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Reply {
    /// Does the server end the connection after this?
    pub fn closes(&self) -> bool {
        self.all("connection").iter().any(|value| value.to_ascii_lowercase().contains("close"))
    }

    /// Reads one answer to a request of `method`, keeping in `held` what came too much.
    ///
    /// # Errors
    /// `UnexpectedEof` when the connection ended before the answer did; else as the socket says.
    pub fn read(from: &mut impl Read, held: &mut Vec<u8>, method: &str) -> io::Result<Reply> {
        let mut piece = vec![0; 64 << 10];
        loop {
            let mut ended = false;
            let found = find(held, Some(method));
            let open = match found {
                Found::Whole(message) => {
                    held.drain(..message.raw.len());
                    return Ok(Reply { status: status(&message), message });
                }
                Found::UntilClose(message) => Some(message),
                Found::More => None,
            };
            if held.len() > MESSAGE_MAX {
                return Err(io::Error::other("the answer is larger than a tester takes"));
            }
            match from.read(&mut piece) {
                Ok(0) => ended = true,
                Ok(n) => held.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            match (ended, open) {
                (true, Some(mut message)) => {
                    message.raw = std::mem::take(held);
                    message.body = message.raw[message.head.end..].to_vec();
                    return Ok(Reply { status: status(&message), message });
                }
                (true, None) => {
                    let so_far = String::from_utf8_lossy(&held[..held.len().min(200)]).into_owned();
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("the connection ended inside an answer, after {so_far:?}"),
                    ));
                }
                (false, _) => {}
            }
        }
    }

    /// All answers in a stretch of bytes, as far as they are whole; the rest as it is.
    pub fn all_in(bytes: &[u8], methods: &[&str]) -> (Vec<Reply>, Vec<u8>) {
        let mut held = bytes.to_vec();
        let mut replies = Vec::new();
        let mut methods = methods.iter().copied();
        let mut method = methods.next().unwrap_or("GET");
        while let Found::Whole(message) = find(&held, Some(method)) {
            held.drain(..message.raw.len());
            let status = status(&message);
            replies.push(Reply { status, message });
            if status >= 200 {
                method = methods.next().unwrap_or("GET");
            }
        }
        (replies, held)
    }
}

fn status(message: &Message) -> u16 {
    message.start_line().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn fields(head: &[u8]) -> Vec<(String, String)> {
    String::from_utf8_lossy(head)
        .split("\r\n")
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| {
            line.split_once(':').map_or((line.to_owned(), String::new()), |(name, value)| (name.to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// `method`: of the request that this answers; `None`: this is a request.
fn find(bytes: &[u8], method: Option<&str>) -> Found {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) else { return Found::More };
    let mut message = Message { raw: Vec::new(), head: 0..end, ..Message::default() };
    let fields = fields(&bytes[..end]);
    let value = |name: &str| fields.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
    let status: u16 = match method {
        Some(_) => String::from_utf8_lossy(&bytes[..end]).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0),
        None => 0,
    };
    let bodiless = method == Some("HEAD") || (100..200).contains(&status) || status == 204 || status == 304;
    if bodiless {
        message.raw = bytes[..end].to_vec();
        return Found::Whole(message);
    }
    if value("transfer-encoding").is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked")) {
        message.chunked = true;
        return chunks(bytes, end, message);
    }
    let length = match value("content-length").map(|length| length.parse::<usize>()) {
        Some(Ok(length)) => length,
        _ if method.is_some() => {
            message.raw = bytes.to_vec();
            return Found::UntilClose(message);
        }
        _ => 0,
    };
    if bytes.len() - end < length {
        return Found::More;
    }
    message.raw = bytes[..end + length].to_vec();
    message.body = bytes[end..end + length].to_vec();
    Found::Whole(message)
}

fn chunks(bytes: &[u8], mut at: usize, mut message: Message) -> Found {
    let line_end = |from: usize| bytes[from..].windows(2).position(|two| two == b"\r\n").map(|offset| from + offset);
    loop {
        let Some(end) = line_end(at) else { return Found::More };
        let size = String::from_utf8_lossy(&bytes[at..end]).split(';').next().unwrap_or_default().trim().to_owned();
        // An unreadable size: the tester hands over what came; the test sees it in `raw`.
        let Ok(size) = usize::from_str_radix(&size, 16) else {
            message.raw = bytes.to_vec();
            return Found::Whole(message);
        };
        at = end + 2;
        if size == 0 {
            break;
        }
        if bytes.len() < at.saturating_add(size).saturating_add(2) {
            return Found::More;
        }
        message.body.extend_from_slice(&bytes[at..at + size]);
        at += size + 2;
    }
    loop {
        let Some(end) = line_end(at) else { return Found::More };
        let line = String::from_utf8_lossy(&bytes[at..end]).into_owned();
        at = end + 2;
        if line.is_empty() {
            message.raw = bytes[..at].to_vec();
            return Found::Whole(message);
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        message.trailers.push((name.to_owned(), value.trim().to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_their_framing_says() {
        let mut bytes = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nX: y\r\n\r\nGET".to_vec();
        let one = Request::take(&mut bytes).unwrap();
        assert_eq!((one.method().as_str(), one.target().as_str(), one.text().as_str()), ("POST", "/a", "abc"));
        let two = Request::take(&mut bytes).unwrap();
        assert_eq!((two.target().as_str(), two.field("x").as_deref()), ("/b", Some("y")));
        assert!(Request::take(&mut bytes).is_none());
        assert_eq!(bytes, b"GET");
    }

    #[test]
    fn chunks_are_joined_and_trailers_kept() {
        let mut held = Vec::new();
        let wire =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\nHTTP/1.1 204 x\r\n\r\n";
        let mut from = &wire[..];
        let reply = Reply::read(&mut from, &mut held, "GET").unwrap();
        assert_eq!((reply.status, reply.text().as_str(), reply.trailers.len()), (200, "abcde", 1));
        assert_eq!(Reply::read(&mut from, &mut held, "GET").unwrap().status, 204);
    }

    #[test]
    fn an_answer_without_framing_ends_with_its_connection_and_a_cut_one_is_an_error() {
        let mut held = Vec::new();
        let reply = Reply::read(&mut &b"HTTP/1.1 200 OK\r\n\r\nall of it"[..], &mut held, "GET").unwrap();
        assert_eq!(reply.text(), "all of it");
        let cut = Reply::read(&mut &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall"[..], &mut Vec::new(), "GET");
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
