//! Typed values from a tree, all of them: what is wrong with one is written down, and the rest is read.
//!
//! serde gives up at the first value that does not fit. Every [`Item`] catches what goes wrong inside it instead. Scalars
//! get their type from who asks for them.
//!
//! It does not know what a configuration means; that is `check.rs`.

use super::tree::{Kind, Mistake, Node, Place};
use super::words::{nearest_or_all, spoken};
use serde::de::value::SeqDeserializer;
use serde::de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

/// Why a value could not be taken.
#[derive(Debug)]
pub(crate) struct Refusal {
    place: Option<Place>,
    message: String,
    hint: Option<String>,
}

impl Refusal {
    fn at(mut self, place: Place) -> Refusal {
        self.place.get_or_insert(place);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    /// What types say about text that does not fit; a hint stands behind `\nhint: `.
    fn custom<T: fmt::Display>(message: T) -> Refusal {
        let message = message.to_string();
        match message.split_once("\nhint: ") {
            Some((message, hint)) => Refusal { place: None, message: message.into(), hint: Some(hint.into()) },
            None => Refusal { place: None, message, hint: None },
        }
    }

    fn missing_field(field: &'static str) -> Refusal {
        Refusal { place: None, message: format!("`{field}` is missing"), hint: Some(format!("add `{field}: ...` here")) }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Refusal {
        let hint = nearest_or_all(variant, expected);
        Refusal { place: None, message: format!("`{variant}` is not understood here"), hint: Some(hint) }
    }
}

impl Node {
    fn expected(&self, what: &str, hint: impl Into<String>) -> Refusal {
        Refusal { place: Some(self.place), message: format!("expected {what}, found {}", self.found()), hint: Some(hint.into()) }
    }
}

/// Takes typed values from a node.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'t> {
    node: &'t Node,
    mistakes: &'t RefCell<Vec<Mistake>>,
}

/// What stands below a node, by the rules of YAML 1.2: what free values are read by.
pub(crate) struct AsValue;

impl AsValue {
    /// As JSON. What JSON cannot hold is text.
    pub(crate) fn of(node: &Node) -> serde_json::Value {
        let mistakes = RefCell::default();
        let read = serde_json::Value::deserialize(Reader { node, mistakes: &mistakes });
        read.unwrap_or_else(|_| node.text().unwrap_or_default().into())
    }
}

/// Reads a whole document.
pub(crate) fn read<'t, T: Deserialize<'t>>(node: &'t Node, mistakes: &'t RefCell<Vec<Mistake>>) -> Option<T> {
    let item = Item::<T>::deserialize(Reader { node, mistakes });
    item.ok().and_then(|item| item.value)
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $kind:ty),*) => {
        $(fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
            match self.node.text().map(str::parse::<$kind>) {
                Some(Ok(number)) => visitor.$visit(number),
                _ => Err(self.node.expected(&format!("a whole number from {} to {}", <$kind>::MIN, <$kind>::MAX), "write digits only")),
            }
        })*
    };
}

