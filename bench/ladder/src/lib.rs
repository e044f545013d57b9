//! The two halves of the ladder that can be tested alone: the bench's configuration ([`file`]) and the shipped rules
//! behind core's doors ([`rules`]). The program is in `main.rs`.

pub mod file;
pub mod rules;
