//! `pushplane.toml` → [`Config`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::address::{address, any_address};
use super::document::{At, Document, Section, boolean, describe, name, number, parsed, string};
use super::faults::Faults;
use super::{Coalesce, Config, Io, Limits, Policy, RegisterPolicy, Shards, radius};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::id::Endpoint;

/// The port of PRP.
pub(super) const PORT: u16 = 17400;

/// The longest `server.spin`, microseconds: nothing stays away that long from a shard that is worth it.
const SPIN_MAX_US: u64 = 1_000_000;

/// Where in `pushplane.toml` the values stand that are later held against the tables and the host: line and
/// column, both from 1. A value that is absent has the place of its table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// The file.
    pub file: PathBuf,
    /// `server.name`.
    pub name: (usize, usize),
    /// `server.listen`.
    pub listen: (usize, usize),
    /// `server.tables`.
    pub tables: (usize, usize),
    /// `server.state`.
    pub state: (usize, usize),
    /// `server.control`.
    pub control: (usize, usize),
    /// `server.shards`.
    pub shards: (usize, usize),
    /// `server.metrics`.
    pub metrics: (usize, usize),
    /// `server.io`.
    pub io: (usize, usize),
    /// `policy.require_auth`.
    pub require_auth: (usize, usize),
    /// `radius.listen`.
    pub radius_listen: (usize, usize),
    /// Each `realm` of `[radius]`, and where it stands.
    pub radius_realms: Vec<(u32, (usize, usize))>,
}

impl Places {
    /// A diagnostic at one of these places.
    pub fn fault(&self, place: (usize, usize), sentence: impl Into<String>) -> Diagnostic {
        Diagnostic::new(&self.file, place.0, place.1, sentence)
    }
}

impl Config {
    /// Reads and checks a configuration file; paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// Every fault of the file, by line and column; never an empty list.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        Self::load_with_places(path).map(|(config, _)| config)
    }

    /// As [`Config::load`], with the places that [`crate::table::source::check_against`] needs to
    /// say what in the file disagrees with the tables.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load_with_places(path: &Path) -> Result<(Self, Places), Diagnostics> {
        match Document::read(path) {
            Ok(Some(document)) => read(&document),
            Ok(None) => Err(Diagnostics(vec![Diagnostic::new(
                path,
                1,
                1,
                "expected a configuration file, found none; write it, or name another one",
            )])),
            Err(fault) => Err(Diagnostics(vec![fault])),
        }
    }

    /// As [`Config::load_with_places`], from bytes; `path` is only what the file is called.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<(Self, Places), Diagnostics> {
        read(&Document::from_bytes(path, bytes).map_err(|fault| Diagnostics(vec![fault]))?)
    }
}

fn read(document: &Document) -> Result<(Config, Places), Diagnostics> {
    let mut faults = Faults::default();
    let Some(root) = document.parse(&mut faults) else {
        return Err(Diagnostics(faults.into_vec()));
    };
    let mut top = Section::new(document, "the file".to_owned(), &root, 0);
    let mut places = Places { file: document.path().to_owned(), ..Places::default() };
    let mut config = None;
    if let Some(section) = table(document, &mut top, "server", &mut faults) {
        places.name = document.place(section.place_of("name"));
        places.listen = document.place(section.place_of("listen"));
        places.tables = document.place(section.place_of("tables"));
        places.state = document.place(section.place_of("state"));
        places.control = document.place(section.place_of("control"));
        places.shards = document.place(section.place_of("shards"));
        places.metrics = document.place(section.place_of("metrics"));
        places.io = document.place(section.place_of("io"));
        config = server(section, &mut faults);
    } else if !top.has("server") {
        faults.push(top.fault("expected a table [server], found none; add it with at least name and listen"));
    }
    places.require_auth = places.name;
    let mut policy = Policy::default();
    if let Some(section) = table(document, &mut top, "policy", &mut faults) {
        places.require_auth = document.place(section.place_of("require_auth"));
        policy = read_policy(section, &mut faults);
    }
    let mut limits = Limits::default();
    if let Some(section) = table(document, &mut top, "limits", &mut faults) {
        limits = read_limits(section, &mut faults);
    }
    let mut radius = None;
    if let Some(section) = table(document, &mut top, "radius", &mut faults) {
        places.radius_listen = document.place(section.place_of("listen"));
        let taken = config.as_ref().map_or(&[][..], |config: &Config| &config.listen);
        let mut realms = Vec::new();
        radius = radius::read(document, section, taken, &mut realms, &mut faults);
        places.radius_realms =
            realms.into_iter().map(|(realm, offset)| (realm, document.place(offset))).collect();
    }
    top.finish(&mut faults);
    match (faults.into_result(()), config) {
        (Ok(()), Some(config)) => Ok((Config { policy, limits, radius, ..config }, places)),
        (Err(faults), _) => Err(faults),
        (Ok(()), None) => Err(Diagnostics(vec![document.fault(0, "expected a table [server]")])),
    }
}

