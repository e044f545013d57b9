//! The files that a configuration is made of: the one that was named and what it includes, read, substituted and put
//! together into one tree.
//!
//! Everything outside of the text (folders, files, variables) is asked of an [`Outside`], so that the same code reads the
//! disk, what was kept of a configuration, and what a test says. What was read is remembered, for who follows it
//! ([`Followed`]).
//!
//! It does not know what a setting means, but for `include`.

use super::FILE_BYTES_MAX;
use super::substitute::{Secrets, State, Substitution};
use super::tree::{self, Kind, Mistake, Node, Place};
use std::collections::HashMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Deepest chain of includes.
const DEPTH_MAX: usize = 8;
/// Most files.
const FILES_MAX: usize = 256;
/// Most entries of one folder that are looked at.
const ENTRIES_MAX: usize = 10_000;
/// Most values of all files together, aliases followed.
const NODES_MAX: u32 = 1_000_000;

/// What a configuration may ask of the world.
pub trait Outside {
    /// A variable of the environment.
    ///
    /// # Errors
    /// It is there, and cannot be used: why.
    fn variable(&mut self, name: &str) -> Result<Option<String>, String>;

    /// What a regular file holds, of one that is too large a byte more than `most`.
    ///
    /// # Errors
    /// It cannot be read, or is no regular file.
    fn read(&mut self, path: &Path, most: u64) -> io::Result<Vec<u8>>;

    /// The names in a folder, at most `most`; files and folders.
    ///
    /// # Errors
    /// It cannot be read. That there is none is an empty list.
    fn entries(&mut self, folder: &Path, most: usize) -> io::Result<Vec<String>>;

    /// Is this a regular file?
    fn is_file(&mut self, path: &Path) -> bool;

    /// The same for every way to write the path of one file.
    fn identity(&mut self, path: &Path) -> PathBuf;
}

/// One file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As it is named in messages.
    pub name: String,
    /// Where it was read.
    pub path: PathBuf,
    /// Where its relative paths begin.
    pub folder: PathBuf,
    /// What it says.
    pub text: String,
}

/// What must be looked at to see whether a configuration has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Files with what they held; `None`: they could not be read.
    pub files: Vec<(PathBuf, Option<Vec<u8>>)>,
    /// Folders, the pattern that was looked for in them, and the names that fit it.
    pub folders: Vec<(PathBuf, String, Vec<String>)>,
}

impl Followed {
    /// The same files and folders, read again. What is new in them is found by reading the configuration anew.
    pub fn again(&self) -> Followed {
        let file = |(path, _): &(PathBuf, Option<Vec<u8>>)| (path.clone(), Here.read(path, FILE_BYTES_MAX).ok());
        let folder = |(folder, pattern, _): &(PathBuf, String, Vec<String>)| {
            let names = Here.entries(folder, ENTRIES_MAX).unwrap_or_default();
            (folder.clone(), pattern.clone(), chosen(names, pattern))
        };
        Followed { files: self.files.iter().map(file).collect(), folders: self.folders.iter().map(folder).collect() }
    }
}

/// The names that fit a pattern, sorted. What begins with a dot is a draft of an editor.
fn chosen(names: Vec<String>, pattern: &str) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().filter(|name| !name.starts_with('.') && fits(pattern, name)).collect();
    names.sort();
    names
}

/// All files of a configuration.
pub(crate) struct Gathered {
    /// At least one, unless the one that was named could not be read.
    pub(crate) files: Vec<SourceFile>,
    /// All of them as one document; `None`: a file is missing or no YAML, and what it would have said is not known.
    pub(crate) root: Option<Rc<Node>>,
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) followed: Followed,
    pub(crate) secrets: Secrets,
}

