//! From what people wrote to what the rooms are given; finds every mistake, not the first.
//!
//! A value that is wrong is written down and replaced by its default, so that the rest can be checked against it; the
//! plan is only handed out if nothing was written down.

use super::blame::Blame;
use super::chains::Chains;
use super::file::{self, File};
use super::plan::{self, Plan};
use super::report::Mistakes;
use super::sources::{self, Alone, Followed, Gathered, Here, Outside, SourceFile};
use super::substitute::{self, Secrets, State, Substitution};
use super::surroundings::Surroundings;
use super::tree::{self, Item, Mistake, Named, Node, NotShort, OrShort, Place, nearest_or_all};
use super::units::{Percent, Size, Time, Whole};
use super::values::{self, Wrong};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wharf_core::outlet::CallLimits;
use wharf_http::routes::{PathPattern, Test, Wanted};

mod ferry;
mod listeners;
mod plugins;
mod route_steps;
mod routes;
mod services;
mod telemetry;
mod upkeep;

type Opt<T> = Option<Item<T>>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const KIB: u64 = 1024;
const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * 1024 * 1024;

/// An exchange may take so long if nobody says otherwise.
const WHOLE_TIME: Duration = Duration::from_secs(60);
/// Most routes with different priorities: each costs every request a look.
const PRIORITIES_MAX: usize = 16;
/// Most lines of one block that are looked at when the file is no YAML: each costs a reading of the block.
const ADMIN_LINES_MAX: usize = 100;
/// Largest fixed answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Checks a text that stands alone: nothing is included, and no variable is known. `folder` is where its relative paths
/// begin.
///
/// # Errors
/// All mistakes.
pub fn check(name: &str, text: &str, folder: &Path, around: &Surroundings) -> Result<Plan, Mistakes> {
    let path = folder.join(Path::new(name).file_name().unwrap_or_default());
    check_files(name, &path, text, around, &mut Alone).0.into_plan()
}

/// What became of a configuration, mistakes or not.
#[derive(Debug)]
pub struct Checked {
    /// What it says, with stand-ins in the place of what is wrong; `None`: it says nothing that can be used.
    pub plan: Option<Plan>,
    /// What is wrong with it.
    pub mistakes: Option<Mistakes>,
    /// The items that are wrong; `None`: there are mistakes that cannot be laid to items.
    pub blame: Option<Blame>,
    /// What is never to be told.
    pub secrets: Secrets,
    /// The files that it is made of.
    pub files: Vec<SourceFile>,
}

impl Checked {
    /// The plan, if nothing is wrong.
    ///
    /// # Errors
    /// All mistakes.
    pub fn into_plan(self) -> Result<Plan, Mistakes> {
        match (self.plan, self.mistakes) {
            (Some(plan), None) => Ok(plan),
            (_, Some(mistakes)) => Err(mistakes),
            (None, None) => Err(Mistakes::whole("", "the file says nothing".into(), "`wharf check --example` prints a file to begin with")),
        }
    }
}

/// Checks a file with what it includes.
pub fn check_files(name: &str, path: &Path, text: &str, around: &Surroundings, outside: &mut dyn Outside) -> (Checked, Followed) {
    let gathered = sources::gather(name, path, text, outside);
    let Gathered { files, root, mut mistakes, mut followed, secrets } = gathered;
    let mut plan = None;
    if let Some(root) = &root {
        let told: HashSet<Place> = mistakes.iter().map(|mistake| mistake.place).collect();
        let written = RefCell::new(Vec::new());
        let file: Option<File> = tree::read(root, &written);
        let mut found = written.into_inner();
        if let Some(file) = file {
            let folder = path.parent().unwrap_or(Path::new(""));
            let of_files = files.iter().map(|file| (file.folder.clone(), file.name.clone())).unzip();
            // Whoever asks whether something else is wrong already means all of it.
            let mut checker = Checker::new(folder, of_files, around, &file, mistakes.iter().cloned().chain(found).collect());
            plan = Some(checker.plan(&file));
            // What the plan was read from is followed like the texts.
            followed.files.append(&mut checker.read);
            found = checker.mistakes.split_off(mistakes.len());
        }
        // What could not be substituted is told once: that the text as it stands fits nowhere follows from it.
        mistakes.extend(found.into_iter().filter(|mistake| mistake.place.line == 0 || !told.contains(&mistake.place)));
        let values = written_values(root);
        for mistake in &mut mistakes {
            substitute::redact(mistake, &secrets, |place| values.get(&place).cloned());
        }
    }
    mistakes.sort();
    mistakes.dedup();
    let blame = root.as_deref().and_then(|root| Blame::of(root, &mistakes));
    let mistakes = (!mistakes.is_empty()).then(|| Mistakes::new(name, &files, mistakes));
    (Checked { plan, mistakes, blame, secrets, files }, followed)
}

