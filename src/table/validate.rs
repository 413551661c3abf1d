//! What checked access does not prove: the meaning of an image. After this, a lookup cannot leave an
//! array, cannot go on for ever, and finds every user and every owner of a private address.

use ahash::AHashMap;

use super::binding::{BLOCK_SHIFT, Line, NO_GATEWAY, owner_hash};
use super::image::{ArchivedArrays, ArchivedText, NO_INDEX};
use super::lpm::Soundness;
use super::owners::{LINES_MAX, Stands};
use super::phf::joined;
use crate::id::{Endpoint, PushPrefix};

/// Proves an image's meaning, or says what is wrong with it; how many terminals it has.
pub(super) fn validate(a: &ArchivedArrays) -> Result<usize, String> {
    rows(a)?;
    tries(a)?;
    orders(a)?;
    std::thread::scope(|scope| {
        let owners = scope.spawn(|| owners(a));
        let terminals = bindings(a);
        let owners = joined(owners);
        terminals.and_then(|terminals| owners.map(|()| terminals))
    })
}

fn ensure(right: bool, fault: &str) -> Result<(), String> {
    if right { Ok(()) } else { Err(fault.to_owned()) }
}

fn rows(a: &ArchivedArrays) -> Result<(), String> {
    let text_is = |text: &ArchivedText| {
        let start = text.start.to_native() as usize;
        let bytes = a.text.get(start..start + text.len.to_native() as usize);
        bytes.is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
    };
    let key_is = |key: u32| key == NO_INDEX || (key as usize) < a.keys.len();
    for server in a.servers.iter() {
        ensure(text_is(&server.name) && key_is(server.key.to_native()), "a server's row leads nowhere")?;
    }
    for prefix in a.prefixes.iter() {
        let right = (prefix.server.to_native() as usize) < a.servers.len()
            && PushPrefix::new(prefix.bits.to_native(), prefix.len).is_some();
        ensure(right, "a prefix is none or belongs to no server")?;
    }
    for gateway in a.gateways.iter() {
        ensure(text_is(&gateway.name) && gateway.tunnel <= 3, "a gateway's row leads nowhere")?;
        ensure(
            gateway.tunnel != 1 || gateway.tunnel_id.to_native() < 1 << 24,
            "a VNI has more than 24 bits",
        )?;
    }
    for segment in a.segments.iter() {
        ensure((segment.gateway.to_native() as usize) < a.gateways.len(), "a segment has no gateway")?;
    }
    for source in a.sources.iter() {
        ensure((source.owner.to_native() as usize) < a.apps.len(), "a source belongs to no application")?;
    }
    for app in a.apps.iter() {
        let right = text_is(&app.name) && key_is(app.key.to_native()) && app.rule <= 2 && app.flags <= 3;
        ensure(right, "an application's row leads nowhere")?;
    }
    for name in a.names.iter() {
        ensure(text_is(&name.name), "a name leads nowhere")?;
    }
    let mut next = 0;
    for group in a.groups.iter() {
        ensure(
            group.first.to_native() == next && group.count.to_native() > 0,
            "groups do not cover their members",
        )?;
        next = next.checked_add(group.count.to_native()).ok_or("groups are too large")?;
    }
    ensure(next as usize == a.members.len(), "groups do not cover their members")
}

fn tries(a: &ArchivedArrays) -> Result<(), String> {
    let mut soundness = Soundness::new(&a.tries);
    ensure(soundness.holds(a.prefix_root.to_native(), a.servers.len()), "the prefixes' trie is broken")?;
    for realm in a.realms.iter() {
        for root in [realm.root_v4.to_native(), realm.root_v6.to_native()] {
            ensure(soundness.holds(root, a.gateways.len()), "a realm's trie is broken")?;
        }
    }
    for app in a.apps.iter() {
        for root in [app.root_v4.to_native(), app.root_v6.to_native()] {
            ensure(soundness.holds(root, 1), "an application's trie is broken")?;
        }
    }
    Ok(())
}

fn orders(a: &ArchivedArrays) -> Result<(), String> {
    ensure(a.realms.is_sorted_by(|x, y| x.realm < y.realm), "realms are out of order")?;
    ensure(a.apps.is_sorted_by(|x, y| x.id < y.id), "applications are out of order")?;
    ensure(a.keys.is_sorted_by(|x, y| x.id < y.id), "keys are out of order")?;
    ensure(a.names.is_sorted_by(|x, y| a.text(&x.name) < a.text(&y.name)), "names are out of order")?;
    ensure(a.groups.is_sorted_by(|x, y| x.group < y.group), "groups are out of order")
}

