//! The well-behaved guest of the micro-bench: an auth rule with one native signature check, a route table, a filter
//! that sets one header. What a rule costs at least.

wit_bindgen::generate!({
    path: "../../../../../wit",
    inline: "
        package wharf:bench@0.1.0;
        world quick {
            include wharf:plugin/auth@0.1.0;
            include wharf:plugin/route@0.1.0;
            include wharf:plugin/filter@0.1.0;
        }
    ",
    world: "wharf:bench/quick",
    generate_all,
});

use exports::wharf::lifecycle::lifecycle::{Guest as Lifecycle, Needs, Phases};
use wharf::host::crypto::{SignatureAlgorithm, verify};
use wharf::types::types::{Decision, Edit, Fact, Reply, RequestHead, ResponseHead};

struct Quick;

const SECRET: &[u8] = b"a secret of thirty-two bytes ...";

impl Lifecycle for Quick {
    fn schema() -> String {
        String::new()
    }

    /// The configuration is the role: each asks for what it needs and no more.
    fn configure(config: String) -> Result<Needs, String> {
        let request = match config.as_str() {
            "\"auth\"" => vec![Fact::Header("authorization".into())],
            "\"filter\"" => vec![Fact::Attr("consumer".into())],
            _ => vec![Fact::Path],
        };
        Ok(Needs { request, response: Vec::new(), phases: Phases::REQUEST })
    }
}

impl exports::wharf::auth::auth::Guest for Quick {
    fn check(request: RequestHead) -> Decision {
        let refused = || Decision::Reply(Reply { status: 401, headers: Vec::new(), body: Vec::new() });
        let Some(Some(token)) = request.facts.first() else { return refused() };
        let Some(token) = token.strip_prefix("Bearer ") else { return refused() };
        let Some((signed, signature)) = token.rsplit_once('.') else { return refused() };
        let mut tag = [0u8; 32];
        for (place, pair) in tag.iter_mut().zip(signature.as_bytes().chunks(2)) {
            let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
            *place = digit(pair[0]) << 4 | pair.get(1).map_or(0, |&low| digit(low));
        }
        match verify(SignatureAlgorithm::Hs256, SECRET, signed.as_bytes(), &tag) {
            Ok(true) => Decision::Next(vec![Edit::Attr(("consumer".into(), "me".into()))]),
            _ => refused(),
        }
    }
}

impl exports::wharf::route::route::Guest for Quick {
    fn pick(request: RequestHead) -> Option<exports::wharf::route::route::Target> {
        let service = match request.facts.first()?.as_ref()?.split('/').nth(1) {
            Some("orders") => "orders",
            Some("users") => "users",
            _ => return None,
        };
        Some(exports::wharf::route::route::Target { service: service.into(), subset: None, path: None })
    }
}

impl exports::wharf::filter::filter::Guest for Quick {
    fn on_request(request: RequestHead) -> Decision {
        let consumer = request.facts.into_iter().flatten().next().unwrap_or_default();
        Decision::Next(vec![Edit::Set(("x-consumer".into(), consumer))])
    }

    fn on_response(_response: ResponseHead) -> Vec<Edit> {
        Vec::new()
    }
}

export!(Quick);
