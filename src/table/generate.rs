//! A synthetic operator of any size: table sources for benchmarks and tests, the same bytes for the
//! same seed and number of users on every machine.
//!
//! What it holds, so that a benchmark meets every path: twelve servers on four-bit prefixes and four
//! more on prefixes nested in them (8 to 64 bits); gateways of all four tunnels; realms that use the
//! same addresses; segments nested up to /24, IPv4 and IPv6; 5 % of users with two to four
//! terminals; users behind a NAT, with an IMSI only, roaming, expired; twenty applications with
//! every rule; names, groups and keys.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::id::{PushId, PushPrefix};

/// What to generate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generate {
    /// Users, each with one terminal or more. At most [`Generate::USERS_MAX`].
    pub users: u64,
    /// Same seed, same bytes.
    pub seed: u64,
}

impl Generate {
    /// The most users that the layout of Push IDs has room for.
    pub const USERS_MAX: u64 = 1 << 31;
}

/// Rows written to each table, and bytes to all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Summary {
    /// `servers.toml`.
    pub servers: u64,
    /// `gateways.toml`.
    pub gateways: u64,
    /// `segments.csv`.
    pub segments: u64,
    /// `apps.toml`.
    pub apps: u64,
    /// Users in `users.csv`.
    pub users: u64,
    /// Rows of `users.csv`.
    pub terminals: u64,
    /// `names.csv`.
    pub names: u64,
    /// Rows of `groups.csv`.
    pub members: u64,
    /// `keys.toml`.
    pub keys: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Key of the servers among themselves; that of application `a` is `APP_KEYS + a`, that of user
/// number `u` is `USER_KEYS + u`.
const FEDERATION_KEY: u32 = 1;
const APP_KEYS: u32 = 100;
const USER_KEYS: u32 = 1000;
const APPS: u32 = 20;
/// One user in so many has a key, at most `KEYED_MAX` of them: keys.toml is read as a whole.
const KEYED: u64 = 1000;
const KEYED_MAX: u32 = 10_000;
/// One user in so many starts a group of those just written.
const GROUPED: u64 = 1000;
/// Addresses of a realm are numbered within 10.0.0.0/8.
const REALM_BITS_MAX: u32 = 24;

