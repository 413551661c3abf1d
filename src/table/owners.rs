//! The unique way back: from a private address to the line that has it.
//!
//! Costs: 4.4 bytes an address: four of a line's number, 98.4 percent of the places in use, and the perfect hash's
//! 0.3. A lookup reads one number and the line. Nothing on the fast path looks here: that every line is its address's
//! owner is proven when the image is opened, and what changed since is in the live tables. Registration does.
//!
//! Several lines may have one address on different ports (`users.csv` warns of it): then the number is
//! that of a list in `shared`.

use rkyv::{Archive, Deserialize, Serialize};

use super::binding::owner_hash;
use super::memory::prefetch;
use super::phf::Phf;

/// From addresses to lines.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Owners {
    phf: Phf,
    /// A line's number, or with [`LIST`] where in `shared` a list of them begins.
    places: Vec<u32>,
    /// Lists, by port; the last line of each has [`LAST`].
    shared: Vec<u32>,
}

/// No address has this place.
const FREE: u32 = u32::MAX;
const LIST: u32 = 1 << 31;
const LAST: u32 = 1 << 31;

/// The most lines that can be told apart.
pub(super) const LINES_MAX: usize = (LIST - 1) as usize;

/// A line's address: realm and address, and the port.
pub(super) type Address = ((u32, [u8; 16]), u16);

impl Owners {
    /// The way back from the addresses of `lines`, by a perfect hash of them. `None`: two different addresses have
    /// one hash, and the next perfect hash is to be tried.
    pub(super) fn build(
        phf: Phf,
        lines: impl Iterator<Item = u32>,
        address: impl Fn(u32) -> Address,
    ) -> Option<Self> {
        let mut places = vec![FREE; phf.places()];
        let mut more: Vec<(usize, u32)> = Vec::new();
        for line in lines {
            let (own, _) = address(line);
            let place = phf.place(owner_hash(own, phf.seed()));
            match places[place] {
                FREE => places[place] = line,
                first if address(first).0 == own => more.push((place, line)),
                _ => return None,
            }
        }
        more.sort_unstable();
        let mut shared = Vec::with_capacity(more.len() * 2);
        for group in more.chunk_by(|a, b| a.0 == b.0) {
            let place = &mut places[group[0].0];
            let mut list: Vec<u32> = group.iter().map(|(_, line)| *line).chain([*place]).collect();
            list.sort_by_key(|line| address(*line).1);
            *place = LIST | shared.len() as u32;
            shared.extend(list);
            shared.last_mut().into_iter().for_each(|last| *last |= LAST);
        }
        Some(Self { phf, places, shared })
    }
}

impl Owners {
    /// No fewer bytes than its archive has beside its own structure.
    pub(super) fn bytes_max(&self) -> usize {
        self.phf.bytes_max() + size_of_val(&self.places[..]) + size_of_val(&self.shared[..])
    }
}

impl ArchivedOwners {
    /// How many addresses there are.
    pub(super) fn owned(&self) -> usize {
        self.places.iter().filter(|entry| entry.to_native() != FREE).count()
    }

    /// The seed that addresses are hashed with.
    pub fn seed(&self) -> u64 {
        self.phf.view().seed()
    }

    /// The place of the address with this hash.
    pub(super) fn place(&self, hash: u64) -> usize {
        self.phf.view().place(hash)
    }

    /// Starts to bring near what [`ArchivedOwners::place`] reads.
    pub(super) fn prefetch_way(&self, hash: u64) {
        self.phf.view().prefetch(hash);
    }

    /// Starts to bring near what stands at a place.
    pub(super) fn prefetch(&self, place: usize) {
        prefetch(&self.places, place);
    }

    /// What stands at a place: lines of one address, which may be another than was asked for.
    pub(super) fn at(&self, place: usize) -> Stands {
        match self.places.get(place).map_or(FREE, |entry| entry.to_native()) {
            FREE => Stands::Nobody,
            line if line & LIST == 0 => Stands::Line(line as usize),
            list => Stands::List((list & !LIST) as usize),
        }
    }

    /// The lines of the address that has this place.
    pub(super) fn lines(&self, place: usize) -> impl Iterator<Item = usize> + '_ {
        let (one, list) = match self.at(place) {
            Stands::Nobody => (None, None),
            Stands::Line(line) => (Some(line), None),
            Stands::List(first) => (None, Some(first)),
        };
        one.into_iter().chain(list.into_iter().flat_map(|first| self.list(first)))
    }

    /// The lines of the list that begins here.
    pub(super) fn list(&self, first: usize) -> impl Iterator<Item = usize> + '_ {
        let rest = self.shared.get(first..).unwrap_or_default();
        let end =
            rest.iter().position(|line| line.to_native() & LAST != 0).map_or(rest.len(), |last| last + 1);
        rest[..end].iter().map(|line| (line.to_native() & !LAST) as usize)
    }

    /// The lists, by where they begin, with the place that each stands at.
    pub(super) fn lists(&self) -> Vec<(usize, usize)> {
        let list = |place| match self.at(place) {
            Stands::List(first) => Some((first, place)),
            _ => None,
        };
        let mut lists: Vec<_> = (0..self.places.len()).filter_map(list).collect();
        lists.sort_unstable();
        lists
    }

    /// How many lines stand alone at a place, if all places are of the perfect hash and the lists, which `lists` are,
    /// follow each other and cover all that is shared.
    pub(super) fn alone(&self, lists: &[(usize, usize)]) -> Option<usize> {
        if !self.phf.is_sound() || self.phf.places() != self.places.len() {
            return None;
        }
        let mut next = 0;
        for (first, _) in lists {
            let rest = self.shared.get(next..).filter(|_| *first == next)?;
            next += rest.iter().position(|line| line.to_native() & LAST != 0)? + 1;
        }
        let alone = (0..self.places.len()).filter(|place| matches!(self.at(*place), Stands::Line(_)));
        (next == self.shared.len()).then(|| alone.count())
    }

    /// How many lines stand in lists.
    pub(super) fn listed(&self) -> usize {
        self.shared.len()
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.phf.size() + size_of_val(&self.places[..]) + size_of_val(&self.shared[..])
    }

    /// How many addresses there is room for.
    pub fn places(&self) -> usize {
        self.places.len()
    }
}

/// Who stands at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stands {
    Nobody,
    /// The line with this number.
    Line(usize),
    /// Several, in the list that begins here.
    List(usize),
}
