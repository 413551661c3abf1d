//! What terminals changed goes before users.csv: registered, released, taken over, lent (PROTOCOL.md, steps 4 and 5;
//! rulings 3 to 6, 9, 14, 22, 26; INTERFACE.md, rulings 3, 4 and 10).

use std::sync::Arc;

use pushplane::config::Policy;
use pushplane::id::{Endpoint, PushId};
use pushplane::plane::{Punt, Shared, Verdict};
use pushplane::reason::Reason;
use pushplane::table::{Binding, Change, LiveWriter};
use pushplane::wire::prp::{Kind, flag, option_type as ty};

use crate::lab::*;

fn private(user: PushId, device: u8, text: &str) -> Binding {
    Binding { private: Some(at(text)), ..Binding::new(user, device) }
}

fn nat(user: PushId, device: u8, text: &str) -> Binding {
    Binding { nat: Some(at(text)), ..Binding::new(user, device) }
}

/// A lab and who changes what is live in it.
fn lab() -> (Lab, Writer) {
    lab_with(Policy::default())
}

fn lab_with(policy: Policy) -> (Lab, Writer) {
    let lab = Lab::with(policy, &rib());
    let writer = lab.site.shared.live_writer().unwrap();
    (lab, Writer(writer))
}

struct Writer(LiveWriter);

impl Writer {
    fn bind(&mut self, binding: Binding) {
        self.0.apply(&Change::Bind { binding, heard_ms: 0 }).unwrap();
    }

    fn end(&mut self, user: PushId, device: u8) {
        self.0.apply(&Change::End { user, device, heard_ms: 0 }).unwrap();
    }

    fn forget(&mut self, user: PushId, device: u8) {
        self.0.apply(&Change::Forget { user, device }).unwrap();
    }

    fn lend(&mut self, lent: PushId, user: PushId, device: u8, until_ms: u64) {
        self.0.apply(&Change::Lend { lent, user, device, until_ms }).unwrap();
    }
}

/// Where copies of a message go, in order of address.
fn to(lab: &mut Lab, msg: &Msg) -> Vec<Endpoint> {
    let mut to: Vec<_> = lab.one(msg, SENDER).sent.iter().map(|sent| sent.to).collect();
    to.sort_unstable();
    to
}

/// A client that users.csv knows registers under another device number: one terminal, one copy. Another of the
/// user's terminals at the same address with another port is one of its own.
#[test]
fn a_row_that_registered_under_another_device_is_one_terminal() {
    let (mut lab, mut writer) = lab();
    let user = own(user::PLAIN);
    let push = push(user::PLAIN);
    let copies = to(&mut lab, &push);
    assert_eq!(copies.len(), 1);
    let here = lab.tables.terminals(user).next().unwrap().private().unwrap();
    writer.bind(private(user, 9, &here.to_string()));
    assert_eq!(to(&mut lab, &push.clone()), copies);
    writer.bind(private(user, 9, &here.with_port(here.port() + 1).to_string()));
    assert_eq!(to(&mut lab, &push).len(), 2);
}

#[test]
fn a_user_in_no_table_is_reached_where_it_registered() {
    let (mut lab, mut writer) = lab();
    let nobody = own(user::NOBODY);
    assert_eq!(lab.dropped(&push_to(nobody), SENDER), Reason::UnknownDestination);
    writer.bind(private(nobody, 0, "10.3.0.99:1234"));
    assert_eq!(to(&mut lab, &push_to(nobody)), [at("10.3.0.99:1234")]);
    writer.bind(nat(nobody, 2, "203.0.113.99:5"));
    writer.bind(nat(nobody, 3, "[2001:db8:9::99]:5"));
    assert_eq!(to(&mut lab, &push_to(nobody)).len(), 3);
    assert_eq!(to(&mut lab, &push_to(nobody).device(3)), [at("[2001:db8:9::99]:5")]);
    // Ruling 9: known from now on.
    for device in [0, 2, 3] {
        writer.end(nobody, device);
    }
    assert_eq!(lab.dropped(&push_to(nobody), SENDER), Reason::NotAttached);
    for device in [0, 2, 3] {
        writer.forget(nobody, device);
    }
    assert_eq!(lab.dropped(&push_to(nobody), SENDER), Reason::UnknownDestination);
}

