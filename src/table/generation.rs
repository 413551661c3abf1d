//! One generation of the tables, as the shards see it: an image and what is made of it at load time
//! (key schedules, addresses of peers, rates).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use rkyv::rend::u32_le;

use super::binding::{Bindings, Line, owner_hash};
use super::compile::{self, TrieKey};
use super::home::Home;
use super::image::{ArchivedArrays, ArchivedGatewayRow, ArchivedRealmRow, Image, NO_INDEX};
use super::keyed::Keyed;
use super::live::LiveBindings;
use super::live::overlay::{LaidOver, Overlay};
use super::lpm::{Ask, BURST, Begun, Forest, Trie};
use super::memory::Extent;
use super::numbers::Numbers;
use super::rate::Rate;
use super::rib::{Rule, Tunnel};
use crate::id::{Endpoint, Mac, PushId, PushPrefix};
use crate::wire::prp::auth::MacKey;

/// The tables of one generation, read-only but for the rates.
#[derive(Debug)]
pub struct Tables {
    image: Arc<Image>,
    /// What the live tables beside these say of the users.
    overlay: Option<LaidOver>,
    generation: u64,
    own: Option<u32>,
    home: Home,
    /// Other servers by address. Seeded at random: the addresses looked up are chosen by senders.
    peers: HashMap<Endpoint, u32, RandomState>,
    /// As the image's keys.
    keys: Vec<MacKey>,
    user_keys: HashMap<PushId, u32, RandomState>,
    keyed: Keyed,
    key_ids: Numbers,
    apps: Numbers,
    realms: Numbers,
    /// As the image's applications.
    rates: Vec<Option<Arc<Rate>>>,
}

/// An application on the allowlist.
#[derive(Clone, Copy, Debug)]
pub struct AppView<'a> {
    tables: &'a Tables,
    index: u32,
}

/// A gateway.
#[derive(Clone, Copy)]
pub struct GatewayView<'a> {
    tables: &'a Tables,
    row: &'a ArchivedGatewayRow,
}

impl Tables {
    /// The tables of an image as the server with this name sees them; rates go on where those of
    /// `before` stand.
    pub fn new(image: impl Into<Arc<Image>>, generation: u64, own_name: &str, before: Option<&Self>) -> Self {
        let image = image.into();
        let a = image.arrays();
        let own =
            (0..).zip(a.servers.iter()).find(|(_, row)| a.text(&row.name) == own_name).map(|(at, _)| at);
        let peers = (0..)
            .zip(a.servers.iter())
            .filter(|(at, _)| Some(*at) != own)
            .map(|(at, row)| (Endpoint::from(&row.address), at))
            .collect();
        let keys = a.keys.iter().map(|row| MacKey::new(row.value)).collect();
        let user_keys: HashMap<PushId, u32, RandomState> = (0..)
            .zip(a.keys.iter())
            .map(|(at, row)| (PushId::from_bytes(row.user), at))
            .filter(|(user, _)| !user.is_none())
            .collect();
        let bindings = a.bindings();
        let keyed = Keyed::new(user_keys.keys().map(|user| bindings.hash(*user)));
        let key_ids = Numbers::new(a.keys.iter().map(|row| row.id.to_native()));
        let apps = Numbers::new(a.apps.iter().map(|row| row.id.to_native()));
        let realms = Numbers::new(a.realms.iter().map(|row| row.realm.to_native()));
        let rates = a
            .apps
            .iter()
            .map(|row| {
                let rate = Rate::per_second(Some(row.rate.to_native()).filter(|rate| *rate > 0)?);
                if let Some(old) = before.and_then(|tables| tables.rate_of(row.id.to_native())) {
                    rate.continue_from(old);
                }
                Some(Arc::new(rate))
            })
            .collect();
        let home = Home::new(own, &a.prefixes);
        let overlay = None;
        Self {
            generation,
            own,
            home,
            peers,
            keys,
            user_keys,
            keyed,
            key_ids,
            apps,
            realms,
            rates,
            overlay,
            image,
        }
    }

