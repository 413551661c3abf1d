//! Scenarios with fixed steps. Each quotes what it plays: PROTOCOL.md by section and ruling.

use pushplane::id::{Endpoint, PushId, PushPrefix};
use pushplane::packet::Class;
use pushplane::reason::Reason;
use pushplane::sim::cast::Sender;
use pushplane::sim::naive::{Letter, flag, kind, option};
use pushplane::sim::{Faults, Flying, Host, LinkClass, OPEN_REALM, Operator, Options, World, v4};
use pushplane::table::rib::{App, Key, Rule, User};

const APP: u32 = 1;
const PUSHER: Sender = Sender::Pusher(0);

/// A user of server `site`.
fn user(site: u128, number: u128) -> PushId {
    PushId(site << 124 | number)
}

fn app(id: u32, rule: Rule) -> App {
    App { id, name: format!("app-{id}"), sources: None, users: false, rule, rate: None, key: None }
}

/// Servers without users that all take [`APP`] from anybody.
fn operator(servers: usize) -> Operator {
    let mut operator = Operator::bare(servers);
    for site in &mut operator.sites {
        site.rib.apps.push(app(APP, Rule::Normal));
    }
    operator
}

/// Keys between all pairs of servers, each of its own.
fn share_keys(operator: &mut Operator) {
    let count = operator.sites.len();
    for one in 0..count {
        for two in (0..count).filter(|two| *two != one) {
            let id = (one.min(two) * 10 + one.max(two)) as u32;
            operator.sites[one].rib.servers[two].key = Some(id);
            operator.sites[one].rib.keys.push(Key { id, value: [id as u8; 16], user: None });
        }
    }
}

fn at(realm: u32, private: Endpoint, row: User) -> User {
    User { realm, private: Some(private), ..row }
}

fn push(destination: PushId, message: u64) -> Letter {
    let mut letter = Letter::new(kind::PUSH, destination, PushId::NONE, message);
    (letter.app, letter.flags) = (APP, flag::RECEIPT);
    letter.payload = b"wake up".to_vec();
    letter
}

fn world(operator: Operator) -> World {
    let mut world = World::new(0, Options::plain(operator.sites.len()), operator);
    world.watch();
    world
}

/// What went between servers: from, to, and what.
fn between_servers(world: &mut World) -> Vec<(usize, usize, Letter)> {
    let site = |world: &World, address| match world.host(address) {
        Some(Host::Server(site, _)) => Some(site),
        _ => None,
    };
    let sent: Vec<Flying> = world.watch();
    let legs = sent.into_iter().filter_map(|sent| {
        let (from, to) = (site(world, sent.from)?, site(world, sent.to)?);
        Some((from, to, Letter::decode(&sent.bytes).unwrap()))
    });
    legs.collect()
}

/// "Roaming: set ROAMED and forward to the serving server; a message that already is ROAMED and finds no
/// terminal here is rejected, never forwarded again." (step 4)
#[test]
fn a_roaming_user_is_reached_through_its_home_and_never_sent_back() {
    let mut operator = operator(2);
    share_keys(&mut operator);
    let roamer = user(0, 5);
    let serving = Some(operator.sites[1].listen[0]);
    operator.add_row(0, User { serving, ..User::new(roamer, 0) });
    operator.add_terminal(1, at(1, v4(10, 0, 0, 5, 2948), User::new(roamer, 0)), None);
    let mut world = world(operator);

    let first = world.push(PUSHER, 0, push(roamer, 1), None);
    world.run();
    assert_eq!((world.record(first).delivered.clone(), world.record(first).receipts), (vec![0], 1));
    let legs = between_servers(&mut world);
    let [(0, 1, there), (1, 0, receipt)] = &legs[..] else { panic!("{legs:?}") };
    assert!(there.has(flag::ROAMED) && there.hops == 7);
    assert_eq!(there.endpoint(option::SOURCE_ADDRESS), Some(world.operator.pushers[0]));
    assert_eq!((receipt.kind, receipt.hops), (kind::RECEIPT, 7));

    // The terminal has left the serving server; its home does not know yet.
    world.operator.sites[1].rib.users.clear();
    world.publish(1);
    let second = world.push(PUSHER, 0, push(roamer, 2), None);
    world.run();
    assert_eq!(world.record(second).rejects, [Reason::NotAttached]);
    let pushes = between_servers(&mut world);
    assert_eq!(pushes.iter().filter(|(_, _, letter)| letter.kind == kind::PUSH).count(), 1);
    world.close();
}

