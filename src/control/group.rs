//! GROUP: groups that users make, and what they change of those of groups.csv (PROTOCOL.md, ruling 7).

use std::collections::{BTreeSet, HashMap};

use ahash::RandomState;

use super::answer::Asker;
use super::{Engine, Outbox, Outcome, Request};
use crate::id::PushId;
use crate::reason::Reason;
use crate::table::{Change, Tables};
use crate::wire::prp::{Kind, Message};

/// The longest list of members, bytes of payload.
pub(super) const LIST_BYTES_MAX: usize = 1200;

const CREATE: u8 = 1;
const JOIN: u8 = 2;
const LEAVE: u8 = 3;
const LIST: u8 = 4;
const DELETE: u8 = 5;

/// What is known of a group besides groups.csv.
#[derive(Clone, Default, Debug)]
struct Group {
    owner: Option<PushId>,
    /// It was deleted: what groups.csv says of it counts no more.
    hides_rows: bool,
    joined: BTreeSet<PushId>,
    /// Members by groups.csv that left.
    left: BTreeSet<PushId>,
}

/// All groups of which something is known.
#[derive(Debug)]
pub(super) struct Groups {
    groups: HashMap<PushId, Group, RandomState>,
    owned: usize,
    members: usize,
}

fn rows(group: PushId, tables: &Tables) -> &[[u8; 16]] {
    tables.arrays().group(group).unwrap_or_default()
}

fn has_row(group: PushId, member: PushId, tables: &Tables) -> bool {
    rows(group, tables).contains(&member.to_bytes())
}

impl Groups {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Self { groups: HashMap::with_hasher(hasher.clone()), owned: 0, members: 0 }
    }

    /// How many have an owner.
    pub(super) fn len(&self) -> usize {
        self.owned
    }

    /// Users that joined or left.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    pub(super) fn found(&mut self, group: PushId, owner: PushId) {
        let known = self.groups.entry(group).or_default();
        self.owned += usize::from(known.owner.is_none());
        known.owner = Some(owner);
    }

    pub(super) fn join(&mut self, group: PushId, member: PushId) {
        let known = self.groups.entry(group).or_default();
        self.members -= usize::from(known.left.remove(&member));
        self.members += usize::from(known.joined.insert(member));
    }

    pub(super) fn leave(&mut self, group: PushId, member: PushId) {
        let known = self.groups.entry(group).or_default();
        self.members -= usize::from(known.joined.remove(&member));
        self.members += usize::from(known.left.insert(member));
    }

    pub(super) fn disband(&mut self, group: PushId) {
        let known = self.groups.entry(group).or_default();
        self.owned -= usize::from(known.owner.is_some());
        self.members -= known.joined.len() + known.left.len();
        *known = Group { hides_rows: true, ..Group::default() };
    }

    /// Drops what says no more than groups.csv does.
    pub(super) fn prune(&mut self, group: PushId, tables: &Tables) {
        let Some(known) = self.groups.get_mut(&group) else { return };
        let before = known.left.len();
        known.left.retain(|member| !known.hides_rows && has_row(group, *member, tables));
        self.members -= before - known.left.len();
        let hides = known.hides_rows && !rows(group, tables).is_empty();
        if known.owner.is_none() && known.joined.is_empty() && known.left.is_empty() && !hides {
            self.groups.remove(&group);
        }
    }

    pub(super) fn prune_all(&mut self, tables: &Tables) {
        let all: Vec<PushId> = self.groups.keys().copied().collect();
        for group in all {
            self.prune(group, tables);
        }
    }

    /// Whether something is or was called so.
    pub(super) fn is_known(&self, group: PushId, tables: &Tables) -> bool {
        self.groups.contains_key(&group) || !rows(group, tables).is_empty()
    }

    fn shows_rows(&self, group: PushId) -> bool {
        self.groups.get(&group).is_none_or(|known| !known.hides_rows)
    }

    fn owner(&self, group: PushId) -> Option<PushId> {
        self.groups.get(&group)?.owner
    }

    /// Whether there is such a group.
    pub(super) fn exists(&self, group: PushId, tables: &Tables) -> bool {
        self.owner(group).is_some() || (self.shows_rows(group) && !rows(group, tables).is_empty())
    }

    fn is_member(&self, group: PushId, user: PushId, tables: &Tables) -> bool {
        let known = self.groups.get(&group);
        let left = known.is_some_and(|known| known.left.contains(&user));
        known.is_some_and(|known| known.joined.contains(&user))
            || (!left && self.shows_rows(group) && has_row(group, user, tables))
    }

    /// The members, each once, in the order of their Push IDs.
    pub(super) fn list(&self, group: PushId, tables: &Tables) -> Vec<PushId> {
        let rows = if self.shows_rows(group) { rows(group, tables) } else { &[] };
        let mut members: Vec<PushId> = rows.iter().map(|id| PushId::from_bytes(*id)).collect();
        if let Some(known) = self.groups.get(&group) {
            members.retain(|member| !known.left.contains(member));
            members.extend(&known.joined);
        }
        members.sort_unstable();
        members.dedup();
        members
    }

    /// What makes these groups of none.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.groups.iter().flat_map(|(&group, known)| {
            let hidden = known.hides_rows.then_some(Change::Disband { group });
            let founded = known.owner.map(|owner| Change::Found { group, owner });
            let joined = known.joined.iter().map(move |&member| Change::Join { group, member });
            let left = known.left.iter().map(move |&member| Change::Leave { group, member });
            hidden.into_iter().chain(founded).chain(joined).chain(left)
        })
    }
}

