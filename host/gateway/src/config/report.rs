//! How mistakes are shown: to people as text with the line in question, to machines as JSON.

use super::tree::{Mistake, Place};
use serde_json::{Value, json};
use std::fmt::{self, Write as _};

/// All mistakes of one file, in the order of the file.
#[derive(Clone, Debug)]
pub struct Mistakes {
    /// The file, as it was named.
    pub file: String,
    /// At least one.
    pub list: Vec<Mistake>,
    /// How many more there are: who has made a thousand mends the first hundred and asks again.
    pub more: usize,
    /// The lines that mistakes are on.
    lines: Vec<(u32, String)>,
}

/// Most mistakes that are told at once.
const LIST_MAX: usize = 100;

/// Characters of a line that are shown.
const SHOWN_MAX: usize = 160;

impl Mistakes {
    pub(crate) fn new(file: &str, text: &str, mut list: Vec<Mistake>) -> Mistakes {
        list.sort();
        list.dedup();
        let more = list.len().saturating_sub(LIST_MAX);
        list.truncate(LIST_MAX);
        let mut lines = Vec::new();
        let mut wanted = list.iter().map(|mistake| mistake.place.line).peekable();
        for (number, line) in (1..).zip(text.lines()) {
            if wanted.peek() == Some(&0) {
                while wanted.next_if_eq(&0).is_some() {}
            }
            if wanted.peek() == Some(&number) {
                lines.push((number, line.to_owned()));
                while wanted.next_if_eq(&number).is_some() {}
            }
        }
        Mistakes { file: file.to_owned(), list, more, lines }
    }

    /// About the file as a whole, of which nothing is shown.
    pub(crate) fn whole(file: &str, message: String, hint: &str) -> Mistakes {
        Mistakes { file: file.to_owned(), list: vec![Mistake::new(Place::default(), message).hint(hint)], more: 0, lines: Vec::new() }
    }

    /// The line that a place is on.
    fn line(&self, place: Place) -> Option<&str> {
        self.lines.iter().find(|(number, _)| *number == place.line).map(|(_, line)| line.as_str())
    }

    /// For machines: `{"file", "ok": false, "more", "mistakes": [{"line", "column", "message", "hint", "snippet"}]}`.
    pub fn json(&self) -> Value {
        let list: Vec<Value> = self
            .list
            .iter()
            .map(|mistake| {
                let place = (mistake.place.line > 0).then_some(mistake.place);
                json!({
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
            let Place { line, column, width } = mistake.place;
            if line == 0 {
                writeln!(f, "{}: {}", self.file, mistake.message)?;
            } else {
                writeln!(f, "{}:{line}:{column}: {}", self.file, mistake.message)?;
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
        match self.list.len() + self.more {
            1 => write!(f, "1 mistake in {}", self.file),
            several => write!(f, "{several} mistakes in {}", self.file),
        }
    }
}

impl std::error::Error for Mistakes {}
