//! The catalog's folder: components and their compiled forms by digest, one index for each plugin. Synchronous; the
//! catalog calls it from blocking threads.
//!
//! ```text
//! DIR/lock                                    held while a gateway uses the folder
//! DIR/index/NAME.json                         versions and history of one plugin: the only thing that commits a change
//! DIR/index/NAME.json.previous                the one before: what is read when the index is damaged
//! DIR/blobs/DIGEST/component.wasm             as uploaded
//! DIR/blobs/DIGEST/FINGERPRINT-SHA256.cwasm   as our child compiled it, with its own sha-256 in its name
//! DIR/new/                                    files being written; emptied at every start
//! ```
//!
//! Every change is a file written aside, synced, renamed, and its folder synced, so a crash or a full disk leaves the
//! old state whole. Compiled forms are not synced: one that a crash has cut does not match the sum in its name and is
//! made again.

use crate::history::History;
use crate::ready::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The sha-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut digest = [0; 32];
    for (to, from) in digest.iter_mut().zip(sum.as_ref()) {
        *to = *from;
    }
    Digest(digest)
}

/// A digest from its 64 hexadecimal digits.
pub(crate) fn digest_of(hex: &str) -> Option<Digest> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (at, to) in digest.iter_mut().enumerate() {
        *to = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(Digest(digest))
}

/// One version as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) version: u32,
    /// sha-256 of the component.
    pub(crate) digest: String,
    pub(crate) bytes: u64,
    /// Names of roles.
    pub(crate) roles: Vec<String>,
    /// `wharf:*` interfaces.
    pub(crate) imports: Vec<String>,
    /// `wasi:*` interfaces.
    pub(crate) wasi: Vec<String>,
    /// JSON Schema of its configuration; empty: it takes none.
    pub(crate) schema: String,
    pub(crate) note: String,
    /// Milliseconds since 1970.
    pub(crate) pushed_ms: u64,
}

/// All that is known of one plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    format: u32,
    pub(crate) plugin: String,
    /// Number of the next version; numbers are never given twice.
    pub(crate) next: u32,
    /// In the order of their numbers.
    pub(crate) versions: Vec<Stored>,
    pub(crate) history: History,
}

const FORMAT: u32 = 1;

impl Index {
    pub(crate) fn new(plugin: &str) -> Index {
        Index { format: FORMAT, plugin: plugin.to_owned(), next: 1, versions: Vec::new(), history: History::default() }
    }

    pub(crate) fn version(&self, version: u32) -> Option<&Stored> {
        self.versions.iter().find(|stored| stored.version == version)
    }

    fn read(path: &Path, plugin: &str) -> Result<Index, String> {
        let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if index.format != FORMAT {
            return Err(format!("{}: format {} is not the {FORMAT} that this release reads", path.display(), index.format));
        }
        if index.plugin != plugin || index.versions.iter().any(|stored| digest_of(&stored.digest).is_none() || stored.version >= index.next)
        {
            return Err(format!("{}: its content contradicts itself", path.display()));
        }
        Ok(index)
    }
}

/// Something could not be written or read; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {error}", path.display())]
pub struct StorageError {
    what: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl StorageError {
    /// What the operator can do about it.
    pub fn hint(&self) -> String {
        let dir = self.path.parent().unwrap_or(&self.path).display();
        match self.error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                format!("free some space on the disk that holds {dir} and try again")
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                format!("let the user that runs the gateway write to {dir}, or name another state folder")
            }
            io::ErrorKind::ResourceBusy => "stop the other gateway, or give each its own state folder".into(),
            _ => format!("see to {dir}"),
        }
    }
}

fn told(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    move |error| StorageError { what, path: path.to_owned(), error }
}

/// Makes the names in a folder survive a crash.
fn sync_folder(folder: &Path) -> Result<(), StorageError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(told("cannot sync", folder))
}

/// What a plugin's index was found to be when the folder was opened.
pub(crate) struct Found {
    pub(crate) plugin: String,
    /// `None`: damaged beyond use.
    pub(crate) index: Option<Index>,
    /// What is wrong with it, even if the previous one helped.
    pub(crate) damage: Option<String>,
}

/// The compiled form of a component.
pub(crate) struct Compiled {
    pub(crate) path: PathBuf,
    pub(crate) sha256: Digest,
}

/// The folder.
pub(crate) struct Disk {
    dir: PathBuf,
    /// First part of the names of compiled forms that this engine can load. Asked for at the first need: it takes the
    /// engine's libraries to tell, and a gateway without plugins has no use for them.
    fingerprint: fn() -> String,
    fingerprinted: OnceLock<String>,
    made: AtomicU64,
    /// `None`: another process has it for good.
    lock: Mutex<Option<File>>,
}

