//! A call's deadline: the `grpc-timeout` header, on the way in and on the way out.

use std::pin::Pin;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::grpc::error::{CallPhase, Error};
use crate::grpc::runtime;

/// When a call must be over, and what its caller allowed.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    timeout: Duration,
}

impl Deadline {
    /// From now on. None without a timeout, or for one beyond what the clock can count, which never passes.
    pub(super) fn after(timeout: Option<Duration>) -> Result<Option<Self>, Error> {
        let Some(timeout) = timeout else { return Ok(None) };
        // A clock needs a runtime, and one with timers.
        let _ = runtime::current()?;
        Ok(Instant::now().checked_add(timeout).map(|at| Deadline { at, timeout }))
    }

    /// The one that passes first.
    pub(super) fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(if other.at < one.at { other } else { one }),
            (one, other) => one.or(other),
        }
    }

    pub(super) fn has_passed(&self) -> bool {
        self.at <= Instant::now()
    }

    /// The server's clock begins when it has the request, ours has begun before.
    pub(super) fn tell_what_is_left(&self, headers: &mut HeaderMap) {
        let left = self.at.saturating_duration_since(Instant::now());
        // Most calls do not wait at all.
        if left + WORTH_TELLING < self.timeout {
            set_grpc_timeout(headers, left);
        }
    }

    pub(super) fn passed(&self, phase: CallPhase) -> Error {
        Error::DeadlineExceeded { phase, timeout: self.timeout }
    }
}

/// How long a call must have waited before the timeout that the server gets is shortened.
const WORTH_TELLING: Duration = Duration::from_millis(1);

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

pub(super) fn set_grpc_timeout(headers: &mut HeaderMap, timeout: Duration) {
    if let Ok(value) = HeaderValue::try_from(timeout_text(timeout)) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

/// As a header: at most eight digits. Rounded up, so that the caller's clock is the first to end.
fn timeout_text(left: Duration) -> String {
    match left.as_micros().div_ceil(1_000) {
        millis @ ..=99_999_999 => format!("{}m", millis.max(1)),
        millis => format!("{}S", millis.div_ceil(1_000).min(99_999_999)),
    }
}

/// What `wait` comes to, if it does by then.
pub(super) async fn within<T>(
    deadline: Option<Deadline>,
    phase: CallPhase,
    wait: Pin<&mut (impl Future<Output = T> + Send)>,
) -> Result<T, Error> {
    match deadline {
        None => Ok(wait.await),
        // Another executor may have taken the call over.
        Some(_) if Handle::try_current().is_err() => Err(Error::NoRuntime),
        Some(deadline) => timeout_at(deadline.at, wait).await.map_err(|_| deadline.passed(phase)),
    }
}

/// The `grpc-timeout` header: at most eight digits and a unit. One that is malformed is no deadline, as in tonic.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_of_every_unit_are_read_and_malformed_ones_are_no_deadline() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        for bad in ["", "S", "1", "1x", "-1S", "+1S", "123456789S", "1.5S", " 1S"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_told_what_is_left_of_a_deadline_when_the_call_has_waited() {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("10S"));
        let deadline = Deadline::after(grpc_timeout(&headers)).unwrap().unwrap();
        let told = |headers: &mut HeaderMap| {
            deadline.tell_what_is_left(headers);
            headers[GRPC_TIMEOUT].to_str().unwrap().to_owned()
        };
        assert_eq!(told(&mut headers), "10S");
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(told(&mut headers), "3000m");
        assert!(!deadline.has_passed());
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(deadline.has_passed());
        assert_eq!(told(&mut headers), "1m", "0 would be none");
        assert_eq!(timeout_text(Duration::from_micros(1_001)), "2m");
        assert_eq!(timeout_text(Duration::from_millis(99_999_999)), "99999999m");
        assert_eq!(timeout_text(Duration::from_secs(200_000)), "200000S");
        assert_eq!(timeout_text(Duration::MAX), "99999999S");
    }
}