/// The users' lines and the way back to them; how many lines are somebody's.
fn bindings(a: &ArchivedArrays) -> Result<usize, String> {
    ensure(a.users.is_sound(), "the users' hash leads beyond the lines")?;
    let places = a.users.places();
    ensure(places <= a.lines.len(), "the users' hash leads beyond the lines")?;
    ensure(a.lines.len() <= LINES_MAX, "there are more lines than can be told apart")?;
    let realms: AHashMap<u32, (u32, u32)> = a
        .realms
        .iter()
        .map(|row| (row.realm.to_native(), (row.root_v4.to_native(), row.root_v6.to_native())))
        .collect();
    let gateway = |line: &Line| {
        let (private, (v4, v6)) = (line.private()?, *realms.get(&line.realm())?);
        a.lookup(v4, v6, private).filter(|gateway| *gateway < u32::from(NO_GATEWAY))
    };
    let blocks = places.div_ceil(1 << BLOCK_SHIFT);
    ensure(a.blocks.len() == blocks, "further lines are not where their blocks say")?;
    let bindings = a.bindings();
    // How many further lines were seen, of a user each.
    let (mut next, mut held) = (0, 0);
    for (place, line) in a.lines[..places].iter().enumerate() {
        let block = &a.blocks[place >> BLOCK_SHIFT];
        if place.is_multiple_of(1 << BLOCK_SHIFT) {
            ensure(block.to_native() as usize == next, "further lines are not where their blocks say")?;
        }
        if line.is_free() {
            ensure(*line == Line::default(), "a place is nobody's and not empty")?;
            continue;
        }
        held += 1;
        ensure(line.is_sound(a.nat6.len()), "a line's flags contradict each other")?;
        ensure(line.gateway() == gateway(line), "a line's gateway is not that of its segment")?;
        ensure(bindings.places.place(bindings.hash(line.user())) == place, "a user is not found")?;
        if !line.has_more() {
            continue;
        }
        let further = bindings.further(line, place);
        let begins = block.to_native() as usize + line.further() == next;
        ensure(begins && !further.is_empty(), "a user's further lines do not stand together")?;
        next += further.len();
        let mut device = line.device();
        for line in further {
            ensure(line.is_sound(a.nat6.len()), "a line's flags contradict each other")?;
            ensure(line.gateway() == gateway(line), "a line's gateway is not that of its segment")?;
            let after = a.lines[place].user() == line.user() && device < line.device();
            ensure(after, "two lines are one terminal's, or out of order")?;
            device = line.device();
        }
    }
    ensure(places + next == a.lines.len(), "there are lines of nobody")?;
    Ok(held + next)
}

/// How many lines are looked at at once: what they need is brought near together.
const BATCH: usize = 64;

/// That every private address leads to the lines that have it, and to no other.
fn owners(a: &ArchivedArrays) -> Result<(), String> {
    const FAULT: &str = "a private address has not one owner";
    let place = |line: &Line| {
        let address = (line.realm(), line.private()?.octets());
        Some(a.owners.place(owner_hash(address, a.owners.seed())))
    };
    let lists = a.owners.lists();
    let all_alone = a.owners.alone(&lists).ok_or("the owners' index leaves its arrays")?;
    let (mut alone, mut listed) = (0, 0);
    for (first, lines) in (0..).step_by(BATCH).zip(a.lines.chunks(BATCH)) {
        let mut owned = [None; BATCH];
        for (owned, line) in owned.iter_mut().zip(lines) {
            *owned = place(line);
            owned.iter().for_each(|place| a.owners.prefetch(*place));
        }
        for (at, place) in (first..).zip(owned) {
            match place.map(|place| a.owners.at(place)) {
                None => {}
                Some(Stands::Line(line)) if line == at => alone += 1,
                Some(Stands::List(_)) => listed += 1,
                Some(_) => return Err(FAULT.to_owned()),
            }
        }
    }
    // Each line has one place, so as many lines as places means: each place one line.
    ensure(alone == all_alone && listed == a.owners.listed(), FAULT)?;
    for (first, at) in lists {
        let mut before: Option<&Line> = None;
        for line in a.owners.list(first) {
            let line = a.lines.get(line).filter(|line| place(line) == Some(at)).ok_or(FAULT)?;
            let address = |line: &Line| (line.realm(), line.private().map(Endpoint::octets));
            let port = |line: &Line| line.private().map(Endpoint::port);
            let after = |before: &Line| address(before) == address(line) && port(before) < port(line);
            ensure(before.is_none_or(after), FAULT)?;
            before = Some(line);
        }
    }
    Ok(())
}