/// "A PUSH for a visitor that is not ROAMED is forwarded to the home server." (ruling 4) "A message is
/// never forwarded to the server it came from: no-route." (ruling 33)
#[test]
fn split_horizon_ends_a_push_that_starts_at_the_serving_server() {
    let mut operator = operator(2);
    let roamer = user(0, 5);
    let serving = Some(operator.sites[1].listen[0]);
    operator.add_row(0, User { serving, ..User::new(roamer, 0) });
    operator.add_terminal(1, at(1, v4(10, 0, 0, 5, 2948), User::new(roamer, 0)), None);
    let mut world = world(operator);
    let message = world.push(PUSHER, 1, push(roamer, 1), None);
    world.run();
    assert_eq!(world.record(message).rejects, [Reason::NoRoute]);
    assert_eq!(between_servers(&mut world).len(), 2, "there and the rejection back");
    world.close();
}

/// "Every message ends" — also between servers that send a prefix to each other.
#[test]
fn two_servers_that_send_a_prefix_to_each_other_end_it_at_once() {
    let mut operator = operator(3);
    // Of server 2's users, server 0 believes that they are server 1's, and server 1 that they are 0's.
    for (site, other) in [(0, 1), (1, 0)] {
        let taken = std::mem::take(&mut operator.sites[site].rib.servers[2].prefixes);
        operator.sites[site].rib.servers[other].prefixes.extend(taken);
    }
    let mut world = world(operator);
    let message = world.push(PUSHER, 0, push(user(2, 5), 1), None);
    world.run();
    assert_eq!(world.record(message).rejects, [Reason::NoRoute]);
    assert_eq!(between_servers(&mut world).len(), 2);
    world.close();
}

/// "a Push server that forwards to another Push server sends it one lower; one that would send 0 rejects
/// instead" (header): what ends a circle of three. The rejection still finds who asked.
#[test]
fn prefixes_in_a_circle_end_by_the_hop_limit() {
    for keys in [false, true] {
        let mut operator = operator(4);
        for site in 0..3 {
            let rib = &mut operator.sites[site].rib;
            let taken = std::mem::take(&mut rib.servers[3].prefixes);
            rib.servers[(site + 1) % 3].prefixes.extend(taken);
        }
        if keys {
            share_keys(&mut operator);
        }
        let mut world = world(operator);
        let message = world.push(PUSHER, 0, push(user(3, 5), 1), None);
        world.run();
        let legs = between_servers(&mut world);
        let hops: Vec<u8> = legs
            .iter()
            .filter(|(_, _, letter)| letter.kind == kind::PUSH)
            .map(|(_, _, letter)| letter.hops)
            .collect();
        if keys {
            // The keys tell a server that it saw the message before, one round earlier.
            assert_eq!(hops, [7, 6, 5, 4]);
            assert_eq!(world.record(message).rejects, [Reason::StaleOrReplayed]);
        } else {
            assert_eq!(hops, [7, 6, 5, 4, 3, 2, 1]);
            assert_eq!(world.record(message).rejects, [Reason::HopLimit]);
        }
        world.close();
    }
}

