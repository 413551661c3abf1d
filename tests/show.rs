//! `pushplane show` and the control socket of a real server: what it tells, who may ask, and what becomes of the socket
//! when servers come, go, and are killed.

#[path = "common/server.rs"]
mod server;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use pushplane::clock::Clock;
use pushplane::config::Config;
use pushplane::server::Server;
use pushplane::table::{Image, source};
use serde_json::Value;

use server::*;

const SOCKET: &str = "control.sock";

fn show(site: &Site, arguments: &str) -> Output {
    show_by(Command::new(env!("CARGO_BIN_EXE_pushplane")), &site.path("pushplane.toml"), arguments)
}

fn show_by(mut command: Command, config: &Path, arguments: &str) -> Output {
    command.arg("show").args(arguments.split_whitespace()).arg("--config").arg(config).output().unwrap()
}

#[track_caller]
fn told(Output { status, stdout, stderr }: Output) -> String {
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[track_caller]
fn shown(site: &Site, arguments: &str) -> Value {
    serde_json::from_str(&told(show(site, &format!("{arguments} --json")))).unwrap()
}

/// It has nobody to ask: status 2, one sentence that names the socket, and says this.
#[track_caller]
fn nobody(Output { status, stdout, stderr }: Output, socket: &Path, words: &str) {
    let errors = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.len(), errors.lines().count()), (Some(2), 0, 1), "{errors}");
    assert!(errors.starts_with(&format!("{}: ", socket.display())), "{errors}");
    assert!(errors.contains(words), "{errors}");
}

/// Starting is refused: one line of standard error that is no warning, which says this.
#[track_caller]
fn refused(site: &Site, words: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pushplane"));
    let Output { status, stdout, stderr } =
        command.arg("serve").arg("--config").arg(site.path("pushplane.toml")).output().unwrap();
    let errors = String::from_utf8(stderr).unwrap();
    let faults = errors.lines().filter(|line| !line.starts_with("warning")).count();
    assert_eq!((status.code(), stdout.len(), faults), (Some(2), 0, 1), "{errors}");
    assert!(errors.contains(words), "{errors}");
}