/// INTERFACE.md, ruling 10: the binding goes before the row of the same user and device, and of that one only.
#[test]
fn a_registration_overrides_the_row_of_its_device() {
    let (mut lab, mut writer) = lab();
    let several = own(user::SEVERAL);
    writer.bind(private(several, 1, "10.3.0.14:7"));
    assert_eq!(to(&mut lab, &push(user::SEVERAL)), [at("10.3.0.14:7"), at(VXLAN), at(PLAIN)]);
    writer.end(several, 0);
    assert_eq!(to(&mut lab, &push(user::SEVERAL)), [at("10.3.0.14:7"), at(PLAIN)]);
    writer.forget(several, 0);
    writer.forget(several, 1);
    assert_eq!(to(&mut lab, &push(user::SEVERAL)).len(), 3, "users.csv is what holds again");
}

#[test]
fn validity_ends_a_binding_to_the_millisecond_and_hides_the_row() {
    let (mut lab, mut writer) = lab();
    let until = Some(NOW.unix_ms + 1500);
    writer.bind(Binding { valid_until_ms: until, ..private(own(user::NONE), 0, "10.3.0.77:7") });
    lab.now.unix_ms += 1499;
    assert_eq!(to(&mut lab, &push(user::NONE)), [at("10.3.0.77:7")]);
    lab.now.unix_ms += 1;
    assert_eq!(lab.dropped(&push(user::NONE), SENDER), Reason::NotAttached);
}

/// Ruling 6: one address, one user.
#[test]
fn the_address_of_a_row_that_somebody_else_has_now_gets_nothing() {
    let (mut lab, mut writer) = lab();
    let nobody = own(user::NOBODY);
    assert_eq!(to(&mut lab, &push(user::NONE)), [at("10.3.0.1:2948")]);
    // Any port, and the same realm only.
    writer.bind(Binding { realm: 9, ..private(nobody, 0, "10.3.0.1:2948") });
    assert_eq!(to(&mut lab, &push(user::NONE)), [at("10.3.0.1:2948")]);
    writer.bind(private(nobody, 0, "10.3.0.1:9"));
    assert_eq!(lab.dropped(&push(user::NONE), SENDER), Reason::NotAttached);
    assert_eq!(to(&mut lab, &push_to(nobody)), [at("10.3.0.1:9")]);
    // A public address belongs together with its port.
    writer.bind(nat(nobody, 1, "203.0.113.9:40010"));
    assert_eq!(to(&mut lab, &push(user::NAT)), [at("203.0.113.9:40009")]);
    writer.bind(nat(nobody, 1, "203.0.113.9:40009"));
    assert_eq!(lab.dropped(&push(user::NAT), SENDER), Reason::NotAttached);
    // From registration to registration.
    writer.bind(private(own(user::GTPU), 0, "10.3.0.1:9"));
    assert_eq!(to(&mut lab, &push_to(nobody)), [at("203.0.113.9:40009")]);
    assert_eq!(to(&mut lab, &push(user::GTPU)), [at("10.3.0.1:9")]);
}

/// Steps 4 and ruling 4: a user of another server that is here gets what its home sends, and only that.
#[test]
fn a_visitor_gets_what_its_home_server_sends() {
    let (mut lab, mut writer) = lab();
    let visitor = abroad(500);
    let roamed = || push_to(visitor).flags(flag::ROAMED).signed(ABROAD_KEY);
    assert_eq!(lab.dropped(&roamed(), ABROAD), Reason::NotAttached);
    writer.bind(private(visitor, 0, "10.3.0.50:1"));
    let sent = lab.sent(&roamed(), ABROAD);
    assert_eq!(sent.to, at("10.3.0.50:1"));
    assert_eq!(lab.sent(&push_to(visitor), SENDER).to, at(ABROAD), "not roamed: home first");
}

