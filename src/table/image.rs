//! The image: all tables of one generation in one file, ready to be read where it lies.
//!
//! A header of 64 bytes of our own, then one rkyv archive of flat arrays (drawn byte by byte in
//! `tables/README.md`). Checked access proves the layout; [`Image::open`] proves the meaning
//! besides: that every index leads somewhere, tries end, orders hold, and every user and every private
//! address is found. What passed is served from memory of its own, never from the file: nobody can
//! change it underneath.
//!
//! Costs: reading the file once, a checksum at memory speed, and two lookups a terminal.

#![expect(unsafe_code, reason = "reaches the archive again without checking it a second time")]

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rkyv::rancor::Error as RkyvError;
use rkyv::ser::writer::Buffer;
use rkyv::{Archive, Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::binding::Line;
use super::compile;
use super::live::overlay::Overlay;
use super::lpm::Tries;
use super::memory::{Extent, Mapped, Pages, Region};
use super::owners::Owners;
use super::phf::{Phf, joined};
use super::place::Lines;
use super::rib::{Rib, User};
use super::step::Step;
use super::users::Users;
use super::validate;
use crate::id::{Endpoint, PushId};

/// Bytes before the archive; also its alignment.
const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"PPIMAGE\0";
/// Changes with every change of the archive's layout.
const FORMAT: u32 = 3;
/// Bytes that are worth a thread to read them.
const SHARE_MIN: usize = 64 << 20;
/// Reads as another number on a machine of the other byte order.
const ENDIAN: u32 = 0x0102_0304;

/// A text in [`Arrays::text`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct Text {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// An [`Endpoint`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct Address {
    pub(super) octets: [u8; 16],
    pub(super) port: u16,
}

impl From<Endpoint> for Address {
    fn from(endpoint: Endpoint) -> Self {
        Self { octets: endpoint.octets(), port: endpoint.port() }
    }
}

impl From<&ArchivedAddress> for Endpoint {
    fn from(address: &ArchivedAddress) -> Self {
        Self::from_octets(address.octets, address.port.to_native())
    }
}

/// An index that may be absent.
pub(super) const NO_INDEX: u32 = u32::MAX;

/// A row of `servers.toml`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct ServerRow {
    pub(super) name: Text,
    pub(super) address: Address,
    /// Into `keys`, or [`NO_INDEX`].
    pub(super) key: u32,
}

/// A prefix of a server.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct PrefixRow {
    pub(super) bits: u64,
    pub(super) server: u32,
    pub(super) len: u8,
}

/// A row of `gateways.toml`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct GatewayRow {
    pub(super) name: Text,
    pub(super) address: Address,
    /// All zero: none.
    pub(super) source_v4: Address,
    pub(super) source_v6: Address,
    /// VNI or TEID.
    pub(super) tunnel_id: u32,
    pub(super) mac: [u8; 6],
    /// 0 plain, 1 vxlan, 2 gtpu, 3 none.
    pub(super) tunnel: u8,
}

/// A row of `segments.csv`, or a prefix of an application's `sources`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct SegmentRow {
    /// IPv4 as v4-mapped.
    pub(super) octets: [u8; 16],
    /// The realm, or the application's index.
    pub(super) owner: u32,
    /// The gateway's index.
    pub(super) gateway: u32,
    pub(super) len: u8,
}

/// The tries of one realm.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub struct RealmRow {
    pub(super) realm: u32,
    pub(super) root_v4: u32,
    pub(super) root_v6: u32,
}

/// A row of `apps.toml`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct AppRow {
    pub(super) id: u32,
    pub(super) name: Text,
    /// Zero: no limit.
    pub(super) rate: u32,
    /// Into `keys`, or [`NO_INDEX`].
    pub(super) key: u32,
    pub(super) root_v4: u32,
    pub(super) root_v6: u32,
    /// 0 normal, 1 priority, 2 min-delay.
    pub(super) rule: u8,
    /// Bit 0: `users`; bit 1: has `sources`.
    pub(super) flags: u8,
}

/// A row of `names.csv`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct NameRow {
    pub(super) name: Text,
    pub(super) push_id: [u8; 16],
}

/// A group: its members stand together in `members`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct GroupRow {
    pub(super) group: [u8; 16],
    pub(super) first: u32,
    pub(super) count: u32,
}

/// A row of `keys.toml`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug)]
pub struct KeyRow {
    pub(super) id: u32,
    pub(super) value: [u8; 16],
    /// All zero: nobody's.
    pub(super) user: [u8; 16],
}