/// Locks a folder by a file in it.
fn locked(path: &Path) -> Result<File, StorageError> {
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(told("cannot open", path))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::Error(error) => told("cannot lock", path)(error),
        TryLockError::WouldBlock => {
            told("cannot lock", path)(io::Error::new(io::ErrorKind::ResourceBusy, "another gateway uses this folder"))
        }
    })?;
    Ok(lock)
}

fn is_same(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(id).is_some_and(|held| fs::metadata(path).ok().map(id) == Some(held))
}

impl Disk {
    /// Opens the folder, making it where it is not there, readable by its owner only. `held`: its lock, if another process has
    /// lent it.
    pub(crate) fn open(dir: &Path, fingerprint: fn() -> String, held: Option<File>) -> Result<(Disk, Vec<Found>), StorageError> {
        let dir = std::path::absolute(dir).map_err(told("cannot find", dir))?;
        for folder in [dir.clone(), dir.join("index"), dir.join("blobs"), dir.join("new")] {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(told("cannot make the folder", &folder))?;
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).map_err(told("cannot close to others", &dir))?;
        let path = dir.join("lock");
        // What was lent is the lock of another folder if the configuration has moved it meanwhile.
        let lock = match held.filter(|held| is_same(held, &path)) {
            Some(held) => held,
            None => locked(&path)?,
        };
        let disk = Disk { dir, fingerprint, fingerprinted: OnceLock::new(), made: AtomicU64::new(0), lock: Mutex::new(Some(lock)) };
        let new = disk.dir.join("new");
        for entry in fs::read_dir(&new).map_err(told("cannot read", &new))?.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let found = disk.indexes()?;
        Ok((disk, found))
    }