/// Reads the file with this text and what it includes.
pub(crate) fn gather(name: &str, path: &Path, text: &str, outside: &mut dyn Outside) -> Gathered {
    let mut gathering = Gathering {
        outside,
        files: Vec::new(),
        mistakes: Vec::new(),
        broken: false,
        followed: Followed::default(),
        state: State::default(),
        bytes: 0,
        nodes: 0,
        parts: Vec::new(),
    };
    gathering.followed.files.push((path.to_owned(), Some(text.as_bytes().to_vec())));
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let main = SourceFile { name: name.to_owned(), path: path.to_owned(), folder, text: text.to_owned() };
    let identity = gathering.outside.identity(path);
    gathering.file(main, &mut vec![(identity, name.to_owned())]);
    let Gathering { files, mut mistakes, broken, mut followed, state, parts, .. } = gathering;
    followed.files.extend(state.files);
    let root = if broken { None } else { merge(&parts, &files, &mut mistakes) };
    Gathered { files, root, mistakes, followed, secrets: state.secrets }
}

struct Gathering<'a> {
    outside: &'a mut dyn Outside,
    files: Vec<SourceFile>,
    mistakes: Vec<Mistake>,
    /// Something of the whole is missing.
    broken: bool,
    followed: Followed,
    state: State,
    bytes: u64,
    nodes: u32,
    /// The documents in the order of their files.
    parts: Vec<Rc<Node>>,
}

impl Gathering<'_> {
    fn break_off(&mut self, mistake: Mistake) {
        self.broken = true;
        self.mistakes.push(mistake);
    }

    /// Reads one file and, behind it, what it includes. `chain`: the files that led here, itself the last.
    fn file(&mut self, file: SourceFile, chain: &mut Vec<(PathBuf, String)>) {
        let number = self.files.len() as u32;
        self.bytes += file.text.len() as u64;
        let mut values = Substitution { outside: &mut *self.outside, folder: &file.folder, state: &mut self.state };
        let read = tree::parse_file(&file.text, number, &mut values, &mut self.mistakes);
        let folder = file.folder.clone();
        self.files.push(file);
        let root = match read {
            Ok(root) => root,
            // A file of which every line is commented out includes nothing, and is no mistake.
            Err(mistake) if number > 0 && mistake.place.line == 0 => return,
            Err(mistake) => return self.break_off(mistake),
        };
        if !matches!(root.kind, Kind::Map(_)) && number > 0 {
            let message = format!("expected settings, found {}", root.found());
            return self.break_off(
                Mistake::new(root.place, message).hint("write `services:`, `routes:` and so on, as in the file that includes this one"),
            );
        }
        self.nodes = self.nodes.saturating_add(root.size());
        if self.nodes > NODES_MAX {
            let message = format!("all files together have more than {NODES_MAX} values when aliases are followed");
            return self.break_off(Mistake::new(root.place, message).hint("write less, or use fewer aliases"));
        }
        self.parts.push(root.clone());
        for pattern in root.entry("include").map(|node| node.items()).unwrap_or_default() {
            // What is no text is told by who reads the settings.
            if let Some(text) = pattern.text() {
                self.included(text, pattern.place, &folder, chain);
            }
        }
    }

    fn included(&mut self, pattern: &str, place: Place, folder: &Path, chain: &mut Vec<(PathBuf, String)>) {
        let below = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if pattern.is_empty() || !Path::new(pattern).components().all(below) {
            let message = format!("`{pattern}` leads out of the folder of the file that includes it");
            return self.break_off(Mistake::new(place, message).hint("write a path below it without `..`, such as `routes.d/*.yaml`"));
        }
        let paths = match self.fitting(folder, pattern) {
            Ok(paths) => paths,
            Err((folder, why)) => {
                return self.break_off(
                    Mistake::new(place, format!("the folder {} cannot be read: {why}", folder.display()))
                        .hint("let the gateway's user read it"),
                );
            }
        };
        for path in paths {
            let name = path.display().to_string();
            let identity = self.outside.identity(&path);
            if chain.iter().any(|(have, _)| *have == identity) {
                let mut names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).collect();
                names.push(&name);
                let message = format!("this includes itself without end: {}", names.join(" -> "));
                self.break_off(
                    Mistake::new(place, message).hint("remove one of these includes; a pattern must not fit the file that it stands in"),
                );
                continue;
            }
            if chain.len() > DEPTH_MAX {
                let names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).collect();
                let message = format!("files are included more than {DEPTH_MAX} deep: {}", names.join(" -> "));
                self.break_off(Mistake::new(place, message).hint("include from fewer levels"));
                return;
            }
            if self.files.len() >= FILES_MAX {
                self.break_off(Mistake::new(place, format!("more than {FILES_MAX} files are included")).hint("put more into one file"));
                return;
            }
            let left = FILE_BYTES_MAX.saturating_sub(self.bytes);
            let read = self.outside.read(&path, left);
            self.followed.files.push((path.clone(), read.as_ref().ok().cloned()));
            let text = match read {
                Ok(bytes) if bytes.len() as u64 > left => {
                    let message = format!("with {name} the configuration has more than the {FILE_BYTES_MAX} bytes that are read");
                    self.break_off(Mistake::new(place, message).hint("is all of this configuration?"));
                    return;
                }
                Ok(bytes) => String::from_utf8(bytes),
                Err(error) => {
                    let hint = if error.kind() == io::ErrorKind::NotFound {
                        "relative paths begin at the folder of the file that includes them"
                    } else {
                        "let the gateway's user read it"
                    };
                    self.break_off(Mistake::new(place, format!("{name} cannot be included: {error}")).hint(hint));
                    continue;
                }
            };
            let Ok(text) = text else {
                self.break_off(
                    Mistake::new(place, format!("{name} cannot be included: it is not UTF-8")).hint("save it in the encoding UTF-8"),
                );
                continue;
            };
            let inner = path.parent().unwrap_or(Path::new("")).to_owned();
            chain.push((identity, name.clone()));
            self.file(SourceFile { name, path, folder: inner, text }, chain);
            chain.pop();
        }
    }

    /// The files that a pattern names, sorted. One without `*` and `?` names itself, whether it is there or not.
    fn fitting(&mut self, folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
        let mut found = vec![folder.to_owned()];
        let mut any = false;
        for part in pattern.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if !part.contains(['*', '?']) {
                found.iter_mut().for_each(|path| path.push(part));
                continue;
            }
            any = true;
            let mut next = Vec::new();
            for folder in found {
                let names = self.outside.entries(&folder, ENTRIES_MAX).map_err(|error| (folder.clone(), error))?;
                let names = chosen(names, part);
                next.extend(names.iter().map(|name| folder.join(name)));
                self.followed.folders.push((folder, part.to_owned(), names));
            }
            found = next;
        }
        if any {
            found.retain(|path| self.outside.is_file(path));
            found.sort();
        }
        Ok(found)
    }
}

