//! The table of routes: cases as data, and against a table that looks at every route.

use super::*;
use std::net::Ipv4Addr;

const CLIENT: Arrival<'_> = Arrival { client: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), listener: "web" };

fn exact(host: &str) -> HostPattern {
    HostPattern::Exact(host.into())
}

fn below(host: &str) -> HostPattern {
    HostPattern::Below(host.into())
}

fn prefix(path: &str) -> RouteMatch {
    RouteMatch { path: PathPattern::Prefix(path.into()), ..RouteMatch::default() }
}

fn whole(path: &str) -> RouteMatch {
    RouteMatch { path: PathPattern::Exact(path.into()), ..RouteMatch::default() }
}

fn template(path: &str) -> RouteMatch {
    RouteMatch { path: PathPattern::Template(Template::new(path).unwrap()), ..RouteMatch::default() }
}

fn pattern(path: &str) -> RouteMatch {
    RouteMatch { path: PathPattern::Regex(Pattern::whole(path).unwrap()), ..RouteMatch::default() }
}

fn get(authority: &str, path: &str) -> RequestHead {
    RequestHead::from_text(Method::Get, authority, path, None)
}

/// `expected`: index of the route, or -404, or -405.
fn check(routes: &Routes, head: &RequestHead, expected: i64) {
    let found = match routes.find(head, CLIENT) {
        Found::Route(at) => at as i64,
        Found::MethodRefused => -405,
        Found::Nothing => -404,
    };
    assert_eq!(found, expected, "{} {}{}", head.method.as_str(), head.authority(), head.path());
}

#[test]
fn the_most_specific_route_wins_and_the_rest_still_serve() {
    let routes = Routes::compile(vec![
        prefix("/"),
        prefix("/a"),
        whole("/a"),
        prefix("/a/b/"),
        RouteMatch { hosts: vec![exact("x.example")], ..prefix("/a") },
        RouteMatch { hosts: vec![below("example")], ..prefix("/c") },
        RouteMatch { hosts: vec![below("x.example")], ..prefix("/c") },
    ]);
    for (authority, path, expected) in [
        ("h", "/", 0),
        ("h", "/a", 2),
        ("h", "/a/", 1),
        ("h", "/ab", 0),
        ("h", "/a/b", 3),
        ("h", "/a/b/", 3),
        ("h", "/a/b/c", 3),
        ("h", "/a/bc", 1),
        ("h", "/A", 0),
        ("x.example", "/a", 4),
        ("x.example:8080", "/a", 4),
        ("x.example.", "/a", 4),
        ("x.example.:80", "/a/b", 4),
        ("x.example", "/b", 0),
        ("x.example", "/c", 5),
        ("y.x.example", "/c", 6),
        ("z.y.x.example", "/c", 6),
        ("example", "/c", 0),
        ("notexample", "/c", 0),
        ("[::1]", "/a", 2),
        ("[::1]:80", "/a", 2),
        ("", "/a", 2),
    ] {
        check(&routes, &get(authority, path), expected);
    }
}

#[test]
fn what_is_written_goes_before_what_is_named_and_that_before_what_ends() {
    let routes = Routes::compile(vec![
        prefix("/"),
        prefix("/admin"),
        template("/{tenant}/orders"),
        template("/users/{id}"),
        whole("/users/me"),
        template("/users/{id}/orders"),
        template("/users/{rest*}"),
        pattern(r"/users/[0-9]+/.*\.css"),
        pattern(r".*\.css"),
        RouteMatch { methods: vec![Method::Post], ..whole("/users/new") },
        RouteMatch { methods: vec![Method::Post], ..whole("/users/root;x") },
        prefix("/users/root"),
    ]);
    for (path, expected) in [
        ("/x", 0),
        ("/acme/orders", 2),
        // Who guards `/admin` guards it from templates, too.
        ("/admin/orders", 1),
        ("/admin/a.css", 1),
        ("/users/me", 4),
        ("/users/7", 3),
        ("/users/7/", 6),
        ("/users/orders", 3),
        ("/users/7/orders", 5),
        ("/users/me/orders", 5),
        ("/users/7/orders/x", 6),
        ("/users", 6),
        ("/users/7/a.css", 7),
        ("/users/x/a.css", 6),
        ("/x/a.css", 8),
        // A written segment whose method says no leads nowhere; the name is tried.
        ("/users/new", 3),
        // The same for one that is named as a careless upstream would not read it: its guard is the reading's.
        ("/users/root;x", 11),
        ("/users/root;y", 11),
    ] {
        check(&routes, &get("h", path), expected);
        let explained = routes.explain(&get("h", path), CLIENT).into_iter().find(|judged| judged.verdict == Verdict::Fits);
        assert_eq!(explained.map(|judged| judged.route as i64), Some(expected), "explain {path}");
    }
}

