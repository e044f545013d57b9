//! Checks listeners and the admin API.

use super::*;

impl Checker<'_> {
    pub(super) fn listeners(&mut self, named: &Opt<Named<file::Listener>>) -> Vec<(Place, plan::Listener)> {
        let mut listeners = Vec::new();
        for (name, item) in entries(named) {
            let Some(name) = self.name_of(name, "listener") else { continue };
            let Some(listener) = item.get() else { continue };
            let limits = group(&listener.limits);
            let waits = group(&listener.timeouts);
            let made = plan::Listener {
                name,
                bind: self.bind(&listener.bind).unwrap_or(ANYWHERE),
                advertise: self.advertise(&listener.advertise),
                trusted_proxies: list(&listener.trusted_proxies).iter().filter_map(|item| self.value(item, values::network)).collect(),
                connections_max: self.number(&listener.connections_max, 20_000, 1, 10_000_000, "connections_max"),
                head_bytes_max: self.size(of(limits, |l| &l.head_bytes_max), 32 * KIB, KIB, MIB, "head_bytes_max") as usize,
                fields_max: self.number(of(limits, |l| &l.fields_max), 100, 1, 10_000, "fields_max") as usize,
                head_timeout: self.time(of(waits, |w| &w.head), 10 * SECOND, MS, HOUR, "head"),
                body_timeout: self.time(of(waits, |w| &w.body), 5 * SECOND, MS, HOUR, "body"),
                keep_alive: self.time(of(waits, |w| &w.keep_alive), 60 * SECOND, MS, DAY, "keep_alive"),
                quiet: self.time(of(waits, |w| &w.quiet), 300 * SECOND, MS, DAY, "quiet"),
            };
            listeners.push((listener.bind.place, made));
        }
        if entries(named).is_empty() && self.mistakes.is_empty() {
            let hint = "add `listeners: {web: {bind: 0.0.0.0:8080}}`";
            self.say(named.as_ref().map(|item| item.place).unwrap_or_default(), "there is no listener, so nothing would be served", hint);
        }
        listeners
    }

    pub(super) fn admin(&mut self, admin: &Opt<file::Admin>, node: &plan::Node) -> (Place, plan::Admin) {
        let admin = group(admin);
        let bind = admin.and_then(|admin| admin.bind.as_ref());
        let token_file = admin.and_then(|admin| admin.token_file.as_ref()).and_then(|file| self.path(file));
        let made = plan::Admin {
            bind: bind.and_then(|bind| self.bind(bind)).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9901))),
            advertise: admin.and_then(|admin| self.advertise(&admin.advertise)),
            token_file: token_file.unwrap_or_else(|| node.state_dir.join("admin-token")),
        };
        (bind.map(|bind| bind.place).unwrap_or_default(), made)
    }

    /// No two sockets on one address.
    pub(super) fn bound_once(&mut self, listeners: &[(Place, plan::Listener)], admin: &(Place, plan::Admin)) {
        let mut bound: Vec<(Place, SocketAddr, String)> = Vec::new();
        let all = listeners.iter().map(|(place, listener)| (*place, listener.bind, format!("listener `{}`", listener.name)));
        for (place, address, who) in all.chain([(admin.0, admin.1.bind, "the admin API".to_owned())]) {
            let clashes = |have: &SocketAddr| {
                address.port() != 0
                    && have.port() == address.port()
                    && have.is_ipv4() == address.is_ipv4()
                    && (have.ip() == address.ip() || have.ip().is_unspecified() || address.ip().is_unspecified())
            };
            if let Some((first, have, other)) = bound.iter().find(|(_, have, _)| clashes(have)) {
                // The admin API has a default address: then the mistake is shown where the other is bound.
                let place = if place.line == 0 { *first } else { place };
                let message = format!("{who} and {other} cannot both have port {} ({have} and {address})", address.port());
                self.say(place, message, "give one of them another port");
            }
            bound.push((place, address, who));
        }
    }

    fn bind(&mut self, item: &Item<String>) -> Option<SocketAddr> {
        let address = self.value(item, values::bind)?;
        if !self.around.has(address.ip()) {
            let own: Vec<String> = self.around.addresses.iter().map(ToString::to_string).collect();
            let hint = format!(
                "it has {}; bind one of these or `0.0.0.0:{}` for all, and put the address that others use under `advertise`",
                if own.is_empty() { "127.0.0.1".into() } else { own.join(", ") },
                address.port()
            );
            self.say(item.place, format!("this host does not have the address {}", address.ip()), hint);
        }
        Some(address)
    }

    fn advertise(&mut self, item: &Opt<String>) -> Option<Box<str>> {
        let (host, port) = self.value(item.as_ref()?, values::host_and_port)?;
        Some(format!("{host}:{port}").into())
    }
}