    /// The same once more, beside no live tables.
    #[must_use]
    pub fn again(&self, own_name: &str) -> Self {
        Self::new(Arc::clone(&self.image), self.generation, own_name, Some(self))
    }

    /// The same, to be served beside these live tables: from now on a lookup knows whether it need ask them. Takes some
    /// hundred nanoseconds an entry of theirs.
    #[must_use]
    pub fn beside(self, live: &Arc<LiveBindings>) -> Self {
        let overlay = Some(live.lay_over(Arc::clone(&self.image)));
        Self { overlay, ..self }
    }

    /// What these live tables say of the users, if they are those that these tables are served beside.
    #[inline]
    pub fn overlay(&self, live: &Arc<LiveBindings>) -> Option<&Overlay> {
        self.overlay.as_ref()?.of(live)
    }

    fn rate_of(&self, app: u32) -> Option<&Rate> {
        self.rates[self.apps.get(app)? as usize].as_deref()
    }

    /// Which generation this is, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The image.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The arrays.
    #[inline]
    pub fn arrays(&self) -> &ArchivedArrays {
        self.image.arrays()
    }

    /// This server's index, if the tables know it.
    pub fn own(&self) -> Option<u32> {
        self.own
    }

    /// The server whose prefix is the longest that `id` has.
    #[inline]
    pub fn route(&self, id: PushId) -> Option<u32> {
        if self.home.has(id) { self.own } else { self.prefixes().lookup(id.high()) }
    }

    /// The Push IDs whose home this server is beyond doubt; of others [`Tables::route`] knows.
    #[inline]
    pub fn home(&self) -> Home {
        self.home
    }

    /// As [`Tables::route`] for each of many, in bursts.
    pub fn routes(&self, ids: &[PushId], found: &mut [Option<u32>]) {
        let forest = self.arrays().tries.view();
        for (ids, found) in ids.chunks(BURST).zip(found.chunks_mut(BURST)) {
            forest.lookup_burst(ids, found, &mut Routes(self.prefixes()));
        }
    }

