//! The gateway's own desk: the configuration's state, routes with their effective chains, a reload.

use crate::config::plan::{Attachment, Route, Target};
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
"properties":{"name":{"type":"string"},"to":{"type":"string"},"chain":{"type":"array","items":{"type":"object"}}}}}}}"#;

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
        let row = |route: &Route| {
            let to = match &route.target {
                Target::Service { name, subset: None } => format!("service {name}"),
                Target::Service { name, subset: Some(subset) } => format!("service {name}, endpoints tagged {subset}"),
                Target::Plugin(attachment) => format!("route plugin {}", attachment.plugin),
                Target::Answer(answer) => format!("answer {}", answer.status),
            };
            json!({ "name": &*route.name, "to": to, "chain": route.chain.iter().map(step).collect::<Vec<_>>() })
        };
        json!({ "routes": generation.plan.routes.iter().map(row).collect::<Vec<_>>() })
    }
}
