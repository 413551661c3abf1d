//! What gateways tell servers by RADIUS accounting: who got which address, and who gave it back. Each report is
//! repeated, byte by byte, until it is answered.
//!
//! Told are users with one terminal, by the name that their home knows. A user who is at home is bound by that word
//! alone; of a visitor the server learns no more than that the address has changed hands.

use super::network::{Lease, Way};
use super::phone::Phone;
use super::witness::Place;
use super::world::{Event, World};
use crate::clock::Now;
use crate::config::{Identify, Radius, RadiusClient, Secret};
use crate::control::Report;
use crate::id::{Endpoint, PushId};
use crate::sim::link::Flying;
use crate::sim::operator::{Operator, START_UNIX_S, v4};
use crate::wire::radius::{ACCOUNTING_PORT, attribute, code};

/// What a report says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// One for each time that an address was lent.
    pub(super) session: u64,
    /// Whom the server knows by the name in it, and as which device.
    pub(super) user: Option<(PushId, u8)>,
    pub(super) place: Place,
    /// The gateway's clock, by the second.
    pub(super) at_ms: u64,
    /// The address was lent; else it was given back.
    pub(super) starts: bool,
}

/// A report, until it is answered.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) told: Told,
    from: Endpoint,
    to: Endpoint,
    bytes: Vec<u8>,
    is_answered: bool,
}

/// A report that arrived and that the controller has not taken.
#[derive(Debug)]
pub(super) struct Arrived {
    account: usize,
    bytes: Vec<u8>,
    from: Endpoint,
}

/// The port of gateways from which the first report comes; each comes from one of its own.
const FIRST_PORT: u16 = 30_000;
/// How long a gateway waits for an answer.
const PATIENCE_NS: u64 = 2_000_000_000;
/// The APNs of the realms.
const APNS: [(&str, u32); 2] = [("apn1", 1), ("apn2", 2)];

/// `[radius]` of every server.
pub(super) fn radius(listen: Endpoint) -> Radius {
    let anybody = RadiusClient {
        prefix: (v4(0, 0, 0, 0, 0).ip(), 0),
        secret: Secret::new(b"between servers and gateways"),
        realm: None,
    };
    Radius {
        listen: vec![listen],
        realm: 0,
        identify: vec![Identify::UserName],
        port: super::network::PORT,
        session_max_s: 0,
        clients: vec![anybody],
        apns: APNS.map(|(apn, realm)| (apn.to_owned(), realm)).into(),
    }
}

/// Where a server hears reports.
pub(super) fn listen(site: usize) -> Endpoint {
    v4(198, 51, 100, site as u8 + 1, ACCOUNTING_PORT)
}

/// The name of a user in reports.
fn name(user: PushId) -> String {
    format!("{user}@example")
}

/// Every server's book has the names of its own users.
pub(super) fn add_names(operator: &mut Operator, phones: &[Phone]) {
    let mut users: Vec<PushId> = phones.iter().filter_map(|phone| phone.own).collect();
    users.dedup();
    for user in users {
        operator.sites[(user.0 >> 124) as usize].rib.names.push((name(user), user));
    }
}