#[test]
fn a_path_of_empty_segments_does_not_exhaust_the_stack() {
    let routes = Routes::compile(vec![template("/{a}/{b}/c"), template("/{a}/{b}/{c}/d"), pattern(".*x")]);
    check(&routes, &get("h", &"/;".repeat(500_000)), -404);
    check(&routes, &get("h", &format!("{}/1/2/c", "/;".repeat(50_000))), 0);
}

#[test]
fn a_wrong_method_is_told_from_a_wrong_path() {
    let routes = Routes::compile(vec![
        RouteMatch { methods: vec![Method::Get, Method::Other("PURGE".into())], ..prefix("/a") },
        RouteMatch { methods: vec![Method::Post], ..prefix("/a") },
        RouteMatch { methods: vec![Method::Put], tests: vec![Test::Header("x-t".into(), Wanted::Exact(b"1"[..].into()))], ..prefix("/b") },
    ]);
    let ask = |method: Method, path: &str| RequestHead::from_text(method, "h", path, None);
    check(&routes, &ask(Method::Get, "/a"), 0);
    check(&routes, &ask(Method::Head, "/a"), 0);
    check(&routes, &ask(Method::Other("PURGE".into()), "/a"), 0);
    check(&routes, &ask(Method::Other("purge".into()), "/a"), -405);
    check(&routes, &ask(Method::Post, "/a"), 1);
    check(&routes, &ask(Method::Delete, "/a"), -405);
    check(&routes, &ask(Method::Get, "/c"), -404);
    assert_eq!(routes.allow(&ask(Method::Delete, "/a"), CLIENT), "GET, HEAD, POST, PURGE");
    // Without the header the route is not there at all, so the method is not what is wrong.
    check(&routes, &ask(Method::Put, "/b"), -404);
    let mut head = ask(Method::Put, "/b");
    head.fields.add(b"x-t", b"2");
    check(&routes, &head, -404);
    head.fields.add(b"x-t", b"1");
    check(&routes, &head, 2);
    head.method = Method::Get;
    check(&routes, &head, -405);
}

#[test]
fn priority_is_above_everything() {
    let routes = Routes::compile(vec![
        RouteMatch { hosts: vec![exact("h")], ..whole("/a") },
        RouteMatch { priority: 5, tests: vec![Test::Header("x-debug".into(), Wanted::Present)], ..prefix("/") },
        RouteMatch { priority: -1, ..prefix("/") },
    ]);
    check(&routes, &get("h", "/a"), 0);
    check(&routes, &get("h", "/b"), 2);
    let mut head = get("h", "/a");
    head.fields.add(b"x-debug", b"");
    check(&routes, &head, 1);
    let said: Vec<_> = routes.explain(&get("h", "/a"), CLIENT).into_iter().map(|judged| (judged.route, judged.verdict)).collect();
    assert_eq!(said, [(1, Verdict::Test("header `x-debug`".into())), (0, Verdict::Fits), (2, Verdict::Fits)]);
}

