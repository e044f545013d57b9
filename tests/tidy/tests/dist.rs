//! What `dist` says of the gateway is true: paths, ports, the toolchain. Whether the command lines in it are understood is asked
//! of the command line itself (`host/gateway/src/cli/tests.rs`), and whether a container can be built by a machine with a network.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "this is test code: a panic is how a test tells")]

use std::fs;
use std::path::Path;
use std::process::Command;
use wharf_tidy::{none, root};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The instructions of the container file, each with what stands behind it; lines that go on are joined, comments are gone.
fn instructions() -> Vec<(String, String)> {
    let text: String = read("dist/Containerfile").lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| line.split_once(' ').unwrap_or((line, ""))).map(|(word, rest)| (word.to_owned(), rest.trim().to_owned())).collect()
}

/// What follows this instruction, in the last stage.
fn last(word: &str) -> String {
    let all = instructions();
    let stage = all.iter().rposition(|(word, _)| word == "FROM").unwrap();
    let found = all[stage..].iter().find(|(have, _)| have == word);
    found.unwrap_or_else(|| panic!("the last stage has no {word}")).1.clone()
}

#[test]
fn the_container_file_is_made_of_instructions() {
    let known = ["FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"];
    let all = instructions();
    let findings: Vec<String> = all.iter().filter(|(word, _)| !known.contains(&word.as_str())).map(|(word, _)| word.clone()).collect();
    none("every line of dist/Containerfile begins with an instruction", &findings);
    // Lists in the form of JSON, since there is no shell to read another.
    for word in ["ENTRYPOINT", "CMD"] {
        serde_json::from_str::<Vec<String>>(&last(word)).unwrap_or_else(|error| panic!("{word} is no list: {error}"));
    }
    let check = last("HEALTHCHECK");
    serde_json::from_str::<Vec<String>>(check.split_once("CMD ").unwrap().1).unwrap();
}

#[test]
fn what_the_container_file_copies_is_there() {
    let mut findings = Vec::new();
    let mut copied: Vec<String> = Vec::new();
    for (_, rest) in instructions().iter().filter(|(word, rest)| word == "COPY" && !rest.contains("--from=")) {
        let words: Vec<&str> = rest.split(' ').collect();
        for source in &words[..words.len() - 1] {
            copied.push((*source).to_owned());
            if !root().join(source).exists() {
                findings.push((*source).to_owned());
            }
        }
    }
    none("every source of a COPY exists", &findings);
    // Cargo reads the manifest of every member before it builds one.
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members: Vec<&str> = members.split(',').map(|word| word.trim().trim_matches('"')).filter(|word| !word.is_empty()).collect();
    assert!(members.len() > 10, "{members:?}");
    let missing = |member: &&&str| !copied.iter().any(|folder| member.starts_with(&format!("{folder}/")));
    let findings: Vec<String> = members.iter().filter(missing).map(|member| (*member).to_owned()).collect();
    none("every member of the workspace is in a folder that is copied", &findings);
    for file in ["Cargo.toml", "Cargo.lock"] {
        assert!(copied.iter().any(|have| have == file), "{file} is not copied");
    }
}

