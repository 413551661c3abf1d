//! Addresses as an operator writes them, for the configuration and for the tables.

use std::net::{IpAddr, SocketAddr};

use crate::id::Endpoint;

/// An address and a port. Without `default_port` the port must be written.
///
/// Refused: port 0, multicast, broadcast and unspecified addresses (nobody can be reached there),
/// and an IPv6 zone (`%eth0`: the tables have no room for it).
pub(crate) fn address(text: &str, default_port: Option<u16>) -> Result<Endpoint, String> {
    let endpoint = any_address(text, default_port)?;
    let ip = endpoint.ip();
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        return Err(format!("expected the address of one host, found {text}; name the address itself"));
    }
    if endpoint.port() == 0 {
        return Err(format!("expected a port from 1 to 65535, found 0 in {text}"));
    }
    Ok(endpoint)
}

/// As [`address`], but takes port 0 and wildcard addresses.
pub(crate) fn any_address(text: &str, default_port: Option<u16>) -> Result<Endpoint, String> {
    if let Ok(address) = text.parse::<SocketAddr>()
        && !text.contains('%')
    {
        return Ok(address.into());
    }
    let expected = if default_port.is_some() {
        "an address like 192.0.2.1 or [2001:db8::1], with or without :port"
    } else {
        "an address and port like 192.0.2.1:2948 or [2001:db8::1]:2948"
    };
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match (bare.parse::<IpAddr>(), default_port) {
        (Ok(ip), Some(port)) => Ok(Endpoint::new(ip, port)),
        (Ok(_), None) => Err(format!("expected {expected}, found {text:?}; add the port")),
        _ => Err(format!("expected {expected}, found {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_may_default() {
        for (text, port, shown) in [
            ("192.0.2.1", Some(7), Some("192.0.2.1:7")),
            ("192.0.2.1:9", Some(7), Some("192.0.2.1:9")),
            ("2001:db8::1", Some(7), Some("[2001:db8::1]:7")),
            ("[2001:db8::1]", Some(7), Some("[2001:db8::1]:7")),
            ("192.0.2.1", None, None),
            ("192.0.2.1:0", None, None),
            ("0.0.0.0:1", None, None),
            ("[::]:1", None, None),
            ("[ff02::1]:1", None, None),
            ("224.0.0.1:1", None, None),
            ("255.255.255.255:1", None, None),
            ("[fe80::1%1]:1", None, None),
            ("[192.0.2.1:1", Some(7), None),
            ("", Some(7), None),
        ] {
            assert_eq!(address(text, port).ok().map(|found| found.to_string()).as_deref(), shown, "{text}");
        }
    }
}
