//! Where a connection goes: gRPC's names, and `http://` and `https://` URLs.
//!
//! | target | goes to |
//! |---|---|
//! | `http://host[:port]`, `https://host[:port]` | the host's addresses; port 80 or 443 |
//! | `host[:port]`, `dns:host[:port]`, `dns:///host[:port]` | the host's addresses; port 443 |
//! | `ipv4:address[:port][,...]`, `ipv6:address` or `ipv6:[address]:port`, with commas | these addresses; port 443 |
//! | `unix:path`, `unix:///absolute/path` | a Unix socket |
//! | `unix-abstract:name` | a Unix socket of Linux's abstract namespace |
//! | `vsock:cid:port` | a virtual machine's socket (Linux, feature `vsock`) |
//!
//! The grammar is that of gRPC's "Name Resolution". A zone of an IPv6 address is written as in RFC 6874, `[fe80::1%25eth0]`, and
//! is used for the dial alone. `%` and two hexadecimal digits in a path or an abstract name are the byte with that number.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
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
    /// The host without the brackets of an IPv6 address. It may have a zone behind a `%`.
    Tcp {
        host: String,
        port: u16,
    },
    /// At least one.
    Addresses(Vec<SocketAddr>),
    /// The path of an abstract socket begins with a zero byte.
    Unix(PathBuf),
    Vsock {
        cid: u32,
        port: u32,
    },
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Target, Error> {
        parse(text).map_err(|source| Error::InvalidTarget { target: redacted(text), source })
    }
}

/// A name for `:authority`.
pub(crate) fn authority(text: &str) -> Result<Authority, Error> {
    let parsed = parse_tcp(text, Some(HTTPS)).map(|(authority, _)| authority);
    parsed.map_err(|source| Error::InvalidTarget { target: redacted(text), source })
}

/// Its host, without the brackets of an IPv6 address.
pub(crate) fn host_of(authority: &Authority) -> &str {
    authority.host().trim_matches(['[', ']'])
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
    let (tls, rest, default_port) = match trimmed.split_once(':') {
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "unix" => return local(trimmed, unix(rest)?),
            "unix-abstract" => return local(trimmed, abstract_unix(rest)?),
            "vsock" => return local(trimmed, vsock(rest)?),
            "ipv4" => return addresses(trimmed, rest, ipv4),
            "ipv6" => return addresses(trimmed, rest, ipv6),
            // dns://server/host:port would ask that server; only the system's own resolver is asked here.
            "dns" => match rest.strip_prefix("//") {
                None => (None, rest, HTTPS),
                Some(rest) => match rest.strip_prefix('/') {
                    Some(endpoint) => (None, endpoint, HTTPS),
                    None => return Err(TargetError::Unsupported("a DNS server of its own")),
                },
            },
            scheme => match (scheme, rest.strip_prefix("//")) {
                ("http", Some(rest)) => (Some(false), without_root(rest)?, 80),
                ("https", Some(rest)) => (Some(true), without_root(rest)?, HTTPS),
                (_, Some(_)) => return Err(TargetError::UnknownScheme(scheme.to_owned())),
                (_, None) => (None, trimmed, HTTPS),
            },
        },
        None => (None, trimmed, HTTPS),
    };
    let (authority, endpoint) = parse_tcp(rest, Some(default_port))?;
    Ok(Target { text: trimmed.into(), endpoint, tls, authority })
}

/// gRPC's default, whether TLS is used or not.
const HTTPS: u16 = 443;

/// A socket of this machine or its host. Its authority is `localhost`, as in grpc-go.
fn local(text: &str, endpoint: Endpoint) -> Result<Target, TargetError> {
    Ok(Target { text: text.into(), endpoint, tls: None, authority: Authority::from_static("localhost") })
}

