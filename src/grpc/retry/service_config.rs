//! gRPC's service config in JSON: `methodConfig`, `retryThrottling` and `healthCheckConfig`.
//!
//! Another field is an error and not ignored: a program that names a balancing policy or a message limit means it.

use std::time::Duration;

use serde_json::{Map, Value};
use tonic::Code;

use super::RetryOptions;
use super::policy::{CallPolicy, HedgingPolicy, RetryPolicy};
use super::throttle::Throttling;
use crate::grpc::error::Error;
use crate::primitive::Arc;

/// What is read from a service config.
#[derive(Debug)]
pub(crate) struct ServiceConfig {
    /// The service whose health is asked about.
    pub(crate) health_check: Option<String>,
}

type Read<T> = Result<T, String>;

/// Reads `json` into `options`. A method that is in both has what the JSON says.
pub(crate) fn read(json: &str, options: &mut RetryOptions) -> Result<ServiceConfig, Error> {
    parse(json, options).map_err(|what| Error::config("service_config", what))
}

fn parse(json: &str, options: &mut RetryOptions) -> Read<ServiceConfig> {
    let value: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let fields = Fields::new("", &value)?;
    fields.only(&["methodConfig", "retryThrottling", "healthCheckConfig"])?;
    for (index, method) in fields.list("methodConfig")?.iter().enumerate() {
        read_method(&Fields::new(&format!("methodConfig[{index}]"), method)?, options)?;
    }
    if let Some(throttling) = fields.object("retryThrottling")? {
        throttling.only(&["maxTokens", "tokenRatio"])?;
        let read = Throttling {
            max_tokens: throttling.integer("maxTokens")?,
            token_ratio: throttling.number("tokenRatio")?,
        };
        read.check().map_err(|error| throttling.wrong_by(&error))?;
        options.throttling = Some(read);
    }
    let health_check = match fields.object("healthCheckConfig")? {
        None => None,
        Some(health) => {
            health.only(&["serviceName"])?;
            health.text("serviceName")?
        }
    };
    Ok(ServiceConfig { health_check })
}

fn read_method(method: &Fields<'_>, options: &mut RetryOptions) -> Read<()> {
    method.only(&["name", "waitForReady", "timeout", "retryPolicy", "hedgingPolicy"])?;
    let policy = match (method.object("retryPolicy")?, method.object("hedgingPolicy")?) {
        (Some(_), Some(_)) => return Err(method.wrong("it has a `retryPolicy` and a `hedgingPolicy`")),
        (Some(retry), None) => Some(read_retry(&retry)?),
        (None, Some(hedging)) => Some(read_hedging(&hedging)?),
        (None, None) => None,
    };
    let wait_for_ready = method.boolean("waitForReady")?;
    let timeout = method.duration("timeout")?;
    let names = method.list("name")?;
    if names.is_empty() {
        return Err(method.wrong("`name` is empty"));
    }
    for name in names {
        let name = Fields::new(&method.path_of("name"), name)?;
        name.only(&["service", "method"])?;
        let service = name.text("service")?.filter(|text| !text.is_empty());
        let pattern = match (service, name.text("method")?.filter(|text| !text.is_empty())) {
            (None, None) => String::new(),
            (Some(service), None) => service,
            (Some(service), Some(method)) => format!("{service}/{method}"),
            (None, Some(_)) => return Err(name.wrong("it has a `method` and no `service`")),
        };
        let entry = options.methods.entry(pattern);
        entry.policy = policy.clone().map(Arc::new);
        entry.wait_for_ready = wait_for_ready;
        entry.timeout = timeout;
    }
    Ok(())
}

fn read_retry(fields: &Fields<'_>) -> Read<CallPolicy> {
    const ALL: [&str; 5] =
        ["maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes"];
    fields.only(&ALL)?;
    let required = |name| fields.duration(name)?.ok_or_else(|| fields.missing(name));
    let policy = RetryPolicy::new(fields.codes("retryableStatusCodes")?)
        .max_attempts(fields.integer("maxAttempts")?)
        .initial_backoff(required("initialBackoff")?)
        .max_backoff(required("maxBackoff")?)
        .backoff_multiplier(fields.number("backoffMultiplier")?);
    checked(fields, policy.into())
}

fn read_hedging(fields: &Fields<'_>) -> Read<CallPolicy> {
    fields.only(&["maxAttempts", "hedgingDelay", "nonFatalStatusCodes"])?;
    let policy = HedgingPolicy::new(fields.integer("maxAttempts")?)
        .delay(fields.duration("hedgingDelay")?.unwrap_or_default())
        .non_fatal(fields.codes("nonFatalStatusCodes")?);
    checked(fields, policy.into())
}