#[test]
fn a_path_takes_the_route_that_a_careless_upstream_would_read() {
    let routes = Routes::compile(vec![
        prefix("/"),
        prefix("/admin"),
        prefix("/a;b"),
        prefix("/a"),
        prefix("/deep/er"),
        prefix("/admin/public"),
        whole("/whole"),
        prefix("/caf%C3%A0"),
        whole("/whole/"),
    ]);
    for (path, expected) in [
        ("/admin;x", 1),
        ("/admin;x=1/y;z", 1),
        ("/;/admin", 1),
        ("/;x/;y/admin;z", 1),
        ("/admin%3Bx", 1),
        ("/admin%253Bx", 1),
        ("/admin%3Fx", 1),
        ("/admin%23", 1),
        ("/admin%20", 1),
        ("/admin%0D%0Ax", 1),
        ("/%2561dmin/x", 1),
        ("/admin%20x", 0),
        ("/administrator;x", 0),
        ("/x;admin", 0),
        ("/x/admin;", 0),
        // What a route names as it stands goes before what it may be read as.
        ("/a;b/c", 2),
        ("/a;c", 3),
        ("/deep;x/er;y/z", 4),
        ("/deep;x/;/er", 4),
        ("/deep;x", 0),
        // Blanks that some take off.
        ("/admin%0B", 1),
        ("/admin%1C%1F", 1),
        ("/admin%85/x", 1),
        ("/admin%C2%A0", 1),
        ("/%A0admin", 1),
        // A name beyond ASCII is read as what it is.
        ("/caf%C3%A0", 7),
        ("/caf%C3%A0/x", 7),
        ("/caf%C3%A0;x", 7),
        ("/caf%C3%A0%A0", 7),
        ("/caf%C3", 0),
        // Where the path ends for some, no narrower route is looked for.
        ("/admin/public/x", 5),
        ("/admin;x/public;y", 5),
        ("/admin/public%3Fx", 5),
        ("/admin%3Fx/public", 1),
        ("/admin%253F/public", 1),
        ("/admin%23/public/x", 1),
        ("/admin/public%0D%0Ax", 5),
        ("/admin/pub%0Alic", 1),
        ("/admin;x%3F/public", 1),
        ("/admin/%3F/public", 1),
        ("/%3F/admin/public", 0),
        ("/x%3F/admin", 0),
        // A path that ends so fits an exact route, and one whose last name is empty ends with `/`.
        ("/whole%3F/x", 6),
        ("/whole;/x", 0),
        ("/whole/%3Fx", 8),
        ("/whole/;x", 8),
        ("/whole/;x/", 8),
        ("/whole/;x/y", 0),
    ] {
        check(&routes, &get("h", path), expected);
        let explained = routes.explain(&get("h", path), CLIENT).into_iter().find(|judged| judged.verdict == Verdict::Fits);
        assert_eq!(explained.map(|judged| judged.route as i64), Some(expected), "explain {path}");
    }
}

#[test]
fn a_path_takes_the_route_of_what_is_left_of_it_in_a_careless_reading() {
    let names = ["admin", "public", "x", "", "caf%C3%A0"];
    let routes = Routes::compile(vec![
        prefix("/"),
        prefix("/admin"),
        prefix("/admin/public"),
        prefix("/admin/public/x"),
        prefix("/caf%C3%A0"),
        whole("/x/public"),
        whole("/x/public/"),
        prefix("/x/public/admin"),
        template("/x/{any}"),
        template("/x/{any}/admin"),
        template("/{any}/x/{rest*}"),
        template("/admin/{any}/x"),
        pattern("/admin/[a-z]+/admin"),
        pattern("/(x|public)/x/?"),
        pattern(".*/x"),
    ]);
    let tails = ["", "", ";a", "%3Ba", "%3Fa", "%23", "%0D", "%0A", "%20", "%A0", "%C2%85", ";%3F", "%253F", "%20%23"];
    for seed in 0..60_000 {
        let mut seeded = Seeded(seed);
        // The same path twice: as it is sent, and as somebody reads it who knows nothing of this file.
        let (mut sent, mut read, mut ended) = (String::new(), String::new(), false);
        for _ in 0..=seeded.below(4) {
            let name = names[seeded.below(names.len())];
            let tail = tails[seeded.below(tails.len())];
            if name.is_empty() && tail.is_empty() {
                continue;
            }
            sent += &format!("/{name}{tail}");
            if !ended {
                // Nothing but a `/` is left of an empty name, and of that one of many.
                if !read.ends_with('/') {
                    read.push('/');
                }
                read += name;
                ended = ["%3F", "%23", "%0D", "%0A", "%253F"].iter().any(|end| tail.contains(end));
            }
        }
        // A CR or LF that is not in the last segment is refused.
        if !wharf_core::path::is_canonical(sent.as_bytes()) {
            continue;
        }
        let found = routes.find(&get("h", &sent), CLIENT);
        assert_eq!(found, routes.find(&get("h", &read), CLIENT), "{sent} is read as {read}");
        let explained = routes.explain(&get("h", &sent), CLIENT).into_iter().find(|judged| judged.verdict == Verdict::Fits);
        assert_eq!(found.route(), explained.map(|judged| judged.route), "explain {sent}");
    }
}