/// Where something was substituted: the value, and what is told in its place.
fn written_values(root: &Node) -> HashMap<Place, (String, String)> {
    let mut values = HashMap::new();
    root.walk(&mut |node| {
        if let (Some(text), Some(written)) = (node.text(), node.written()) {
            let told = substitute::told(written);
            // What could not be substituted stands there as it is written.
            if !told.is_empty() && text != written {
                values.insert(node.place, (text.to_owned(), told));
            }
        }
    });
    values
}

/// What a file says about the admin API, whatever else may be wrong with it; defaults where it says nothing. For the
/// command line, which must reach a running gateway although its file was broken since.
pub fn admin_of(text: &str, folder: &Path) -> plan::Admin {
    process_of(text, folder).1
}

/// As [`admin_of`], the state folder.
pub fn state_dir_of(text: &str, folder: &Path) -> PathBuf {
    process_of(text, folder).0.state_dir
}

fn process_of(text: &str, folder: &Path) -> (plan::Node, plan::Admin) {
    let around = Surroundings { addresses: Vec::new(), cores: 1, may_bind: false, any_address: true, expired: false };
    let written = RefCell::default();
    let read = |text: &str| {
        let mut state = State::default();
        let mut values = Substitution { outside: &mut Here, folder, state: &mut state };
        tree::parse_file(text, 0, &mut values, &mut Vec::new())
    };
    let tree = read(text).or_else(|_| read(&admin_blocks(text)));
    let file = tree.ok().and_then(|tree| tree::read::<File>(&tree, &written)).unwrap_or_default();
    let mut checker = Checker::new(folder, (vec![folder.to_owned()], Vec::new()), &around, &file, Vec::new());
    let node = checker.node(&file.node);
    let (_, admin) = checker.admin(&file.admin, &node);
    (node, admin)
}

/// The top-level blocks of a text that is no YAML which [`admin_of`] is about, each as far down as it can be read: the
/// mistake is somewhere else, or the operator is just typing it.
fn admin_blocks(text: &str) -> String {
    let mut blocks = String::new();
    for name in ["admin:", "node:"] {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(name));
        let Some(first) = lines.next() else { continue };
        let below = lines.take_while(|line| line.is_empty() || line.starts_with([' ', '#'])).take(ADMIN_LINES_MAX);
        let lines: Vec<&str> = std::iter::once(first).chain(below).collect();
        let read = (1..=lines.len()).rev().filter_map(|count| lines.get(..count)).map(|lines| format!("{}\n", lines.join("\n")));
        blocks.extend({ read }.find(|block| tree::parse(block, &mut Vec::new()).is_ok()));
    }
    blocks
}

/// Collects mistakes while a file is turned into a plan.
pub(super) struct Checker<'a> {
    folder: &'a Path,
    /// Of each file, where its relative paths begin.
    folders: Vec<PathBuf>,
    /// Of each file, what it is called.
    names: Vec<String>,
    around: &'a Surroundings,
    listeners: Vec<String>,
    services: Vec<String>,
    lanes: Vec<String>,
    plugins: Vec<String>,
    pub(super) mistakes: Vec<Mistake>,
    /// Files that the configuration names, and what they hold; `None`: they cannot be read.
    pub(super) read: Vec<(PathBuf, Option<Vec<u8>>)>,
}

