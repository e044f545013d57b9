//! What the guard promises, asked natively with real crypto.

use crate::Guard;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use wharf_plugin::testing::{self, Ask, Bench};
use wharf_plugin::{Decision, Edit, Plugin};

const SECRET: &str = "a secret of at least thirty-two bytes";
const NOW_S: u64 = 1_700_000_000;

fn guard(config: Value) -> Bench<Guard> {
    let schema = jsonschema::validator_for(&serde_json::from_str(Guard::SCHEMA).unwrap()).unwrap();
    let errors: Vec<_> = schema.iter_errors(&config).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{config} does not fit the schema: {errors:?}");
    testing::set_now_ms(NOW_S * 1000);
    testing::configure(&config.to_string()).unwrap()
}

fn jwt(settings: Value) -> Bench<Guard> {
    let mut all = json!({"keys": [{"alg": "HS256", "secret": SECRET}]});
    for (key, value) in settings.as_object().unwrap() {
        all[key] = value.clone();
    }
    guard(json!({"methods": [{"jwt": all}]}))
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this head and these claims, signed by HS256 whatever the head says.
fn token_by(secret: &[u8], head: &str, claims: &str) -> String {
    let signed = format!("{}.{}", base64url(head), base64url(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", base64url(signature))
}

fn token(claims: Value) -> String {
    token_by(SECRET.as_bytes(), r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string())
}

fn good() -> Value {
    json!({"sub": "ann", "exp": NOW_S + 300})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn bearing(token: &str) -> Ask {
    Ask::get("/").header("authorization", &format!("Bearer {token}"))
}

fn passes_as(decision: &Decision, consumer: &str) -> bool {
    matches!(decision, Decision::Next(edits) if edits.0.first() == Some(&Edit::Attr("consumer".into(), consumer.into())))
}

/// Status and message of a refusal.
fn refused(decision: Decision) -> (u16, String) {
    match decision {
        Decision::Reply(reply) => {
            let body: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(reply.status == 401, reply.headers.iter().any(|(name, _)| name == "www-authenticate"), "{reply:?}");
            (reply.status, body["message"].as_str().unwrap().into())
        }
        next => panic!("it was let in: {next:?}"),
    }
}

#[test]
fn examples_of_the_readme_fit_the_schema_and_are_accepted() {
    let schema = jsonschema::draft202012::new(&serde_json::from_str(Guard::SCHEMA).unwrap()).unwrap();
    let mut examples = 0;
    for example in include_str!("../README.md").split("```json\n").skip(1) {
        let text = example.split("```").next().unwrap();
        let errors: Vec<_> = schema.iter_errors(&serde_json::from_str(text).unwrap()).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{text}\n{errors:?}");
        testing::configure::<Guard>(text).unwrap();
        examples += 1;
    }
    assert!(examples >= 4);
}

#[test]
fn a_signed_token_names_its_consumer() {
    let guard = jwt(json!({}));
    assert!(passes_as(&guard.check(&bearing(&token(good()))), "ann"));
    assert!(passes_as(&guard.check(&Ask::get("/").header("authorization", &format!("bEaReR {}", token(good())))), "ann"));
}

#[test]
fn without_credentials_the_answer_says_how_to_bring_them() {
    let guard = guard(
        json!({"methods": [{"jwt": {"keys": [{"alg": "HS256", "secret": SECRET}]}}, {"api_key": {"header": "x-api-key", "kv_prefix": "k:"}}], "realm": "shop"}),
    );
    let Decision::Reply(reply) = guard.check(&Ask::get("/")) else { panic!() };
    assert_eq!(reply.status, 401);
    assert!(reply.headers.contains(&("www-authenticate".into(), r#"Bearer realm="shop", ApiKey realm="shop""#.into())), "{reply:?}");
}

#[test]
fn time_is_kept_to_the_second_and_with_the_leeway() {
    for (leeway, claims, good) in [
        (0, json!({"sub": "a", "exp": NOW_S + 1}), true),
        (0, json!({"sub": "a", "exp": NOW_S}), false),
        (0, json!({"sub": "a", "exp": NOW_S as f64 + 0.5}), true),
        (0, json!({"sub": "a", "exp": -5}), false),
        (10, json!({"sub": "a", "exp": NOW_S - 9}), true),
        (10, json!({"sub": "a", "exp": NOW_S - 10}), false),
        (0, json!({"sub": "a", "exp": NOW_S + 9, "nbf": NOW_S + 1}), false),
        (10, json!({"sub": "a", "exp": NOW_S + 99, "nbf": NOW_S + 10}), true),
        (10, json!({"sub": "a", "exp": NOW_S + 99, "nbf": NOW_S + 11}), false),
        (0, json!({"sub": "a", "exp": u64::MAX}), true),
        (0, json!({"sub": "a", "exp": "tomorrow"}), false),
        (0, json!({"sub": "a"}), false),
    ] {
        let decision = jwt(json!({"leeway_s": leeway})).check(&bearing(&token(claims.clone())));
        assert_eq!(matches!(decision, Decision::Next(_)), good, "{leeway} {claims}");
    }
    assert!(passes_as(&jwt(json!({"require_exp": false})).check(&bearing(&token(json!({"sub": "a"})))), "a"));
}

#[test]
fn each_token_is_judged_by_its_own_head_whatever_came_before() {
    let other = "another secret of at least thirty-two bytes";
    let keys = json!([{"kid": "a", "alg": "HS256", "secret": SECRET}, {"kid": "b", "alg": "HS256", "secret": other}]);
    let guard = jwt(json!({"keys": keys, "cache": {"entries": 0}}));
    let by = |secret: &str, head: &str, consumer: &str| token_by(secret.as_bytes(), head, &with("sub", json!(consumer)).to_string());
    let (a, b) = (r#"{"alg":"HS256","kid":"a"}"#, r#"{"alg":"HS256","kid":"b"}"#);
    for _ in 0..2 {
        for (token, says) in [
            (by(SECRET, a, "ann"), Ok("ann")),
            (by(other, a, "ann"), Err("the signature is wrong")),
            (by(SECRET, a, "bob"), Ok("bob")),
            (by(SECRET, b, "ann"), Err("the signature is wrong")),
            (by(other, b, "ann"), Ok("ann")),
            (by(SECRET, r#"{"alg":"HS256","kid":"c"}"#, "ann"), Err("no key is known for this token")),
            (by(other, b, "bob"), Ok("bob")),
            (by(other, r#"{"alg":"HS256","kid":"b","crit":["x"]}"#, "ann"), Err("the token uses an extension that is not supported")),
            (by(SECRET, a, "ann").replacen('.', "", 1), Err("the token is malformed")),
            (by(SECRET, a, "ann").replacen('.', "A.", 1), Err("the token is malformed")),
        ] {
            match says {
                Ok(consumer) => assert!(passes_as(&guard.check(&bearing(&token)), consumer), "{token}"),
                Err(why) => assert_eq!(refused(guard.check(&bearing(&token))), (401, why.into()), "{token}"),
            }
        }
    }
}

#[test]
fn a_token_that_names_critical_extensions_is_refused_however_it_names_them() {
    let guard = jwt(json!({}));
    for crit in ["null", "[]", r#"["x"]"#, r#"["exp"]"#, r#"[""]"#, "[1]", r#""x""#, "{}", "false", "0"] {
        let token = token_by(SECRET.as_bytes(), &format!(r#"{{"alg":"HS256","crit":{crit}}}"#), &good().to_string());
        assert_eq!(refused(guard.check(&bearing(&token))), (401, "the token uses an extension that is not supported".into()), "{crit}");
    }
}

#[test]
fn none_is_no_algorithm_in_any_spelling() {
    let guard = jwt(json!({}));
    for alg in ["none", "None", "NONE", "nOnE", "", "hs256", "HS256 "] {
        let head = format!(r#"{{"alg":"{alg}"}}"#);
        let unsigned = format!("{}.{}.", base64url(&head), base64url(good().to_string()));
        assert_eq!(refused(guard.check(&bearing(&unsigned))).0, 401, "{alg}");
        let signed = token_by(SECRET.as_bytes(), &head, &good().to_string());
        assert_eq!(refused(guard.check(&bearing(&signed))), (401, "no key is known for this token".into()), "{alg}");
    }
    let empty = token(good()).rsplit_once('.').unwrap().0.to_string() + ".";
    assert_eq!(refused(guard.check(&bearing(&empty))), (401, "the signature is wrong".into()));
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

/// Makes a signature.
type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Key for the configuration, and a maker of tokens.
fn key_pair(alg: &str) -> (String, Sign) {
    let random = SystemRandom::new();
    match alg {
        "RS256" => {
            let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
            let public = pem(pair.public_key().as_der().unwrap().as_ref());
            let sign = move |message: &[u8]| {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            };
            (public, Box::new(sign))
        }
        "ES256" => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            let public = pem(pair.public_key().as_der().unwrap().as_ref());
            (public, Box::new(move |message: &[u8]| pair.sign(&random, message).unwrap().as_ref().to_vec()))
        }
        _ => {
            let pair = Ed25519KeyPair::generate().unwrap();
            let public = pem(pair.public_key().as_der().unwrap().as_ref());
            (public, Box::new(move |message: &[u8]| pair.sign(message).as_ref().to_vec()))
        }
    }
}

#[test]
fn public_keys_verify_their_own_algorithm_and_are_no_secrets() {
    for alg in ["RS256", "ES256", "EdDSA"] {
        let (public, sign) = key_pair(alg);
        let guard = guard(json!({"methods": [{"jwt": {"keys": [{"kid": "k", "alg": alg, "public_key": public}]}}]}));
        let make = |alg: &str, claims: &Value| {
            let signed = format!("{}.{}", base64url(format!(r#"{{"alg":"{alg}","kid":"k"}}"#)), base64url(claims.to_string()));
            format!("{signed}.{}", base64url(sign(signed.as_bytes())))
        };
        assert!(passes_as(&guard.check(&bearing(&make(alg, &good()))), "ann"), "{alg}");
        let other = make(alg, &with("sub", json!("root")));
        let mixed = format!("{}.{}", other.rsplit_once('.').unwrap().0, make(alg, &good()).rsplit_once('.').unwrap().1);
        assert_eq!(refused(guard.check(&bearing(&mixed))), (401, "the signature is wrong".into()), "{alg}");
        // The classic: the public key, which everybody knows, as the secret of an HMAC.
        for confused in [public.as_bytes(), public.trim().as_bytes()] {
            let forged = token_by(confused, r#"{"alg":"HS256","kid":"k"}"#, &good().to_string());
            assert_eq!(refused(guard.check(&bearing(&forged))), (401, "no key is known for this token".into()), "{alg}");
            let forged = token_by(confused, &format!(r#"{{"alg":"{alg}","kid":"k"}}"#), &good().to_string());
            assert_eq!(refused(guard.check(&bearing(&forged))), (401, "the signature is wrong".into()), "{alg}");
        }
    }
}

#[test]
fn a_kid_chooses_the_key_and_an_unknown_one_chooses_none() {
    let guard = guard(json!({"methods": [{"jwt": {"keys": [
        {"kid": "a", "alg": "HS256", "secret": SECRET}, {"kid": "b", "alg": "HS256", "secret": SECRET.to_uppercase()}
    ]}}]}));
    for (head, secret, good) in [
        (r#"{"alg":"HS256","kid":"a"}"#, SECRET.to_string(), true),
        (r#"{"alg":"HS256","kid":"b"}"#, SECRET.to_uppercase(), true),
        (r#"{"alg":"HS256"}"#, SECRET.to_uppercase(), true),
        (r#"{"alg":"HS256","kid":"b"}"#, SECRET.to_string(), false),
        (r#"{"alg":"HS256","kid":"c"}"#, SECRET.to_string(), false),
    ] {
        let decision = guard.check(&bearing(&token_by(secret.as_bytes(), head, &self::good().to_string())));
        assert_eq!(passes_as(&decision, "ann"), good, "{head}");
    }
}

#[test]
fn issuer_audience_and_scopes_are_held_to() {
    let guard = jwt(json!({"issuers": ["https://a"], "audiences": ["x", "y"], "scopes": ["read", "write"]}));
    let claims = |iss: Value, aud: Value, scope: Value| json!({"sub": "ann", "exp": NOW_S + 9, "iss": iss, "aud": aud, "scope": scope});
    for (claims, status) in [
        (claims(json!("https://a"), json!("x"), json!("read write more")), None),
        (claims(json!("https://a"), json!(["z", "y"]), json!(["write", "read"])), None),
        (claims(json!("https://a/"), json!("x"), json!("read write")), Some(401)),
        (claims(json!(["https://a"]), json!("x"), json!("read write")), Some(401)),
        (claims(json!("https://a"), json!("z"), json!("read write")), Some(401)),
        (claims(json!("https://a"), json!([]), json!("read write")), Some(401)),
        (claims(json!("https://a"), json!("x"), json!("read writer")), Some(403)),
        (claims(json!("https://a"), json!("x"), Value::Null), Some(403)),
    ] {
        let decision = guard.check(&bearing(&token(claims.clone())));
        match status {
            None => assert!(passes_as(&decision, "ann"), "{claims}"),
            Some(status) => assert_eq!(refused(decision).0, status, "{claims}"),
        }
    }
}

#[test]
fn claims_become_attributes_and_credentials_can_be_taken_off() {
    let guard = jwt(
        json!({"claims": {"tenant": "tid", "level": "lvl", "roles": "roles", "gone": "gone"}, "remove": true, "consumer_claim": "user"}),
    );
    let decision = guard.check(&bearing(&token(json!({"user": "ann", "exp": NOW_S + 9, "tid": "t1", "lvl": 3, "roles": ["a", "b"]}))));
    let attr = |name: &str, value: &str| Edit::Attr(name.into(), value.into());
    let Decision::Next(edits) = decision else { panic!("{decision:?}") };
    for wanted in
        [attr("consumer", "ann"), attr("tenant", "t1"), attr("level", "3"), attr("roles", "a,b"), Edit::Remove("authorization".into())]
    {
        assert!(edits.0.contains(&wanted), "{wanted:?} in {edits:?}");
    }
    assert_eq!(edits.0.len(), 5);
}

#[test]
fn what_could_not_stand_in_an_attribute_or_a_log_is_refused() {
    let guard = jwt(json!({"claims": {"tenant": "tid"}}));
    for claims in [
        json!({"sub": "a\r\nx: 1", "exp": NOW_S + 9}),
        json!({"sub": "", "exp": NOW_S + 9}),
        json!({"sub": null, "exp": NOW_S + 9}),
        json!({"sub": {"a": 1}, "exp": NOW_S + 9}),
        json!({"sub": "x".repeat(1025), "exp": NOW_S + 9}),
        json!({"sub": "ann", "exp": NOW_S + 9, "tid": "a\nb"}),
        json!({"sub": "ann", "exp": NOW_S + 9, "tid": "x".repeat(1025)}),
    ] {
        assert_eq!(refused(guard.check(&bearing(&token(claims.clone())))).0, 401, "{claims}");
    }
}

#[test]
fn malformed_tokens_are_refused_without_a_trap() {
    let guard = jwt(json!({}));
    let whole = token(good());
    let mut cases: Vec<String> = ["", ".", "..", "...", "a", "a.b", "a.b.c", "=.=.=", "ä.ö.ü"].map(String::from).to_vec();
    cases.extend((0..whole.len()).map(|end| whole[..end].to_string()));
    cases.push(format!("{whole}="));
    cases.push(format!("{whole}.x"));
    cases.push(format!("x.{whole}"));
    cases.push(format!("{whole}, Bearer {whole}"));
    cases.push("x".repeat(9000));
    for head in
        [r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, r#"{"alg":"HS256","alg":"HS256"}"#, "[]", "{}", "1", r#"{"alg":["HS256"]}"#]
    {
        cases.push(token_by(SECRET.as_bytes(), head, &good().to_string()));
    }
    for claims in [
        "[]",
        "null",
        r#"{"sub":"ann","exp":1e999}"#,
        r#"{"sub":"ann","sub":"root","exp":9999999999}"#,
        r#"{"sub":"ann","exp":1,"exp":9999999999}"#,
        r#"{"sub":"ann","exp":9999999999} "#,
        r#"{"sub":"ann","exp":9999999999}{}"#,
        &format!("{}{}", "[".repeat(200), "]".repeat(200)),
        &format!(r#"{{"a":{}{}}}"#, "[".repeat(3000), "]".repeat(3000)),
    ] {
        if claims != r#"{"sub":"ann","exp":9999999999} "# {
            cases.push(token_by(SECRET.as_bytes(), r#"{"alg":"HS256"}"#, claims));
        }
    }
    for case in cases {
        assert_eq!(refused(guard.check(&Ask::get("/").header("authorization", &format!("Bearer {case}")))).0, 401, "{case}");
    }
}

#[test]
fn a_remembered_token_costs_no_crypto_and_still_expires() {
    let guard = jwt(json!({}));
    let ask = bearing(&token(json!({"sub": "ann", "exp": NOW_S + 50})));
    assert!(passes_as(&guard.check(&ask), "ann"));
    let before = testing::host_calls();
    assert!(passes_as(&guard.check(&ask), "ann"));
    assert_eq!(testing::host_calls() - before, 1, "the clock");
    testing::set_now_ms((NOW_S + 50) * 1000);
    assert_eq!(refused(guard.check(&ask)), (401, "the token has expired".into()));
}

#[test]
fn a_forged_token_is_not_helped_by_a_remembered_one() {
    let guard = jwt(json!({}));
    let whole = token(good());
    assert!(passes_as(&guard.check(&bearing(&whole)), "ann"));
    let (_, signature) = whole.rsplit_once('.').unwrap();
    let forged =
        format!("{}.{}.{signature}", base64url(r#"{"alg":"HS256","typ":"JWT"}"#), base64url(with("sub", json!("root")).to_string()));
    assert_eq!(refused(guard.check(&bearing(&forged))), (401, "the signature is wrong".into()));
}

#[test]
fn the_memory_can_be_switched_off() {
    let guard = jwt(json!({"cache": {"entries": 0}}));
    let ask = bearing(&token(good()));
    for _ in 0..2 {
        let before = testing::host_calls();
        assert!(passes_as(&guard.check(&ask), "ann"));
        assert_eq!(testing::host_calls() - before, 2, "clock and signature");
    }
}

fn signed_token(uid: &str, expires_s: impl std::fmt::Display, secret: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("{expires_s}.{}", base64url(hmac::sign(&key, format!("{uid}.{expires_s}").as_bytes())))
}

fn uid(uid: &str, token: &str) -> Ask {
    Ask::get("/").header("uid", uid).header("token", token)
}

#[test]
fn a_signed_token_with_uid_is_good_until_it_or_its_record_ends() {
    let guard = guard(json!({"methods": [{"token": {"leeway_s": 5, "remove": true}}]}));
    testing::kv_set("token:7", json!({"secret": "s3cret", "expires_ms": (NOW_S + 100) * 1000}).to_string()).unwrap();
    let ask = uid("7", &signed_token("7", NOW_S + 60, "s3cret"));
    let Decision::Next(edits) = guard.check(&ask) else { panic!() };
    assert_eq!(edits.0, [Edit::Attr("consumer".into(), "7".into()), Edit::Remove("uid".into()), Edit::Remove("token".into())]);
    testing::set_now_ms((NOW_S + 65) * 1000 - 1);
    assert!(passes_as(&guard.check(&ask), "7"));
    testing::set_now_ms((NOW_S + 65) * 1000);
    assert_eq!(refused(guard.check(&ask)), (401, "the token has expired".into()));
    let long = uid("7", &signed_token("7", NOW_S + 6000, "s3cret"));
    assert!(passes_as(&guard.check(&long), "7"));
    testing::set_now_ms((NOW_S + 105) * 1000);
    assert_eq!(refused(guard.check(&long)).0, 401, "the record has ended");
}

#[test]
fn opaque_tokens_are_compared_by_their_hash() {
    let guard = guard(json!({"methods": [{"token": {}}]}));
    let sha256 = "62af8704764faf8ea82fc61ce9c4c3908b6cb97d463a634e9e587d7c885db0ef";
    testing::kv_set("token:7", json!({"sha256": sha256, "expires_ms": (NOW_S + 9) * 1000, "consumer": "ann"}).to_string()).unwrap();
    assert!(passes_as(&guard.check(&uid("7", "test-key")), "ann"));
    assert_eq!(refused(guard.check(&uid("7", "test-kez"))).0, 401);
    assert_eq!(refused(guard.check(&uid("7", sha256))).0, 401, "the hash is not the token");
}

#[test]
fn all_that_is_wrong_with_uid_and_token_sounds_the_same() {
    let guard = guard(json!({"methods": [{"token": {}}]}));
    testing::kv_set("token:7", json!({"secret": "s3cret", "expires_ms": (NOW_S + 100) * 1000}).to_string()).unwrap();
    testing::kv_set("token:8", json!({"secret": "", "expires_ms": (NOW_S + 100) * 1000}).to_string()).unwrap();
    testing::kv_set("token:9", json!({"secret": "s3cret", "expires_ms": NOW_S * 1000}).to_string()).unwrap();
    testing::kv_set("token:10", json!({"secret": "s3cret", "sha256": "00", "expires_ms": (NOW_S + 100) * 1000}).to_string()).unwrap();
    let ours = signed_token("7", NOW_S + 60, "s3cret");
    for (name, token) in [
        ("6", ours.clone()),
        ("8", signed_token("8", NOW_S + 60, "")),
        ("9", signed_token("9", NOW_S + 60, "s3cret")),
        ("10", signed_token("10", NOW_S + 60, "s3cret")),
        ("7", signed_token("8", NOW_S + 60, "s3cret")),
        ("7", signed_token("7", NOW_S + 60, "other")),
        ("7", signed_token("7", format!("0{}", NOW_S + 60), "s3cret")),
        ("7", signed_token("7", format!("+{}", NOW_S + 60), "s3cret")),
        ("7", format!("{}.{}", NOW_S + 61, ours.split_once('.').unwrap().1)),
        ("7", "1.x".into()),
        ("7", ".".into()),
        ("7", String::new()),
        ("7 ", ours.clone()),
        ("", ours.clone()),
        (&"7".repeat(300), ours.clone()),
        ("7", "x".repeat(2000)),
    ] {
        assert_eq!(refused(guard.check(&uid(name, &token))), (401, "uid and token do not fit".into()), "{name} {token}");
    }
    assert_eq!(refused(guard.check(&Ask::get("/").header("uid", "7"))).0, 401);
    assert_eq!(refused(guard.check(&Ask::get("/").header("token", &ours))).0, 401);
}

#[test]
fn without_the_store_nobody_is_let_in_and_nobody_is_called_a_liar() {
    let guard = guard(json!({"methods": [{"token": {}}, {"api_key": {"header": "x-api-key", "kv_prefix": "k:"}}], "anonymous": "guest"}));
    testing::kv_down(true);
    assert_eq!(refused(guard.check(&uid("7", "x"))).0, 503);
    assert_eq!(refused(guard.check(&Ask::get("/").header("x-api-key", "x"))).0, 503);
    testing::kv_down(false);
    testing::kv_set("token:7", "no json").unwrap();
    assert_eq!(refused(guard.check(&uid("7", "x"))).0, 503);
    assert_eq!(testing::lines().len(), 1, "the operator is told");
}

#[test]
fn api_keys_come_by_field_or_query_from_list_or_store() {
    let sha256 = "62AF8704764FAF8EA82FC61CE9C4C3908B6CB97D463A634E9E587D7C885DB0EF";
    let guard = guard(
        json!({"methods": [{"api_key": {"header": "X-Api-Key", "query": "key", "keys": [{"sha256": sha256, "consumer": "acme"}], "kv_prefix": "k:", "remove": true}}]}),
    );
    let stored = crate::api_key::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"other/key").as_ref());
    testing::kv_set(&format!("k:{stored}"), json!({"consumer": "bob", "expires_ms": (NOW_S + 1) * 1000}).to_string()).unwrap();
    let keyed = |key: &str| Ask::get("/").header("x-api-key", key);
    let Decision::Next(edits) = guard.check(&keyed("test-key")) else { panic!() };
    assert_eq!(edits.0, [Edit::Attr("consumer".into(), "acme".into()), Edit::Remove("x-api-key".into())]);
    for (ask, consumer) in [
        (Ask::get("/?a=1&key=test%2Dkey&key=x"), "acme"),
        (keyed("other/key"), "bob"),
        (Ask::get("/?key=other%2fkey"), "bob"),
        (keyed("other/key").header("x", "y"), "bob"),
    ] {
        assert!(passes_as(&guard.check(&ask), consumer), "{ask:?}");
    }
    for ask in [
        keyed(""),
        keyed("test-ke"),
        keyed(sha256),
        keyed(&"x".repeat(5000)),
        Ask::get("/?key=%zz"),
        Ask::get("/?key="),
        keyed("x").header("x-api-key", "test-key"),
    ] {
        assert_eq!(refused(guard.check(&ask)).0, 401, "{ask:?}");
    }
    testing::set_now_ms((NOW_S + 1) * 1000);
    assert_eq!(refused(guard.check(&keyed("other/key"))), (401, "the key has expired".into()));
}

#[test]
fn a_key_in_the_query_that_cannot_be_read_is_wrong_and_not_absent() {
    let guard = guard(json!({"methods": [{"api_key": {"header": "x-api-key", "query": "key", "kv_prefix": "k:"}}], "anonymous": "guest"}));
    for query in ["key=%zz", "key=%ff", "key=%f", "key=%", "key=%c3", "a=b&key=%+1", "key=%zz&key=x", "key="] {
        assert_eq!(refused(guard.check(&Ask::get(&format!("/?{query}")))), (401, "the key is unknown".into()), "{query}");
    }
    for query in ["other=%zz", "key2=x", "a=b"] {
        assert!(passes_as(&guard.check(&Ask::get(&format!("/?{query}"))), "guest"), "{query}");
    }
}

#[test]
fn a_wrong_credential_is_not_rescued_by_a_later_method() {
    let guard = guard(json!({"methods": [
        {"jwt": {"keys": [{"alg": "HS256", "secret": SECRET}]}},
        {"api_key": {"header": "x-api-key", "keys": [{"sha256": "62af8704764faf8ea82fc61ce9c4c3908b6cb97d463a634e9e587d7c885db0ef", "consumer": "acme"}]}}
    ], "anonymous": "guest"}));
    assert_eq!(refused(guard.check(&bearing("x.y.z").header("x-api-key", "test-key"))).0, 401);
    assert!(passes_as(&guard.check(&Ask::get("/").header("x-api-key", "test-key")), "acme"));
    assert!(passes_as(&guard.check(&Ask::get("/").header("authorization", "Basic YTpi")), "guest"));
    assert!(passes_as(&guard.check(&Ask::get("/")), "guest"));
}

#[test]
fn known_consumers_that_are_not_listed_get_403() {
    let guard =
        guard(json!({"methods": [{"jwt": {"keys": [{"alg": "HS256", "secret": SECRET}]}}], "consumers": ["ann"], "anonymous": "guest"}));
    assert!(passes_as(&guard.check(&bearing(&token(good()))), "ann"));
    assert_eq!(refused(guard.check(&bearing(&token(with("sub", json!("bob")))))).0, 403);
    assert_eq!(refused(guard.check(&Ask::get("/"))).0, 401, "a guest who is not listed is asked who it is");
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    let key = |key: Value| json!({"methods": [{"jwt": {"keys": [key]}}]});
    let api_key = |settings: Value| json!({"methods": [{"api_key": settings}]});
    let (rsa, _) = key_pair("RS256");
    for (config, place) in [
        (json!({"methods": []}), "`methods` is empty"),
        (json!({"methods": [{"jwt": {"keys": []}}]}), "methods[0].jwt.keys"),
        (key(json!({"alg": "none"})), "none"),
        (key(json!({"alg": "HS256", "secret": "short"})), "at least 32"),
        (key(json!({"alg": "HS256", "public_key": rsa})), "needs `secret`"),
        (key(json!({"alg": "RS256", "secret": SECRET})), "needs `public_key`"),
        (key(json!({"alg": "RS256", "public_key": "nonsense"})), "methods[0].jwt.keys[0].public_key"),
        (key(json!({"alg": "ES256", "public_key": rsa})), "methods[0].jwt.keys[0].public_key"),
        (key(json!({"alg": "HS256", "secret_base64": "!"})), "no base64"),
        (json!({"methods": [{"jwt": {"keys": [{"alg": "HS256", "secret": SECRET}], "header": "host"}}]}), "methods[0].jwt.header"),
        (json!({"methods": [{"jwt": {"keys": [{"alg": "HS256", "secret": SECRET}], "claims": {"consumer": "x"}}}]}), "claims"),
        (api_key(json!({"kv_prefix": "k"})), "looks nowhere"),
        (api_key(json!({"header": "x"})), "knows no keys"),
        (api_key(json!({"header": "x", "keys": [{"sha256": "abc", "consumer": "a"}]})), "64 hexadecimal"),
        (json!({"methods": [{"token": {}}], "realm": "a\"b"}), "realm"),
        (json!({"methods": [{"token": {}}], "consumers": ["a\nb"]}), "no name"),
        (json!({"method": []}), "unknown field"),
    ] {
        let why = testing::configure::<Guard>(&config.to_string()).unwrap_err();
        assert!(why.contains(place), "{config}: {why}");
    }
}