/// All tables as flat arrays. The cache lines come first: so they begin at one (rkyv pads by 31 bytes at most, and
/// would not get them there from elsewhere).
#[derive(Archive, Serialize, Debug)]
#[rkyv(archived = ArchivedArrays)]
#[expect(unreachable_pub, reason = "its archive is what the room lends")]
pub struct Arrays {
    /// A place for each user, where `users` says, then the further terminals, by place and device.
    pub(super) lines: Lines,
    pub(super) users: Phf,
    pub(super) owners: Owners,
    pub(super) text: Vec<u8>,
    pub(super) servers: Vec<ServerRow>,
    pub(super) prefixes: Vec<PrefixRow>,
    pub(super) prefix_root: u32,
    pub(super) gateways: Vec<GatewayRow>,
    pub(super) segments: Vec<SegmentRow>,
    /// Sorted by realm.
    pub(super) realms: Vec<RealmRow>,
    /// Sorted by identifier.
    pub(super) apps: Vec<AppRow>,
    pub(super) sources: Vec<SegmentRow>,
    pub(super) tries: Tries,
    /// Of each block of places, the first of its further terminals, counted from the first of all.
    pub(super) blocks: Vec<u32>,
    /// Public IPv6 addresses.
    pub(super) nat6: Vec<[u8; 16]>,
    /// Sorted by name.
    pub(super) names: Vec<NameRow>,
    /// Sorted by group.
    pub(super) groups: Vec<GroupRow>,
    pub(super) members: Vec<[u8; 16]>,
    /// Sorted by identifier.
    pub(super) keys: Vec<KeyRow>,
}

/// Why an image was refused: what was expected, what was found, what to do.
#[derive(Debug)]
pub enum ImageError {
    /// The file cannot be read or written.
    Io(io::Error),
    /// The bytes are not an image that this build serves.
    Refused(String),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Refused(sentence) => f.write_str(sentence),
        }
    }
}

impl std::error::Error for ImageError {}

impl From<io::Error> for ImageError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn refused<T>(sentence: impl Into<String>) -> Result<T, ImageError> {
    Err(ImageError::Refused(sentence.into()))
}

/// A whole, valid image in memory of its own.
pub struct Image {
    region: Region,
    terminals: usize,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("bytes", &self.region.bytes().len()).finish_non_exhaustive()
    }
}

/// Bytes of each array, and of the file.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Sizes {
    /// Name, rows, bytes.
    pub arrays: Vec<(&'static str, usize, usize)>,
    /// The file's length.
    pub image_bytes: usize,
    /// Terminals.
    pub terminals: usize,
    /// Users' places.
    pub users: Fill,
    /// Private addresses' places.
    pub owners: Fill,
    /// Bytes that say which place is a user's: they are to stay in a near cache.
    pub near_bytes: usize,
    /// Bytes of the way back from private addresses.
    pub owner_bytes: usize,
    /// Bytes that tell a server of each place whether what is registered need be asked.
    pub overlay_bytes: usize,
}

impl Sizes {
    /// Cache lines of memory that are read from a Push ID to its terminal, or to the certainty that there is none. Each
    /// further terminal of the same user is one more; so is, while something is registered, one that sixteen users share.
    pub const LINES_A_LOOKUP: usize = 1;

    /// What a user with one terminal and a private address takes, everything included.
    pub fn bytes_a_user(&self) -> f64 {
        let each = |bytes: usize, entries: usize| bytes as f64 / entries.max(1) as f64;
        let of_users = self.users.places * size_of::<Line>() + self.near_bytes + self.overlay_bytes;
        each(of_users, self.users.entries) + each(self.owner_bytes, self.owners.entries)
    }
}

/// How full an array is.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub struct Fill {
    /// Places in use.
    pub entries: usize,
    /// Places.
    pub places: usize,
    /// Places in use of all.
    pub load_factor: f64,
}

impl Fill {
    fn new(entries: usize, places: usize) -> Self {
        Self { entries, places, load_factor: entries as f64 / places.max(1) as f64 }
    }
}

impl Image {
    /// Compiles tables into an image.
    ///
    /// # Errors
    /// When there is no memory for it, or a table has more rows than are counted.
    pub fn build(rib: &Rib) -> Result<Self, ImageError> {
        Self::build_with(rib, rib.users.iter().copied().collect(), &|_| {})
    }

