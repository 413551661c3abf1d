//! GROUP: groups that users make, and what they change of those of groups.csv (PROTOCOL.md, ruling 7).

use super::answer::Asker;
use super::kept::Kept;
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
#[derive(Clone, Copy, Default, Debug)]
struct Head {
    owner: Option<PushId>,
    /// It was deleted: what groups.csv says of it counts no more.
    hides_rows: bool,
}

/// What a user is to a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Member,
    /// A member by groups.csv that left.
    Former,
}

/// All groups of which something is known.
#[derive(Debug)]
pub(super) struct Groups {
    heads: Kept<PushId, Head>,
    /// By group and user.
    roles: Kept<(PushId, PushId), Role>,
    owned: usize,
}

fn rows(group: PushId, tables: &Tables) -> &[[u8; 16]] {
    tables.arrays().group(group).unwrap_or_default()
}

fn has_row(group: PushId, member: PushId, tables: &Tables) -> bool {
    rows(group, tables).contains(&member.to_bytes())
}

impl Groups {
    pub(super) fn new() -> Self {
        Self { heads: Kept::default(), roles: Kept::default(), owned: 0 }
    }

    /// How many have an owner.
    pub(super) fn len(&self) -> usize {
        self.owned
    }

    /// Users that joined or left.
    pub(super) fn members(&self) -> usize {
        self.roles.len()
    }

    pub(super) fn found(&mut self, group: PushId, owner: PushId) {
        let known = self.heads.get(&group).copied().unwrap_or_default();
        self.owned += usize::from(known.owner.is_none());
        self.heads.insert(group, Head { owner: Some(owner), ..known });
    }

    pub(super) fn join(&mut self, group: PushId, member: PushId) {
        self.roles.insert((group, member), Role::Member);
    }

    pub(super) fn leave(&mut self, group: PushId, member: PushId) {
        self.roles.insert((group, member), Role::Former);
    }

    pub(super) fn disband(&mut self, group: PushId) {
        let known = self.heads.insert(group, Head { owner: None, hides_rows: true });
        self.owned -= usize::from(known.is_some_and(|known| known.owner.is_some()));
        let users: Vec<PushId> = self.roles_of(group).map(|(user, _)| user).collect();
        for user in users {
            self.roles.remove(&(group, user));
        }
    }

    /// Drops what says no more of a user than groups.csv does.
    pub(super) fn prune_role(&mut self, group: PushId, user: PushId, tables: &Tables) {
        let is_former = self.roles.get(&(group, user)) == Some(&Role::Former);
        if is_former && (!self.shows_rows(group) || !has_row(group, user, tables)) {
            self.roles.remove(&(group, user));
        }
    }

    /// Drops what says no more of a group than groups.csv does.
    pub(super) fn prune_head(&mut self, group: PushId, tables: &Tables) {
        let Some(known) = self.heads.get(&group).copied() else { return };
        let hides_rows = known.hides_rows && !rows(group, tables).is_empty();
        if known.owner.is_none() && !hides_rows {
            self.heads.remove(&group);
        } else if hides_rows != known.hides_rows {
            self.heads.insert(group, Head { hides_rows, ..known });
        }
    }

    pub(super) fn prune_all(&mut self, tables: &Tables) {
        let roles: Vec<(PushId, PushId)> = self.roles.iter().map(|(key, _)| *key).collect();
        for (group, user) in roles {
            self.prune_role(group, user, tables);
        }
        let heads: Vec<PushId> = self.heads.iter().map(|(group, _)| *group).collect();
        for group in heads {
            self.prune_head(group, tables);
        }
    }

    fn roles_of(&self, group: PushId) -> impl Iterator<Item = (PushId, Role)> {
        let all = (group, PushId(0))..=(group, PushId(u128::MAX));
        self.roles.range(all).map(|((_, user), role)| (*user, *role))
    }

    /// Whether something is or was called so.
    pub(super) fn is_known(&self, group: PushId, tables: &Tables) -> bool {
        self.heads.get(&group).is_some()
            || self.roles_of(group).next().is_some()
            || !rows(group, tables).is_empty()
    }

    fn shows_rows(&self, group: PushId) -> bool {
        self.heads.get(&group).is_none_or(|known| !known.hides_rows)
    }

    fn owner(&self, group: PushId) -> Option<PushId> {
        self.heads.get(&group)?.owner
    }

    /// Whether there is such a group.
    pub(super) fn exists(&self, group: PushId, tables: &Tables) -> bool {
        self.owner(group).is_some() || (self.shows_rows(group) && !rows(group, tables).is_empty())
    }

    fn is_member(&self, group: PushId, user: PushId, tables: &Tables) -> bool {
        match self.roles.get(&(group, user)) {
            Some(role) => *role == Role::Member,
            None => self.shows_rows(group) && has_row(group, user, tables),
        }
    }

    /// The members, each once, in the order of their Push IDs.
    pub(super) fn list(&self, group: PushId, tables: &Tables) -> Vec<PushId> {
        let rows = if self.shows_rows(group) { rows(group, tables) } else { &[] };
        let by_row = rows.iter().map(|id| PushId::from_bytes(*id));
        let mut members: Vec<PushId> =
            by_row.filter(|user| self.roles.get(&(group, *user)) != Some(&Role::Former)).collect();
        let joined = self.roles_of(group).filter(|(_, role)| *role == Role::Member);
        members.extend(joined.map(|(user, _)| user));
        members.sort_unstable();
        members.dedup();
        members
    }

    /// What makes these groups of none: first the groups, as to be deleted ends memberships.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        let heads = self.heads.iter().flat_map(|(group, head)| head.changes(*group));
        heads.chain(self.roles.iter().map(|(key, role)| role.change(*key)))
    }

    pub(super) fn begin_cut(&mut self) {
        self.heads.begin_cut();
        self.roles.begin_cut();
    }

    /// What [`Groups::changes`] were at the moment of the cut, after looking at so many more.
    pub(super) fn cut_some(&mut self, entries: usize) -> Option<Vec<Change>> {
        if let Some(part) = self.heads.cut_some(entries) {
            return Some(part.iter().flat_map(|(group, head)| head.changes(*group)).collect());
        }
        let part = self.roles.cut_some(entries)?;
        Some(part.iter().map(|(key, role)| role.change(*key)).collect())
    }

    pub(super) fn end_cut(&mut self) {
        self.heads.end_cut();
        self.roles.end_cut();
    }
}

impl Head {
    fn changes(self, group: PushId) -> impl Iterator<Item = Change> {
        let hidden = self.hides_rows.then_some(Change::Disband { group });
        let founded = self.owner.map(|owner| Change::Found { group, owner });
        hidden.into_iter().chain(founded)
    }
}

impl Role {
    fn change(self, (group, member): (PushId, PushId)) -> Change {
        match self {
            Self::Member => Change::Join { group, member },
            Self::Former => Change::Leave { group, member },
        }
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
