//! Step 2: who may push, and which of several faults is named.

use pushplane::config::{Policy, RegisterPolicy};
use pushplane::id::PushId;
use pushplane::plane::Verdict;
use pushplane::reason::Reason;
use pushplane::table::Rib;
use pushplane::wire::prp::{Kind, flag, option_type as ty};

use crate::lab::*;

fn delivered(lab: &mut Lab, msg: &Msg, from: &str) {
    let outcome = lab.one(msg, from);
    assert_eq!(outcome.verdicts, [Verdict::Deliver], "{outcome:?}");
}

#[test]
fn step_2_an_application_that_is_not_on_the_allowlist() {
    let mut lab = Lab::new();
    assert_eq!(lab.dropped(&push(user::VXLAN).app(app::UNLISTED), SENDER), Reason::ApplicationNotAllowed);
    delivered(&mut lab, &push(user::VXLAN).app(app::ANY), STRANGER);
}

/// Ruling 8: a PUSH with application 0 passes only where apps.toml lists id 0; other kinds carry 0 and
/// are not checked.
#[test]
fn ruling_8_application_0_passes_only_where_it_is_listed() {
    assert_eq!(Lab::new().dropped(&push(user::VXLAN).app(0), SENDER), Reason::ApplicationNotAllowed);
    let mut rib = rib();
    rib.apps[0].id = 0;
    delivered(&mut Lab::with(Policy::default(), &rib), &push(user::VXLAN).app(0), SENDER);
    let echo = msg(Kind::Echo, own(user::VXLAN), ASKER);
    assert_eq!(Lab::new().one(&echo, STRANGER).verdicts, [Verdict::Answer]);
    let receipt = msg(Kind::Receipt, own(user::VXLAN), ASKER);
    assert_eq!(Lab::new().one(&receipt, STRANGER).verdicts, [Verdict::Deliver]);
}

#[test]
fn step_2_only_the_sources_of_an_application_may_push_for_it() {
    let mut lab = Lab::new();
    let msg = || push(user::VXLAN).app(app::SOURCES);
    delivered(&mut lab, &msg(), "192.0.2.255:1");
    delivered(&mut lab, &msg(), "[2001:db8:5:ffff::1]:1");
    for from in ["192.0.3.0:1", "191.255.255.255:1", "[2001:db8:6::1]:1", "[::ffff:192.0.3.1]:1"] {
        assert_eq!(lab.dropped(&msg(), from), Reason::SourceAddressNotAllowed, "{from}");
    }
}

/// INTERFACE, ruling 3: a sender is a terminal when its source Push ID has a live binding whose
/// private or public address is the one the datagram came from (or came through its gateway).
#[test]
fn interface_3_terminals_may_push_where_users_is_set() {
    let mut lab = Lab::new();
    let msg = |source| push(user::VXLAN).app(app::USERS).source(source);
    delivered(&mut lab, &msg(ASKER), SENDER);
    delivered(&mut lab, &msg(own(user::BOTH)), "10.0.0.29:999");
    delivered(&mut lab, &msg(own(user::BOTH)), "203.0.113.29:40029");
    delivered(&mut lab, &msg(own(user::NAT6)), "[2001:db8:9::26]:40026");
    delivered(&mut lab, &msg(own(user::SEVERAL)), "10.2.0.14:2948");
    delivered(&mut lab, &msg(own(user::BOTH)), "10.255.0.1:1234");
    for (source, from) in [
        (own(user::BOTH), "10.0.0.30:2948"),
        (own(user::BOTH), "203.0.113.29:40030"),
        (own(user::VXLAN), "10.0.0.29:2948"),
        (own(user::RAN_OUT), "10.0.0.18:2948"),
        (own(user::SEVERAL), "10.0.1.14:2948"),
        (own(user::NOBODY), "10.0.0.1:2948"),
        (own(user::ROAMING), STRANGER),
        (PushId::NONE, "10.0.0.1:2948"),
    ] {
        assert_eq!(lab.dropped(&msg(source), from), Reason::SourceAddressNotAllowed, "{source} {from}");
    }
    let without_users = push(user::VXLAN).app(app::SOURCES).source(own(user::BOTH));
    assert_eq!(lab.dropped(&without_users, "10.0.0.29:2948"), Reason::SourceAddressNotAllowed);
}