    /// As [`Image::build`], with these users in place of those of `rib`: a hundred million in 15 GiB. `told` hears how
    /// far it is.
    ///
    /// # Errors
    /// As [`Image::build`].
    pub fn build_with(rib: &Rib, users: Users, told: &dyn Fn(Step)) -> Result<Self, ImageError> {
        let arrays = compile::compile(rib, users, told).map_err(ImageError::Refused)?;
        told(Step::Begins("laying out the lines"));
        let mut region = Region::zeroed(HEADER_BYTES + arrays.bytes_max())?;
        let archive = Buffer::from(&mut region.bytes_mut()[HEADER_BYTES..]);
        let archive = rkyv::api::high::to_bytes_in::<_, RkyvError>(&arrays, archive)
            .map_err(|error| ImageError::Refused(format!("the tables cannot be written: {error}")))?;
        let len = archive.len();
        drop(arrays);
        region.truncate(HEADER_BYTES + len);
        let header = header(region.bytes());
        region.bytes_mut()[..HEADER_BYTES].copy_from_slice(&header);
        told(Step::Begins("proving the image"));
        Self::validated(region)
    }

    /// Reads an image and proves it.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged, or is of another format, or says what cannot be.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut region = Region::zeroed(len)?;
        read(&file, region.bytes_mut())?;
        Self::validated(region)
    }

    /// As [`Image::open`], from bytes.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut region = Region::zeroed(bytes.len())?;
        region.bytes_mut().copy_from_slice(bytes);
        Self::validated(region)
    }

    fn validated(region: Region) -> Result<Self, ImageError> {
        check_header(region.bytes())?;
        // Both go through all of it, and neither asks the other: what is damaged is said first, not what that made of it.
        let (whole, meaning) = std::thread::scope(|scope| {
            let whole = scope.spawn(|| check_whole(region.bytes()));
            let meaning = check_meaning(region.bytes());
            (joined(whole), meaning)
        });
        whole?;
        let terminals = meaning?;
        Ok(Self { region, terminals })
    }

    /// The image's bytes, header first: what a file holds.
    pub fn bytes(&self) -> &[u8] {
        self.region.bytes()
    }

    /// The tables.
    #[inline]
    pub fn arrays(&self) -> &ArchivedArrays {
        // JUSTIFICATION: checked access walks every array; this is called once a burst.
        // SAFETY: `validated`, the only way to make an `Image`, had `rkyv::access` check these very
        // bytes, and nothing can change them: the region is private and only lent as `&`.
        unsafe { rkyv::access_unchecked::<ArchivedArrays>(&self.region.bytes()[HEADER_BYTES..]) }
    }

    /// Writes the image beside `path` and renames it there: a reader sees the old one or all of the
    /// new one. Only the owner can read it: it may hold keys.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file_name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let beside = folder.join(format!(".{file_name}.{}.new", std::process::id()));
        let written = (|| {
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(self.bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, path)?;
            File::open(folder)?.sync_all()
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    /// The digest of the tables: the checksum in the header.
    pub fn digest(&self) -> u128 {
        self.bytes()[32..48].try_into().map_or(0, u128::from_le_bytes)
    }

    /// Whether there are keys in it, which nobody else should read.
    pub fn has_keys(&self) -> bool {
        !self.arrays().keys.is_empty()
    }

    /// Where the tables lie.
    pub fn extent(&self) -> Extent {
        self.region.extent()
    }

    /// Which pages the tables lie on.
    pub fn pages(&self) -> Pages {
        Mapped::now().pages(self.extent())
    }

    /// How many terminals there are.
    pub fn terminals(&self) -> usize {
        self.terminals
    }

    /// The tables as rows again, the users in the order of user and device.
    pub fn to_rib(&self) -> Rib {
        let users = self.ordered().iter().map(|line| self.user(*line as usize)).collect();
        Rib { users, ..self.to_rib_without_users() }
    }

    /// As [`Image::to_rib`] without the users, which are most of an image: see [`Image::users`].
    pub fn to_rib_without_users(&self) -> Rib {
        compile::decompile_without_users(self.arrays())
    }

    /// The rows of `users.csv`, in no order.
    pub fn users(&self) -> impl Iterator<Item = User> {
        let a = self.arrays();
        a.lines.iter().filter(|line| !line.is_free()).map(|line| line.to_user(&a.nat6))
    }

    /// The lines of all terminals in the order of user and device. Costs 32 bytes a terminal, and sorting them.
    pub fn ordered(&self) -> Vec<u32> {
        let lines = (0..).zip(self.arrays().lines.iter()).filter(|(_, line)| !line.is_free());
        let mut keys: Vec<_> = lines.map(|(at, line)| (line.user(), line.device(), at)).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(.., at)| at).collect()
    }

    /// The row of `users.csv` in this line.
    ///
    /// # Panics
    /// When there are not so many lines.
    pub fn user(&self, line: usize) -> User {
        let a = self.arrays();
        a.lines[line].to_user(&a.nat6)
    }

    /// The names of the servers, in the order of `servers.toml`.
    pub fn server_names(&self) -> impl ExactSizeIterator<Item = &str> {
        let a = self.arrays();
        a.servers.iter().map(|row| a.text(&row.name))
    }

    /// What takes how much.
    pub fn sizes(&self) -> Sizes {
        let a = self.arrays();
        fn row<T>(name: &'static str, array: &[T]) -> (&'static str, usize, usize) {
            (name, array.len(), size_of_val(array))
        }
        let places = a.users.places();
        let held = |lines: &[Line]| lines.iter().filter(|line| !line.is_free()).count();
        let users = held(&a.lines[..places]);
        let owned = a.owners.owned();
        Sizes {
            arrays: vec![
                ("lines", self.terminals, size_of_val(&a.lines[..])),
                ("users' hash", users, a.users.size()),
                ("owners", owned, a.owners.size()),
                row("nat6", &a.nat6),
                row("blocks", &a.blocks),
                ("tries", 0, a.tries.size()),
                row("segments", &a.segments),
                row("prefixes", &a.prefixes),
                row("servers", &a.servers),
                row("gateways", &a.gateways),
                row("apps", &a.apps),
                row("sources", &a.sources),
                row("names", &a.names),
                row("groups", &a.groups),
                row("members", &a.members),
                row("keys", &a.keys),
                row("text", &a.text),
            ],
            image_bytes: self.bytes().len(),
            terminals: self.terminals,
            users: Fill::new(users, places),
            owners: Fill::new(owned, a.owners.places()),
            near_bytes: a.users.size(),
            owner_bytes: a.owners.size(),
            overlay_bytes: Overlay::bytes_for(a.users.size(), places),
        }
    }
}

