//! What a configuration is checked against besides itself: the addresses and cores of this host.
//!
//! Addresses are asked of the kernel's tables and, where those are silent, by binding a socket to port 0 for a moment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

/// The host that a configuration is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its CPU cores.
    pub cores: usize,
    /// May a socket be bound to find out?
    pub may_bind: bool,
    /// The file may be meant for another host: every address will do.
    pub any_address: bool,
    /// Certificates that have expired are taken, because they served before.
    pub expired: bool,
}

impl Surroundings {
    /// The host that this process runs on.
    pub fn here() -> Surroundings {
        Surroundings {
            addresses: local_addresses(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            may_bind: true,
            any_address: false,
            expired: false,
        }
    }

    /// Can a listener be bound to this address here?
    pub fn has(&self, address: IpAddr) -> bool {
        let known = self.any_address
            || address.is_unspecified()
            || matches!(address, IpAddr::V4(v4) if v4.is_loopback())
            || self.addresses.contains(&address);
        known || (self.may_bind && TcpListener::bind((address, 0)).is_ok())
    }
}

/// The addresses of this host, loopback last; empty where the kernel does not tell.
pub fn local_addresses() -> Vec<IpAddr> {
    let mut found = from_fib_trie(&std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default());
    found.extend(from_if_inet6(&std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default()));
    found.sort_by_key(|address| (address.is_loopback(), address.is_ipv6()));
    found.dedup();
    found
}

/// Leaves of the routing table that are marked as this host's own.
fn from_fib_trie(text: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let mut leaf = None;
    for line in text.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            leaf = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.trim() == "/32 host LOCAL"
            && let Some(address) = leaf
            && !found.contains(&address.into())
        {
            found.push(address.into());
        }
    }
    found
}

/// Lines of 32 hexadecimal digits and what belongs to them. Link-local addresses need a zone to be bound: left out.
fn from_if_inet6(text: &str) -> Vec<IpAddr> {
    let addresses = text.lines().filter_map(|line| u128::from_str_radix(line.get(..32)?, 16).ok()).map(Ipv6Addr::from_bits);
    addresses.filter(|address| !address.is_unicast_link_local()).map(IpAddr::V6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_read_from_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\nLocal:\n     |-- 10.0.0.7\n        /32 host LOCAL\n";
        assert_eq!(from_fib_trie(trie), [IpAddr::from([10, 0, 0, 7]), IpAddr::from([127, 0, 0, 1])]);
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\nfe80000000000000000000fffe000001 02 40 20 80     eth0\n";
        assert_eq!(from_if_inet6(inet6), [IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        assert!(Surroundings::here().has(IpAddr::from([127, 0, 0, 1])));
        assert!(!Surroundings::here().has(IpAddr::from([192, 0, 2, 1])));
    }
}