impl<'t> Deserializer<'t> for Reader<'t> {
    type Error = Refusal;

    /// By the rules of YAML 1.2: what plugins' configurations and other free values are read by.
    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let (text, plain) = match &self.node.kind {
            Kind::Scalar { text, plain, .. } => (text.as_str(), *plain),
            Kind::List(_) => return self.deserialize_seq(visitor),
            Kind::Map(_) => return self.deserialize_map(visitor),
        };
        if !plain {
            return visitor.visit_str(text);
        }
        match text {
            _ if self.node.is_null() => return visitor.visit_unit(),
            "true" | "True" | "TRUE" => return visitor.visit_bool(true),
            "false" | "False" | "FALSE" => return visitor.visit_bool(false),
            _ => {}
        }
        if let Ok(number) = text.parse::<u64>() {
            return visitor.visit_u64(number);
        }
        if let Ok(number) = text.parse::<i64>() {
            return visitor.visit_i64(number);
        }
        let begins_as_number = text.trim_start_matches(['-', '+']).starts_with(|first: char| first.is_ascii_digit() || first == '.');
        if begins_as_number && let Ok(number) = text.parse::<f64>() {
            if number.is_finite() {
                return visitor.visit_f64(number);
            }
            return Err(self.node.expected("a number that JSON can hold", "put it in quotes to pass it on as text"));
        }
        visitor.visit_str(text)
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.node.text() {
            Some("true") => visitor.visit_bool(true),
            Some("false") => visitor.visit_bool(false),
            Some("yes" | "on" | "Yes" | "On" | "True" | "TRUE") => Err(self.node.expected("true or false", "write `true`")),
            Some("no" | "off" | "No" | "Off" | "False" | "FALSE") => Err(self.node.expected("true or false", "write `false`")),
            _ => Err(self.node.expected("true or false", "write `true` or `false`")),
        }
    }

    whole_numbers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32
    }

    /// What is no number is handed on: who asked knows the limits that the message must name (see `units::Whole`).
    fn deserialize_u64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.node.text() {
            Some(text) => match text.parse() {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_str(text),
            },
            None => Err(self.node.expected("a whole number", "write digits only")),
        }
    }

    fn deserialize_f32<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.node.text().map(str::parse::<f64>) {
            Some(Ok(number)) if number.is_finite() => visitor.visit_f64(number),
            _ => Err(self.node.expected("a number", "write digits, `1.5`")),
        }
    }

    fn deserialize_char<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.node.text() {
            Some(text) if !self.node.is_null() => visitor.visit_str(text).map_err(|bad: Refusal| bad.at(self.node.place)),
            _ => Err(self.node.expected("text", "write one word or, in quotes, several")),
        }
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if self.node.is_null() { visitor.visit_unit() } else { Err(self.node.expected("nothing", "remove it")) }
    }

    fn deserialize_unit_struct<V: Visitor<'t>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        match (name, self.node.text()) {
            (ITEM, _) => {
                let mistakes_before = self.mistakes.borrow().len();
                visitor.visit_map(Inside { reader: self, told: false, mistakes_before })
            }
            (SHORT, Some(text)) if !self.node.is_null() => visitor.visit_str(text).map_err(|bad: Refusal| bad.at(self.node.place)),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.kind {
            Kind::List(items) => visitor.visit_seq(Items { reader: self, rest: items.iter() }),
            _ => Err(self.node.expected("a list", "put each entry on a line of its own behind `- `, or write `[a, b]`")),
        }
    }

    fn deserialize_tuple<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'t>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.kind {
            Kind::Map(entries) => visitor.visit_map(Entries { reader: self, rest: entries.iter(), fields: None, value: None }),
            _ => Err(self.node.expected("a map of names to values", "write `name: value` lines, or `{name: value}`")),
        }
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match &self.node.kind {
            Kind::Map(entries) => {
                visitor.visit_map(Entries { reader: self, rest: entries.iter(), fields: Some((name, fields)), value: None })
            }
            // Nothing at all is an empty map, but not by chance: what has no setting that it needs wants to be told so.
            kind => {
                let known = fields.join(", ");
                let lacks = matches!(kind, Kind::Scalar { .. } if self.node.is_null())
                    .then(|| visitor.visit_map(Entries { reader: self, rest: [].iter(), fields: None, value: None }).err())
                    .flatten();
                let hint = if self.node.is_null() {
                    format!("write `{{}}` to leave all as it is; known here: {known}")
                } else {
                    format!("known here: {known}")
                };
                Err(lacks.unwrap_or_else(|| self.node.expected(&format!("the settings of {}", spoken(name)), hint)))
            }
        }
        .map_err(|bad| bad.at(self.node.place))
    }

    fn deserialize_enum<V: Visitor<'t>>(self, _: &'static str, variants: &'static [&'static str], visitor: V) -> Result<V::Value, Refusal> {
        let wrong = || self.node.expected(&format!("one of {}", variants.join(", ")), "give exactly one");
        match &self.node.kind {
            Kind::Scalar { text, .. } if !self.node.is_null() => visitor.visit_enum(text.as_str().into_deserializer()),
            Kind::Map(entries) => match entries.as_slice() {
                [(key, value)] => visitor.visit_enum(Variant { key: Reader { node: key, ..self }, value: Reader { node: value, ..self } }),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
        .map_err(|bad: Refusal| bad.at(self.node.place))
    }

    fn deserialize_identifier<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }
}

