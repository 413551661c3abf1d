//! What checked access does not prove: the meaning of an image. After this, a lookup cannot leave an
//! array, cannot go on for ever, and finds every user and every owner of a private address.

use super::binding::{hash, owner_key};
use super::image::{ArchivedArrays, ArchivedText, NO_INDEX};
use super::lpm::Soundness;
use crate::id::{PushId, PushPrefix};

/// Proves an image's meaning, or says what is wrong with it.
pub(super) fn validate(a: &ArchivedArrays) -> Result<(), String> {
    rows(a)?;
    tries(a)?;
    orders(a)?;
    bindings(a)
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
    ensure(a.groups.is_sorted_by(|x, y| x.group < y.group), "groups are out of order")?;
    ensure(
        a.lines.is_sorted_by(|x, y| (x.user(), x.device()) < (y.user(), y.device())),
        "two lines are one terminal's, or out of order",
    )
}

fn bindings(a: &ArchivedArrays) -> Result<(), String> {
    let lines = &a.lines;
    let user_entries = a.users.entries(lines.len()).ok_or("the users' index leaves its array")?;
    let owner_entries = a.owners.entries(lines.len()).ok_or("the owners' index leaves its array")?;
    let (mut users, mut owners) = (0, 0);
    for (at, line) in lines.iter().enumerate() {
        ensure(line.is_sound(a.nat6.len()), "a line's flags contradict each other")?;
        let user = line.user();
        let is_first = at == 0 || lines[at - 1].user() != user;
        let more = lines.get(at + 1).is_some_and(|next| next.user() == user);
        ensure(line.has_more() == more, "a user's lines do not stand together")?;
        if is_first {
            users += 1;
            ensure(a.find(user) == Some(at), "a user is not found")?;
        }
        if let Some(private) = line.private() {
            owners += 1;
            let hash = hash(owner_key(line.realm(), private.octets()), a.owners.seed());
            let same = |found: &usize| {
                lines[*found].realm() == line.realm() && lines[*found].private() == Some(private)
            };
            ensure(a.owners.candidates(hash).filter(same).eq([at]), "a private address has not one owner")?;
        }
    }
    ensure(users == user_entries && owners == owner_entries, "an index has entries that belong to nobody")
}

impl ArchivedArrays {
    /// The first line of a user.
    #[inline]
    pub fn find(&self, user: PushId) -> Option<usize> {
        self.find_hashed(user, hash(user.0, self.users.seed()))
    }

    /// As [`ArchivedArrays::find`], the hash known.
    #[inline]
    pub fn find_hashed(&self, user: PushId, hash: u64) -> Option<usize> {
        self.users.find(hash, |line| self.lines[line].user() == user)
    }
}
