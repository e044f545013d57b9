//! The gateway's own desk: the configuration's state, routes with their effective chains, a reload.

use crate::config::document::Document;
use crate::config::plan::{Attachment, Route};
use crate::config::{Surroundings, host_text};
use crate::control::{Control, Quarantined, Refused};
use crate::explain::{self, Question};
use crate::last_good;
use crate::telemetry::access::Reopener;
use crate::upgrade;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use tokio::sync::{mpsc, oneshot};
use wharf_core::BoxFuture;
use wharf_core::desk::{Ask, Desk, DeskError, DeskErrorKind, Input, Operation, Role, Verb};

/// See the head of the file.
pub struct GatewayDesk {
    control: Arc<Control>,
    access_log: Reopener,
    upgrades: mpsc::Sender<upgrade::Ask>,
}

impl GatewayDesk {
    /// The desk over this control and this access log. Upgrades are asked for by `upgrades`.
    pub fn new(control: Arc<Control>, access_log: Reopener, upgrades: mpsc::Sender<upgrade::Ask>) -> Arc<GatewayDesk> {
        Arc::new(GatewayDesk { control, access_log, upgrades })
    }
}

const STATE: &str = r#"{"type":"object","required":["file","generation","applied"],"properties":{"file":{"type":"string"},
"generation":{"type":"integer"},"applied":{"type":"boolean","description":"all cores serve this generation"},
"since_ms":{"type":["integer","null"]},"refused":{"description":"why nothing of the newest file serves"},
"quarantined":{"type":"array","description":"what does not serve as the newest file says, though the rest does","items":{"type":"object",
"properties":{"kind":{"type":"string"},"name":{"type":"string"},"serving":{"enum":["last good","nothing"]},"since_ms":{"type":"integer"},
"why":{"type":"array","items":{"type":"string"}}}}},
"problems":{"type":"array","items":{"type":"object"}},"needs_restart":{"type":"array","items":{"type":"string"}}}}"#;
const EFFECTIVE: &str = r#"{"type":"object","description":"the sections of the configuration; each value is {value, from}, where `from` is a file and line, `default`, or `defaults` with a file and line"}"#;
const EXPLAINED: &str = r#"{"type":"object","required":["path","tried"],"properties":{"method":{"type":"string"},"path":{"type":"string"},
"listener":{"type":"string"},"listener_is":{"type":"string","description":"how it is known by which listener it comes in"},
"route":{"type":"string"},"route_at":{"type":"string","description":"file and line"},"to":{"type":"string"},
"path_sent":{"type":"string","description":"the path that the service sees, if it is another"},"path_refused":{"type":"string"},"redirected_to":{"type":"string"},
"steps":{"type":"array","description":"what happens to it, in order","items":{"type":"object","properties":{"step":{"type":"string"},
"setting":{"type":"string"},"does":{"type":"string"},"answers":{"type":"string"},"from":{"type":["string","null"]}}}},
"answer":{"type":"integer","description":"the status, if no route fits"},"chain":{"type":"array","items":{"type":"object"}},"endpoints":{"type":"array","items":{"type":"object"}},
"settings":{"type":"array","items":{"type":"object"}},"tried":{"type":"array","items":{"type":"object"}},"source":{"type":"array","items":{"type":"object"}}}}"#;
const REOPENED: &str = r#"{"type":"object","required":["reopened"],"properties":{"reopened":{"type":"boolean","description":"false: there is no access log"}}}"#;
const UPGRADED: &str =
    r#"{"type":"object","required":["pid"],"properties":{"pid":{"type":"integer","description":"the process that serves now"}}}"#;
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
            look(
                "config.effective",
                "/config/effective",
                "Shows every setting that is in effect and where it comes from, defaults included, secrets left out.",
                EFFECTIVE,
            ),
            Operation {
                query: &[
                    ("method", "The request's method; `GET` by default."),
                    ("url", "Its URL, or only its path."),
                    ("header", "Its headers, `name: value`, one on each line."),
                    ("source", "The address that it comes from."),
                    ("listener", "The listener that it comes in by; by default the one that the URL fits best."),
                ],
                ..look(
                    "config.explain",
                    "/config/explain",
                    "Says which route a request would take, why not the others, and what holds for it.",
                    EXPLAINED,
                )
            },
            look("routes.list", "/routes", "Lists routes with their target and their effective chain of plugins and versions.", ROUTES),
            Operation {
                name: "config.reload",
                verb: Verb::Post,
                path: "/config/reload",
                summary: "Reads the configuration and puts it in force, all but what is wrong with it.",
                role: Role::Operator,
                query: &[],
                input: Input::None,
                output: STATE,
                changes: true,
            },
            Operation {
                name: "log.reopen",
                verb: Verb::Post,
                path: "/log/reopen",
                summary: "Opens the file of the access log anew, after it was moved away.",
                role: Role::Operator,
                query: &[],
                input: Input::None,
                output: REOPENED,
                changes: true,
            },
            Operation {
                name: "gateway.upgrade",
                verb: Verb::Post,
                path: "/upgrade",
                summary: "Starts the gateway's binary as it is on disk now, lets it take over without a lost connection, and ends this process.",
                role: Role::Operator,
                query: &[],
                input: Input::None,
                output: UPGRADED,
                changes: true,
            },
        ]
    }

    fn serve<'a>(&'a self, operation: &'a str, ask: Ask) -> BoxFuture<'a, Result<Bytes, DeskError>> {
        Box::pin(async move {
            let answer = match operation {
                "config.show" => self.state(),
                "config.effective" => self.effective().await?.json(),
                "config.explain" => self.explain(&ask).await?,
                "routes.list" => self.routes(),
                "log.reopen" => json!({ "reopened": self.access_log.reopen() }),
                "config.reload" => match self.control.ask_reload().await {
                    Some(Ok(_)) => self.state(),
                    None => return Err(DeskError::new(DeskErrorKind::Internal, "the gateway is ending")),
                    Some(Err(refused)) => {
                        let error = DeskError::new(
                            DeskErrorKind::Refused,
                            format!("the configuration was not put in force; the last good one serves on\n{refused}"),
                        );
                        // A check asks no plugin.
                        let by_plugins = matches!(refused, Refused::Attachments(_));
                        let check = "`wharf check` shows the same without a gateway";
                        return Err(if by_plugins { error } else { error.hint(check) });
                    }
                },
                "gateway.upgrade" => self.upgrade().await?,
                other => return Err(DeskError::new(DeskErrorKind::NotFound, format!("the gateway's desk has no operation {other:?}"))),
            };
            Ok(Bytes::from(answer.to_string()))
        })
    }
}