/// What the control socket answers: status and body.
fn http(socket: &Path, request: &str) -> (String, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

/// Waits for something that comes soon.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::start();
    let start = clock.now().mono_ns;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock.now().mono_ns - start < WAIT.as_nanos() as u64, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A user of users.csv, behind the segment.
const USERS: &str = "push_id,device,private\n00000000000000000000000000000008,1,127.64.0.9:2948\n";

#[test]
fn what_is_shown_is_what_metrics_say() {
    let site = Site::new(METRICS);
    site.write("tables/users.csv", USERS);
    let running = site.serve();
    let terminal = bind("127.64.0.2:0");
    registered(&terminal, site.at, &register(GUEST, &[]));
    for _ in 0..3 {
        assert_eq!(deliver(site.at, GUEST, &[&terminal]), Ok(0));
    }
    bind("127.0.0.1:0").send_to(b"nonsense", site.at).unwrap();
    let shown = eventually("everything is counted", || {
        let shown = shown(&site, "");
        (shown["shards"]["all"]["received"] == 5 && shown["shards"]["all"]["in_flight"] == 0).then_some(shown)
    });
    let page = running.metrics();

    let server = &shown["server"];
    assert_eq!((&server["name"], &server["state"]), (&"one".into(), &"ready".into()));
    assert_eq!(
        (&server["pid"], &server["version"]),
        (&running.child.id().into(), &env!("CARGO_PKG_VERSION").into())
    );
    assert_eq!(server["listen"], serde_json::json!([site.at.to_string()]));
    assert!(running.ready.trim_end().ends_with(server["metrics"].as_str().unwrap()), "{server}");
    assert_eq!(server["control"], site.path(SOCKET).display().to_string());
    assert!(server["uptime_s"].as_u64().unwrap() < 600);

    let tables = &shown["tables"];
    let digest = tables["digest"].as_str().unwrap();
    assert!(running.ready.contains(&format!("digest {digest}, ")), "{}", running.ready);
    assert!(page.contains(&format!("pushplane_table_info{{digest=\"{digest}\"}} 1")), "{page}");
    assert_eq!(tables["generation"], value(&page, "pushplane_table_generation"));
    assert_eq!(tables["image_bytes"], value(&page, "pushplane_table_bytes"));
    assert!(tables["bytes"].as_u64() > tables["image_bytes"].as_u64());
    assert_eq!(tables["generations_retired"], value(&page, "pushplane_table_generations_retired"));
    assert_eq!(tables["source"], site.path("tables").display().to_string());
    let rows = tables["tables"].as_array().unwrap();
    for row in rows.iter().filter(|row| !row["entries"].is_null()) {
        let name = format!("pushplane_table_entries{{table={}}}", row["table"]);
        assert_eq!(row["entries"], value(&page, &name), "{name}");
    }
    let entries: HashMap<_, _> =
        rows.iter().map(|row| (row["table"].as_str().unwrap(), row["entries"].as_u64())).collect();
    assert_eq!((entries["users"], entries["keys"], entries["live"]), (Some(1), Some(2), Some(1)));
    let image: u64 =
        rows.iter().filter(|row| row["table"] != "live").map(|row| row["bytes"].as_u64().unwrap()).sum();
    assert!(image < tables["image_bytes"].as_u64().unwrap(), "{rows:?}");
    let live = &tables["live"];
    assert_eq!((&live["bindings"], &live["bindings_max"]), (&1.into(), &(1 << 20).into()));
    assert_eq!(live["used"], value(&page, "pushplane_live_used"));
    assert_eq!(live["slots"], value(&page, "pushplane_live_size"));

    let memory = tables["memory"].as_array().unwrap();
    let what: Vec<_> = memory.iter().map(|memory| memory["what"].as_str().unwrap()).collect();
    assert_eq!(
        what,
        ["image", "overlay guides", "overlay cells", "live slots", "live users", "live addresses"]
    );
    for memory in memory {
        let [bytes, touched, huge] =
            ["bytes", "touched_bytes", "huge_bytes"].map(|name| memory[name].as_u64().unwrap());
        assert!(huge <= touched && touched <= bytes, "{memory}");
        let expected = match memory["set_apart"] == true {
            true => "huge pages (set apart)",
            false if touched == 0 => "no pages yet",
            false if huge == 0 => "small pages",
            false => "huge pages (transparent)",
        };
        assert!(memory["on"].as_str().unwrap().starts_with(expected), "{memory}");
        // A terminal is registered: something of each live table is there.
        assert!(touched > 0 || memory["what"] == "overlay cells", "{memory}");
    }
    assert_eq!(memory[0]["huge_bytes"], value(&page, "pushplane_table_huge_page_bytes"));
    assert!(running.ready.contains(&format!(" terminals on {},", memory[0]["on"].as_str().unwrap())));

    let shards = &shown["shards"];
    for (field, name) in [
        ("received", "pushplane_rx_datagrams_total"),
        ("sent", "pushplane_tx_datagrams_total"),
        ("delivered", "pushplane_delivered_total"),
        ("forwarded", "pushplane_forwarded_total"),
        ("answered", "pushplane_answered_total"),
        ("handed_on", "pushplane_punted_total"),
        ("in_flight", "pushplane_in_flight"),
        ("unaccounted", "pushplane_unaccounted"),
    ] {
        assert_eq!(shards["all"][field], value(&page, name), "{name}");
    }
    assert_eq!((&shards["all"]["delivered"], &shards["all"]["answered"]), (&3.into(), &1.into()));
    for (reason, count) in shards["dropped"].as_object().unwrap() {
        assert_eq!(count, value(&page, &format!("pushplane_dropped_total{{reason=\"{reason}\"}}")));
    }
    assert_eq!(shards["dropped"]["malformed"], 1);
    let each = shards["shards"].as_array().unwrap();
    assert_eq!(each.len(), 2);
    let sum: u64 = each.iter().map(|shard| shard["received"].as_u64().unwrap()).sum();
    assert_eq!(sum, 5);
    for thread in each.iter().chain([&shards["controller"], &shards["fanout"]]) {
        assert_eq!(thread["unaccounted"], 0, "{thread}");
    }
    assert!(each.iter().all(|shard| running.ready.contains(shard["io"].as_str().unwrap())), "{each:?}");
}

#[test]
fn people_read_it_and_each_part_can_be_had_alone() {
    let site = Site::new("");
    let running = site.serve();
    let all = told(show(&site, ""));
    let first =
        format!("one is ready, process {} of pushplane {}", running.child.id(), env!("CARGO_PKG_VERSION"));
    for words in [
        first.as_str(),
        "tables of generation 1, since 20",
        "  servers   ",
        "  live slots  ",
        "2 shards over ",
        "  shard 1  ",
    ] {
        assert!(all.lines().any(|line| line.starts_with(words)), "{words}\n{all}");
    }
    assert!(!all.contains("metrics"), "none is configured\n{all}");
    for part in ["server", "tables", "shards"] {
        let alone = told(show(&site, part));
        assert!(alone.lines().count() > 1 && alone.lines().count() < all.lines().count(), "{part}\n{alone}");
        assert!(all.contains(alone.lines().last().unwrap()), "{part}\n{alone}");
        let json = shown(&site, part);
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), [part]);
    }
    // By the socket alone, from another folder.
    let socket = site.path(SOCKET);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pushplane"));
    let output = command.args(["show", "server", "--control"]).arg(&socket).output().unwrap();
    assert!(told(output).starts_with(&first));
    // And what the page has, without one.
    assert_eq!(http(&socket, "GET /ready"), ("200".to_owned(), "ready\n".to_owned()));
    assert_eq!(value(&http(&socket, "GET /metrics").1, "pushplane_table_generation"), 1);
    for (request, status) in
        [("GET /show/all", "404"), ("GET /", "404"), ("POST /show", "405"), ("PUT /ready", "405")]
    {
        assert_eq!(http(&socket, request).0, status, "{request}");
    }
}