fn table<'d>(
    document: &'d Document,
    top: &mut Section<'d>,
    key: &'static str,
    faults: &mut Faults,
) -> Option<Section<'d>> {
    let value = top.get(key)?;
    match value.get_ref() {
        DeValue::Table(table) => Some(Section::new(document, format!("[{key}]"), table, value.span().start)),
        other => {
            let sentence =
                format!("expected a table, found {}; write [{key}] on a line of its own", describe(other));
            faults.push(document.fault(value.span().start, sentence));
            None
        }
    }
}

fn server(mut section: Section<'_>, faults: &mut Faults) -> Option<Config> {
    let server_name = section.required(faults, "name", "name = \"…\", one of servers.toml", name);
    let folder = section.folder();
    let path = |value: &DeValue<'_>| match string(value)? {
        text if text.is_empty() || text.contains('\0') => {
            Err("expected a path, found an empty one".to_owned())
        }
        text => Ok(folder.join(text)),
    };
    let listen = listen(&mut section, faults, PORT);
    let tables = section.optional(faults, "tables", path);
    let state = section.optional(faults, "state", path);
    let control = section.optional(faults, "control", path);
    let shards = section.optional(faults, "shards", shards);
    let metrics = section.optional(faults, "metrics", parsed(|text| any_address(text, Some(9400))));
    let hlr = section.optional(faults, "hlr", parsed(|text| address(text, None)));
    let io = section.optional(faults, "io", |value| {
        choice(value, &[("auto", Io::Auto), ("io_uring", Io::Uring), ("socket", Io::Socket)])
    });
    let coalesce = section.optional(faults, "coalesce", |value| {
        let words = [
            ("both", Coalesce::Both),
            ("receive", Coalesce::Receive),
            ("send", Coalesce::Send),
            ("neither", Coalesce::Neither),
        ];
        choice(value, &words)
    });
    let spin = section.optional(faults, "spin", number(0..=SPIN_MAX_US));
    section.finish(faults);
    let value =
        |path: Option<At<PathBuf>>, default: &str| path.map_or_else(|| folder.join(default), |at| at.value);
    Some(Config {
        name: server_name?.value,
        listen: listen?,
        tables: value(tables, "tables"),
        state: value(state, "state"),
        shards: shards.map_or(Shards::Auto, |at| at.value),
        control: value(control, "control.sock"),
        metrics: metrics.map(|at| at.value),
        hlr: hlr.map(|at| at.value),
        radius: None,
        io: io.map_or(Io::Auto, |at| at.value),
        coalesce: coalesce.map_or(Coalesce::default(), |at| at.value),
        spin: Duration::from_micros(spin.map_or(0, |at| at.value)),
        policy: Policy::default(),
        limits: Limits::default(),
    })
}

