//! What end-to-end tests share; each promise is a file in `tests/`. One helper a file, nothing here but their names.

pub mod docs;
pub mod far;
pub mod frames;
pub mod guests;
pub mod otlp;
pub mod pipes;
pub mod sockets;
pub mod strictness;
pub mod swaps;
pub mod tls;
