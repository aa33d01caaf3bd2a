//! Who may change something: a caller with the token, who names this host.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, Uri, header};
use subtle::ConstantTimeEq;

use crate::shared::Shared;

/// Why a verb is refused.
pub(crate) type Refusal = (StatusCode, &'static str);

/// Lets a request through that may change something.
///
/// # Errors
/// The status and the text to refuse it with; counted.
pub(crate) fn check(shared: &Shared, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
    let result = host(shared, headers, uri).and_then(|()| token(shared, headers));
    if result.is_err() {
        shared.admin_refused();
    }
    result
}

/// A name that an attacker's DNS points at us isn't ours.
fn host(shared: &Shared, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
    let named = uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| headers.get(header::HOST)?.to_str().ok());
    match named {
        Some(named) if is_ours(named, shared.node_id()) => Ok(()),
        _ => Err((
            StatusCode::MISDIRECTED_REQUEST,
            "the Host header doesn't name this server; use its address, localhost or its node_id\n",
        )),
    }
}

fn is_ours(authority: &str, node_id: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(name, _)| name),
    };
    let node = node_id.rsplit_once(':').map_or(node_id, |(name, _)| name);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.eq_ignore_ascii_case(node)
}

fn token(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    let config = shared.config();
    let Some(expected) = &config.network.admin_token else {
        return Err((
            StatusCode::FORBIDDEN,
            "verbs that change something are off; set network.admin_token to use them\n",
        ));
    };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let given = given.unwrap_or("").trim();
    if bool::from(given.as_bytes().ct_eq(expected.expose().as_bytes())) {
        return Ok(());
    }
    Err((
        StatusCode::UNAUTHORIZED,
        "this needs the header `Authorization: Bearer <network.admin_token>`\n",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_localhost_and_the_node_itself_are_ours() {
        for (authority, expected) in [
            ("127.0.0.1:9901", true),
            ("[::1]:9901", true),
            ("10.1.2.3", true),
            ("localhost:9901", true),
            ("LOCALHOST", true),
            ("kv-1.example:9901", true),
            ("kv-2.example:9901", false),
            ("evil.example", false),
            ("127.0.0.1.evil.example:9901", false),
            ("", false),
        ] {
            assert_eq!(
                is_ours(authority, "kv-1.example:9900"),
                expected,
                "{authority}"
            );
        }
    }
}