impl Arrays {
    /// No fewer bytes than their archive has.
    fn bytes_max(&self) -> usize {
        fn rows<T: Archive>(array: &[T]) -> usize {
            array.len() * size_of::<T::Archived>() + align_of::<T::Archived>()
        }
        size_of::<ArchivedArrays>()
            + align_of::<ArchivedArrays>()
            + self.lines.len() * size_of::<Line>()
            + self.users.bytes_max()
            + self.owners.bytes_max()
            + self.tries.bytes_max()
            + rows(&self.text)
            + rows(&self.servers)
            + rows(&self.prefixes)
            + rows(&self.gateways)
            + rows(&self.segments)
            + rows(&self.realms)
            + rows(&self.apps)
            + rows(&self.sources)
            + rows(&self.blocks)
            + rows(&self.nat6)
            + rows(&self.names)
            + rows(&self.groups)
            + rows(&self.members)
            + rows(&self.keys)
            // What each array may be padded by.
            + 64 * 32
    }
}

/// The header that belongs to an image, whose first 64 bytes do not matter.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | magic `PPIMAGE\0` |
/// | 8 | 4 | format, 2 |
/// | 12 | 4 | 0x01020304 |
/// | 16 | 8 | bytes of the archive |
/// | 24 | 8 | zero |
/// | 32 | 16 | XXH3-128 of the header with these bytes zero, then the archive |
/// | 48 | 16 | zero |
///
/// All little-endian.
fn header(image: &[u8]) -> [u8; HEADER_BYTES] {
    let archive = &image[HEADER_BYTES..];
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[12..16].copy_from_slice(&ENDIAN.to_le_bytes());
    header[16..24].copy_from_slice(&(archive.len() as u64).to_le_bytes());
    let mut hash = Xxh3::new();
    hash.update(&header);
    hash.update(archive);
    header[32..48].copy_from_slice(&hash.digest128().to_le_bytes());
    header
}

fn check_header(image: &[u8]) -> Result<(), ImageError> {
    let Some(found) = image.get(..HEADER_BYTES) else {
        return refused(format!(
            "expected an image of at least {HEADER_BYTES} bytes, found {}; build it with `pushplane tables build`",
            image.len()
        ));
    };
    if found[..8] != MAGIC {
        return refused("this is no pushplane image; build one with `pushplane tables build`");
    }
    if found[12..16] != ENDIAN.to_le_bytes() {
        return refused("the image is of another byte order; build it again with `pushplane tables build`");
    }
    let format = u32::from_le_bytes([found[8], found[9], found[10], found[11]]);
    if format != FORMAT {
        return refused(format!(
            "the image has format {format}, this build reads {FORMAT}; build it again from its sources with `pushplane \
             tables build`"
        ));
    }
    if found[16..24] != ((image.len() - HEADER_BYTES) as u64).to_le_bytes() {
        return refused("the image is shorter or longer than its header says; copy or build it again");
    }
    Ok(())
}