/// The page is everybody's who reaches it; what a server is asked by its operator is not there.
#[test]
fn the_page_shows_nothing_of_it() {
    let site = Site::new(METRICS);
    let running = site.serve();
    let at = running.ready.split("http://").nth(1).unwrap().trim().trim_end_matches("/metrics");
    let mut stream = std::net::TcpStream::connect(at).unwrap();
    write!(stream, "GET /show HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 404 "), "{text}");
}

#[test]
fn other_tables_are_another_generation_from_elsewhere() {
    let site = Site::new("");
    let running = site.serve();
    let before = shown(&site, "tables");
    std::fs::create_dir(site.path("more")).unwrap();
    for file in std::fs::read_dir(site.path("tables")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), site.path("more").join(file.file_name())).unwrap();
    }
    site.write("more/users.csv", USERS);
    let config = std::fs::read_to_string(site.path("pushplane.toml")).unwrap();
    site.write("pushplane.toml", &format!("{config}tables = \"more\"\n"));
    let status = Command::new("kill").arg("-HUP").arg(running.child.id().to_string()).status();
    assert!(status.unwrap().success());
    let after = eventually("another generation", || {
        let after = shown(&site, "tables");
        (after["tables"]["generation"] == 2).then_some(after)
    });
    let users = |shown: &Value| {
        let rows = shown["tables"]["tables"].as_array().unwrap();
        rows.iter().find(|row| row["table"] == "users").unwrap()["entries"].clone()
    };
    assert_eq!((users(&before), users(&after)), (0.into(), 1.into()));
    assert_ne!(before["tables"]["digest"], after["tables"]["digest"]);
    assert_eq!(after["tables"]["source"], site.path("more").display().to_string());
    assert_eq!(after["tables"]["memory"][0]["touched_bytes"], after["tables"]["image_bytes"]);
}

/// Tables of two sizes in turn, as fast as they can be replaced: what is shown is all of one of them, which is there.
#[test]
fn what_is_shown_is_of_one_generation() {
    let site = Site::new("");
    let (config, _) = Config::load_with_places(&site.path("pushplane.toml")).unwrap();
    let images = ["", "00000000000000000000000000000008,1,127.64.0.9:2948\n"].map(|row| {
        site.write("tables/users.csv", &format!("push_id,device,private\n{row}"));
        Image::build(&source::load(&site.path("tables")).unwrap().rib).unwrap()
    });
    let [none, one] = images.map(|image| (image.bytes().to_vec(), format!("{:032x}", image.digest())));
    let image = |generation: u64| if generation.is_multiple_of(2) { &one } else { &none };
    let first = Image::from_bytes(&image(1).0).unwrap();
    let mut server = Server::start(config, first, 1).unwrap();
    let socket = site.path(SOCKET);
    let asker = std::thread::spawn(move || {
        (0..300)
            .map(|_| serde_json::from_str(&http(&socket, "GET /show/tables").1).unwrap())
            .collect::<Vec<Value>>()
    });
    let mut generation = 1;
    while !asker.is_finished() {
        generation += 1;
        let next = Image::from_bytes(&image(generation).0).unwrap();
        assert_eq!(server.replace(next, Path::new(&generation.to_string())).unwrap(), generation);
    }
    let mut seen = std::collections::BTreeSet::new();
    for shown in asker.join().unwrap() {
        let tables = &shown["tables"];
        let generation = tables["generation"].as_u64().unwrap();
        let (bytes, digest) = image(generation);
        assert_eq!(
            (&tables["image_bytes"], &tables["digest"]),
            (&bytes.len().into(), &digest.as_str().into())
        );
        let image = &tables["memory"][0];
        assert_eq!((&image["bytes"], &image["touched_bytes"]), (&bytes.len().into(), &bytes.len().into()));
        if generation > 1 {
            assert!(tables["source"].as_str().unwrap().ends_with(&format!("/{generation}")), "{tables}");
        }
        seen.insert(generation);
    }
    assert!(seen.len() > 10, "{seen:?}");
}