    /// The prefixes of the servers, as a burst reads them: keys are [`PushId::high`].
    #[inline]
    pub fn prefixes(&self) -> Trie<'_> {
        let a = self.arrays();
        a.tries.view().trie(a.prefix_root.to_native())
    }

    /// The prefixes whose home this server is.
    pub fn own_prefixes(&self) -> impl Iterator<Item = PushPrefix> {
        let rows = self.arrays().prefixes.iter().filter(|row| Some(row.server.to_native()) == self.own);
        rows.filter_map(|row| PushPrefix::new(row.bits.to_native(), row.len))
    }

    /// The addresses of the gateways.
    pub fn gateway_addresses(&self) -> impl Iterator<Item = Endpoint> {
        self.arrays().gateways.iter().map(|row| Endpoint::from(&row.address))
    }

    /// The other server that sends from this address.
    #[inline]
    pub fn peer(&self, from: Endpoint) -> Option<u32> {
        self.peers.get(&from).copied()
    }

    /// A server's name.
    pub fn server_name(&self, server: u32) -> &str {
        let a = self.arrays();
        a.servers.get(server as usize).map_or("", |row| a.text(&row.name))
    }

    /// A server's address.
    pub fn server_address(&self, server: u32) -> Endpoint {
        Endpoint::from(&self.arrays().servers[server as usize].address)
    }

    /// The key that this server shares with that one, as an index of [`Tables::key`].
    pub fn server_key(&self, server: u32) -> Option<u32> {
        Some(self.arrays().servers[server as usize].key.to_native()).filter(|key| *key != NO_INDEX)
    }

    /// The key with this index.
    pub fn key(&self, index: u32) -> Option<&MacKey> {
        self.keys.get(index as usize)
    }

    /// The identifier on the wire of the key with this index.
    pub fn key_id(&self, index: u32) -> u32 {
        self.arrays().keys.get(index as usize).map_or(0, |row| row.id.to_native())
    }

    /// The index of the key with this identifier on the wire.
    pub fn key_index(&self, id: u32) -> Option<u32> {
        self.key_ids.get(id)
    }

    /// The index of a user's own key.
    pub fn user_key(&self, user: PushId) -> Option<u32> {
        self.user_keys.get(&user).copied()
    }

    /// Starts to bring near what [`Tables::may_have_key`] looks at.
    #[inline(always)]
    pub fn prefetch_keyed(&self, hash: u64) {
        self.keyed.prefetch(hash);
    }

    /// Whether [`Tables::user_key`] need be asked about a user with this hash, by the seed of the index of users.
    #[inline(always)]
    pub fn may_have_key(&self, hash: u64) -> bool {
        self.keyed.may_have(hash)
    }

    /// The application with this identifier.
    #[inline]
    pub fn app(&self, id: u32) -> Option<AppView<'_>> {
        Some(AppView { tables: self, index: self.apps.get(id)? })
    }

    /// The lines of a user, one a terminal; none for an unknown one.
    #[inline]
    pub fn terminals(&self, user: PushId) -> impl Iterator<Item = &Line> {
        self.arrays().bindings().of(user)
    }

    /// The gateway whose segment is the longest that has this private address.
    #[inline]
    pub fn gateway(&self, realm: u32, private: Endpoint) -> Option<u32> {
        self.segments().gateway(realm, private)
    }

    /// The segments, as a burst reads them.
    #[inline]
    pub fn segments(&self) -> Segments<'_> {
        let a = self.arrays();
        Segments { realms: &self.realms, rows: &a.realms, tries: a.tries.view() }
    }

    /// The gateway with this index.
    pub fn gateway_view(&self, gateway: u32) -> GatewayView<'_> {
        GatewayView { tables: self, row: &self.arrays().gateways[gateway as usize] }
    }

    /// Bytes that this generation takes in memory: the image and what is made of it at load time.
    pub fn bytes(&self) -> usize {
        // A hash map has a byte of control beside each place, and an eighth of the places is free.
        const fn map<K, V>(capacity: usize) -> usize {
            capacity * 8 / 7 * (size_of::<(K, V)>() + 1)
        }
        size_of::<Self>()
            + self.image.bytes().len()
            + self.overlay.as_ref().map_or(0, LaidOver::bytes)
            + self.keys.capacity() * size_of::<MacKey>()
            + self.rates.capacity() * size_of::<Option<Arc<Rate>>>()
            + self.rates.iter().flatten().count() * size_of::<Rate>()
            + map::<Endpoint, u32>(self.peers.capacity())
            + map::<PushId, u32>(self.user_keys.capacity())
            + self.keyed.bytes()
            + self.key_ids.bytes()
            + self.apps.bytes()
            + self.realms.bytes()
    }

    /// What the most of these bytes are, and where they lie: the image, then what live tables beside it say of its rows.
    pub fn extents(&self) -> impl Iterator<Item = (&'static str, Extent)> {
        let overlay = self.overlay.iter().flat_map(LaidOver::extents);
        std::iter::once(("image", self.image.extent())).chain(overlay)
    }

    /// Each table of the image: its name, its rows, and the bytes of them and of all that serves to find them; then what
    /// tables share, which has no rows. What is left of the image is its header and what it is padded with.
    pub fn by_table(&self) -> Vec<(&'static str, Option<usize>, usize)> {
        let a = self.arrays();
        let users = size_of_val(&a.lines[..]) + size_of_val(&a.blocks[..]) + size_of_val(&a.nat6[..]);
        vec![
            ("servers", Some(a.servers.len()), size_of_val(&a.servers[..]) + size_of_val(&a.prefixes[..])),
            ("gateways", Some(a.gateways.len()), size_of_val(&a.gateways[..])),
            ("segments", Some(a.segments.len()), size_of_val(&a.segments[..]) + size_of_val(&a.realms[..])),
            ("apps", Some(a.apps.len()), size_of_val(&a.apps[..]) + size_of_val(&a.sources[..])),
            ("users", Some(self.image.terminals()), users + a.users.size() + a.owners.size()),
            ("names", Some(a.names.len()), size_of_val(&a.names[..])),
            ("groups", Some(a.groups.len()), size_of_val(&a.groups[..]) + size_of_val(&a.members[..])),
            ("keys", Some(a.keys.len()), size_of_val(&a.keys[..])),
            ("tries", None, a.tries.size()),
            ("text", None, size_of_val(&a.text[..])),
        ]
    }
}

