//! Addresses, routes and name servers.

use std::net::{Ipv4Addr, Ipv6Addr};

use stream_protocol::inventory::{Dns, Nic, Route};

use super::Root;

/// [route.h], [ipv6_route.h]: the route is up; the route is of an address of this machine.
const RTF_UP: u32 = 0x1;
const RTF_LOCAL: u32 = 0x8000_0000;

/// Give each interface its addresses. The running machine is asked; of another tree only the IPv6
/// addresses can be read.
pub(super) fn add_addresses(root: &Root, nics: &mut [Nic]) {
    let addresses = match root.is_live() {
        true => live_addresses(),
        false => ipv6_addresses(root),
    };
    for (name, address) in addresses {
        if let Some(nic) = nics.iter_mut().find(|nic| nic.name == name) {
            nic.addresses.push(address);
        }
    }
}

fn live_addresses() -> Vec<(String, String)> {
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    addresses
        .filter_map(|found| {
            let (address, mask) = (found.address?, found.netmask?);
            let text =
                if let (Some(ip), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
                    format!("{}/{}", ip.ip(), mask.ip().to_bits().count_ones())
                } else {
                    let (ip, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
                    format!("{}/{}", ip.ip(), mask.ip().to_bits().count_ones())
                };
            Some((found.interface_name, text))
        })
        .collect()
}

/// `/proc/net/if_inet6`: address, index, prefix length, scope, flags (all hexadecimal), name.
fn ipv6_addresses(root: &Root) -> Vec<(String, String)> {
    let text = root.text("proc/net/if_inet6").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let address = Ipv6Addr::from_bits(u128::from_str_radix(fields.first()?, 16).ok()?);
            let prefix = u8::from_str_radix(fields.get(2)?, 16).ok()?;
            Some(((*fields.get(5)?).to_owned(), format!("{address}/{prefix}")))
        })
        .collect()
}

/// The routes of the main table, IPv4 first.
pub(super) fn routes(root: &Root) -> Vec<Route> {
    let ipv4 = root.text("proc/net/route").unwrap_or_default();
    let ipv6 = root.text("proc/net/ipv6_route").unwrap_or_default();
    ipv4.lines()
        .skip(1)
        .filter_map(ipv4_route)
        .chain(ipv6.lines().filter_map(ipv6_route))
        .collect()
}

/// `/proc/net/route`: interface, destination, gateway, flags, references, use, metric, mask. The
/// addresses are the bytes of the network order printed as one number of the host's order, which is
/// little-endian on every machine this agent is built for.
fn ipv4_route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |index: usize| {
        let number = u32::from_str_radix(fields.get(index)?, 16).ok()?;
        Some(Ipv4Addr::from_bits(number.swap_bytes()))
    };
    let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
    if flags & RTF_UP == 0 {
        return None;
    }
    let (destination, gateway, mask) = (address(1)?, address(2)?, address(7)?);
    Some(Route {
        destination: destination_name(
            mask.to_bits() == 0,
            format!("{destination}/{}", mask.to_bits().count_ones()),
        ),
        gateway: (!gateway.is_unspecified()).then(|| gateway.to_string()),
        nic: Some((*fields.first()?).to_owned()),
        metric: fields.get(6)?.parse().ok(),
    })
}

/// `/proc/net/ipv6_route`: destination, its prefix length, source, its prefix length, next hop,
/// metric, references, use, flags, interface.
fn ipv6_route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |index: usize| {
        u128::from_str_radix(fields.get(index)?, 16)
            .ok()
            .map(Ipv6Addr::from_bits)
    };
    let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let (destination, gateway) = (address(0)?, address(4)?);
    let (prefix, metric, flags, nic) = (number(1)?, number(5)?, number(8)?, *fields.get(9)?);
    let of_every_machine =
        nic == "lo" || destination.is_multicast() || destination.is_unicast_link_local();
    if flags & RTF_UP == 0 || flags & RTF_LOCAL != 0 || of_every_machine {
        return None;
    }
    Some(Route {
        destination: destination_name(prefix == 0, format!("{destination}/{prefix}")),
        gateway: (!gateway.is_unspecified()).then(|| gateway.to_string()),
        nic: Some(nic.to_owned()),
        metric: Some(metric),
    })
}

fn destination_name(is_default: bool, network: String) -> String {
    match is_default {
        true => "default".to_owned(),
        false => network,
    }
}

/// [resolv.conf(5)]. Where systemd-resolved answers on the machine itself, its own list of servers
/// stands elsewhere.
pub(super) fn dns(root: &Root) -> Dns {
    let local_stub = "127.0.0.53";
    let dns = parse_resolv_conf(&root.text("etc/resolv.conf").unwrap_or_default());
    if dns.servers != [local_stub] {
        return dns;
    }
    match root.text("run/systemd/resolve/resolv.conf") {
        Some(text) => parse_resolv_conf(&text),
        None => dns,
    }
}

fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            // The last of `search` and `domain` counts, alone.
            Some("search" | "domain") => dns.search = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_as_the_kernel_prints_them() {
        let route =
            ipv4_route("eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0").unwrap();
        assert_eq!(route.destination, "default");
        assert_eq!(route.gateway.as_deref(), Some("192.0.2.1"));
        assert_eq!(route.metric, Some(100));
        let route =
            ipv4_route("eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0").unwrap();
        assert_eq!(route.destination, "192.0.2.0/24");
        assert_eq!(route.gateway, None);
        let zero = "00000000000000000000000000000000";
        let line = format!(
            "20010db8000000000000000000000000 20 {zero} 00 fe800000000000000000000000000001 \
             00000400 00000001 00000000 00000003 eth0"
        );
        let route = ipv6_route(&line).unwrap();
        assert_eq!(route.destination, "2001:db8::/32");
        assert_eq!(route.gateway.as_deref(), Some("fe80::1"));
        assert!(ipv6_route(&line.replace("eth0", "lo")).is_none());
        assert!(ipv4_route("eth0 zz").is_none());
    }

    #[test]
    fn the_last_search_line_counts() {
        let dns = parse_resolv_conf(
            "# x\nnameserver 192.0.2.1\ndomain a.example\nsearch b.example c.example\nnameserver\n",
        );
        assert_eq!(dns.servers, ["192.0.2.1"]);
        assert_eq!(dns.search, ["b.example", "c.example"]);
    }
}
