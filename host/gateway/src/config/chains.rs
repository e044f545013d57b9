//! The effective chain of a route: which plugins are asked, in which order, and for which hosts.
//!
//! Global, then host, then route, then service; within a level by `order`, then as written. Of several host patterns
//! that fit a request all apply, the wider ones first: attaching something to one host never takes away what is attached
//! to all hosts above it.

use super::check::{Checker, at, config_text, entries, group, host_text, list, policy};
use super::file::{self, File};
use super::plan::{Attachment, HostPattern, Level, Role, RouteMatch};
use super::tree::Item;
use super::values;
use std::collections::HashMap;

/// A chain for hosts about which nothing special is known, and chains for those about which there is.
type RouteChains = (Vec<Attachment>, Vec<(HostPattern, Vec<Attachment>)>);

/// The attachments that are not written in a route.
pub(super) struct Chains {
    global: Vec<Attachment>,
    /// The wider patterns first.
    hosts: Vec<(HostPattern, Vec<Attachment>)>,
    services: HashMap<String, Vec<Attachment>>,
}

impl Chains {
    pub(super) fn read(checker: &mut Checker<'_>, file: &File) -> Chains {
        let attachments = group(&file.attachments);
        let global = checker.attachments(attachments.map(|all| list(&all.global)).unwrap_or_default(), Level::Global);
        let mut hosts: Vec<(HostPattern, Vec<Attachment>)> = Vec::new();
        for (key, item) in attachments.map(|all| entries(&all.hosts)).unwrap_or_default() {
            let chain = checker.attachments(item.get().map(Vec::as_slice).unwrap_or_default(), Level::Host);
            let Some(pattern) = checker.value(key, values::host) else { continue };
            if hosts.iter().any(|(have, _)| *have == pattern) {
                checker.say(key.place, format!("host `{}` is given twice", host_text(&pattern)), "merge the two lists");
                continue;
            }
            hosts.push((pattern, chain));
        }
        // Of two patterns that fit one host the one with the shorter name is the wider; an exact one is never wider.
        hosts.sort_by_key(|(pattern, _)| match pattern {
            HostPattern::Below(name) => name.len(),
            HostPattern::Exact(_) => usize::MAX,
        });
        let mut services = HashMap::new();
        for (key, item) in entries(&file.services) {
            let chain = checker.attachments(item.get().map(|service| list(&service.plugins)).unwrap_or_default(), Level::Service);
            if let Some(name) = key.get() {
                services.insert(name.clone(), chain);
            }
        }
        Chains { global, hosts, services }
    }

    /// The chains of a route: the one for all hosts, and those for hosts with attachments of their own.
    pub(super) fn of_route(
        &self,
        checker: &mut Checker<'_>,
        route: &file::Route,
        matches: &RouteMatch,
        service: Option<&str>,
    ) -> RouteChains {
        let own = checker.attachments(list(&route.plugins), Level::Route);
        let behind = service.and_then(|service| self.services.get(service)).map(Vec::as_slice).unwrap_or_default();
        let chain = |host: Option<&HostPattern>| -> Vec<Attachment> {
            let of_host = self.hosts.iter().filter(|(pattern, _)| host.is_some_and(|host| covers(pattern, host)));
            let of_host = of_host.flat_map(|(_, attachments)| attachments);
            self.global.iter().chain(of_host).chain(&own).chain(behind).cloned().collect()
        };
        let mut patterns: Vec<&HostPattern> = matches.hosts.iter().collect();
        for (pattern, _) in &self.hosts {
            let within = matches.hosts.is_empty() || matches.hosts.iter().any(|host| covers(host, pattern));
            if within && !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
        let mut by_host: Vec<(HostPattern, Vec<Attachment>)> =
            patterns.iter().map(|&pattern| (pattern.clone(), chain(Some(pattern)))).collect();
        let fallback =
            if matches.hosts.is_empty() { chain(None) } else { by_host.first().map(|(_, chain)| chain.clone()).unwrap_or_default() };
        if by_host.iter().all(|(_, chain)| *chain == fallback) {
            by_host.clear();
        }
        (fallback, by_host)
    }
}

/// Does every host of `narrow` fit `wide`?
fn covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    match (wide, narrow) {
        (HostPattern::Exact(wide), HostPattern::Exact(narrow)) => wide == narrow,
        (HostPattern::Exact(_), HostPattern::Below(_)) => false,
        (HostPattern::Below(wide), HostPattern::Exact(narrow)) => is_below(narrow, wide),
        (HostPattern::Below(wide), HostPattern::Below(narrow)) => wide == narrow || is_below(narrow, wide),
    }
}

fn is_below(name: &str, above: &str) -> bool {
    name.strip_suffix(above).is_some_and(|rest| rest.ends_with('.'))
}

impl Checker<'_> {
    /// The attachments of one list, sorted.
    fn attachments(&mut self, items: &[Item<super::tree::OrShort<file::Attachment>>], level: Level) -> Vec<Attachment> {
        let mut chain: Vec<Attachment> = Vec::new();
        for item in items {
            let Some(super::tree::OrShort(attachment)) = item.get() else { continue };
            let Some(plugin) = self.plugin(&attachment.plugin, item.place) else { continue };
            let role = group(&attachment.role).map(|role| match role {
                file::Role::Auth => Role::Auth,
                file::Role::Route => Role::Route,
                file::Role::Filter => Role::Filter,
                file::Role::Degrade => Role::Degrade,
            });
            let place = at(attachment.plugin.place, item.place);
            if role == Some(Role::Route) {
                let hint = format!("name it as the target of a route: `to: {{plugin: {plugin}}}`");
                self.say(place, format!("plugin `{plugin}` cannot be attached in the role route"), hint);
                continue;
            }
            // Without a role it has all of them, so it clashes with any.
            let clashes = |have: &Attachment| have.plugin == plugin && (have.role == role || have.role.is_none() || role.is_none());
            if chain.iter().any(clashes) {
                let as_what = role.map_or(String::new(), |role| format!(" as {}", role.as_str()));
                let hint = "remove one, or give each its own `role`; another level (global, host, route, service) may attach it again";
                self.say(place, format!("plugin `{plugin}` is attached{as_what} twice here"), hint);
                continue;
            }
            chain.push(Attachment {
                plugin,
                role,
                config: config_text(&attachment.config),
                policy: group(&attachment.policy).map(policy),
                order: group(&attachment.order).copied().unwrap_or(0),
                level,
            });
        }
        chain.sort_by_key(|attachment| attachment.order);
        chain
    }
}
