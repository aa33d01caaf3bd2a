//! Addresses, keys and certificates.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use memkv_settings::{Setting, Source, dev_key};

use super::super::raw::{PayloadMac, RawNetwork};
use super::super::{Network, Tls};
use super::Checker;

impl Checker<'_> {
    pub(super) fn network(&mut self, raw: RawNetwork) -> Network {
        let RawNetwork {
            address,
            tls_cert,
            tls_key,
            auth_key,
            auth_key_previous,
            payload_mac,
            admin_socket,
            admin_token,
            node_id,
            threads,
        } = raw;
        let tls = self.tls(tls_cert, tls_key);
        let address = address.value;
        self.keys(address, &auth_key.value, &auth_key_previous.value);
        if payload_mac.value == PayloadMac::Off && is_public(address.ip()) {
            self.warn(format!(
                "network.payload_mac is off, but network.address {address} is public: others on the way could alter values \
                 unnoticed by the signature; set it to required"
            ));
        }
        let threads = match threads.value {
            0 => {
                let cores = self.facts.cores.max(1);
                self.detected("network.threads", &cores, "one per core");
                cores
            }
            threads => threads,
        };
        let admin_port = if address.port() == 0 {
            0
        } else {
            address.port().saturating_add(1)
        };
        Network {
            address,
            admin_address: SocketAddr::new(address.ip(), admin_port),
            tls,
            auth_key: auth_key.value,
            auth_key_previous: auth_key_previous.value,
            payload_mac: payload_mac.value,
            admin_socket: admin_socket.value,
            admin_token: admin_token.value,
            node_id: node_id.value,
            threads,
        }
    }

    fn tls(
        &mut self,
        cert: Setting<Option<PathBuf>>,
        key: Setting<Option<PathBuf>>,
    ) -> Option<Tls> {
        if !self.sound(&["network.tls_cert", "network.tls_key"]) {
            return None;
        }
        let (set, missing, source) = match (cert.value, key.value) {
            (Some(cert), Some(key)) => return Some(Tls { cert, key }),
            (None, None) => return None,
            (Some(_), None) => ("tls_cert", "tls_key", cert.source),
            (None, Some(_)) => ("tls_key", "tls_cert", key.source),
        };
        self.refuse(format!(
            "{source}: network.{set} is set, but network.{missing} is not; set both for HTTPS on the admin endpoint, or \
             neither"
        ));
        None
    }

    fn keys<K: PartialEq>(&mut self, address: SocketAddr, key: &Option<K>, old: &Option<K>) {
        if !self.sound(&[
            "network.address",
            "network.auth_key",
            "network.auth_key_previous",
        ]) {
            return;
        }
        if key.is_none() && !dev_key::allowed_for(address.ip()) {
            self.refuse(format!(
                "network.auth_key is not set, but network.address {address} can be reached from other hosts; set it or \
                 MEMKV_AUTH_KEY to 64 hexadecimal digits (make one with: openssl rand -hex 32), or listen on 127.0.0.1"
            ));
        } else if key.is_none() {
            let from = Source::Detected(format!("$HOME/{}, loopback only", dev_key::PATH).into());
            self.show("network.auth_key", "(development key)".to_owned(), from);
        }
        match (key, old) {
            (None, Some(_)) => self.refuse(
                "network.auth_key_previous is set, but network.auth_key is not; set auth_key to the new key".to_owned(),
            ),
            (Some(key), Some(old)) if key == old => self.refuse(
                "network.auth_key_previous is the same key as network.auth_key; remove it, or set auth_key to the new key"
                    .to_owned(),
            ),
            _ => {}
        }
    }
}

/// Whether an address is routed on the internet; an unspecified one is taken for inside.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64;
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || shared)
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unique_local()
                || ip.is_unicast_link_local())
        }
    }
}
