//! What kind of address an IP address is: whether a fetch may go there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far away an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// On the public internet.
    Public,
    /// On this machine or in a network of its own, and which: reached where the user's configuration names the host.
    Private(&'static str),
    /// Never reached, and what it is.
    Never(&'static str),
}

use Reach::{Never, Private, Public};

/// IPv4 by prefix (RFC 6890 and its registry); what is in none is public. Single addresses first.
const V4: &[(Ipv4Addr, u32, Reach)] = &[
    (Ipv4Addr::new(100, 100, 100, 200), 32, Never("a cloud's metadata address")),
    (Ipv4Addr::new(168, 63, 129, 16), 32, Never("a cloud's metadata address")),
    (Ipv4Addr::UNSPECIFIED, 8, Never("an unspecified address")),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Private("a private address")),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Private("a carrier's shared address")),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Private("a loopback address")),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Never("a link-local address, where clouds keep their metadata")),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Private("a private address")),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Never("a reserved address")),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Never("a documentation address")),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Never("a reserved address")),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Private("a private address")),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Private("a benchmark address")),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Never("a documentation address")),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Never("a documentation address")),
    (Ipv4Addr::new(224, 0, 0, 0), 4, Never("a multicast address")),
    (Ipv4Addr::new(240, 0, 0, 0), 4, Never("a reserved address")),
];

/// IPv6 by prefix; what is in none is public if it lies in 2000::/3.
const V6: &[(Ipv6Addr, u32, Reach)] = &[
    (Ipv6Addr::UNSPECIFIED, 128, Never("an unspecified address")),
    (Ipv6Addr::LOCALHOST, 128, Private("a loopback address")),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32, Never("a cloud's metadata address")),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, Never("an address that stands for another")),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Never("a documentation address")),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Never("an address that stands for another")),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, Never("an address that stands for another")),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Never("a documentation address")),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Private("a private address")),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, Never("a link-local address")),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, Never("a multicast address")),
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, Public),
];

/// Prefixes of 96 bits before an IPv4 address that is meant: IPv4-mapped, and NAT64 (RFC 6052).
const EMBEDDING: &[Ipv6Addr] =
    &[Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0)];

/// How far away `address` is.
pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

fn v4(address: Ipv4Addr) -> Reach {
    let bits = address.to_bits();
    let found = V4.iter().find(|(prefix, length, _)| (bits ^ prefix.to_bits()) >> (32 - length) == 0);
    found.map_or(Public, |(_, _, reach)| *reach)
}

fn v6(address: Ipv6Addr) -> Reach {
    let bits = address.to_bits();
    if EMBEDDING.iter().any(|prefix| (bits ^ prefix.to_bits()) >> 32 == 0) {
        return v4(Ipv4Addr::from_bits((bits & u128::from(u32::MAX)) as u32));
    }
    // An interface identifier that stands for an IPv4 address (RFC 5214) may be routed to it.
    if [0x0000_5efe, 0x0200_5efe].contains(&((bits >> 32) as u32)) {
        return Never("an address that stands for another");
    }
    let found = V6.iter().find(|(prefix, length, _)| (bits ^ prefix.to_bits()) >> (128 - length) == 0);
    found.map_or(Never("no global address"), |(_, _, reach)| *reach)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "93.184.216.34",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "11.0.0.1",
            "128.0.0.1",
            "169.253.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(reach(text.parse().unwrap()), Public, "{text}");
        }
        for text in [
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.254",
            "127.0.0.1",
            "127.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "::1",
            "fc00::1",
            "fdff::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "64:ff9b::192.168.1.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(matches!(reach(text.parse().unwrap()), Private(_)), "{text}");
        }
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "2001::1",
            "2001:db8::1",
            "2001:10::1",
            "3fff::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
            "4000::1",
            "2600::5efe:7f00:1",
            "2600::200:5efe:a00:1",
        ] {
            assert!(matches!(reach(text.parse().unwrap()), Never(_)), "{text}");
        }
    }
}
