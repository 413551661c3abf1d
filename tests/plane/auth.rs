//! Authentication, hop by hop (PROTOCOL.md, "Options", Auth; rulings 15 to 17).

use std::sync::Arc;

use pushplane::config::Policy;
use pushplane::id::PushId;
use pushplane::plane::{Shared, Verdict};
use pushplane::reason::Reason;
use pushplane::table::{Binding, Change};
use pushplane::wire::prp::auth::{Auth, MacKey};
use pushplane::wire::prp::{Kind, option_type as ty};

use crate::lab::*;
use crate::tunnels;

fn delivered(lab: &mut Lab, msg: &Msg, from: &str) {
    let outcome = lab.one(msg, from);
    assert_eq!(outcome.verdicts, [Verdict::Deliver], "{outcome:?}");
}

/// The key and time with which a PRP datagram is rightly signed.
fn signature(bytes: &[u8]) -> Option<(u32, u64)> {
    let message = pushplane::wire::prp::parse(bytes).unwrap();
    let auth = Auth::of(&message.options, bytes)?;
    assert!(MacKey::new(secret(auth.key)).verify(bytes, &auth), "the tag of key {}", auth.key);
    Some((auth.key, auth.unix_ms))
}

/// Ruling 16: unknown key, wrong tag, or a key that is neither the sending server's, the application's
/// nor the source user's: authentication-failed.
#[test]
fn ruling_16_an_auth_is_checked_wherever_it_appears() {
    let mut lab = Lab::new();
    let by = |source| push(user::VXLAN).source(source);
    delivered(&mut lab, &by(own(user::KEY_NAT)).signed(user::KEY_NAT as u32), STRANGER);
    delivered(&mut lab, &by(ASKER).app(app::KEYED).signed(APP_KEY), STRANGER);
    delivered(&mut lab, &by(ASKER).signed(ABROAD_KEY), ABROAD);
    for (what, msg) in [
        ("unknown key", by(ASKER).signed(77)),
        ("nobody's key", by(ASKER).signed(NOBODYS_KEY)),
        ("another user's", by(own(user::KEY_NAT)).signed(user::KEY_VXLAN as u32)),
        ("another application's", by(ASKER).signed(APP_KEY)),
        ("another server's", by(ASKER).signed(ABROAD_KEY)),
        ("the destination's", by(ASKER).signed(user::KEY_VXLAN as u32)),
    ] {
        assert_eq!(lab.dropped(&msg, STRANGER), Reason::AuthenticationFailed, "{what}");
    }
    let signed = by(own(user::KEY_NAT)).signed(user::KEY_NAT as u32).bytes();
    // Byte 48 is the option's type: turned, it is no Auth, and the message an unsigned one.
    for at in (0..signed.len()).filter(|at| *at != 48) {
        let mut bytes = signed.clone();
        bytes[at] ^= 0x80;
        let reason = lab.dropped_bytes(&bytes, &format!("203.0.113.{}:5", at % 200));
        // A turned bit may break an earlier rule; it never passes.
        assert!(reason <= Reason::AuthenticationFailed || reason == Reason::UnsupportedKind, "{at} {reason}");
    }
    let echo = msg(Kind::Echo, own(1), ASKER).signed(APP_KEY);
    assert_eq!(lab.dropped(&echo, STRANGER), Reason::AuthenticationFailed);
    let receipt = msg(Kind::Receipt, own(1), ASKER).signed(NOBODYS_KEY);
    assert_eq!(lab.dropped(&receipt, STRANGER), Reason::AuthenticationFailed);
}

/// Ruling 16: an application with a key takes messages signed with that key only (and those that a
/// [[server]] forwards).
#[test]
fn ruling_16_an_application_with_a_key_takes_no_other() {
    let mut lab = Lab::new();
    let msg = || push(user::VXLAN).app(app::KEYED).source(own(user::KEY_NAT));
    assert_eq!(lab.dropped(&msg(), SENDER), Reason::AuthenticationFailed);
    assert_eq!(lab.dropped(&msg().signed(user::KEY_NAT as u32), SENDER), Reason::AuthenticationFailed);
    delivered(&mut lab, &msg().signed(APP_KEY), SENDER);
    delivered(&mut lab, &msg().signed(ABROAD_KEY), ABROAD);
    delivered(&mut lab, &msg(), OPEN);
}

