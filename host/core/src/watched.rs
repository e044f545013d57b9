//! What is noted of an exchange beyond its trail, where somebody has asked for it. Exchanges of routes that are not
//! watched have none of it.

use crate::trace::Trace;
use std::any::Any;

/// See the head of the file.
#[derive(Default)]
pub struct Watched {
    /// The trace that it is a part of.
    pub trace: Option<Trace>,
    /// The id that a trusted proxy has given it.
    pub told_id: Option<Box<str>>,
    /// Its line about the request has been written.
    pub is_announced: bool,
    /// Copies of what passed, in the form of the room that made them.
    pub copies: Option<Box<dyn Any>>,
}

impl Watched {
    /// The same for a second try beside a first: only its trace.
    pub fn twin(&self) -> Option<Box<Watched>> {
        let trace = self.trace.as_ref()?.twin();
        Some(Box::new(Watched { trace: Some(trace), ..Watched::default() }))
    }
}