impl Engine {
    pub(super) fn group(
        &mut self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<Outcome, Reason> {
        let Request { bytes, now, .. } = *request;
        let user = message.header.destination;
        self.permit(tables, request, message, user)?;
        if user.is_none() {
            return Err(Reason::NotPermitted);
        }
        // Who cannot be reached cannot be a member.
        tables.route(user).ok_or(Reason::NoRoute)?;
        let asked = message.options.group_request(bytes).ok_or(Reason::Malformed)?;
        let named = message.options.group_id(bytes).filter(|group| !group.is_none());
        let mut members = Vec::new();
        let (group, change) = match asked {
            CREATE => self.create(tables, user, named)?,
            JOIN | LEAVE | LIST | DELETE => {
                let group = named.filter(|group| Self::is_own(tables, *group)).ok_or(Reason::UnknownGroup)?;
                if !self.groups.exists(group, tables) {
                    return Err(Reason::UnknownGroup);
                }
                let is_member = self.groups.is_member(group, user, tables);
                let change = match asked {
                    JOIN => (!is_member).then_some(Change::Join { group, member: user }),
                    LEAVE => is_member.then_some(Change::Leave { group, member: user }),
                    LIST if is_member => {
                        members = self.groups.list(group, tables);
                        None
                    }
                    DELETE if self.groups.owner(group) == Some(user) => Some(Change::Disband { group }),
                    _ => return Err(Reason::NotPermitted),
                };
                (group, change)
            }
            _ => return Err(Reason::Malformed),
        };
        let grows = match change {
            Some(Change::Leave { .. }) => has_row(group, user, tables),
            ref change => matches!(change, Some(Change::Found { .. } | Change::Join { .. })),
        };
        if grows && self.groups.members() >= self.site.limits.group_members {
            return Err(Reason::Overloaded);
        }
        let listed: Vec<u8> =
            members.iter().take(LIST_BYTES_MAX / 16).flat_map(|member| member.to_bytes()).collect();
        let asker = Asker::new(request, message.header);
        let mut head = asker.head(Kind::Grouped);
        head.group_request(asked).group_id(group);
        asker.answer(tables, &mut head, &listed, now, out)?;
        let founds = matches!(change, Some(Change::Found { .. }));
        let joins = founds.then_some(Change::Join { group, member: user });
        for change in change.into_iter().chain(joins) {
            self.commit(tables, change, now, out);
        }
        Ok(Outcome::Answered)
    }

    /// The group to create, and the change that founds it; none when the asker has done so already.
    fn create(
        &mut self,
        tables: &Tables,
        user: PushId,
        named: Option<PushId>,
    ) -> Result<(PushId, Option<Change>), Reason> {
        let group = match named {
            Some(group) if self.groups.owner(group) == Some(user) => return Ok((group, None)),
            Some(group) => {
                let is_user = self.store.of_user(group).next().is_some()
                    || self.loans.get(group).is_some()
                    || Self::rows(tables, group).next().is_some();
                if is_user || !Self::is_own(tables, group) || self.groups.exists(group, tables) {
                    return Err(Reason::NotPermitted);
                }
                group
            }
            None => self.draw(tables).ok_or(Reason::Overloaded)?,
        };
        if self.groups.len() >= self.site.limits.groups {
            return Err(Reason::Overloaded);
        }
        Ok((group, Some(Change::Found { group, owner: user })))
    }
}
