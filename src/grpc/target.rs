//! Where a connection goes: `http://host:port`, `https://host:port`, `host:port`, `dns:///host:port`,
//! `unix:/path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use http::uri::Authority;

use super::error::{Error, TargetError};
use crate::primitive::Arc;

#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As the user gave it; what errors and logs show.
    pub(crate) text: Arc<str>,
    pub(crate) endpoint: Endpoint,
    /// Whether the scheme itself says that TLS is used, or that it is not; `None` leaves it to the options.
    pub(crate) tls: Option<bool>,
    /// What goes into `:authority`.
    pub(crate) authority: Authority,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// The host without the brackets of an IPv6 address.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Target, Error> {
        parse(text).map_err(|source| Error::InvalidTarget { target: redacted(text), source })
    }
}

/// A name for `:authority`, with its port.
pub(crate) fn authority(text: &str) -> Result<Authority, Error> {
    let parsed = parse_tcp(text, None).map(|(authority, _)| authority);
    parsed.map_err(|source| Error::InvalidTarget { target: redacted(text), source })
}

/// A target as the user gave it. It is not known to be valid; a user and a password in it are in no output.
#[derive(Clone)]
pub(crate) struct Given(pub(crate) String);

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&redacted(&self.0), f)
    }
}

/// The text without what may be a user and a password: all up to the last `@`, but for the scheme.
pub(crate) fn redacted(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else { return text.to_owned() };
    let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}***@{host}")
}

fn parse(text: &str) -> Result<Target, TargetError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(TargetError::Empty);
    }
    let (tls, rest, default_port) = match trimmed.split_once("://") {
        _ if trimmed.starts_with("unix:") => return parse_unix(trimmed),
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "http" => (Some(false), without_root(rest)?, Some(80)),
            "https" => (Some(true), without_root(rest)?, Some(443)),
            // dns://server/host:port would ask that server; only the system's own resolver is asked here.
            "dns" => match rest.strip_prefix('/') {
                Some(endpoint) => (None, endpoint, None),
                None => return Err(TargetError::Unsupported("a DNS server of its own")),
            },
            _ => return Err(TargetError::UnknownScheme(scheme.to_owned())),
        },
        None => (None, trimmed.strip_prefix("dns:").unwrap_or(trimmed), None),
    };
    let (authority, endpoint) = parse_tcp(rest, default_port)?;
    Ok(Target { text: trimmed.into(), endpoint, tls, authority })
}

/// `host:port`, or `host:port/`; a longer path would have to be a part of every method's name.
fn without_root(rest: &str) -> Result<&str, TargetError> {
    match rest.split_once(['/', '?', '#']) {
        None | Some((_, "")) => Ok(rest.trim_end_matches('/')),
        Some(_) => Err(TargetError::Unsupported("a path")),
    }
}

fn parse_tcp(text: &str, default_port: Option<u16>) -> Result<(Authority, Endpoint), TargetError> {
    if text.contains('@') {
        return Err(TargetError::Unsupported("a user"));
    }
    if text.contains('/') {
        return Err(TargetError::Unsupported("a path"));
    }
    // What is behind the last colon outside of an IPv6 address's brackets is the port. It is looked at before
    // the rest, so that a bad one is reported as such.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if host.is_empty() || host == "[]" {
        return Err(TargetError::MissingHost);
    }
    let port = match port {
        Some(port) => parse_port(port)?,
        None => default_port.ok_or(TargetError::MissingPort)?,
    };
    let authority =
        Authority::from_str(text).map_err(|error| TargetError::Malformed(format!("{error} in {text:?}")))?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_err() => {
            return Err(TargetError::Malformed(format!("{address:?} is no IPv6 address")));
        }
        None if host.contains(':') => {
            return Err(TargetError::Malformed("an IPv6 address stands in brackets".to_owned()));
        }
        _ => {}
    }
    Ok((authority, Endpoint::Tcp { host: bare.unwrap_or(host).to_owned(), port }))
}

fn parse_port(text: &str) -> Result<u16, TargetError> {
    match text.parse::<u16>() {
        // The parser takes a sign; a port has none.
        Ok(_) if text.starts_with('+') => {
            Err(TargetError::InvalidPort { port: text.to_owned(), source: None })
        }
        Ok(0) => Err(TargetError::InvalidPort { port: text.to_owned(), source: None }),
        Ok(port) => Ok(port),
        Err(source) => Err(TargetError::InvalidPort { port: text.to_owned(), source: Some(source) }),
    }
}