#[test]
fn an_own_user_that_registered_abroad_is_forwarded_to() {
    let (mut lab, mut writer) = lab();
    writer.bind(Binding { serving: Some(at(ABROAD)), ..Binding::new(own(user::VXLAN), 0) });
    let sent = lab.sent(&push(user::VXLAN), SENDER);
    assert_eq!(sent.to, at(ABROAD));
    assert!(sent.message().has(flag::ROAMED));
    assert_eq!(lab.dropped(&push(user::VXLAN).flags(flag::ROAMED), SENDER), Reason::NotAttached);
    writer.bind(private(own(user::VXLAN), 0, "10.3.0.2:1"));
    assert_eq!(to(&mut lab, &push(user::VXLAN)), [at("10.3.0.2:1")]);
}

/// Ruling 5.
#[test]
fn a_lent_push_id_leads_to_whom_it_is_lent_to() {
    let (mut lab, mut writer) = lab();
    let lent = own(0xABCD);
    assert_eq!(lab.dropped(&push_to(lent), SENDER), Reason::UnknownDestination);
    writer.lend(lent, own(user::SEVERAL), 0, NOW.unix_ms + 1000);
    assert_eq!(to(&mut lab, &push_to(lent)).len(), 3);
    writer.lend(lent, own(user::SEVERAL), 3, NOW.unix_ms + 1000);
    assert_eq!(to(&mut lab, &push_to(lent)), [at(PLAIN)]);
    writer.bind(nat(own(user::SEVERAL), 3, "203.0.113.77:7"));
    let sent = lab.sent(&push_to(lent), SENDER);
    assert_eq!((sent.to, sent.message().header.destination), (at("203.0.113.77:7"), lent));
    lab.now.unix_ms += 1000;
    assert_eq!(lab.dropped(&push_to(lent), SENDER), Reason::UnknownDestination);
}

/// Ruling 16: the source user of a lent Push ID is whom it is lent to, as long as it is. So a terminal can sign the
/// RECEIPT of a message that came to what it was lent.
#[test]
fn what_comes_from_a_lent_push_id_is_signed_by_whom_it_is_lent_to() {
    let (mut lab, mut writer) = lab();
    let (lent, user) = (own(0xABCD), own(user::KEY_PLAIN));
    writer.lend(lent, user, 0, NOW.unix_ms + 1000);
    lab.sent(&push_to(lent).source(abroad(1)).id(5).flags(flag::RECEIPT), SENDER);
    let receipt = |id| {
        let receipt = msg(Kind::Receipt, abroad(1), lent).id(id);
        receipt.signed_at(user::KEY_PLAIN as u32, NOW.unix_ms)
    };
    assert_eq!(lab.sent(&receipt(5), "10.2.0.23:2948").to, at(SENDER));
    let other = msg(Kind::Receipt, abroad(1), lent).signed_at(user::KEY_VXLAN as u32, NOW.unix_ms);
    assert_eq!(lab.dropped(&other, "10.2.0.23:2948"), Reason::AuthenticationFailed);
    lab.now.unix_ms += 1000;
    assert_eq!(lab.dropped(&receipt(77), "10.2.0.23:2948"), Reason::AuthenticationFailed);
}

/// Two devices bound to one address and port are one terminal, as when an address passes from one to the other: one
/// copy. Either is still reached by its number.
#[test]
fn a_terminal_that_is_bound_as_two_devices_gets_one_copy() {
    for bind in [private, nat] {
        let (mut lab, mut writer) = lab();
        let user = own(user::NOBODY);
        writer.bind(bind(user, 1, "10.3.0.60:2948"));
        writer.bind(bind(user, 2, "10.3.0.60:2948"));
        let push = || push(user::NOBODY);
        assert_eq!(to(&mut lab, &push()), [at("10.3.0.60:2948")]);
        assert_eq!(to(&mut lab, &push().device(2)), [at("10.3.0.60:2948")]);
        writer.bind(bind(user, 2, "10.3.0.60:2949"));
        assert_eq!(to(&mut lab, &push()).len(), 2);
    }
}