/// "Only forwarding to a Push server lowers and checks the hop limit; 0 on arrival is no fault." (ruling 12)
#[test]
fn the_hop_limit_counts_forwards_only() {
    let mut operator = operator(2);
    operator.add_terminal(0, at(1, v4(10, 0, 0, 5, 2948), User::new(user(0, 5), 0)), None);
    operator.add_terminal(1, at(1, v4(10, 0, 0, 5, 2948), User::new(user(1, 5), 0)), None);
    let mut world = world(operator);
    for (message, site, hops, rejects) in
        [(1, 0, 0, &[][..]), (2, 1, 2, &[]), (3, 1, 1, &[Reason::HopLimit]), (4, 1, 0, &[Reason::HopLimit])]
    {
        let letter = Letter { hops, ..push(user(site, 5), message) };
        world.push(PUSHER, 0, letter, None);
        world.run();
        assert_eq!(world.record(message).rejects, rejects, "hop limit {hops} to server {site}");
        assert_eq!(world.record(message).delivered.len(), usize::from(rejects.is_empty()));
    }
    world.close();
}

/// "priority before normal when a shard cannot send everything, min-delay flushed at once": of six messages
/// in one burst, a port that takes two at a time gets the two of each better class.
#[test]
fn what_is_urgent_leaves_first_when_not_everything_can() {
    let mut operator = operator(1);
    let rib = &mut operator.sites[0].rib;
    rib.apps.extend([app(2, Rule::Priority), app(3, Rule::MinDelay)]);
    for number in 1..=6 {
        operator.add_terminal(
            0,
            at(1, v4(10, 0, 0, number, 2948), User::new(user(0, number.into()), 0)),
            None,
        );
    }
    let mut options = Options::plain(1);
    options.room = 2;
    let mut world = World::new(0, options, operator);
    for (number, app) in [(1, 1), (2, 2), (3, 3), (4, 1), (5, 2), (6, 3)] {
        let letter = Letter { app, flags: 0, ..push(user(0, number.into()), number) };
        world.push(PUSHER, 0, letter, None);
    }
    world.watch();
    world.run();
    let reached: Vec<u64> = (1..=6).filter(|number| !world.record(*number).delivered.is_empty()).collect();
    assert_eq!(reached, [2, 3, 5, 6], "the normal ones did not fit");
    let order: Vec<u8> = world.watch().iter().take(4).map(|sent| sent.bytes[22 + 28 + 40 + 7]).collect();
    assert_eq!(order, [3, 6, 2, 5], "{:?}, then {:?}", Class::MinDelay, Class::Priority);
    for number in 1..=6 {
        let expected: &[Reason] = if reached.contains(&number) { &[] } else { &[Reason::Overloaded] };
        assert_eq!(world.record(number).rejects, expected, "{number}");
    }
    let counters = world.counters(0);
    assert_eq!((counters.delivered, counters.dropped[Reason::Overloaded.index()]), (4, 2));
    world.close();
}

/// Three servers in a row: the first has the message forwarded by prefix, the second by a longer one that only
/// it knows.
fn row_of_three() -> Operator {
    let mut operator = operator(3);
    for (site, server) in [(0, 1), (1, 2), (2, 2)] {
        let prefix = PushPrefix::new(0x7 << 60, 4);
        operator.sites[site].rib.servers[server].prefixes.extend(prefix);
    }
    share_keys(&mut operator);
    operator
}

/// "A server remembers for a PUSH that wants a receipt … and sends the RECEIPT or REJECT with that destination
/// and identifier there" (ruling 3): back through two servers to who asked, each hop signed anew.
#[test]
fn a_rejection_passes_back_through_two_servers() {
    let mut world = world(row_of_three());
    let message = world.push(PUSHER, 0, push(user(7, 5), 1), None);
    world.run();
    assert_eq!(world.record(message).rejects, [Reason::UnknownDestination]);
    let legs: Vec<_> =
        between_servers(&mut world).iter().map(|(from, to, letter)| (*from, *to, letter.kind)).collect();
    assert_eq!(legs, [(0, 1, 1), (1, 2, 1), (2, 1, 3), (1, 0, 3)]);
    world.close();
}

/// "in answers to a signed datagram, the server signs with that key" (ruling 15), whatever it failed at: here
/// before the signature was looked at.
#[test]
fn an_application_that_another_server_does_not_list_is_told() {
    let mut operator = row_of_three();
    operator.sites[2].rib.apps.clear();
    let mut world = world(operator);
    let message = world.push(PUSHER, 0, push(user(7, 5), 1), None);
    world.run();
    assert_eq!(world.record(message).rejects, [Reason::ApplicationNotAllowed]);
    world.close();
}

