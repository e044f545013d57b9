//! Why the centre could not be made. (What a caller is told is in `reply`.)

use std::io;
use std::path::PathBuf;

/// Why the centre could not be made. All of it is the host's to mend before it serves.
#[derive(Debug, thiserror::Error)]
pub enum CentreError {
    /// The folder of the token file is not there and could not be made, or the file could not be read or written.
    #[error("admin token file {path:?} cannot be used: {source}")]
    Token {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could read the token.
    #[error(
        "admin token file {path:?} has mode {mode:04o}, it must be 0600. hint: `chmod 600 {path:?}`, or remove it and a new one is made"
    )]
    TokenMode {
        /// The file.
        path: PathBuf,
        /// Its present mode.
        mode: u32,
    },
    /// There is something else in it.
    #[error("admin token file {path:?} holds no token (32 to 256 visible ASCII characters). hint: remove it and a new one is made")]
    TokenText {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("no random bytes for a new admin token")]
    Random,
    /// A desk offers something that cannot be served.
    #[error("operation {operation:?} cannot be offered: {why}")]
    Operation {
        /// Its name.
        operation: &'static str,
        /// What is wrong with it.
        why: String,
    },
}
