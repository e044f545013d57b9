//! A YAML file and what it includes in, one [`plan::Plan`] out, or every mistake with its place.
//!
//! [`file`] is what people write, [`plan`] what the rooms are given, [`check`] the way from one to the other; [`tree`]
//! and [`reader`] read YAML without stopping at the first mistake, [`sources`] puts the files together, [`report`] shows
//! mistakes, [`schema`] is for editors.
//!
//! Nothing here watches the file or changes what serves: `control.rs` does.

pub mod blame;
mod chains;
pub mod check;
pub mod diff;
pub mod document;
pub mod file;
pub mod plan;
pub mod quarantine;
pub mod reader;
pub mod report;
pub mod schema;
pub mod shape;
pub mod sources;
pub mod substitute;
pub mod surroundings;
pub mod template;
pub mod tree;
pub mod units;
mod values;
pub mod warnings;
mod words;

pub use check::{Checked, check, check_files, host_text};
pub use plan::Plan;
pub use report::Mistakes;
pub use sources::Followed;
pub use surroundings::Surroundings;

use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Largest configuration file, bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads and checks a file with what it includes. Relative paths begin at the folder of the file that they stand in.
///
/// # Errors
/// All mistakes. A file that cannot be read is one.
pub fn load(path: &Path, around: &Surroundings) -> Result<Plan, Mistakes> {
    read_all(path, around).0?.into_plan()
}

/// Reads and checks a file with what it includes, also one with mistakes; and what is to be looked at to see it change. An
/// error is that the file itself cannot be read.
pub fn read_all(path: &Path, around: &Surroundings) -> (Result<Checked, Mistakes>, Followed) {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => {
            let (checked, followed) = check_files(&name, path, &text, around, &mut sources::Here);
            (Ok(checked), followed)
        }
        Err((why, hint)) => {
            let followed = Followed { files: vec![(path.to_owned(), contents(path).ok())], folders: Vec::new() };
            (Err(Mistakes::whole(&name, format!("the file cannot be read: {why}"), hint)), followed)
        }
    }
}

/// What the file holds, of one that is too large a byte more than is taken.
///
/// # Errors
/// It cannot be read, or is no regular file: opening a pipe would wait for somebody to write into it, and a device has no
/// end.
pub fn contents(path: &Path) -> io::Result<Vec<u8>> {
    contents_of(path, FILE_BYTES_MAX)
}

/// As [`contents`], with another bound.
///
/// # Errors
/// As [`contents`].
pub fn contents_of(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let is_file = |found: std::fs::Metadata| if found.is_file() { Ok(()) } else { Err(io::Error::other("it is no regular file")) };
    // Before it is opened, which alone may wind a tape back; and of what was opened, since it may have become another
    // meanwhile: to open a pipe without a writer then waits for nobody.
    is_file(std::fs::metadata(path)?)?;
    let mut file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    is_file(file.metadata()?)?;
    let mut bytes = Vec::new();
    (&mut file).take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Is this a host, by name or address, and a port?
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn host_and_port(text: &str) -> Result<(), String> {
    values::host_and_port(text).map(drop).map_err(|(message, hint)| format!("{message}; {hint}"))
}

/// The text, or why there is none and what to do about it.
fn read(path: &Path) -> Result<String, (String, &'static str)> {
    const NAME_IT: &str = "name the configuration with `--config FILE` or the variable WHARF_CONFIG; `wharf check --example` prints one";
    let bytes = contents(path).map_err(|error| {
        let hint = match (Errno::from_io_error(&error), error.kind()) {
            (Some(Errno::MFILE), _) => "this process may have no more files open: raise its limit (`ulimit -n`, `LimitNOFILE=` in a unit)",
            (Some(Errno::NFILE), _) => "the machine may have no more files open: raise `fs.file-max`, or end what has so many",
            (_, io::ErrorKind::PermissionDenied) => "let the user that this runs as read it, and enter the folders above it",
            _ => NAME_IT,
        };
        (error.to_string(), hint)
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let why = format!("it has more than the {FILE_BYTES_MAX} bytes that are read");
        return Err((why, "is it the configuration? what is this large is better uploaded as a plugin, or served by a service"));
    }
    String::from_utf8(bytes).map_err(|bad| {
        let good = bad.utf8_error().valid_up_to();
        let line = 1 + bad.as_bytes().iter().take(good).filter(|&&byte| byte == b'\n').count();
        (format!("it is not UTF-8 from byte {good} on, in line {line}"), "save it in the encoding UTF-8, or remove what is no text")
    })
}
