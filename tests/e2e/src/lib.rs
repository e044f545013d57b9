//! What end-to-end tests share; each promise is a file in `tests/`. One helper a file, nothing here but their names.

pub mod docs;
pub mod guests;
pub mod otlp;
pub mod strictness;
pub mod swaps;
pub mod tls;
