//! What `pushplane.toml` and the tables say of each other.

use crate::config::faults::Faults;
use crate::config::{Config, Places};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::table::Rib;
use crate::table::rib::{Tunnel, User};

/// Holds a configuration against the tables that it is to serve; warnings on success. `users` stand for those of
/// `rib`.
///
/// # Errors
///
/// At the place of the configuration's value that disagrees: a name that is no `[[server]]`; an
/// address family that a server, a gateway or a segment needs and no `listen` address has; a user
/// of this server whose `serving` is this server.
pub fn check_against(
    config: &Config,
    places: &Places,
    rib: &Rib,
    users: impl Iterator<Item = User>,
) -> Result<Vec<Diagnostic>, Diagnostics> {
    let mut faults = Faults::default();
    let mut warnings = Faults::default();
    let own = rib.servers.iter().position(|server| server.name == config.name);
    if own.is_none() {
        let mut known: Vec<_> = rib.servers.iter().map(|server| server.name.as_str()).take(20).collect();
        known.sort_unstable();
        faults.push(places.fault(
            places.name,
            format!(
                "name: expected the name of a [[server]] in servers.toml{}, found {:?}; add it there or correct it",
                if known.is_empty() { ", which has none".to_owned() } else { format!(" ({})", known.join(", ")) },
                config.name
            ),
        ));
    }
    families(config, places, rib, &mut faults);
    if let Some(own) = own.and_then(|own| rib.servers.get(own))
        && !config.listen.contains(&own.address)
    {
        warnings.push(places.fault(
            places.listen,
            format!(
                "listen: servers.toml says that {:?} is at {}, where nothing listens here; right only behind an \
                 address translation",
                own.name, own.address
            ),
        ));
    }
    each_user(config, places, rib, users, &mut faults, &mut warnings);
    for (realm, place) in &places.radius_realms {
        if !rib.segments.iter().any(|segment| segment.realm == *realm) {
            let sentence = format!(
                "realm: segments.csv has no segment of realm {realm}, so nobody is reached whom RADIUS tells of there; \
                 add its segments or correct it"
            );
            warnings.push(places.fault(*place, sentence));
        }
    }
    if config.policy.require_auth && rib.keys.is_empty() {
        warnings.push(places.fault(
            places.require_auth,
            "require_auth: keys.toml has no key, so every datagram will be refused; add keys or remove it",
        ));
    }
    faults.into_result(()).map(|()| warnings.into_vec())
}

fn families(config: &Config, places: &Places, rib: &Rib, faults: &mut Faults) {
    for ipv4 in [true, false] {
        if config.listen.iter().any(|listen| listen.is_ipv4() == ipv4) {
            continue;
        }
        let (family, example) =
            if ipv4 { ("IPv4", "192.0.2.1:17400") } else { ("IPv6", "[2001:db8::1]:17400") };
        let server = rib
            .servers
            .iter()
            .find(|server| server.name != config.name && server.address.is_ipv4() == ipv4)
            .map(|server| format!("server {:?} at {} in servers.toml", server.name, server.address));
        let gateway = rib
            .gateways
            .iter()
            .find(|gateway| gateway.tunnel != Tunnel::None && gateway.address.is_ipv4() == ipv4)
            .map(|gateway| format!("gateway {:?} at {} in gateways.toml", gateway.name, gateway.address));
        // Behind tunnel none the segment itself is what datagrams are sent to.
        let segment = rib
            .segments
            .iter()
            .find(|segment| {
                segment.ip.is_ipv4() == ipv4
                    && rib
                        .gateways
                        .get(segment.gateway as usize)
                        .is_some_and(|gateway| gateway.tunnel == Tunnel::None)
            })
            .map(|segment| {
                format!(
                    "segment {}/{} behind a gateway without tunnel in segments.csv",
                    segment.ip, segment.len
                )
            });
        for needs in [server, gateway, segment].into_iter().flatten() {
            faults.push(places.fault(
                places.listen,
                format!("listen: expected an {family} address, which {needs} needs, found none; add one like \"{example}\""),
            ));
        }
    }
}

/// What rows of users.csv need that this server has not, or say of it that cannot be.
fn each_user(
    config: &Config,
    places: &Places,
    rib: &Rib,
    users: impl Iterator<Item = User>,
    faults: &mut Faults,
    warnings: &mut Faults,
) {
    let home = |id| {
        rib.servers
            .iter()
            .flat_map(|server| server.prefixes.iter().map(move |prefix| (prefix, server)))
            .filter(|(prefix, _)| prefix.contains(id))
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, server)| server)
    };
    // Families that an address translation needs, told once each.
    let mut listens = [false, true].map(|ipv4| config.listen.iter().any(|own| own.is_ipv4() == ipv4));
    for User { push_id, nat, serving, .. } in users {
        if let Some(nat) = nat
            && !std::mem::replace(&mut listens[usize::from(nat.is_ipv4())], true)
        {
            let family = if nat.is_ipv4() { "IPv4" } else { "IPv6" };
            warnings.push(places.fault(
                places.listen,
                format!("listen: user {push_id} has an {family} nat address, and no {family} address listens; add one"),
            ));
        }
        if let Some(serving) = serving.filter(|serving| config.listen.contains(serving))
            && home(push_id).is_some_and(|server| server.name == config.name)
        {
            faults.push(places.fault(
                places.listen,
                format!(
                    "listen: user {push_id} of this server has serving = {serving} in users.csv, which is this server \
                     itself; correct the row"
                ),
            ));
        }
    }
}
