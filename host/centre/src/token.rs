//! The bearer token: made once, kept in a file that only its owner can read, compared in constant time.
//!
//! There is one token and it is an operator's. Roles for several people come with the console.

use crate::CentreError;
use crate::audit::make_folder;
use aws_lc_rs::{constant_time, digest, rand};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Only the digest is kept in memory: comparing digests takes the same time for every presented text.
pub(crate) struct Token {
    digest: digest::Digest,
}

impl Token {
    /// Reads the token, or makes it where there is none. Two processes that start at once end up with the same one.
    pub(crate) fn open(path: &Path) -> Result<Token, CentreError> {
        let failed = |source| CentreError::Token { path: path.to_owned(), source };
        match File::open(path) {
            Ok(file) => Token::read(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path)?;
                Token::read(path, File::open(path).map_err(failed)?)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn read(path: &Path, file: File) -> Result<Token, CentreError> {
        let failed = |source| CentreError::Token { path: path.to_owned(), source };
        // Asked of the open file, not of the path: nobody can swap it in between.
        let facts = file.metadata().map_err(failed)?;
        let mode = facts.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(CentreError::TokenMode { path: path.to_owned(), mode });
        }
        let no_token = || CentreError::TokenText { path: path.to_owned() };
        if !facts.is_file() {
            return Err(no_token());
        }
        let mut bytes = Vec::new();
        file.take(1024).read_to_end(&mut bytes).map_err(failed)?;
        let text = bytes.trim_ascii();
        if !(32..=256).contains(&text.len()) || !text.iter().all(u8::is_ascii_graphic) {
            return Err(no_token());
        }
        Ok(Token { digest: digest::digest(&digest::SHA256, text) })
    }

    /// Is this it?
    pub(crate) fn is(&self, presented: &[u8]) -> bool {
        let presented = digest::digest(&digest::SHA256, presented);
        constant_time::verify_slices_are_equal(self.digest.as_ref(), presented.as_ref()).is_ok()
    }
}

/// Writes a new token beside its place and links it there, so a half-written one is never seen and an existing one is
/// never replaced.
fn create(path: &Path) -> Result<(), CentreError> {
    let failed = |source| CentreError::Token { path: path.to_owned(), source };
    let (mut random, mut draft_name) = ([0; 32], [0; 8]);
    rand::fill(&mut random).and_then(|()| rand::fill(&mut draft_name)).map_err(|_| CentreError::Random)?;
    let mut text = random.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    text.push('\n');
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    make_folder(folder).map_err(failed)?;
    let draft = path.with_extension(format!("new.{:x}", u64::from_ne_bytes(draft_name)));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => File::open(folder)?.sync_all(),
        }
    })();
    // The draft goes in any case; what it held is either linked or worthless.
    let _ = fs::remove_file(&draft);
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap().trim().to_owned()
    }

    #[test]
    fn a_token_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/admin.token");
        let token = Token::open(&path).unwrap();
        let first = text(&path);
        assert_eq!(first.len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(token.is(first.as_bytes()));
        assert!(!token.is(b""));
        assert!(!token.is(&first.as_bytes()[1..]));
        assert!(Token::open(&path).unwrap().is(first.as_bytes()), "the second start reads the same token");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_token_that_others_can_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        Token::open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let Err(error) = Token::open(&path) else { panic!("a readable token was taken") };
        assert!(error.to_string().contains("0640"), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        for bad in ["", "short", "has a space in the middle of it, which no token has\n"] {
            fs::write(&path, bad).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(Token::open(&path), Err(CentreError::TokenText { .. })), "{bad:?}");
        }
    }
}