/// INTERFACE, ruling 5: a datagram from the address of a [[server]] with a key must carry an Auth of
/// that key.
#[test]
fn interface_5_a_server_with_a_key_signs() {
    let mut lab = Lab::new();
    assert_eq!(lab.dropped(&push(user::VXLAN), ABROAD), Reason::AuthenticationFailed);
    let app_key = push(user::VXLAN).app(app::KEYED).signed(APP_KEY);
    assert_eq!(lab.dropped(&app_key, ABROAD), Reason::AuthenticationFailed);
    let user_key = push(user::VXLAN).source(own(user::KEY_NAT)).signed(user::KEY_NAT as u32);
    assert_eq!(lab.dropped(&user_key, ABROAD), Reason::AuthenticationFailed);
    let receipt = msg(Kind::Receipt, own(user::VXLAN), ASKER);
    assert_eq!(lab.dropped(&receipt, ABROAD), Reason::AuthenticationFailed);
    delivered(&mut lab, &receipt.signed(ABROAD_KEY), ABROAD);
    // A key that the server `open` does not have is nobody's there.
    assert_eq!(lab.dropped(&push(user::VXLAN).signed(ABROAD_KEY), OPEN), Reason::AuthenticationFailed);
}

#[test]
fn policy_require_auth_wants_every_datagram_signed() {
    let mut lab = Lab::with(Policy { require_auth: true, ..Policy::default() }, &rib());
    assert_eq!(lab.dropped(&push(user::VXLAN), SENDER), Reason::AuthenticationFailed);
    assert_eq!(lab.dropped(&push(user::VXLAN), OPEN), Reason::AuthenticationFailed);
    assert_eq!(lab.dropped(&msg(Kind::Echo, own(1), ASKER), SENDER), Reason::AuthenticationFailed);
    assert_eq!(lab.dropped(&msg(Kind::Receipt, own(1), ASKER), SENDER), Reason::AuthenticationFailed);
    delivered(&mut lab, &push(user::VXLAN).app(app::KEYED).signed(APP_KEY), SENDER);
    let by_user = push(user::VXLAN).source(own(user::KEY_NAT)).signed(user::KEY_NAT as u32);
    delivered(&mut lab, &by_user, SENDER);
}

/// "A time more than 30 s from the receiver's clock is stale": before and after.
#[test]
fn auth_a_time_more_than_30_s_off_is_stale() {
    let mut lab = Lab::new();
    let at = |time| push(user::VXLAN).app(app::KEYED).signed_at(APP_KEY, time);
    for (time, fresh) in [(0, true), (-30_000, true), (30_000, true), (-30_001, false), (30_001, false)] {
        let msg = at(NOW.unix_ms.checked_add_signed(time).unwrap());
        if fresh {
            delivered(&mut lab, &msg, SENDER);
        } else {
            assert_eq!(lab.dropped(&msg, SENDER), Reason::StaleOrReplayed, "{time}");
        }
    }
    assert_eq!(lab.dropped(&at(0), SENDER), Reason::StaleOrReplayed);
    assert_eq!(lab.dropped(&at(u64::MAX), SENDER), Reason::StaleOrReplayed);
}

/// Ruling 17: seen means accepted by the tag check within the last 60 s for the same key, source,
/// destination and message identifier, over the whole server, whichever shard it reaches.
#[test]
fn ruling_17_a_replay_is_seen_by_every_shard() {
    let shared = Arc::new(Shared::new(&LIMITS, 2, 7));
    let lab = |shard| Lab::at_site(site(Policy::default(), shard, Arc::clone(&shared)), tables(&rib()));
    let (mut one, mut two) = (lab(0), lab(1));
    let msg = push(user::VXLAN).app(app::KEYED).signed(APP_KEY);
    delivered(&mut one, &msg, SENDER);
    assert_eq!(one.dropped(&msg, SENDER), Reason::StaleOrReplayed);
    assert_eq!(two.dropped(&msg, STRANGER), Reason::StaleOrReplayed);
    // The same identifier for another user, from another source, with another key.
    let id = msg.header.message;
    delivered(&mut two, &push(user::GTPU).app(app::KEYED).id(id).signed(APP_KEY), SENDER);
    delivered(&mut two, &push(user::VXLAN).app(app::KEYED).id(id).source(abroad(9)).signed(APP_KEY), SENDER);
    delivered(&mut two, &push(user::VXLAN).app(app::KEYED).id(id).signed(ABROAD_KEY), ABROAD);
    // Signed anew it is the same message still.
    let again = msg.clone().signed_at(APP_KEY, NOW.unix_ms + 1);
    assert_eq!(two.dropped(&again, SENDER), Reason::StaleOrReplayed);
    for lab in [&mut one, &mut two] {
        lab.now = lab.now.plus_ns(59_000_000_000);
        let late = msg.clone().signed_at(APP_KEY, lab.now.unix_ms);
        assert_eq!(lab.dropped(&late, SENDER), Reason::StaleOrReplayed);
    }
    one.now = one.now.plus_ns(3_000_000_000);
    let now = one.now.unix_ms;
    delivered(&mut one, &msg.clone().signed_at(APP_KEY, now), SENDER);
    // A wrong tag is not "accepted by the tag check".
    let other = push(user::VXLAN).app(app::KEYED);
    let wrong = other.clone().signed_at(NOBODYS_KEY, now);
    assert_eq!(one.dropped(&wrong, SENDER), Reason::AuthenticationFailed);
    delivered(&mut one, &other.signed_at(APP_KEY, now), SENDER);
}