/// Does a name fit a pattern with `*` (any characters) and `?` (one)? Takes time in proportion to both lengths.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || Some(&c) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|&c| c == '*')
}

type Entry = (Rc<Node>, Rc<Node>);

/// Several documents as one: lists are joined, maps hold the entries of all, anything else may be given once.
fn merge(parts: &[Rc<Node>], files: &[SourceFile], mistakes: &mut Vec<Mistake>) -> Option<Rc<Node>> {
    let (first, rest) = parts.split_first()?;
    if rest.is_empty() || !matches!(first.kind, Kind::Map(_)) {
        return Some(first.clone());
    }
    let entries = parts.iter().flat_map(|part| part.entries().iter().cloned()).collect();
    Some(Rc::new(Node::of(first.place, Kind::Map(joined(entries, Depth::Sections, files, mistakes)))))
}

/// How much of a name that is given in several files is joined.
#[derive(Clone, Copy, PartialEq)]
enum Depth {
    /// Sections of the file: lists and maps are.
    Sections,
    /// What stands in `attachments`: the same.
    Attachments,
    /// What stands in sections: nothing is, a service is written in one place.
    Entries,
}

fn joined(entries: Vec<Entry>, depth: Depth, files: &[SourceFile], mistakes: &mut Vec<Mistake>) -> Vec<Entry> {
    let mut order: Vec<(Rc<Node>, Vec<Rc<Node>>)> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (key, value) in entries {
        let name = key.text().unwrap_or_default().to_owned();
        match seen.get(&name).and_then(|&at| order.get_mut(at)) {
            None => {
                seen.insert(name, order.len());
                order.push((key, vec![value]));
            }
            Some(_) if value.is_null() && depth != Depth::Entries => {}
            Some((first, values)) => {
                let all = |is: fn(&Node) -> bool| is(&value) && values.iter().all(|have| is(have) || have.is_null());
                let joins = depth != Depth::Entries
                    && (all(|node| matches!(node.kind, Kind::List(_))) || all(|node| matches!(node.kind, Kind::Map(_))));
                if joins {
                    values.push(value);
                    continue;
                }
                let file = files.get(first.place.file as usize).map_or("", |file| file.name.as_str());
                let message = format!("`{name}` is given twice; it stands on line {} of {file} already", first.place.line);
                mistakes.push(Mistake::new(key.place, message).hint("remove one of the two, or merge them"));
            }
        }
    }
    let one = |(key, mut values): (Rc<Node>, Vec<Rc<Node>>)| {
        values.retain(|value| !value.is_null() || value.place == key.place);
        let (Some(first), more) = (values.first().cloned(), values.len() > 1) else { return (key.clone(), key) };
        if !more {
            return (key, first);
        }
        let kind = if matches!(first.kind, Kind::List(_)) {
            Kind::List(values.iter().flat_map(|value| value.items().iter().cloned()).collect())
        } else {
            let below = if depth == Depth::Sections && key.text() == Some("attachments") { Depth::Attachments } else { Depth::Entries };
            Kind::Map(joined(values.iter().flat_map(|value| value.entries().iter().cloned()).collect(), below, files, mistakes))
        };
        (key, Rc::new(Node::of(first.place, kind)))
    };
    order.into_iter().map(one).collect()
}

