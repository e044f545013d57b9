//! What the pages, the unit and the container file tell people to type is understood. Nothing of it is done here.

use super::Cli;
use clap::Parser as _;
use clap::error::ErrorKind;
use std::path::Path;

/// Where a command begins: at the start, behind what lends it other rights, or where the demo's script stands for it.
const BEFORE: &[&str] = &["sudo ", "-u wharf ", "podman exec wharf ", "source <(", "dev/", "/usr/local/bin/", "$ "];

/// Pieces of a page that may be commands: what stands between backticks, and the lines of blocks.
fn pieces(page: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found: Vec<String> = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            found.extend(line.split(['|', ';']).map(|piece| piece.trim().to_owned()));
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The words of a command line of ours, if it is one.
fn command(piece: &str) -> Option<Vec<String>> {
    let mut rest = piece.trim();
    while let Some(shorter) = BEFORE.iter().find_map(|before| rest.strip_prefix(before)) {
        rest = shorter.trim_start();
    }
    // Not a file that is called so, and not a sentence about it.
    let rest = rest.strip_prefix("wharf ")?;
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for letter in rest.chars() {
        match (quote, letter) {
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), letter) if letter == open => quote = None,
            // What follows is the shell's.
            (None, '>' | '<' | '&' | '#') => break,
            (None, ' ') => words.push(std::mem::take(&mut word)),
            (_, letter) => word.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty() && word != "...");
    let words: Vec<String> = words.iter().map(|word| meant(word)).collect();
    (!words.is_empty()).then_some(words)
}

/// What a reader puts in the place of a word that stands for something.
fn meant(word: &str) -> String {
    match word.trim_matches(['[', ']', ')', ',']) {
        "VERSION" => "1".into(),
        "IP" | "ADDRESS" => "192.0.2.1".into(),
        "HOST:PORT" => "192.0.2.1:9901".into(),
        "SHELL" => "bash".into(),
        "name: value" => "name: value".into(),
        other => other.to_owned(),
    }
}

#[test]
fn every_command_of_the_pages_is_understood() {
    let mut findings = Vec::new();
    let mut tried = 0;
    for page in crate::config_tests::pages() {
        for piece in pieces(&std::fs::read_to_string(&page).unwrap()) {
            let Some(words) = command(&piece) else { continue };
            tried += 1;
            // In a sentence a command may be named without what it needs.
            let is_a_name = words.iter().all(|word| word.chars().all(|letter| letter.is_ascii_lowercase()));
            match Cli::try_parse_from([vec!["wharf".to_owned()], words].concat()) {
                Ok(_) => {}
                Err(error) if !error.use_stderr() => {}
                // `wharf plugin`: what it can do is shown.
                Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {}
                Err(error) if error.kind() == ErrorKind::MissingRequiredArgument && is_a_name => {}
                Err(error) => {
                    let name = page.file_name().unwrap_or_default().display();
                    findings.push(format!("{name}: `{piece}`: {}", error.to_string().lines().next().unwrap_or_default()));
                }
            }
        }
    }
    assert!(tried > 60, "{tried} commands were found");
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn the_unit_and_the_container_run_what_there_is() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist");
    let unit = std::fs::read_to_string(dist.join("wharf.service")).unwrap();
    let lines: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("Exec")?.split_once('=').map(|(_, line)| line)).collect();
    assert!(lines.len() >= 2, "{lines:?}");
    for line in lines {
        let words = command(line).unwrap_or_else(|| panic!("{line} does not run us"));
        Cli::try_parse_from([vec!["wharf".to_owned()], words].concat()).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    let container = std::fs::read_to_string(dist.join("Containerfile")).unwrap();
    let list = |line: &str| serde_json::from_str::<Vec<String>>(line).unwrap();
    let after = |word: &str| container.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_else(|| panic!("no {word}"));
    let check = container.lines().find_map(|line| line.strip_prefix("HEALTHCHECK")?.split_once("CMD ").map(|(_, list)| list)).unwrap();
    let begins = list(after("ENTRYPOINT "));
    for words in [[begins, list(after("CMD "))].concat(), list(check)] {
        Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
}

#[test]
fn commands_are_told_from_sentences() {
    let words = |piece: &str| command(piece).map(|words| words.join("|"));
    assert_eq!(words("sudo -u wharf wharf config status --config FILE").as_deref(), Some("config|status|--config|FILE"));
    assert_eq!(words("wharf explain [METHOD] URL -H 'name: value' > x").as_deref(), Some("explain|METHOD|URL|-H|name: value"));
    assert_eq!(words("wharf.yaml"), None);
    assert_eq!(words("dev/wharf plugin list").as_deref(), Some("plugin|list"));
}
