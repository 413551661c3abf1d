//! What a restart finds to do although nothing has happened was due before: each way in which a recovered engine once
//! differed from the one that was there.

use super::*;

impl Bench {
    #[track_caller]
    fn assert_settled(&self) {
        let (again, out) = self.restored_from(&self.journal);
        assert_eq!((out.changes, again.live()), (Vec::new(), self.engine.live()));
    }
}

/// A device has the same address in two realms: either is where it is, and none of them again and again.
#[test]
fn one_address_in_two_realms_is_two_places() {
    let mut bench = bench();
    bench.hear(&start(&bench));
    bench.pass_s(5);
    let vpn = Acct::of(START, "s2").imsi(ANNS_SIM).ip("10.0.7.7").with(30, b"vpn.example");
    let said = bench.hear(&vpn.at(bench.now.unix_ms).identifier(2));
    assert_eq!((binds(&said), bench.binding(ANN).unwrap().realm), (1, 9));
    bench.assert_settled();
}

/// What one bearer's report says of the terminal's user holds for the others: until the last one stops.
#[test]
fn bearers_are_known_by_each_other() {
    for named in [0, 1] {
        let mut bench = bench();
        for (n, nsapi) in [(0u8, "5"), (1, "6")] {
            let bearer = Acct::of(START, &format!("s{n}")).imsi(NOBODYS_SIM).nsapi(nsapi).identifier(n);
            let bearer = bearer.ip("10.0.7.7").ip(if n == 0 { "fd00:0:0:7::" } else { "fd00:0:0:8::" });
            bench.hear(&if n == named { bearer.with(1, b"cat@example") } else { bearer });
            bench.pass_s(1);
        }
        assert_eq!(
            (bench.places(CAT), bench.engine.live().sessions_unknown),
            (place(0, "10.0.7.7:17400"), 0)
        );
        // The other bearer's net is Cat's, too.
        assert_eq!(bench.ask(&register(BOB), "[fd00:0:0:7::1]:5").refused(), Reason::NotPermitted);
        assert_eq!(bench.ask(&register(BOB), "[fd00:0:0:8::1]:5").refused(), Reason::NotPermitted);
        bench.assert_settled();
        bench.hear(&Acct::of(STOP, &format!("s{named}")).identifier(9));
        assert_eq!(bench.places(CAT), place(0, "10.0.7.7:17400"), "{named}");
        bench.assert_settled();
        bench.hear(&Acct::of(STOP, &format!("s{}", 1 - named)).identifier(10));
        assert_eq!((bench.places(CAT), bench.sessions()), (nowhere(), 0));
        bench.assert_settled();
    }
}

/// What a terminal signed before somebody unknown got the address does not take it back.
#[test]
fn a_late_register_does_not_take_an_unknown_subscribers_address() {
    let mut bench = bench();
    let guest = own(user::KEY_VXLAN);
    let signed = |at_ms| register_at(guest, "10.0.7.7:5000").signed_at(user::KEY_VXLAN as u32, at_ms);
    let before_ms = bench.now.unix_ms;
    bench.pass_s(5);
    bench.hear(&Acct::of(START, "u").imsi(NOBODYS_SIM).ip("10.0.7.7").at(bench.now.unix_ms));
    bench.pass_s(5);
    assert_eq!(bench.ask(&signed(before_ms), OUTSIDE).refused(), Reason::StaleOrReplayed);
    bench.ask(&signed(bench.now.unix_ms), OUTSIDE).one(Kind::Registered);
    bench.assert_settled();
}

/// A session that is refused for want of room takes the address all the same, and leaves nobody there; one that finds
/// no room later is bound as soon as there is some.
#[test]
fn what_there_is_no_room_for() {
    let mut bench = with(ANY, Limits { bindings: 2, ..LIMITS });
    let cat = Acct::of(START, "c").number("+4917012345").ip("10.0.7.7");
    bench.hear(&cat.clone().identifier(2));
    bench.ask(&register_at(own(0x200), "10.0.7.9:5").validity(60), OUTSIDE).one(Kind::Registered);
    bench.pass_s(10);
    assert_eq!(unanswered(&bench.hear(&start(&bench))), Unanswered::Overloaded);
    assert_eq!((bench.places(CAT), bench.sessions()), (nowhere(), 0));
    bench.assert_settled();
    // Cat's terminal speaks as another device; when that is silent, her session holds, but there is no room.
    let mut bench = with(ANY, Limits { bindings: 2, ..LIMITS });
    bench.ask(&register_at(CAT, "10.0.7.7:5").device(1).validity(60), OUTSIDE).one(Kind::Registered);
    bench.hear(&cat);
    bench.ask(&register_at(own(0x200), "10.0.7.9:5").validity(30), OUTSIDE).one(Kind::Registered);
    bench.pass_s(60);
    assert_eq!((bench.places(CAT), bench.sessions()), (nowhere(), 1));
    bench.assert_settled();
    bench.pass_s(30 + 600);
    assert_eq!(bench.places(CAT), place(0, "10.0.7.7:17400"));
    bench.assert_settled();
}

/// Who left a group of users that is gone, and is made again, left nothing of it behind.
#[test]
fn a_group_that_is_made_again_is_a_new_one() {
    let mut bench = bench();
    for request in [1, 5, 1] {
        let request = msg(Kind::Group, ANN, PushId::NONE).option(ty::GROUP_REQUEST, &[request, 0, 0, 0]);
        bench.ask(&request.option(ty::GROUP_ID, &own(0xE000).to_bytes()), OUTSIDE).one(Kind::Grouped);
    }
    let words = |changes: Vec<Change>| changes.iter().map(|change| format!("{change:?}")).collect::<Vec<_>>();
    let (again, _) = bench.restored_from(&bench.journal);
    assert_eq!(words(again.changes().collect()), words(bench.engine.changes().collect()));
}