/// The rules of this file's head, as plainly as they can be written: look at all, keep the best.
fn naive(matches: &[RouteMatch], head: &RequestHead) -> Found {
    let host = String::from_utf8(host_of(head.authority().as_bytes()).to_vec()).unwrap();
    let mut best: Option<(Vec<i64>, usize)> = None;
    let mut refused = false;
    for (at, route) in matches.iter().enumerate() {
        let mut host_rank = if route.hosts.is_empty() { Some(0) } else { None };
        for pattern in &route.hosts {
            let rank = match pattern {
                HostPattern::Exact(exact) if **exact == *host => 1_000_000,
                HostPattern::Below(below) if host.ends_with(&format!(".{below}")) => below.len() as i64,
                _ => continue,
            };
            host_rank = host_rank.max(Some(rank));
        }
        let have: Vec<&str> = head.path().split('/').skip(1).collect();
        // A digit for each segment that the route speaks of, as a fraction: the first that differs decides.
        let (want, end): (Vec<String>, i64) = match &route.path {
            PathPattern::Exact(exact) => (exact.split('/').skip(1).map(String::from).collect(), 2),
            PathPattern::Prefix(prefix) => (prefix.split('/').skip(1).filter(|segment| !segment.is_empty()).map(String::from).collect(), 0),
            PathPattern::Template(template) => {
                let text = template.to_string();
                let open = text.ends_with("*}");
                let mut want: Vec<String> = text.split('/').skip(1).map(String::from).collect();
                want.truncate(want.len() - usize::from(open));
                (want, if open { 0 } else { 2 })
            }
            PathPattern::Regex(pattern) => {
                if !pattern.fits(head.path()) {
                    continue;
                }
                // Of the patterns below those that begin with a name in writing begin with `/a/`.
                (pattern.as_str().starts_with("/a/").then(|| "a".to_owned()).into_iter().collect(), 1)
            }
        };
        let fits = |(want, have): (&String, &&str)| want == have || (want.starts_with('{') && !have.is_empty());
        if have.len() < want.len() || !want.iter().zip(&have).all(fits) || (end == 2 && have.len() != want.len()) {
            continue;
        }
        let digits = want.iter().map(|segment| if segment.starts_with('{') { 3 } else { 4 }).chain([end]);
        let path_rank = (0..8).zip(digits.chain(std::iter::repeat(0))).fold(0, |rank, (_, digit)| rank * 8 + digit);
        let Some(host_rank) = host_rank else { continue };
        let headers = route.tests.iter().all(|test| {
            let Test::Header(name, wanted) = test else { panic!("only headers here") };
            let have: Vec<_> = head.fields.iter().filter(|(_, have, _)| *have == name.as_bytes()).collect();
            match wanted {
                Wanted::Exact(value) => have.iter().any(|(_, _, have)| *have == &**value),
                Wanted::Absent => have.is_empty(),
                _ => !have.is_empty(),
            }
        });
        if !headers {
            continue;
        }
        let method = route.methods.is_empty()
            || route.methods.contains(&head.method)
            || (head.method == Method::Head && route.methods.contains(&Method::Get));
        if !method {
            refused = true;
            continue;
        }
        let rank = vec![
            i64::from(route.priority),
            host_rank,
            path_rank,
            route.tests.len() as i64,
            i64::from(!route.methods.is_empty()),
            -(at as i64),
        ];
        if best.as_ref().is_none_or(|(have, _)| rank > *have) {
            best = Some((rank, at));
        }
    }
    match best {
        Some((_, at)) => Found::Route(at),
        None if refused => Found::MethodRefused,
        None => Found::Nothing,
    }
}

#[test]
fn of_several_host_patterns_the_most_specific_counts() {
    let table = HostTable::compile(&[below("x"), exact("a.x"), below("b.x"), exact("x")]);
    for (authority, expected) in [
        ("a.x", Some(1)),
        ("a.x:80", Some(1)),
        ("c.x", Some(0)),
        ("b.x", Some(0)),
        ("d.b.x", Some(2)),
        ("x", Some(3)),
        ("y", None),
        ("", None),
    ] {
        assert_eq!(table.find(authority), expected, "{authority}");
    }
}

struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }

    fn path(&mut self) -> String {
        let mut path = String::new();
        for _ in 0..=self.below(4) {
            path.push('/');
            path.push_str(["a", "b", "ab", "c", "d", "e", "f", "g", "h", "i", "j"][self.below(11)]);
        }
        match self.below(6) {
            0 => "/".into(),
            1 => path + "/",
            _ => path,
        }
    }

    fn template(&mut self) -> PathPattern {
        let mut text = String::new();
        for at in 0..=self.below(3) {
            match self.below(2) {
                0 => text += &format!("/{{n{at}}}"),
                _ => text += ["/a", "/b", "/c"][self.below(3)],
            }
        }
        text += ["", "/", "/{rest*}", "/{rest*}"][self.below(4)];
        match Template::new(&text) {
            Ok(template) => PathPattern::Template(template),
            Err(_) => PathPattern::Exact(text.into()),
        }
    }

    fn host(&mut self) -> String {
        ["a.x", "b.x", "x", "c.a.x", "d.c.a.x", "y", "ax", "b.y"][self.below(8)].into()
    }

    fn method(&mut self) -> Method {
        [Method::Get, Method::Head, Method::Post, Method::Other("PURGE".into()), Method::Other("LIST".into())][self.below(5)].clone()
    }
}

