//! How mistakes are shown: to people as text with the line in question, to machines as JSON.

use super::sources::SourceFile;
use super::substitute::is_secret_name;
use super::tree::{Mistake, Place};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

/// All mistakes of one configuration, in the order of its files.
#[derive(Clone, Debug)]
pub struct Mistakes {
    /// The file that was named.
    pub file: String,
    /// At least one.
    pub list: Vec<Mistake>,
    /// How many more there are: who has made a thousand mends the first hundred and asks again.
    pub more: usize,
    /// Of these, those of what is only not here.
    more_absent: usize,
    /// The names of all files, by number.
    names: Vec<String>,
    /// The lines that mistakes are on, by file and line, without what looks like a secret.
    lines: BTreeMap<(u32, u32), String>,
}

/// Most mistakes that are told at once.
const LIST_MAX: usize = 100;

/// Characters of a line that are shown.
const SHOWN_MAX: usize = 160;

impl Mistakes {
    pub(crate) fn new(file: &str, files: &[SourceFile], mut list: Vec<Mistake>) -> Mistakes {
        list.sort();
        list.dedup();
        // What is only not here takes no room from what is wrong.
        let all = list.len();
        let all_absent = list.iter().filter(|mistake| mistake.absent).count();
        let (mut room, mut room_absent) = (LIST_MAX, LIST_MAX.saturating_sub(all - all_absent));
        list.retain(|mistake| {
            let room = if mistake.absent { &mut room_absent } else { &mut room };
            let fits = *room > 0;
            *room = room.saturating_sub(1);
            fits
        });
        let more = all - list.len();
        let more_absent = all_absent - list.iter().filter(|mistake| mistake.absent).count();
        let wanted: BTreeSet<(u32, u32)> = list.iter().map(|mistake| (mistake.place.file, mistake.place.line)).collect();
        let mut lines = BTreeMap::new();
        for (number, file) in (0..).zip(files) {
            let mut keys = Keys::default();
            for (at, line) in (1..).zip(file.text.lines()) {
                let is_hidden = keys.is_below_a_secret(line);
                if wanted.contains(&(number, at)) {
                    lines.insert((number, at), if is_hidden { hidden(line) } else { masked(line) });
                }
            }
        }
        let names = files.iter().map(|file| file.name.clone()).collect();
        Mistakes { file: file.to_owned(), list, more, more_absent, names, lines }
    }

    /// About the file as a whole, of which nothing is shown.
    pub(crate) fn whole(file: &str, message: String, hint: &str) -> Mistakes {
        let list = vec![Mistake::new(Place::default(), message).hint(hint)];
        Mistakes { file: file.to_owned(), list, more: 0, more_absent: 0, names: vec![file.to_owned()], lines: BTreeMap::new() }
    }

    /// These apart from what is only not here: the mistakes, if any are left, and what is absent with its place in text.
    pub fn elsewhere(mut self) -> (Option<Mistakes>, Vec<(String, Mistake)>) {
        let (absent, list): (Vec<Mistake>, Vec<Mistake>) = std::mem::take(&mut self.list).into_iter().partition(|mistake| mistake.absent);
        let absent = absent.into_iter().map(|mistake| {
            let Place { line, column, .. } = mistake.place;
            (format!("{}:{line}:{column}", self.name(mistake.place)), mistake)
        });
        let absent = absent.collect();
        self.list = list;
        self.more -= std::mem::take(&mut self.more_absent);
        ((!self.list.is_empty() || self.more > 0).then_some(self), absent)
    }

    /// The line that a place is on.
    fn line(&self, place: Place) -> Option<&str> {
        self.lines.get(&(place.file, place.line)).map(String::as_str)
    }

    /// The file that a place is in.
    fn name(&self, place: Place) -> &str {
        self.names.get(place.file as usize).map_or(self.file.as_str(), String::as_str)
    }