/// Ruling 2: from the address of a [[server]] only the application identifier is checked again, and
/// `sources` against the SourceAddress option where there is one.
#[test]
fn ruling_2_a_server_has_checked_its_sender() {
    let mut lab = Lab::new();
    let msg = || push(user::VXLAN).app(app::SOURCES);
    delivered(&mut lab, &msg(), OPEN);
    delivered(&mut lab, &msg().source_address("192.0.2.9:1"), OPEN);
    delivered(&mut lab, &msg().source_address("[2001:db8:5::9]:1"), OPEN);
    let outside = msg().source_address("203.0.113.1:1");
    assert_eq!(lab.dropped(&outside, OPEN), Reason::SourceAddressNotAllowed);
    assert_eq!(lab.dropped(&msg().app(app::UNLISTED), OPEN), Reason::ApplicationNotAllowed);
    delivered(&mut lab, &push(user::VXLAN).app(app::KEYED), OPEN);
    // Another port of the server's host is not the server.
    assert_eq!(lab.dropped(&msg(), "198.51.100.3:17401"), Reason::SourceAddressNotAllowed);
    // What somebody else puts into SourceAddress says nothing about where it came from.
    assert_eq!(lab.dropped(&msg().source_address("192.0.2.9:1"), STRANGER), Reason::SourceAddressNotAllowed);
}

/// The same for the server's own entry: this server sends itself nothing, so whoever writes from that
/// address is somebody else.
#[test]
fn ruling_2_the_servers_own_address_is_no_other_server() {
    let mut lab = Lab::new();
    // INTERFACE, ruling 19: the key in a server's own entry is not used.
    assert_eq!(
        lab.dropped(&push(user::VXLAN).app(app::SOURCES).signed(1), LISTEN4),
        Reason::AuthenticationFailed
    );
    let spoofed = push(user::VXLAN).app(app::KEYED);
    assert_eq!(lab.dropped(&spoofed, LISTEN4), Reason::AuthenticationFailed);
}

/// INTERFACE, rate and its ruling 11: messages a second for the whole server, bursts up to a second's.
#[test]
fn interface_11_a_rate_is_for_the_whole_server() {
    let shared = std::sync::Arc::new(pushplane::plane::Shared::new(&LIMITS, 2, 7));
    let site = |shard| site(Policy::default(), shard, std::sync::Arc::clone(&shared));
    let mut one = Lab::at_site(site(0), tables(&rib()));
    let msg = || push(user::VXLAN).app(app::RATE);
    let passed = |lab: &mut Lab, count: usize| {
        (0..count).filter(|_| lab.one(&msg(), SENDER).verdicts == [Verdict::Deliver]).count()
    };
    assert_eq!(passed(&mut one, 4), 4);
    // The second shard works with the same tables.
    let mut two = Lab::at_site(site(1), one.tables);
    assert_eq!(passed(&mut two, 4), 1);
    assert_eq!(two.dropped(&msg(), SENDER), Reason::RateLimited);
    two.now = two.now.plus_ns(200_000_000);
    assert_eq!(passed(&mut two, 4), 1);
    two.now = two.now.plus_ns(60_000_000_000);
    assert_eq!(passed(&mut two, 20), 5);
}