/// The segments of all realms, as a burst reads them.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    realms: &'a Numbers,
    rows: &'a [ArchivedRealmRow],
    tries: Forest<'a>,
}

/// The segments of one realm.
#[derive(Clone, Copy)]
struct Realm<'a> {
    v4: Trie<'a>,
    v6: Trie<'a>,
}

impl<'a> Segments<'a> {
    #[inline]
    fn realm(&self, realm: u32) -> Option<Realm<'a>> {
        let row = &self.rows[self.realms.get(realm)? as usize];
        let trie = |root: u32_le| self.tries.trie(root.to_native());
        Some(Realm { v4: trie(row.root_v4), v6: trie(row.root_v6) })
    }

    /// The gateway whose segment is the longest that has this private address.
    #[inline]
    pub fn gateway(&self, realm: u32, private: Endpoint) -> Option<u32> {
        let realm = &self.rows[self.realms.get(realm)? as usize];
        match TrieKey::of(private) {
            TrieKey::V4(key) => self.tries.trie(realm.root_v4.to_native()).lookup(key),
            TrieKey::V6(key) => self.tries.trie(realm.root_v6.to_native()).lookup(key),
        }
    }

    /// As [`Segments::gateway`] for each of many, in bursts.
    pub fn gateways(&self, terminals: &[(u32, Endpoint)], found: &mut [Option<u32>]) {
        let Some(&(realm, _)) = terminals.first() else { return };
        let mut near = Near { segments: *self, of: realm, realm: self.realm(realm) };
        for (terminals, found) in terminals.chunks(BURST).zip(found.chunks_mut(BURST)) {
            self.tries.lookup_burst(terminals, found, &mut near);
        }
    }
}

/// The realm that was asked for last: neighbours mostly are of one.
struct Near<'a> {
    segments: Segments<'a>,
    of: u32,
    realm: Option<Realm<'a>>,
}

impl<'a> Near<'a> {
    #[inline(always)]
    fn realm(&mut self, realm: u32) -> Option<&Realm<'a>> {
        if self.of != realm {
            (self.of, self.realm) = (realm, self.segments.realm(realm));
        }
        self.realm.as_ref()
    }
}

impl Ask<(u32, Endpoint)> for Near<'_> {
    #[inline(always)]
    fn begin(&mut self, (realm, private): &(u32, Endpoint)) -> Begun {
        match (self.realm(*realm), TrieKey::of(*private)) {
            (None, _) => Begun::NOTHING,
            (Some(realm), TrieKey::V4(key)) => realm.v4.begin(key),
            (Some(realm), TrieKey::V6(key)) => realm.v6.begin(key),
        }
    }

    #[inline(always)]
    fn go_on(&mut self, (realm, private): &(u32, Endpoint), node: u32) -> Option<u32> {
        let realm = self.realm(*realm)?;
        match TrieKey::of(*private) {
            TrieKey::V4(key) => realm.v4.go_on(key, node),
            TrieKey::V6(key) => realm.v6.go_on(key, node),
        }
    }
}

/// The prefixes of Push servers.
struct Routes<'a>(Trie<'a>);

impl Ask<PushId> for Routes<'_> {
    #[inline(always)]
    fn begin(&mut self, id: &PushId) -> Begun {
        self.0.begin(id.high())
    }

    #[inline(always)]
    fn go_on(&mut self, id: &PushId, node: u32) -> Option<u32> {
        self.0.go_on(id.high(), node)
    }
}

