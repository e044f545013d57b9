//! A YAML document as a tree whose nodes know where they stand.
//!
//! Scalars keep their text and get their type from who asks for them (`reader.rs`), so `version: 1.10` stays "1.10" and
//! `country: no` stays "no". What a document may cost is bounded here: nodes, depth, the size of a scalar; aliases count
//! with all that they stand for.
//!
//! It does not know what a configuration means; that is `check.rs`. Several documents become one in `sources.rs`.

pub(crate) use super::reader::AsValue;
pub(crate) use super::reader::read;
pub use super::reader::{FromShort, Item, Named, NotShort, OrShort, WholeForm};
pub(crate) use super::words::nearest_or_all;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::HashMap;
use std::rc::Rc;

/// Where something stands. Lines and columns count from 1, columns in characters. Line 0: nowhere, it is about the file
/// as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which file, in the order they were read; 0 is the one that was named.
    pub file: u32,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
    /// Characters on that line, at least 1.
    pub width: u32,
}

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// What is wrong: names the object and the limit.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// It is only that a file or variable is not here, which may be where the configuration is meant for.
    pub absent: bool,
}

impl Mistake {
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Mistake {
        Mistake { place, message: message.into(), hint: None, absent: false }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Mistake {
        self.hint = Some(hint.into());
        self
    }

    /// See [`Mistake::absent`].
    pub(crate) fn absent(mut self, absent: bool) -> Mistake {
        self.absent = absent;
        self
    }
}

/// (message, hint), of something whose place is not known yet.
impl From<(String, String)> for Mistake {
    fn from((message, hint): (String, String)) -> Mistake {
        Mistake::new(Place::default(), message).hint(hint)
    }
}

/// Most nodes in a document, aliases followed: what an alias bomb ends at.
const NODES_MAX: u32 = 1_000_000;
/// Deepest nesting, aliases followed. The reader recurses.
const DEPTH_MAX: u32 = 64;
/// Longest text of one value, substitutions made: 1 MiB.
pub(crate) const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Longest key.
const KEY_BYTES_MAX: usize = 1024;

/// A node of the document.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(super) kind: Kind,
    nodes: u32,
    depth: u32,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// `written`: what stands in the file, where something was substituted in it.
    Scalar {
        text: String,
        plain: bool,
        written: Option<Box<str>>,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<(Rc<Node>, Rc<Node>)>),
}

/// What stands in the place of `${...}` in values.
pub(crate) trait Substitute {
    /// The text with everything replaced, `None` if there is nothing to replace. `free`: it is part of what is handed on to
    /// a plugin, which may have a `${...}` of its own.
    ///
    /// # Errors
    /// What is wrong, without its place.
    fn substitute(&mut self, text: &str, free: bool) -> Result<Option<String>, Mistake>;
}

/// Nothing is replaced.
pub(crate) struct AsWritten;

impl Substitute for AsWritten {
    fn substitute(&mut self, _: &str, _: bool) -> Result<Option<String>, Mistake> {
        Ok(None)
    }
}

/// Reads one document as it is written. Mistakes of form that leave the tree usable (a key given twice) are added to
/// `mistakes`.
///
/// # Errors
/// The mistake of form behind which nothing can be read.
pub(crate) fn parse(text: &str, mistakes: &mut Vec<Mistake>) -> Result<Rc<Node>, Mistake> {
    parse_file(text, 0, &mut AsWritten, mistakes)
}

/// As [`parse`], for the document with this number in [`Place`]s.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_file(text: &str, file: u32, values: &mut dyn Substitute, mistakes: &mut Vec<Mistake>) -> Result<Rc<Node>, Mistake> {
    let mut growing = Growing::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|bad| {
            let at = bad.marker();
            let place = Place { file, line: at.line() as u32, column: at.col() as u32 + 1, width: 1 };
            Mistake::new(place, format!("this is not YAML: {}", bad.kind()))
                .hint("check indentation (spaces, never tabs), colons and quotes here and on the line before")
        })?;
        growing.take(event, Place { file, ..place_of(text, &span) }, values, mistakes)?;
    }
    growing.root.ok_or_else(|| {
        Mistake::new(Place { file, ..Place::default() }, "the file is empty").hint("`wharf check --example` prints a file to begin with")
    })
}