/// Addresses of one family, with commas between them. The first one is the authority.
fn addresses(
    text: &str,
    list: &str,
    parse: fn(&str) -> Result<SocketAddr, TargetError>,
) -> Result<Target, TargetError> {
    if list.is_empty() {
        return Err(TargetError::MissingHost);
    }
    // `ipv4:///address` has the same meaning in the grammar.
    let list = list.strip_prefix("///").unwrap_or(list);
    let all = list.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    let first = match all.first() {
        None => return Err(TargetError::MissingHost),
        Some(SocketAddr::V4(first)) => first.to_string(),
        Some(SocketAddr::V6(first)) => format!("[{}]:{}", first.ip(), first.port()),
    };
    let authority = Authority::from_str(&first).map_err(|error| TargetError::Malformed(error.to_string()))?;
    Ok(Target { text: text.into(), endpoint: Endpoint::Addresses(all), tls: None, authority })
}

fn ipv4(text: &str) -> Result<SocketAddr, TargetError> {
    let (address, port) = match text.split_once(':') {
        Some((address, port)) => (address, parse_port(port)?),
        None => (text, HTTPS),
    };
    match address.parse::<Ipv4Addr>() {
        Ok(address) => Ok(SocketAddr::from((address, port))),
        Err(_) => Err(TargetError::Malformed(format!("{address:?} is not an IPv4 address"))),
    }
}

fn ipv6(text: &str) -> Result<SocketAddr, TargetError> {
    let text = &*decoded_text(text)?;
    let (address, port) = match text.strip_prefix('[') {
        None => (text, HTTPS),
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, HTTPS),
            Some((address, port)) => match port.strip_prefix(':') {
                Some(port) => (address, parse_port(port)?),
                None => return Err(TargetError::Malformed(format!("{port:?} is not a port"))),
            },
            None => return Err(TargetError::Malformed("a bracket is not closed".to_owned())),
        },
    };
    let not_one = || TargetError::Malformed(format!("{address:?} is not an IPv6 address"));
    match address.split_once('%') {
        None => {
            let address = address.parse::<Ipv6Addr>().map_err(|_| not_one())?;
            Ok(SocketAddr::from((address, port)))
        }
        // Only numbers: an interface's name is the resolver's business, which these targets do not ask.
        Some((host, zone)) => {
            let host = host.parse::<Ipv6Addr>().map_err(|_| not_one())?;
            let zone = zone.parse::<u32>();
            let zone = zone.map_err(|_| TargetError::Unsupported("a zone by name, but in `dns:`"))?;
            Ok(SocketAddr::V6(std::net::SocketAddrV6::new(host, port, 0, zone)))
        }
    }
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
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let zone = bare.and_then(|address| address.split_once('%'));
    let zone = match zone {
        None => None,
        // RFC 6874.
        Some((address, zone)) => match zone.strip_prefix("25").filter(|zone| !zone.is_empty()) {
            Some(zone) => Some((address, decoded_text(zone)?)),
            None => {
                let what = "the `%` before an address's zone is written `%25`";
                return Err(TargetError::Malformed(what.to_owned()));
            }
        },
    };
    // The zone has a meaning on this machine alone.
    let shown = match &zone {
        None => Cow::Borrowed(text),
        Some((address, _)) => Cow::Owned(format!("[{address}]{}", &text[host.len()..])),
    };
    let authority = Authority::from_str(&shown)
        .map_err(|error| TargetError::Malformed(format!("{error} in {text:?}")))?;
    let bare = bare.map(|address| zone.as_ref().map_or(address, |(address, _)| address));
    match bare {
        Some(address) if address.parse::<Ipv6Addr>().is_err() => {
            return Err(TargetError::Malformed(format!("{address:?} is not an IPv6 address")));
        }
        None if host.contains(':') => {
            return Err(TargetError::Malformed("an IPv6 address stands in brackets".to_owned()));
        }
        _ => {}
    }
    let host = match &zone {
        None => bare.unwrap_or(host).to_owned(),
        Some((address, zone)) => format!("{address}%{zone}"),
    };
    Ok((authority, Endpoint::Tcp { host, port }))
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