impl<'a> AppView<'a> {
    fn row(&self) -> &'a super::image::ArchivedAppRow {
        &self.tables.arrays().apps[self.index as usize]
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        self.tables.arrays().text(&self.row().name)
    }

    /// Whether terminals may push for it too.
    pub fn takes_users(&self) -> bool {
        self.row().flags & compile::APP_USERS != 0
    }

    /// Whether only some addresses may push for it.
    pub fn has_sources(&self) -> bool {
        self.row().flags & compile::APP_SOURCES != 0
    }

    /// Whether this address is in its `sources`.
    pub fn in_sources(&self, from: Endpoint) -> bool {
        let row = self.row();
        let a = self.tables.arrays();
        a.lookup(row.root_v4.to_native(), row.root_v6.to_native(), from).is_some()
    }

    /// The prefixes of addresses that may push for it, if it has [`Self::has_sources`].
    pub fn sources(&self) -> impl Iterator<Item = (IpAddr, u8)> + 'a {
        let index = self.index;
        let rows = self.tables.arrays().sources.iter().filter(move |row| row.owner.to_native() == index);
        rows.map(|row| (Endpoint::from_octets(row.octets, 0).ip(), row.len))
    }

    /// How its messages leave.
    pub fn rule(&self) -> Rule {
        compile::rule(self.row().rule)
    }

    /// The index of the key that its messages must be signed with.
    pub fn key(&self) -> Option<u32> {
        Some(self.row().key.to_native()).filter(|key| *key != NO_INDEX)
    }

    /// What it has left of its rate, if it has one.
    pub fn rate(&self) -> Option<&'a Rate> {
        self.tables.rates[self.index as usize].as_deref()
    }
}

impl<'a> GatewayView<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        self.tables.arrays().text(&self.row.name)
    }

    /// Where its tunnel ends.
    pub fn address(&self) -> Endpoint {
        Endpoint::from(&self.row.address)
    }

    /// The tunnel's form.
    pub fn tunnel(&self) -> Tunnel {
        compile::tunnel(self.row.tunnel, self.row.tunnel_id.to_native(), Mac(self.row.mac))
    }

    /// The inner source for a terminal of this address's family.
    pub fn source_for(&self, private: Endpoint) -> Option<Endpoint> {
        let source = if private.is_ipv4() { &self.row.source_v4 } else { &self.row.source_v6 };
        Some(Endpoint::from(source)).filter(|source| !source.is_none())
    }
}

impl ArchivedArrays {
    /// The value of the longest prefix of an address, in the trie of its family.
    #[inline(always)]
    pub(super) fn lookup(&self, root_v4: u32, root_v6: u32, address: Endpoint) -> Option<u32> {
        match TrieKey::of(address) {
            TrieKey::V4(key) => self.tries.lookup(root_v4, key),
            TrieKey::V6(key) => self.tries.lookup(root_v6, key),
        }
    }

    /// The gateway whose segment is the longest that has this private address. Slower than [`Segments::gateway`].
    pub(super) fn gateway(&self, realm: u32, private: Endpoint) -> Option<u32> {
        let at = self.realms.binary_search_by_key(&realm, |row| row.realm.to_native()).ok()?;
        let realm = &self.realms[at];
        self.lookup(realm.root_v4.to_native(), realm.root_v6.to_native(), private)
    }

    /// The bindings.
    #[inline]
    pub fn bindings(&self) -> Bindings<'_> {
        let lines = &self.lines[..];
        let behind = lines.get(self.users.places()..).unwrap_or_default();
        Bindings { lines, nat6: &self.nat6, places: self.users.view(), behind, blocks: &self.blocks }
    }

    /// Starts to bring near what leads to [`ArchivedArrays::owners`].
    pub(super) fn prefetch_ways(&self, realm: u32, private: Endpoint) {
        self.owners.prefetch_way(owner_hash((realm, private.octets()), self.owners.seed()));
    }

    /// The same of what stands there, when that has come.
    pub(super) fn prefetch_owners(&self, realm: u32, private: Endpoint) {
        let hash = owner_hash((realm, private.octets()), self.owners.seed());
        self.owners.prefetch(self.owners.place(hash));
    }

    /// The lines whose private address, with any port, this is: whom a datagram to it would reach.
    pub fn owners(&self, realm: u32, private: Endpoint) -> impl Iterator<Item = &Line> {
        let place = owner_hash((realm, private.octets()), self.owners.seed());
        let same = move |line: &&Line| {
            line.realm() == realm && line.private().is_some_and(|own| own.octets() == private.octets())
        };
        self.owners.lines(self.owners.place(place)).map(|at| &self.lines[at]).filter(same)
    }
}