/// This host's own disk and environment.
pub struct Here;

impl Outside for Here {
    fn variable(&mut self, name: &str) -> Result<Option<String>, String> {
        std::env::var_os(name).map(|value| value.into_string().map_err(|_| "is not UTF-8".to_owned())).transpose()
    }

    fn read(&mut self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        super::contents_of(path, most)
    }

    fn entries(&mut self, folder: &Path, most: usize) -> io::Result<Vec<String>> {
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            if names.len() >= most {
                return Err(io::Error::other(format!("it has more than {most} entries")));
            }
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn is_file(&mut self, path: &Path) -> bool {
        path.is_file()
    }

    fn identity(&mut self, path: &Path) -> PathBuf {
        std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }
}

/// Nothing: for a text that stands alone.
pub struct Alone;

impl Outside for Alone {
    fn variable(&mut self, _: &str) -> Result<Option<String>, String> {
        Ok(None)
    }

    fn read(&mut self, _: &Path, _: u64) -> io::Result<Vec<u8>> {
        Err(io::Error::other("a text that stands alone reads no files"))
    }

    fn entries(&mut self, _: &Path, _: usize) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn is_file(&mut self, _: &Path) -> bool {
        false
    }

    fn identity(&mut self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

/// Files of which the texts were kept, on this host: its environment, and its disk for what was not kept.
pub struct Kept<'k>(pub &'k [SourceFile]);

impl Outside for Kept<'_> {
    fn variable(&mut self, name: &str) -> Result<Option<String>, String> {
        Here.variable(name)
    }

    fn read(&mut self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        match self.0.iter().find(|file| file.path == path) {
            Some(file) => Ok(file.text.clone().into_bytes()),
            None => Here.read(path, most),
        }
    }

    fn entries(&mut self, folder: &Path, _: usize) -> io::Result<Vec<String>> {
        let below = self.0.iter().filter_map(|file| file.path.strip_prefix(folder).ok()?.components().next());
        let mut names: Vec<String> = below.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn is_file(&mut self, path: &Path) -> bool {
        self.0.iter().any(|file| file.path == path)
    }

    fn identity(&mut self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}