/// INTERFACE.md, rulings 3 and 4: a terminal is where its binding says, a user who has one.
#[test]
fn senders_are_judged_by_live_bindings_too() {
    let (mut lab, mut writer) = lab_with(Policy { known_sources: true, ..Policy::default() });
    let nobody = own(user::NOBODY);
    let message = || push(user::NONE).app(app::USERS).source(nobody);
    assert_eq!(lab.dropped(&message(), "10.3.0.60:1"), Reason::SourceAddressNotAllowed);
    let until = Some(NOW.unix_ms + 1000);
    writer.bind(Binding { valid_until_ms: until, ..private(nobody, 0, "10.3.0.60:2948") });
    assert_eq!(lab.sent(&message(), "10.3.0.60:1").to, at("10.3.0.1:2948"));
    assert_eq!(lab.dropped(&message(), "10.3.0.61:1"), Reason::SourceAddressNotAllowed);
    let by_anyone = || push(user::NONE).source(nobody);
    assert_eq!(lab.sent(&by_anyone(), STRANGER).to, at("10.3.0.1:2948"));
    // A row whose user moved away is no terminal there any more.
    let both = || push(user::NONE).app(app::USERS).source(own(user::BOTH));
    assert_eq!(lab.sent(&both(), "10.0.0.29:1").to, at("10.3.0.1:2948"));
    writer.bind(private(own(user::BOTH), 0, "10.3.0.62:1"));
    assert_eq!(lab.dropped(&both(), "10.0.0.29:1"), Reason::SourceAddressNotAllowed);
    lab.now.unix_ms += 1000;
    assert_eq!(lab.dropped(&message(), "10.3.0.60:1"), Reason::SourceAddressNotAllowed);
    assert_eq!(lab.dropped(&by_anyone(), STRANGER), Reason::UnknownSource);
}

/// Ruling 14: the public address is the one that the live binding holds.
#[test]
fn the_source_address_is_the_live_one() {
    let (mut lab, mut writer) = lab();
    writer.bind(Binding { nat: Some(at("203.0.113.60:6")), ..private(own(user::BOTH), 0, "10.0.0.29:2948") });
    let sent = lab.sent(&push_to(abroad(1)).source(own(user::BOTH)), "10.0.0.29:2948");
    let source = sent.message().options.source_address(&sent.bytes);
    assert_eq!(source, Some(at("203.0.113.60:6")));
}

/// Ruling 22: from where it last wrote to.
#[test]
fn a_terminal_gets_its_messages_from_where_it_wrote_to() {
    let shared = Arc::new(Shared::new(&LIMITS, 1, 7));
    let mut writer = Writer(shared.live_writer().unwrap());
    let mut site = site(Policy::default(), 0, shared);
    site.listen.push(at("192.0.2.2:17400"));
    let mut lab = Lab::at_site(site, tables(&rib()));
    let nobody = own(user::NOBODY);
    for (binding, expected) in [
        (nat(nobody, 0, "203.0.113.99:5"), 2),
        (private(nobody, 0, "10.3.0.99:5"), 2),
        (nat(nobody, 0, "[2001:db8:9::99]:5"), 1),
    ] {
        writer.bind(Binding { listener: 2, ..binding });
        assert_eq!(lab.sent(&push_to(nobody), SENDER).listener, expected);
    }
    // A listener that is no more.
    writer.bind(Binding { listener: 9, ..nat(nobody, 0, "203.0.113.99:5") });
    assert_eq!(lab.sent(&push_to(nobody), SENDER).listener, 0);
}

/// Everything that the plane handed over.
fn punts(lab: &Lab) -> Vec<Punt> {
    let punted = lab.plane.ledger().counters().punted;
    lab.site.shared.punted(0, punted, true);
    let ring = &lab.site.shared.punts()[0];
    let mut taken = punted.saturating_sub(LIMITS.punts as u64);
    std::iter::from_fn(|| ring.take(&mut taken)).collect()
}

