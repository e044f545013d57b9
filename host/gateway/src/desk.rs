//! The gateway's own desk: the configuration's state, routes with their effective chains, a reload.

use crate::config::host_text;
use crate::config::plan::{Attachment, Route};
use crate::control::{Control, Refused};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use wharf_core::BoxFuture;
use wharf_core::desk::{Ask, Desk, DeskError, DeskErrorKind, Input, Operation, Role, Verb};

/// See the head of the file.
pub struct GatewayDesk {
    control: Arc<Control>,
}

impl GatewayDesk {
    /// The desk over this control.
    pub fn new(control: Arc<Control>) -> Arc<GatewayDesk> {
        Arc::new(GatewayDesk { control })
    }
}

const STATE: &str = r#"{"type":"object","required":["file","generation","applied"],"properties":{"file":{"type":"string"},
"generation":{"type":"integer"},"applied":{"type":"boolean","description":"all cores serve this generation"},
"since_ms":{"type":["integer","null"]},"refused":{"description":"why the newest file does not serve"},
"problems":{"type":"array","items":{"type":"object"}},"needs_restart":{"type":"array","items":{"type":"string"}}}}"#;
const ROUTES: &str = r#"{"type":"object","required":["routes"],"properties":{"routes":{"type":"array","items":{"type":"object",
"properties":{"name":{"type":"string"},"to":{"type":"string"},"chain":{"type":"array","items":{"type":"object"}},
"hosts":{"type":"array","description":"chains for hosts that have plugins of their own; the most specific pattern counts","items":{"type":"object",
"properties":{"host":{"type":"string"},"chain":{"type":"array","items":{"type":"object"}}}}}}}}}}"#;

impl Desk for GatewayDesk {
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
        vec![
            look("config.show", "/config", "Shows which configuration serves, and why the newest does not, if it does not.", STATE),
            look("routes.list", "/routes", "Lists routes with their target and their effective chain of plugins and versions.", ROUTES),
            Operation {
                name: "config.reload",
                verb: Verb::Post,
                path: "/config/reload",
                summary: "Reads the configuration file and puts it in force, if it has no mistake.",
                role: Role::Operator,
                query: &[],
                input: Input::None,
                output: STATE,
                changes: true,
            },
        ]
    }

    fn serve<'a>(&'a self, operation: &'a str, _: Ask) -> BoxFuture<'a, Result<Bytes, DeskError>> {
        Box::pin(async move {
            let answer = match operation {
                "config.show" => self.state(),
                "routes.list" => self.routes(),
                "config.reload" => match self.control.ask_reload().await {
                    Some(Ok(_)) => self.state(),
                    None => return Err(DeskError::new(DeskErrorKind::Internal, "the gateway is ending")),
                    Some(Err(refused)) => {
                        let error = DeskError::new(
                            DeskErrorKind::Refused,
                            format!("the configuration was not put in force; the last good one serves on\n{refused}"),
                        );
                        return Err(error.hint("`wharf check` shows the same without a gateway"));
                    }
                },
                other => return Err(DeskError::new(DeskErrorKind::NotFound, format!("the gateway's desk has no operation {other:?}"))),
            };
            Ok(Bytes::from(answer.to_string()))
        })
    }
}

impl GatewayDesk {
    fn state(&self) -> Value {
        let shown = self.control.shown();
        let since = shown.since.and_then(|since| since.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_millis() as u64);
        json!({
            "file": self.control.path().display().to_string(),
            "generation": self.control.serving().number,
            "applied": self.control.is_applied(),
            "since_ms": since,
            "refused": shown.refused.map(|refused| match refused {
                Refused::Mistakes(mistakes) => mistakes.json(),
                other => json!({ "message": other.to_string() }),
            }),
            "problems": shown.problems.iter().map(|problem| json!({
                "plugin": &*problem.plugin, "place": &*problem.place, "code": problem.code, "message": problem.message, "hint": problem.hint,
            })).collect::<Vec<_>>(),
            "needs_restart": shown.needs_restart,
        })
    }

    fn routes(&self) -> Value {
        let generation = self.control.serving();
        let step = |attachment: &Attachment| {
            let (version, roles) = generation.version_of(attachment).map_or((None, Vec::new()), |(version, roles)| (Some(version), roles));
            json!({
                "plugin": &*attachment.plugin,
                "version": version,
                "roles": roles.iter().map(|role| role.as_str()).collect::<Vec<_>>(),
                "level": format!("{:?}", attachment.level).to_lowercase(),
                "order": attachment.order,
            })
        };
        json!({ "routes": generation.plan.routes.iter().map(|route| row(route, &step)).collect::<Vec<_>>() })
    }
}

/// A route as it is shown. `hosts` is there only where the host makes a difference.
fn row(route: &Route, step: &dyn Fn(&Attachment) -> Value) -> Value {
    let chain = |chain: &[Attachment]| chain.iter().map(step).collect::<Vec<_>>();
    let mut row = json!({ "name": &*route.name, "to": route.target.to_string(), "chain": chain(&route.chain) });
    if !route.host_chains.is_empty()
        && let Some(fields) = row.as_object_mut()
    {
        let hosts = route.host_chains.iter().map(|(host, own)| json!({ "host": host_text(host), "chain": chain(own) }));
        fields.insert("hosts".into(), hosts.collect());
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, check};
    use std::path::Path;

    #[test]
    fn plugins_of_a_host_are_shown_with_routes_for_any_host() {
        let text =
            "listeners: {web: {bind: 127.0.0.1:0}}\nplugins: {a: {}, b: {}}\nattachments: {global: [b], hosts: {'*.example.com': [a]}}
routes: [{name: any, to: {answer: {status: 200}}}, {name: other, match: {hosts: [x.test]}, to: {answer: {status: 200}}}]\n";
        let plan = check("t.yaml", text, Path::new(""), &Surroundings::here()).unwrap();
        let rows: Vec<Value> = plan.routes.iter().map(|route| row(route, &|step| json!(&*step.plugin))).collect();
        let expected = json!([
            { "name": "any", "to": "answer 200", "chain": ["b"], "hosts": [{ "host": "*.example.com", "chain": ["b", "a"] }] },
            { "name": "other", "to": "answer 200", "chain": ["b"] },
        ]);
        assert_eq!(Value::Array(rows), expected);
    }
}