impl World {
    /// A gateway reports that a terminal got an address, or gave it back.
    pub(super) fn tell(&mut self, phone: usize, lease: &Lease, starts: bool) {
        let Phone { own: Some(user), session, is_told: true, .. } = self.phones[phone] else { return };
        let Some(private) = lease.private.filter(|private| private.is_ipv4()) else { return };
        if !matches!(lease.way, Way::Tunnel | Way::Both) {
            return;
        }
        let (account, to) = (self.accounts.len(), listen(lease.site));
        let from = lease.uplink.with_port(FIRST_PORT + (account % 10_000) as u16);
        let at_s = START_UNIX_S + (self.now_ns - 1_000_000_000) / 1_000_000_000;
        let rows = &self.operator.sites[lease.site].rib.users;
        let device = rows.iter().find(|row| row.push_id == user).map_or(0, |row| row.device);
        let is_at_home = (user.0 >> 124) as usize == lease.site;
        let told = Told {
            session,
            user: is_at_home.then_some((user, device)),
            place: Place::Private(lease.realm, private.octets()),
            at_ms: at_s * 1000,
            starts,
        };
        let apn = APNS.iter().find(|(_, realm)| *realm == lease.realm).map_or("", |(apn, _)| apn);
        let address = &private.octets()[12..];
        let attributes = [
            (attribute::ACCT_STATUS_TYPE, &[0, 0, 0, if starts { 1 } else { 2 }][..]),
            (attribute::ACCT_SESSION_ID, format!("{session:016x}").as_bytes()),
            (attribute::NAS_IDENTIFIER, b"gateway"),
            (attribute::USER_NAME, name(user).as_bytes()),
            (attribute::CALLED_STATION_ID, apn.as_bytes()),
            (attribute::FRAMED_IP_ADDRESS, address),
            (attribute::EVENT_TIMESTAMP, &(at_s as u32).to_be_bytes()),
        ]
        .map(|(ty, value)| [&[ty, value.len() as u8 + 2], value].concat())
        .concat();
        let length = (attributes.len() as u16 + 20).to_be_bytes();
        // Listeners check authenticators; here they tell one report from the other.
        let bytes = [
            &[code::ACCOUNTING_REQUEST, account as u8][..],
            &length,
            &(account as u128).to_be_bytes(),
            &attributes,
        ]
        .concat();
        self.accounts.push(Account { told, from, to, bytes, is_answered: false });
        self.report(account);
    }

    /// A report goes out, and once more after a while.
    pub(super) fn report(&mut self, account: usize) {
        let Account { from, to, bytes, is_answered: false, .. } = self.accounts[account].clone() else {
            return;
        };
        self.send(from, to, 0, bytes);
        self.after(PATIENCE_NS, Event::Account(account));
    }

    /// A report or its answer arrives; gives back what is neither.
    pub(super) fn report_arrives(&mut self, datagram: Flying) -> Option<Flying> {
        let is_between = |account: &Account| [account.from, account.to].contains(&datagram.to);
        if datagram.to.port() == ACCOUNTING_PORT {
            let site = (0..self.nodes.len()).find(|site| listen(*site) == datagram.to)?;
            let account = self.accounts.iter().rposition(|account| account.from == datagram.from)?;
            let Some(life) = &mut self.nodes[site].life else {
                self.links.counters.nobody += 1;
                return None;
            };
            self.links.counters.delivered += 1;
            life.reports.push(Arrived { account, bytes: datagram.bytes, from: datagram.from });
            self.turn_at(site, self.now_ns + PATIENCE_NS / 10_000);
            return None;
        }
        match self.accounts.iter().rposition(is_between) {
            Some(account) => {
                self.links.counters.delivered += 1;
                self.accounts[account].is_answered = true;
                None
            }
            None => Some(datagram),
        }
    }

    /// The controller takes what has arrived; which reports that was.
    pub(super) fn take_reports(&mut self, site: usize, now: Now) -> Vec<Told> {
        let Some(life) = &mut self.nodes[site].life else { return Vec::new() };
        let tables = life.dataplane.reader.enter();
        let mut told = Vec::new();
        for Arrived { account, bytes, from } in std::mem::take(&mut life.reports) {
            life.controller.report(&tables, &Report { bytes: &bytes, from, listener: 0, client: 0, now });
            told.push(self.accounts[account].told);
        }
        told
    }

    /// An answer to a report leaves a server.
    pub(super) fn report_is_answered(&mut self, site: usize, to: Endpoint) {
        if let Some(account) = self.accounts.iter().rposition(|account| account.from == to) {
            let told = self.accounts[account].told;
            self.witness.reported(site, &told);
        }
    }
}
