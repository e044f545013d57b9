//! The form of a line of text in the access log: text with the names of fields in braces. Read once, when the configuration
//! is checked; written for each record by `telemetry/text.rs`. Pure.

use super::tree::nearest_or_all;

/// Close to the combined format that every reader of web servers' logs knows, with times and names behind it.
pub const DEFAULT: &str = r#"{client} - {consumer} [{clf_time}] "{method} {uri} {protocol}" {status} {bytes_out} "{request.referer}" "{user_agent}" {duration_ms} {route} {endpoint} {tries} {fault} {ctxID}"#;

/// Longest template.
const TEMPLATE_BYTES_MAX: usize = 4096;

/// See the head of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is what it is")]
pub enum Piece {
    Text(Box<str>),
    Field(Field),
    RequestHeader(Box<str>),
    ResponseHeader(Box<str>),
}

macro_rules! fields {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A field of a record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each name is the field")]
        pub enum Field { $($variant),* }

        impl Field {
            /// All names, as they stand in braces.
            const NAMES: &[&str] = &[$($name),*];

            fn of(name: &str) -> Option<Field> {
                match name {
                    $($name => Some(Field::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    AnsweredBy = "answered_by",
    Authority = "authority",
    BytesIn = "bytes_in",
    BytesOut = "bytes_out",
    ClfTime = "clf_time",
    Client = "client",
    Consumer = "consumer",
    CtxId = "ctxID",
    DurationMs = "duration_ms",
    DurationUs = "duration_us",
    Endpoint = "endpoint",
    Fault = "fault",
    Id = "id",
    Listener = "listener",
    Method = "method",
    Path = "path",
    Protocol = "protocol",
    Query = "query",
    Record = "record",
    Route = "route",
    Status = "status",
    Time = "time",
    TraceId = "trace_id",
    Tries = "tries",
    UpstreamMs = "upstream_ms",
    UpstreamUs = "upstream_us",
    Uri = "uri",
    UserAgent = "user_agent",
}

impl Default for Template {
    fn default() -> Template {
        Template::read(DEFAULT).unwrap_or(Template(Vec::new()))
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn read(text: &str) -> Result<Template, (String, String)> {
        let wrong = |message: String, hint: &str| Err((message, hint.to_owned()));
        if text.len() > TEMPLATE_BYTES_MAX || text.contains(char::is_control) {
            return wrong(format!("a template is one line of at most {TEMPLATE_BYTES_MAX} bytes"), "leave line ends out");
        }
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            plain.push_str(before);
            if let Some(behind) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
                plain.push_str(from.get(..1).unwrap_or_default());
                rest = behind;
                continue;
            }
            let Some((name, behind)) = from.strip_prefix('{').and_then(|from| from.split_once('}')) else {
                return wrong(format!("`{from}` is a brace without its other half"), "a brace of the text itself is written twice: `{{`");
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(Template::field(name)?);
            rest = behind;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        if !pieces.iter().any(|piece| !matches!(piece, Piece::Text(_))) {
            return wrong("the template names no field, so every line would be the same".into(), "write `{time} {method} {uri} {status}`");
        }
        Ok(Template(pieces))
    }

    fn field(name: &str) -> Result<Piece, (String, String)> {
        let header = |kind: &str| name.strip_prefix(kind).map(str::to_ascii_lowercase);
        let is_name = |name: &String| wharf_core::edit::is_field_name(name.as_bytes());
        if let Some(name) = header("request.").filter(is_name) {
            return Ok(Piece::RequestHeader(name.into()));
        }
        if let Some(name) = header("response.").filter(is_name) {
            return Ok(Piece::ResponseHeader(name.into()));
        }
        Field::of(name).map(Piece::Field).ok_or_else(|| {
            let hint = nearest_or_all(name, Field::NAMES);
            (format!("`{{{name}}}` is no field of a record"), format!("{hint} (for headers `{{request.NAME}}`, `{{response.NAME}}`)"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_with_a_mistake_is_told_what_is_wrong_with_it() {
        for (text, told) in [
            ("{status", "`{status` is a brace without its other half"),
            ("status}", "`}` is a brace without its other half"),
            ("{statuss}", "`{statuss}` is no field of a record"),
            ("{request.}", "`{request.}` is no field of a record"),
            ("{request.a b}", "`{request.a b}` is no field of a record"),
            ("all the same {{}}", "the template names no field, so every line would be the same"),
            ("{status}\n", "a template is one line of at most 4096 bytes"),
        ] {
            assert_eq!(Template::read(text).unwrap_err().0, told, "{text}");
        }
        assert!(Template::read("{statuss}").unwrap_err().1.contains("`status`"));
        assert_eq!(Template::read(DEFAULT).unwrap(), Template::default());
    }
}
