//! Words of messages: the nearest known one, and names of types as people say them. Pure.

/// `ServiceTimeouts` as people say it.
pub(super) fn spoken(name: &str) -> String {
    if name == "File" {
        return "this file".into();
    }
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// A hint for a word that nobody knows.
pub(crate) fn nearest_or_all<S: AsRef<str>>(word: &str, known: &[S]) -> String {
    match nearest(word, known.iter().map(S::as_ref)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "there is none yet".into(),
        None => {
            let all: Vec<&str> = known.iter().take(20).map(S::as_ref).collect();
            let more = if known.len() > all.len() { ", ..." } else { "" };
            format!("known here: {}{more}", all.join(", "))
        }
    }
}

/// The known word that a typing mistake would have made into `word`.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let most = (word.chars().count() / 3).clamp(1, 4);
    known.map(|have| (distance(word, have), have)).filter(|&(far, _)| far <= most).min().map(|(_, have)| have)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other.
fn distance(left: &str, right: &str) -> usize {
    let fold = |text: &str| -> Vec<char> { text.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect() };
    let (left, right) = (fold(left), fold(right));
    if left.len().abs_diff(right.len()) > 4 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (at, &a) in left.iter().enumerate() {
        let mut row = vec![at + 1];
        for (to, &b) in right.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut best = (cell(&last, to) + usize::from(a != b)).min(cell(&last, to + 1) + 1).min(cell(&row, to) + 1);
            let swapped = at > 0 && to > 0 && left.get(at - 1) == Some(&b) && right.get(to - 1) == Some(&a);
            if swapped {
                best = best.min(cell(&before, to - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}