/// The addresses to receive on, of this port where they name none.
pub(super) fn listen(section: &mut Section<'_>, faults: &mut Faults, port: u16) -> Option<Vec<Endpoint>> {
    if !section.has("listen") {
        let example = format!("listen = [\"ADDRESS:{port}\"]");
        section.required(faults, "listen", &example, |_| Ok(()));
        return None;
    }
    let items = section.list(faults, "listen", true, |text| {
        let endpoint = any_address(text, Some(port))?;
        if endpoint.ip().is_unspecified() {
            return Err(format!(
                "expected the addresses themselves, found {text}, which stands for all of them; a reply must leave \
                 from the address that was written to, so name each address"
            ));
        }
        address(text, Some(port))
    })?;
    let mut listen: Vec<Endpoint> = Vec::with_capacity(items.len());
    for item in &items {
        if listen.contains(&item.value) {
            let sentence =
                format!("listen: expected each address once, found {} again; remove it", item.value);
            faults.push(section.fault_at(item.offset, sentence));
        }
        listen.push(item.value);
    }
    if listen.is_empty() && faults.is_empty() {
        let sentence =
            format!("listen: expected at least one address, found none; add one like \"192.0.2.1:{port}\"");
        faults.push(section.fault_at(section.place_of("listen"), sentence));
    }
    Some(listen)
}

fn shards(value: &DeValue<'_>) -> Result<Shards, String> {
    const MAX: u64 = 1024;
    match value {
        DeValue::String(text) if text == "auto" => Ok(Shards::Auto),
        DeValue::Integer(_) => number(1..=MAX)(value).map(|count| Shards::Count(count as usize)),
        DeValue::Array(items) if !items.is_empty() && items.len() as u64 <= MAX => {
            let mut cpus = Vec::with_capacity(items.len());
            for item in items {
                let cpu = number(0..=4095)(item.get_ref())? as usize;
                if cpus.contains(&cpu) {
                    return Err(format!("expected each CPU once, found {cpu} again; remove it"));
                }
                cpus.push(cpu);
            }
            Ok(Shards::Cpus(cpus))
        }
        DeValue::Array(items) => Err(format!("expected 1 to {MAX} CPUs, found a list of {}", items.len())),
        other => Err(format!(
            "expected \"auto\", a number of shards or a list of CPUs like [2, 3], found {}",
            describe(other)
        )),
    }
}

/// One of a few words.
fn choice<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, String> {
    word(&string(value)?, words)
}

/// As [`choice`], of a text.
pub(super) fn word<T: Copy>(found: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == found).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("expected {}, found {found:?}", words.join(" or "))
    })
}

fn read_policy(mut section: Section<'_>, faults: &mut Faults) -> Policy {
    let default = Policy::default();
    let mut flag = |key, default| section.optional(faults, key, boolean).map_or(default, |at| at.value);
    let known_sources = flag("known_sources", default.known_sources);
    let require_auth = flag("require_auth", default.require_auth);
    let rejects = flag("rejects", default.rejects);
    let static_bindings = flag("static_bindings", default.static_bindings);
    let words = [
        ("signed", RegisterPolicy::Signed),
        ("segment", RegisterPolicy::Segment),
        ("any", RegisterPolicy::Any),
    ];
    let register = section.optional(faults, "register", |value| choice(value, &words));
    section.finish(faults);
    Policy {
        known_sources,
        require_auth,
        rejects,
        register: register.map_or(default.register, |at| at.value),
        static_bindings,
    }
}

fn read_limits(mut section: Section<'_>, faults: &mut Faults) -> Limits {
    let default = Limits::default();
    let mut limit = |key, default: usize, range| {
        section.optional(faults, key, number(range)).map_or(default, |at| at.value as usize)
    };
    let limits = Limits {
        datagram_max: limit("datagram_max", default.datagram_max, 1472..=65507),
        frames: limit("frames", default.frames, 64..=1 << 15),
        receipts: limit("receipts", default.receipts, 1..=1 << 26),
        replays: limit("replays", default.replays, 1..=1 << 30),
        reject_sources: limit("reject_sources", default.reject_sources, 1..=1 << 24),
        punts: limit("punts", default.punts, 1..=1 << 16),
        receive_buffer: limit("receive_buffer", default.receive_buffer, 4096..=1 << 30),
        bindings: limit("bindings", default.bindings, 1..=1 << 28),
        journal: limit("journal", default.journal, 1 << 16..=1 << 40),
        validity_default_s: limit("validity_default_s", default.validity_default_s, 1..=u32::MAX.into()),
        validity_max_s: limit("validity_max_s", default.validity_max_s, 1..=u32::MAX.into()),
        groups: limit("groups", default.groups, 0..=1 << 26),
        group_members: limit("group_members", default.group_members, 0..=1 << 28),
        relays: limit("relays", default.relays, 1..=1 << 24),
        sessions: limit("sessions", default.sessions, 1..=1 << 28),
        reports: limit("reports", default.reports, 1..=1 << 20),
    };
    section.finish(faults);
    limits
}