/// `unix:/path`, `unix:///path` and `unix:relative`; the authority is `localhost`, as in grpc-go.
fn parse_unix(text: &str) -> Result<Target, TargetError> {
    if !cfg!(unix) {
        return Err(TargetError::Unsupported("a Unix socket"));
    }
    let path = text.strip_prefix("unix:").unwrap_or(text);
    let path = match path.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => return Err(TargetError::Unsupported("a host before a socket's path")),
        None => path,
    };
    if path.is_empty() {
        return Err(TargetError::MissingHost);
    }
    Ok(Target {
        text: text.into(),
        endpoint: Endpoint::Unix(PathBuf::from(path)),
        tls: None,
        authority: Authority::from_static("localhost"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> (Option<bool>, String, u16, String) {
        let target = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        match target.endpoint {
            Endpoint::Tcp { host, port } => (target.tls, host, port, target.authority.to_string()),
            Endpoint::Unix(path) => panic!("{text} is a socket at {path:?}"),
        }
    }

    fn problem(text: &str) -> TargetError {
        match Target::parse(text) {
            Err(Error::InvalidTarget { target, source }) => {
                assert_eq!(target, redacted(text));
                source
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn each_form_of_a_target_names_its_host_port_and_tls() {
        assert_eq!(tcp("http://a.b:5000"), (Some(false), "a.b".into(), 5000, "a.b:5000".into()));
        assert_eq!(tcp("http://a.b:5000/"), (Some(false), "a.b".into(), 5000, "a.b:5000".into()));
        assert_eq!(tcp("HTTP://a.b"), (Some(false), "a.b".into(), 80, "a.b".into()));
        assert_eq!(tcp("https://a.b"), (Some(true), "a.b".into(), 443, "a.b".into()));
        assert_eq!(tcp("localhost:5000"), (None, "localhost".into(), 5000, "localhost:5000".into()));
        assert_eq!(tcp("dns:///a.b:1"), (None, "a.b".into(), 1, "a.b:1".into()));
        assert_eq!(tcp("dns:a.b:1"), (None, "a.b".into(), 1, "a.b:1".into()));
        assert_eq!(tcp("http://[::1]:50051"), (Some(false), "::1".into(), 50051, "[::1]:50051".into()));
        assert_eq!(tcp("[::1]:1"), (None, "::1".into(), 1, "[::1]:1".into()));
        assert_eq!(tcp(" 127.0.0.1:1 "), (None, "127.0.0.1".into(), 1, "127.0.0.1:1".into()));
    }

    #[test]
    #[cfg(unix)]
    fn a_unix_target_is_a_path() {
        for (text, path) in [("unix:/tmp/s", "/tmp/s"), ("unix:///tmp/s", "/tmp/s"), ("unix:rel/s", "rel/s")]
        {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.endpoint, Endpoint::Unix(path.into()), "{text}");
            assert_eq!(target.authority, "localhost");
        }
        assert_eq!(problem("unix:"), TargetError::MissingHost);
        assert!(matches!(problem("unix://host/x"), TargetError::Unsupported(_)));
    }

    #[test]
    fn a_bad_target_says_what_is_wrong_with_it() {
        assert_eq!(problem(""), TargetError::Empty);
        assert_eq!(problem("  "), TargetError::Empty);
        assert_eq!(problem("ftp://a:1"), TargetError::UnknownScheme("ftp".into()));
        assert_eq!(problem("://a:1"), TargetError::UnknownScheme("".into()));
        assert_eq!(problem("http://"), TargetError::MissingHost);
        assert_eq!(problem("http://:80"), TargetError::MissingHost);
        assert_eq!(problem(":80"), TargetError::MissingHost);
        assert_eq!(problem("localhost"), TargetError::MissingPort);
        assert_eq!(problem("dns:///localhost"), TargetError::MissingPort);
        assert!(matches!(problem("http://a:1/path"), TargetError::Unsupported(_)));
        assert!(matches!(problem("http://a:1?q"), TargetError::Unsupported(_)));
        assert!(matches!(problem("http://u@a:1"), TargetError::Unsupported(_)));
        assert!(matches!(problem("dns://8.8.8.8/a:1"), TargetError::Unsupported(_)));
        assert!(matches!(problem("::1"), TargetError::Malformed(_)));
        assert!(matches!(problem("http://[zz]:1"), TargetError::Malformed(_)));
        assert!(matches!(problem("a b:1"), TargetError::Malformed(_)));
        assert!(matches!(problem("http://a\u{e9}b:1"), TargetError::Malformed(_)));
    }

    #[test]
    fn a_user_and_a_password_are_in_no_output() {
        for (target, shown) in [
            ("http://u:secret@h:1", "http://***@h:1"),
            ("u:secret@h:1", "***@h:1"),
            ("https://u:se@cret@h", "https://***@h"),
            ("http://u:se/cret@h", "http://***@h"),
            ("http://u:secret@", "http://***@"),
            ("http://h:1", "http://h:1"),
        ] {
            assert_eq!(redacted(target), shown);
            let given = format!("{:?}", Given(target.to_owned()));
            let error = Target::parse(target).err();
            let all =
                format!("{given} {error:?} {}", error.as_ref().map_or(String::new(), ToString::to_string));
            assert!(!all.contains("secret") && !all.contains("cret@"), "{all}");
        }
    }

    #[test]
    fn a_port_out_of_range_carries_the_parsers_error() {
        for port in ["65536", "70000", "-1", "x", "", "99999999999999999999"] {
            match problem(&format!("http://h:{port}")) {
                TargetError::InvalidPort { port: told, source: Some(_) } => assert_eq!(told, port),
                other => panic!("{port}: {other:?}"),
            }
        }
        assert!(matches!(problem("h:+80"), TargetError::InvalidPort { source: None, .. }));
        assert!(matches!(problem("h:0"), TargetError::InvalidPort { source: None, .. }));
    }
}
