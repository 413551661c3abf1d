//! Where each terminal's line stands in an image: users by a perfect hash of their Push IDs, further terminals behind
//! all of them, and the way back from private addresses.
//!
//! Costs beside the rows and the image: 8 bytes a user while a hash is made, 4 a place for the order of the lines, 8
//! a terminal beyond a user's first. The lines themselves are made while they are written.

use ahash::{AHashMap, AHashSet};
use rkyv::rancor::{Error as RkyvError, Fallible};
use rkyv::ser::{Allocator, Writer};
use rkyv::util::AlignedVec;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Serialize};

use super::binding::{BLOCK_SHIFT, Line, hash, owner_hash};
use super::compile::TrieKey;
use super::image::RealmRow;
use super::lpm::{ArchivedTries, Tries};
use super::memory::prefetch;
use super::owners::{Address, LINES_MAX, Owners};
use super::phf::Phf;
use super::step::Step;
use super::users::{Store, Users};
use crate::id::PushId;

/// Seeds of the two perfect hashes. Any would do; fixed ones make the same image of the same tables.
const USERS_SEED: u64 = 0x7075_7368_5F75_7365;
const OWNERS_SEED: u64 = 0x7075_7368_5F6F_776E;

/// No row stands at a place.
const NOBODY: u32 = u32::MAX;

/// How many lines ahead rows are brought near.
const AHEAD: usize = 32;

/// What an image holds of the users.
pub(super) struct Placed {
    pub(super) lines: Lines,
    pub(super) users: Phf,
    pub(super) owners: Owners,
    /// Of each block of places, where its further lines begin.
    pub(super) blocks: Vec<u32>,
    pub(super) nat6: Vec<[u8; 16]>,
}

/// Places users and what belongs to them.
///
/// # Errors
/// A sentence, when there are more than can be told apart, or a row is nobody's.
pub(super) fn place(
    users: Users,
    keyed: impl Iterator<Item = PushId>,
    realms: &[RealmRow],
    tries: &Tries,
    told: &dyn Fn(Step),
) -> Result<Placed, String> {
    // Places are more than users by a little, further lines are fewer.
    let rows_max = LINES_MAX / 2;
    if users.len() > rows_max {
        return Err(format!(
            "users.csv has {} rows, expected at most {rows_max}; split the operator",
            users.len()
        ));
    }
    if users.lines.iter().any(Line::is_free) {
        return Err("users.csv has a row of the all-zero Push ID, which is nobody's; remove it".to_owned());
    }
    told(Step::Begins("placing the users"));
    let hashes = |seed| users.lines.iter().map(|row| hash(row.user().0, seed)).collect();
    let order = Phf::attempts(USERS_SEED, hashes).find_map(|phf| Order::new(&users, phf));
    let order = order.ok_or("users.csv has users that no hash keeps apart; report this file")?;

    told(Step::Begins("placing the private addresses"));
    let hashes =
        |seed| users.lines.iter().filter_map(|row| Some(owner_hash(address(row)?.0, seed))).collect();
    let owners = Phf::attempts(OWNERS_SEED, hashes).find_map(|phf| {
        let owning = order.by_row(&users).filter(|(_, row)| row.private().is_some());
        let of_line = |line: u32| address(&users.lines[order.row(line)]).unwrap_or_default();
        Owners::build(phf, owning.map(|(line, _)| line), of_line)
    });
    let owners =
        owners.ok_or("users.csv has private addresses that no hash keeps apart; report this file")?;

    let (nat6, nat6_places) = order.nat6(&users);
    let (phf, blocks) = (order.phf.clone(), order.blocks());
    let segments = Segments::new(realms, tries)?;
    let lines = Lines { users, order, nat6_places, segments, keyed: keyed.collect() };
    Ok(Placed { lines, users: phf, owners, blocks, nat6 })
}

/// A row's private address and its port.
fn address(row: &Line) -> Option<Address> {
    let private = row.private()?;
    Some(((row.realm(), private.octets()), private.port()))
}

/// Which row stands where.
struct Order {
    phf: Phf,
    /// The row of each place: the user's terminal with the lowest device.
    first: Vec<u32>,
    /// The rows behind all places, with the places that they belong to: by place and device.
    further: Vec<(u32, u32)>,
}

impl Order {
    /// By this perfect hash of the users; `None` when two have one hash.
    fn new(users: &Users, phf: Phf) -> Option<Self> {
        let mut first = vec![NOBODY; phf.places()];
        let mut further: Vec<(u32, u32)> = Vec::new();
        for (row, line) in (0..).zip(&users.lines) {
            let place = phf.place(hash(line.user().0, phf.seed()));
            match first[place] {
                NOBODY => first[place] = row,
                other if users.lines[other as usize].user() == line.user() => {
                    further.push((place as u32, row))
                }
                _ => return None,
            }
        }
        let device = |row: u32| users.lines[row as usize].device();
        further.sort_unstable_by_key(|(place, row)| (*place, device(*row)));
        for rows in further.chunk_by_mut(|a, b| a.0 == b.0) {
            let first = &mut first[rows[0].0 as usize];
            if device(rows[0].1) < device(*first) {
                std::mem::swap(first, &mut rows[0].1);
                rows.sort_unstable_by_key(|(_, row)| device(*row));
            }
        }
        Some(Self { phf, first, further })
    }