/// Twice within one burst too; unsigned messages are not looked at.
#[test]
fn ruling_17_within_a_burst() {
    let mut lab = Lab::new();
    let (signed, unsigned) = (push(user::VXLAN).app(app::KEYED).signed(APP_KEY), push(user::VXLAN));
    let outcome = lab.take(&[&signed, &signed, &unsigned, &unsigned].map(|msg| (msg.bytes(), at(SENDER))));
    let replayed = Verdict::Drop(Reason::StaleOrReplayed);
    assert_eq!(outcome.verdicts, [Verdict::Deliver, replayed, Verdict::Deliver, Verdict::Deliver]);
}

/// "It drops that Auth option and, where the next hop shares a key, puts its own"; ruling 13.
#[test]
fn auth_is_replaced_hop_by_hop() {
    let mut lab = Lab::new();
    let by_app = |to| push_to(to).app(app::KEYED).signed_at(APP_KEY, NOW.unix_ms - 5);
    let to_abroad = lab.sent(&by_app(abroad(5)), SENDER);
    assert_eq!(signature(&to_abroad.bytes), Some((ABROAD_KEY, NOW.unix_ms)));
    let to_open = lab.sent(&by_app(open(5)), SENDER);
    assert_eq!(signature(&to_open.bytes), None);
    assert!(!to_open.message().options.has(ty::AUTH));
    let nat = lab.sent(&by_app(own(user::NAT)), SENDER);
    assert!(!nat.message().options.has(ty::AUTH));
    assert_eq!(nat.bytes, {
        let mut plain = by_app(own(user::NAT));
        plain.header.message = nat.message().header.message;
        plain_bytes(plain)
    });
    let roaming = lab.sent(&push(user::ROAMING), SENDER);
    assert_eq!(signature(&roaming.bytes), Some((ABROAD_KEY, NOW.unix_ms)));
}

/// The message without its signature.
fn plain_bytes(msg: Msg) -> Vec<u8> {
    let signed = msg.bytes();
    let head = usize::from(signed[3]) * 4;
    let mut bytes = [&signed[..head - 32], &signed[head..]].concat();
    bytes[3] -= 8;
    bytes
}

/// Ruling 15: towards a terminal of a user with a key the server signs with that key, inside a tunnel
/// too.
#[test]
fn ruling_15_what_a_user_with_a_key_gets_is_signed_with_it() {
    let mut lab = Lab::new();
    for (n, signed_by) in [(user::KEY_VXLAN, None), (user::KEY_VXLAN, Some(APP_KEY))] {
        let msg = push(n).app(if signed_by.is_some() { app::KEYED } else { app::ANY });
        let msg = if let Some(key) = signed_by { msg.signed(key) } else { msg };
        let inner = tunnels::vxlan(&lab.sent(&msg, SENDER));
        assert_eq!(signature(&inner.payload), Some((n as u32, NOW.unix_ms)));
    }
    let nat = lab.sent(&push(user::KEY_NAT), SENDER);
    assert_eq!(signature(&nat.bytes), Some((user::KEY_NAT as u32, NOW.unix_ms)));
    let plain = lab.sent(&push(user::KEY_PLAIN), SENDER);
    assert_eq!(signature(&plain.bytes), Some((user::KEY_PLAIN as u32, NOW.unix_ms)));
    // Auth is the last option, behind those that a plain gateway gets.
    let head = usize::from(plain.bytes[3]) * 4;
    assert_eq!(plain.message().options.offset(ty::AUTH), Some(head - 32));
    assert!(plain.message().options.has(ty::PRIVATE_ADDRESS));
}

