//! `${NAME}`, `${NAME:-default}` and `${file:PATH}` in values, and `$${` for what is to stay.
//!
//! What comes in is text and stays the text of one value: it is not read again, so it can hold neither YAML nor another
//! `${...}`. All of it is taken for secret: it is told nowhere, in place of it stands where it came from ([`Secrets`]).
//!
//! It does not read variables and files itself; an [`Outside`] does.

use super::sources::Outside;
use super::tree::{Mistake, Place, Substitute, TEXT_BYTES_MAX};
use crate::secret_names::{ends_with_any, is_secret};
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes that substitution may add to one configuration: a variable may be named very often.
const ADDED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest file that is put in a value's place: keys and certificates, not data.
pub(crate) const FILE_VALUE_BYTES_MAX: u64 = 64 * 1024;
/// A secret shorter than this is only looked for where it was put: `1` stands everywhere.
const LOOKED_FOR_EVERYWHERE: usize = 4;

/// What was substituted, so that it can be kept out of what is told.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// (what must not be told, what is told in its place), the longest first.
    list: Vec<(String, String)>,
}

impl Secrets {
    fn add(&mut self, value: &str, told: &str) {
        let value = value.trim();
        if !value.is_empty() && !self.list.iter().any(|(have, _)| have == value) {
            let at = self.list.partition_point(|(have, _)| have.len() >= value.len());
            self.list.insert(at, (value.to_owned(), told.to_owned()));
        }
    }

    /// The text without secrets: for what may quote any value, such as the words of a plugin.
    pub fn without(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, told) in self.list.iter().filter(|(value, _)| value.len() >= LOOKED_FOR_EVERYWHERE) {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), told);
            }
        }
        text
    }

    /// As [`Secrets::without`], for a text about one value: no part of it is told either, since messages name parts (a
    /// host without its port) and shorten.
    fn without_parts(&self, text: &str, value: &str, told: &str) -> String {
        let value = value.trim().to_lowercase();
        let mut out = String::new();
        for (at, part) in text.split('`').enumerate() {
            if at > 0 {
                out.push('`');
            }
            let lower = part.trim().to_lowercase();
            // Between a pair of backticks stands what is quoted.
            let is_part = at % 2 == 1 && !lower.is_empty() && (value.contains(&lower) || lower.contains(&value) || share(&value, &lower));
            out.push_str(if is_part { told } else { part });
        }
        if value.len() >= 2 && out.to_lowercase().contains(&value) {
            let bare: Vec<&str> = out.split(' ').map(|word| if word.to_lowercase().contains(&value) { told } else { word }).collect();
            out = bare.join(" ");
        }
        self.without(&out)
    }
}

/// Do both have a run of four characters in common?
fn share(value: &str, text: &str) -> bool {
    let value: Vec<char> = value.chars().take(256).collect();
    value.windows(4).any(|run| text.contains(&run.iter().collect::<String>()))
}

/// Replaces `${...}` in the values of one file.
pub(super) struct Substitution<'a> {
    pub(super) outside: &'a mut dyn Outside,
    /// Where relative paths begin.
    pub(super) folder: &'a Path,
    pub(super) state: &'a mut State,
}

/// What the substitutions of all files of a configuration have in common.
#[derive(Default)]
pub(super) struct State {
    pub(super) secrets: Secrets,
    added: usize,
    /// Files that were put in a value's place, with what they held.
    pub(super) files: Vec<(PathBuf, Option<Vec<u8>>)>,
}

impl Substitute for Substitution<'_> {
    fn substitute(&mut self, text: &str, free: bool) -> Result<Option<String>, Mistake> {
        let mut out = String::new();
        let (mut rest, mut changed, mut escaped) = (text, false, false);
        let mut all: Vec<String> = Vec::new();
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            // `$${` is `${`.
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = from.get(2..).unwrap_or_default();
                escaped = true;
                continue;
            }
            out.push_str(before);
            let Some((expression, behind)) = from.get(2..).and_then(|inside| inside.split_once('}')) else {
                if free {
                    out.push_str(from);
                    rest = "";
                    break;
                }
                return Err(("a `${` without its `}`".to_owned(), "close it, or write `$${` for a `${` that is to stay".to_owned()).into());
            };
            rest = behind;
            match Expression::read(expression) {
                Some(expression) => {
                    let value = self.value(&expression)?;
                    self.state.added += value.len();
                    if self.state.added > ADDED_BYTES_MAX || out.len() + value.len() > TEXT_BYTES_MAX {
                        let message = format!(
                            "what is substituted is too large: at most {TEXT_BYTES_MAX} bytes for a value, {ADDED_BYTES_MAX} for all of them"
                        );
                        return Err((message, "name fewer or smaller variables and files".to_owned()).into());
                    }
                    self.state.secrets.add(&value, &expression.told());
                    all.push(expression.told());
                    out.push_str(&value);
                    changed = true;
                }
                None if free => {
                    out.push_str("${");
                    out.push_str(expression);
                    out.push('}');
                }
                None => {
                    let shown: String = expression.chars().take(40).collect();
                    let hint = "write `${NAME}` or `${NAME:-default}` for a variable (A-Z, 0-9, `_`), `${file:PATH}` for a file, or `$${` for a `${` that is to stay";
                    return Err((format!("`${{{shown}}}` is not understood"), hint.to_owned()).into());
                }
            }
        }
        if changed {
            out.push_str(rest);
            // The whole value may be quoted, too.
            self.state.secrets.add(&out, &all.join(""));
            return Ok(Some(out));
        }
        if escaped {
            out.push_str(rest);
            return Ok(Some(out));
        }
        Ok(None)
    }
}