struct Items<'t> {
    reader: Reader<'t>,
    rest: std::slice::Iter<'t, Rc<Node>>,
}

impl<'t> SeqAccess<'t> for Items<'t> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'t>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Reader { node, ..self.reader }).map(Some).map_err(|bad| bad.at(node.place))
    }
}

struct Entries<'t> {
    reader: Reader<'t>,
    rest: std::slice::Iter<'t, (Rc<Node>, Rc<Node>)>,
    /// Of a struct: its name and what it knows.
    fields: Option<(&'static str, &'static [&'static str])>,
    value: Option<&'t Node>,
}

impl<'t> MapAccess<'t> for Entries<'t> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        loop {
            let Some((key, value)) = self.rest.next() else { return Ok(None) };
            if let Some((name, fields)) = self.fields
                && let Some(word) = key.text()
                && !fields.contains(&word)
            {
                let message = format!("`{word}` is not a setting of {}", spoken(name));
                self.reader.mistakes.borrow_mut().push(Mistake::new(key.place, message).hint(nearest_or_all(word, fields)));
                continue;
            }
            self.value = Some(value);
            return seed.deserialize(Reader { node: key, ..self.reader }).map(Some).map_err(|bad| bad.at(key.place));
        }
    }

    fn next_value_seed<V: DeserializeSeed<'t>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let Some(node) = self.value.take() else { return Err(de::Error::custom("a value was asked for before its key")) };
        seed.deserialize(Reader { node, ..self.reader }).map_err(|bad| bad.at(node.place))
    }
}

struct Variant<'t> {
    key: Reader<'t>,
    value: Reader<'t>,
}

impl<'t> EnumAccess<'t> for Variant<'t> {
    type Error = Refusal;
    type Variant = Variant<'t>;

    fn variant_seed<V: DeserializeSeed<'t>>(self, seed: V) -> Result<(V::Value, Variant<'t>), Refusal> {
        let which = seed.deserialize(self.key).map_err(|bad| bad.at(self.key.node.place))?;
        Ok((which, self))
    }
}

impl<'t> VariantAccess<'t> for Variant<'t> {
    type Error = Refusal;

    fn unit_variant(self) -> Result<(), Refusal> {
        Err(self.value.node.expected("the bare word, without a value", "remove the value"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'t>>(self, seed: T) -> Result<T::Value, Refusal> {
        seed.deserialize(self.value).map_err(|bad| bad.at(self.value.node.place))
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.value.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'t>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Refusal> {
        self.value.deserialize_struct("this", fields, visitor)
    }
}

// === Item: a value that may be wrong without spoiling its surroundings ===

const ITEM: &str = "\0item";
const SHORT: &str = "\0short";

/// A value and its place. What is wrong inside has been written down already; then there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<T> {
    /// Where it stands.
    pub place: Place,
    value: Option<T>,
    sound: bool,
}

impl<T> Item<T> {
    /// The value, if it could be read.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// All of it could be read, down to the last setting inside.
    pub(crate) fn is_sound(&self) -> bool {
        self.sound
    }

    /// It was never written.
    pub(crate) fn is_missing(&self) -> bool {
        self.place.line == 0 && self.value.is_none()
    }
}

impl<T> Default for Item<T> {
    fn default() -> Item<T> {
        Item { place: Place::default(), value: None, sound: true }
    }
}

/// Hands [`Item`] the place as a key and the value as its value, catches what the value says, and hands as a second key
/// whether it said nothing.
struct Inside<'t> {
    reader: Reader<'t>,
    told: bool,
    mistakes_before: usize,
}

