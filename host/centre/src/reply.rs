//! The one place in this room that knows status codes: every no as `{"error":{"kind","message","hint"}}`.

use crate::guard::Stranger;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use serde_json::json;
use wharf_core::desk::{DeskError, DeskErrorKind};

/// A no on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct No {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl No {
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> No {
        No { status, kind, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> No {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut error = json!({"kind": self.kind, "message": self.message});
        if let (Some(hint), Some(error)) = (self.hint, error.as_object_mut()) {
            error.insert("hint".to_owned(), hint.into());
        }
        let mut response = json_text(self.status, json!({ "error": error }).to_string());
        match self.status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"wharf\""));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<DeskError> for No {
    fn from(error: DeskError) -> No {
        let (status, kind) = match error.kind {
            DeskErrorKind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
            DeskErrorKind::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            DeskErrorKind::Conflict => (StatusCode::CONFLICT, "conflict"),
            DeskErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            DeskErrorKind::Refused => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            DeskErrorKind::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            DeskErrorKind::Storage => (StatusCode::INSUFFICIENT_STORAGE, "storage"),
            DeskErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        No { status, kind, message: error.message, hint: error.hint }
    }
}

impl From<Stranger> for No {
    fn from(stranger: Stranger) -> No {
        match stranger {
            Stranger::HostMalformed => No::new(StatusCode::BAD_REQUEST, "host", "the request needs exactly one valid Host field"),
            Stranger::HostUnknown => No::new(StatusCode::MISDIRECTED_REQUEST, "host", "the admin listener does not answer to this Host")
                .hint("address it as localhost, or name the host it is reached by in `admin.advertise`"),
            Stranger::CrossOrigin => {
                No::new(StatusCode::FORBIDDEN, "origin", "the admin listener takes no requests from pages of other origins")
            }
            Stranger::NoToken => No::new(StatusCode::UNAUTHORIZED, "token", "this operation needs the admin token")
                .hint("send `Authorization: Bearer TOKEN` with the text of the admin token file"),
            Stranger::WrongToken => No::new(StatusCode::UNAUTHORIZED, "token", "this is not the admin token")
                .hint("send the text of the token file that this gateway printed at its start"),
        }
    }
}

/// JSON that is already text.
pub(crate) fn json_text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    typed(status, "application/json", text)
}

pub(crate) fn typed(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
