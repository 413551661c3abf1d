//! Who is in a world: servers with their keys and applications, users with their terminals.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use super::network::Network;
use super::options::Options;
use super::phone::Phone;
use crate::config::Policy;
use crate::id::PushId;
use crate::sim::operator::{Operator, v4};
use crate::sim::options::ServerKeys;
use crate::table::rib::{App, Key, Rule, User};

/// An application that anybody may push for, and one whose messages are signed.
pub(super) const OPEN_APP: u32 = 1;
pub(super) const SIGNED_APP: u32 = 4;
pub(super) const APP_KEY: (u32, [u8; 16]) = (104, [4; 16]);

/// Servers, their keys and applications.
pub(super) fn operator(options: &Options) -> Operator {
    let mut operator = Operator::bare(options.servers);
    let app = |id, key| App {
        id,
        name: format!("app-{id}"),
        sources: None,
        users: false,
        rule: Rule::Normal,
        rate: None,
        key,
    };
    let count = options.servers;
    for (at, site) in operator.sites.iter_mut().enumerate() {
        site.policy = Policy {
            register: options.policies[at],
            static_bindings: options.static_bindings,
            ..Policy::default()
        };
        site.rib.apps = vec![app(OPEN_APP, None), app(SIGNED_APP, Some(APP_KEY.0))];
        site.rib.keys.push(Key { id: APP_KEY.0, value: APP_KEY.1, user: None });
        for other in (0..count).filter(|other| *other != at) {
            let id = match options.server_keys {
                ServerKeys::None => continue,
                ServerKeys::One => 1,
                ServerKeys::Pairs => 1 + at.min(other) * count + at.max(other),
            };
            site.rib.servers[other].key = Some(id as u32);
            if site.rib.keys.iter().all(|key| key.id != id as u32) {
                site.rib.keys.push(Key { id: id as u32, value: [id as u8; 16], user: None });
            }
        }
    }
    operator.pushers = vec![v4(192, 0, 2, 1, 5000), v4(192, 0, 2, 200, 5000)];
    operator
}

/// Users with one terminal or several; some have keys, some a row in users.csv.
pub(super) fn phones(
    rng: &mut Pcg64Mcg,
    options: &Options,
    operator: &mut Operator,
    network: &Network,
) -> Vec<Phone> {
    let mut phones = Vec::new();
    let mut number = 0;
    while phones.len() < options.phones {
        number += 1;
        let home = rng.random_range(0..options.servers);
        let is_signed = rng.random_range(0..1000) < options.signed;
        let is_nameless = !is_signed && rng.random_bool(0.15);
        let user = PushId((home as u128) << 124 | 0x0500_0000 | number);
        let key = is_signed.then(|| (1000 + number as u32, rng.random()));
        if let Some((id, value)) = key {
            for site in &mut operator.sites {
                site.rib.keys.push(Key { id, value, user: Some(user) });
            }
        }
        let devices = if !is_nameless && rng.random_bool(0.3) { rng.random_range(2..=3) } else { 1 };
        let first = rng.random_range(0..2u8);
        for device in first..first + devices {
            phones.push(Phone {
                key,
                skew_ms: rng.random_range(-options.skew_ms..=options.skew_ms),
                // One that is lent to device 0 leads to all of the user's.
                borrows: !is_nameless && (device != 0 || devices == 1) && rng.random_bool(0.2),
                is_told: options.feeds && devices == 1,
                has_imsi: rng.random_bool(0.3),
                is_static: options.static_bindings && rng.random_bool(0.2),
                ..Phone::new((!is_nameless).then_some(user), device)
            });
        }
        if !is_nameless && rng.random_range(0..1000) < options.rows {
            let device = rng.random_range(first..=first + devices);
            if let Some((realm, private)) = network.any_private(rng, home) {
                let rows = &operator.sites[home].rib.users;
                let is_taken = |row: &User| (row.realm, row.private) == (realm, Some(private));
                if !rows.iter().any(is_taken) {
                    let row = User { realm, private: Some(private), ..User::new(user, device) };
                    operator.add_row(home, row);
                }
            }
        }
    }
    phones
}
