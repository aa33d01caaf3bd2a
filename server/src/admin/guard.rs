//! Who may change something: a caller with the token, who names this host, or one on the unix socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use subtle::ConstantTimeEq;

use crate::shared::Shared;

/// Why a verb is refused.
pub(crate) type Refusal = (StatusCode, &'static str);

/// Which way a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// HTTP on the admin port.
    Http,
    /// HTTPS on the admin port.
    Https,
    /// The unix socket, which only the server's own user can open.
    Socket,
}

/// A request that may change something. What isn't one is refused, and counted, before the verb sees it.
pub(crate) struct Allowed;

impl FromRequestParts<Arc<Shared>> for Allowed {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Arc<Shared>,
    ) -> Result<Self, Self::Rejection> {
        // The router says how a request came; without a word it is the least trusted way.
        let via = parts.extensions.get().copied().unwrap_or(Via::Http);
        if via == Via::Socket {
            return Ok(Self);
        }
        let peer: Option<&ConnectInfo<SocketAddr>> = parts.extensions.get();
        let peer = peer.map(|peer| peer.0.ip());
        let result = host(shared, &parts.headers, &parts.uri)
            .and_then(|()| private(via, peer))
            .and_then(|()| token(shared, &parts.headers));
        if result.is_err() {
            shared.admin_refused();
        }
        result.map(|()| Self)
    }
}

/// A token that crosses a network in the clear is everybody's.
fn private(via: Via, peer: Option<IpAddr>) -> Result<(), Refusal> {
    let is_here = peer.is_some_and(|peer| peer.to_canonical().is_loopback());
    if via == Via::Https || is_here {
        return Ok(());
    }
    Err((
        StatusCode::FORBIDDEN,
        "from other hosts this needs HTTPS; set network.tls_cert and network.tls_key, and take this token for known\n",
    ))
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
            "verbs that change something are off here; set network.admin_token, or use network.admin_socket\n",
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
    fn a_token_is_taken_over_https_or_from_this_host() {
        for (via, peer, expected) in [
            (Via::Http, "127.0.0.1", true),
            (Via::Http, "::1", true),
            (Via::Http, "::ffff:127.0.0.1", true),
            (Via::Http, "10.0.0.7", false),
            (Via::Https, "10.0.0.7", true),
        ] {
            let allowed = private(via, peer.parse().ok()).is_ok();
            assert_eq!(allowed, expected, "{via:?} from {peer}");
        }
        assert!(private(Via::Http, None).is_err());
    }

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
