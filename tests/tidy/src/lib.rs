//! The rules of the house as tests: this file reads the tree, `tests/` holds it to the rules.
//!
//! A rule belongs here when a reviewer would otherwise say the same sentence twice. Each failure names the file, the
//! line and what to do. It deliberately parses no Rust: words and lines are enough for all of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "this crate is test code: a panic is how a test tells"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(Path::parent).expect("tests/tidy lies two folders below the root").to_owned()
}

/// One file of the tree.
pub struct File {
    /// From the root, with `/`.
    pub path: String,
    /// Its text; binary files are left out of the tree.
    pub text: String,
}

impl File {
    /// Lines with their numbers, from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// Is all of it test code?
    pub fn is_test(&self) -> bool {
        let in_folder = self.path.starts_with("tests/") || self.path.contains("/tests/") || self.path.contains("/benches/");
        in_folder || self.path.ends_with("/tests.rs") || self.path.ends_with("_tests.rs")
    }

    /// Lines of test code: all of a test file, else what follows the `#[cfg(test)]` of a module.
    pub fn test_lines(&self) -> Vec<(usize, &str)> {
        if self.is_test() {
            return self.lines().collect();
        }
        let lines: Vec<(usize, &str)> = self.lines().collect();
        let begins = lines.windows(2).position(|two| two[0].1.trim() == "#[cfg(test)]" && two[1].1.trim_start().starts_with("mod "));
        begins.map(|at| lines[at..].to_vec()).unwrap_or_default()
    }
}

/// Every text file that people write, sorted by path. What builds and runs leave behind is not among them.
pub fn tree() -> Vec<File> {
    let root = root();
    let mut files = Vec::new();
    let mut todo = vec![root.clone()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            let kind = entry.file_type().unwrap();
            // `.git` is a folder, or in a second working tree a file that says where that folder is.
            if matches!(name.as_str(), ".git" | "target" | ".run" | "__pycache__") {
                continue;
            }
            if kind.is_dir() {
                todo.push(path);
            } else if kind.is_file()
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.push(File { path, text });
            }
        }
    }
    files.sort_by(|one, two| one.path.cmp(&two.path));
    assert!(files.len() > 20, "the tree was not found at {}", root.display());
    files
}

/// The Rust files.
pub fn sources() -> Vec<File> {
    tree().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// Does `text` hold `word`, not as a part of a longer one?
pub fn has_word(text: &str, word: &str) -> bool {
    let is_part = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    text.match_indices(word).any(|(at, _)| !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next()))
}

/// The line without its comment and without what stands in string literals: the words that the compiler sees.
pub fn code(line: &str) -> String {
    let mut out = String::new();
    let mut in_text = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if in_text => drop(letters.next()),
            '"' => in_text = !in_text,
            '\'' if !in_text && letters.peek() == Some(&'"') => drop(letters.next()),
            '/' if !in_text && letters.peek() == Some(&'/') => break,
            _ if in_text => {}
            other => out.push(other),
        }
    }
    out
}

/// Fails with all findings at once.
///
/// # Panics
/// When there are any.
#[track_caller]
pub fn none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}\n  {}", findings.join("\n  "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_not_code() {
        assert_eq!(code("let a = \"unsafe // \\\" x\"; // unsafe").trim(), "let a = ;");
        assert_eq!(code("unsafe { x }"), "unsafe { x }");
        assert!(has_word("a unsafe b", "unsafe") && !has_word("unsafe_code", "unsafe"));
    }
}