/// The checksum over everything.
fn check_whole(image: &[u8]) -> Result<(), ImageError> {
    if image[..HEADER_BYTES] != header(image) {
        return refused("the image's checksum is wrong: it is damaged; copy or build it again");
    }
    Ok(())
}

/// Layout and meaning; how many terminals there are.
fn check_meaning(image: &[u8]) -> Result<usize, ImageError> {
    let arrays = rkyv::access::<ArchivedArrays, RkyvError>(&image[HEADER_BYTES..]).map_err(|error| {
        ImageError::Refused(format!("the archive is not well-formed ({error}); build it again"))
    })?;
    validate::validate(arrays).map_err(|fault| {
        ImageError::Refused(format!("the tables contradict themselves ({fault}); build the image again"))
    })
}

/// Fills `bytes` from the file's beginning, each core its share: half of the time goes into pages that are touched for
/// the first time.
fn read(file: &File, bytes: &mut [u8]) -> io::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = bytes.len().div_ceil(cores).max(SHARE_MIN);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..)
            .zip(bytes.chunks_mut(share))
            .map(|(n, bytes)| scope.spawn(move || file.read_exact_at(bytes, n * share as u64)))
            .collect();
        readers.into_iter().try_for_each(joined)
    })
}

impl ArchivedArrays {
    /// A text of the tables.
    pub(super) fn text(&self, text: &ArchivedText) -> &str {
        let start = text.start.to_native() as usize;
        let bytes = self.text.get(start..start + text.len.to_native() as usize).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The public IPv6 addresses.
    pub fn nat6(&self) -> &[[u8; 16]] {
        &self.nat6
    }

    /// Bytes that longest match takes: prefixes, segments and sources together.
    pub fn routes_size(&self) -> usize {
        self.tries.size()
    }

    /// All lines: a place for each user, some of them free, then the further terminals.
    #[inline(always)]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The members of a group.
    pub fn group(&self, group: PushId) -> Option<&[[u8; 16]]> {
        let id = group.to_bytes();
        let row = &self.groups[self.groups.binary_search_by(|row| row.group.cmp(&id)).ok()?];
        let first = row.first.to_native() as usize;
        self.members.get(first..first + row.count.to_native() as usize)
    }

    /// The user who has this name.
    pub fn name(&self, name: &str) -> Option<PushId> {
        let at = self.names.binary_search_by(|row| self.text(&row.name).cmp(name)).ok()?;
        Some(PushId::from_bytes(self.names[at].push_id))
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// What `tables/README.md` draws.
    #[test]
    fn the_layout_is_the_one_that_is_drawn() {
        macro_rules! held {
            ($($row:ident $bytes:literal: $($field:ident $at:literal)+;)+) => {$(
                assert_eq!(size_of::<$row>(), $bytes, stringify!($row));
                $(assert_eq!(offset_of!($row, $field), $at, "{}.{}", stringify!($row), stringify!($field));)+
            )+};
        }
        held! {
            ArchivedText 8: start 0 len 4;
            ArchivedAddress 18: octets 0 port 16;
            ArchivedServerRow 32: name 0 address 8 key 28;
            ArchivedPrefixRow 16: bits 0 server 8 len 12;
            ArchivedGatewayRow 76: name 0 address 8 source_v4 26 source_v6 44 tunnel_id 64 mac 68 tunnel 74;
            ArchivedSegmentRow 28: octets 0 owner 16 gateway 20 len 24;
            ArchivedRealmRow 12: realm 0 root_v4 4 root_v6 8;
            ArchivedAppRow 32: id 0 name 4 rate 12 key 16 root_v4 20 root_v6 24 rule 28 flags 29;
            ArchivedNameRow 24: name 0 push_id 8;
            ArchivedGroupRow 24: group 0 first 16 count 20;
            ArchivedKeyRow 36: id 0 value 4 user 20;
            ArchivedArrays 376: lines 0 users 16 owners 48 text 112 servers 128 prefixes 144 prefix_root 160
                gateways 168 segments 184 realms 200 apps 216 sources 232 tries 248 blocks 280 nat6 296 names 312
                groups 328 members 344 keys 360;
        }
        let image = Image::build(&Rib::default()).unwrap();
        let root = std::ptr::from_ref(image.arrays()).addr() - image.bytes().as_ptr().addr();
        assert_eq!(root, image.bytes().len() - 376, "the table of arrays is the file's end");
    }
}
