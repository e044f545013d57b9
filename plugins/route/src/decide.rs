//! Where a request goes: a pure function of the request, the table and (for a split without a key) a random number that
//! is passed in.
//!
//! The order: the entry of the first two segments, else of the first, else the default; in the entry the first gray rule
//! that matches, else the split, else the entry's own service and subset.

use serde::Deserialize;
use std::collections::BTreeMap;
use wharf_plugin::rules::{ATTR_NAME_MAX, FACTS_MAX, hash, is_field_name};
use wharf_plugin::{Fact, Lookup, Needs, Request, Target};

// What people write.

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) table: BTreeMap<String, EntryConfig>,
    #[serde(default)]
    pub(crate) default: Option<EntryConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntryConfig {
    #[serde(default)]
    pub(crate) service: Option<String>,
    #[serde(default)]
    pub(crate) subset: Option<String>,
    #[serde(default)]
    pub(crate) strip: u8,
    #[serde(default)]
    pub(crate) gray: Vec<GrayConfig>,
    #[serde(default)]
    pub(crate) split: Option<SplitConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrayConfig {
    #[serde(default)]
    pub(crate) header: Option<String>,
    #[serde(default)]
    pub(crate) attr: Option<String>,
    /// Any of these values; absent: any value at all.
    #[serde(default)]
    pub(crate) values: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) service: Option<String>,
    #[serde(default)]
    pub(crate) subset: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SplitConfig {
    #[serde(default)]
    pub(crate) by: Vec<KeyConfig>,
    pub(crate) parts: Vec<PartConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyConfig {
    #[serde(default)]
    pub(crate) header: Option<String>,
    #[serde(default)]
    pub(crate) attr: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PartConfig {
    pub(crate) weight: u32,
    #[serde(default)]
    pub(crate) service: Option<String>,
    #[serde(default)]
    pub(crate) subset: Option<String>,
}

// What is asked, checked once.

/// The table, ready to be asked.
#[derive(Debug)]
pub struct Table {
    pub(crate) needs: Needs,
    entries: Lookup<Entry>,
    default: Option<Entry>,
}

#[derive(Debug)]
struct Entry {
    to: To,
    strip: u8,
    gray: Vec<Gray>,
    split: Option<Split>,
}

#[derive(Clone, Debug)]
struct To {
    service: String,
    subset: Option<String>,
}

/// A field or attribute of the request, by its place among what was asked for.
#[derive(Clone, Copy, Debug)]
struct Source(usize);

#[derive(Debug)]
struct Gray {
    source: Source,
    values: Option<Lookup<()>>,
    to: To,
}

#[derive(Debug)]
struct Split {
    by: Vec<Source>,
    /// Mixed into the key, so that two splits do not cut the same clients off.
    salt: u64,
    /// Each part's upper end; the last is the sum of the weights.
    parts: Vec<(u64, To)>,
}

impl Table {
    /// Checks a configuration.
    pub(crate) fn new(config: Config) -> Result<Table, String> {
        // Without entries all requests go one way, whatever their path.
        let mut needs = if config.table.is_empty() { Needs::none() } else { Needs::none().path() };
        let mut entries = Vec::new();
        if config.table.is_empty() && config.default.is_none() {
            return Err("`table` is empty and there is no `default`: every request would get 404".into());
        }
        for (key, entry) in config.table {
            let place = format!("table.{key:?}");
            let segments = key.split('/').count();
            if key.is_empty() || segments > 2 || key.split('/').any(str::is_empty) {
                return Err(format!("{place}: a key is one or two segments without a slash before or behind: \"orders\" or \"orders/v2\""));
            }
            if usize::from(entry.strip) > segments {
                return Err(format!("{place}.strip is {}, and the key has {segments} segments", entry.strip));
            }
            let entry = Entry::new(entry, &place, &key, &mut needs)?;
            entries.push((key, entry));
        }
        let default = match config.default {
            Some(entry) if entry.strip > 0 => return Err(format!("default.strip is {}, and the default has no segments", entry.strip)),
            Some(entry) => Some(Entry::new(entry, "default", "", &mut needs)?),
            None => None,
        };
        if needs.request.len() > FACTS_MAX {
            return Err(format!("more than {} different fields and attributes are looked at; use fewer", FACTS_MAX - 1));
        }
        Ok(Table { needs, entries: Lookup::new(entries), default })
    }

    /// Where this request goes. `random` is asked only for a split whose key the request does not have.
    pub(crate) fn target(&self, request: &Request, random: impl FnOnce() -> u64) -> Option<Target> {
        // Asked for first, if there is any entry that it could choose.
        let path = if self.entries.is_empty() { "" } else { request.at(0).unwrap_or_default() };
        let (one, two) = segments(path);
        let entry = two.and_then(|two| self.entries.get(two)).or_else(|| self.entries.get(one)).or(self.default.as_ref())?;
        let to = entry.to(request, random);
        let path = match entry.strip {
            0 => None,
            1 => Some(behind(path, one.len() + 1)),
            _ => Some(behind(path, two.unwrap_or(one).len() + 1)),
        };
        Some(Target { service: to.service.clone(), subset: to.subset.clone(), path: path.map(Into::into) })
    }
}

/// The first segment, and the first two where there are two. The path is canonical, so segments are not empty but
/// perhaps the last.
fn segments(path: &str) -> (&str, Option<&str>) {
    let path = path.strip_prefix('/').unwrap_or(path);
    // Segments are short: to look at each byte is quicker than to prepare for looking at eight.
    let slash = |from: usize| path.bytes().skip(from).position(|byte| byte == b'/').map(|at| from + at);
    let Some(end) = slash(0) else { return (path, None) };
    let second = end + 1;
    let two = path.get(..slash(second).unwrap_or(path.len())).filter(|two| two.len() > second);
    (path.get(..end).unwrap_or(path), two)
}

/// What is left of a path behind its first bytes, which end at a segment's end.
fn behind(path: &str, bytes: usize) -> &str {
    match path.get(bytes..) {
        None | Some("") => "/",
        Some(rest) => rest,
    }
}

impl Entry {
    fn new(config: EntryConfig, place: &str, salt: &str, needs: &mut Needs) -> Result<Entry, String> {
        let to = To {
            // A split may name all services itself.
            service: match (config.service, &config.split) {
                (Some(service), _) => service,
                (None, Some(split)) if split.parts.iter().all(|part| part.service.is_some()) => {
                    split.parts.iter().find_map(|part| part.service.clone()).unwrap_or_default()
                }
                _ => return Err(format!("{place}.service is missing: the name of a service of the gateway")),
            },
            subset: config.subset,
        };
        let mut gray = Vec::new();
        for (number, rule) in config.gray.into_iter().enumerate() {
            let place = format!("{place}.gray[{number}]");
            let source = Source::new(rule.header, rule.attr, &place, needs)?;
            if rule.service.is_none() && rule.subset.is_none() {
                return Err(format!("{place} sends nowhere: give it a `subset` or a `service`"));
            }
            gray.push(Gray {
                source,
                values: rule.values.map(|values| Lookup::new(values.into_iter().map(|value| (value, ())))),
                to: to.or(rule.service, rule.subset),
            });
        }
        let split = match config.split {
            None => None,
            Some(split) => Some(Split::new(split, &to, place, salt, needs)?),
        };
        Ok(Entry { to, strip: config.strip, gray, split })
    }

    fn to(&self, request: &Request, random: impl FnOnce() -> u64) -> &To {
        for gray in &self.gray {
            let value = gray.source.of(request);
            if value.is_some_and(|value| gray.values.as_ref().is_none_or(|values| values.get(value).is_some())) {
                return &gray.to;
            }
        }
        self.split.as_ref().and_then(|split| split.to(request, random)).unwrap_or(&self.to)
    }
}

impl To {
    /// This place, but for what is given.
    fn or(&self, service: Option<String>, subset: Option<String>) -> To {
        // A subset belongs to its service: another service does not inherit it.
        let inherited = if service.is_none() { self.subset.clone() } else { None };
        To { service: service.unwrap_or_else(|| self.service.clone()), subset: subset.or(inherited) }
    }
}

impl Source {
    fn new(header: Option<String>, attr: Option<String>, place: &str, needs: &mut Needs) -> Result<Source, String> {
        match (header.map(|name| name.to_ascii_lowercase()), attr) {
            (Some(name), None) if is_field_name(&name) => Ok(Source(needs.on_request(Fact::Header(name)))),
            (Some(name), None) => Err(format!("{place}.header: {name:?} is no field name")),
            (None, Some(name)) if (1..=ATTR_NAME_MAX).contains(&name.len()) => Ok(Source(needs.on_request(Fact::Attr(name)))),
            (None, Some(name)) => Err(format!("{place}.attr: {name:?} is no name of an attribute: 1 to {ATTR_NAME_MAX} bytes")),
            _ => Err(format!("{place} needs one of `header` and `attr`")),
        }
    }

    fn of(self, request: &Request) -> Option<&str> {
        request.at(self.0)
    }
}

impl Split {
    fn new(config: SplitConfig, to: &To, place: &str, salt: &str, needs: &mut Needs) -> Result<Split, String> {
        let mut by = Vec::new();
        for (number, key) in config.by.into_iter().enumerate() {
            by.push(Source::new(key.header, key.attr, &format!("{place}.split.by[{number}]"), needs)?);
        }
        let mut sum = 0u64;
        let mut parts = Vec::new();
        for part in config.parts {
            sum += u64::from(part.weight);
            parts.push((sum, to.or(part.service, part.subset)));
        }
        if sum == 0 {
            return Err(format!("{place}.split.parts: the weights add up to 0; at least one must be more"));
        }
        Ok(Split { by, salt: hash(salt.as_bytes()), parts })
    }

    fn to(&self, request: &Request, random: impl FnOnce() -> u64) -> Option<&To> {
        let key = self.by.iter().find_map(|source| source.of(request));
        let number = match key {
            // Mixed again after the salt: related keys must not fall side by side.
            Some(key) => hash(&(hash(key.as_bytes()) ^ self.salt).to_le_bytes()),
            None => random(),
        };
        let (sum, _) = self.parts.last()?;
        // The upper bits scaled to the sum (Lemire): no division, no bias that matters.
        let point = ((u128::from(number) * u128::from(*sum)) >> 64) as u64;
        self.parts.iter().find(|(end, _)| point < *end).map(|(_, to)| to)
    }
}
