//! Checks listeners and the admin API.

use super::*;
use std::io;
use std::time::SystemTime;
use wharf_http::house::Http2Limits;
use wharf_http::tls::certs::Certificate;
use wharf_http::tls::server::{ClientCertificates, Offer, Server};

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
                proxied_by: list(&listener.proxy_protocol_from).iter().filter_map(|item| self.value(item, values::network)).collect(),
                tls: listener.tls.as_ref().and_then(|tls| self.tls(tls, &listener.http2)),
                http2: self.http2(&listener.http2),
                connections_max: self.number(&listener.connections_max, 20_000, 1, 10_000_000, "connections_max"),
                connections_per_source_max: given(&listener.connections_per_source_max)
                    .map(|_| self.number(&listener.connections_per_source_max, 1, 1, 10_000_000, "connections_per_source_max")),
                body_rate_min: self.size(of(limits, |l| &l.body_rate_min), 240, 0, MIB, "body_rate_min"),
                first_timeout: self.time(of(waits, |w| &w.first), 10 * SECOND, MS, HOUR, "first"),
                upload_timeout: self.time(of(waits, |w| &w.upload), 600 * SECOND, MS, DAY, "upload"),
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

    fn http2(&mut self, item: &Opt<OrShort<file::ListenerHttp2>>) -> Option<Http2Limits> {
        let usual = Http2Limits::default();
        let Some(OrShort(http2)) = group(item) else { return Some(usual) };
        if let Some(state) = &http2.state {
            match state.get().map(String::as_str) {
                Some("on") | None => {}
                Some("off") => return None,
                Some(other) => {
                    let place = at(state.place, item.as_ref().map(|item| item.place).unwrap_or_default());
                    self.say(place, format!("`http2` is `{other}`"), "`on`, `off`, or its limits, `{streams_max: 128}`");
                }
            }
        }
        Some(Http2Limits {
            streams_max: self.number(&http2.streams_max, usual.streams_max, 1, 10_000, "streams_max"),
            // RFC 9113 section 6.5.2: below 64 KiB a client has begun with more before it is told.
            window: self.size(&http2.window, usual.window.into(), 64 * KIB, 64 * MIB, "window") as u32,
        })
    }

    fn tls(&mut self, item: &Item<file::ListenerTls>, http2: &Opt<OrShort<file::ListenerHttp2>>) -> Option<plan::Tls> {
        let tls = item.get()?;
        let before = self.mistakes.len();
        let (mut certificates, mut default) = (Vec::new(), None);
        for entry in tls.certificates.get()? {
            let Some(pair) = entry.get() else { continue };
            let chain = self.contents(&pair.chain);
            let key = self.contents(&pair.key);
            let (Some(chain), Some(key)) = (chain, key) else { continue };
            let certificate = match Certificate::from_pem(&chain, &key, SystemTime::now(), self.around.expired) {
                Ok(certificate) => certificate,
                Err(bad) => {
                    let (message, hint) = bad.told();
                    let file = pair.chain.get().map_or("", String::as_str);
                    self.say(pair.chain.place, format!("`{file}`: {message}"), hint);
                    continue;
                }
            };
            if given(&pair.default) == Some(&true) && default.replace(certificate.clone()).is_some() {
                self.say(entry.place, "there is more than one default certificate", "clients that ask for no name can be shown one only");
            }
            certificates.push(certificate);
        }
        if certificates.is_empty() && self.mistakes.len() == before {
            self.say(tls.certificates.place, "there is no certificate to show", "add `{chain: FILE, key: FILE}`");
        }
        let clients = group(&tls.clients).and_then(|clients| {
            let authorities = self.contents(&clients.ca)?;
            let revoked = match &clients.crl {
                Some(crl) => self.contents(crl)?,
                None => Vec::new(),
            };
            Some(ClientCertificates { authorities, revoked, required: given(&clients.required).copied().unwrap_or(true) })
        });
        let offer = Offer {
            certificates,
            default,
            clients,
            only_1_3: matches!(given(&tls.version_min), Some(file::TlsVersion::Tls13)),
            http2: self.http2(http2).is_some(),
        };
        if self.mistakes.len() > before {
            return None;
        }
        match Server::new(&offer) {
            Ok(server) => Some(plan::Tls { offer, server: Arc::new(server) }),
            Err(bad) => {
                let (message, hint) = bad.told();
                self.say(tls.clients.as_ref().map_or(item.place, |clients| clients.place), message, hint);
                None
            }
        }
    }

    /// What a file holds that the configuration names.
    pub(super) fn contents(&mut self, file: &Item<String>) -> Option<Vec<u8>> {
        let path = self.path(file)?;
        let found = super::super::contents(&path);
        // Whatever is wrong with it: it is followed, so that it is read again when it is mended.
        self.read.push((path.clone(), found.as_ref().ok().cloned()));
        match found {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let hint = "relative paths begin at the folder of this file; the gateway's user must be able to read it";
                let mistake = Mistake::new(file.place, format!("the file {} cannot be read: {error}", path.display())).hint(hint);
                self.mistakes.push(mistake.absent(error.kind() == io::ErrorKind::NotFound));
                None
            }
        }
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