/// Writes the sources of a synthetic operator into `dir`, which is made if it is missing; tables
/// that are there are overwritten. `keys.toml` gets mode 0600.
///
/// Cost: one pass, memory independent of the number of users; about a second for a million.
///
/// # Errors
///
/// What the file system says; more than [`Generate::USERS_MAX`] users are invalid input.
pub fn generate(dir: &Path, options: &Generate) -> io::Result<Summary> {
    if options.users > Generate::USERS_MAX {
        let sentence = format!("expected at most {} users, found {}", Generate::USERS_MAX, options.users);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    fs::create_dir_all(dir)?;
    let mut world = World::new(options);
    world.servers(&mut Out::create(dir, "servers.toml", 0o644)?)?;
    world.gateways(&mut Out::create(dir, "gateways.toml", 0o644)?)?;
    world.segments(&mut Out::create(dir, "segments.csv", 0o644)?)?;
    world.apps(&mut Out::create(dir, "apps.toml", 0o644)?)?;
    let mut files = Files {
        users: Out::create(dir, "users.csv", 0o644)?,
        names: Out::create(dir, "names.csv", 0o644)?,
        groups: Out::create(dir, "groups.csv", 0o644)?,
        keys: Out::create(dir, "keys.toml", 0o600)?,
    };
    world.keys(&mut files.keys)?;
    world.users(&mut files)?;
    for file in [&mut files.users, &mut files.names, &mut files.groups, &mut files.keys] {
        file.finish(&mut world.summary)?;
    }
    Ok(world.summary)
}

/// A file that counts its bytes.
struct Out {
    writer: BufWriter<File>,
    bytes: u64,
}

impl Out {
    fn create(dir: &Path, file: &str, mode: u32) -> io::Result<Self> {
        let path = dir.join(file);
        // A file that is there would keep its mode.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        Ok(Self { writer: BufWriter::with_capacity(1 << 18, file), bytes: 0 })
    }

    fn finish(&mut self, summary: &mut Summary) -> io::Result<()> {
        summary.bytes += self.bytes;
        self.bytes = 0;
        self.writer.flush()
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

struct Files {
    users: Out,
    names: Out,
    groups: Out,
    keys: Out,
}

struct World {
    chance: Pcg64Mcg,
    users: u64,
    servers: Vec<(String, Vec<PushPrefix>, String)>,
    gateways: u32,
    realms: u64,
    /// Addresses of each realm are 10.0.0.0 and the next 2^`realm_bits`.
    realm_bits: u32,
    summary: Summary,
}

/// Names of the operators of US 9,307,039, by their two bits.
const OPERATORS: [&str; 3] = ["mobile", "unicom", "telecom"];

impl World {
    fn new(options: &Generate) -> Self {
        let users = options.users;
        // At most a fifth more terminals than users, spread evenly over realms that grow in number
        // first and then in size.
        let terminals = users + users / 5 + 64;
        let realms = (users / 50_000 + 1).min(64).max(terminals.div_ceil(1 << (REALM_BITS_MAX - 1)));
        let realm_bits =
            (terminals.div_ceil(realms) + 1).next_power_of_two().ilog2().clamp(8, REALM_BITS_MAX);
        let mut world = Self {
            chance: Pcg64Mcg::seed_from_u64(options.seed),
            users,
            servers: Vec::new(),
            gateways: (4 * (1 + users / 250_000)).min(64) as u32,
            realms,
            realm_bits,
            summary: Summary { users, ..Summary::default() },
        };
        world.make_servers();
        world
    }

    /// A number below `bound`, which is not zero.
    fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.chance.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// True once in `n` times.
    fn once_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn make_servers(&mut self) {
        for (operator, name) in OPERATORS.iter().enumerate() {
            for number in 0..4 {
                let index = operator * 4 + number;
                let prefixes = PushPrefix::new((index as u64) << 60, 4).into_iter().collect();
                let address = format!("198.18.0.{}:17400", index + 1);
                self.servers.push((format!("{name}-{}", number + 1), prefixes, address));
            }
        }
        let mut taken = BTreeSet::new();
        for (index, len) in [8u8, 12, 24, 64].into_iter().enumerate() {
            let mut prefixes = Vec::new();
            while prefixes.len() < 2 {
                let operator_and_server = u64::from(self.below(12)) << 60;
                let rest = self.chance.next_u64() >> 4;
                let bits = (operator_and_server | rest) & u64::MAX << (64 - len);
                if let Some(prefix) = PushPrefix::new(bits, len).filter(|_| taken.insert((bits, len))) {
                    prefixes.push(prefix);
                }
            }
            let address = format!("198.18.0.{}:17400", 101 + index);
            self.servers.push((format!("nested-{len}"), prefixes, address));
        }
    }

    fn servers(&mut self, out: &mut Out) -> io::Result<()> {
        for (name, prefixes, address) in &self.servers {
            let prefixes: Vec<_> = prefixes
                .iter()
                .map(|prefix| {
                    if prefix.len() > 16 {
                        format!("\"0x{:016x}/{}\"", prefix.bits(), prefix.len())
                    } else {
                        format!("\"{prefix}\"")
                    }
                })
                .collect();
            let prefixes = match &prefixes[..] {
                [one] => one.clone(),
                list => format!("[{}]", list.join(", ")),
            };
            writeln!(
                out,
                "[[server]]\nname = \"{name}\"\nprefix = {prefixes}\naddress = \"{address}\"\nkey = {FEDERATION_KEY}\n"
            )?;
        }
        self.summary.servers = self.servers.len() as u64;
        out.finish(&mut self.summary)
    }

    fn gateways(&mut self, out: &mut Out) -> io::Result<()> {
        for index in 0..self.gateways {
            let address = format!("198.18.{}.{}", 1 + index / 250, 1 + index % 250);
            let source = format!(
                "[\"198.18.{0}.{1}:17400\", \"[2001:db8:ffff::{1:x}]:17400\"]",
                101 + index / 250,
                1 + index % 250
            );
            write!(out, "[[gateway]]\nname = \"ggsn-{index}\"\naddress = \"{address}\"\n")?;
            match index % 4 {
                0 => writeln!(
                    out,
                    "tunnel = \"vxlan\"\nvni = {}\nmac = \"02:00:00:00:00:{index:02x}\"\nsource = {source}\n",
                    100 + index
                )?,
                1 => writeln!(out, "tunnel = \"gtpu\"\nteid = {}\nsource = {source}\n", 0x1000 + index)?,
                2 => writeln!(out, "tunnel = \"plain\"\n")?,
                _ => writeln!(out, "tunnel = \"none\"\n")?,
            }
        }
        self.summary.gateways = self.gateways.into();
        out.finish(&mut self.summary)
    }

    fn segments(&mut self, out: &mut Out) -> io::Result<()> {
        writeln!(out, "realm,prefix,gateway")?;
        let mut rows = 0u64;
        let mut next = 0;
        for realm in 0..self.realms {
            let mut gateway = |ipv6: bool| {
                next = (next + 1) % self.gateways;
                // Without a tunnel IPv6 needs an IPv6 listener, which not every server has.
                if ipv6 && next % 4 == 3 { next - 1 } else { next }
            };
            writeln!(out, "{realm},10.0.0.0/8,ggsn-{}", gateway(false))?;
            rows += 1;
            for second in 0..(1u32 << self.realm_bits.saturating_sub(16)).min(256) {
                writeln!(out, "{realm},10.{second}.0.0/16,ggsn-{}", gateway(false))?;
                for third in [3, 64, 65, 200] {
                    writeln!(out, "{realm},10.{second}.{third}.0/24,ggsn-{}", gateway(false))?;
                }
                rows += 5;
            }
            writeln!(out, "{realm},fd00:{realm:x}::/32,ggsn-{}", gateway(true))?;
            for subnet in 0..4 {
                writeln!(out, "{realm},fd00:{realm:x}:0:{subnet:x}::/64,ggsn-{}", gateway(true))?;
            }
            rows += 5;
        }
        self.summary.segments = rows;
        out.finish(&mut self.summary)
    }

    fn apps(&mut self, out: &mut Out) -> io::Result<()> {
        const NAMES: [&str; 10] =
            ["mail", "alarm", "bank", "news", "chat", "voice", "sync", "meter", "game", "police"];
        for app in 1..=APPS {
            let name = NAMES[app as usize % NAMES.len()];
            write!(out, "[[app]]\nid = {app}\nname = \"{name}-{app}\"\n")?;
            match app % 5 {
                0 => writeln!(out, "sources = [\"192.0.2.0/24\", \"2001:db8::/32\"]\nusers = true")?,
                1 => {}
                2 => writeln!(out, "rule = \"priority\"")?,
                3 => writeln!(out, "rule = \"min-delay\"\nrate = {}", 1000 * app)?,
                _ => {
                    writeln!(
                        out,
                        "sources = [\"198.18.0.0/15\", \"127.0.0.0/8\"]\nkey = {}",
                        APP_KEYS + app
                    )?;
                }
            }
            writeln!(out)?;
        }
        self.summary.apps = APPS.into();
        out.finish(&mut self.summary)
    }

    fn keys(&mut self, out: &mut Out) -> io::Result<()> {
        self.key(out, FEDERATION_KEY, None)?;
        for app in (1..=APPS).filter(|app| app % 5 == 4) {
            self.key(out, APP_KEYS + app, None)?;
        }
        Ok(())
    }

    fn key(&mut self, out: &mut Out, id: u32, user: Option<PushId>) -> io::Result<()> {
        let value = u128::from(self.chance.next_u64()) << 64 | u128::from(self.chance.next_u64());
        writeln!(out, "[[key]]\nid = {id}\nvalue = \"{value:032x}\"")?;
        if let Some(user) = user {
            writeln!(out, "user = \"{user}\"")?;
        }
        self.summary.keys += 1;
        writeln!(out)
    }

    /// A Push ID under one of the prefixes of a server by chance, unique by its number.
    fn push_id(&mut self, number: u32) -> PushId {
        let server = self.below(self.servers.len() as u32) as usize;
        let which = self.chance.next_u32() as usize;
        let prefixes = &self.servers[server].1;
        let prefix = prefixes[which % prefixes.len()];
        let free = u64::MAX.checked_shr(prefix.len().into()).unwrap_or(0);
        let high = prefix.bits() | self.chance.next_u64() & free;
        let low = u64::from(number) << 32 | u64::from(self.chance.next_u32());
        PushId(u128::from(high) << 64 | u128::from(low))
    }

    fn home(&self, id: PushId) -> usize {
        let prefixes = self.servers.iter().enumerate();
        prefixes
            .flat_map(|(index, (_, prefixes, _))| prefixes.iter().map(move |prefix| (index, prefix)))
            .filter(|(_, prefix)| prefix.contains(id))
            .max_by_key(|(_, prefix)| prefix.len())
            .map_or(0, |(index, _)| index)
    }

    fn users(&mut self, files: &mut Files) -> io::Result<()> {
        writeln!(files.users, "push_id,device,realm,private,nat,imsi,bearers,serving,valid_until")?;
        writeln!(files.names, "name,push_id")?;
        writeln!(files.groups, "group,push_id")?;
        let mut terminal = Terminals::default();
        let mut recent = Vec::with_capacity(64);
        for number in 0..self.users {
            let id = self.push_id(number as u32 + 1);
            let devices = if self.once_in(20) { 2 + self.below(3) } else { 1 };
            for device in 0..devices {
                let device = if devices == 1 && self.once_in(2) { 0 } else { device + 1 };
                self.terminal(&mut files.users, id, device, number, &mut terminal)?;
            }
            self.summary.terminals += u64::from(devices);
            if self.once_in(10) {
                match number % 3 {
                    0 => writeln!(files.names, "+86138{number:010},{id}")?,
                    1 => writeln!(files.names, "user-{number},{id}")?,
                    _ => writeln!(files.names, "u{number}@example.org,{id}")?,
                }
                self.summary.names += 1;
            }
            if number % KEYED == KEYED / 2 && self.summary.keys < KEYED_MAX.into() {
                let key = USER_KEYS + (number / KEYED) as u32;
                self.key(&mut files.keys, key, Some(id))?;
            }
            if recent.len() < 64 {
                recent.push(id);
            } else {
                recent[number as usize % 64] = id;
            }
            if number % GROUPED == GROUPED.min(self.users) - 1 {
                let group = self.push_id(number as u32 | 1 << 31);
                let members = (2 + self.below(19) as usize).min(recent.len());
                for member in &recent[..members] {
                    writeln!(files.groups, "{group},{member}")?;
                }
                self.summary.members += members as u64;
            }
        }
        Ok(())
    }

    fn terminal(
        &mut self,
        out: &mut Out,
        id: PushId,
        device: u32,
        user: u64,
        terminals: &mut Terminals,
    ) -> io::Result<()> {
        let kind = self.below(100);
        let realm = terminals.addressed % self.realms;
        write!(out, "{id},{device},")?;
        let number = terminals.addressed / self.realms + 1;
        if kind < 90 && number < 1 << self.realm_bits {
            self.private(out, realm, number)?;
            terminals.addressed += 1;
        } else {
            write!(out, ",,")?;
        }
        // 87..90 have a private and a public address, 90..93 only the latter.
        if (87..93).contains(&kind) {
            let ip = Ipv4Addr::from_bits(
                Ipv4Addr::new(198, 19, 0, 0).to_bits() + (terminals.public / 60_000) as u32,
            );
            write!(out, "{ip}:{}", 1024 + terminals.public % 60_000)?;
            terminals.public += 1;
        }
        write!(out, ",")?;
        if kind < 80 || (93..97).contains(&kind) {
            write!(out, "46000{user:010}")?;
        }
        match self.below(20) {
            0 => write!(out, ",7,")?,
            1 => write!(out, ",15,")?,
            2 => write!(out, ",4,")?,
            3..10 => write!(out, ",3,")?,
            _ => write!(out, ",,")?,
        }
        if kind >= 97 {
            let home = self.home(id);
            let other = (home + 1 + self.below(self.servers.len() as u32 - 1) as usize) % self.servers.len();
            write!(out, "{}", self.servers[other].2)?;
        }
        match self.below(100) {
            0 => writeln!(out, ",2020-12-31T23:59:59Z"),
            1..5 => writeln!(out, ",2099-12-{:02}T00:00:00Z", 1 + self.below(31)),
            _ => writeln!(out, ","),
        }
    }

    /// Realm and private address: every tenth is IPv6, and they are not in order.
    fn private(&self, out: &mut impl Write, realm: u64, number: u64) -> io::Result<()> {
        // An odd factor permutes the numbers of `realm_bits` bits.
        let mixed = number.wrapping_mul(0x9E37_79B1) & ((1 << self.realm_bits) - 1);
        if number % 10 == 9 {
            let (high, low) = (mixed >> 16, mixed & 0xFFFF);
            write!(out, "{realm},[fd00:{realm:x}:0:{:x}::{high:x}:{low:x}]:2948,", mixed % 8)
        } else {
            let [_, b, c, d] = (mixed as u32).to_be_bytes();
            write!(out, "{realm},10.{b}.{c}.{d}:2948,")
        }
    }
}

/// How many addresses have been given out.
#[derive(Default)]
struct Terminals {
    addressed: u64,
    public: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::source::{FILES, load};

    fn make(users: u64, seed: u64) -> (tempfile::TempDir, Summary) {
        let dir = tempfile::tempdir().unwrap();
        let summary = generate(dir.path(), &Generate { users, seed }).unwrap();
        (dir, summary)
    }

    #[test]
    fn what_is_generated_loads_without_a_warning() {
        for (users, seed) in [(0, 1), (1, 2), (2, 3), (63, 4), (999, 5), (1000, 6), (1001, 7), (60_000, 8)] {
            let (dir, summary) = make(users, seed);
            let loaded = load(dir.path()).map_err(|faults| format!("{users} {seed}\n{faults}")).unwrap();
            assert_eq!(loaded.warnings, [], "{users} {seed}");
            let rib = loaded.rib;
            assert_eq!(rib.users.len() as u64, summary.terminals);
            assert_eq!(rib.segments.len() as u64, summary.segments);
            assert_eq!(rib.gateways.len() as u64, summary.gateways);
            assert_eq!(rib.names.len() as u64, summary.names);
            assert_eq!(rib.groups.len() as u64, summary.members);
            assert_eq!(rib.keys.len() as u64, summary.keys);
            assert_eq!((rib.servers.len(), rib.apps.len()), (16, APPS as usize));
            let bytes: u64 =
                FILES.iter().map(|file| fs::metadata(dir.path().join(file)).unwrap().len()).sum();
            assert_eq!(bytes, summary.bytes);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_over_old_ones() {
        let (one, _) = make(3000, 42);
        let (two, _) = make(3000, 42);
        let (other, _) = make(3000, 43);
        let all = |dir: &Path| FILES.map(|file| fs::read(dir.join(file)).unwrap());
        generate(other.path(), &Generate { users: 10, seed: 1 }).unwrap();
        assert_ne!(all(one.path()), all(other.path()));
        generate(other.path(), &Generate { users: 3000, seed: 42 }).unwrap();
        assert_eq!(all(one.path()), all(two.path()));
        assert_eq!(all(one.path()), all(other.path()));
    }

    #[test]
    fn every_kind_of_user_is_there() {
        let (dir, _) = make(20_000, 9);
        let users = load(dir.path()).unwrap().rib.users;
        let count =
            |is: &dyn Fn(&crate::table::rib::User) -> bool| users.iter().filter(|user| is(user)).count();
        for (kind, found) in [
            ("several terminals", count(&|user| user.device > 1)),
            ("IPv4", count(&|user| user.private.is_some_and(|private| private.is_ipv4()))),
            ("IPv6", count(&|user| user.private.is_some_and(|private| !private.is_ipv4()))),
            ("NAT", count(&|user| user.private.is_some() && user.nat.is_some())),
            ("NAT only", count(&|user| user.private.is_none() && user.nat.is_some())),
            ("IMSI only", count(&|user| user.private.is_none() && user.nat.is_none() && user.imsi.is_some())),
            ("roaming", count(&|user| user.serving.is_some())),
            ("expired", count(&|user| user.valid_until.is_some_and(|until| until < 1_700_000_000))),
        ] {
            assert!(found > 100, "{kind}: {found}");
        }
    }

    #[test]
    fn the_largest_operator_has_addresses_for_all() {
        let world = World::new(&Generate { users: Generate::USERS_MAX, seed: 0 });
        assert!(world.realms << world.realm_bits > Generate::USERS_MAX + Generate::USERS_MAX / 5);
        for number in (0..1 << world.realm_bits).step_by(99_991) {
            let mut text = Vec::new();
            world.private(&mut text, world.realms - 1, number).unwrap();
            let text = String::from_utf8(text).unwrap();
            let address: Vec<_> = text.split(',').collect();
            address[1].parse::<crate::id::Endpoint>().unwrap();
        }
    }

    #[test]
    fn too_many_users_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let options = Generate { users: Generate::USERS_MAX + 1, seed: 0 };
        assert_eq!(generate(dir.path(), &options).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
