//! The two tables of HPACK: fields that everybody knows, and those that were said before on this connection.

use std::collections::VecDeque;
use wharf_core::head::Known;

/// A field: its name in lower case, its value, which one it is.
type Static = (&'static [u8], &'static [u8], Known);

/// RFC 7541 appendix A. The first has index 1.
static STATIC: [Static; 61] = [
    (b":authority", b"", Known::Other),
    (b":method", b"GET", Known::Other),
    (b":method", b"POST", Known::Other),
    (b":path", b"/", Known::Other),
    (b":path", b"/index.html", Known::Other),
    (b":scheme", b"http", Known::Other),
    (b":scheme", b"https", Known::Other),
    (b":status", b"200", Known::Other),
    (b":status", b"204", Known::Other),
    (b":status", b"206", Known::Other),
    (b":status", b"304", Known::Other),
    (b":status", b"400", Known::Other),
    (b":status", b"404", Known::Other),
    (b":status", b"500", Known::Other),
    (b"accept-charset", b"", Known::Other),
    (b"accept-encoding", b"gzip, deflate", Known::Other),
    (b"accept-language", b"", Known::Other),
    (b"accept-ranges", b"", Known::Other),
    (b"accept", b"", Known::Other),
    (b"access-control-allow-origin", b"", Known::Other),
    (b"age", b"", Known::Other),
    (b"allow", b"", Known::Other),
    (b"authorization", b"", Known::Authorization),
    (b"cache-control", b"", Known::CacheControl),
    (b"content-disposition", b"", Known::Other),
    (b"content-encoding", b"", Known::Other),
    (b"content-language", b"", Known::Other),
    (b"content-length", b"", Known::ContentLength),
    (b"content-location", b"", Known::Other),
    (b"content-range", b"", Known::Other),
    (b"content-type", b"", Known::ContentType),
    (b"cookie", b"", Known::Cookie),
    (b"date", b"", Known::Date),
    (b"etag", b"", Known::Other),
    (b"expect", b"", Known::Expect),
    (b"expires", b"", Known::Other),
    (b"from", b"", Known::Other),
    (b"host", b"", Known::Host),
    (b"if-match", b"", Known::Other),
    (b"if-modified-since", b"", Known::Other),
    (b"if-none-match", b"", Known::Other),
    (b"if-range", b"", Known::Other),
    (b"if-unmodified-since", b"", Known::Other),
    (b"last-modified", b"", Known::Other),
    (b"link", b"", Known::Other),
    (b"location", b"", Known::Other),
    (b"max-forwards", b"", Known::Other),
    (b"proxy-authenticate", b"", Known::ProxyAuthenticate),
    (b"proxy-authorization", b"", Known::ProxyAuthorization),
    (b"range", b"", Known::Other),
    (b"referer", b"", Known::Other),
    (b"refresh", b"", Known::Other),
    (b"retry-after", b"", Known::RetryAfter),
    (b"server", b"", Known::Server),
    (b"set-cookie", b"", Known::SetCookie),
    (b"strict-transport-security", b"", Known::Other),
    (b"transfer-encoding", b"", Known::TransferEncoding),
    (b"user-agent", b"", Known::UserAgent),
    (b"vary", b"", Known::Other),
    (b"via", b"", Known::Via),
    (b"www-authenticate", b"", Known::Other),
];

/// The first index that is not the static table's.
pub(super) const DYNAMIC: usize = STATIC.len() + 1;

/// What an entry costs beside its text (RFC 7541 section 4.1).
const ENTRY: usize = 32;

pub(super) fn fixed(index: usize) -> Option<&'static Static> {
    STATIC.get(index.checked_sub(1)?)
}

/// The index of a name in the static table. Names that answers rarely have are not looked for.
pub(super) fn index_of(known: Known, name: &[u8]) -> Option<usize> {
    Some(match known {
        Known::CacheControl => 24,
        Known::ContentLength => 28,
        Known::ContentType => 31,
        Known::Date => 33,
        Known::RetryAfter => 53,
        Known::Server => 54,
        Known::SetCookie => 55,
        Known::Via => 60,
        Known::Other => match name {
            b"accept-ranges" => 18,
            b"access-control-allow-origin" => 20,
            b"age" => 21,
            b"allow" => 22,
            b"content-disposition" => 25,
            b"content-encoding" => 26,
            b"content-language" => 27,
            b"content-location" => 29,
            b"content-range" => 30,
            b"etag" => 34,
            b"expires" => 36,
            b"last-modified" => 44,
            b"link" => 45,
            b"location" => 46,
            b"strict-transport-security" => 56,
            b"vary" => 59,
            b"www-authenticate" => 61,
            _ => return None,
        },
        _ => return None,
    })
}

/// A field that was said before.
#[derive(Debug)]
pub(super) struct Entry {
    /// Name and value behind each other.
    text: Box<[u8]>,
    name_len: usize,
    pub(super) known: Known,
}

impl Entry {
    pub(super) fn new(known: Known, name: &[u8], value: &[u8]) -> Entry {
        Entry { text: [name, value].concat().into(), name_len: name.len(), known }
    }

    pub(super) fn name(&self) -> &[u8] {
        self.text.get(..self.name_len).unwrap_or_default()
    }

    pub(super) fn value(&self) -> &[u8] {
        self.text.get(self.name_len..).unwrap_or_default()
    }

    fn cost(&self) -> usize {
        self.text.len() + ENTRY
    }
}

/// Fields that were said before, the latest first.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Table {
        Table { entries: VecDeque::new(), size: 0, max }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The one said before, counted from the latest.
    pub(super) fn get(&self, nth: usize) -> Option<&Entry> {
        self.entries.get(nth)
    }

    /// Would it find room if all else were forgotten?
    pub(super) fn has_room_for(&self, name: &[u8], value: &[u8]) -> bool {
        name.len() + value.len() + ENTRY <= self.max
    }

    /// Adds one. Older ones are forgotten for it; one that is too large leaves nothing (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        let cost = entry.cost();
        self.shrink(self.max.saturating_sub(cost));
        if cost <= self.max {
            self.size += cost;
            self.entries.push_front(entry);
        }
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.shrink(max);
    }

    fn shrink(&mut self, to: usize) {
        while self.size > to {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.cost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_own_index() {
        for (nth, &(name, _, known)) in STATIC.iter().enumerate() {
            assert_eq!(Known::of(name), known, "{:?}", String::from_utf8_lossy(name));
            if let Some(index) = index_of(known, name) {
                assert_eq!(index, nth + 1);
            }
        }
        assert_eq!(fixed(8), Some(&(&b":status"[..], &b"200"[..], Known::Other)));
        assert_eq!((fixed(0), fixed(62)), (None, None));
    }
}
