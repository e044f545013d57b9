//! JSON as it may be judged: a name that stands twice in one object is refused. One reader takes its first value and
//! another its last, so what was found good might not be what the upstream reads.

use serde_json::{Map, Value};
use std::fmt;

/// Reads a text.
///
/// # Errors
/// Where it is no JSON, or which name stands twice.
pub(crate) fn read(text: &[u8]) -> Result<Value, String> {
    // Depth is bounded by the reader (128).
    let mut reader = serde_json::Deserializer::from_slice(text);
    let Once(value) = serde::Deserialize::deserialize(&mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}

struct Once(Value);

impl<'de> serde::Deserialize<'de> for Once {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Once, D::Error> {
        from.deserialize_any(Take).map(Once)
    }
}

struct Take;

impl<'de> serde::de::Visitor<'de> for Take {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Once(value))) = entries.next_entry::<String, Once>()? {
            if map.contains_key(&name) {
                return Err(serde::de::Error::custom(format_args!("{name:?} stands there twice")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_stands_twice_is_refused_wherever_it_stands() {
        for good in ["null", "-1.5", "[1, \"a\", {\"a\": {\"a\": true}}]", " {} ", "18446744073709551615"] {
            assert_eq!(read(good.as_bytes()), Ok(serde_json::from_str(good).unwrap()), "{good}");
        }
        for (bad, says) in [
            ("{\"a\":1,\"a\":2}", "\"a\""),
            ("[{\"b\":{\"c\":1,\"\\u0063\":2}}]", "\"c\""),
            ("{} {}", "trailing"),
            ("", "EOF"),
            ("{a:1}", "key"),
        ] {
            assert!(read(bad.as_bytes()).unwrap_err().contains(says), "{bad}");
        }
        assert!(read("[".repeat(10_000).as_bytes()).is_err());
    }
}
