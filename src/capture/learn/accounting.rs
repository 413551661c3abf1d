//! Sessions as RADIUS accounting tells them (RFC 2866, TS 29.061 §16.4).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use super::report::Findings;
use super::tables::Terminals;
use super::{Datagram, is_host};
use crate::id::Imsi;
use crate::wire::radius::{Accounting, Packet, Status, code};

/// Accounting packets of a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct AccountingCounts {
    /// Sessions begun: by a Start, or by an Interim of a session that was not known.
    pub started: u64,
    /// Further Starts and Interims of a session that goes on.
    pub continued: u64,
    /// Sessions ended by a Stop.
    pub stopped: u64,
    /// Sessions ended by an On or Off of who counts them.
    pub swept: u64,
    /// Reports of a session that had ended already.
    pub late: u64,
    /// Requests that say nothing of a session.
    pub other: u64,
    /// Responses.
    pub responses: u64,
    /// Requests whose authenticator does not fit the secret that was given.
    pub forged: u64,
    /// Datagrams on the port of accounting that are no such packet.
    pub malformed: u64,
}

/// Who counts a session, and how it calls it.
type Key = (Vec<u8>, Vec<u8>);

/// What a terminal has by a session.
type Held = (Option<IpAddr>, String, IpAddr, Option<Imsi>);

#[derive(Debug)]
struct Session {
    held: Vec<Held>,
    live: bool,
}

/// All sessions of a capture.
#[derive(Default)]
pub(super) struct Sessions {
    secret: Option<String>,
    sessions: HashMap<Key, Session>,
    /// By how many live sessions a terminal has an address: its bearers are sessions of their own.
    bearers: HashMap<Held, u32>,
    pub(super) counts: AccountingCounts,
}

impl Sessions {
    /// `secret` as in RFC 2865 §3; without one, requests are believed.
    pub(super) fn new(secret: Option<String>) -> Self {
        Self { secret, ..Self::default() }
    }

    /// Takes a datagram from or to the port of accounting.
    pub(super) fn take(
        &mut self,
        datagram: &Datagram<'_>,
        terminals: &mut Terminals,
        findings: &mut Findings,
    ) {
        let Ok(packet) = Packet::parse(datagram.payload) else { return self.counts.malformed += 1 };
        match packet.code() {
            code::ACCOUNTING_REQUEST => {}
            code::ACCOUNTING_RESPONSE => return self.counts.responses += 1,
            _ => return self.counts.other += 1,
        }
        if self.secret.as_ref().is_some_and(|secret| !packet.is_genuine(secret.as_bytes())) {
            return self.counts.forged += 1;
        }
        let Ok(said) = Accounting::read(&packet) else { return self.counts.malformed += 1 };
        let nas = match (said.nas_address, said.nas_identifier) {
            (Some(IpAddr::V4(v4)), _) => v4.octets().to_vec(),
            (Some(IpAddr::V6(v6)), _) => v6.octets().to_vec(),
            (None, Some(name)) => name.to_vec(),
            (None, None) => datagram.from.ip().to_string().into_bytes(),
        };
        match said.status {
            Status::Start | Status::Interim => {
                let place = format!("frame {}", datagram.frame_number);
                self.goes_on((nas, said.session.to_vec()), &said, &place, terminals, findings);
            }
            Status::Stop => self.stops((nas, said.session.to_vec()), &said, terminals),
            Status::On | Status::Off => self.sweep(&nas, terminals),
            Status::Other(_) => self.counts.other += 1,
        }
    }

    fn goes_on(
        &mut self,
        key: Key,
        said: &Accounting<'_>,
        place: &str,
        terminals: &mut Terminals,
        findings: &mut Findings,
    ) {
        match self.sessions.get(&key) {
            Some(session) if !session.live => return self.counts.late += 1,
            Some(_) => self.counts.continued += 1,
            None => self.counts.started += 1,
        }
        let held = held(said);
        if held.is_empty() {
            findings.note("reports of a session without a terminal's whole address", || place.to_owned());
        }
        if let (Some(imsi), Some(number)) = (said.imsi, said.calling_station) {
            let number = number.strip_prefix('+').unwrap_or(number);
            if number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit()) {
                terminals.name(number.to_owned(), imsi, findings);
            }
        }
        let session = self.sessions.entry(key).or_insert(Session { held: Vec::new(), live: true });
        for new in held {
            if session.held.contains(&new) {
                continue;
            }
            let (gateway, apn, address, imsi) = &new;
            terminals.session(*gateway, apn, *address, *imsi, findings);
            *self.bearers.entry(new.clone()).or_default() += 1;
            session.held.push(new);
        }
    }

    fn stops(&mut self, key: Key, said: &Accounting<'_>, terminals: &mut Terminals) {
        // A session of which only the end was captured: who had the address is worth knowing.
        let unseen = || Session { held: Vec::new(), live: true };
        let session = self.sessions.entry(key).or_insert_with(unseen);
        if !std::mem::replace(&mut session.live, false) {
            return self.counts.late += 1;
        }
        self.counts.stopped += 1;
        for held in session.held.drain(..) {
            let left = self.bearers.get_mut(&held).map_or(0, |bearers| {
                *bearers = bearers.saturating_sub(1);
                *bearers
            });
            if left == 0 || said.stops_all {
                terminals.ended(held.0, &held.1, held.2, held.3);
            }
        }
    }

    /// Who counts them has started anew, or ends.
    fn sweep(&mut self, nas: &[u8], terminals: &mut Terminals) {
        for ((by, _), session) in &mut self.sessions {
            if by == nas && std::mem::replace(&mut session.live, false) {
                self.counts.swept += 1;
                for held in session.held.drain(..) {
                    self.bearers.remove(&held);
                    terminals.ended(held.0, &held.1, held.2, held.3);
                }
            }
        }
    }
}

/// The addresses that a report gives a terminal. Its gateway is the one named; of a mobile network, else, who
/// counts it (TS 29.061 §16.4.7); of any other network none.
fn held(said: &Accounting<'_>) -> Vec<Held> {
    let gateway = said.ggsn.or(said.nas_address.filter(|_| said.imsi.is_some())).map(|ip| ip.to_canonical());
    let apn = said.called_station.filter(|_| gateway.is_some()).unwrap_or_default();
    let v6 = said.ipv6.and_then(|net| {
        let halves = [net.prefix, net.interface?].concat();
        <[u8; 16]>::try_from(halves).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
    });
    let addresses = said.ipv4.map(IpAddr::V4).into_iter().chain(v6).filter(|address| is_host(*address));
    addresses.map(|address| (gateway, apn.to_owned(), address, said.imsi)).collect()
}
