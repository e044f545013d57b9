//! Checks routes: what they match, where they lead.

use super::route_steps::Usual;
use super::*;
use wharf_core::head::Scheme;
use wharf_http::redirect::Redirect;
use wharf_http::split::Sticky;

impl Checker<'_> {
    pub(super) fn routes(&mut self, file: &File, usual: &Usual, recording: &plan::Recording) -> Vec<plan::Route> {
        let chains = Chains::read(self, file);
        let mut routes: Vec<(Place, plan::Route)> = Vec::new();
        // A route with a mistake in it matches something else than was meant: by form (a key that nobody knows is not
        // there), or by what its match says.
        let mut comparable: HashSet<Arc<str>> = HashSet::new();
        for item in list(&file.routes) {
            let Some(route) = item.get() else { continue };
            let Some(name) = self.name_of(&route.name, "route") else { continue };
            if let Some((place, _)) = routes.iter().find(|(_, have)| have.name == name) {
                let line = self.line_of(*place, route.name.place);
                let message = format!("there is a route `{name}` on {line} already");
                self.say(route.name.place, message, "names stand in logs and metrics: give it another");
                continue;
            }
            let before = self.mistakes.len();
            let matches = self.matches(route);
            if self.mistakes.len() == before && item.is_sound() {
                comparable.insert(name.clone());
            }
            if route.to.is_missing() {
                self.say(
                    route.name.place,
                    format!("route `{name}` has no `to`"),
                    "add `to: SERVICE`, `to: {plugin: ...}` or `to: {answer: ...}`",
                );
            }
            let target = self.target(file, &route.to, &matches);
            let service = match &target {
                Some(plan::Target::Service { name, .. }) => Some(name.clone()),
                _ => None,
            };
            let (chain, host_chains) = chains.of_route(self, route, &matches, service.as_deref());
            let whole_timeout = self.time(of(group(&route.timeouts), |t| &t.whole), usual.whole, MS, DAY, "whole");
            routes.push((
                route.name.place,
                plan::Route {
                    target: target.unwrap_or(plan::Target::Answer(plan::Answer { status: 404, headers: Vec::new(), body: "".into() })),
                    whole_timeout,
                    // By what it is: a default that is written down is one.
                    whole_is_default: whole_timeout == WHOLE_TIME,
                    body_bytes_max: self.size(&route.body_bytes_max, usual.body_bytes_max, 0, 1024 * GIB, "body_bytes_max"),
                    retries: given(&route.retries).copied().unwrap_or(true),
                    degrade_statuses: self.degrade_statuses(&route.degrade_statuses),
                    preserve_host: given(&route.preserve_host).copied().unwrap_or(true),
                    breaker: self.breaker_of_route(route),
                    access: self.access(&route.access),
                    limits: self.limits_of_route(file, route, &name, usual),
                    cors: self.cors(&route.cors, usual.cors.clone()),
                    checks: self.checks(&route.checks, &matches),
                    rewrite: self.rewrite(route, &matches),
                    request_headers: self.header_edits(of(group(&route.headers), |h| &h.request), &matches, true),
                    response_headers: self.header_edits(of(group(&route.headers), |h| &h.response), &matches, false),
                    default_answers: self.default_answers(&route.default_answers),
                    envelope: self.envelope(&route.envelope, usual.envelope.clone()),
                    compression: self.compression(&route.compression, usual.compression.clone()),
                    mirror: self.mirror(&route.mirror),
                    sampling: self.sampling_of(&route.access_log, &recording.sampling),
                    capture: self.capture(&route.capture),
                    name,
                    matches,
                    chain,
                    host_chains,
                },
            ));
        }
        self.told_apart(routes.iter().filter(|(_, route)| comparable.contains(&route.name)));
        routes.into_iter().map(|(_, route)| route).collect()
    }

    /// No two routes of which one can never be taken, and not too many priorities.
    fn told_apart<'r>(&mut self, routes: impl Iterator<Item = &'r (Place, plan::Route)>) {
        let mut seen: HashMap<String, &plan::Route> = HashMap::new();
        let mut priorities = HashSet::new();
        for (place, route) in routes {
            let matches = &route.matches;
            if priorities.insert(matches.priority) && priorities.len() == PRIORITIES_MAX + 1 {
                let hint = "each priority costs every request a look; most routes need none, the more specific one wins anyway";
                self.say(*place, format!("routes have more than {PRIORITIES_MAX} different priorities"), hint);
            }
            let mut rest = matches.clone();
            rest.hosts.clear();
            rest.methods.sort_by(|left, right| left.as_str().cmp(right.as_str()));
            rest.tests.sort_by_cached_key(|test| format!("{test:?}"));
            let hosts: Vec<Option<&plan::HostPattern>> =
                if matches.hosts.is_empty() { vec![None] } else { matches.hosts.iter().map(Some).collect() };
            let mut told = false;
            for host in hosts {
                let first = *seen.entry(format!("{host:?} {rest:?}")).or_insert(route);
                if first.name != route.name && !told {
                    told = true;
                    let whose = host.map_or(String::new(), |host| format!(" for host `{}`", host_text(host)));
                    let message =
                        format!("route `{}` matches exactly what route `{}` matches{whose}, so it is never taken", route.name, first.name);
                    self.say(*place, message, "remove one of the two, or tell them apart by path, method, header or `priority`");
                }
            }
        }
    }

    fn matches(&mut self, route: &file::Route) -> plan::RouteMatch {
        let matches = group(&route.matches);
        let path = match of(matches, |m| &m.path).as_ref().and_then(Item::get) {
            None => None,
            Some(NotShort(file::PathMatch::Exact(path))) => self.value(path, values::path).map(PathPattern::Exact),
            Some(NotShort(file::PathMatch::Prefix(path))) => self.value(path, values::path).map(|path| {
                let path = path.trim_end_matches('/');
                PathPattern::Prefix(if path.is_empty() { "/".into() } else { path.into() })
            }),
            Some(NotShort(file::PathMatch::Template(path))) => self.value(path, values::template).map(PathPattern::Template),
            Some(NotShort(file::PathMatch::Regex(path))) => self.value(path, values::path_pattern).map(PathPattern::Regex),
        };
        let mut tests = self.header_tests(of(matches, |m| &m.headers));
        for (name, item) in entries(of(matches, |m| &m.query)) {
            let (Some(name), Some(wanted)) = (name.get(), self.wanted(item)) else { continue };
            tests.push(Test::Query(name.as_str().into(), wanted));
        }
        tests.extend(self.cookie_tests(of(matches, |m| &m.cookies)));
        tests.extend(given(of(matches, |m| &m.scheme)).map(|scheme| match scheme {
            file::RequestScheme::Http => Test::Scheme(Scheme::Http),
            file::RequestScheme::Https => Test::Scheme(Scheme::Https),
        }));
        let sources = self.several(of(matches, |m| &m.sources), "sources", values::network);
        if !sources.is_empty() {
            tests.push(Test::Source(sources));
        }
        let listeners = of(matches, |m| &m.listeners);
        let names = self.several(listeners, "listeners", |name| Ok(Arc::from(name)));
        for item in list(listeners) {
            if let Some(name) = item.get()
                && !self.listeners.contains(name)
            {
                let hint = nearest_or_all(name, &self.listeners);
                self.say(item.place, format!("there is no listener `{name}`"), hint);
            }
        }
        if !names.is_empty() {
            tests.push(Test::Listener(names));
        }
        plan::RouteMatch {
            hosts: self.several(of(matches, |m| &m.hosts), "hosts", values::host),
            path: path.unwrap_or_default(),
            methods: self.several(of(matches, |m| &m.methods), "methods", values::method),
            tests,
            priority: given(&route.priority).copied().unwrap_or(0),
        }
    }

    pub(super) fn header_tests(&mut self, named: &Opt<Named<NotShort<file::ValueMatch>>>) -> Vec<Test> {
        let mut tests = Vec::new();
        for (name, item) in entries(named) {
            let Some(name) = self.value(name, values::field_name) else { continue };
            tests.extend(self.wanted(item).map(|wanted| Test::Header(name, wanted)));
        }
        tests
    }

    fn cookie_tests(&mut self, named: &Opt<Named<NotShort<file::ValueMatch>>>) -> Vec<Test> {
        let mut tests = Vec::new();
        for (name, item) in entries(named) {
            let Some(name) = self.value(name, values::cookie_name) else { continue };
            tests.extend(self.wanted(item).map(|wanted| Test::Cookie(name, wanted)));
        }
        tests
    }

    fn wanted(&mut self, item: &Item<NotShort<file::ValueMatch>>) -> Option<Wanted> {
        let NotShort(wanted) = item.get()?;
        let bytes = |text: String| text.into_bytes().into();
        match wanted {
            file::ValueMatch::Present => Some(Wanted::Present),
            file::ValueMatch::Absent => Some(Wanted::Absent),
            file::ValueMatch::Exact(value) => self.value(value, field_value).map(bytes).map(Wanted::Exact),
            file::ValueMatch::Prefix(value) => self.value(value, field_value).map(bytes).map(Wanted::Prefix),
            file::ValueMatch::Regex(value) => self.value(value, values::pattern).map(Wanted::Regex),
        }
    }

    /// A list that must not be empty (that would match nothing) and has nothing twice.
    pub(super) fn several<T: PartialEq>(
        &mut self,
        items: &Opt<Vec<Item<String>>>,
        what: &str,
        read: fn(&str) -> Result<T, Wrong>,
    ) -> Vec<T> {
        if let Some(item) = items
            && item.get().is_some_and(Vec::is_empty)
        {
            self.say(item.place, format!("`{what}` is empty, so nothing would match"), format!("leave `{what}` out to match any"));
        }
        self.each_once(items, read)
    }

    /// A list that has nothing twice.
    pub(super) fn each_once<T: PartialEq>(&mut self, items: &Opt<Vec<Item<String>>>, read: fn(&str) -> Result<T, Wrong>) -> Vec<T> {
        let mut values = Vec::new();
        for item in list(items) {
            let Some(value) = self.value(item, read) else { continue };
            if values.contains(&value) {
                self.say(item.place, format!("`{}` is given twice", item.get().map_or("", String::as_str)), "remove one");
                continue;
            }
            values.push(value);
        }
        values
    }

    fn target(&mut self, file: &File, item: &Item<OrShort<file::To>>, matches: &plan::RouteMatch) -> Option<plan::Target> {
        let OrShort(to) = item.get()?;
        let given_targets = [
            to.service.is_some(),
            to.split.is_some(),
            to.plugin.is_some(),
            to.ferry.is_some(),
            to.ferry_answers.is_some(),
            to.redirect.is_some(),
            to.answer.is_some(),
        ];
        let given_targets = given_targets.into_iter().filter(|given| *given).count();
        if given_targets != 1 {
            let message = if given_targets == 0 { "`to` leads nowhere" } else { "`to` leads to more than one place" };
            // A target that is misspelt has been told.
            if given_targets > 0 || item.is_sound() {
                self.say(
                    item.place,
                    message,
                    "give one of `service`, `split`, `plugin`, `ferry`, `ferry_answers`, `redirect` and `answer`",
                );
            }
            return None;
        }
        for (setting, place, needs, fits) in [
            ("subset", to.subset.as_ref().map(|item| item.place), "service", to.service.is_some()),
            ("sticky", to.sticky.as_ref().map(|item| item.place), "split", to.split.is_some()),
            ("config", to.config.as_ref().map(|item| item.place), "plugin", to.plugin.is_some()),
            ("policy", to.policy.as_ref().map(|item| item.place), "plugin", to.plugin.is_some()),
        ] {
            if let Some(place) = place
                && !fits
            {
                self.say(place, format!("`{setting}` has no meaning without `{needs}`"), format!("remove `{setting}`"));
            }
        }
        if let Some(service) = &to.service {
            let name = self.service(service, item.place)?;
            return Some(plan::Target::Service { name, subset: given(&to.subset).map(|subset| subset.as_str().into()) });
        }
        if let Some(plugin) = &to.plugin {
            if let Some(policy) = &to.policy
                && matches!(policy.get(), Some(file::Policy::Open))
            {
                self.say(policy.place, "a route plugin cannot fail `open`: without it there is no place to go", "`closed` or `last-good`");
            }
            return Some(plan::Target::Plugin(plan::Attachment {
                plugin: self.plugin(plugin, item.place)?,
                role: Some(plan::Role::Route),
                config: config_text(&to.config),
                policy: given(&to.policy).map(policy),
                order: 0,
                level: plan::Level::Route,
            }));
        }
        if let Some(arms) = &to.split {
            return self.split(file, arms, &to.sticky);
        }
        if let Some(lane) = &to.ferry {
            return self.lane(lane).map(plan::Target::Ferry);
        }
        if let Some(lane) = &to.ferry_answers {
            return self.lane(lane).map(plan::Target::FerryAnswers);
        }
        if let Some(redirect) = &to.redirect {
            return self.redirect(redirect, matches).map(plan::Target::Redirect);
        }
        self.answer(to.answer.as_ref()?.get()?).map(plan::Target::Answer)
    }

    fn lane(&mut self, item: &Item<String>) -> Option<Arc<str>> {
        let name = item.get()?;
        if !self.lanes.contains(name) {
            let hint = nearest_or_all(name, &self.lanes);
            self.say(item.place, format!("there is no lane `{name}` in `ferry.near`"), hint);
            return None;
        }
        Some(name.as_str().into())
    }

    fn split(
        &mut self,
        file: &File,
        items: &Item<Vec<Item<OrShort<file::SplitArm>>>>,
        sticky: &Opt<file::StickTo>,
    ) -> Option<plan::Target> {
        let mut arms = Vec::new();
        for item in items.get()? {
            let Some(OrShort(arm)) = item.get() else { continue };
            if arm.service.is_missing() && arm.service.get().is_none() {
                self.say(item.place, "this way of the split has no `service`", "add `service: NAME`");
                continue;
            }
            let Some(service) = self.service(&arm.service, item.place) else { continue };
            let settings = entries(&file.services).iter().find(|(name, _)| name.get().is_some_and(|name| **name == *service));
            if settings.and_then(|(_, settings)| settings.get()).is_some_and(|settings| !list(&settings.plugins).is_empty()) {
                // One of them may be what lets nobody in who has no leave.
                let message = format!("service `{service}` has plugins, and a split does not ask them");
                self.say(at(arm.service.place, item.place), message, "attach them to the route");
            }
            let mut tests = self.header_tests(&arm.headers);
            tests.extend(self.cookie_tests(&arm.cookies));
            let usual = if tests.is_empty() { 1 } else { 0 };
            let weight = self.number(&arm.weight, usual, 0, 1_000_000, "weight");
            arms.push(plan::SplitArm { service, subset: given(&arm.subset).map(|subset| subset.as_str().into()), weight, tests });
        }
        if arms.len() == items.get()?.len() && arms.iter().all(|arm| arm.weight == 0) {
            let hint = "give one of them a `weight`";
            self.say(items.place, "no way of the split has a weight, so requests that no test sends elsewhere have none to go", hint);
        }
        let sticky = match group(sticky) {
            None => None,
            Some(file::StickTo::Client) => Some(Sticky::Client),
            Some(file::StickTo::Header(name)) => self.value(name, values::field_name).map(Sticky::Header),
            Some(file::StickTo::Cookie(name)) => self.value(name, values::cookie_name).map(Sticky::Cookie),
        };
        Some(plan::Target::Split { arms, sticky })
    }

    fn redirect(&mut self, item: &Item<file::Redirect>, matches: &plan::RouteMatch) -> Option<Redirect> {
        let redirect = item.get()?;
        let status = match group(&redirect.status) {
            None => 308,
            Some(given_status) => match given_status.within(301, 308).filter(|status| matches!(status, 301..=303 | 307 | 308)) {
                Some(status) => status as u16,
                None => {
                    let place = redirect.status.as_ref().map_or(item.place, |item| item.place);
                    self.say(place, format!("{given_status} is no status of a redirect"), "301, 302, 303, 307 or 308");
                    308
                }
            },
        };
        if redirect.scheme.is_none() && redirect.host.is_none() && redirect.path.is_none() {
            self.say(item.place, "this redirect leads to where the client asked already", "give `scheme`, `host` or `path`");
        }
        let scheme = redirect.scheme.as_ref().and_then(|scheme| self.value(scheme, values::scheme));
        let host = redirect.host.as_ref().and_then(|host| {
            let phrase = self.phrase(host, matches, &|_| false)?;
            // One that fits is enough: what the names of a request come to is not known.
            let text = host.get().map_or("", String::as_str);
            let judged = phrase.examples().map(|example| values::redirect_host(text, &example));
            let wrong = judged.reduce(|one, other| if one.is_err() && other.is_ok() { other } else { one });
            if let Some(Err((message, hint))) = wrong {
                self.say(host.place, message, hint);
            }
            Some(phrase)
        });
        let path = redirect.path.as_ref().and_then(|path| {
            let NotShort(rewrite) = path.get()?;
            self.rewriting(rewrite, path.place, matches, "path").map(Arc::new)
        });
        Some(Redirect { status, scheme, host, path, keep_query: given(&redirect.keep_query).copied().unwrap_or(true) })
    }

    pub(super) fn answer(&mut self, answer: &file::Fixed) -> Option<plan::Answer> {
        let given_status = answer.status.get()?;
        let status = given_status.within(200, 599).unwrap_or_else(|| {
            self.say(answer.status.place, format!("{given_status} is no status to answer with"), "a number from 200 to 599");
            200
        }) as u16;
        let body = given(&answer.body).map_or("", String::as_str);
        if let Some(item) = &answer.body {
            if body.len() > ANSWER_BYTES_MAX {
                let message = format!("the body of this answer has {} bytes, and at most {ANSWER_BYTES_MAX} are allowed", body.len());
                self.say(item.place, message, "serve larger files from a service");
            }
            if matches!(status, 204 | 304) && !body.is_empty() {
                self.say(item.place, format!("an answer with status {status} has no body"), "remove `body`, or answer with 200");
            }
        }
        let mut headers = Vec::new();
        for (key, item) in entries(&answer.headers) {
            let (Some(name), Some(value)) = (self.value(key, values::field_name), item.get()) else { continue };
            match wharf_core::edit::check_fields([(&*name, value.as_str())]) {
                Ok(()) => headers.push((name, value.as_str().into())),
                Err(bad) => self.say(key.place, bad.to_string(), "the gateway writes framing, connection and forwarding fields itself"),
            }
        }
        Some(plan::Answer { status, headers, body: body.into() })
    }

    fn degrade_statuses(&mut self, statuses: &Opt<Vec<Item<Whole>>>) -> Vec<u16> {
        if statuses.is_none() {
            return vec![502, 503, 504];
        }
        let mut all = Vec::new();
        for item in list(statuses) {
            let Some(given_status) = item.get() else { continue };
            match given_status.within(500, 599) {
                Some(status) => all.push(status as u16),
                None => self.say(item.place, format!("{given_status} is not a fault of the upstream"), "a number from 500 to 599"),
            }
        }
        all
    }
}