/// Spans of collections begin at their first entry and may end lines later; a place is the part on its first line.
fn place_of(text: &str, span: &Span) -> Place {
    let (from, to) = (span.start.byte_offset().unwrap_or(0), span.end.byte_offset().unwrap_or(0));
    let covered = text.get(from..to).unwrap_or_default();
    let width = covered.lines().next().unwrap_or_default().trim_end().chars().count().max(1);
    Place { file: 0, line: span.start.line() as u32, column: span.start.col() as u32 + 1, width: width as u32 }
}

#[derive(Default)]
struct Growing {
    open: Vec<(Frame, Place, usize)>,
    anchors: HashMap<usize, Rc<Node>>,
    documents: usize,
    /// Nodes made, aliases not followed: what a document that never closes its lists ends at.
    made: u32,
    root: Option<Rc<Node>>,
}

enum Frame {
    List(Vec<Rc<Node>>),
    Map { entries: Keyed, key: Option<Rc<Node>> },
}

/// What a map has so far, and the lines that its keys stand on: a file may have very many.
#[derive(Default)]
struct Keyed {
    list: Vec<(Rc<Node>, Rc<Node>)>,
    lines: HashMap<String, Place>,
}

impl Growing {
    fn take(&mut self, event: Event<'_>, place: Place, values: &mut dyn Substitute, mistakes: &mut Vec<Mistake>) -> Result<(), Mistake> {
        self.made += 1;
        if self.made > NODES_MAX {
            return Err(Mistake::new(place, format!("the document has more than {NODES_MAX} values")).hint("write less"));
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(
                        Mistake::new(place, "the file has more than one document").hint("remove `---` and put all settings into one")
                    );
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let mut plain = style == ScalarStyle::Plain;
                if let Some(tag) = tag {
                    if tag.suffix() != "str" {
                        return Err(Mistake::new(place, format!("the tag `!{}` is not understood", tag.suffix())).hint("remove it"));
                    }
                    plain = false;
                }
                let kind = self.scalar(text.into_owned(), plain, place, values, mistakes);
                self.place(Rc::new(Node { place, kind, nodes: 1, depth: 1 }), anchor, mistakes)?;
            }
            Event::SequenceStart(_, anchor, _) => self.open(Frame::List(Vec::new()), place, anchor)?,
            Event::MappingStart(_, anchor, _) => self.open(Frame::Map { entries: Keyed::default(), key: None }, place, anchor)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((frame, place, anchor)) = self.open.pop() {
                    self.place(Rc::new(frame.close(place)), anchor, mistakes)?;
                }
            }
            Event::Alias(anchor) => {
                if let Some(node) = self.anchors.get(&anchor).cloned() {
                    self.place(node, 0, mistakes)?;
                } else {
                    return Err(Mistake::new(place, "this alias stands inside what it names").hint("write the value out"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, frame: Frame, place: Place, anchor: usize) -> Result<(), Mistake> {
        if self.open.len() >= DEPTH_MAX as usize {
            return Err(too_deep(place));
        }
        self.open.push((frame, place, anchor));
        Ok(())
    }

    /// A scalar, with what is to be substituted in it. What is wrong is written down, and the text stays as it is written.
    fn scalar(&self, text: String, plain: bool, place: Place, values: &mut dyn Substitute, mistakes: &mut Vec<Mistake>) -> Kind {
        let is_key = matches!(self.open.last(), Some((Frame::Map { key: None, .. }, ..)));
        let most = if is_key { KEY_BYTES_MAX } else { TEXT_BYTES_MAX };
        if text.len() > most {
            let what = if is_key { "key" } else { "value" };
            let message = format!("this {what} has {} bytes, and at most {most} are allowed", text.len());
            mistakes.push(Mistake::new(place, message).hint("is it the configuration? shorten it, or name a file that holds it"));
            return Kind::Scalar { text: String::new(), plain, written: None };
        }
        if is_key || !text.contains('$') {
            return Kind::Scalar { text, plain, written: None };
        }
        // What a plugin is handed may hold a `${...}` that is the plugin's own.
        let free = self.open.iter().any(|(frame, ..)| matches!(frame, Frame::Map { key: Some(key), .. } if key.text() == Some("config")));
        match values.substitute(&text, free) {
            Ok(None) => Kind::Scalar { text, plain, written: None },
            Ok(Some(value)) => Kind::Scalar { text: value, plain, written: Some(text.into()) },
            Err(mistake) => {
                mistakes.push(Mistake { place, ..mistake });
                // It has been told: what is wrong with the text as it stands would be a second mistake out of the first.
                Kind::Scalar { text: text.clone(), plain, written: Some(text.into()) }
            }
        }
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, node: Rc<Node>, anchor: usize, mistakes: &mut Vec<Mistake>) -> Result<(), Mistake> {
        if node.nodes > NODES_MAX {
            return Err(Mistake::new(node.place, format!("the document has more than {NODES_MAX} values when its aliases are followed"))
                .hint("write less, or use fewer aliases"));
        }
        if node.depth > DEPTH_MAX {
            return Err(too_deep(node.place));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((Frame::List(items), ..)) => items.push(node),
            Some((Frame::Map { entries, key }, ..)) => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.keep(key, node, mistakes),
            },
        }
        Ok(())
    }
}

fn too_deep(place: Place) -> Mistake {
    Mistake::new(place, format!("the document is nested more than {DEPTH_MAX} levels deep"))
        .hint("put deeper structures into one text value")
}

impl Keyed {
    fn keep(&mut self, key: Rc<Node>, value: Rc<Node>, mistakes: &mut Vec<Mistake>) {
        let Kind::Scalar { text, written, .. } = &key.kind else {
            mistakes.push(Mistake::new(key.place, "a key must be a word").hint("quote text that begins with `{` or `[`"));
            return;
        };
        if written.is_some() {
            let hint = "an alias for a key would carry a secret to where it is shown; write the key out";
            mistakes.push(Mistake::new(key.place, "nothing is substituted in keys").hint(hint));
            return;
        }
        if text == "<<" {
            let hint = "write the keys out, or use an alias for a whole value (`plugins: *common`)";
            mistakes.push(Mistake::new(key.place, "merge keys (`<<`) are not understood").hint(hint));
            return;
        }
        if let Some(first) = self.lines.get(text) {
            let message = format!("`{text}` is given twice; it stands on line {} already", first.line);
            mistakes.push(Mistake::new(key.place, message).hint("remove one of the two, or merge them"));
            return;
        }
        self.lines.insert(text.clone(), key.place);
        self.list.push((key, value));
    }
}

impl Frame {
    fn close(self, place: Place) -> Node {
        match self {
            Frame::List(items) => Node::of(place, Kind::List(items)),
            Frame::Map { entries, .. } => Node::of(place, Kind::Map(entries.list)),
        }
    }
}

impl Node {
    /// A list or map made of parts of several documents.
    pub(super) fn of(place: Place, kind: Kind) -> Node {
        let (mut nodes, mut depth) = (1u32, 0);
        let mut count = |node: &Rc<Node>| {
            nodes = nodes.saturating_add(node.nodes);
            depth = depth.max(node.depth);
        };
        match &kind {
            Kind::Scalar { .. } => {}
            Kind::List(items) => items.iter().for_each(&mut count),
            Kind::Map(entries) => entries.iter().for_each(|(_, value)| count(value)),
        }
        Node { place, kind, nodes, depth: depth + 1 }
    }

    /// Values below, itself included, aliases followed.
    pub(super) fn size(&self) -> u32 {
        self.nodes
    }

    /// Shows every node below, itself first; what an alias stands for as often as it is named.
    pub(crate) fn walk<'n>(&'n self, look: &mut impl FnMut(&'n Node)) {
        look(self);
        match &self.kind {
            Kind::Scalar { .. } => {}
            Kind::List(items) => items.iter().for_each(|item| item.walk(look)),
            Kind::Map(entries) => entries.iter().for_each(|(key, value)| {
                look(key);
                value.walk(look);
            }),
        }
    }

    /// The entry of a map with this key.
    pub(crate) fn entry(&self, name: &str) -> Option<&Rc<Node>> {
        self.entries().iter().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value)
    }

    /// The entries of a map; none of anything else.
    pub(crate) fn entries(&self) -> &[(Rc<Node>, Rc<Node>)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            Kind::Scalar { .. } | Kind::List(_) => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub(crate) fn items(&self) -> &[Rc<Node>] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Scalar { .. } | Kind::Map(_) => &[],
        }
    }

    /// What stands in the file, if something was substituted in this text.
    pub(crate) fn written(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { written, .. } => written.as_deref(),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// Nothing stands here. What was substituted is always something: text from outside takes no setting away.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true, written: None } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What stands here, for "expected a, found b".
    pub(super) fn found(&self) -> String {
        match &self.kind {
            _ if self.is_null() => "nothing".into(),
            Kind::Scalar { text, .. } => {
                let short: String = text.chars().take(60).collect();
                format!("`{short}`")
            }
            Kind::List(_) => "a list".into(),
            Kind::Map(_) => "a map".into(),
        }
    }
}
