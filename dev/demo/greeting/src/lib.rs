//! Greets in every answer. `make run` builds it twice, with two greetings, so that there is a version to push.

use wharf_plugin::prelude::*;

const GREETING: &str = match option_env!("GREETING") {
    Some(greeting) => greeting,
    None => "hello",
};

#[derive(Default)]
struct Greeting;

impl Filter for Greeting {
    fn on_response(&self, _response: &Response) -> Edits {
        Edits::none().set("x-greeting", GREETING)
    }
}

wharf_plugin::export_filter!(Greeting);
