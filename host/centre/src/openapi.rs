//! The OpenAPI 3.1 document, made of the operations. Pure: the same operations give the same text.

use crate::CentreError;
use crate::table::{Table, arguments};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use wharf_core::desk::{Desk, Input, Operation, Role, Verb};

/// The document as pretty-printed JSON with sorted keys, ending in a newline: what `/openapi.json` answers and what a
/// committed copy is compared with.
///
/// # Errors
/// [`CentreError::Operation`] names the operation whose path or schema cannot be published.
pub fn document(desks: &[Arc<dyn Desk>], version: &str) -> Result<String, CentreError> {
    of_table(&Table::new(desks)?, version)
}

pub(crate) fn of_table(table: &Table, version: &str) -> Result<String, CentreError> {
    let mut schemas = Map::new();
    schemas.insert("Error".to_owned(), error_schema());
    let mut paths = house_paths();
    for (path, entries) in &table.paths {
        let mut verbs = Map::new();
        for entry in entries {
            verbs.insert(verb(entry.operation.verb).to_owned(), describe(&entry.operation, &mut schemas)?);
        }
        paths.insert(format!("/v1{path}"), Value::Object(verbs));
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {"title": "Wharf admin API", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "The text of the admin token file."}},
        },
    });
    let mut text = serde_json::to_string_pretty(&sorted(document))
        .map_err(|error| CentreError::Operation { operation: "openapi", why: error.to_string() })?;
    text.push('\n');
    Ok(text)
}

fn verb(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "get",
        Verb::Post => "post",
        Verb::Put => "put",
        Verb::Delete => "delete",
    }
}

fn describe(operation: &Operation, schemas: &mut Map<String, Value>) -> Result<Value, CentreError> {
    let text = || json!({"type": "string"});
    let mut parameters: Vec<Value> =
        arguments(operation.path).map(|name| json!({"name": name, "in": "path", "required": true, "schema": text()})).collect();
    parameters.extend(
        operation
            .query
            .iter()
            .map(|(name, what)| json!({"name": name, "in": "query", "required": false, "description": what, "schema": text()})),
    );
    let answer = schema(operation, operation.output, schemas)?;
    let mut described = json!({
        "operationId": operation.name,
        "tags": [operation.name.split('.').next().unwrap_or_default()],
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": {"schema": answer}}},
            "default": error_response(),
        },
        "x-wharf-role": match operation.role { Role::Viewer => "viewer", Role::Operator => "operator" },
        "x-wharf-changes": operation.changes,
    });
    let body = match operation.input {
        Input::None => None,
        Input::Json(input) => Some(json!({"application/json": {"schema": schema(operation, input, schemas)?}})),
        Input::Bytes(max) => {
            Some(json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary", "maxLength": max}}}))
        }
    };
    if let (Some(content), Some(described)) = (body, described.as_object_mut()) {
        described.insert("requestBody".to_owned(), json!({"required": true, "content": content}));
    }
    Ok(described)
}

/// A schema of the desk's, its `$defs` moved to where the document keeps schemas.
fn schema(operation: &Operation, text: &str, schemas: &mut Map<String, Value>) -> Result<Value, CentreError> {
    let refuse = |why: String| CentreError::Operation { operation: operation.name, why };
    let mut schema: Value = serde_json::from_str(text).map_err(|error| refuse(format!("a schema is not JSON: {error}")))?;
    let Some(top) = schema.as_object_mut() else { return Ok(schema) };
    top.remove("$schema");
    let defs = match top.remove("$defs") {
        Some(Value::Object(defs)) => defs,
        _ => Map::new(),
    };
    for (name, mut part) in defs {
        point_to_components(&mut part);
        match schemas.get(&name) {
            Some(other) if *other != part => return Err(refuse(format!("schema {name:?} differs from another operation's"))),
            Some(_) => {}
            None => {
                schemas.insert(name, part);
            }
        }
    }
    point_to_components(&mut schema);
    Ok(schema)
}

fn point_to_components(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" => {
                        if let Some(rest) = target.strip_prefix("#/$defs/") {
                            *target = format!("#/components/schemas/{rest}");
                        }
                    }
                    other => point_to_components(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(point_to_components),
        _ => {}
    }
}

/// What the centre answers by itself.
fn house_paths() -> Map<String, Value> {
    let ready = json!({"type": "object", "required": ["ready", "reasons"], "properties": {
        "ready": {"type": "boolean"}, "reasons": {"type": "array", "items": {"type": "string"}}}});
    let answer = |what: &str, kind: &str, schema: Value| json!({"description": what, "content": {kind: {"schema": schema}}});
    let look = |name: &str, summary: &str, security: Value, responses: Value| json!({"get": {"operationId": name, "tags": ["house"], "summary": summary, "security": security, "responses": responses}});
    let mut paths = Map::new();
    let alive = json!({"200": answer("It is.", "application/json", json!({"type": "object"})), "default": error_response()});
    paths.insert("/healthz".to_owned(), look("house.health", "Is the process alive?", json!([]), alive));
    let readiness = json!({"200": answer("It does.", "application/json", ready.clone()), "503": answer("Not now.", "application/json", ready),
        "default": error_response()});
    paths.insert("/readyz".to_owned(), look("house.ready", "Does this node want traffic?", json!([]), readiness));
    let metrics = json!({"200": answer("Prometheus text 0.0.4.", "text/plain", json!({"type": "string"})), "default": error_response()});
    paths.insert("/metrics".to_owned(), look("house.metrics", "All counters.", json!([{}, {"token": []}]), metrics));
    let document = json!({"200": answer("This document.", "application/json", json!({"type": "object"})), "default": error_response()});
    paths.insert("/openapi.json".to_owned(), look("house.openapi", "This document.", json!([{"token": []}]), document));
    paths
}

fn error_response() -> Value {
    json!({"description": "Not done; the last good state serves on.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}})
}

fn error_schema() -> Value {
    json!({"type": "object", "required": ["error"], "properties": {"error": {"type": "object", "required": ["kind", "message"], "properties": {
        "kind": {"type": "string", "description": "What kind of no it is."},
        "message": {"type": "string", "description": "Names the object, the limit and the remedy."},
        "hint": {"type": "string", "description": "What to do about it, where there is one thing to do."}}}}})
}

/// serde_json keeps keys sorted or in order of insertion, as some crate in the build asks for; this document must not
/// depend on that.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut pairs: Vec<_> = fields.into_iter().collect();
            pairs.sort_by(|(one, _), (two, _)| one.cmp(two));
            Value::Object(pairs.into_iter().map(|(name, value)| (name, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