/// `unix:/path`, `unix:///path` and `unix:relative`.
fn unix(rest: &str) -> Result<Endpoint, TargetError> {
    if !cfg!(unix) {
        return Err(TargetError::Unsupported("a Unix socket"));
    }
    let path = match rest.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => return Err(TargetError::Unsupported("a host before a socket's path")),
        None => rest,
    };
    match path {
        "" => Err(TargetError::MissingHost),
        _ if decoded(path).contains(&0) => {
            Err(TargetError::Malformed("there is a zero byte in the path".to_owned()))
        }
        path => Ok(Endpoint::Unix(path_of(decoded(path).into_owned())?)),
    }
}

/// `unix-abstract:name`.
fn abstract_unix(rest: &str) -> Result<Endpoint, TargetError> {
    if !cfg!(target_os = "linux") {
        return Err(TargetError::Unsupported("an abstract Unix socket"));
    }
    if rest.starts_with("//") {
        return Err(TargetError::Unsupported("a host before a socket's name"));
    }
    if rest.is_empty() {
        return Err(TargetError::MissingHost);
    }
    let mut path = vec![0];
    path.extend_from_slice(&decoded(rest));
    Ok(Endpoint::Unix(path_of(path)?))
}

#[cfg(unix)]
fn path_of(bytes: Vec<u8>) -> Result<PathBuf, TargetError> {
    use std::os::unix::ffi::OsStringExt;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

#[cfg(not(unix))]
fn path_of(_: Vec<u8>) -> Result<PathBuf, TargetError> {
    Err(TargetError::Unsupported("a Unix socket"))
}

/// `vsock:cid:port`.
fn vsock(rest: &str) -> Result<Endpoint, TargetError> {
    if !cfg!(all(target_os = "linux", feature = "vsock")) {
        return Err(TargetError::Unsupported("`vsock:` without Linux and the feature `vsock`"));
    }
    let (cid, port) = rest.split_once(':').ok_or(TargetError::MissingPort)?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    let not_one = |text: &str| TargetError::Malformed(format!("{text:?} is not a number of 32 bits"));
    let (cid, port) = (number(cid).ok_or_else(|| not_one(cid))?, number(port).ok_or_else(|| not_one(port))?);
    Ok(Endpoint::Vsock { cid, port })
}

/// With `%` and two hexadecimal digits replaced by their byte. Other `%` stay: they are in paths that worked before.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match after {
            [high, low, ..] if *first == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(bytes)
}