#[test]
fn the_container_is_built_with_our_toolchain_and_tags_are_pinned() {
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    let all = instructions();
    let images: Vec<&str> =
        all.iter().filter(|(word, _)| word == "FROM").map(|(_, rest)| rest.split(' ').next().unwrap_or_default()).collect();
    for image in images.iter().filter(|image| **image != "scratch") {
        let (name, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        assert!(name.contains('/') && tag != "latest", "{image} is not pinned");
    }
    assert!(images[0].contains(&format!("rust:{channel}-")), "{} is not the toolchain {channel}", images[0]);
    assert!(all.iter().any(|(word, rest)| word == "ENV" && *rest == format!("RUSTUP_TOOLCHAIN={channel}")));
}

#[test]
fn the_container_is_nobody_special_and_has_the_port_of_the_example() {
    let user = last("USER");
    let number: u32 = user.split(':').next().unwrap().parse().unwrap_or_else(|_| panic!("USER {user} is no number"));
    assert!(number > 0);
    let port = last("EXPOSE");
    assert!(read("host/gateway/src/cli/example.yaml").contains(&format!("bind: 0.0.0.0:{port}\n")), "the example does not bind {port}");
    // The folders that docs/install.md mounts.
    let page = read("docs/install.md");
    for folder in [last("VOLUME"), last("WORKDIR")] {
        assert!(page.contains(&format!(":{folder}")), "docs/install.md does not mount {folder}");
        assert!(read("dist/container-root").contains(&folder), "dist/container-root does not make {folder}");
    }
    assert!(last("ENV").starts_with(&format!("WHARF_CONFIG={}/", last("WORKDIR"))));
}

#[test]
fn a_container_holds_the_binary_what_it_is_linked_with_and_the_authorities() {
    if !Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        return println!("not tried: this machine has no bundle of authorities");
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("container-root");
    let _ = fs::remove_dir_all(&folder);
    // This test is a binary like any other.
    let binary = std::env::current_exe().unwrap();
    let output = Command::new(root().join("dist/container-root")).arg(&binary).arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for path in ["usr/local/bin/wharf", "etc/ssl/certs/ca-certificates.crt", "etc/nsswitch.conf", "etc/passwd", "var/lib/wharf"] {
        assert!(folder.join(path).exists(), "there is no {path}");
    }
    // Everything that the loader would look for.
    let told = Command::new("ldd").arg(&binary).output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let libraries: Vec<&str> = told.split_whitespace().filter(|word| word.starts_with('/')).collect();
    assert!(libraries.len() >= 2, "{told}");
    for library in libraries {
        assert!(folder.join(library.trim_start_matches('/')).is_file(), "{library} is not there");
    }
    fs::remove_dir_all(&folder).unwrap();
}

/// The values of a setting of the unit.
fn unit(name: &str) -> Vec<String> {
    let text = read("dist/wharf.service");
    text.lines().filter_map(|line| line.strip_prefix(&format!("{name}="))).map(str::to_owned).collect()
}

#[test]
fn the_unit_and_the_page_about_it_agree() {
    let page = read("docs/install.md");
    // The unit makes what the configuration of the page names.
    assert_eq!((unit("StateDirectory"), unit("LogsDirectory")), (vec!["wharf".to_owned()], vec!["wharf".to_owned()]));
    assert!(page.contains("state_dir: /var/lib/wharf}") && page.contains("to: /var/log/wharf/access.log}"));
    let config = unit("Environment").into_iter().find_map(|value| value.strip_prefix("WHARF_CONFIG=").map(str::to_owned)).unwrap();
    assert!(page.contains(&config), "docs/install.md does not name {config}");
    let user = unit("User").remove(0);
    assert!(page.contains("useradd") && page.contains(&format!(" {user}\n")), "docs/install.md makes no user {user}");
    for (name, told) in [("LimitNOFILE", unit("LimitNOFILE").remove(0)), ("TimeoutStopSec", unit("TimeoutStopSec").remove(0))] {
        assert!(page.contains(&format!("`{name}={told}`")), "docs/install.md says another {name} than {told}");
    }
    // After an upgrade another process tells systemd that it is the service.
    assert_eq!((unit("Type"), unit("NotifyAccess")), (vec!["notify".to_owned()], vec!["all".to_owned()]));
    // Plugins are compiled to machine code.
    assert!(unit("MemoryDenyWriteExecute").is_empty());
    let binary = unit("ExecStart").remove(0);
    let binary = binary.split(' ').next().unwrap();
    assert!(page.contains(binary) && read("dist/container-root").contains(binary));
}

#[test]
fn the_unit_gives_the_gateway_the_time_that_it_takes_to_end() {
    let page = read("docs/configuration.md");
    let row = page.lines().find(|line| line.starts_with("| `drain` |")).unwrap_or_else(|| panic!("the reference has no `drain`"));
    let told: String = row.split('|').nth(3).unwrap().chars().skip_while(|letter| !letter.is_ascii_digit()).collect();
    let grace: u64 = told.split('s').next().unwrap().parse().unwrap_or_else(|_| panic!("the default of `drain` is not in seconds: {told}"));
    let stop: u64 = unit("TimeoutStopSec").remove(0).trim_end_matches('s').parse().unwrap();
    assert!(stop >= grace + 5, "TimeoutStopSec={stop}s is too short for {grace} s of grace");
    assert!(read("docs/operations.md").contains(&format!("up to {grace} s")));
}

#[test]
fn the_limits_of_files_are_the_same_everywhere_and_enough_for_the_default() {
    let unit: u64 = unit("LimitNOFILE").remove(0).parse().unwrap();
    let limits = read("dist/wharf.limits.conf");
    assert_eq!(limits.matches(&format!("nofile {unit}")).count(), 2, "dist/wharf.limits.conf says another number than {unit}");
    assert!(read("docs/install.md").contains(&format!("nofile={unit}:{unit}")));
    let schema: serde_json::Value = serde_json::from_str(&read("host/gateway/schema/wharf.schema.json")).unwrap();
    let text = schema.to_string();
    assert!(text.contains("connections_max"));
    // Two for each of 20,000 connections, and what the gateway keeps for itself.
    assert!(unit >= 2 * 20_000 + 256);
}

#[test]
fn no_port_of_ours_is_among_those_of_upstream_connections() {
    let text = read("dist/wharf.sysctl.conf");
    let range = text.lines().find_map(|line| line.strip_prefix("net.ipv4.ip_local_port_range = ")).unwrap();
    let (from, to) = range.split_once(' ').unwrap();
    let (from, to): (u16, u16) = (from.parse().unwrap(), to.parse().unwrap());
    for port in [80, 443, 8080, 8443, 9901] {
        assert!(!(from..=to).contains(&port), "{port}");
    }
    // Each setting is a name and a value, and has its reason before it.
    let mut reasons = false;
    for line in text.lines() {
        match line {
            "" => reasons = false,
            comment if comment.starts_with('#') => reasons = true,
            setting => assert!(reasons && setting.contains(" = "), "{setting:?} has no reason"),
        }
    }
}
