//! Which server holds a key: rendezvous (highest random weight) hashing over node identities.
//!
//! Every client that is given the same set of identities picks the same server for a key, in whatever order the servers
//! are listed, and without asking anyone. When a server joins or leaves, only the keys that it wins or held move: 1/N of
//! them; all others stay where they are.
//!
//! An identity is the configured server string, or the entry of `node_ids` beside it. It is *not* the address that the
//! string resolves to: a server that moves to a new address keeps its keys as long as its identity stays. The server says
//! its own identity in the handshake; a disagreement means that two clients may place keys differently (or that an
//! address now leads to another machine) and is kept as a finding, never acted upon.
//!
//! The weight of a key on a node is `xxh3_64(key, seed = xxh3_64(identity))`. Changing this moves every key of every
//! deployment, so the golden test below pins it.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// One server as the router knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What the key placement hashes: `node_ids[i]`, or the server string itself.
    pub identity: String,
    /// The server string as configured, `host:port`.
    pub server: String,
}

/// A server whose own identity differs from the one its keys are placed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityMismatch {
    /// The server string as configured.
    pub server: String,
    /// The identity that this client places keys by.
    pub expected: String,
    /// The identity that the server said in its handshake.
    pub announced: String,
}

/// Places keys on nodes.
#[derive(Debug)]
pub struct Router {
    nodes: Vec<Node>,
    seeds: Vec<u64>,
    mismatches: Mutex<Vec<IdentityMismatch>>,
    mismatches_seen: AtomicU64,
}

impl Router {
    /// A router over `nodes`; their order doesn't matter for placement, only for the index that [`Router::pick`] gives.
    ///
    /// # Panics
    /// If `nodes` is empty; the configuration has refused that.
    pub fn new(nodes: Vec<Node>) -> Self {
        assert!(!nodes.is_empty(), "a router needs at least one node");
        let seeds = nodes
            .iter()
            .map(|node| xxh3_64(node.identity.as_bytes()))
            .collect();
        Self {
            nodes,
            seeds,
            mismatches: Mutex::default(),
            mismatches_seen: AtomicU64::new(0),
        }
    }

    /// The nodes, in configured order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The index of the node that holds `key`. O(nodes), allocates nothing.
    pub fn pick(&self, key: &[u8]) -> usize {
        if self.seeds.len() == 1 {
            return 0;
        }
        let mut best = 0;
        let mut best_weight = xxh3_64_with_seed(key, self.seeds[0]);
        for (idx, &seed) in self.seeds.iter().enumerate().skip(1) {
            let weight = xxh3_64_with_seed(key, seed);
            // A tie goes to the lower identity and not to the lower index: the order in which a client lists its servers
            // must not matter, not even once in 2^64.
            let wins = weight > best_weight
                || (weight == best_weight && self.nodes[idx].identity < self.nodes[best].identity);
            if wins {
                best = idx;
                best_weight = weight;
            }
        }
        best
    }

    /// Whether a server that calls itself so isn't the node that its keys are placed by.
    ///
    /// An empty announcement is a server without a configured id: nothing to compare.
    pub fn is_other(&self, node_idx: usize, announced: &str) -> bool {
        !announced.is_empty() && announced != self.nodes[node_idx].identity
    }

    /// Notes what a server calls itself. True when this is a disagreement not noted before, to be logged once.
    pub fn announced(&self, node_idx: usize, announced: &str) -> bool {
        let node = &self.nodes[node_idx];
        if !self.is_other(node_idx, announced) {
            return false;
        }
        let mut mismatches = self.mismatches.lock();
        if mismatches
            .iter()
            .any(|known| known.server == node.server && known.announced == announced)
        {
            return false;
        }
        // A server that renames itself at every restart must not fill memory: one finding per server, the newest.
        mismatches.retain(|known| known.server != node.server);
        mismatches.push(IdentityMismatch {
            server: node.server.clone(),
            expected: node.identity.clone(),
            announced: announced.to_owned(),
        });
        self.mismatches_seen.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The disagreements found so far, at most one per server.
    pub fn mismatches(&self) -> Vec<IdentityMismatch> {
        self.mismatches.lock().clone()
    }

    /// How many times a server announced an identity that was new and wrong.
    pub fn mismatches_seen(&self) -> u64 {
        self.mismatches_seen.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(identities: &[&str]) -> Router {
        let node = |id: &&str| Node {
            identity: (*id).to_owned(),
            server: format!("{id}:9900"),
        };
        Router::new(identities.iter().map(node).collect())
    }

    fn owner(router: &Router, key: &[u8]) -> String {
        router.nodes()[router.pick(key)].identity.clone()
    }

    fn keys() -> impl Iterator<Item = Vec<u8>> {
        (0..4000_u32).map(|n| format!("block/{n}").into_bytes())
    }

    #[test]
    fn order_of_servers_does_not_matter() {
        let (a, b) = (router(&["n1", "n2", "n3"]), router(&["n3", "n1", "n2"]));
        for key in keys() {
            assert_eq!(owner(&a, &key), owner(&b, &key));
        }
    }

    #[test]
    fn keys_spread_evenly() {
        let router = router(&["n1", "n2", "n3", "n4"]);
        let mut counts = [0_u32; 4];
        for key in keys() {
            counts[router.pick(&key)] += 1;
        }
        for count in counts {
            assert!(
                (850..1150).contains(&count),
                "1000 ± 15 % of 4000 keys expected, got {counts:?}"
            );
        }
    }

    #[test]
    fn a_tie_goes_to_the_lower_identity_in_whatever_order_they_are_listed() {
        for identities in [["n1", "n2"], ["n2", "n1"]] {
            let mut router = router(&identities);
            router.seeds = vec![7, 7];
            assert_eq!(owner(&router, b"any"), "n1");
        }
    }

    #[test]
    fn removing_a_server_moves_only_its_own_keys() {
        let (before, after) = (router(&["n1", "n2", "n3"]), router(&["n1", "n3"]));
        for key in keys() {
            let was = owner(&before, &key);
            if was != "n2" {
                assert_eq!(owner(&after, &key), was);
            }
        }
    }

    #[test]
    fn placement_is_the_one_every_release_has_used() {
        let router = router(&["10.0.0.1:9900", "10.0.0.2:9900", "10.0.0.3:9900"]);
        let picks: String = (0..24_u32)
            .map(|n| char::from(b'0' + router.pick(format!("key-{n}").as_bytes()) as u8))
            .collect();
        assert_eq!(picks, GOLDEN_PICKS);
    }
    const GOLDEN_PICKS: &str = "200002021210010020220212";

    #[test]
    fn a_server_that_names_itself_otherwise_is_one_finding() {
        let router = router(&["n1", "n2"]);
        assert!(!router.announced(0, "n1"));
        assert!(!router.announced(0, ""));
        assert!(router.announced(1, "n7"));
        assert!(!router.announced(1, "n7"), "the second time is not news");
        assert!(router.announced(1, "n8"));
        let found = router.mismatches();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].expected.as_str(), found[0].announced.as_str()),
            ("n2", "n8")
        );
        assert_eq!(router.mismatches_seen(), 2);
    }
}