/// Ruling 10: before the server's clock is expired; step 3 is not reached.
#[test]
fn ruling_10_a_deadline_that_has_passed() {
    let mut lab = Lab::new();
    assert_eq!(lab.dropped(&push(user::VXLAN).deadline(NOW.unix_ms - 1), SENDER), Reason::Expired);
    assert_eq!(lab.dropped(&push(user::VXLAN).deadline(0), SENDER), Reason::Expired);
    delivered(&mut lab, &push(user::VXLAN).deadline(NOW.unix_ms), SENDER);
    delivered(&mut lab, &push(user::VXLAN).deadline(u64::MAX), SENDER);
    // Neither a user nor a route.
    assert_eq!(lab.dropped(&push(user::NOBODY).deadline(1), SENDER), Reason::Expired);
    assert_eq!(lab.dropped(&push_to(PushId(0xF << 124)).deadline(1), SENDER), Reason::Expired);
    let echo = msg(Kind::Echo, own(1), ASKER).deadline(1);
    assert_eq!(lab.dropped(&echo, SENDER), Reason::Expired);
}

fn known_sources() -> Lab {
    Lab::with(Policy { known_sources: true, ..Policy::default() }, &rib())
}

/// INTERFACE, ruling 4: the source must have a row in users.csv or a live binding; all zero passes when
/// the sender is in the application's `sources`; all zero, or a source of another server's prefix,
/// passes when a [[server]] sent it.
#[test]
fn interface_4_known_sources() {
    let mut lab = known_sources();
    let from = |source| push(user::VXLAN).source(source);
    delivered(&mut lab, &from(own(user::BOTH)), STRANGER);
    delivered(&mut lab, &from(own(user::RAN_OUT)), STRANGER);
    delivered(&mut lab, &from(abroad(1)), STRANGER);
    delivered(&mut lab, &from(PushId::NONE).app(app::SOURCES), SENDER);
    delivered(&mut lab, &from(PushId::NONE), OPEN);
    delivered(&mut lab, &from(abroad(5)), OPEN);
    assert_eq!(lab.dropped(&from(own(user::NOBODY)), STRANGER), Reason::UnknownSource);
    assert_eq!(lab.dropped(&from(abroad(5)), STRANGER), Reason::UnknownSource);
    assert_eq!(lab.dropped(&from(own(user::NOBODY)), OPEN), Reason::UnknownSource);
    assert_eq!(lab.dropped(&from(PushId(0xF << 124)), OPEN), Reason::UnknownSource);
    assert_eq!(lab.dropped(&from(PushId::NONE), STRANGER), Reason::UnknownSource);
}

/// Kinds that another part of the server will take, answers to questions that nobody asked, and numbers
/// that no kind has. Ruling 26: such an answer is never answered.
#[test]
fn ruling_26_kinds_that_are_not_taken() {
    let mut lab = Lab::new();
    let to = own(user::VXLAN);
    for kind in [Kind::Registered, Kind::Released, Kind::Grouped, Kind::Resolved, Kind::Echoed] {
        let msg = msg(kind, to, ASKER).option(ty::VALIDITY, &[0; 4]).option(ty::GROUP_REQUEST, &[1, 0, 0, 0]);
        let outcome = lab.one(&msg, SENDER);
        assert_eq!(outcome.verdicts, [Verdict::Drop(Reason::UnsupportedKind)], "{}", kind.name());
        assert!(outcome.sent.is_empty());
    }
    for code in [0, 15] {
        assert_eq!(lab.dropped(&push(user::VXLAN).kind(code), SENDER), Reason::UnsupportedKind);
    }
}

