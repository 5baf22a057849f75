"""Which IP addresses belong to the public internet and may be connected to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address

# IANA IPv4 Special-Purpose Address Registry (RFC 6890 and successors), multicast, the reserved class E with
# the broadcast address. Written out because `ipaddress.is_global` differs between patch releases of Python.
_REFUSED_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service at 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's platform services, reachable from every virtual machine
        "169.254.0.0/16",  # link-local; the metadata services of AWS, Azure, Google
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; 255.255.255.255 broadcast
    )
)

# All of the public IPv6 internet is in 2000::/3. Outside it lie loopback, unspecified, unique local,
# link-local, site-local and multicast addresses, and ways to write an IPv4 address: NAT64 (64:ff9b::/96,
# 64:ff9b:1::/48), the IPv4-mapped, -compatible and -translated forms.
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
_ISATAP: Final = (
    0x00005EFE,
    0x02005EFE,
)  # RFC 5214: upper half of an interface id that ends in an IPv4 address


def is_public(address: Address) -> bool:
    """Whether `address` may be connected to for a URL from a stranger.

    IPv6 addresses that carry an IPv4 address are refused even when that one is public: no web site needs
    them, and a gateway that unwraps them may know the inner address as something else.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None or address not in _GLOBAL_V6:
        return False
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return not any(address in network for network in _REFUSED_V6)
