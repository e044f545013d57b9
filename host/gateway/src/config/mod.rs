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

fn read(path: &Path) -> Result<String, String> {
    let found = std::fs::metadata(path).map_err(|error| error.to_string())?;
    // Opening a pipe would wait for somebody to write into it, and a device has no end.
    if !found.is_file() {
        return Err("it is no regular file".into());
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(format!("it has {} bytes, and at most {FILE_BYTES_MAX} are read", found.len()));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|bad| format!("it is not UTF-8 from byte {} on", bad.utf8_error().valid_up_to()))
}