#[cfg(test)]
mod tests {
    use super::super::Identify;
    use super::*;

    fn load(text: &str) -> Result<(Config, Places), String> {
        Config::from_bytes(Path::new("etc/pushplane.toml"), text.as_bytes().to_vec())
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn the_least_that_must_be_said() {
        let (config, places) = load("[server]\nname = \"mobile-1\"\nlisten = \"127.0.0.1\"\n").unwrap();
        assert_eq!(config.name, "mobile-1");
        assert_eq!(config.listen, ["127.0.0.1:17400".parse().unwrap()]);
        assert_eq!(config.tables, Path::new("etc/tables"));
        assert_eq!(config.state, Path::new("etc/state"));
        assert_eq!(config.control, Path::new("etc/control.sock"));
        assert_eq!((config.metrics, config.hlr), (None, None));
        assert_eq!((config.shards, config.io), (Shards::Auto, Io::Auto));
        assert_eq!((config.policy, config.limits), (Policy::default(), Limits::default()));
        assert_eq!((places.name, places.listen, places.require_auth), ((2, 8), (3, 10), (2, 8)));
    }

    #[test]
    fn everything_that_can_be_said() {
        let (config, places) = load(concat!(
            "\u{feff}[server]\r\nname = \"mobile-1\"\r\nlisten = [\"127.0.0.1:17400\", \"[::1]:1\"]\r\n",
            "tables = \"/var/t.ppt\"\nstate = \"../s\"\nshards = [2, 3]\ncontrol = \"c\"\nio = \"socket\"\n",
            "metrics = \"0.0.0.0:9400\"\nhlr = \"127.0.0.9:1\"\n",
            "[policy]\nknown_sources = true\nrequire_auth = true\nrejects = false\nregister = \"signed\"\n",
            "static_bindings = true\n",
            "[limits]\ndatagram_max = 9_000\nframes = 0x80\nreceipts = 1\nreplays = 2\nreject_sources = 3\n",
            "receive_buffer = 4096\npunts = 7\njournal = 65536\nbindings = 9\nvalidity_default_s = 60\nvalidity_max_s = 600\n",
            "groups = 0\ngroup_members = 5\nrelays = 6\nsessions = 8\nreports = 10\n",
        ))
        .unwrap();
        assert_eq!(config.tables, Path::new("/var/t.ppt"));
        assert_eq!(config.state, Path::new("etc/../s"));
        assert_eq!(config.shards, Shards::Cpus(vec![2, 3]));
        assert_eq!(config.listen.len(), 2);
        assert_eq!((config.limits.datagram_max, config.limits.frames), (9000, 128));
        assert_eq!((config.limits.punts, config.limits.journal), (7, 65_536));
        assert_eq!(config.policy.register, RegisterPolicy::Signed);
        assert!(config.policy.static_bindings);
        let limits = config.limits;
        assert_eq!((limits.bindings, limits.validity_default_s, limits.validity_max_s), (9, 60, 600));
        assert_eq!((limits.groups, limits.group_members, limits.relays), (0, 5, 6));
        assert_eq!((config.io, places.require_auth), (Io::Socket, (13, 16)));
    }

    #[test]
    fn who_may_speak_for_the_network() {
        let good = "[server]\nname = \"m\"\nlisten = [\"127.0.0.1:1\"]\n[radius]\nlisten = \"127.0.0.1\"\n";
        let client = "[[radius.client]]\naddress = \"10.0.0.0/8\"\nsecret = \"s\"\n";
        let (config, places) = load(&format!("{good}{client}")).unwrap();
        let radius = config.radius.unwrap();
        assert_eq!(radius.listen, ["127.0.0.1:1813".parse().unwrap()]);
        assert_eq!((radius.realm, radius.port, radius.session_max_s), (0, 17_400, 86_400));
        assert_eq!(radius.identify, [Identify::Imsi, Identify::CallingStation, Identify::UserName]);
        assert_eq!(radius.clients.len(), 1);
        assert_eq!((places.radius_listen, &places.radius_realms[..]), ((5, 10), &[][..]));
        let all = concat!(
            "realm = 3\nidentify = [\"user-name\", \"imsi\"]\nport = 2948\nsession_max_s = 0\n",
            "[[radius.client]]\naddress = \"10.0.0.0/8\"\nsecret = \"s\"\n",
            "[[radius.client]]\naddress = \"10.0.0.1\"\nsecret = \"t\"\nrealm = 4\n",
            "[[radius.apn]]\nname = \"VPN.example\"\nrealm = 9\n",
        );
        let (config, places) = load(&format!("{good}{all}")).unwrap();
        let radius = config.radius.unwrap();
        assert_eq!((radius.realm, radius.port, radius.session_max_s), (3, 2948, 0));
        assert_eq!(radius.identify, [Identify::UserName, Identify::Imsi]);
        assert_eq!(radius.clients[0].prefix, ("10.0.0.1".parse().unwrap(), 32), "the longest first");
        assert_eq!(radius.clients[0].secret.octets(), b"t");
        assert_eq!(radius.apns, [("vpn.example".to_owned(), 9)]);
        assert_eq!(places.radius_realms, [(3, (6, 9)), (4, (16, 9)), (9, (19, 9))]);
        for (text, place, words) in [
            (good.to_owned(), "4:1", "at least one [[radius.client]]"),
            (format!("{good}{client}secret = \"t\"\n"), "9:1", "duplicate key"),
            (format!("{good}{client}realm = -1\n"), "9:9", "whole number"),
            (format!("{good}{client}port = 1\n"), "9:1", "unknown key \"port\" in [[radius.client]]"),
            (format!("{good}{client}{client}"), "10:11", "another client's already"),
            (format!("{good}{}", client.replace("/8", "/33")), "7:11", "prefix length"),
            (format!("{good}{}", client.replace("0.0.0/8", "0.0.1/8")), "7:11", "host bits"),
            (format!("{good}{}", client.replace("/8", ":1813")), "7:11", "without a port"),
            (format!("{good}{}", client.replace("\"s\"", "\"\"")), "8:10", "found 0"),
            (format!("{good}{}", client.replace("\"s\"", "7777")), "8:10", "in quotes"),
            (format!("{good}[[radius.client]]\naddress = \"::1\"\n"), "6:1", "expected the key secret"),
            (format!("{good}client = 1\n"), "6:1", "[[radius.client]]"),
            (format!("{good}identify = \"msisdn\"\n{client}"), "6:12", "\"calling-station-id\""),
            (format!("{good}identify = []\n{client}"), "6:12", "at least one"),
            (format!("{good}identify = [\"imsi\", \"imsi\"]\n{client}"), "6:21", "once"),
            (format!("{good}port = 0\n{client}"), "6:8", "from 1 to 65535"),
            (format!("{good}{client}[[radius.apn]]\nname = \"a\"\n"), "9:1", "expected the key realm"),
            (
                format!("{good}{client}{0}{0}", "[[radius.apn]]\nname = \"a\"\nrealm = 1\n"),
                "13:8",
                "has a realm already",
            ),
            (good.replace("listen = \"127.0.0.1\"", client), "4:1", "ADDRESS:1813"),
            (format!("{}{client}", good.replace("1\"\n", "1:1\"\n")), "5:10", "server.listen already"),
            (
                format!("{}{client}", good.replace("\"127.0.0.1\"", "\"0.0.0.0\"")),
                "5:10",
                "name each address",
            ),
        ] {
            let found = load(&text).expect_err(&text);
            assert!(found.starts_with(&format!("etc/pushplane.toml:{place}: ")), "{text}\n{found}");
            assert!(found.contains(words), "{text}\n{found}");
            assert!(!found.contains("7777"), "a secret is not shown: {found}");
        }
    }

    #[test]
    fn every_fault_says_where_and_what() {
        let good = "[server]\nname = \"m\"\nlisten = [\"127.0.0.1:1\"]\n";
        for (text, place, words) in [
            ("", "1:1", "expected a table [server]"),
            ("server = 1", "1:10", "write [server]"),
            ("[server]\nname = \"m\"\n", "1:1", "expected the key listen"),
            ("[server]\nlisten = \"127.0.0.1\"\n", "1:1", "expected the key name"),
            ("[server]\nname = \"\"\nlisten = \"127.0.0.1\"\n", "2:8", "empty"),
            ("[server]\nname = 3\nlisten = \"127.0.0.1\"\n", "2:8", "expected a string, found 3"),
            ("[server]\nname = \"m\"\nlisten = []\n", "3:10", "at least one address"),
            ("[server]\nname = \"m\"\nlisten = 3\n", "3:10", "a string or a list of strings"),
            (
                "[server]\nname = \"m\"\nlisten = [\"127.0.0.1\", \"0.0.0.0:1\"]\n",
                "3:24",
                "name each address",
            ),
            ("[server]\nname = \"m\"\nlisten = [\"[::]:17400\"]\n", "3:11", "name each address"),
            ("[server]\nname = \"m\"\nlisten = [\"127.0.0.1:0\"]\n", "3:11", "port from 1 to 65535"),
            ("[server]\nname = \"m\"\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]\n", "3:26", "again"),
            ("[server]\nname = \"m\"\nlisten = [\"localhost:1\"]\n", "3:11", "expected an address"),
            ("[server\n", "1:8", "not TOML"),
            (&format!("{good}shards = 0\n"), "4:10", "from 1 to 1024"),
            (&format!("{good}shards = \"many\"\n"), "4:10", "a list of CPUs"),
            (&format!("{good}shards = []\n"), "4:10", "1 to 1024 CPUs"),
            (&format!("{good}shards = [1, 1]\n"), "4:10", "1 again"),
            (&format!("{good}shards = [-1]\n"), "4:10", "0 to 4095"),
            (&format!("{good}datagram_max = 2048\n"), "4:1", "unknown key \"datagram_max\" in [server]"),
            (&format!("{good}io = \"dpdk\"\n"), "4:6", "\"io_uring\""),
            (&format!("{good}hlr = \"127.0.0.1\"\n"), "4:7", "add the port"),
            (&format!("{good}tables = \"\"\n"), "4:10", "a path"),
            (&format!("{good}metrics = \"here\"\n"), "4:11", "expected an address"),
            (&format!("{good}name = \"n\"\n"), "4:1", "duplicate key"),
            (&format!("{good}[policy]\nregister = \"all\"\n"), "5:12", "\"segment\""),
            (&format!("{good}[policy]\nrejects = 1\n"), "5:11", "true or false"),
            (&format!("{good}[policy]\nsigned = true\n"), "5:1", "unknown key"),
            (&format!("{good}[limits]\ndatagram_max = 1000\n"), "5:16", "from 1472 to 65507"),
            (&format!("{good}[limits]\nframes = 1.5\n"), "5:10", "whole number"),
            (&format!("{good}[limit]\nframes = 1\n"), "4:2", "unknown key \"limit\""),
        ] {
            let found = load(text).expect_err(text);
            assert!(found.starts_with(&format!("etc/pushplane.toml:{place}: ")), "{text}\n{found}");
            assert!(found.contains(words) && found.lines().count() == 1, "{text}\n{found}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once_in_order() {
        let found =
            load("[limits]\nframes = 1\n[server]\nshards = 0\nfoo = 1\nlisten = [\"0.0.0.0\", \"::\"]\n");
        let places: Vec<String> = found
            .unwrap_err()
            .lines()
            .map(|line| line.split(": ").next().unwrap().replace("etc/pushplane.toml:", ""))
            .collect();
        assert_eq!(places, ["2:10", "3:1", "4:10", "5:1", "6:11", "6:22"]);
    }

    #[test]
    fn a_file_that_is_missing_is_one_fault() {
        let faults = Config::load(Path::new("/nowhere/pushplane.toml")).unwrap_err();
        assert!(faults.to_string().starts_with("/nowhere/pushplane.toml:1:1: expected a configuration file"));
    }
}
