//! `check`.

use std::fs;

use super::Folder;

const GOOD: &str = "[server]\nname = \"mobile-1\"\nlisten = [\"127.0.0.1:17400\"]\ntables = \"lab\"\n";

#[test]
fn what_serve_would_take_is_taken() {
    let folder = Folder::new();
    folder.write("good.toml", GOOD);
    let ran = folder.run("check --config good.toml");
    assert!(ran.ok().starts_with("ok mobile-1 on 127.0.0.1:17400: 3 servers, 4 gateways,"), "{}", ran.out);
    let json = folder.run("check --config good.toml --json").json();
    assert_eq!(
        (&json["ok"], &json["name"], &json["entries"]["users"]),
        (&true.into(), &"mobile-1".into(), &15.into())
    );
    folder.run("tables build lab -o lab.ppt").ok();
    folder.write("image.toml", &GOOD.replace("\"lab\"", "\"lab.ppt\""));
    assert_eq!(folder.run("check --config image.toml --json").json()["digest"], json["digest"]);
}

#[test]
fn a_port_in_use_is_no_fault() {
    let folder = Folder::new();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    folder.write("good.toml", &GOOD.replace("17400", &port.to_string()));
    folder.run("check --config good.toml").ok();
}

#[test]
fn what_serve_would_refuse_is_refused_with_its_place() {
    let folder = Folder::new();
    folder.write("file", "");
    folder.write("lab.ppt", "no image");
    let more = |line: &str| format!("{GOOD}{line}\n");
    for (text, words) in [
        (String::new(), "c.toml:1:1: expected a table [server]"),
        ("[server\n".to_owned(), "c.toml:1:8: not TOML"),
        (more("colour = 1"), "c.toml:5:1: unknown key"),
        (GOOD.replace("mobile-1", "mobile-9"), "c.toml:2:8: name: expected the name of a [[server]]"),
        (GOOD.replace("127.0.0.1", "203.0.113.77"), "c.toml:3:10: listen: expected an address of this host"),
        (GOOD.replace("\"lab\"", "\"absent\""), "absent:1:1: expected an image or a directory"),
        (GOOD.replace("\"lab\"", "\"lab.ppt\""), "lab.ppt:1:1: expected an image of at least 64 bytes"),
        (more("state = \"file/state\""), "c.toml:5:9: state: the state folder"),
        (more("control = \"file\""), "c.toml:5:11: control: the control socket"),
        (more("control = \"absent/control.sock\""), "c.toml:5:11: control: the control socket"),
        (more(&format!("control = \"{}\"", "x".repeat(108))), "c.toml:5:11: control: the control socket"),
        (more("shards = [4000]"), "c.toml:5:10: shards: CPU 4000 may not be used"),
        (more("metrics = \"203.0.113.77:1\""), "c.toml:5:11: metrics: expected an address of this host"),
    ] {
        folder.write("c.toml", &text);
        folder.run("check --config c.toml").wrong(words);
    }
    folder
        .run("check --config absent.toml")
        .wrong("absent.toml:1:1: expected a configuration file, found none");
}

#[test]
fn faults_of_the_host_and_of_the_tables_are_told_together() {
    let folder = Folder::new();
    folder.write("c.toml", &format!("{}shards = [4000]\n", GOOD.replace("127.0.0.1", "203.0.113.77")));
    fs::write(folder.path("lab/names.csv"), "name,push_id\nx,y\n").unwrap();
    let ran = folder.run("check --config c.toml");
    ran.wrong("c.toml:3:10: listen:");
    ran.wrong("c.toml:5:10: shards:");
    ran.wrong("lab/names.csv:2:3: ");
}
