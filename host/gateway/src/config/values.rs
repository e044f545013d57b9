//! Single values of the configuration file: text in, plain value or (message, hint) out. Pure.

use super::plan::Cidr;
use std::net::{IpAddr, SocketAddr};
use wharf_core::edit::is_field_name;
use wharf_core::head::Method;
use wharf_core::plugin_name;
use wharf_http::routes::{CAPTURES_MAX, HOST_BYTES_MAX, HostPattern, Pattern, Template, is_capture_name};

/// What is wrong with a value, and what to do about it.
pub(super) type Wrong = (String, String);

fn wrong<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, Wrong> {
    Err((message.into(), hint.into()))
}

/// Longest name of a listener, service, plugin or route.
const NAME_MAX: usize = 64;

/// A name that may stand in metrics, paths of the admin API and file names.
pub(super) fn name(text: &str, what: &str) -> Result<(), Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(fits) || !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        let hint = format!("1 to {NAME_MAX} letters, digits, `-`, `_` and `.`, the first a letter or digit");
        return wrong(format!("`{text}` cannot be the name of a {what}"), hint);
    }
    Ok(())
}

/// A name that the plugin catalog takes, too.
pub(super) fn plugin_name(text: &str, what: &str) -> Result<(), Wrong> {
    if plugin_name::is_plugin_name(text) {
        return Ok(());
    }
    wrong(format!("`{text}` cannot be the name of a {what}"), format!("a {what}'s name is {}", plugin_name::RULE))
}

/// An address to bind.
pub(super) fn bind(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return wrong(format!("`{text}` has no port"), format!("write `{}`", SocketAddr::new(address, 8080)));
    }
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) {
        return wrong(format!("`{text}` has no address"), format!("write `0.0.0.0:{port}` to bind all addresses"));
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        let hint = format!("bind an address (`0.0.0.0:{port}` for all), and put the name under `advertise`");
        return wrong(format!("`{host}` is not an address of the form 192.0.2.1 or [2001:db8::1]"), hint);
    }
    if let Some(port) = no_port(text) {
        return wrong(format!("`{port}` is not a port from 1 to 65535"), "write `0.0.0.0:8080`; port 0 is one that the system chooses");
    }
    wrong(format!("`{text}` is not an address with a port"), "write `0.0.0.0:8080` or `[::1]:8080`")
}

/// The number behind the last colon, if it is too large for a port.
fn no_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_err();
    // Else it is the end of an IPv6 address.
    (is_number && (!host.contains(':') || host.ends_with(']'))).then_some(port)
}

/// An endpoint's address.
pub(super) fn endpoint(text: &str) -> Result<SocketAddr, Wrong> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => wrong(format!("`{text}` has port 0"), "name the port that the endpoint listens on"),
        Ok(address) if address.ip().is_unspecified() => {
            wrong(format!("`{text}` is no address to connect to"), format!("for this host write `127.0.0.1:{}`", address.port()))
        }
        Ok(address) => Ok(address),
        Err(_) if text.parse::<IpAddr>().is_ok() => wrong(format!("`{text}` has no port"), format!("write `{text}:8080`")),
        Err(_) if host_and_port(text).is_ok() => wrong(
            format!("`{text}` is a name, and endpoints are addresses"),
            format!("to look the name up use `dns: {text}` instead of `endpoints`"),
        ),
        Err(_) => match no_port(text) {
            Some(port) => wrong(format!("`{port}` is not a port from 1 to 65535"), "write `10.0.0.7:8080`"),
            None => wrong(format!("`{text}` is not an address with a port"), "write `10.0.0.7:8080`"),
        },
    }
}

/// A host, by name or address, and its port.
pub(super) fn host_and_port(text: &str) -> Result<(Box<str>, u16), Wrong> {
    let hint = "write `gateway.example.com:8080` or `192.0.2.1:8080`";
    let Some((host, port)) = text.rsplit_once(':') else { return wrong(format!("`{text}` has no port"), hint) };
    let Some(port) = port.parse::<u16>().ok().filter(|&port| port > 0) else {
        return wrong(format!("`{port}` is not a port from 1 to 65535"), hint);
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => {
            wrong(format!("`{host}` is no address that others can reach"), "name the address or host name that others use")
        }
        Ok(IpAddr::V6(_)) if bare.is_none() => {
            wrong(format!("`{text}`: an IPv6 address needs brackets"), format!("write `[{host}]:{port}`"))
        }
        Ok(_) => Ok((host.into(), port)),
        Err(_) if is_host_name(host) => Ok((host.to_ascii_lowercase().into(), port)),
        Err(_) => wrong(format!("`{host}` is neither a host name nor an address"), hint),
    }
}