fn decoded_text(text: &str) -> Result<String, TargetError> {
    String::from_utf8(decoded(text).into_owned())
        .map_err(|_| TargetError::Malformed(format!("{text:?} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> (Option<bool>, String, u16, String) {
        let target = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        match target.endpoint {
            Endpoint::Tcp { host, port } => (target.tls, host, port, target.authority.to_string()),
            other => panic!("{text} is {other:?}"),
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
        assert_eq!(tcp("localhost"), (None, "localhost".into(), 443, "localhost".into()));
        assert_eq!(tcp("dns:///a.b"), (None, "a.b".into(), 443, "a.b".into()));
        assert_eq!(tcp("DNS:a.b"), (None, "a.b".into(), 443, "a.b".into()));
        let zoned = (Some(false), "fe80::1%eth0".into(), 1, "[fe80::1]:1".into());
        assert_eq!(tcp("http://[fe80::1%25eth0]:1"), zoned);
        assert_eq!(tcp("[fe80::1%253]"), (None, "fe80::1%3".into(), 443, "[fe80::1]".into()));
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
    #[cfg(target_os = "linux")]
    fn an_abstract_target_is_a_name_and_escapes_are_bytes() {
        use std::os::unix::ffi::OsStrExt;
        for (text, bytes) in [
            ("unix-abstract:name", &b"\0name"[..]),
            ("unix-abstract:a%00b", b"\0a\0b"),
            ("unix:/tmp/a%20b", b"/tmp/a b"),
            ("unix:/tmp/100%", b"/tmp/100%"),
            ("unix:/tmp/%zz%4", b"/tmp/%zz%4"),
            ("unix:/tmp/%ff", b"/tmp/\xff"),
        ] {
            match Target::parse(text).unwrap().endpoint {
                Endpoint::Unix(path) => assert_eq!(path.as_os_str().as_bytes(), bytes, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(problem("unix-abstract:"), TargetError::MissingHost);
        assert!(matches!(problem("unix-abstract://host/x"), TargetError::Unsupported(_)));
        assert!(matches!(problem("unix:/a%00b"), TargetError::Malformed(_)));
    }

    #[test]
    fn a_list_of_addresses_is_all_of_them_with_their_ports_and_the_first_is_the_authority() {
        for (text, all, authority) in [
            ("ipv4:192.0.2.1", "192.0.2.1:443", "192.0.2.1:443"),
            ("ipv4:192.0.2.1:5,192.0.2.2:6", "192.0.2.1:5 192.0.2.2:6", "192.0.2.1:5"),
            ("ipv4:///192.0.2.1:5", "192.0.2.1:5", "192.0.2.1:5"),
            ("ipv6:2001:db8::1", "[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("ipv6:[2001:db8::1]:5,[::1]", "[2001:db8::1]:5 [::1]:443", "[2001:db8::1]:5"),
            ("ipv6:%5B2001:db8::1%5D:5", "[2001:db8::1]:5", "[2001:db8::1]:5"),
            ("ipv6:[fe80::1%253]:5", "[fe80::1%3]:5", "[fe80::1]:5"),
        ] {
            let target = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!((target.authority.as_str(), target.tls), (authority, None), "{text}");
            let Endpoint::Addresses(found) = target.endpoint else { panic!("{text}") };
            let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(shown.join(" "), all, "{text}");
        }
        assert_eq!(problem("ipv4:"), TargetError::MissingHost);
        assert!(matches!(problem("ipv4:h:1"), TargetError::Malformed(_)));
        assert!(matches!(problem("ipv4:[::1]:1"), TargetError::InvalidPort { .. }));
        assert!(matches!(problem("ipv4:192.0.2.1:0"), TargetError::InvalidPort { .. }));
        assert!(matches!(problem("ipv4:192.0.2.1,"), TargetError::Malformed(_)));
        assert!(matches!(problem("ipv6:192.0.2.1"), TargetError::Malformed(_)));
        assert!(matches!(problem("ipv6:[::1"), TargetError::Malformed(_)));
        assert!(matches!(problem("ipv6:[::1]5"), TargetError::Malformed(_)));
        assert!(matches!(problem("ipv6:[fe80::1%25eth0]:5"), TargetError::Unsupported(_)));
    }

    #[test]
    #[cfg(all(target_os = "linux", feature = "vsock"))]
    fn a_vsock_target_is_two_numbers() {
        let target = Target::parse("vsock:4294967295:1234").unwrap();
        assert_eq!(target.endpoint, Endpoint::Vsock { cid: u32::MAX, port: 1234 });
        assert_eq!(problem("vsock:1"), TargetError::MissingPort);
        for bad in ["vsock::1", "vsock:1:", "vsock:x:1", "vsock:+1:1", "vsock:4294967296:1", "vsock:1:2:3"] {
            assert!(matches!(problem(bad), TargetError::Malformed(_)), "{bad}");
        }
    }

    #[test]
    #[cfg(not(all(target_os = "linux", feature = "vsock")))]
    fn a_vsock_target_without_the_feature_names_it() {
        assert!(problem("vsock:1:2").to_string().contains("feature `vsock`"));
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
        assert!(matches!(problem("localhost:"), TargetError::InvalidPort { .. }));
        assert!(matches!(problem("[fe80::1%eth0]:1"), TargetError::Malformed(_)));
        assert!(matches!(problem("[fe80::1%25]:1"), TargetError::Malformed(_)));
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
