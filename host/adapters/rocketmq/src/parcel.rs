//! A parcel as RocketMQ's message, and back. Pure.
//!
//! The value is the body, the key is RocketMQ's key (operators find messages by it), the fields are one property of ours: properties
//! are a map of text, so that order, doubles and bytes would be lost ([`crate::text`]). What other producers send has their
//! own properties for fields, those with lower-case names; the others are RocketMQ's.

use crate::frame::Kept;
use crate::text;
use bytes::Bytes;
use wharf_core::bus::{BusFields, Message, Parcel, Place};

/// The property that holds the fields.
pub(crate) const FIELDS: &str = "wharf";
/// The property that says that there is no value: a broker takes no message without a body.
pub(crate) const EMPTY: &str = "wharf-empty";
/// RocketMQ's names: of the key, and of the id that the sender gives.
const KEYS: &str = "KEYS";
pub(crate) const ID: &str = "UNIQ_KEY";
/// Most that key and fields may take as text: the proxy takes 16 KiB of properties.
pub(crate) const TEXT_BYTES_MAX: usize = 15 << 10;

/// What a parcel is on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) key: Option<String>,
    pub(crate) fields: Option<String>,
    pub(crate) body: Bytes,
    pub(crate) is_empty: bool,
}

/// As it is sent. `None`: key and fields take more than [`TEXT_BYTES_MAX`].
pub(crate) fn write(parcel: &Parcel) -> Option<Written> {
    let key = parcel.key.as_ref().map(|key| text::escape(key));
    let fields = (!parcel.fields.is_empty()).then(|| text::join(&parcel.fields));
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    if length(&key) + length(&fields) > TEXT_BYTES_MAX {
        return None;
    }
    let is_empty = parcel.value.is_empty();
    let body = if is_empty { Bytes::from_static(b"\0") } else { parcel.value.clone() };
    Some(Written { key, fields, body, is_empty })
}

impl Written {
    /// Its properties beside the key.
    pub(crate) fn own(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = self.fields.as_deref().map(|fields| (FIELDS, fields));
        fields.into_iter().chain(self.is_empty.then_some((EMPTY, "1")))
    }

    /// All of them, as a broker takes them.
    pub(crate) fn properties(&self, id: &str) -> String {
        let key = self.key.as_deref().map(|key| (KEYS, key));
        crate::frame::properties(self.own().chain(key).chain([(ID, id), ("WAIT", "true")]))
    }
}

/// As it was sent.
pub(crate) fn read(kept: Kept, partition: u32) -> Message {
    let fields = match kept.property(FIELDS) {
        Some(fields) => text::split(fields),
        None => foreign_fields(&kept),
    };
    let key = kept.property(KEYS).map(text::unescape);
    let is_empty = kept.property(EMPTY).is_some();
    let place = Place { partition, offset: kept.offset };
    let value = if is_empty { Bytes::new() } else { kept.body };
    // A queue that is read by offset has no deliveries to count; the log of standings says what was begun.
    Message { place, time_ms: kept.stored_ms, key, value, fields, begun: false }
}

fn foreign_fields(kept: &Kept) -> BusFields {
    let is_users = |name: &str| {
        name != EMPTY && name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.contains(|c: char| c.is_ascii_uppercase())
    };
    let users = kept.properties().filter(|(name, _)| is_users(name));
    users.map(|(name, value)| (name.into(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}
