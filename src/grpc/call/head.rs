//! The head of a request: what of it is kept for another attempt; and what a response's head says of who has answered.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};

/// What it takes to send the head of a request again. Most have no more than `te`, `content-type` and a deadline: these are kept
/// in place, so that a call which is sent once, as nearly all are, allocates nothing for the others. Extensions end here; no
/// server sees them.
pub(super) struct KeptHead {
    method: Method,
    few: [Option<(HeaderName, HeaderValue)>; FEW_HEADERS],
    /// All of them, if they are not few.
    many: Option<HeaderMap>,
}

const FEW_HEADERS: usize = 3;

impl KeptHead {
    pub(super) fn new(head: &Parts) -> Self {
        let mut kept = KeptHead { method: head.method.clone(), few: Default::default(), many: None };
        if head.headers.len() > FEW_HEADERS {
            kept.many = Some(head.headers.clone());
            return kept;
        }
        for (place, (name, value)) in kept.few.iter_mut().zip(&head.headers) {
            *place = Some((name.clone(), value.clone()));
        }
        kept
    }

    /// With its method and headers; whither, says the next attempt.
    #[cold]
    pub(super) fn again(&self) -> Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method.clone();
        match &self.many {
            Some(many) => head.headers = many.clone(),
            None => self.few.iter().flatten().for_each(|(name, value)| {
                head.headers.append(name, value.clone());
            }),
        }
        head
    }
}

/// Whether this is no response of a gRPC server but, say, a proxy's page about a server that it cannot reach. Without its text,
/// which tonic would take for a broken message, tonic maps the HTTP status as gRPC prescribes ("HTTP to gRPC Status Code
/// Mapping").
pub(super) fn is_plain_http<B>(response: &Response<B>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    response.status() != StatusCode::OK
        && !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