/// Ruling 11: the first that fails is named, in this order: malformed, unsupported-version,
/// unsupported-kind, unsupported-option, application-not-allowed, source-address-not-allowed,
/// authentication-failed, stale-or-replayed, unknown-source, rate-limited, expired.
///
/// One message breaks all of these; then its faults are mended one after the other, the earliest first.
#[test]
fn ruling_11_the_first_fault_in_the_order_is_named() {
    let policy = Policy { known_sources: true, register: RegisterPolicy::Signed, ..Policy::default() };
    let mut lab = Lab::with(policy, &rib());
    // Uses up the only message of this second.
    let first = push(user::VXLAN).app(app::STRICT).source(own(user::BOTH)).signed(APP_KEY);
    delivered(&mut lab, &first, SENDER);

    let bad = |app: u32, source: PushId, key: u32, time: u64| {
        push(user::NOBODY).app(app).source(source).deadline(1).signed_at(key, time)
    };
    let nobody = own(user::NOBODY);
    let critical = |msg: Msg| msg.option(200, b"?");
    let twice = |msg: Msg| critical(msg).device(1).device(1);
    let all = || bad(app::UNLISTED, nobody, NOBODYS_KEY, 0);

    assert_eq!(
        lab.dropped(&twice(all()).version(2).device(9).kind(0).kind(1), STRANGER),
        Reason::UnsupportedVersion
    );
    assert_eq!(lab.dropped(&twice(all()).kind(0), STRANGER), Reason::Malformed);
    let short = {
        let mut bytes = critical(all()).version(2).kind(0).bytes();
        bytes[3] = 255;
        bytes
    };
    assert_eq!(lab.dropped_bytes(&short, STRANGER), Reason::Malformed);
    assert_eq!(lab.dropped(&critical(all()).version(2).kind(0), STRANGER), Reason::UnsupportedVersion);
    assert_eq!(lab.dropped(&critical(all()).kind(0), STRANGER), Reason::UnsupportedKind);
    assert_eq!(lab.dropped(&critical(all()).kind(14), STRANGER), Reason::UnsupportedKind);
    assert_eq!(lab.dropped(&critical(all()), STRANGER), Reason::UnsupportedOption);
    assert_eq!(lab.dropped(&all(), STRANGER), Reason::ApplicationNotAllowed);
    let strict = |source, key, time| bad(app::STRICT, source, key, time);
    assert_eq!(lab.dropped(&strict(nobody, NOBODYS_KEY, 0), STRANGER), Reason::SourceAddressNotAllowed);
    assert_eq!(lab.dropped(&strict(nobody, NOBODYS_KEY, 0), SENDER), Reason::AuthenticationFailed);
    assert_eq!(lab.dropped(&strict(nobody, APP_KEY, 0), SENDER), Reason::StaleOrReplayed);
    assert_eq!(lab.dropped(&strict(nobody, APP_KEY, NOW.unix_ms), SENDER), Reason::UnknownSource);
    let known = |time| strict(own(user::BOTH), APP_KEY, time);
    assert_eq!(lab.dropped(&known(NOW.unix_ms), SENDER), Reason::RateLimited);
    lab.now = lab.now.plus_ns(2_000_000_000);
    assert_eq!(lab.dropped(&known(NOW.unix_ms), SENDER), Reason::Expired);
}

/// Ruling 25: every version keeps the first 48 bytes, so unsupported-version is answered; flags that
/// have no meaning are ignored when read.
#[test]
fn ruling_25_another_version_is_answered() {
    let mut lab = Lab::new();
    for version in [0, 2, 15] {
        assert_eq!(lab.dropped(&push(user::VXLAN).version(version), SENDER), Reason::UnsupportedVersion);
    }
    delivered(&mut lab, &push(user::VXLAN).flags(0xF0), SENDER);
}

#[test]
fn without_tables_nobody_may_anything() {
    let mut lab = Lab::with(Policy::default(), &Rib::default());
    assert_eq!(lab.dropped(&push(user::VXLAN), SENDER), Reason::ApplicationNotAllowed);
    assert_eq!(lab.one(&msg(Kind::Echo, own(1), ASKER), SENDER).verdicts, [Verdict::Answer]);
    let receipt = msg(Kind::Receipt, own(1), ASKER);
    assert_eq!(lab.dropped(&receipt, SENDER), Reason::NoRoute);
    let roamed = msg(Kind::Receipt, own(1), ASKER).flags(flag::ROAMED);
    assert_eq!(lab.dropped(&roamed, SENDER), Reason::NotAttached);
}