/// "The client answers a PUSH that wants it with a RECEIPT: source and destination swapped, same message
/// identifier." (step 6) Over servers that do not share a key, from each terminal.
#[test]
fn receipts_of_all_terminals_come_back_over_two_servers() {
    for keys in [false, true] {
        let mut operator = operator(2);
        if keys {
            share_keys(&mut operator);
        }
        for device in 1..=3 {
            let row = at(1, v4(10, device - 1, 0, device, 2948), User::new(user(1, 5), device));
            operator.add_terminal(1, row, None);
        }
        let mut world = world(operator);
        let message = world.push(PUSHER, 0, push(user(1, 5), 1), None);
        world.run();
        let record = world.record(message);
        assert_eq!(record.delivered.len(), 3);
        // Over a signed link they have one key, source, destination and identifier: ruling 17 takes the
        // later ones for replays of the first.
        assert_eq!(record.receipts, if keys { 1 } else { 3 });
        let replays = world.counters(0).dropped[Reason::StaleOrReplayed.index()];
        assert_eq!(replays, if keys { 2 } else { 0 });
        world.close();
    }
}

/// A terminal "only known by its IMSI" would have to be asked for (ruling 30: not without `hlr`); "for each
/// terminal" (step 5) the others still get theirs.
#[test]
fn a_roaming_terminal_is_served_beside_one_that_would_have_to_be_asked_for() {
    let mut operator = operator(2);
    let both = user(0, 5);
    operator.add_row(0, User { imsi: "460001234567890".parse().ok(), ..User::new(both, 1) });
    let serving = Some(operator.sites[1].listen[0]);
    operator.add_row(0, User { serving, ..User::new(both, 2) });
    operator.add_terminal(1, at(1, v4(10, 0, 0, 5, 2948), User::new(both, 2)), None);
    let mut world = world(operator);
    let message = world.push(PUSHER, 0, push(both, 1), None);
    world.run();
    assert_eq!((world.record(message).delivered.len(), world.record(message).receipts), (1, 1));
    let only = Letter { options: vec![(option::DEVICE, vec![1])], ..push(both, 2) };
    world.push(PUSHER, 0, only, None);
    world.run();
    assert_eq!(world.record(2).rejects, [Reason::NoGateway]);
    world.close();
}

/// "one address, one user" (ruling 6): once the tables say that an address is another user's, nothing for the
/// former one goes there.
#[test]
fn a_stale_address_is_never_reached_after_a_reload() {
    let mut operator = operator(1);
    let (before, after) = (user(0, 5), user(0, 6));
    let place = v4(10, 0, 0, 5, 2948);
    operator.add_terminal(0, at(1, place, User::new(before, 0)), None);
    operator.add_terminal(0, User { nat: Some(v4(203, 0, 113, 1, 7)), ..User::new(after, 0) }, None);
    let mut world = world(operator);
    world.push(PUSHER, 0, push(before, 1), None);
    world.run();
    assert_eq!(world.record(1).delivered, [0]);

    // One more is inside the tunnel while the address changes hands: its gateway brings it to the new
    // owner, which drops what is not for it.
    world.push(PUSHER, 0, push(before, 2), None);
    world.run_until(world.now().mono_ns + 800_000);
    for (row, handset, private) in [(0, 0, None), (1, 1, Some(place))] {
        let rib = &mut world.operator.sites[0].rib;
        (rib.users[row].realm, rib.users[row].private) = (1, private);
        let handset = &mut world.operator.handsets[handset];
        (handset.realm, handset.private) = (1, private);
    }
    world.changed_hands(0, &[(1, place)]);
    world.publish(0);
    world.run();
    assert_eq!((world.record(2).delivered.len(), world.overtaken), (0, 1));

    world.push(PUSHER, 0, push(before, 3), None);
    world.push(PUSHER, 0, push(after, 4), None);
    world.run();
    assert_eq!(world.record(3).rejects, [Reason::NotAttached]);
    assert_eq!((world.record(3).delivered.len(), world.record(4).delivered.clone()), (0, vec![1]));
    world.close();
}