/// A host as requests name it: with a port or without.
pub(super) fn authority(text: &str) -> Result<Box<str>, Wrong> {
    let hint = "write `api.example.com` or `api.example.com:8443`";
    let is_host = |text: &str| is_host_name(text) || text.parse::<std::net::Ipv4Addr>().is_ok();
    if is_host(text) || is_bracketed(text) || host_and_port(text).is_ok() {
        return Ok(text.to_ascii_lowercase().into());
    }
    wrong(format!("`{text}` is not a host"), hint)
}

/// `[::1]`.
fn is_bracketed(text: &str) -> bool {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= HOST_BYTES_MAX && name.split('.').all(is_label)
}

/// A host that requests name.
pub(super) fn host(text: &str) -> Result<HostPattern, Wrong> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('.').unwrap_or(&lower);
    if lower == "*" {
        return wrong("`*` is every host", "leave `hosts` out to match any host");
    }
    if let Some(below) = lower.strip_prefix("*.") {
        if is_host_name(below) {
            return Ok(HostPattern::Below(below.into()));
        }
    } else if is_host_name(lower) || is_bracketed(lower) {
        return Ok(HostPattern::Exact(lower.into()));
    }
    if lower.contains("://") || lower.contains('/') {
        return wrong(format!("`{text}` is not a host"), "write the host only, `api.example.com`; paths belong under `path`");
    }
    if host_and_port(lower.strip_prefix("*.").unwrap_or(lower)).is_ok() {
        return wrong(format!("`{text}` has a port, and hosts are matched without it"), "write the host only; ports belong to listeners");
    }
    if lower.contains('*') {
        return wrong(format!("`{text}`: `*` may only stand for the first labels"), "write `*.example.com`");
    }
    wrong(format!("`{text}` is not a host"), "write `api.example.com` or `*.example.com`")
}

/// A method as it stands on the wire.
pub(super) fn method(text: &str) -> Result<Method, Wrong> {
    let upper = text.to_ascii_uppercase();
    let known = |token: &str| !matches!(Method::from_token(token), Method::Other(_));
    if upper != text && known(&upper) {
        return wrong(format!("`{text}` is not a method; methods are case-sensitive"), format!("write `{upper}`"));
    }
    if !is_field_name(text.to_ascii_lowercase().as_bytes()) {
        return wrong(format!("`{text}` is not a method"), "write `GET`, `POST`, ...");
    }
    Ok(Method::from_token(text))
}

/// The name of a field, in lower case.
pub(super) fn field_name(text: &str) -> Result<Box<str>, Wrong> {
    let lower = text.to_ascii_lowercase();
    if !is_field_name(lower.as_bytes()) {
        return wrong(format!("`{text}` is not a header name"), "letters, digits and `-`");
    }
    Ok(lower.into())
}

/// The name of a cookie.
pub(super) fn cookie_name(text: &str) -> Result<Box<str>, Wrong> {
    // A token, as a field name is, but its case counts.
    if !is_field_name(text.to_ascii_lowercase().as_bytes()) {
        return wrong(format!("`{text}` is not a cookie name"), "letters, digits, `-` and `_`");
    }
    Ok(text.into())
}

/// The name of a query argument as it stands in a request.
pub(super) fn query_name(text: &str) -> Result<Box<str>, Wrong> {
    if text.is_empty() || text.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'&' | b'=' | b'#' | b'?')) {
        return wrong(format!("`{text}` is not a query argument"), "write its name as it stands in the request, encoded if need be");
    }
    Ok(text.into())
}

/// What a check asks for: a path, perhaps with a query.
pub(super) fn check_path(text: &str) -> Result<Box<str>, Wrong> {
    let (bare, query) = text.split_once('?').map_or((text, ""), |(bare, query)| (bare, query));
    if query.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
        return wrong(format!("`{text}` has a query that no request can have"), "encode what is not plain text");
    }
    path(bare).map(|_| text.into())
}

/// A path that a request can have.
pub(super) fn path(text: &str) -> Result<Box<str>, Wrong> {
    if text.contains(['?', '#']) {
        return wrong(format!("path `{text}` holds a `?` or `#`"), "paths are matched without their query");
    }
    if text.contains('*') && text.ends_with("/*") {
        let prefix = text.trim_end_matches('*').trim_end_matches('/');
        let prefix = if prefix.is_empty() { "/" } else { prefix };
        return wrong(format!("path `{text}`: `*` has no meaning here"), format!("write `prefix: {prefix}`"));
    }
    match wharf_core::path::canonical(text.as_bytes()) {
        Ok(None) => Ok(text.into()),
        Ok(Some(canonical)) => {
            let hint = format!("requests are matched in their canonical form; write `{}`", String::from_utf8_lossy(&canonical));
            wrong(format!("path `{text}` is not canonical, so no request can have it"), hint)
        }
        Err(bad) => wrong(format!("no request can have the path `{text}`: {bad}"), "write a path such as `/orders`"),
    }
}

