//! What the wasm room offers an operator: the catalog's operations as a desk. No decisions here, only arguments in and
//! JSON out.

use crate::catalog::{Catalog, Push};
use crate::limits::COMPONENT_BYTES_MAX;
use crate::refusal::{CatalogError, Refusal};
use bytes::Bytes;
use serde::Serialize;
use wharf_core::BoxFuture;
use wharf_core::desk::{Ask, Desk, DeskError, DeskErrorKind, Input, Operation, Role, Verb};

const PUSHED: &str = r#"{"type":"object","required":["plugin","version","digest","bytes","roles","known","activated","previous","attachments","asks_more","ms"],"properties":{
"plugin":{"type":"string"},"version":{"type":"integer"},"digest":{"type":"string","description":"sha-256, hexadecimal"},"bytes":{"type":"integer"},
"roles":{"type":"array","items":{"type":"string"}},"known":{"type":"boolean","description":"the same bytes were uploaded before and keep their number"},
"activated":{"type":"boolean","description":"this version serves now"},"previous":{"type":["integer","null"],"description":"the version that served before"},
"attachments":{"type":"integer","description":"at how many places the configuration attaches the plugin"},
"asks_more":{"type":"array","items":{"type":"string"},"description":"imports that the version before did not have"},"ms":{"type":"number"}}}"#;

const ACTIVATED: &str = r#"{"type":"object","required":["plugin","version","previous","ms"],"properties":{
"plugin":{"type":"string"},"version":{"type":"integer"},"previous":{"type":["integer","null"],"description":"the version that served before"},"ms":{"type":"number"}}}"#;

const LISTED: &str = r#"{"type":"object","required":["plugins","living"],"properties":{
"plugins":{"type":"array","items":{"type":"object","required":["plugin","serving","versions","roles","attachments","ready","damage"],"properties":{
"plugin":{"type":"string"},"serving":{"type":["integer","null"]},"versions":{"type":"integer"},"roles":{"type":"array","items":{"type":"string"}},
"attachments":{"type":"array","items":{"type":"string"}},"ready":{"type":"boolean","description":"it serves at all its places"},"damage":{"type":["string","null"]}}}},
"living":{"type":"array","description":"versions that a generation or a call still holds","items":{"type":"object","required":["plugin","version","state","ready"],"properties":{
"plugin":{"type":"string"},"version":{"type":"integer"},"state":{"enum":["serving","last-good","draining"]},"ready":{"type":"integer"}}}}}}"#;

const VERSIONS: &str = r#"{"type":"object","required":["plugin","versions"],"properties":{"plugin":{"type":"string"},"versions":{"type":"array","items":{"type":"object",
"required":["version","state","digest","bytes","roles","note","pushed_ms","damage"],"properties":{"version":{"type":"integer"},
"state":{"enum":["serving","earlier","faulty","stored","unusable"]},"digest":{"type":"string"},"bytes":{"type":"integer"},"roles":{"type":"array","items":{"type":"string"}},
"note":{"type":"string"},"pushed_ms":{"type":"integer","description":"milliseconds since 1970"},"damage":{"type":["string","null"]}}}}}}"#;

const INSPECTED: &str = r#"{"type":"object","required":["version","state","digest","bytes","roles","note","pushed_ms","damage","imports","wasi","schema"],"properties":{
"version":{"type":"integer"},"state":{"enum":["serving","earlier","faulty","stored","unusable"]},"digest":{"type":"string"},"bytes":{"type":"integer"},
"roles":{"type":"array","items":{"type":"string"}},"note":{"type":"string"},"pushed_ms":{"type":"integer"},"damage":{"type":["string","null"]},
"imports":{"type":"array","items":{"type":"string"},"description":"wharf interfaces"},"wasi":{"type":"array","items":{"type":"string"},"description":"WASI interfaces; all without effect"},
"schema":{"description":"JSON Schema of its configuration; null: it takes none"}}}"#;

impl Desk for Catalog {
    fn operations(&self) -> Vec<Operation> {
        let look = |name, path, summary, output| Operation {
            name,
            verb: Verb::Get,
            path,
            summary,
            role: Role::Viewer,
            query: &[],
            input: Input::None,
            output,
            changes: false,
        };
        let change = |name, path, summary, output| Operation {
            verb: Verb::Post,
            role: Role::Operator,
            changes: true,
            ..look(name, path, summary, output)
        };
        vec![
            Operation {
                verb: Verb::Put,
                query: &[
                    ("activate", "`false`: check and store it, but let the present version serve on; default `true`"),
                    ("note", "a text for people, e.g. a commit; at most 1 KiB"),
                ],
                input: Input::Bytes(COMPONENT_BYTES_MAX),
                ..change("plugin.push", "/plugins/{name}", "Upload a component as the next version of a plugin.", PUSHED)
            },
            look("plugin.list", "/plugins", "All plugins and the versions that are still held.", LISTED),
            look("plugin.versions", "/plugins/{name}/versions", "The versions of a plugin, the newest first.", VERSIONS),
            look("plugin.inspect", "/plugins/{name}/versions/{version}", "Roles, imports, schema and state of one version.", INSPECTED),
            change("plugin.activate", "/plugins/{name}/versions/{version}/activate", "Let a stored version serve.", ACTIVATED),
            change("plugin.rollback", "/plugins/{name}/rollback", "Go back to the version that served before.", ACTIVATED),
        ]
    }

    fn serve<'a>(&'a self, operation: &'a str, ask: Ask) -> BoxFuture<'a, Result<Bytes, DeskError>> {
        Box::pin(async move {
            let Some(me) = self.me.upgrade() else { return Err(DeskError::new(DeskErrorKind::Internal, "the catalog is closing")) };
            let name = || ask.arg("name").ok_or_else(|| invalid("the argument `name` is missing"));
            match operation {
                "plugin.push" => {
                    let activate = match ask.arg("activate").unwrap_or("true") {
                        "true" | "1" | "" => true,
                        "false" | "0" => false,
                        other => return Err(invalid(format!("activate={other:?} is neither true nor false")).into()),
                    };
                    let push = Push { activate, note: ask.arg("note").unwrap_or_default().to_owned() };
                    json(&me.push(name()?, ask.body.clone(), push).await?)
                }
                "plugin.list" => json(&serde_json::json!({ "plugins": me.list(), "living": me.living() })),
                "plugin.versions" => json(&serde_json::json!({ "plugin": name()?, "versions": me.versions(name()?)? })),
                "plugin.inspect" => json(&me.inspect(name()?, version(&ask)?).await?),
                "plugin.activate" => json(&me.activate(name()?, version(&ask)?).await?),
                "plugin.rollback" => json(&me.rollback(name()?).await?),
                other => Err(DeskError::new(DeskErrorKind::NotFound, format!("the plugin desk has no operation {other:?}"))),
            }
        })
    }
}

fn version(ask: &Ask) -> Result<u32, CatalogError> {
    let text = ask.arg("version").unwrap_or_default();
    text.parse().map_err(|_| invalid(format!("version {text:?} is not a number; versions are counted 1, 2, 3, ...")))
}

fn invalid(text: impl Into<String>) -> CatalogError {
    CatalogError(Refusal::Invalid(text.into()))
}

fn json(answer: &impl Serialize) -> Result<Bytes, DeskError> {
    serde_json::to_vec(answer).map(Bytes::from).map_err(|error| DeskError::new(DeskErrorKind::Internal, error.to_string()))
}