    fn len(&self) -> usize {
        self.first.len() + self.further.len()
    }

    /// The row that stands in a line in which one does.
    fn row(&self, line: u32) -> usize {
        let line = line as usize;
        let row = self.first.get(line).copied();
        row.unwrap_or_else(|| self.further[line - self.first.len()].1) as usize
    }

    /// The line of every row, in the order of rows.
    fn by_row<'a>(&'a self, users: &'a Users) -> impl Iterator<Item = (u32, &'a Line)> {
        let behind = self.first.len() as u32..;
        let further: AHashMap<u32, u32> = self.further.iter().map(|(_, row)| *row).zip(behind).collect();
        (0..).zip(&users.lines).map(move |(row, line)| {
            let place = self.phf.place(hash(line.user().0, self.phf.seed()));
            (if self.first[place] == row { place as u32 } else { further[&row] }, line)
        })
    }

    /// Where the further lines of each block of places begin, counted from the first of all.
    fn blocks(&self) -> Vec<u32> {
        let blocks = self.first.len().div_ceil(1 << BLOCK_SHIFT);
        let begins =
            |block: usize| self.further.partition_point(|(place, _)| *place >> BLOCK_SHIFT < block as u32);
        (0..blocks).map(|block| begins(block) as u32).collect()
    }

    /// Public IPv6 addresses in the order of the lines, and which each one of the rows' has become.
    fn nat6(&self, users: &Users) -> (Vec<[u8; 16]>, Vec<u32>) {
        let mut sorted = Vec::with_capacity(users.nat6.len());
        let mut places = vec![0; users.nat6.len()];
        if places.is_empty() {
            return (sorted, places);
        }
        let rows = self.first.iter().filter(|row| **row != NOBODY);
        for row in rows.chain(self.further.iter().map(|(_, row)| row)) {
            if let Some(at) = users.lines[*row as usize].nat6_place() {
                places[at as usize] = sorted.len() as u32;
                sorted.push(users.nat6[at as usize]);
            }
        }
        (sorted, places)
    }
}

/// The segments as a reader of the image will see them.
struct Segments {
    tries: AlignedVec,
    /// Roots by realm.
    realms: AHashMap<u32, (u32, u32)>,
}

impl Segments {
    fn new(realms: &[RealmRow], tries: &Tries) -> Result<Self, String> {
        let tries = rkyv::to_bytes::<RkyvError>(tries).map_err(|error| error.to_string())?;
        rkyv::access::<ArchivedTries, RkyvError>(&tries).map_err(|error| error.to_string())?;
        Ok(Self { tries, realms: realms.iter().map(|row| (row.realm, (row.root_v4, row.root_v6))).collect() })
    }
}

/// The lines of an image in their order, made one by one.
pub struct Lines {
    users: Users,
    order: Order,
    /// Which of the image's public IPv6 addresses each of the rows' has become.
    nat6_places: Vec<u32>,
    segments: Segments,
    /// Users with a key of their own.
    keyed: AHashSet<PushId>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Lines {
    /// How many there are, free places included.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn iter(&self, tries: &ArchivedTries) -> impl Iterator<Item = Line> {
        let Order { first, further, .. } = &self.order;
        // How many further lines belong to places before this one, and before its block.
        let (mut next, mut block) = (0, 0);
        let places = (0u32..).zip(first).map(move |(place, row)| {
            prefetch(&self.users.lines, first.get(place as usize + AHEAD).map_or(0, |row| *row as usize));
            if place.is_multiple_of(1 << BLOCK_SHIFT) {
                block = next;
            }
            if *row == NOBODY {
                return Line::default();
            }
            let begin = next;
            next += further[begin..].iter().take_while(|(of, _)| *of == place).count();
            self.line(tries, *row).with_further((next > begin).then(|| (begin - block) as u32))
        });
        let behind = further.iter().enumerate().map(move |(at, (place, row))| {
            let more = further.get(at + 1).is_some_and(|(of, _)| of == place);
            self.line(tries, *row).with_further(more.then_some(0))
        });
        places.chain(behind)
    }

    /// A row, and what the rest of the tables says of it.
    fn line(&self, tries: &ArchivedTries, row: u32) -> Line {
        let line = self.users.lines[row as usize];
        let gateway = line.private().and_then(|private| {
            let (v4, v6) = *self.segments.realms.get(&line.realm())?;
            match TrieKey::of(private) {
                TrieKey::V4(key) => tries.lookup(v4, key),
                TrieKey::V6(key) => tries.lookup(v6, key),
            }
        });
        let has_key = !self.keyed.is_empty() && self.keyed.contains(&line.user());
        let nat6 = line.nat6_place().map(|at| self.nat6_places[at as usize]);
        line.placed(gateway, has_key, nat6)
    }
}

impl Archive for Lines {
    type Archived = ArchivedVec<Line>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: rkyv::Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(self.len(), resolver, out);
    }
}

impl<S: Fallible<Error = RkyvError> + Allocator + Writer + ?Sized> Serialize<S> for Lines {
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, RkyvError> {
        let tries = rkyv::access::<ArchivedTries, RkyvError>(&self.segments.tries)?;
        ArchivedVec::<Line>::serialize_from_unknown_length_iter(&mut self.iter(tries), serializer)
    }
}
