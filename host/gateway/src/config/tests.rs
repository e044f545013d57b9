//! Wrong configurations as data: `tests/data/config/NAME.yaml` and, beside it, `NAME.expect`, which holds exactly what
//! `wharf check` prints; what it includes is in the folder `NAME`, and lines `# env: NAME=value` are its environment.
//! Right ones: the example, and every YAML block of `docs/configuration.md`.
//!
//! `WHARF_WRITE_EXPECTED=1` writes the expectations anew; read them before committing them.

use crate::config::plan::{Attachment, HostPattern, Level, Role, Source, Target};
use crate::config::sources::{Here, Outside};
use crate::config::*;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use wharf_http::routes::{Test, Wanted};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config")
}

/// A host with two addresses of its own and four cores.
fn around() -> Surroundings {
    let addresses = vec![IpAddr::from([10, 0, 0, 7]), IpAddr::from([127, 0, 0, 1])];
    Surroundings { addresses, cores: 4, may_bind: false, any_address: false, expired: false }
}

fn plan(text: &str) -> Plan {
    check("t.yaml", text, Path::new(""), &around()).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

/// The folder of the collection, and the variables that a file says.
struct Case {
    variables: HashMap<String, String>,
}

impl Case {
    fn of(text: &str) -> Case {
        let lines = text.lines().filter_map(|line| line.strip_prefix("# env: ")?.split_once('='));
        Case { variables: lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect() }
    }
}

impl Outside for Case {
    fn variable(&mut self, name: &str) -> Result<Option<String>, String> {
        Ok(self.variables.get(name).cloned())
    }

    fn read(&mut self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        Here.read(&folder().join(path), most)
    }

    fn entries(&mut self, path: &Path, most: usize) -> io::Result<Vec<String>> {
        Here.entries(&folder().join(path), most)
    }

    fn is_file(&mut self, path: &Path) -> bool {
        Here.is_file(&folder().join(path))
    }

    fn identity(&mut self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

fn check_case(name: &str, text: &str) -> Result<Plan, Mistakes> {
    check_files(name, Path::new(name), text, &around(), &mut Case::of(text)).0.into_plan()
}

/// The parts of a file that most cases do not care about.
fn with_usual(text: &str) -> String {
    format!(
        "listeners: {{web: {{bind: 127.0.0.1:0}}}}\nservices: {{orders: {{endpoints: [127.0.0.1:9001]}}}}\nplugins: {{auth: {{}}, headers: {{}}, degrade: {{}}, router: {{}}}}\n{text}"
    )
}

#[test]
fn every_wrong_file_is_refused_with_all_its_mistakes() {
    let mut wrong = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let files: Vec<_> = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    assert!(files.len() >= 60, "{} files", files.len());
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let said = match check_case(name, &text) {
            Ok(_) => "good".to_owned(),
            Err(mistakes) => format!("{mistakes}\n"),
        };
        let expect = path.with_extension("expect");
        if std::env::var_os("WHARF_WRITE_EXPECTED").is_some() {
            std::fs::write(&expect, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&expect).unwrap_or_default();
        if said != expected || said == "good" {
            wrong.push(format!("--- {name}, expected\n{expected}--- said\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mistakes_are_told_to_machines_too() {
    let mistakes = check("t.yaml", "listeners:\n  web: {bind: 127.0.0.1:0, bnd: 1}\n", Path::new(""), &around()).unwrap_err();
    let expected = serde_json::json!({
        "file": "t.yaml", "ok": false, "more": 0,
        "mistakes": [{
            "file": "t.yaml", "line": 2, "column": 28, "message": "`bnd` is not a setting of listener", "hint": "did you mean `bind`?",
            "snippet": "  web: {bind: 127.0.0.1:0, bnd: 1}",
        }],
    });
    assert_eq!(mistakes.json(), expected);
}

#[test]
fn a_small_file_means_what_it_says_and_the_rest_is_usual() {
    let plan = plan(crate::cli::EXAMPLE);
    assert_eq!((plan.workers, &*plan.node.name, plan.node.state_dir.to_str()), (4, "wharf", Some("wharf-state")));
    let web = &plan.listeners[0];
    assert_eq!(
        (web.bind.to_string(), web.head_bytes_max, web.fields_max, web.connections_max),
        ("0.0.0.0:8080".into(), 32768, 100, 20_000)
    );
    assert_eq!((web.head_timeout.as_secs(), web.body_timeout.as_secs(), web.keep_alive.as_secs()), (10, 5, 60));
    assert_eq!((plan.admin.bind.to_string(), plan.admin.token_file.to_str()), ("127.0.0.1:9901".into(), Some("wharf-state/admin-token")));
    let orders = &plan.services[0];
    assert!(matches!(&orders.source, Source::Fixed(endpoints) if endpoints.len() == 2 && endpoints[1].weight == 1));
    assert_eq!((orders.retries_max, orders.retry_share_max, orders.subset_fallback), (1, 0.2, true));
    let route = &plan.routes[0];
    assert_eq!((route.whole_timeout.as_secs(), route.body_bytes_max, route.retries, route.preserve_host), (60, 10 << 20, true, true));
    assert_eq!(route.degrade_statuses, [502, 503, 504]);
    assert!(matches!(&plan.routes[1].target, Target::Answer(answer) if answer.status == 200 && &*answer.body == "Wharf is running.\n"));
}

#[test]
fn scalars_have_the_type_of_who_asks_for_them() {
    let plan = plan(&with_usual(
        "node: {name: 007}\nroutes:\n  - name: no\n    to: orders\n    match: {headers: {x-v: {exact: 1.10}, x-on: present}}\n    plugins:\n      - plugin: auth\n        config: {version: \"1.10\", n: 1.10, off: no, yes: true, none: ~, list: [1, -2, 0x10, 1_000, 12:30]}\n",
    ));
    assert_eq!((&*plan.node.name, &*plan.routes[0].name), ("007", "no"));
    let tests = [Test::Header("x-v".into(), Wanted::Exact(b"1.10"[..].into())), Test::Header("x-on".into(), Wanted::Present)];
    assert_eq!(plan.routes[0].matches.tests, tests);
    let config: serde_json::Value = serde_json::from_str(&plan.routes[0].chain[0].config).unwrap();
    assert_eq!(
        (&config["version"], &config["n"], &config["off"], &config["yes"]),
        (&"1.10".into(), &1.1.into(), &"no".into(), &true.into())
    );
    assert_eq!(config["list"], serde_json::json!([1, -2, "0x10", "1_000", "12:30"]));
}

#[test]
fn an_alias_stands_for_what_it_names() {
    let plan = plan(
        "listeners: {web: {bind: 127.0.0.1:0, timeouts: &waits {head: 3s, body: 4s}}, other: {bind: 127.0.0.1:0, timeouts: *waits}}\n",
    );
    assert_eq!(plan.listeners[0].head_timeout, plan.listeners[1].head_timeout);
    assert_eq!(plan.listeners[1].body_timeout.as_secs(), 4);
}

fn names(chain: &[Attachment]) -> Vec<String> {
    chain.iter().map(|attachment| format!("{}@{:?}", attachment.plugin, attachment.level)).collect()
}

#[test]
fn the_chain_of_a_route_is_global_then_host_then_route_then_service() {
    let text = "listeners: {web: {bind: 127.0.0.1:0}}
plugins: {a: {}, b: {}, c: {}, d: {}, e: {}}
services: {s: {endpoints: [127.0.0.1:1], plugins: [{plugin: e, role: degrade, policy: last-good}, a]}}
attachments:
  global: [{plugin: a, order: 5}, b]
  hosts:
    x.example: [{plugin: d, config: {k: 1}}]
    '*.example': [c]
    other.test: [c]
routes:
  - {name: any, to: s, plugins: [b]}
  - {name: wide, match: {hosts: ['*.example'], path: {prefix: /w}}, to: s}
  - {name: one, match: {hosts: [x.example], path: {prefix: /o}}, to: {answer: {status: 200}}}
  - {name: two, match: {hosts: [x.example, y.test], path: {prefix: /t}}, to: {answer: {status: 200}}}
";
    let plan = plan(text);
    let [any, wide, one, two] = plan.routes.as_slice() else { panic!("four routes") };
    assert_eq!(names(&any.chain), ["b@Global", "a@Global", "b@Route", "e@Service", "a@Service"]);
    let by_host = |route: &plan::Route| -> Vec<(HostPattern, Vec<String>)> {
        route.host_chains.iter().map(|(host, chain)| (host.clone(), names(chain))).collect()
    };
    let exact = |host: &str| HostPattern::Exact(host.into());
    let below = |host: &str| HostPattern::Below(host.into());
    assert_eq!(
        by_host(any),
        [
            (below("example"), ["b@Global", "a@Global", "c@Host", "b@Route", "e@Service", "a@Service"].map(String::from).to_vec()),
            (
                exact("x.example"),
                ["b@Global", "a@Global", "c@Host", "d@Host", "b@Route", "e@Service", "a@Service"].map(String::from).to_vec()
            ),
            (exact("other.test"), ["b@Global", "a@Global", "c@Host", "b@Route", "e@Service", "a@Service"].map(String::from).to_vec()),
        ]
    );
    assert_eq!(names(&wide.chain), ["b@Global", "a@Global", "c@Host", "e@Service", "a@Service"]);
    assert_eq!(wide.host_chains.len(), 2);
    // One host: no choice to be made while serving.
    assert_eq!((names(&one.chain), one.host_chains.len()), (["b@Global", "a@Global", "c@Host", "d@Host"].map(String::from).to_vec(), 0));
    assert_eq!(by_host(two)[1], (exact("y.test"), ["b@Global", "a@Global"].map(String::from).to_vec()));
    let degrade = &any.chain[3];
    assert_eq!((degrade.role, degrade.policy, degrade.level), (Some(Role::Degrade), Some(plan::Policy::LastGood), Level::Service));
    assert_eq!(&*one.chain[3].config, r#"{"k":1}"#);
}

#[test]
fn what_others_are_told_is_separate_from_what_is_bound() {
    let own = around().addresses;
    for (given, bound, expected) in [
        (Some("gw.example:80"), "10.0.0.7:8080", "gw.example:80"),
        (None, "10.0.0.7:8080", "10.0.0.7:8080"),
        (None, "0.0.0.0:8080", "10.0.0.7:8080"),
        (None, "[::]:8080", "10.0.0.7:8080"),
    ] {
        assert_eq!(plan::advertised(given, bound.parse().unwrap(), &own), expected);
    }
    assert_eq!(plan::advertised(None, "0.0.0.0:1".parse().unwrap(), &[]), "127.0.0.1:1");
}

#[test]
fn a_broken_file_still_says_where_the_admin_api_is() {
    let text = "admin: {bind: 127.0.0.1:7777, token_file: t}\nroutes: [{name: 5, to: nowhere, x: 1}]\nworkers: lots\n";
    let admin = check::admin_of(text, Path::new("/etc/wharf"));
    assert_eq!((admin.bind.port(), admin.token_file.to_str()), (7777, Some("/etc/wharf/t")));
    let good = "node: {name: n, state_dir: s}\nadmin:\n  # here\n  bind: 127.0.0.1:7778\n\n  token_file: t\nroutes:\n  - name: a\n";
    for broken in ["  bad indent: [\n", "\tx: 1\n", "'\n", "  - }\n", "admin: [\n"] {
        for text in [format!("{good}{broken}"), format!("{broken}{good}")] {
            let admin = check::admin_of(&text, Path::new(""));
            let which =
                if broken.starts_with("admin") && text.starts_with(broken) { (9901, Some("s/admin-token")) } else { (7778, Some("t")) };
            assert_eq!((admin.bind.port(), admin.token_file.to_str()), which, "{text}");
        }
    }
    // The mistake is in the block itself: what stands before it counts.
    let admin = check::admin_of("admin:\n  bind: 127.0.0.1:7779\n  bad indent: [\n", Path::new(""));
    assert_eq!((admin.bind.port(), admin.token_file.to_str()), (7779, Some("wharf-state/admin-token")));
    let admin = check::admin_of("{", Path::new(""));
    assert_eq!((admin.bind.port(), admin.token_file.to_str()), (9901, Some("wharf-state/admin-token")));
}

#[test]
fn the_committed_schema_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/wharf.schema.json");
    let generated = schema::text();
    if std::env::var_os("WHARF_WRITE_EXPECTED").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == generated,
        "run this test with WHARF_WRITE_EXPECTED=1 and commit the schema"
    );
}

#[test]
fn the_schema_takes_exactly_the_plugin_names_that_the_catalog_takes() {
    let schema: serde_json::Value = serde_json::from_str(&schema::text()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let (longest, too_long) = ("a".repeat(64), "a".repeat(65));
    for name in ["auth", "a-b_2", &longest, &too_long, "9x", "Tenant.v2", "-a", "", "\u{e9}"] {
        let fits = validator.is_valid(&serde_json::json!({ "plugins": { name: {} } }));
        assert_eq!(fits, wharf_core::plugin_name::is_plugin_name(name), "{name}");
    }
}

/// Every YAML block of a page.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match (&mut open, line) {
            // A reader is to write some of them into files; what others have is marked `yaml before`.
            (None, "```yaml" | "```yaml file=wharf.yaml") => open = Some(String::new()),
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), line) => *block += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

/// Every page of the docs, and the README.
pub(crate) fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut pages, mut folders) = (vec![root.join("README.md")], vec![root.join("docs")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// Every whole configuration of the docs, and the one that is printed. What is only a part of one is indented, as it would be there.
pub(crate) fn examples() -> Vec<String> {
    let mut examples: Vec<String> = pages().iter().flat_map(|page| blocks(&std::fs::read_to_string(page).unwrap())).collect();
    examples.retain(|example| !example.starts_with(' '));
    examples.push(crate::cli::EXAMPLE.to_owned());
    examples
}

#[test]
fn every_example_is_good_and_fits_the_schema() {
    let schema: serde_json::Value = serde_json::from_str(&schema::text()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let examples = examples();
    assert!(examples.len() >= 5, "{} examples", examples.len());
    for example in examples {
        let mut mistakes = Vec::new();
        let tree = tree::parse(&example, &mut mistakes).unwrap();
        let written = std::cell::RefCell::new(mistakes);
        let value: serde_json::Value = tree::read(&tree, &written).unwrap();
        let told: Vec<String> = validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(told.is_empty(), "{told:#?}\n{example}");
        // Certificates that it names are not here.
        if let Err(mistakes) = check("t.yaml", &example, Path::new(""), &around()) {
            assert!(mistakes.list.iter().all(|mistake| mistake.message.contains("cannot be read")), "{mistakes}\n{example}");
        }
    }
}

#[test]
fn no_text_makes_the_checker_fall() {
    // Every file of the collection, cut anywhere and with any byte replaced by one that matters to YAML.
    let mut texts = vec![crate::cli::EXAMPLE.to_owned()];
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    let (mut seed, mut done) = (1u64, 0);
    for text in &texts {
        for _ in 0..60 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let roll = (seed >> 33) as usize;
                if bytes.is_empty() {
                    break;
                }
                let at = roll % bytes.len();
                match roll / bytes.len() % 3 {
                    0 => bytes.truncate(at),
                    1 => bytes[at] = b":{}[]&*!|>-?#'\"\n\t 0\x00"[roll / 7 % 20],
                    _ => bytes.insert(at, b":{}[]&*!|>-?#'\"\n\t 0\x7f"[roll / 7 % 20]),
                }
            }
            if let Err(mistakes) = check("t.yaml", &String::from_utf8_lossy(&bytes), Path::new(""), &around()) {
                assert!(!mistakes.list.is_empty());
                let _ = (mistakes.to_string(), mistakes.json());
            }
            done += 1;
        }
    }
    assert!(done > 1000);
}

#[test]
fn a_map_of_very_many_keys_is_read_in_one_go() {
    // Looked for one by one they would be 20,000,000,000 comparisons: this test would not end.
    let text: String = std::iter::once("services:\n".to_owned()).chain((0..200_000).map(|n| format!("  s{n}: {{}}\n"))).collect();
    let mistakes = check("t.yaml", &text, Path::new(""), &around()).unwrap_err();
    assert!(mistakes.list.len() == 100 && mistakes.more > 190_000, "{} are told, {} are not", mistakes.list.len(), mistakes.more);
    assert!(mistakes.to_string().contains("\nand 199"));
}

#[test]
fn what_is_too_much_is_refused_before_it_costs_much() {
    let list: String = std::iter::once("plugins: {p: {}}\nx: [").chain((0..1_100_000).map(|_| "a,")).chain(["]\n"]).collect();
    let text = format!("node: {{name: {}}}\n", "x".repeat(1024 * 1024 + 1));
    let deep = format!("x: {}", "[".repeat(1_000_000));
    let begun = std::time::Instant::now();
    for (text, says) in [(&list, "more than 1000000 values"), (&text, "at most 1048576 are allowed"), (&deep, "recursion limit")] {
        let mistakes = check("t.yaml", text, Path::new(""), &around()).unwrap_err();
        assert!(mistakes.to_string().contains(says), "{says}: {}", mistakes.list[0].message);
    }
    assert!(begun.elapsed().as_secs() < 20);
    // A variable that is named very often.
    let mut outside = Case { variables: HashMap::from([("BIG".to_owned(), "x".repeat(600_000))]) };
    let often: String = (0..40).map(|n| format!("  s{n}: {{endpoints: [\"${{BIG}}\"]}}\n")).collect();
    let text = format!("services:\n{often}  twice: {{endpoints: [\"${{BIG}}${{BIG}}\"]}}\n");
    let mistakes = check_files("t.yaml", Path::new("t.yaml"), &text, &around(), &mut outside).0.mistakes.unwrap();
    let too_large = mistakes.list.iter().filter(|mistake| mistake.message.contains("what is substituted is too large")).count();
    assert!((10..20).contains(&too_large), "{too_large}");
    assert!(mistakes.to_string().len() < 100_000);
}

#[test]
fn included_files_stand_as_if_they_were_written_in_the_one_that_includes_them() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "wharf.yaml",
        "include: [routes.d/*.yaml, services.yaml, none.d/*.yaml]\nlisteners: {web: {bind: 127.0.0.1:0}}\nattachments: {global: [a]}\nroutes: [{name: first, match: {path: {exact: /1}}, to: s}]\n",
    );
    write("services.yaml", "services: {s: {endpoints: [127.0.0.1:9001]}}\nplugins: {a: {}, b: {}}\n");
    write("routes.d/20.yaml", "routes: [{name: third, match: {path: {exact: /3}}, to: s}]\n");
    write(
        "routes.d/10.yaml",
        "routes: [{name: second, match: {path: {exact: /2}}, to: t}]\nattachments: {global: [b], hosts: {x.test: [a]}}\ninclude: [below/t.yaml]\naccess_log: {to: access.log}\n",
    );
    write("routes.d/below/t.yaml", "services: {t: {endpoints: [127.0.0.1:9002]}}\n");
    write("routes.d/30.yaml", "# nothing yet\n");
    write("routes.d/.40.yaml.swp", "routes: [\n");
    write("routes.d/readme.txt", "not read\n");
    let (checked, followed) = read_all(&folder.path().join("wharf.yaml"), &around());
    let plan = checked.unwrap().into_plan().unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let routes: Vec<&str> = plan.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(routes, ["first", "second", "third"]);
    assert_eq!(names(&plan.routes[0].chain), ["a@Global", "b@Global"]);
    assert_eq!(plan.routes[0].host_chains.len(), 1);
    assert_eq!(plan.services.len(), 2);
    let plan::LogTarget::File(log) = &plan.access_log.target else { panic!("{:?}", plan.access_log) };
    assert_eq!(*log, folder.path().join("routes.d/access.log"), "a path begins at the folder of the file that it stands in");
    assert_eq!((followed.files.len(), followed.folders.len()), (6, 2));
}

#[test]
fn variables_and_files_stand_in_the_place_of_values_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "  s3cret: [x]\n\n").unwrap();
    let text = "listeners: {web: {bind: '127.0.0.1:${PORT:-0}', connections_max: '${MANY}'}}
plugins: {auth: {}}
attachments:
  global:
    - plugin: auth
      config:
        key: ${file:key}
        number: ${MANY}
        text: \"${MANY}\"
        empty: ${EMPTY}
        fallback: ${EMPTY:-x}${NONE:-y}
        own: ${header:x-in} ${attr:a}
        stays: $${MANY} $MANY
";
    let path = folder.path().join("t.yaml");
    let variables = [("MANY", "25"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (checked, _) = check_files("t.yaml", &path, text, &around(), &mut Case { variables: HashMap::from(variables) });
    let secrets = checked.secrets.clone();
    let plan = checked.into_plan().unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!((plan.listeners[0].bind.to_string(), plan.listeners[0].connections_max), ("127.0.0.1:0".into(), 25));
    let text = format!("{text}routes: [{{name: a, to: {{answer: {{status: 200}}}}}}]\n");
    let variables = [("MANY", "25"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (checked, _) = check_files("t.yaml", &path, &text, &around(), &mut Case { variables: HashMap::from(variables) });
    let plan = checked.into_plan().unwrap();
    let config: serde_json::Value = serde_json::from_str(&plan.routes[0].chain[0].config).unwrap();
    let expected = serde_json::json!({
        "key": "s3cret: [x]", "number": 25, "text": "25", "empty": "", "fallback": "xy", "own": "${header:x-in} ${attr:a}", "stays": "${MANY} $MANY",
    });
    assert_eq!(config, expected);
    assert_eq!(secrets.without("the key is s3cret: [x]!"), "the key is ${file:key}!");
}

#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_is_told_at_once_and_a_link_to_a_file_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
    std::os::unix::fs::symlink("pipe", at("link")).unwrap();
    std::fs::write(at("real"), "listeners: {web: {bind: 127.0.0.1:0}}\n").unwrap();
    std::os::unix::fs::symlink("real", at("good")).unwrap();
    let said = |name: &str| load(&at(name), &around()).map(drop).map_err(|mistakes| mistakes.to_string());
    assert_eq!(said("good"), Ok(()));
    for name in ["pipe", "device", "link"] {
        assert!(said(name).unwrap_err().contains("no regular file"), "{name}");
        for text in [
            format!("include: [{name}]\nlisteners: {{web: {{bind: 127.0.0.1:0}}}}\n"),
            format!("listeners: {{web: {{bind: \"${{file:{name}}}\"}}}}\n"),
            format!("listeners: {{web: {{bind: 127.0.0.1:0, tls: {{certificates: [{{chain: {name}, key: real}}]}}}}}}\n"),
        ] {
            std::fs::write(at("wharf.yaml"), &text).unwrap();
            assert!(said("wharf.yaml").unwrap_err().contains("no regular file"), "{text}");
        }
    }
}