#[test]
fn what_is_rarer_than_a_push_goes_to_the_controller_as_it_came() {
    let mut lab = Lab::new();
    let register = msg(Kind::Register, own(user::KEY_NAT), PushId::NONE)
        .option(ty::LISTEN_PORT, &[0, 0])
        .signed(user::KEY_NAT as u32);
    let asks = [
        (register.clone(), STRANGER, Some(user::KEY_NAT as u32)),
        (msg(Kind::Release, own(1), PushId::NONE).device(0), STRANGER, None),
        (msg(Kind::Group, own(1), PushId::NONE).option(ty::GROUP_REQUEST, &[1, 0, 0, 0]), STRANGER, None),
        (msg(Kind::Resolve, PushId::NONE, own(1)).option(ty::NAME, b"x"), STRANGER, None),
        (msg(Kind::Introduce, own(1), own(2)), STRANGER, None),
        (
            msg(Kind::Registered, PushId::NONE, own(1)).option(ty::VALIDITY, &[0; 4]).signed(ABROAD_KEY),
            ABROAD,
            Some(ABROAD_KEY),
        ),
        (msg(Kind::Released, PushId::NONE, own(1)), OPEN, None),
        (msg(Kind::Reject, PushId::NONE, own(1)).option(ty::REASON, &[0, 1]), OPEN, None),
    ];
    for (ask, from, _) in &asks {
        let outcome = lab.one(ask, from);
        assert_eq!((&outcome.verdicts[..], outcome.sent.len()), (&[Verdict::Punt][..], 0));
    }
    let taken = punts(&lab);
    assert_eq!(taken.len(), asks.len());
    for (punt, (ask, from, key)) in taken.iter().zip(asks) {
        assert_eq!((punt.bytes(), punt.from, punt.listener), (&ask.bytes()[..], at(from), 0));
        assert_eq!(punt.signed_by, key);
    }
    // Ruling 17, and whose key is right.
    assert_eq!(lab.dropped(&register, STRANGER), Reason::StaleOrReplayed);
    let other = msg(Kind::Release, own(user::KEY_VXLAN), PushId::NONE).device(0).signed(user::KEY_NAT as u32);
    assert_eq!(lab.dropped(&other, STRANGER), Reason::AuthenticationFailed);
    let as_source = msg(Kind::Resolve, own(user::KEY_NAT), PushId::NONE).option(ty::NAME, b"x");
    assert_eq!(lab.dropped(&as_source.signed(user::KEY_NAT as u32), STRANGER), Reason::AuthenticationFailed);
}

/// Ruling 26.
#[test]
fn answers_to_no_question_are_dropped() {
    let mut lab = Lab::new();
    let answer = |kind| {
        msg(kind, own(1), own(2)).option(ty::VALIDITY, &[0; 4]).option(ty::GROUP_REQUEST, &[1, 0, 0, 0])
    };
    for kind in [Kind::Registered, Kind::Released, Kind::Grouped, Kind::Resolved, Kind::Echoed] {
        assert_eq!(lab.dropped(&answer(kind), STRANGER), Reason::UnsupportedKind);
    }
    assert_eq!(lab.dropped(&answer(Kind::Grouped), OPEN), Reason::UnsupportedKind);
}

#[test]
fn a_full_ring_refuses_and_a_long_request_is_too_large() {
    let mut lab = Lab::new();
    let release = || msg(Kind::Release, own(1), PushId::NONE).device(0);
    let long = release().payload(&[0; 1400]);
    let size = |n: usize| release().payload(&vec![0; n - release().payload(&[]).bytes().len()]);
    assert_eq!(lab.one(&long, STRANGER).verdicts, [Verdict::Punt]);
    assert_eq!(lab.one(&size(1472), STRANGER).verdicts, [Verdict::Punt]);
    assert_eq!(lab.dropped(&size(1473), STRANGER), Reason::TooLarge);
    for _ in 2..LIMITS.punts {
        assert_eq!(lab.one(&release(), STRANGER).verdicts, [Verdict::Punt]);
    }
    assert_eq!(lab.dropped(&release(), STRANGER), Reason::Overloaded);
    assert_eq!(punts(&lab).len(), LIMITS.punts);
    assert_eq!(lab.one(&release(), STRANGER).verdicts, [Verdict::Punt]);
}