impl<'a> Checker<'a> {
    fn new(
        folder: &'a Path,
        (folders, names): (Vec<PathBuf>, Vec<String>),
        around: &'a Surroundings,
        file: &File,
        mistakes: Vec<Mistake>,
    ) -> Checker<'a> {
        fn named<T>(named: &Opt<Named<T>>) -> Vec<String> {
            let entries = named.as_ref().and_then(Item::get).map(|named| named.0.as_slice()).unwrap_or_default();
            entries.iter().filter_map(|(name, _)| name.get().cloned()).collect()
        }
        let ferry = group(&file.ferry);
        let (near, far) = (of(ferry, |ferry| &ferry.near), of(ferry, |ferry| &ferry.far));
        Checker {
            folder,
            folders,
            names,
            around,
            listeners: named(&file.listeners).into_iter().chain(named(far)).collect(),
            lanes: named(near),
            services: named(&file.services),
            plugins: named(&file.plugins),
            mistakes,
            read: Vec::new(),
        }
    }

    fn plan(&mut self, file: &File) -> Plan {
        let node = self.node(&file.node);
        let listeners = self.listeners(&file.listeners);
        let admin = self.admin(&file.admin, &node);
        self.bound_once(&listeners, &admin);
        let buses = self.buses(&file.buses);
        let ferry = self.ferry(file, &node, &buses);
        let usual = self.usual(file);
        let services = self.services(file, &usual);
        let plugins = self.plugins(&file.plugins);
        let recording = self.recording(&file.access_log);
        let traces = self.traces(&file.traces, &node);
        let routes = self.routes(file, &usual, &recording);
        Plan {
            node,
            zone: group(&file.node).and_then(|node| given(&node.zone)).map(|zone| zone.as_str().into()),
            workers: self.number(&file.workers, self.around.cores.min(256) as u32, 1, 256, "workers") as usize,
            log: self.log(&file.log),
            access_log: self.access_log(&file.access_log),
            recording,
            traces,
            listeners: listeners.into_iter().map(|(_, listener)| listener).collect(),
            admin: admin.1,
            buses,
            ferry,
            services,
            plugins,
            routes,
            unmatched_envelope: usual.envelope,
        }
    }

    // === sections ===

    fn node(&mut self, node: &Opt<file::Node>) -> plan::Node {
        let node = group(node);
        let name = node.and_then(|node| self.named(&node.name, "node")).unwrap_or_else(|| "wharf".into());
        let state_dir = node.and_then(|node| node.state_dir.as_ref()).and_then(|item| self.path(item));
        plan::Node {
            name,
            state_dir: state_dir.unwrap_or_else(|| self.folder.join("wharf-state")),
            memory_max: node
                .filter(|node| node.memory_max.is_some())
                .map(|node| self.size(&node.memory_max, 0, 32 * MIB, 1 << 50, "memory_max")),
            drain_delay: self.time(of(node, |node| &node.drain_delay), Duration::ZERO, Duration::ZERO, HOUR, "drain_delay"),
            drain: self.time(of(node, |node| &node.drain), 20 * SECOND, Duration::ZERO, HOUR, "drain"),
            drain_on_upgrade: self.time(of(node, |node| &node.drain_on_upgrade), 600 * SECOND, Duration::ZERO, DAY, "drain_on_upgrade"),
        }
    }

    fn log(&mut self, log: &Opt<file::Log>) -> plan::Log {
        let log = group(log);
        let level = log.and_then(|log| log.level.as_ref());
        if let Some(item) = level
            && let Some(level) = item.get()
            && !crate::telemetry::logs::is_level(level)
        {
            self.say(item.place, format!("`{level}` is not a log level"), "one of error, warn, info, debug");
        }
        plan::Log {
            level: level.and_then(Item::get).cloned().unwrap_or_else(|| "info".into()),
            json: matches!(log.and_then(|log| given(&log.format)), Some(file::LogFormat::Json)),
        }
    }

    // === values ===

    /// Where something stands that is named in a message about `from`: its line, and its file if that is another one.
    pub(super) fn line_of(&self, place: Place, from: Place) -> String {
        match self.names.get(place.file as usize).filter(|_| place.file != from.file) {
            Some(name) => format!("line {} of {name}", place.line),
            None => format!("line {}", place.line),
        }
    }

    /// A path as it is written; a relative one begins at the folder of the file that it stands in.
    pub(super) fn path(&self, item: &Item<String>) -> Option<PathBuf> {
        let folder = self.folders.get(item.place.file as usize).map_or(self.folder, PathBuf::as_path);
        Some(folder.join(item.get()?))
    }

    pub(super) fn say(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.mistakes.push(Mistake::new(place, message).hint(hint));
    }

    /// Reads text; what is wrong with it is written down.
    pub(super) fn value<T>(&mut self, item: &Item<String>, read: fn(&str) -> Result<T, Wrong>) -> Option<T> {
        self.value_at(item, item.place, read)
    }

    /// As [`Checker::value`], for text that may have been the short form of something at `outer`.
    fn value_at<T>(&mut self, item: &Item<String>, outer: Place, read: fn(&str) -> Result<T, Wrong>) -> Option<T> {
        read(item.get()?).map_err(|(message, hint)| self.say(at(item.place, outer), message, hint)).ok()
    }

    fn name_of(&mut self, item: &Item<String>, what: &str) -> Option<Arc<str>> {
        self.name_by(values::name, item, what)
    }

    fn name_by(&mut self, rule: fn(&str, &str) -> Result<(), Wrong>, item: &Item<String>, what: &str) -> Option<Arc<str>> {
        let name = item.get()?;
        if let Err((message, hint)) = rule(name, what) {
            self.say(item.place, message, hint);
        }
        Some(name.as_str().into())
    }

    fn named(&mut self, item: &Opt<String>, what: &str) -> Option<Arc<str>> {
        self.name_of(item.as_ref()?, what)
    }

    fn service(&mut self, item: &Item<String>, outer: Place) -> Option<Arc<str>> {
        let name = item.get()?;
        if !self.services.contains(name) {
            let hint = nearest_or_all(name, &self.services);
            self.say(at(item.place, outer), format!("there is no service `{name}`"), hint);
            return None;
        }
        Some(name.as_str().into())
    }

    pub(super) fn plugin(&mut self, item: &Item<String>, outer: Place) -> Option<Arc<str>> {
        let name = item.get()?;
        if !self.plugins.contains(name) {
            let hint = nearest_or_all(name, &self.plugins);
            self.say(at(item.place, outer), format!("there is no plugin `{name}`"), hint);
            return None;
        }
        Some(name.as_str().into())
    }

    fn bounded<T: PartialOrd + Copy + Display>(&mut self, item: &Opt<T>, usual: T, least: T, most: T, what: &str) -> T {
        let Some((place, value)) = item.as_ref().and_then(|item| Some((item.place, *item.get()?))) else { return usual };
        if value < least || value > most {
            self.say(place, format!("`{what}` is {value}, and it may be from {least} to {most}"), format!("{usual} is the default"));
            return usual;
        }
        value
    }

    fn number(&mut self, item: &Opt<Whole>, usual: u32, least: u32, most: u32, what: &str) -> u32 {
        // No more than `most`, so it fits.
        self.number_u64(item, usual.into(), least.into(), most.into(), what) as u32
    }

    fn number_u64(&mut self, item: &Opt<Whole>, usual: u64, least: u64, most: u64, what: &str) -> u64 {
        let Some((place, given)) = item.as_ref().and_then(|item| Some((item.place, item.get()?))) else { return usual };
        given.within(least, most).unwrap_or_else(|| {
            let message = format!("`{what}` is {given}, and it may be a whole number from {least} to {most}");
            self.say(place, message, format!("{usual} is the default"));
            usual
        })
    }

    fn time(&mut self, item: &Opt<Time>, usual: Duration, least: Duration, most: Duration, what: &str) -> Duration {
        self.bounded(item, Time(usual), Time(least), Time(most), what).0
    }

    fn size(&mut self, item: &Opt<Size>, usual: u64, least: u64, most: u64, what: &str) -> u64 {
        self.bounded(item, Size(usual), Size(least), Size(most), what).0
    }

    fn share(&mut self, item: &Opt<Percent>, usual: f64, what: &str) -> f64 {
        self.bounded(item, Percent(usual), Percent(0.0), Percent(100.0), what).0 / 100.0
    }
}

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// The inner place, unless it is that of a short form, which has none of its own.
pub(super) fn at(inner: Place, outer: Place) -> Place {
    if inner.line == 0 { outer } else { inner }
}

