//! Whatever arrives: nothing panics, the accounts close, every frame comes back, nobody gets what was
//! for another, and no REJECT answers more than a drop.

use std::collections::HashMap;

use proptest::prelude::*;
use pushplane::id::{Endpoint, PushId};
use pushplane::plane::Verdict;
use pushplane::wire::prp::{Kind, flag, parse};

use crate::lab::*;
use crate::tunnels;

const SENDERS: [&str; 8] =
    [SENDER, STRANGER, OPEN, ABROAD, LISTEN4, "10.0.0.29:2948", "[2001:db8:5::1]:5", VXLAN];

/// Messages of every kind to every user of the lab, many of them right.
fn message() -> impl Strategy<Value = Msg> {
    let id = prop_oneof![
        (0u128..34).prop_map(own),
        (0u128..34).prop_map(own),
        (0u128..3).prop_map(abroad),
        (0u128..3).prop_map(open),
        Just(PushId::NONE),
        any::<u128>().prop_map(PushId),
    ];
    let kind = prop_oneof![4 => Just(1u8), 1 => Just(2u8), 1 => Just(3u8), 1 => Just(12u8), 1 => 0u8..16];
    let app = prop_oneof![3 => Just(app::ANY), 2 => 7u32..16, 1 => any::<u32>()];
    let key = prop_oneof![
        4 => Just(None),
        2 => prop_oneof![Just(ABROAD_KEY), Just(APP_KEY), 20u32..30].prop_map(Some),
    ];
    let option = prop_oneof![
        Just((1u8, u64::MAX.to_be_bytes().to_vec())),
        (0u8..4).prop_map(|device| (2, vec![device])),
        Just((14, at(SENDER).octets()[10..].to_vec())),
        (0u8..=255, prop::collection::vec(any::<u8>(), 0..40)),
        (90u8..128, prop::collection::vec(any::<u8>(), 0..150)),
        (0u8..30).prop_map(|length| (19, vec![0, length])),
        Just((9, vec![0, 1])),
    ];
    let options = prop::collection::vec(option, 0..5);
    let flags = prop_oneof![2 => Just(0u8), 1 => Just(flag::RECEIPT), 1 => any::<u8>()];
    (id.clone(), id, kind, app, key, options, flags, 0u8..10, 0usize..1500, 0u64..20).prop_map(
        |(to, source, kind, app, key, options, flags, hops, payload, id)| {
            let msg = msg(Kind::Push, to, source).kind(kind).app(app).flags(flags).hops(hops).id(id);
            let msg = options.into_iter().fold(msg, |msg, (option, value)| msg.option(option, &value));
            let msg = msg.payload(&vec![0x5A; payload]);
            if let Some(key) = key { msg.signed(key) } else { msg }
        },
    )
}

/// A datagram and who sends it: a message, perhaps cut, lengthened or with bytes changed, or no message
/// at all.
fn datagram() -> impl Strategy<Value = (Vec<u8>, Endpoint)> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let mutated =
        (message(), changes, any::<prop::sample::Index>(), 0u8..8).prop_map(|(msg, changes, cut, how)| {
            let mut bytes = msg.bytes();
            match how {
                0 => bytes.truncate(cut.index(bytes.len())),
                1 => bytes.resize(bytes.len() + cut.index(1200), 0xEE),
                2 | 3 => {
                    for (at, value) in changes {
                        let at = at.index(bytes.len());
                        bytes[at] = value;
                    }
                }
                _ => {}
            }
            bytes
        });
    let bytes = prop_oneof![6 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..200)];
    (bytes, prop::sample::select(SENDERS.map(at).to_vec()))
}

/// The private addresses, public ones and gateways of the lab's users.
struct Whose {
    private: HashMap<(u32, Endpoint), PushId>,
    public: HashMap<Endpoint, PushId>,
}

impl Whose {
    fn new() -> Self {
        let users = rib().users;
        let private = users.iter().filter_map(|row| Some(((row.realm, row.private?), row.push_id))).collect();
        let public = users.iter().filter_map(|row| Some((row.nat?, row.push_id))).collect();
        Self { private, public }
    }

    /// The user whom what was sent reaches, and the PRP datagram that it gets; none for what goes to a
    /// server or is an answer.
    fn reached(&self, sent: &Sent) -> Option<(PushId, Vec<u8>)> {
        let inner = match sent.to {
            to if to == at(VXLAN) && sent.bytes.first() == Some(&8) => tunnels::vxlan(sent),
            to if to == at(GTPU) => tunnels::gtpu(sent, TEID),
            to if to == at(GTPU6) => tunnels::gtpu(sent, 7),
            to if to == at(PLAIN) => {
                let options = sent.message().options;
                let private = options.private_address(&sent.bytes).expect("PrivateAddress");
                let realm = options.realm(&sent.bytes).expect("Realm");
                return Some((self.private[&(realm, private)], sent.bytes.clone()));
            }
            to => {
                let user = self.private.get(&(0, to)).or_else(|| self.public.get(&to))?;
                return Some((*user, sent.bytes.clone()));
            }
        };
        Some((self.private[&(0, inner.to)], inner.payload))
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(1500))]

    /// `Lab::take` itself asserts that the accounts close and every frame is back.
    #[test]
    fn whatever_arrives_is_accounted_for(bursts in prop::collection::vec(prop::collection::vec(datagram(), 1..24), 1..4)) {
        let whose = Whose::new();
        let mut lab = Lab::new();
        for burst in bursts {
            let before = *lab.plane.ledger().counters();
            let outcome = lab.take(&burst);
            let counters = lab.plane.ledger().counters();
            let drops = counters.dropped_total() - before.dropped_total();
            let rejects = counters.rejects - before.rejects;
            prop_assert!(rejects <= drops);
            let decided = |verdict: &Verdict| !matches!(verdict, Verdict::Pending | Verdict::Query);
            prop_assert!(outcome.verdicts.iter().all(decided));
            let dropped = outcome.verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Drop(_))).count();
            prop_assert_eq!(dropped as u64, drops);
            let from: Vec<Endpoint> = burst.iter().map(|(_, from)| *from).collect();
            for sent in &outcome.sent {
                let Some((user, bytes)) = whose.reached(sent) else { continue };
                let message = parse(&bytes).expect("what a terminal gets is PRP");
                // An answer to somebody who wrote from a terminal's address is for whoever wrote.
                let answers = matches!(message.kind, Kind::Reject | Kind::Echoed | Kind::Receipt);
                if !(answers && from.contains(&sent.to)) {
                    prop_assert_eq!(message.header.destination, user);
                    prop_assert!(!message.options.has(19), "PayloadLength");
                    prop_assert_eq!(message.header.flags & !flag::KNOWN, 0);
                }
            }
        }
    }

    /// What is taken apart here is what was put together: nothing that a message carried is lost or
    /// changed on its way to a terminal.
    #[test]
    fn what_arrives_at_a_terminal_is_what_was_sent(
        n in prop::sample::select(vec![user::VXLAN, user::VXLAN6, user::GTPU, user::GTPU6, user::NAT, user::NONE]),
        options in prop::collection::vec((20u8..128, prop::collection::vec(any::<u8>(), 0..60)), 0..6),
        payload in prop::collection::vec(any::<u8>(), 0..1300),
    ) {
        let msg = options.iter().fold(push(n), |msg, (option, value)| msg.option(*option, value)).payload(&payload);
        let sent = Lab::new().sent(&msg, SENDER);
        let (user, bytes) = Whose::new().reached(&sent).expect("a terminal");
        prop_assert_eq!(user, own(n));
        prop_assert_eq!(bytes, msg.bytes());
    }
}
