//! Where agents can reach this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The hosts to print connect strings for: the one the user advertises, the one listened on, or one
/// for each address family that leads anywhere.
#[must_use]
pub fn advertised(listen: SocketAddr, advertise: Option<&str>) -> Vec<String> {
    if let Some(host) = advertise {
        return vec![host.to_owned()];
    }
    if !listen.ip().is_unspecified() {
        return vec![listen.ip().to_string()];
    }
    let both = listen.is_ipv6();
    let v4 = outgoing(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let v6 = both.then(|| outgoing(IpAddr::V6(documentation))).flatten();
    let hosts: Vec<String> = [v4, v6]
        .into_iter()
        .flatten()
        .map(|ip| ip.to_string())
        .collect();
    if hosts.is_empty() {
        return vec![Ipv4Addr::LOCALHOST.to_string()];
    }
    hosts
}

/// The address this machine would send from. Connecting a datagram socket sends nothing; the
/// destinations are addresses for documentation (RFC 5737, RFC 3849), which take the default route.
fn outgoing(destination: IpAddr) -> Option<IpAddr> {
    let any = match destination {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_says_comes_first_and_something_always_comes() {
        let any = "[::]:8443".parse().unwrap();
        assert_eq!(advertised(any, Some("p2v.example")), ["p2v.example"]);
        let one = "127.0.0.1:8443".parse().unwrap();
        assert_eq!(advertised(one, None), ["127.0.0.1"]);
        let hosts = advertised(any, None);
        assert!((1..=2).contains(&hosts.len()), "{hosts:?}");
        for host in hosts {
            host.parse::<IpAddr>().unwrap();
        }
    }
}