    /// For machines: `{"file", "ok": false, "more", "mistakes": [{"file", "line", "column", "message", "hint", "snippet"}]}`.
    pub fn json(&self) -> Value {
        let list: Vec<Value> = self
            .list
            .iter()
            .map(|mistake| {
                let place = (mistake.place.line > 0).then_some(mistake.place);
                json!({
                    "file": self.name(mistake.place),
                    "line": place.map(|place| place.line),
                    "column": place.map(|place| place.column),
                    "message": mistake.message,
                    "hint": mistake.hint,
                    "snippet": place.and_then(|place| self.line(place)),
                })
            })
            .collect();
        json!({ "file": self.file, "ok": false, "more": self.more, "mistakes": list })
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.list {
            let Place { line, column, width, .. } = mistake.place;
            let file = self.name(mistake.place);
            if line == 0 {
                writeln!(f, "{file}: {}", in_one_line(&mistake.message))?;
            } else {
                writeln!(f, "{file}:{line}:{column}: {}", in_one_line(&mistake.message))?;
            }
            if let Some(text) = self.line(mistake.place) {
                let column = (column as usize).saturating_sub(1);
                // Of a long line the part around the mistake.
                let skip = if column + width as usize > SHOWN_MAX { column.saturating_sub(SHOWN_MAX / 4) } else { 0 };
                let shown: String = text.chars().skip(skip).take(SHOWN_MAX).map(|c| if c == '\t' { ' ' } else { c }).collect();
                let gutter = line.to_string().len();
                writeln!(f, "{:gutter$} |", "")?;
                writeln!(f, "{line} | {shown}")?;
                let room = (shown.chars().count() + 1).saturating_sub(column - skip).max(1);
                writeln!(
                    f,
                    "{:gutter$} | {:indent$}{:^<carets$}",
                    "",
                    "",
                    "",
                    indent = column - skip,
                    carets = (width as usize).clamp(1, room)
                )?;
            }
            if let Some(hint) = &mistake.hint {
                writeln!(f, "  hint: {hint}")?;
            }
            f.write_char('\n')?;
        }
        if self.more > 0 {
            writeln!(f, "and {} more\n", self.more)?;
        }
        let others = if self.names.len() > 1 { " and what it includes" } else { "" };
        match self.list.len() + self.more {
            1 => write!(f, "1 mistake in {}{others}", self.file),
            several => write!(f, "{several} mistakes in {}{others}", self.file),
        }
    }
}

impl std::error::Error for Mistakes {}

/// A message quotes what is written, and that may be line ends and what steers a terminal.
fn in_one_line(message: &str) -> Cow<'_, str> {
    if !message.contains(char::is_control) {
        return message.into();
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    message.chars().map(shown).collect::<String>().into()
}

// === what a snippet must not show ===

/// The keys that a line stands below, by their depth.
#[derive(Default)]
struct Keys {
    open: Vec<(usize, bool)>,
}

impl Keys {
    /// Is the value of a secret written on this line, and its key on one before?
    fn is_below_a_secret(&mut self, line: &str) -> bool {
        let rest = line.trim_start();
        if rest.is_empty() {
            return false;
        }
        let depth = line.len() - rest.len();
        while self.open.last().is_some_and(|(above, _)| *above >= depth) {
            self.open.pop();
        }
        let below = self.open.last().is_some_and(|(_, secret)| *secret);
        let key = rest.trim_start_matches(['-', ' ']).split(':').next().filter(|_| rest.contains(':')).unwrap_or_default();
        let own = depth + (rest.len() - rest.trim_start_matches(['-', ' ']).len());
        self.open.push((own, below || is_secret_name(key.trim_matches(['"', '\'', ' ']))));
        below
    }
}

fn hidden(line: &str) -> String {
    line.chars().map(|c| if c.is_whitespace() { c } else { '*' }).collect()
}

/// The line with stars in the place of values whose keys are those of secrets, as wide as before: carets stay where they
/// belong. Read as text, not as YAML, since that may be what is wrong with it.
fn masked(line: &str) -> String {
    let chars: Vec<char> = line.chars().collect();
    let at = |at: usize| chars.get(at).copied().unwrap_or('\n');
    let mut out = chars.clone();
    let mut from = 0;
    while let Some(colon) = (from..chars.len()).find(|&i| at(i) == ':' && matches!(at(i + 1), ' ' | '\n' | '"' | '\'')) {
        from = colon + 1;
        let is_part = |c: char| !matches!(c, ' ' | '{' | ',' | '[' | '\t' | '}' | ']');
        let begin = (0..colon).rev().find(|&i| !is_part(at(i))).map_or(0, |i| i + 1);
        let key: String = chars.get(begin..colon).unwrap_or_default().iter().filter(|c| !matches!(c, '"' | '\'')).collect();
        if !is_secret_name(&key) {
            continue;
        }
        let begin = (from..chars.len()).find(|&i| at(i) != ' ').unwrap_or(chars.len());
        let closes =
            |open: char, close: char| (begin + 1..chars.len()).find(|&i| at(i) == close && open != '\n').map_or(chars.len(), |i| i + 1);
        let end = match at(begin) {
            quote @ ('"' | '\'') => closes(quote, quote),
            '[' => closes('[', ']'),
            '{' => closes('{', '}'),
            // What is substituted is shown as it is written.
            '$' => begin,
            _ => (begin..chars.len()).find(|&i| matches!(at(i), ',' | '}' | ']')).unwrap_or(chars.len()),
        };
        // A switch is no secret, whatever it is called.
        let value: String = chars.get(begin..end).unwrap_or_default().iter().collect();
        if matches!(value.trim(), "true" | "false") {
            continue;
        }
        for slot in out.iter_mut().take(end).skip(begin) {
            if !slot.is_whitespace() {
                *slot = '*';
            }
        }
        from = end.max(from);
    }
    out.into_iter().collect()
}
