//! What is kept of the configuration that serves, so that a gateway that is started again with a slip in one route serves
//! all the others, and that one as it did before.
//!
//! Kept are texts, not what was made of them: they are read and checked anew, with the variables and files of the new start.
//! What serves may be made of several texts (an item stays on one that is older than the rest); they are read one after the
//! other, as they were then. One file in the state folder, written beside and renamed, readable by its owner only.

use crate::config::blame::{Blame, Blamed, ItemId, ItemKind};
use crate::config::document::{self, Document};
use crate::config::quarantine::settle;
use crate::config::sources::{Kept, SourceFile};
use crate::config::substitute::Secrets;
use crate::config::{self, Checked, Followed, Mistakes, Plan, Surroundings};
use crate::control::Refused;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Most texts that one configuration may be made of.
const TEXTS_MAX: usize = 8;
/// Largest file that is read back, bytes.
const KEPT_BYTES_MAX: u64 = 8 * 2 * config::FILE_BYTES_MAX;
/// Its name in the state folder.
const NAME: &str = "config.last-good.json";

/// All files of a configuration as they were once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// When they were read.
    pub at: SystemTime,
    /// The one that was named is the first.
    pub files: Arc<Vec<SourceFile>>,
    /// Routes that plugins refused as they were written then.
    pub refused: Vec<Arc<str>>,
}

impl Snapshot {
    /// Read just now.
    pub fn now(files: Vec<SourceFile>) -> Snapshot {
        Snapshot { at: SystemTime::now(), files: Arc::new(files), refused: Vec::new() }
    }

    /// Reads and checks it again.
    pub fn check(&self, around: &Surroundings) -> Option<Checked> {
        let main = self.files.first()?;
        Some(config::check_files(&main.name, &main.path, &main.text, around, &mut Kept(&self.files)).0)
    }
}

/// What a gateway starts with.
pub struct Loaded {
    /// What is to serve, as far as it is not in `blame`.
    pub plan: Plan,
    /// What served before, if it was kept.
    pub base: Option<Plan>,
    /// What is wrong with the plan: it stays as it was in `base`.
    pub blame: Blame,
    /// Why nothing of the file is used, if so.
    pub refused: Option<Refused>,
    /// What was read.
    pub followed: Followed,
    /// The texts that what is to serve is made of.
    pub history: Vec<Snapshot>,
    /// What is never to be told.
    pub secrets: Secrets,
}

impl Loaded {
    /// What the process itself is to be like: listeners, threads, folders, logs.
    pub fn settled(&self) -> Plan {
        match &self.base {
            Some(base) => settle(base, &self.plan, &self.blame).plan,
            None => self.plan.clone(),
        }
    }
}

/// Reads the configuration for a start. `strict`: with a mistake nothing starts, whatever was kept.
///
/// # Errors
/// It has mistakes, and nothing good was kept that could serve in their place.
pub fn load(path: &Path, strict: bool) -> Result<Loaded, Mistakes> {
    let around = Surroundings::here();
    let (checked, followed) = config::read_all(path, &around);
    let Checked { plan, mistakes, blame, files, secrets } = checked?;
    let text = files.first().map_or("", |file| file.text.as_str());
    let folder = path.parent().unwrap_or(Path::new(""));
    let state = plan.as_ref().map_or_else(|| config::check::state_dir_of(text, folder), |plan| plan.node.state_dir.clone());
    let mut history = if strict { Vec::new() } else { Keeper::new(&state).kept(path) };
    // A listener that served with a certificate which has expired since is worth more than none: its other names still serve,
    // and its clients are told what is wrong.
    let base = replay(&history, &Surroundings { expired: true, ..around.clone() });
    match (plan, blame, base, mistakes) {
        (Some(plan), Some(blame), base, None) => {
            history.push(Snapshot::now(files));
            Ok(Loaded { plan, base, blame, refused: None, followed, history, secrets })
        }
        (Some(plan), Some(blame), Some(base), Some(_)) => {
            history.push(Snapshot::now(files));
            Ok(Loaded { plan, base: Some(base), blame, refused: None, followed, history, secrets })
        }
        (_, _, Some(base), Some(mistakes)) => {
            let refused = Some(Refused::Mistakes(mistakes));
            Ok(Loaded { plan: base, base: None, blame: Blame::default(), refused, followed, history, secrets })
        }
        (_, _, None, Some(mistakes)) => Err(mistakes),
        (_, _, _, None) => Err(Mistakes::whole(&path.display().to_string(), "the file says nothing".into(), "write a listener")),
    }
}

/// What the texts come to, one after the other.
pub fn replay(history: &[Snapshot], around: &Surroundings) -> Option<Plan> {
    let mut base: Option<Plan> = None;
    for snapshot in history {
        let Some(Checked { plan: Some(plan), blame: Some(mut blame), .. }) = snapshot.check(around) else { continue };
        blame.0.extend(snapshot.refused.iter().map(|name| (ItemId::new(ItemKind::Route, name), Blamed::default())));
        let blame = blame;
        let before = base.unwrap_or_else(|| Plan {
            listeners: Vec::new(),
            services: Vec::new(),
            plugins: Vec::new(),
            routes: Vec::new(),
            ..plan.clone()
        });
        base = Some(settle(&before, &plan, &blame).plan);
    }
    base.filter(|plan| !plan.listeners.is_empty())
}

