//! Rules over several fields, and which key a client signs with.

use std::net::IpAddr;
use std::path::Path;

use memkv_settings::{AuthKey, Environment, Problem, Source, dev_key};

use super::raw::split_host_port;
use super::{ConfigError, RawConfig};

/// `MEMKV_SERVERS` (or a flag) voids the file's bind addresses: they belong to the servers of the file.
pub(super) fn resolve_bind_addresses(raw: &mut RawConfig) {
    let servers_from_env = matches!(raw.servers.source, Source::Env(_) | Source::Flag(_));
    let binds_from_file = matches!(raw.bind_addresses.source, Source::File { .. });
    if raw.bind_addresses.is_default() || (servers_from_env && binds_from_file) {
        raw.bind_addresses.value = vec![None; raw.servers.value.len()];
        if servers_from_env && binds_from_file {
            raw.bind_addresses.source = raw.servers.source.clone();
        }
    }
}

pub(super) fn check_lengths(raw: &RawConfig, problems: &mut Vec<Problem>) {
    let servers = raw.servers.value.len();
    let mut check = |name: &str, len: usize, source: &Source, remedy: &str| {
        if len != servers {
            problems.push(Problem::Refused(format!(
                "{source}: {name} has {len} items, but must have {servers}, one per entry of servers ({}); {remedy}",
                raw.servers.source
            )));
        }
    };
    let binds = &raw.bind_addresses;
    check(
        "bind_addresses",
        binds.value.len(),
        &binds.source,
        "write ~ (or an empty item) where any address will do",
    );
    if !raw.node_ids.value.is_empty() {
        check(
            "node_ids",
            raw.node_ids.value.len(),
            &raw.node_ids.source,
            "or leave it out",
        );
        for (idx, id) in raw.node_ids.value.iter().enumerate() {
            if id.is_empty() || raw.node_ids.value[..idx].contains(id) {
                problems.push(Problem::Refused(format!(
                    "{}: node_ids[{idx}] is \"{id}\", but must be a name that no other server has",
                    raw.node_ids.source
                )));
            }
        }
    }
}

/// True where traffic to `server` can't leave the host.
fn is_loopback(server: &str) -> bool {
    let Some((host, _)) = split_host_port(server) else {
        return false;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(dev_key::allowed_for)
}

pub(super) fn auth_key(
    raw: &RawConfig,
    environment: &Environment,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) -> Result<Option<(AuthKey, bool)>, ConfigError> {
    if let Some(key) = &raw.auth_key.value {
        return Ok(Some((key.clone(), false)));
    }
    if let Some(remote) = raw.servers.value.iter().find(|server| !is_loopback(server)) {
        problems.push(Problem::Refused(format!(
            "auth_key is not set, but {remote} is not a loopback address, and there is no unauthenticated mode; set \
             auth_key (MEMKV_AUTH_KEY) to the server's network.auth_key, 64 hexadecimal digits"
        )));
    }
    if !problems.is_empty() {
        return Ok(None);
    }
    let dev = dev_key::load_or_create(environment.get("HOME").map(Path::new))
        .map_err(ConfigError::DevKey)?;
    warnings.push(format!(
        "no auth_key is set: using the development key {}, for loopback only; set auth_key for anything else",
        dev.path.display()
    ));
    Ok(Some((dev.key, true)))
}
