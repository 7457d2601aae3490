//! The head of a request: what of it is kept for another attempt; and whether a response's head is that of a gRPC server.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use tonic::Code;

use crate::grpc::error::Error;
use crate::grpc::metadata::{remove_status, sanitize};

/// What it takes to send the head of a request again. Most have no more than `te`, `content-type` and a deadline: these are kept
/// in place, so that a call which is sent once, as nearly all are, allocates nothing for the others. Extensions end here; no
/// server sees them.
#[derive(Clone)]
pub(super) struct KeptHead {
    method: Method,
    few: [Option<(HeaderName, HeaderValue)>; FEW_HEADERS],
    /// All of them, if they are not few.
    many: Option<Box<HeaderMap>>,
}

const FEW_HEADERS: usize = 3;

impl KeptHead {
    pub(super) fn new(head: &Parts) -> Self {
        let mut kept = KeptHead { method: head.method.clone(), few: Default::default(), many: None };
        if head.headers.len() > FEW_HEADERS {
            kept.many = Some(Box::new(head.headers.clone()));
            return kept;
        }
        for (place, (name, value)) in kept.few.iter_mut().zip(&head.headers) {
            *place = Some((name.clone(), value.clone()));
        }
        kept
    }

    /// With its method and headers; the next attempt sets the URI.
    #[cold]
    pub(super) fn again(&self) -> Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method.clone();
        match &self.many {
            Some(many) => head.headers = HeaderMap::clone(many),
            None => self.few.iter().flatten().for_each(|(name, value)| {
                head.headers.append(name, value.clone());
            }),
        }
        head
    }
}

/// Who has answered.
pub(super) enum ResponseKind {
    /// A gRPC server. Its status is in the trailers, or in the head if there is nothing else.
    Grpc,
    /// Something else that speaks HTTP: a proxy with a page about a server that it cannot reach, or a web server.
    Other(Error),
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Reads a response's head, and leaves in it what tonic may see: of a status only one that ends the call, and only what can be
/// decoded.
pub(super) fn kind_of<B: Body>(response: &mut Response<B>) -> ResponseKind {
    let content_type = response.headers().get(CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|kind| is_grpc(kind.as_bytes()));
    let ends = response.body().is_end_stream();
    // A head that ends its stream and has a status is an answer, whatever else it lacks.
    let is_answer = ends && response.headers().contains_key(STATUS);
    if !is_grpc && !is_answer {
        let content_type = content_type.map(|kind| kind.as_bytes().escape_ascii().to_string());
        let status = response.status().as_u16();
        return ResponseKind::Other(Error::NotGrpc { status, content_type });
    }
    let headers = response.headers_mut();
    if ends {
        sanitize(headers);
    } else {
        // What follows may end in another status, which is the one that counts.
        remove_status(headers);
    }
    ResponseKind::Grpc
}

/// The status in trailers, or in a head that is all; UNKNOWN if there is none, as tonic has it.
pub(super) fn status_code(fields: &HeaderMap) -> Code {
    fields.get(STATUS).map_or(Code::Unknown, |status| Code::from_bytes(status.as_bytes()))
}

/// `application/grpc`, alone or with a format or parameters behind it; not `application/grpc-web`, which is another protocol.
fn is_grpc(content_type: &[u8]) -> bool {
    let (name, rest) = content_type.split_at_checked(b"application/grpc".len()).unwrap_or_default();
    name.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc ; charset=utf-8", true),
            ("Application/GRPC", true),
            ("application/grpc-web", false),
            ("application/grpcish", false),
            ("application/grp", false),
            ("text/html", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(kind.as_bytes()), grpc, "{kind:?}");
        }
    }

    #[test]
    fn a_head_is_sent_again_with_all_values_of_all_its_headers_few_or_many() {
        for count in [0, 1, FEW_HEADERS, FEW_HEADERS + 1, 20] {
            let (mut head, ()) = Request::post("http://a/b").body(()).unwrap().into_parts();
            for i in 0..count {
                // In pairs of the same name.
                let name = HeaderName::try_from(format!("x-{}", i / 2)).unwrap();
                head.headers.append(name, HeaderValue::from(i));
            }
            let again = KeptHead::new(&head).again();
            assert_eq!(again.method, Method::POST);
            assert_eq!(again.headers, head.headers);
        }
    }
}