impl<'t> MapAccess<'t> for Inside<'t> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'t>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        if std::mem::replace(&mut self.told, true) {
            let sound = self.reader.mistakes.borrow().len() == self.mistakes_before;
            return seed.deserialize(IntoDeserializer::<Refusal>::into_deserializer(sound)).map(Some);
        }
        let Place { file, line, column, width } = self.reader.node.place;
        seed.deserialize(SeqDeserializer::<_, Refusal>::new([file, line, column, width].into_iter())).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'t>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        seed.deserialize(self.reader).inspect_err(|bad| {
            let place = bad.place.unwrap_or(self.reader.node.place);
            let mistake = Mistake { place, message: bad.message.clone(), hint: bad.hint.clone(), absent: false };
            let mut mistakes = self.reader.mistakes.borrow_mut();
            // What is missing because it is misspelt has been told.
            let meant = bad.message.strip_suffix(" is missing").map(|field| format!("did you mean {field}?"));
            let is_told =
                meant.is_some_and(|meant| mistakes.iter().skip(self.mistakes_before).any(|have| have.hint.as_ref() == Some(&meant)));
            if !is_told {
                mistakes.push(mistake);
            }
        })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Item<T>, D::Error> {
        struct Take<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Take<T> {
            type Value = Item<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its place")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut inside: A) -> Result<Item<T>, A::Error> {
                let (file, line, column, width) = inside.next_key()?.unwrap_or_default();
                let value = inside.next_value().ok();
                let sound = inside.next_key()?.unwrap_or(true);
                Ok(Item { place: Place { file, line, column, width }, value, sound })
            }
        }
        from.deserialize_newtype_struct(ITEM, Take(PhantomData))
    }
}

/// Names and what they name, in the order of the file.
#[derive(Clone, Debug)]
pub struct Named<T>(pub Vec<(Item<String>, Item<T>)>);

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Named<T>, D::Error> {
        struct Take<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Take<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of names to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Named<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    list.push(entry);
                }
                Ok(Named(list))
            }
        }
        from.deserialize_map(Take(PhantomData))
    }
}

/// A group of settings that may also be written as one word: `- auth` for `- plugin: auth`.
#[derive(Clone, Debug)]
pub struct OrShort<T>(pub T);

/// What the one word stands for.
pub trait FromShort {
    /// The group that the word is short for.
    fn from_short(word: Item<String>) -> Self;
}

impl<'de, T: Deserialize<'de> + FromShort> Deserialize<'de> for OrShort<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<OrShort<T>, D::Error> {
        struct Take<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + FromShort> Visitor<'de> for Take<T> {
            type Value = OrShort<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or settings")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<OrShort<T>, E> {
                // Its place is that of the `Item` around.
                Ok(OrShort(T::from_short(Item { place: Place::default(), value: Some(word.into()), sound: true })))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<OrShort<T>, D::Error> {
                T::deserialize(from).map(OrShort)
            }
        }
        from.deserialize_newtype_struct(SHORT, Take(PhantomData))
    }
}

/// A choice that people like to shorten, and must not: the word alone does not say which is meant.
#[derive(Clone, Debug)]
pub struct NotShort<T>(pub T);

/// What to write instead of the one word.
pub trait WholeForm {
    /// The forms that the word may have been meant for.
    fn whole_form(word: &str) -> String;
}

impl<'de, T: Deserialize<'de> + WholeForm> Deserialize<'de> for NotShort<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<NotShort<T>, D::Error> {
        struct Take<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + WholeForm> Visitor<'de> for Take<T> {
            type Value = NotShort<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of several tests")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<NotShort<T>, E> {
                let read: Result<T, de::value::Error> = T::deserialize(word.into_deserializer());
                read.map(NotShort).map_err(|_| E::custom(format_args!("`{word}` is not understood here\nhint: {}", T::whole_form(word))))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<NotShort<T>, D::Error> {
                T::deserialize(from).map(NotShort)
            }
        }
        from.deserialize_newtype_struct(SHORT, Take(PhantomData))
    }
}
