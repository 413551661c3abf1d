//! Source files from a [`Rib`], as `INTERFACE.md` has them: what [`write()`] writes, the loader reads
//! back as the same tables.
//!
//! Rows are written one by one, so that tables of any size take no memory. Each file is written
//! beside its place and then moved there: no half a file is ever seen. `servers.toml`,
//! `gateways.toml`, `segments.csv`, `apps.toml` and `users.csv` are always written; `names.csv`,
//! `groups.csv` and `keys.toml` when they have rows, or when an older one of that name is there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;

use super::Rib;
use super::rib::{App, Gateway, Key, Rule, Segment, Server, Tunnel, User};
use crate::id::{Endpoint, PushId};

/// Writes the source files of `rib` into the directory `dir`, which is made if it is not there.
///
/// # Errors
/// When a file cannot be written. `InvalidData` when a row cannot be written as a source file: a
/// segment of a gateway that is not in the table, a time beyond the year 9999.
pub fn write(dir: &Path, rib: &Rib) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    file(dir, "servers.toml", |out| rib.servers.iter().try_for_each(|server| write_server(out, server)))?;
    file(dir, "gateways.toml", |out| {
        rib.gateways.iter().try_for_each(|gateway| write_gateway(out, gateway))
    })?;
    file(dir, "segments.csv", |out| write_segments(out, rib))?;
    file(dir, "apps.toml", |out| rib.apps.iter().try_for_each(|app| write_app(out, app)))?;
    file(dir, "users.csv", |out| write_users(out, &rib.users))?;
    if !rib.names.is_empty() || dir.join("names.csv").exists() {
        file(dir, "names.csv", |out| write_names(out, &rib.names))?;
    }
    if !rib.groups.is_empty() || dir.join("groups.csv").exists() {
        file(dir, "groups.csv", |out| {
            writeln!(out, "group,push_id")?;
            rib.groups.iter().try_for_each(|(group, member)| writeln!(out, "{group},{member}"))
        })?;
    }
    if !rib.keys.is_empty() || dir.join("keys.toml").exists() {
        file(dir, "keys.toml", |out| rib.keys.iter().try_for_each(|key| write_key(out, key)))?;
    }
    Ok(())
}

type Out = BufWriter<File>;

