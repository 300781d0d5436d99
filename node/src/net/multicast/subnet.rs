//! The subnets of a link: who is on it has its addresses there.

use std::net::IpAddr;

/// Prefixes of IPv6 on a LAN are no longer than this; DHCPv6 gives single addresses out of one that the router announces.
const V6_BITS: u8 = 64;

/// The addresses that share a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subnet {
    is_v4: bool,
    prefix: u128,
    mask: u128,
}

impl Subnet {
    /// The subnet of an interface that has `address`, of which the first `bits` name the subnet.
    pub(super) fn of(address: IpAddr, bits: u8) -> Subnet {
        let bits = if address.is_ipv4() { bits } else { bits.min(V6_BITS) };
        let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
        Subnet { is_v4: address.is_ipv4(), prefix: number(address) & mask, mask }
    }

    /// Whether `address` belongs to it.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_v4 && number(address) & self.mask == self.prefix
    }
}

/// An address as a number whose first bits are those of the address.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_holds_the_addresses_with_its_prefix() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let is_in = |subnet: (&str, u8), other| Subnet::of(ip(subnet.0), subnet.1).contains(ip(other));
        assert!(is_in(("10.1.2.3", 24), "10.1.2.77") && !is_in(("10.1.2.3", 24), "10.1.3.77"));
        assert!(!is_in(("10.1.2.3", 32), "10.1.2.4") && is_in(("10.1.2.3", 0), "192.0.2.1"));
        assert!(
            is_in(("2001:db8::9", 128), "2001:db8::a") && !is_in(("2001:db8::9", 128), "2001:db8:0:1::a")
        );
        assert!(!is_in(("0.0.0.0", 0), "::1"));
    }
}
