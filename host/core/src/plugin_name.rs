//! What a plugin may be called: one rule for the configuration, its schema, and the catalog that names folders by it.

/// Longest name, bytes.
const NAME_MAX: usize = 64;
/// What [`is_plugin_name`] asks for, in words.
pub const RULE: &str = "1 to 64 of a-z, 0-9, '-' and '_', and begins with a letter";
/// The same as a regular expression.
pub const PATTERN: &str = "^[a-z][a-z0-9_-]{0,63}$";

/// Is this a plugin's name? It becomes part of a file's name, so the alphabet is narrow on purpose.
pub fn is_plugin_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}