/// All of "Tunnels to a gateway", each for IPv4 and IPv6 terminals, and realms that use the same addresses.
#[test]
fn every_tunnel_form_reaches_the_terminal_of_the_right_realm() {
    let mut operator = operator(1);
    let places: Vec<(u32, Endpoint)> = [1, 2]
        .iter()
        .flat_map(|realm| {
            let texts =
                ["10.0.0.9:1", "10.1.0.9:2", "10.2.0.9:3", "[fd00::9]:4", "[fd00:1::9]:5", "[fd00:2::9]:6"];
            texts.map(|text| (*realm, text.parse().unwrap()))
        })
        .chain([(OPEN_REALM, v4(172, 16, 1, 9, 7)), (OPEN_REALM, "[fd99:1::9]:8".parse().unwrap())])
        .collect();
    for (number, (realm, private)) in (1..).zip(&places) {
        operator.add_terminal(0, at(*realm, *private, User::new(user(0, number), 0)), None);
    }
    let mut world = world(operator);
    for message in 1..=places.len() as u64 {
        world.push(PUSHER, 0, push(user(0, message.into()), message), None);
    }
    world.run();
    for message in 1..=places.len() as u64 {
        let record = world.record(message);
        assert_eq!((&record.delivered[..], record.receipts), (&[message as usize - 1][..], 1));
    }
    world.close();
}

/// "a server checks the tag of who sent the datagram": where servers share keys, a datagram that was changed on
/// its way passes no server, and none is lost without a reason.
#[test]
fn a_changed_datagram_passes_no_server_that_wants_a_signature() {
    let mut operator = operator(2);
    share_keys(&mut operator);
    for number in 1..=20u8 {
        operator.add_terminal(1, at(1, v4(10, 0, 0, number, 1), User::new(user(1, number.into()), 0)), None);
    }
    let mut world = world(operator);
    let corrupt = Faults { corrupt: 1000, ..Faults::CLEAN };
    world.set_faults(LinkClass::Federation, corrupt);
    for number in 1..=200 {
        world.push(PUSHER, 0, push(user(1, u128::from(number % 20 + 1)), number), None);
    }
    world.run();
    // Two of three bits may be the same one: such a datagram arrives as it was sent.
    let delivered: usize = (1..=200).map(|number| world.record(number).delivered.len()).sum();
    let counters = world.counters(1);
    assert!(delivered < 5, "{delivered} changed datagrams were delivered");
    assert_eq!(counters.rx, counters.dropped_total() + counters.delivered);
    assert!(counters.dropped[Reason::AuthenticationFailed.index()] > 100);

    world.heal();
    world.push(PUSHER, 0, push(user(1, 1), 1000), None);
    world.run();
    assert_eq!((world.record(1000).delivered.len(), world.record(1000).receipts), (1, 1));
    world.close();
}

/// "A server that forwards a PUSH from anybody but a [[server]] replaces SourceAddress: by the public (NAT)
/// address and port that its source's live binding holds, else by the address and port the datagram came
/// from" (ruling 14)
#[test]
fn the_source_address_is_translated_where_a_message_leaves_its_domain() {
    let mut operator = operator(3);
    let public = v4(203, 0, 113, 1, 7);
    operator.add_terminal(0, User { nat: Some(public), ..User::new(user(0, 5), 0) }, None);
    operator.add_terminal(1, at(1, v4(10, 0, 0, 5, 1), User::new(user(1, 5), 0)), None);
    let mut world = world(operator);
    for (message, sender, expected) in [(1, Sender::Handset(0), public), (2, PUSHER, v4(192, 0, 2, 1, 5000))]
    {
        let claimed = (option::SOURCE_ADDRESS, vec![1, 2, 3, 4, 0, 5]);
        let source = if sender == PUSHER { PushId::NONE } else { user(0, 5) };
        world.push(sender, 0, Letter { source, options: vec![claimed], ..push(user(1, 5), message) }, None);
        world.run();
        let legs = between_servers(&mut world);
        assert_eq!(legs[0].2.endpoint(option::SOURCE_ADDRESS), Some(expected));
        assert_eq!((world.record(message).delivered.len(), world.record(message).receipts), (1, 1));
    }
    world.close();
}