fn checked(fields: &Fields<'_>, policy: CallPolicy) -> Read<CallPolicy> {
    policy.check().map(|()| policy).map_err(|error| fields.wrong_by(&error))
}

/// A JSON object, and where it is, for errors.
struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn new(path: &str, value: &'a Value) -> Read<Self> {
        match value.as_object() {
            Some(map) => Ok(Fields { path: path.to_owned(), map }),
            None if path.is_empty() => Err("it is not an object".to_owned()),
            None => Err(format!("{path}: it is not an object")),
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn wrong(&self, what: &str) -> String {
        format!("{}: {what}", self.path)
    }

    fn wrong_by(&self, error: &Error) -> String {
        let source = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        self.wrong(&source)
    }

    fn missing(&self, name: &str) -> String {
        format!("{}: it is missing", self.path_of(name))
    }

    /// No other fields than these.
    fn only(&self, names: &[&str]) -> Read<()> {
        match self.map.keys().find(|name| !names.contains(&name.as_str())) {
            None => Ok(()),
            Some(other) => Err(format!("{}: it is not supported", self.path_of(other))),
        }
    }

    /// The field; `None` if it is absent or null, which is the same in protobuf's JSON.
    fn get<T>(&self, name: &str, form: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Read<Option<T>> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(format!("{}: it is not {form}", self.path_of(name))),
            },
        }
    }

    fn list(&self, name: &str) -> Read<&'a [Value]> {
        Ok(self.get(name, "a list", |value| value.as_array())?.map_or(&[], Vec::as_slice))
    }

    fn object(&self, name: &str) -> Read<Option<Fields<'a>>> {
        self.get(name, "an object", Some)?.map(|value| Fields::new(&self.path_of(name), value)).transpose()
    }

    fn text(&self, name: &str) -> Read<Option<String>> {
        self.get(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn boolean(&self, name: &str) -> Read<Option<bool>> {
        self.get(name, "a boolean", Value::as_bool)
    }

    fn integer(&self, name: &str) -> Read<u32> {
        let integer = |value: &Value| {
            let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
            (0.0..=f64::from(u32::MAX)).contains(&number).then_some(number as u32)
        };
        self.get(name, "an integer of 32 bits", integer)?.ok_or_else(|| self.missing(name))
    }

    fn number(&self, name: &str) -> Read<f64> {
        self.get(name, "a number", Value::as_f64)?.ok_or_else(|| self.missing(name))
    }

    /// Protobuf's form: seconds with up to nine decimals and an `s`.
    fn duration(&self, name: &str) -> Read<Option<Duration>> {
        self.get(name, "a duration such as \"0.1s\"", |value| duration(value.as_str()?))
    }

    /// By number, or by name in any case.
    fn codes(&self, name: &str) -> Read<Vec<Code>> {
        let read = |value: &Value| match value {
            Value::Number(number) => {
                let number = number.as_u64().filter(|number| *number <= 16)?;
                Some(Code::from_i32(number as i32))
            }
            Value::String(text) => code(text),
            _ => None,
        };
        let codes = self.list(name)?.iter().map(|value| {
            read(value).ok_or_else(|| format!("{}: {value} is not a status code", self.path_of(name)))
        });
        codes.collect()
    }
}

fn duration(text: &str) -> Option<Duration> {
    let seconds = text.strip_suffix('s')?;
    let (whole, decimals) = seconds.split_once('.').unwrap_or((seconds, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_form = !whole.is_empty() && decimals.len() <= 9 && are_digits(whole) && are_digits(decimals);
    if !is_form || seconds.ends_with('.') {
        return None;
    }
    // As many as nine digits.
    let nanos = format!("{decimals:0<9}").parse().ok()?;
    Some(Duration::new(whole.parse().ok()?, nanos))
}

/// The names of gRPC's specification.
fn code(name: &str) -> Option<Code> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let number = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
    Some(Code::from_i32(number as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(json: &str) -> (RetryOptions, ServiceConfig) {
        let mut options = RetryOptions::default();
        let read = read(json, &mut options).unwrap_or_else(|error| panic!("{json}: {error:?}"));
        (options, read)
    }

    fn problem(json: &str) -> String {
        let error = read(json, &mut RetryOptions::default()).expect_err(json);
        std::error::Error::source(&error).unwrap().to_string()
    }

    #[test]
    fn a_service_config_sets_the_policies_timeouts_and_throttling_that_it_names() {
        let (options, read) = read_all(
            r#"{
                "methodConfig": [
                    {
                        "name": [{"service": "a.B", "method": "C"}, {"service": "a.D"}],
                        "waitForReady": true,
                        "timeout": "1.5s",
                        "retryPolicy": {
                            "maxAttempts": 4,
                            "initialBackoff": "0.1s",
                            "maxBackoff": "1s",
                            "backoffMultiplier": 2,
                            "retryableStatusCodes": ["UNAVAILABLE", "aborted", 8]
                        }
                    },
                    {"name": [{}], "hedgingPolicy": {"maxAttempts": 3.0, "hedgingDelay": "0.000000001s"}}
                ],
                "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
                "healthCheckConfig": {"serviceName": "a.B"}
            }"#,
        );
        let retry = RetryPolicy::new([Code::Unavailable, Code::Aborted, Code::ResourceExhausted])
            .max_attempts(4)
            .initial_backoff(Duration::from_millis(100))
            .max_backoff(Duration::from_secs(1))
            .backoff_multiplier(2.0);
        for path in ["/a.B/C", "/a.D/X"] {
            let method = options.methods.find(path).unwrap();
            assert_eq!(method.policy.as_deref(), Some(&CallPolicy::Retry(retry.clone())), "{path}");
            assert_eq!(method.wait_for_ready, Some(true));
            assert_eq!(method.timeout, Some(Duration::from_millis(1500)));
        }
        let hedging = HedgingPolicy::new(3).delay(Duration::from_nanos(1));
        assert_eq!(
            options.methods.find("/x/y").unwrap().policy.as_deref(),
            Some(&CallPolicy::Hedge(hedging))
        );
        assert_eq!(options.throttling, Some(Throttling { max_tokens: 10, token_ratio: 0.1 }));
        assert_eq!(read.health_check.as_deref(), Some("a.B"));
        assert!(read_all("{}").1.health_check.is_none());
    }

    #[test]
    fn what_a_service_config_may_not_say_is_an_error_that_names_the_field() {
        for (json, what) in [
            ("", "EOF"),
            ("[]", "not an object"),
            (r#"{"loadBalancingConfig": []}"#, "loadBalancingConfig: it is not supported"),
            (r#"{"methodConfig": {}}"#, "methodConfig: it is not a list"),
            (
                r#"{"methodConfig": [{"name": [{}], "maxRequestMessageBytes": 1}]}"#,
                "methodConfig[0].maxRequestMessageBytes: it is not supported",
            ),
            (r#"{"methodConfig": [{}]}"#, "`name` is empty"),
            (r#"{"methodConfig": [{"name": [{"method": "x"}]}]}"#, "no `service`"),
            (
                r#"{"methodConfig": [{"name": [{}], "timeout": "1"}]}"#,
                "methodConfig[0].timeout: it is not a duration",
            ),
            (r#"{"methodConfig": [{"name": [{}], "timeout": "-1s"}]}"#, "not a duration"),
            (r#"{"methodConfig": [{"name": [{}], "timeout": "1.0000000001s"}]}"#, "not a duration"),
            (
                r#"{"methodConfig": [{"name": [{}], "retryPolicy": {}, "hedgingPolicy": {}}]}"#,
                "and a `hedgingPolicy`",
            ),
            (
                r#"{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 2}}]}"#,
                "initialBackoff: it is missing",
            ),
            (r#"{"methodConfig": [{"name": [{}], "hedgingPolicy": {"maxAttempts": 1}}]}"#, "less than 2"),
            (
                r#"{"methodConfig": [{"name": [{}], "hedgingPolicy": {"maxAttempts": 2.5}}]}"#,
                "not an integer",
            ),
            (
                r#"{"methodConfig": [{"name": [{}], "hedgingPolicy": {"maxAttempts": 2, "nonFatalStatusCodes": ["NOPE"]}}]}"#,
                "not a status code",
            ),
            (
                r#"{"methodConfig": [{"name": [{}], "hedgingPolicy": {"maxAttempts": 2, "nonFatalStatusCodes": [17]}}]}"#,
                "not a status code",
            ),
            (r#"{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}"#, "from 1 to 1000"),
            (r#"{"retryThrottling": {"maxTokens": 5}}"#, "retryThrottling.tokenRatio: it is missing"),
        ] {
            let found = problem(json);
            assert!(found.contains(what), "{json}: {found}");
        }
    }
}
