//! Where telemetry goes, and where it is served: rules that servers and clients share.

use crate::problem::Wrong;

/// Checks the URL of an OTLP collector: `http://` or `https://`, a host, a port that exists.
///
/// # Errors
/// When it is none; the remedy says how one is written.
pub fn check_otlp_endpoint(url: &str) -> Result<(), Wrong> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    let sound = authority.is_some_and(|authority| {
        let (host, port) = split(authority);
        is_host(host) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    });
    if sound && !url.contains(char::is_whitespace) {
        return Ok(());
    }
    Err(Wrong::new(
        "a URL with http:// or https://, a host, and a port of 1 to 65535",
        "write for example http://127.0.0.1:4317",
    ))
}

/// Checks the address that metrics are served at: `host:port`, where port 0 takes a free one.
///
/// # Errors
/// When it is none; the remedy says how one is written.
pub fn check_bind(address: &str) -> Result<(), Wrong> {
    let (host, port) = split(address);
    let sound = is_host(host) && port.is_some_and(|port| port.parse::<u16>().is_ok());
    if sound && !address.contains(char::is_whitespace) {
        return Ok(());
    }
    Err(Wrong::new(
        "host:port, or [address]:port for IPv6, with a port of 0 to 65535",
        "write for example 127.0.0.1:9464",
    ))
}

/// Host and port; the colons of a bracketed address belong to the host.
fn split(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn is_host(host: &str) -> bool {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '[', ']', '/']),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_that_can_be_sent_to_are_endpoints() {
        for url in [
            "http://127.0.0.1:4317",
            "https://collector",
            "http://[::1]:4318/v1/traces",
            "http://c:1?x=1",
        ] {
            assert!(check_otlp_endpoint(url).is_ok(), "{url}");
        }
        for url in [
            "garbage",
            "ftp://x",
            "http://",
            "http:///v1",
            "http://x:99999",
            "http://x:0",
            "http://x:",
            "http://:4317",
            "http://a b",
            "http://[::1:4317",
            "localhost:4317",
        ] {
            assert!(check_otlp_endpoint(url).is_err(), "{url}");
        }
    }

    #[test]
    fn only_addresses_that_can_be_bound_are_taken() {
        for address in ["127.0.0.1:9464", "[::]:0", "localhost:65535"] {
            assert!(check_bind(address).is_ok(), "{address}");
        }
        for address in [
            "garbage",
            "9464",
            "x:99999",
            ":9464",
            "http://x:1",
            "::1:1",
            "x:",
            "a b:1",
        ] {
            assert!(check_bind(address).is_err(), "{address}");
        }
    }
}