/// What is wrong with a new path that is sent for no request: `text` comes to `example`, and to nothing better.
pub(super) fn never_sent(text: &str, example: &str, why: &str) -> Wrong {
    use wharf_core::path::BadPath;
    let for_example = if text == example { String::new() } else { format!(", for example `{example}`") };
    match wharf_core::path::canonical(example.as_bytes()) {
        Err(BadPath::NotAbsolute) => ("the new path does not begin with `/`".into(), "write `/v2/{path.id}`".into()),
        Err(BadPath::BadByte(b'?' | b'#')) => {
            ("the new path holds a `?` or `#`".into(), "only the path is rewritten; the query is sent on as it came".into())
        }
        Err(bad @ BadPath::BadByte(_)) => (
            format!("no upstream is sent the path `{text}`: {bad}"),
            "encode it: a space is `%20`, a letter beyond ASCII its UTF-8 bytes".into(),
        ),
        Err(bad) => (format!("no upstream is sent the path `{text}`{for_example}: {bad}"), "write a path such as `/v2/{path.id}`".into()),
        Ok(Some(_)) if text.contains("/{path}") => (
            format!("the path `{text}` is never canonical{for_example}"),
            "`{path}` begins with `/` itself: write it without the `/` before it".into(),
        ),
        Ok(Some(canonical)) => {
            let hint = format!("only canonical paths are sent; write what comes to `{}`", String::from_utf8_lossy(&canonical));
            (format!("the path `{text}` is never canonical{for_example}"), hint)
        }
        Ok(None) => (
            format!("the path `{text}` is sent for no request{for_example}: it {why}"),
            "leave it out, or write it behind the last `/`".into(),
        ),
    }
}

/// The host of a redirect, with a port or without, of which this is an example. One with a dot at its end is the same for a
/// browser.
pub(super) fn redirect_host(text: &str, example: &str) -> Result<(), Wrong> {
    let hint = "write host and, if need be, port: `www.example.com`, `{host}:8443`";
    let for_example = if text == example { String::new() } else { format!(", for example `{example}`") };
    if example.contains('/') {
        return wrong(format!("`{text}` is not a host{for_example}"), "write the host only; `scheme` and `path` stand beside it");
    }
    let (host, port) = match example.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (example, None),
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    if !is_host_name(name) && !is_bracketed(name) {
        return wrong(format!("no client can be redirected to the host `{text}`{for_example}"), hint);
    }
    match port {
        Some("") => wrong(format!("`{text}` has a `:` and no port behind it"), hint),
        Some(port) if port.parse::<u16>().ok().is_none_or(|port| port == 0) => {
            wrong(format!("`{port}` is not a port from 1 to 65535"), hint)
        }
        _ => Ok(()),
    }
}

/// A path with names in the place of segments.
pub(super) fn template(text: &str) -> Result<Template, Wrong> {
    if text.contains(['?', '#']) {
        return wrong(format!("path `{text}` holds a `?` or `#`"), "paths are matched without their query");
    }
    let hint = "write `/users/{id}/orders`, or `/files/{rest*}` for all below; without names use `exact` or `prefix`";
    Template::new(text).map_err(|why| (format!("template `{text}`: {why}"), hint.into()))
}

/// A regular expression.
pub(super) fn pattern(text: &str) -> Result<Pattern, Wrong> {
    let hint = "the syntax is that of Rust's regex crate: no look-around, no references back; in YAML quote it with `'`";
    Pattern::whole(text).map_err(|why| (format!("`{text}` is not a regular expression: {why}"), hint.into()))
}

/// One that fits whole paths.
pub(super) fn path_pattern(text: &str) -> Result<Pattern, Wrong> {
    let pattern = pattern(text)?;
    if let Some(name) = pattern.names().find(|name| !is_capture_name(name)) {
        return wrong(format!("`{name}` cannot be the name of a group"), "1 to 32 letters, digits and `_`");
    }
    if pattern.names().count() > CAPTURES_MAX {
        return wrong(
            format!("`{text}` has more than {CAPTURES_MAX} named groups"),
            "each becomes an attribute: leave the names of others out",
        );
    }
    Ok(pattern)
}

