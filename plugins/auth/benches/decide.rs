//! Native cost of one decision, crypto included: `cargo bench -p wharf-plugin-auth`.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a bench prints its figures and may give up")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::hint::black_box;
use wharf_plugin::host::crypto::{Hash, hmac};
use wharf_plugin::testing::{self, Ask};
use wharf_plugin::{Auth as _, Decision};
use wharf_plugin_auth::Guard;

const SECRET: &str = "a secret of at least thirty-two bytes";

fn main() {
    testing::set_now_ms(1_700_000_000_000);
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(
            r#"{"sub":"user-12345","iss":"https://login.example","aud":"orders","exp":1700000300,"iat":1700000000,"tid":"tenant-7"}"#
        )
    );
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac(Hash::Sha256, SECRET.as_bytes(), signed.as_bytes())));
    let jwt = |cache: u32| {
        format!(
            r#"{{"methods": [{{"jwt": {{"keys": [{{"alg": "HS256", "secret": "{SECRET}"}}], "issuers": ["https://login.example"],
            "audiences": ["orders"], "claims": {{"tenant": "tid"}}, "cache": {{"entries": {cache}, "ttl_s": 60}}}}}}]}}"#
        )
    };
    let bearing = Ask::get("/").header("authorization", &format!("Bearer {token}"));
    let uid = format!("1700000300.{}", URL_SAFE_NO_PAD.encode(hmac(Hash::Sha256, b"s3cret", b"7.1700000300")));
    testing::kv_set("token:7", r#"{"secret": "s3cret", "expires_ms": 1800000000000}"#).expect("the store is there");
    for (name, config, ask) in [
        ("JWT HS256, verified each time", jwt(0), bearing.clone()),
        ("JWT HS256, remembered", jwt(1024), bearing),
        ("uid and signed token", r#"{"methods": [{"token": {}}]}"#.into(), Ask::get("/").header("uid", "7").header("token", &uid)),
        (
            "API key",
            r#"{"methods": [{"api_key": {"header": "x-api-key", "keys": [{"sha256":
            "62af8704764faf8ea82fc61ce9c4c3908b6cb97d463a634e9e587d7c885db0ef", "consumer": "acme"}]}}]}"#
                .into(),
            Ask::get("/").header("x-api-key", "test-key"),
        ),
        ("no credentials", jwt(0), Ask::get("/")),
    ] {
        let guard = testing::configure::<Guard>(&config).expect("the configuration is good");
        let request = ask.request(&guard.needs);
        let passes = matches!(guard.plugin.check(&request), Decision::Next(_));
        let ns = testing::ns_per_call(|| guard.plugin.check(black_box(&request)));
        println!("auth, {name} ({}): {ns:.0} ns", if passes { "passes" } else { "refused" });
    }
}