/// A group of settings, if it is there.
pub(super) fn group<T>(item: &Opt<T>) -> Option<&T> {
    item.as_ref().and_then(Item::get)
}

fn given<T>(item: &Opt<T>) -> Option<&T> {
    group(item)
}

/// A setting of a group that may not be there.
fn of<'g, G, T>(group: Option<&'g G>, setting: fn(&'g G) -> &'g Opt<T>) -> &'g Opt<T> {
    group.map_or(const { &None }, setting)
}

/// What a list holds; nothing if it is not there.
pub(super) fn list<T>(item: &Opt<Vec<T>>) -> &[T] {
    group(item).map(Vec::as_slice).unwrap_or_default()
}

/// What a map holds; nothing if it is not there.
pub(super) fn entries<T>(item: &Opt<Named<T>>) -> &[(Item<String>, Item<T>)] {
    group(item).map(|named| named.0.as_slice()).unwrap_or_default()
}

fn field_value(text: &str) -> Result<String, Wrong> {
    if wharf_core::edit::is_field_value(text.as_bytes()) && text.trim() == text {
        return Ok(text.into());
    }
    Err(("a header cannot have this value".into(), "no control characters, no spaces at either end".into()))
}

pub(super) fn policy(policy: &file::Policy) -> plan::Policy {
    match policy {
        file::Policy::Closed => plan::Policy::Closed,
        file::Policy::Open => plan::Policy::Open,
        file::Policy::LastGood => plan::Policy::LastGood,
    }
}

/// A plugin's configuration as JSON text.
pub(super) fn config_text(config: &Opt<file::Anything>) -> Arc<str> {
    group(config).map_or_else(|| "{}".into(), |file::Anything(value)| value.to_string().into())
}

/// A host pattern as it is written.
pub fn host_text(host: &plan::HostPattern) -> String {
    match host {
        plan::HostPattern::Exact(host) => host.to_string(),
        plan::HostPattern::Below(host) => format!("*.{host}"),
    }
}