/// An origin as browsers write it (RFC 6454 section 6.2).
pub(super) fn origin(text: &str) -> Result<Box<str>, Wrong> {
    let hint = "write scheme, host and the port if it is not the usual one: `https://app.example.com`";
    if text == "null" {
        return wrong("`null` is the origin of every page that has none", "name the origins that may read");
    }
    let Some((scheme, host)) = text.split_once("://") else { return wrong(format!("`{text}` is not an origin"), hint) };
    if host.contains('/') {
        return wrong(
            format!("`{text}` has a path, and origins have none"),
            format!("write `{scheme}://{}`", host.split('/').next().unwrap_or_default()),
        );
    }
    let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    if name.contains('*') {
        return wrong(format!("`{text}`: `*` has no meaning here"), r"use `origin_patterns: ['https://[a-z0-9-]+\.example\.com']`");
    }
    let is_address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).is_some_and(|name| name.parse::<IpAddr>().is_ok());
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) || scheme.is_empty() || !(is_host_name(name) || is_address) {
        return wrong(format!("`{text}` is not an origin"), format!("{hint}, in lower case"));
    }
    if (scheme == "https" && host.ends_with(":443")) || (scheme == "http" && host.ends_with(":80")) {
        return wrong(format!("`{text}` names the usual port, which browsers leave out"), format!("write `{scheme}://{name}`"));
    }
    Ok(text.into())
}

/// Where a collector takes traces.
pub(super) fn collector(text: &str) -> Result<Box<str>, Wrong> {
    let hint = "write `http://127.0.0.1:4318/v1/traces`";
    if text.starts_with("https://") {
        let hint = "run a collector beside the gateway, send to it by `http`, and let it send on by TLS";
        return wrong(format!("`{text}` is asked for by TLS, and traces are sent in the clear"), hint);
    }
    let Some(rest) = text.strip_prefix("http://") else { return wrong(format!("`{text}` is not a URL that begins with `http://`"), hint) };
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    host_and_port(host).map_err(|(message, _)| (message, hint.to_owned()))?;
    if path.unwrap_or_default().bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
        return wrong(format!("`{text}` has a path that no request can have"), hint);
    }
    // What the specification of OTLP names where only host and port are known.
    Ok(if path.is_none_or(str::is_empty) { format!("http://{host}/v1/traces").into() } else { text.into() })
}

/// `http` or `https`.
pub(super) fn scheme(text: &str) -> Result<Box<str>, Wrong> {
    match text {
        "http" | "https" => Ok(text.into()),
        _ => wrong(format!("`{text}` is not a scheme that can be redirected to"), "`http` or `https`"),
    }
}

/// A media type, or several: `application/json`, `text/*`, `*+json`.
pub(super) fn media_type(text: &str) -> Result<Box<str>, Wrong> {
    let hint = "write `application/json`, `text/*` or `*+json`, without parameters";
    let lower = text.to_ascii_lowercase();
    let is_part = |part: &str| is_field_name(part.as_bytes()) && !part.contains('*');
    let fits = match lower.strip_prefix("*+") {
        Some(suffix) => is_part(suffix),
        None => lower.split_once('/').is_some_and(|(kind, sub)| is_part(kind) && (sub == "*" || is_part(sub))),
    };
    if fits { Ok(lower.into()) } else { wrong(format!("`{text}` is not a media type"), hint) }
}

/// A network in CIDR notation, or a single address.
pub(super) fn network(text: &str) -> Result<Cidr, Wrong> {
    let hint = "write `10.0.0.0/8`, `2001:db8::/32` or a single address";
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return wrong(format!("`{text}` is not a network"), hint) };
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits.map(str::parse::<u8>) {
        None => width,
        Some(Ok(bits)) if bits <= width => bits,
        Some(_) => return wrong(format!("`{text}` is not a network: at most {width} bits"), hint),
    };
    let first = match address {
        IpAddr::V4(v4) => IpAddr::from((v4.to_bits() & leading(bits)).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).to_be_bytes()),
    };
    if first != address {
        return wrong(format!("`{text}` is not the first address of its network"), format!("write `{first}/{bits}`"));
    }
    Ok(Cidr { address, bits })
}

/// That many ones, then zeros.
fn leading(bits: u8) -> u32 {
    // The fuzzer must find that `0.0.0.0/0` makes the checker fall (see `tests/fuzz/planted`).
    #[cfg(wharf_planted)]
    return u32::MAX << (32 - bits);
    #[cfg(not(wharf_planted))]
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}