/// The same of users that registered, elsewhere than users.csv says, and of Push IDs lent to them; nobody else's
/// messages are signed.
#[test]
fn ruling_15_holds_for_who_registered() {
    let mut lab = Lab::new();
    let mut writer = lab.site.shared.live_writer().unwrap();
    let lent = PushId(own(0).0 | 0xFACE);
    let bind = |user, at: &str| Binding { private: Some(self::at(at)), ..Binding::new(user, 0) };
    for binding in [bind(own(user::KEY_VXLAN), "10.0.9.1:2948"), bind(own(user::NOBODY), "10.0.9.2:2948")] {
        writer.apply(&Change::Bind { binding, heard_ms: 0 }).unwrap();
    }
    let user = own(user::KEY_VXLAN);
    writer.apply(&Change::Lend { lent, user, device: 0, until_ms: u64::MAX }).unwrap();
    let signed = Some((user::KEY_VXLAN as u32, NOW.unix_ms));
    for (to, by) in [(user, signed), (lent, signed), (own(user::NOBODY), None)] {
        let inner = tunnels::vxlan(&lab.sent(&push_to(to), SENDER));
        assert_eq!(signature(&inner.payload), by, "{to}");
    }
}

/// Ruling 15: in answers to a signed datagram the server signs with that key.
#[test]
fn ruling_15_answers_to_a_signed_datagram_are_signed() {
    let mut lab = Lab::new();
    let key = user::KEY_NAT as u32;
    let by = |kind, to| msg(kind, to, own(user::KEY_NAT)).app(app::ANY).signed(key);
    let echoed = lab.sent(&by(Kind::Echo, own(1)), SENDER);
    assert_eq!(echoed.message().kind, Kind::Echoed);
    assert_eq!(signature(&echoed.bytes), Some((key, NOW.unix_ms)));
    let reject = lab.sent(&by(Kind::Push, own(user::NOBODY)), SENDER);
    assert_eq!(
        (reject.reason(), signature(&reject.bytes)),
        (Some(Reason::UnknownDestination), Some((key, NOW.unix_ms)))
    );
    // A replay is signed rightly; what is not rightly signed is answered without.
    let again = by(Kind::Push, own(user::VXLAN));
    lab.sent(&again, SENDER);
    let reject = lab.sent(&again, SENDER);
    assert_eq!(
        (reject.reason(), signature(&reject.bytes)),
        (Some(Reason::StaleOrReplayed), Some((key, NOW.unix_ms)))
    );
    let reject = lab.sent(&push(user::VXLAN).signed(NOBODYS_KEY), SENDER);
    assert_eq!((reject.reason(), signature(&reject.bytes)), (Some(Reason::AuthenticationFailed), None));
    let echoed = lab.sent(&msg(Kind::Echo, own(1), ASKER), SENDER);
    assert_eq!(signature(&echoed.bytes), None);
}

/// Ruling 15, where ruling 11 names a fault that comes before the signature: it was signed all the same,
/// and a server that shares a key would refuse an unsigned REJECT.
#[test]
fn ruling_15_a_fault_found_before_the_signature_is_answered_signed() {
    let mut lab = Lab::new();
    let signed_by = |sent: &Sent| signature(&sent.bytes).map(|(key, _)| key);
    let unlisted = push(user::VXLAN).app(app::UNLISTED);
    let outside = push(user::VXLAN).app(app::SOURCES).source_address(STRANGER);
    for (msg, reason) in
        [(unlisted, Reason::ApplicationNotAllowed), (outside, Reason::SourceAddressNotAllowed)]
    {
        let sent = lab.sent(&msg.clone().signed(ABROAD_KEY), ABROAD);
        assert_eq!((sent.reason(), signed_by(&sent)), (Some(reason), Some(ABROAD_KEY)));
        let sent = lab.sent(&msg.clone().signed(NOBODYS_KEY), ABROAD);
        assert_eq!((sent.reason(), signed_by(&sent)), (Some(reason), None));
        let sent = lab.sent(&msg, ABROAD);
        assert_eq!((sent.reason(), signed_by(&sent)), (Some(reason), None));
    }
}

/// Everything of the window is in use: refused, rather than forgetting what could be replayed.
#[test]
fn a_full_replay_window_is_overloaded() {
    let limits = pushplane::config::Limits { replays: 8, ..LIMITS };
    let shared = Arc::new(Shared::new(&limits, 1, 7));
    let mut lab = Lab::at_site(site(Policy::default(), 0, shared), tables(&rib()));
    let msg = || push(user::VXLAN).app(app::KEYED).signed(APP_KEY);
    for _ in 0..8 {
        delivered(&mut lab, &msg(), SENDER);
    }
    assert_eq!(lab.dropped(&msg(), SENDER), Reason::Overloaded);
}
