//! A regular expression that an operator wrote: for the whole of a text, linear in its length, bounded in its memory.
//!
//! It knows nothing of paths and fields. What a pattern of a path is compared with is said in `routes`.

use regex::{Captures, Regex, RegexBuilder};

/// Memory that one compiled pattern may take, bytes: a few hundred times what sensible ones need.
const COMPILED_MAX: usize = 1 << 20;
/// Longest pattern, bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// A pattern. Two are equal if they are written alike.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    whole: Regex,
}

impl Pattern {
    /// A pattern that must fit a whole text, as if it stood between `^` and `$`.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn whole(text: &str) -> Result<Pattern, String> {
        // As it stands first: `a)|(b` is good within the brackets below, and means something else there.
        compile(text)?;
        Ok(Pattern { text: text.into(), whole: compile(&format!(r"\A(?:{text})\z"))? })
    }

    /// A pattern that is looked for anywhere in a text.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn part(text: &str) -> Result<Pattern, String> {
        Ok(Pattern { text: text.into(), whole: compile(text)? })
    }

    /// Does it fit?
    pub fn fits(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }

    /// What its groups take of a text that it fits.
    pub fn captures<'t>(&self, text: &'t str) -> Option<Captures<'t>> {
        self.whole.captures(text)
    }

    /// The names of its groups that have one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.whole.capture_names().flatten()
    }

    /// How many groups it has, the whole not counted.
    pub fn groups(&self) -> usize {
        self.whole.captures_len().saturating_sub(1)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text && self.whole.as_str() == other.whole.as_str()
    }
}

impl Eq for Pattern {}

fn compile(text: &str) -> Result<Regex, String> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(format!("the pattern has {} bytes, and at most {PATTERN_BYTES_MAX} are allowed", text.len()));
    }
    RegexBuilder::new(text).size_limit(COMPILED_MAX).dfa_size_limit(COMPILED_MAX).nest_limit(64).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(bytes) => format!("compiled, the pattern needs more than the {bytes} bytes that are allowed"),
        // The last line says what is wrong; those before it draw where.
        other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_whole_texts_only() {
        let pattern = Pattern::whole("/a|/b").unwrap();
        for (text, fits) in [("/a", true), ("/b", true), ("/ab", false), ("x/a", false), ("/a\n", false), ("", false)] {
            assert_eq!(pattern.fits(text), fits, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_or_too_large_is_refused_in_one_line() {
        let long = "a".repeat(PATTERN_BYTES_MAX + 1);
        for bad in ["a)|(b", "(", "[z-a]", "(a{1000}){1000}", r"(?=a)", &long] {
            let said = Pattern::whole(bad).unwrap_err();
            assert!(!said.is_empty() && !said.contains('\n'), "{said:?}");
        }
    }

    #[test]
    fn a_pattern_made_to_explode_is_looked_for_in_linear_time() {
        let pattern = Pattern::whole("(a*)*b").unwrap();
        // A backtracking matcher would not end within the age of the world.
        assert!(!pattern.fits(&"a".repeat(100_000)));
    }
}