/// What stands between `${` and `}`.
enum Expression<'t> {
    Variable { name: &'t str, default: Option<&'t str> },
    File(&'t str),
}

impl<'t> Expression<'t> {
    fn read(text: &'t str) -> Option<Expression<'t>> {
        if let Some(path) = text.strip_prefix("file:") {
            return (!path.is_empty()).then_some(Expression::File(path));
        }
        let (name, default) = text.split_once(":-").map_or((text, None), |(name, default)| (name, Some(default)));
        let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let is_name = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_') && name.chars().all(fits);
        is_name.then_some(Expression::Variable { name, default })
    }

    /// Where it came from: without its default, which may be a secret, too.
    fn told(&self) -> String {
        match self {
            Expression::Variable { name, .. } => format!("${{{name}}}"),
            Expression::File(path) => format!("${{file:{path}}}"),
        }
    }
}

impl Substitution<'_> {
    fn value(&mut self, expression: &Expression<'_>) -> Result<String, Mistake> {
        match *expression {
            Expression::Variable { name, default } => {
                let value = self
                    .outside
                    .variable(name)
                    .map_err(|why| (format!("the variable {name} {why}"), "give it another value".to_owned()))?;
                match (value.filter(|value| default.is_none() || !value.is_empty()), default) {
                    (Some(value), _) => Ok(value),
                    (None, Some(default)) => Ok(default.to_owned()),
                    (None, None) => {
                        let message = format!("there is no variable {name} in the environment");
                        let hint = format!("set it where the gateway is started, or write `${{{name}:-default}}`");
                        Err(Mistake::from((message, hint)).absent(true))
                    }
                }
            }
            Expression::File(path) => {
                let path = self.folder.join(path);
                let read = self.outside.read(&path, FILE_VALUE_BYTES_MAX);
                self.state.files.push((path.clone(), read.as_ref().ok().cloned()));
                let refuse = |why: String, hint: &str| {
                    Mistake::from((format!("the file {} cannot be put here: {why}", path.display()), hint.to_owned()))
                };
                let bytes = read.map_err(|error| {
                    let hint = "relative paths begin at the folder of the file that names them";
                    refuse(error.to_string(), hint).absent(error.kind() == io::ErrorKind::NotFound)
                })?;
                if bytes.len() as u64 > FILE_VALUE_BYTES_MAX {
                    return Err(refuse(format!("it has more than {FILE_VALUE_BYTES_MAX} bytes"), "name a smaller file"));
                }
                let text =
                    String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8".into(), "only text can stand in a configuration"))?;
                Ok(text.trim().to_owned())
            }
        }
    }
}

/// Takes what was substituted out of mistakes. `written` knows where it was put: (place, value, what stands in the file).
pub(super) fn redact(mistake: &mut Mistake, secrets: &Secrets, value_at: impl Fn(Place) -> Option<(String, String)>) {
    let clean = |text: &str| match value_at(mistake.place) {
        Some((value, told)) => secrets.without_parts(text, &value, &told),
        None => secrets.without(text),
    };
    let (message, hint) = (clean(&mistake.message), mistake.hint.as_deref().map(clean));
    mistake.message = message;
    mistake.hint = hint;
}

/// What is told in place of a value in which something was substituted: where it came from, without defaults.
pub(crate) fn told(written: &str) -> String {
    let mut out = String::new();
    let mut rest = written;
    while let Some((_, from)) = rest.split_once("${") {
        let Some((expression, behind)) = from.split_once('}') else { break };
        if let Some(expression) = Expression::read(expression) {
            out.push_str(&expression.told());
        }
        rest = behind;
    }
    out
}

/// Is this the name of something that is not to be shown? Of plugins' settings, whose meaning is not known here.
pub(crate) fn is_secret_name(name: &str) -> bool {
    // What says where a secret is found is none.
    const WHERE: [&str; 10] = ["file", "path", "dir", "folder", "env", "ref", "header", "headers", "field", "url"];
    // In a configuration these are what something is done by, or the names of fields.
    const MEANS: [&str; 16] = [
        "assertion",
        "auth",
        "authentication",
        "authorization",
        "bearer",
        "cookie",
        "cookies",
        "csrf",
        "jwt",
        "otp",
        // What people write who come from elsewhere.
        "proxy_pass",
        "session",
        "sessions",
        "sid",
        "signature",
        "totp",
    ];
    let is_one_of = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(name));
    is_one_of(&["key", "keys"]) || (is_secret(name) && !is_one_of(&MEANS) && !ends_with_any(name.as_bytes(), WHERE))
}