    /// The lock, to be held by another process as well: it is one lock, and ends with the last who holds it.
    pub(crate) fn lock(&self) -> io::Result<File> {
        match &*self.lock.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(lock) => lock.try_clone(),
            None => Err(io::Error::new(io::ErrorKind::ResourceBusy, "another gateway has taken this folder over")),
        }
    }

    /// Lets the lock go: whoever it was lent to has it alone.
    pub(crate) fn unlock(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn indexes(&self) -> Result<Vec<Found>, StorageError> {
        let dir = self.dir.join("index");
        let mut found = Vec::new();
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&dir).map_err(told("cannot read", &dir))?.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let name = name.strip_suffix(".previous").unwrap_or(name);
            if let Some(plugin) = name.strip_suffix(".json") {
                names.insert(plugin.to_owned());
            }
        }
        for plugin in names {
            let path = self.index_path(&plugin);
            let (index, damage) = match Index::read(&path, &plugin) {
                Ok(index) => (Some(index), None),
                Err(damage) => {
                    let index = Index::read(&path.with_extension("json.previous"), &plugin).ok();
                    (index, Some(damage))
                }
            };
            found.push(Found { plugin, index, damage });
        }
        Ok(found)
    }

    fn index_path(&self, plugin: &str) -> PathBuf {
        self.dir.join("index").join(format!("{plugin}.json"))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.to_string())
    }

    fn fingerprint(&self) -> &str {
        self.fingerprinted.get_or_init(|| sha256((self.fingerprint)().as_bytes()).to_string().chars().take(16).collect())
    }

    /// Where a component lies.
    pub(crate) fn component_path(&self, digest: &Digest) -> PathBuf {
        self.blob(digest).join("component.wasm")
    }

    /// A name for a file to be written aside.
    pub(crate) fn new_path(&self) -> PathBuf {
        self.dir.join("new").join(self.made.fetch_add(1, Relaxed).to_string())
    }

    /// Writes an index; after this returns, a restart finds it.
    pub(crate) fn write_index(&self, index: &Index) -> Result<(), StorageError> {
        let path = self.index_path(&index.plugin);
        let text = serde_json::to_vec(index).map_err(|error| told("cannot write", &path)(error.into()))?;
        let previous = path.with_extension("json.previous");
        if path.exists() {
            // A hard link, so that at no moment there is no index. Best effort: it only matters when a disk goes bad.
            let _ = fs::remove_file(&previous);
            let _ = fs::hard_link(&path, &previous);
        }
        self.write_aside(&path, &text)
    }

    /// Stores a component unless the very same bytes are there already. A damaged one is mended by this.
    pub(crate) fn write_component(&self, digest: &Digest, wasm: &[u8]) -> Result<(), StorageError> {
        let path = self.component_path(digest);
        if fs::read(&path).is_ok_and(|there| there == wasm) {
            return Ok(());
        }
        let blob = self.blob(digest);
        DirBuilder::new().recursive(true).mode(0o700).create(&blob).map_err(told("cannot make the folder", &blob))?;
        sync_folder(&self.dir.join("blobs"))?;
        self.write_aside(&path, wasm)
    }

    fn write_aside(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        let aside = self.new_path();
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        let placed = write().map_err(told("cannot write", path)).and_then(|()| self.place(&aside, path));
        if placed.is_err() {
            let _ = fs::remove_file(&aside);
        }
        placed
    }

    /// Gives a written file its name.
    fn place(&self, aside: &Path, path: &Path) -> Result<(), StorageError> {
        fs::rename(aside, path).map_err(told("cannot write", path))?;
        sync_folder(path.parent().unwrap_or(&self.dir))
    }

    /// Reads a component, checked against its digest.
    ///
    /// # Errors
    /// Text for the operator: it is gone, unreadable or not what was stored.
    pub(crate) fn read_component(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        let path = self.component_path(digest);
        let wasm = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        match sha256(&wasm) == *digest {
            true => Ok(wasm),
            false => Err(format!("{}: its sha-256 is not its name's, so the stored file is damaged", path.display())),
        }
    }

    /// The compiled form for this engine, if there is one.
    pub(crate) fn compiled(&self, digest: &Digest) -> Option<Compiled> {
        fs::read_dir(self.blob(digest)).ok()?.flatten().find_map(|entry| {
            let name = entry.file_name();
            let sum = name.to_str()?.strip_prefix(self.fingerprint())?.strip_prefix('-')?.strip_suffix(".cwasm")?;
            Some(Compiled { path: entry.path(), sha256: digest_of(sum)? })
        })
    }

    /// Takes over what a child wrote to `aside`, if it is what the child said it wrote. Compiled forms of other engines
    /// go.
    pub(crate) fn place_compiled(&self, digest: &Digest, aside: &Path, said: &str) -> Result<Compiled, StorageError> {
        let bytes = fs::read(aside).map_err(told("cannot read", aside))?;
        let sum = sha256(&bytes);
        if sum.to_string() != said {
            let error = io::Error::new(io::ErrorKind::InvalidData, "it is not what the compiling child said it wrote");
            return Err(told("cannot use", aside)(error));
        }
        self.discard_compiled(digest);
        let path = self.blob(digest).join(format!("{}-{sum}.cwasm", self.fingerprint()));
        fs::rename(aside, &path).map_err(told("cannot write", &path))?;
        Ok(Compiled { path, sha256: sum })
    }

    /// Removes all compiled forms of a component.
    pub(crate) fn discard_compiled(&self, digest: &Digest) {
        for entry in fs::read_dir(self.blob(digest)).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "cwasm") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes what belongs to a digest.
    pub(crate) fn remove(&self, digest: &Digest) {
        let _ = fs::remove_dir_all(self.blob(digest));
    }

    /// Removes every blob that is not in `kept`. Best effort: what stays is looked at again at the next start.
    pub(crate) fn sweep(&self, kept: &BTreeSet<String>) {
        for entry in fs::read_dir(self.dir.join("blobs")).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_index(plugin: &str, versions: u32) -> Index {
        let mut index = Index::new(plugin);
        for version in 1..=versions {
            index.versions.push(Stored {
                version,
                digest: sha256(&version.to_be_bytes()).to_string(),
                bytes: 4,
                roles: vec!["auth".into()],
                imports: vec![],
                wasi: vec![],
                schema: String::new(),
                note: String::new(),
                pushed_ms: 1,
            });
            index.history.activate(version);
            index.next = version + 1;
        }
        index
    }

    #[test]
    fn what_was_written_is_found_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let index = some_index("auth", 3);
        {
            let (disk, found) = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
            assert!(found.is_empty());
            disk.write_index(&index).unwrap();
            disk.write_component(&sha256(b"wasm"), b"wasm").unwrap();
        }
        let (disk, found) = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
        assert_eq!(found[0].index.as_ref(), Some(&index));
        assert_eq!(found[0].damage, None);
        assert_eq!(disk.read_component(&sha256(b"wasm")).unwrap(), b"wasm");
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_second_gateway_cannot_use_the_same_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
        let second = Disk::open(dir.path(), || "engine 1".into(), None).err().unwrap();
        assert!(second.to_string().contains("another gateway"), "{second}");
        assert!(second.hint().contains("its own state folder"));
    }

    #[test]
    fn a_truncated_index_is_named_and_the_previous_one_is_used() {
        let dir = tempfile::tempdir().unwrap();
        {
            let (disk, _) = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
            disk.write_index(&some_index("auth", 1)).unwrap();
            disk.write_index(&some_index("auth", 2)).unwrap();
            disk.write_index(&some_index("fresh", 1)).unwrap();
            disk.write_index(&some_index("other", 1)).unwrap();
        }
        for name in ["auth", "fresh"] {
            let path = dir.path().join(format!("index/{name}.json"));
            let text = fs::read(&path).unwrap();
            fs::write(&path, &text[..text.len() / 2]).unwrap();
        }
        let (_, found) = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
        let [auth, fresh, other] = &found[..] else { panic!("three plugins") };
        assert_eq!(auth.index, Some(some_index("auth", 1)));
        assert!(auth.damage.as_ref().unwrap().contains("auth.json"), "{:?}", auth.damage);
        assert_eq!((fresh.index.as_ref(), fresh.damage.is_some()), (None, true), "there was no previous one");
        assert_eq!((other.index.as_ref(), &other.damage), (Some(&some_index("other", 1)), &None));
    }

    #[test]
    fn an_index_that_contradicts_itself_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
        let path = disk.index_path("auth");
        let good = some_index("auth", 1);
        let mut cases =
            vec![Index { format: 9, ..good.clone() }, Index { plugin: "other".into(), ..good.clone() }, Index { next: 1, ..good.clone() }];
        cases.push(good);
        if let Some(stored) = cases[3].versions.first_mut() {
            stored.digest = "../../etc/passwd".into();
        }
        for bad in cases {
            fs::write(&path, serde_json::to_vec(&bad).unwrap()).unwrap();
            assert!(Index::read(&path, "auth").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_compiled_form_is_taken_over_only_if_it_is_what_the_child_said() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
        let digest = sha256(b"wasm");
        disk.write_component(&digest, b"wasm").unwrap();
        let aside = disk.new_path();
        fs::write(&aside, b"compiled").unwrap();
        assert!(disk.place_compiled(&digest, &aside, &sha256(b"another").to_string()).is_err());
        assert!(disk.compiled(&digest).is_none());
        disk.place_compiled(&digest, &aside, &sha256(b"compiled").to_string()).unwrap();
        assert_eq!(disk.compiled(&digest).unwrap().sha256, sha256(b"compiled"));
    }

    #[test]
    fn an_engine_never_sees_what_another_engine_compiled() {
        let dir = tempfile::tempdir().unwrap();
        let digest = sha256(b"wasm");
        {
            let (disk, _) = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
            disk.write_component(&digest, b"wasm").unwrap();
            let aside = disk.new_path();
            fs::write(&aside, b"compiled").unwrap();
            disk.place_compiled(&digest, &aside, &sha256(b"compiled").to_string()).unwrap();
        }
        let (disk, _) = Disk::open(dir.path(), || "engine 2".into(), None).unwrap();
        assert!(disk.compiled(&digest).is_none());
    }

    #[test]
    fn an_unwritable_folder_changes_nothing_and_says_what_to_do() {
        // A file where a folder should be stands for every way a folder can be unwritable: the tests may run as root,
        // whom permissions do not stop.
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
        disk.write_index(&some_index("auth", 1)).unwrap();
        fs::remove_dir_all(dir.path().join("new")).unwrap();
        fs::write(dir.path().join("new"), b"").unwrap();
        let error = disk.write_index(&some_index("auth", 2)).unwrap_err();
        assert!(error.to_string().contains("auth.json"), "{error}");
        assert_eq!(Index::read(&disk.index_path("auth"), "auth").unwrap(), some_index("auth", 1));
        let path = dir.path().join("x/y");
        let full = StorageError { what: "cannot write", path, error: io::Error::from(io::ErrorKind::StorageFull) };
        assert!(full.hint().contains("free some space"), "{}", full.hint());
    }

    #[test]
    fn sweeping_removes_only_what_nobody_refers_to() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = Disk::open(dir.path(), || "engine 1".into(), None).unwrap();
        for wasm in [&b"one"[..], b"two"] {
            disk.write_component(&sha256(wasm), wasm).unwrap();
        }
        disk.sweep(&BTreeSet::from([sha256(b"one").to_string()]));
        assert!(disk.read_component(&sha256(b"one")).is_ok());
        assert!(disk.read_component(&sha256(b"two")).is_err());
    }
}