#[test]
fn the_tree_says_what_looking_at_every_route_would_say() {
    let patterns = ["/a/[ab]+", "/a/.*", "/(a|b)/?c?", ".*/c", "/[ab]/[^/]+/.*", "/a/b/c"];
    let patterns = patterns.map(|text| Pattern::whole(text).unwrap());
    for seed in 0..3000 {
        let mut seeded = Seeded(seed);
        let matches: Vec<RouteMatch> = (0..seeded.below(40))
            .map(|_| RouteMatch {
                hosts: (0..seeded.below(3))
                    .map(|_| if seeded.below(2) == 0 { exact(&seeded.host()) } else { below(&seeded.host()) })
                    .collect(),
                path: match seeded.below(6) {
                    0 | 1 => PathPattern::Exact(seeded.path().into()),
                    2 | 3 => PathPattern::Prefix(seeded.path().into()),
                    4 => seeded.template(),
                    _ => PathPattern::Regex(patterns[seeded.below(6)].clone()),
                },
                methods: (0..seeded.below(3)).map(|_| seeded.method()).collect(),
                tests: (0..seeded.below(4) / 2)
                    .map(|_| {
                        let wanted = [Wanted::Present, Wanted::Absent, Wanted::Exact(b"1"[..].into())][seeded.below(3)].clone();
                        Test::Header(["x-a", "cookie"][seeded.below(2)].into(), wanted)
                    })
                    .collect(),
                priority: [0, 0, 0, 7, -1][seeded.below(5)],
            })
            .collect();
        let routes = Routes::compile(matches.clone());
        for _ in 0..60 {
            let authority = seeded.host() + ["", ":80", "."][seeded.below(3)];
            let mut head = RequestHead::from_text(seeded.method(), &authority, &seeded.path(), None);
            for _ in 0..seeded.below(3) {
                head.fields.add([&b"x-a"[..], b"cookie"][seeded.below(2)], [&b"1"[..], b"2"][seeded.below(2)]);
            }
            let found = routes.find(&head, CLIENT);
            assert_eq!(found, naive(&matches, &head), "seed {seed}: {head:?} in {matches:#?}");
            let explained = routes.explain(&head, CLIENT);
            assert_eq!(explained.len(), matches.len());
            let first = explained.iter().find(|judged| judged.verdict == Verdict::Fits).map(|judged| judged.route);
            assert_eq!(found.route(), first, "seed {seed}: {explained:?}");
            let refused = first.is_none() && explained.iter().any(|judged| judged.verdict == Verdict::Method);
            assert_eq!(found == Found::MethodRefused, refused, "seed {seed}: {explained:?}");
        }
    }
}

#[test]
fn a_route_for_one_listener_is_passed_over_by_who_comes_in_by_another() {
    let only = |names: &[&str]| RouteMatch { tests: vec![Test::Listener(names.iter().map(|&name| name.into()).collect())], ..prefix("/") };
    let routes = Routes::compile(vec![only(&["internal", "metrics"]), prefix("/a"), only(&["web"])]);
    let by = |listener| Arrival { listener, ..CLIENT };
    for (listener, path, route) in [("internal", "/b", 0), ("metrics", "/b", 0), ("web", "/b", 2), ("internal", "/a", 1), ("web", "/a", 1)]
    {
        assert_eq!(routes.find(&get("h", path), by(listener)), Found::Route(route), "{path} by {listener}");
    }
    assert_eq!(routes.find(&get("h", "/b"), by("other")), Found::Nothing);
    let said = routes.explain(&get("h", "/b"), by("other")).into_iter().find(|judged| judged.route == 0).unwrap();
    assert_eq!(said.verdict.to_string(), "its test of the listener says no");
}

#[test]
fn ten_thousand_routes_cost_as_much_as_the_depth_of_the_path() {
    let matches = (0..10_000).map(|at| prefix(&format!("/team-{}/service-{}/v{}", at / 1000, at / 10 % 100, at % 10))).collect();
    let routes = Routes::compile(matches);
    for at in [0, 1, 4711, 9999] {
        check(&routes, &get("h", &format!("/team-{}/service-{}/v{}/x/y", at / 1000, at / 10 % 100, at % 10)), at);
    }
    // A hostile path and host end where the tree ends: this would take minutes if each prefix were hashed anew.
    let deep = "/a".repeat(15_000);
    let wide = "a.".repeat(15_000);
    for _ in 0..10_000 {
        check(&routes, &get(&wide, &deep), -404);
    }
}
