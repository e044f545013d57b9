//! What Envoy runs for each request: looks a bearer token up in a table and names its consumer. Configuration `empty`:
//! attached, but asks for nothing, which is what the filter chain itself costs.
//!
//! Deliberately less than the plugins it is compared with: it checks no signature.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use std::collections::HashMap;
use std::rc::Rc;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    consumers: Rc<HashMap<String, String>>,
    empty: bool,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.empty = self.get_plugin_configuration().is_some_and(|bytes| bytes == b"empty");
        self.consumers = Rc::new((0..16).map(|n| (format!("tok-{n:04}"), format!("user-{n}"))).collect());
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        if self.empty { Some(Box::new(Empty)) } else { Some(Box::new(Check { consumers: self.consumers.clone() })) }
    }
}

struct Empty;
impl Context for Empty {}
impl HttpContext for Empty {}

struct Check {
    consumers: Rc<HashMap<String, String>>,
}

impl Context for Check {}

impl HttpContext for Check {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        let presented = self.get_http_request_header("x-token");
        match presented.and_then(|token| self.consumers.get(&token)) {
            Some(consumer) => {
                self.set_http_request_header("x-consumer", Some(consumer));
                Action::Continue
            }
            None => {
                self.send_http_response(401, vec![], None);
                Action::Pause
            }
        }
    }
}