#[test]
fn the_socket_goes_with_its_server_and_what_a_dead_one_left_is_replaced() {
    let site = Site::new("");
    let socket = site.path(SOCKET);
    nobody(show(&site, ""), &socket, "no server runs with this control socket");
    let mut running = site.serve();
    let file = socket.symlink_metadata().unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    running.terminate();
    assert!(socket.symlink_metadata().is_err());
    nobody(show(&site, ""), &socket, "no server runs with this control socket");

    let mut running = site.serve();
    running.kill();
    assert!(socket.symlink_metadata().is_ok(), "killed, it could not take it away");
    nobody(show(&site, ""), &socket, "the one before was killed");
    let mut running = site.serve();
    assert_eq!(shown(&site, "server")["server"]["pid"], running.child.id());
    running.terminate();
    assert!(socket.symlink_metadata().is_err());
}

#[test]
fn a_second_server_leaves_the_socket_of_the_first() {
    let site = Site::new("");
    let running = site.serve();
    let socket = site.path(SOCKET);
    let second = Site::new(&format!("control = \"{}\"\n", socket.display()));
    let words = format!(
        "the control socket {} is in use: expected none, or what a server before left",
        socket.display()
    );
    refused(&second, &words);
    let mut check = Command::new(env!("CARGO_BIN_EXE_pushplane"));
    let check = check.arg("check").arg("--config").arg(second.path("pushplane.toml")).output().unwrap();
    assert_eq!(check.status.code(), Some(0), "the server may be running");
    assert_eq!(shown(&site, "server")["server"]["pid"], running.child.id());
    let terminal = bind("127.64.0.2:0");
    registered(&terminal, site.at, &register(GUEST, &[]));
    assert_eq!(deliver(site.at, GUEST, &[&terminal]), Ok(0));
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let site = Site::new("");
    site.write(SOCKET, "a file of somebody's");
    let socket = site.path(SOCKET);
    refused(&site, &format!("control: the control socket {} cannot be made: ", socket.display()));
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "a file of somebody's");
    nobody(show(&site, ""), &socket, "found a file that is none");
}

/// As another user, or, without the right to become one, with a socket that its owner may not use either.
#[test]
fn who_may_not_ask_is_told() {
    let site = Site::new("");
    let _running = site.serve();
    let socket = site.path(SOCKET);
    let all = std::fs::Permissions::from_mode(0o755);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pushplane"));
    if rustix::process::geteuid().is_root() {
        // Where another user can run it.
        let program = site.path("pushplane");
        std::fs::copy(env!("CARGO_BIN_EXE_pushplane"), &program).unwrap();
        std::fs::set_permissions(&program, all.clone()).unwrap();
        std::fs::set_permissions(site.folder.path(), all).unwrap();
        command = Command::new(program);
        command.uid(65_534).gid(65_534);
    } else {
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    nobody(show_by(command, &site.path("pushplane.toml"), ""), &socket, "this user may not ask");
}

/// Whoever opens the socket and says nothing, or nonsense, or never ends, is in nobody's way.
#[test]
fn neither_nonsense_nor_silence_is_in_the_way() {
    let site = Site::new("");
    let mut running = site.serve();
    let socket = site.path(SOCKET);
    let terminal = bind("127.64.0.2:0");
    registered(&terminal, site.at, &register(GUEST, &[]));
    let said: [&[u8]; 6] = [
        b"",
        b"\0\xFF\xFE nonsense \r\n\r\n",
        b"GET /show HTTP/1.1\r\nHost: ",
        b"GET /show HTTP/9.9\r\n\r\n",
        b"POST /show HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{",
        &[b'x'; 1 << 16],
    ];
    // More than are served at once, kept open; some are cut off while they speak.
    let mut open = Vec::new();
    for said in said.iter().cycle().take(300) {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(said);
        open.push(stream);
    }
    assert_eq!(shown(&site, "")["server"]["state"], "ready");
    assert_eq!(deliver(site.at, GUEST, &[&terminal]), Ok(0));
    drop(open.drain(..150));
    assert_eq!(shown(&site, "")["server"]["state"], "ready");
    // SIGTERM waits for none of them.
    running.terminate();
    assert!(socket.symlink_metadata().is_err());
}
