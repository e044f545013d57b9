//! The table of operations, checked when it is made so that the router never meets a conflict. Pure.

use crate::CentreError;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use wharf_core::desk::{Desk, Input, Operation, Verb};

/// One operation and the desk that does it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) operation: Operation,
    pub(crate) desk: Arc<dyn Desk>,
}

/// All operations, by path; paths sorted, verbs in the desks' order.
pub(crate) struct Table {
    pub(crate) paths: BTreeMap<&'static str, Vec<Entry>>,
}

impl Table {
    pub(crate) fn new(desks: &[Arc<dyn Desk>]) -> Result<Table, CentreError> {
        let mut paths: BTreeMap<&'static str, Vec<Entry>> = BTreeMap::new();
        let mut names = HashSet::new();
        // Two templates that differ only in the names of their arguments are one place to a router.
        let mut shapes: BTreeMap<String, &'static str> = BTreeMap::new();
        for desk in desks {
            for operation in desk.operations() {
                let refuse = |why: String| CentreError::Operation { operation: operation.name, why };
                if !names.insert(operation.name) {
                    return Err(refuse("another operation has this name".to_owned()));
                }
                let shape =
                    shape(operation.path).ok_or_else(|| refuse(format!("path {:?} is not of the form /a/{{b}}", operation.path)))?;
                let first = shapes.entry(shape).or_insert(operation.path);
                if *first != operation.path {
                    return Err(refuse(format!("path {:?} is also {first:?}", operation.path)));
                }
                if operation.verb == Verb::Get && (operation.changes || operation.input != Input::None) {
                    return Err(refuse("a GET changes nothing and has no body".to_owned()));
                }
                let entries = paths.entry(operation.path).or_default();
                if let Some(twin) = entries.iter().find(|entry| entry.operation.verb == operation.verb) {
                    return Err(refuse(format!("{:?} has the same verb and path", twin.operation.name)));
                }
                entries.push(Entry { operation, desk: desk.clone() });
            }
        }
        Ok(Table { paths })
    }

    pub(crate) fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.paths.values().flatten().map(|entry| &entry.operation)
    }
}

/// Names of the arguments in a path template, in order.
pub(crate) fn arguments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn shape(path: &str) -> Option<String> {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let mut shape = String::new();
    for part in path.strip_prefix('/')?.split('/') {
        shape.push('/');
        match part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) if word(name) => shape.push_str("{}"),
            None if word(part) => shape.push_str(part),
            _ => return None,
        }
    }
    let mut seen = HashSet::new();
    arguments(path).all(|name| seen.insert(name)).then_some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_path_or_is_refused() {
        assert_eq!(shape("/plugins/{name}/versions").as_deref(), Some("/plugins/{}/versions"));
        for bad in ["", "/", "plugins", "/a//b", "/a/", "/{a", "/{}", "/{*rest}", "/{a}/{a}", "/a b", "/x{a}"] {
            assert_eq!(shape(bad), None, "{bad}");
        }
        assert_eq!(arguments("/a/{b}/c/{d}").collect::<Vec<_>>(), ["b", "d"]);
    }
}