impl GatewayDesk {
    async fn upgrade(&self) -> Result<Value, DeskError> {
        let ending = || DeskError::new(DeskErrorKind::Internal, "the gateway is ending");
        let (ask, answer) = oneshot::channel();
        self.upgrades.send(ask).await.map_err(|_| ending())?;
        match answer.await.map_err(|_| ending())? {
            Ok(pid) => Ok(json!({ "pid": pid })),
            Err(why) => {
                let error =
                    DeskError::new(DeskErrorKind::Refused, format!("the upgrade did not take place, the same process serves on: {why}"));
                Err(error.hint(
                    "the log has what the new process said; `wharf check` with the new binary shows what it thinks of the configuration",
                ))
            }
        }
    }

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
            "quarantined": shown.quarantined.iter().map(|Quarantined { held, since }| json!({
                "kind": held.item.kind.as_str(),
                "name": &*held.item.name,
                "serving": if held.has_last_good { "last good" } else { "nothing" },
                "since_ms": since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
                "why": held.why,
            })).collect::<Vec<_>>(),
            "problems": shown.problems.iter().map(|problem| json!({
                "plugin": &*problem.plugin, "place": &*problem.place, "code": problem.code, "message": problem.message, "hint": problem.hint,
            })).collect::<Vec<_>>(),
            "needs_restart": shown.needs_restart,
        })
    }

    /// Made of the texts when somebody asks: kept, it would weigh more than all that serves.
    async fn effective(&self) -> Result<Document, DeskError> {
        let history = self.control.history();
        let made = tokio::task::spawn_blocking(move || last_good::document(&history, &Surroundings::here())).await;
        let none =
            || DeskError::new(DeskErrorKind::Internal, "what serves cannot be read again: a file or variable that it names has changed");
        made.ok().flatten().ok_or_else(|| none().hint("`wharf check` tells what is wrong with the file now"))
    }

    async fn explain(&self, ask: &Ask) -> Result<Value, DeskError> {
        let invalid = |message: String| DeskError::new(DeskErrorKind::Invalid, message);
        let source = match ask.arg("source").filter(|source| !source.is_empty()) {
            Some(source) => Some(source.parse().map_err(|_| invalid(format!("`{source}` is not an address")))?),
            None => None,
        };
        let question = Question {
            method: ask.arg("method").unwrap_or_default().to_owned(),
            url: ask.arg("url").unwrap_or("/").to_owned(),
            headers: ask.arg("header").unwrap_or_default().lines().map(str::to_owned).collect(),
            source,
            listener: ask.arg("listener").filter(|listener| !listener.is_empty()).map(str::to_owned),
        };
        let document = self.effective().await.ok();
        let generation = self.control.serving();
        let version_of = |attachment: &Attachment| {
            let (version, roles) = generation.version_of(attachment)?;
            Some((version, roles.iter().map(|role| role.as_str()).collect()))
        };
        explain::explain(&generation.plan, document.as_ref(), &question, &version_of).map_err(invalid)
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
    use crate::config::check;
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