/// "PUSH … answered by … REJECT where it failed" (kinds), also where that shows only when the datagram is made:
/// "a message to which options cannot be added is too-large" (ruling 32), and no address to send from.
#[test]
fn what_cannot_be_made_or_sent_is_rejected() {
    let mut operator = operator(2);
    operator.sites[0].listen.truncate(1);
    let public = "[2001:db8:aaaa::1]:7".parse().ok();
    operator.add_terminal(0, User { nat: public, ..User::new(user(0, 5), 0) }, None);
    operator.add_terminal(1, at(1, v4(10, 0, 0, 5, 1), User::new(user(1, 5), 0)), None);
    let mut world = world(operator);
    world.push(PUSHER, 0, push(user(0, 5), 1), None);
    world.run();
    assert_eq!(world.record(1).rejects, [Reason::NoRoute]);
    // Options of 243 words fill a header; SourceAddress takes two more.
    for (message, last, rejects) in [(2, 190, &[Reason::TooLarge][..]), (3, 182, &[])] {
        let options = [255, 255, 255, last].map(|len| (77, vec![7; len])).to_vec();
        world.push(PUSHER, 0, Letter { options, ..push(user(1, 5), message) }, None);
        world.run();
        let record = world.record(message);
        assert_eq!((&record.rejects[..], record.delivered.len()), (rejects, usize::from(rejects.is_empty())));
    }
    world.close();
}

/// "PUSH … answered by … REJECT where it failed" (kinds), also where that shows only when the datagram is sent, and
/// where another server had forwarded the PUSH.
#[test]
fn what_is_not_taken_is_rejected() {
    let mut operator = operator(2);
    for (site, user) in [(0, user(0, 5)), (1, user(1, 5))] {
        operator.add_terminal(site, at(1, v4(10, 0, 0, 5, 2948), User::new(user, 0)), None);
    }
    let mut options = Options::plain(2);
    // A header, and what a forward adds, but no tunnel's.
    options.local_mtu = 1_000;
    let mut world = World::new(0, options, operator);
    let too_large: &[Reason] = &[Reason::TooLarge];
    for (message, user, bytes, rejects) in
        [(1, user(0, 5), 100, &[][..]), (2, user(0, 5), 930, too_large), (3, user(1, 5), 930, too_large)]
    {
        world.push(PUSHER, 0, Letter { payload: vec![1; bytes], ..push(user, message) }, None);
        world.run();
        let record = world.record(message);
        assert_eq!((&record.rejects[..], record.delivered.len()), (rejects, usize::from(rejects.is_empty())));
    }
    let counters = [0, 1].map(|site| world.counters(site));
    assert_eq!(counters.map(|counters| counters.tx_too_long), [1, 1]);
    assert_eq!(counters.map(|counters| counters.dropped[Reason::TooLarge.index()]), [1, 1]);
    world.close();
}

/// Links lose nothing without counting it, and a server is not asked for what never came.
#[test]
fn what_a_link_loses_is_counted_there() {
    let mut operator = operator(1);
    operator.add_terminal(0, at(1, v4(10, 0, 0, 5, 1), User::new(user(0, 5), 0)), None);
    let mut world = world(operator);
    let longest = Faults { mtu: 55, ..Faults::CLEAN };
    for (message, faults) in
        [(1, Faults { loss: 1000, ..Faults::CLEAN }), (2, Faults { mtu: 54, ..longest }), (3, longest)]
    {
        world.set_faults(LinkClass::Client, faults);
        world.push(PUSHER, 0, push(user(0, 5), message), None);
        world.run();
    }
    let counters = world.link_counters();
    assert_eq!((counters.lost, counters.too_long, counters.missing()), (1, 1, 0));
    assert_eq!((world.counters(0).rx, world.record(3).receipts), (2, 1));
    world.close();
}