/// The configuration that the texts come to, as it is in effect.
pub fn document(history: &[Snapshot], around: &Surroundings) -> Option<Document> {
    let (mut base, mut shown): (Option<Plan>, Option<Document>) = (None, None);
    for (at, snapshot) in history.iter().enumerate() {
        let main = snapshot.files.first()?;
        let Some(next) = document::read(&main.name, &main.path, &main.text, &mut Kept(&snapshot.files)) else { continue };
        let before = base.take();
        let plan = replay(history.get(..=at)?, around)?;
        // What is not as this text says is what differs from the text alone.
        let Some(Checked { plan: Some(alone), blame: Some(mut blame), .. }) = snapshot.check(around) else { continue };
        blame.0.extend(snapshot.refused.iter().map(|name| (ItemId::new(ItemKind::Route, name), Blamed::default())));
        let held = before.as_ref().map(|before| settle(before, &alone, &blame).held).unwrap_or_default();
        let mut older: Vec<(String, String)> = held.iter().map(|held| section_of(&held.item)).collect();
        // What stays only because a route that stays needs it.
        let have = next.items();
        let kept = |section: &str, name: &str| (section.to_owned(), name.to_owned());
        let services = plan.services.iter().map(|service| kept("services", &service.name));
        let plugins = plan.plugins.iter().map(|plugin| kept("plugins", &plugin.name));
        older.extend(services.chain(plugins).filter(|key| !have.contains_key(key)).collect::<Vec<_>>());
        shown = Some(next.with_older(shown.as_ref(), &older));
        base = Some(plan);
    }
    shown
}

fn section_of(item: &ItemId) -> (String, String) {
    let section = match item.kind {
        ItemKind::Setting => return (item.name.to_string(), String::new()),
        ItemKind::Listener => "listeners",
        ItemKind::Service => "services",
        ItemKind::Plugin => "plugins",
        ItemKind::RateLimit => "rate_limits",
        ItemKind::Route => "routes",
        ItemKind::Attachments => "attachments",
        ItemKind::Defaults => "defaults",
    };
    (section.to_owned(), item.name.to_string())
}

/// Writes and reads what is kept.
#[derive(Clone, Debug)]
pub struct Keeper {
    file: PathBuf,
}

impl Keeper {
    /// In this state folder.
    pub fn new(state_dir: &Path) -> Keeper {
        Keeper { file: state_dir.join(NAME) }
    }

    /// Keeps the texts that `plan` is made of: of `history` those without which it would be another. It gives them back.
    ///
    /// # Errors
    /// The file could not be written; what was kept before is kept still.
    pub fn keep(&self, path: &Path, mut history: Vec<Snapshot>, plan: &Plan) -> io::Result<Vec<Snapshot>> {
        let around = Surroundings::here();
        let wanted = format!("{plan:?}");
        let mut at = 0;
        // The newest stays: it says what is wrong now.
        while history.len() > 1 && at + 1 < history.len() {
            let mut without = history.clone();
            without.remove(at);
            if history.len() > TEXTS_MAX || replay(&without, &around).is_some_and(|plan| format!("{plan:?}") == wanted) {
                history = without;
            } else {
                at += 1;
            }
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let snapshots: Vec<Value> = history
            .iter()
            .map(|snapshot| {
                let files: Vec<Value> = snapshot
                    .files
                    .iter()
                    .map(|file| json!({ "path": file.path.strip_prefix(folder).unwrap_or(&file.path), "text": file.text }))
                    .collect();
                let at_ms = snapshot.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
                let refused: Vec<&str> = snapshot.refused.iter().map(|name| &**name).collect();
                json!({ "at_ms": at_ms, "files": files, "refused": refused })
            })
            .collect();
        let text = json!({ "version": 1, "of": std::path::absolute(path)?, "snapshots": snapshots }).to_string();
        // The same again costs no write: a reload may come every second.
        if fs::read(&self.file).is_ok_and(|have| have == text.as_bytes()) {
            return Ok(history);
        }
        let draft = self.file.with_extension("new");
        let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &self.file)?;
        if let Some(folder) = self.file.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(history)
    }

    /// What was kept of the configuration at this path; nothing if there is none, it is of another one or cannot be read.
    fn kept(&self, path: &Path) -> Vec<Snapshot> {
        let Ok(bytes) = config::contents_of(&self.file, KEPT_BYTES_MAX) else { return Vec::new() };
        let Ok(kept) = serde_json::from_slice::<Value>(&bytes) else { return Vec::new() };
        let of = kept.get("of").and_then(Value::as_str).map(PathBuf::from);
        if kept.get("version") != Some(&json!(1)) || of != std::path::absolute(path).ok() {
            return Vec::new();
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let snapshot = |kept: &Value| -> Option<Snapshot> {
            let at = UNIX_EPOCH + std::time::Duration::from_millis(kept.get("at_ms")?.as_u64()?);
            let file = |kept: &Value| -> Option<SourceFile> {
                let path = folder.join(kept.get("path")?.as_str()?);
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                // Whoever is told about a mistake in it must not look for it in the file that is there now.
                let name = format!("{} (as it was)", path.display());
                Some(SourceFile { name, path, folder, text: kept.get("text")?.as_str()?.to_owned() })
            };
            let files = kept.get("files")?.as_array()?.iter().map(file).collect::<Option<Vec<_>>>()?;
            let refused = kept.get("refused").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let refused = refused.iter().filter_map(Value::as_str).map(Arc::from).collect();
            Some(Snapshot { at, files: Arc::new(files), refused })
        };
        let snapshots = kept.get("snapshots").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        snapshots.iter().take(TEXTS_MAX).filter_map(snapshot).collect()
    }
}