fn file(dir: &Path, name: &str, rows: impl FnOnce(&mut Out) -> io::Result<()>) -> io::Result<()> {
    let path = dir.join(name);
    let beside = dir.join(format!(".{name}.new"));
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // Keys are nobody else's to read.
    #[cfg(unix)]
    if name == "keys.toml" {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    // One that an earlier run left behind may have other permissions.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let mut out = BufWriter::new(options.open(&beside).map_err(named)?);
    let written = rows(&mut out).and_then(|()| out.flush()).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.map_err(named)
}

fn write_server(out: &mut Out, server: &Server) -> io::Result<()> {
    writeln!(out, "[[server]]\nname = {}", quoted(&server.name))?;
    match &server.prefixes[..] {
        [prefix] => writeln!(out, "prefix = \"{prefix}\"")?,
        prefixes => {
            let prefixes: Vec<String> = prefixes.iter().map(|prefix| format!("\"{prefix}\"")).collect();
            writeln!(out, "prefix = [{}]", prefixes.join(", "))?;
        }
    }
    writeln!(out, "address = \"{}\"", server.address)?;
    if let Some(key) = server.key {
        writeln!(out, "key = {key}")?;
    }
    writeln!(out)
}

fn write_gateway(out: &mut Out, gateway: &Gateway) -> io::Result<()> {
    writeln!(out, "[[gateway]]\nname = {}", quoted(&gateway.name))?;
    writeln!(out, "address = \"{}\"\ntunnel = \"{}\"", gateway.address, gateway.tunnel.name())?;
    match gateway.tunnel {
        Tunnel::Vxlan { vni, mac } => writeln!(out, "vni = {vni}\nmac = \"{mac}\"")?,
        Tunnel::Gtpu { teid } => writeln!(out, "teid = {teid}")?,
        Tunnel::Plain | Tunnel::None => {}
    }
    match (gateway.source_v4, gateway.source_v6) {
        (Some(v4), Some(v6)) => writeln!(out, "source = [\"{v4}\", \"{v6}\"]")?,
        (Some(source), None) | (None, Some(source)) => writeln!(out, "source = \"{source}\"")?,
        (None, None) => {}
    }
    writeln!(out)
}

fn write_segments(out: &mut Out, rib: &Rib) -> io::Result<()> {
    let mut rows = csv::Writer::from_writer(out);
    rows.write_record(["realm", "prefix", "gateway"])?;
    for &Segment { realm, ip, len, gateway } in &rib.segments {
        let Some(gateway) = rib.gateways.get(gateway as usize) else {
            return Err(invalid(format!(
                "segment {ip}/{len} names gateway {gateway}, which is not in the table"
            )));
        };
        rows.write_record([&realm.to_string(), &format!("{ip}/{len}"), &gateway.name])?;
    }
    rows.flush()
}

fn write_app(out: &mut Out, app: &App) -> io::Result<()> {
    writeln!(out, "[[app]]\nid = {}\nname = {}", app.id, quoted(&app.name))?;
    if let Some(sources) = &app.sources {
        let sources: Vec<String> =
            sources.iter().map(|(ip, len): &(IpAddr, u8)| format!("\"{ip}/{len}\"")).collect();
        writeln!(out, "sources = [{}]", sources.join(", "))?;
    }
    if app.users {
        writeln!(out, "users = true")?;
    }
    if app.rule != Rule::default() {
        writeln!(out, "rule = \"{}\"", app.rule.name())?;
    }
    if let Some(rate) = app.rate {
        writeln!(out, "rate = {rate}")?;
    }
    if let Some(key) = app.key {
        writeln!(out, "key = {key}")?;
    }
    writeln!(out)
}

/// No field of a user holds a comma, so the rows need no quoting and no allocation.
fn write_users(out: &mut Out, users: &[User]) -> io::Result<()> {
    writeln!(out, "push_id,device,realm,private,nat,imsi,bearers,serving,valid_until")?;
    for user in users {
        write!(out, "{},", user.push_id)?;
        number(out, user.device.into(), 0)?;
        number(out, user.realm, 0)?;
        endpoint(out, user.private)?;
        endpoint(out, user.nat)?;
        if let Some(imsi) = user.imsi {
            write!(out, "{imsi}")?;
        }
        out.write_all(b",")?;
        number(out, user.bearers.into(), User::DEFAULT_BEARERS.into())?;
        endpoint(out, user.serving)?;
        if let Some(seconds) = user.valid_until {
            let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            let time =
                time.ok_or_else(|| invalid(format!("{seconds} s since 1970 is beyond the year 9999")))?;
            write!(out, "{time}")?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// A field and its comma; nothing where the value is what an empty field means.
fn number(out: &mut Out, value: u32, empty: u32) -> io::Result<()> {
    if value == empty { out.write_all(b",") } else { write!(out, "{value},") }
}

fn endpoint(out: &mut Out, value: Option<Endpoint>) -> io::Result<()> {
    match value {
        Some(value) => write!(out, "{value},"),
        None => out.write_all(b","),
    }
}

fn write_names(out: &mut Out, names: &[(String, PushId)]) -> io::Result<()> {
    let mut rows = csv::Writer::from_writer(out);
    rows.write_record(["name", "push_id"])?;
    for (name, push_id) in names {
        rows.write_record([name, &push_id.to_string()])?;
    }
    rows.flush()
}

fn write_key(out: &mut Out, key: &Key) -> io::Result<()> {
    write!(out, "[[key]]\nid = {}\nvalue = \"", key.id)?;
    key.value.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
    writeln!(out, "\"")?;
    if let Some(user) = key.user {
        writeln!(out, "user = \"{user}\"")?;
    }
    writeln!(out)
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Mac, PushPrefix};

    fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    fn sample() -> Rib {
        let id: PushId = parse("00000000000000000000000000000001");
        Rib {
            servers: vec![
                Server {
                    name: "one".into(),
                    prefixes: vec![parse("0000")],
                    address: parse("192.0.2.1:17400"),
                    key: Some(1),
                },
                Server {
                    name: "two \"quoted\"".into(),
                    prefixes: vec![parse("01"), PushPrefix::new(0, 0).unwrap()],
                    address: parse("[2001:db8::1]:1"),
                    key: None,
                },
            ],
            gateways: vec![
                Gateway {
                    name: "a".into(),
                    address: parse("10.0.0.1:17400"),
                    tunnel: Tunnel::Plain,
                    source_v4: None,
                    source_v6: None,
                },
                Gateway {
                    name: "b".into(),
                    address: parse("10.0.0.2:4789"),
                    tunnel: Tunnel::Vxlan { vni: 100, mac: Mac([2, 0, 0, 0, 0, 1]) },
                    source_v4: Some(parse("10.255.0.254:17400")),
                    source_v6: Some(parse("[fd00::1]:17400")),
                },
                Gateway {
                    name: "c".into(),
                    address: parse("10.0.0.3:2152"),
                    tunnel: Tunnel::Gtpu { teid: 7 },
                    source_v4: Some(parse("10.255.0.254:17400")),
                    source_v6: None,
                },
            ],
            segments: vec![Segment { realm: 3, ip: parse("10.1.0.0"), len: 16, gateway: 1 }],
            apps: vec![App {
                id: 7,
                name: "mail".into(),
                sources: Some(vec![(parse("192.0.2.0"), 24)]),
                users: true,
                rule: Rule::MinDelay,
                rate: Some(1000),
                key: Some(12),
            }],
            users: vec![
                User {
                    push_id: id,
                    device: 2,
                    realm: 3,
                    private: Some(parse("10.1.0.9:2948")),
                    nat: Some(parse("203.0.113.9:40000")),
                    imsi: Some(parse("460001234567890")),
                    bearers: 7,
                    serving: None,
                    valid_until: Some(1_893_456_000),
                },
                User { serving: Some(parse("[2001:db8::2]:17400")), ..User::new(id, 0) },
            ],
            names: vec![("Ann, \"home\"".into(), id)],
            groups: vec![(parse("0000000000000000000000000000000f"), id)],
            keys: vec![Key { id: 12, value: [0xAB; 16], user: Some(id) }],
        }
    }

    #[test]
    fn the_files_are_those_of_the_interface() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &sample()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            read("users.csv"),
            "push_id,device,realm,private,nat,imsi,bearers,serving,valid_until\n\
             00000000000000000000000000000001,2,3,10.1.0.9:2948,203.0.113.9:40000,460001234567890,7,,2030-01-01T00:00:00Z\n\
             00000000000000000000000000000001,,,,,,,[2001:db8::2]:17400,\n"
        );
        assert_eq!(read("segments.csv"), "realm,prefix,gateway\n3,10.1.0.0/16,b\n");
        assert_eq!(
            read("names.csv"),
            "name,push_id\n\"Ann, \"\"home\"\"\",00000000000000000000000000000001\n"
        );
        assert!(read("servers.toml").contains("prefix = [\"01\", \"0x0/0\"]"));
        assert!(read("gateways.toml").contains("source = [\"10.255.0.254:17400\", \"[fd00::1]:17400\"]"));
        for name in ["servers.toml", "gateways.toml", "apps.toml", "keys.toml"] {
            let table: toml::Table = read(name).parse().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(table.len(), 1, "{name}");
        }
        let servers: toml::Table = read("servers.toml").parse().unwrap();
        assert_eq!(servers["server"][1]["name"].as_str(), Some("two \"quoted\""));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(dir.path().join("keys.toml")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        // Nothing but the files is left, and an older table is emptied rather than kept.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 8);
        write(dir.path(), &Rib::default()).unwrap();
        assert_eq!(read("names.csv"), "name,push_id\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 8);
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let rib = Rib { gateways: Vec::new(), ..sample() };
        let error = write(dir.path(), &rib).unwrap_err().to_string();
        assert!(error.contains("segments.csv") && error.contains("10.1.0.0/16"), "{error}");
        assert!(!dir.path().join("segments.csv").exists());
    }
}
