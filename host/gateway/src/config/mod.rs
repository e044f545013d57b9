//! One YAML file in, one [`plan::Plan`] out, or every mistake in it with its place.
//!
//! [`file`] is what people write, [`plan`] what the rooms are given, [`check`] the way from one to the other; [`tree`]
//! reads YAML without stopping at the first mistake, [`report`] shows mistakes, [`schema`] is for editors.
//!
//! Nothing here watches the file or changes what serves: `control.rs` does.

mod chains;
pub mod check;
pub mod file;
pub mod plan;
pub mod report;
pub mod schema;
pub mod surroundings;
pub mod tree;
pub mod units;
mod values;

#[cfg(test)]
mod tests;

pub use check::check;
pub use plan::Plan;
pub use report::Mistakes;
pub use surroundings::Surroundings;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Largest configuration file, bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads and checks a file. Relative paths in it begin at its folder.
///
/// # Errors
/// All mistakes. A file that cannot be read is one.
pub fn load(path: &Path, around: &Surroundings) -> Result<Plan, Mistakes> {
    let name = path.display().to_string();
    let text = match read(path) {
        Ok(text) => text,
        Err(why) => return Err(Mistakes::unreadable(&name, &why)),
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    check(&name, &text, folder, around)
}

/// What the file holds, of one that is too large a byte more than is taken.
///
/// # Errors
/// It cannot be read, or is no regular file: opening a pipe would wait for somebody to write into it, and a device has no
/// end.
pub fn contents(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = contents(path).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than the {FILE_BYTES_MAX} bytes that are read"));
    }
    String::from_utf8(bytes).map_err(|bad| format!("it is not UTF-8 from byte {} on", bad.utf8_error().valid_up_to()))
}
