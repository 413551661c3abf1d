//! `tables …`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::{Folder, golden};

#[test]
fn sources_become_an_image_that_is_the_same() {
    let folder = Folder::new();
    let made = folder.run("tables generate op --users 2000 --seed 7 --json").json();
    assert_eq!((&made["users"], &made["servers"], &made["apps"]), (&2000.into(), &16.into(), &20.into()));
    let checked = folder.run("tables check op --json");
    assert_eq!(checked.err, "");
    let checked = checked.json();
    assert_eq!((&checked["ok"], &checked["entries"]["users"]), (&true.into(), &made["terminals"]));
    let built = folder.run("tables build op -o op.ppt --json").json();
    assert_eq!(built["image_bytes"].as_u64(), Some(fs::metadata(folder.path("op.ppt")).unwrap().len()));
    assert_eq!(fs::metadata(folder.path("op.ppt")).unwrap().permissions().mode() & 0o777, 0o600);
    let again = folder.run("tables check op.ppt --json").json();
    assert_eq!((&again["digest"], &again["entries"]), (&checked["digest"], &checked["entries"]));
    let shown = folder.run("tables show op.ppt --json").json();
    assert_eq!((&shown["digest"], &shown["entries"]), (&checked["digest"], &checked["entries"]));
    assert_eq!(shown["servers"].as_array().map(Vec::len), Some(16));
    assert_eq!(shown["pages"]["bytes"], shown["image_bytes"], "{shown}");

    assert_eq!(folder.run("tables diff op op.ppt").ok(), "the same tables\n");
    let same = folder.run("tables diff op.ppt op --json");
    same.ok();
    assert_eq!(same.json()["same"], true);

    // The same seed makes the same files, another one other files.
    folder.run("tables generate twin --users 2000 --seed 7").ok();
    folder.run("tables diff op.ppt twin").ok();
    folder.run("tables generate other --users 2000 --seed 8").ok();
    folder.run("tables diff op.ppt other").no();
}

#[test]
fn a_row_that_changes_is_told() {
    let folder = Folder::new();
    folder.run("tables build lab -o before.ppt").ok();
    let edit = |file: &str, from: &str, to: &str| {
        let text = folder.read(file);
        assert!(text.contains(from), "{file} has {from}");
        folder.write(file, &text.replacen(from, to, 1));
    };
    edit("lab/servers.toml", "127.0.0.2:17400", "127.0.0.22:17400");
    edit("lab/gateways.toml", "teid = 0x1001", "teid = 7");
    edit("lab/segments.csv", "0,127.19.0.0/16,ggsn-none", "0,127.19.0.0/16,ggsn-plain");
    edit("lab/segments.csv", "1,127.17.0.0/16,ggsn-vxlan\n", "");
    edit("lab/apps.toml", "rate = 5", "rate = 6");
    edit("lab/users.csv", "127.16.0.10:2948", "127.16.0.11:2948");
    edit("lab/names.csv", "leo,1", "leon,1");
    edit("lab/groups.csv", "f002,00000000000000000000000000000005", "f002,00000000000000000000000000000006");
    edit("lab/keys.toml", "101112131415161718191a1b1c1d1e1f", "00000000000000000000000000000000");
    let told = folder.run("tables diff before.ppt lab");
    golden("diff.txt", told.no());
    let json = folder.run("tables diff before.ppt lab --json").json();
    assert_eq!((&json["same"], &json["changed"]), (&false.into(), &6.into()));
    assert_eq!((&json["added"], &json["removed"]), (&2.into(), &3.into()));
    let tables = json["tables"].as_array().unwrap();
    let users = tables.iter().find(|table| table["table"] == "users").unwrap();
    assert_eq!(users["changes"][0]["to"], serde_json::json!({"private": "127.16.0.11:2948"}));
    let keys = tables.iter().find(|table| table["table"] == "keys").unwrap();
    assert_eq!(keys["changes"][0]["to"], serde_json::json!({"value": "another"}));

    let cut = folder.run("tables diff before.ppt lab --limit 0");
    assert!(cut.no().contains("segments: 0 added, 1 removed, 1 changed (7 rows, then 6)\n  and 2 more"));
}

#[test]
fn the_order_of_rows_is_no_difference() {
    let folder = Folder::new();
    folder.run("tables build lab -o before.ppt").ok();
    let turned = |file: &str, separator: &str| {
        let text = folder.read(file);
        let mut blocks: Vec<&str> = text.split(separator).collect();
        blocks[1..].reverse();
        folder.write(file, &blocks.join(separator).replace("16,ggsn-", "16, ggsn-"));
    };
    turned("lab/gateways.toml", "[[gateway]]");
    turned("lab/apps.toml", "[[app]]");
    let users = folder.read("lab/users.csv");
    let (head, rows) = users.split_once("valid_until\n").unwrap();
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.reverse();
    folder.write("lab/users.csv", &format!("{head}valid_until\n{}\n", rows.join("\n")));
    folder.run("tables diff before.ppt lab").ok();
}

#[test]
fn every_table_is_shown_as_csv_and_as_json() {
    let folder = Folder::new();
    folder.run("tables build lab -o lab.ppt").ok();
    let mut shown = folder.run("tables show lab.ppt").ok().to_owned();
    for table in ["servers", "gateways", "segments", "apps", "users", "names", "groups", "keys"] {
        let text = folder.run(&format!("tables show lab.ppt {table}"));
        shown += &format!("\n# {table}\n{}", text.ok());
        let of_dir = folder.run(&format!("tables show lab {table}.csv"));
        assert_eq!(of_dir.ok(), text.ok());
        let json = folder.run(&format!("tables show lab.ppt {table} --json"));
        let rows: Vec<Value> = json.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let columns: Vec<&str> = text.out.lines().next().unwrap().split(',').collect();
        assert_eq!(rows.len(), text.out.lines().count() - 1);
        for row in &rows {
            assert_eq!(row.as_object().unwrap().len(), columns.len());
            assert!(columns.iter().all(|column| row.get(*column).is_some()), "{row}");
        }
    }
    golden("show.txt", &shown);
    // The users' file can be read back.
    folder.write("lab/users.csv", folder.run("tables show lab.ppt users").ok());
    folder.run("tables diff lab lab.ppt").ok();
}

#[test]
fn keys_are_shown_by_nobody() {
    let folder = Folder::new();
    folder.run("tables build lab -o lab.ppt").ok();
    folder.write("lab/keys.toml", &folder.read("lab/keys.toml").replace("202122", "ffffff"));
    for arguments in [
        "tables show lab.ppt keys",
        "tables show lab.ppt keys --json",
        "tables diff lab lab.ppt",
        "tables diff lab lab.ppt --json",
        "tables check lab --json",
        "tables size lab --json",
    ] {
        let ran = folder.run(arguments);
        assert!(ran.status < 2);
        for secret in ["0001020304", "1011121314", "2324252627", "0, 1, 2, 3", "[16,17,18"] {
            assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{arguments}\n{}", ran.out);
        }
    }
}

#[test]
fn size_says_what_tables_take() {
    let folder = Folder::new();
    folder.run("tables generate op --users 2000").ok();
    let built = folder.run("tables build op -o op.ppt --json").json();
    let size = folder.run("tables size op --json").json();
    assert_eq!(size["image_bytes"], built["image_bytes"]);
    let of = |field: &str| size[field].as_u64().unwrap();
    let tables: u64 =
        size["tables"].as_array().unwrap().iter().map(|row| row["bytes"].as_u64().unwrap()).sum();
    assert!(tables <= of("image_bytes") && of("image_bytes") < tables + 1024, "{size}");
    assert!(of("serving_bytes") > of("image_bytes") && of("swap_bytes") == 2 * of("serving_bytes"));
    // What the README promises.
    assert_eq!(of("cache_lines_a_lookup"), 1);
    for table in ["users", "owners"] {
        let load = size[table]["load_factor"].as_f64().unwrap();
        assert!((0.98..=1.0).contains(&load), "{table}: {size}");
    }
    let bytes_a_user = size["bytes_a_user"].as_f64().unwrap();
    assert!((68.0..76.0).contains(&bytes_a_user), "{size}");
    assert!(of("near_bytes") * 10 < 4 * size["users"]["entries"].as_u64().unwrap(), "{size}");
    let text = folder.run("tables size op.ppt");
    for words in
        ["bytes a terminal", "in a server that serves them", "% full", "bytes a user", "cache line of memory"]
    {
        assert!(text.ok().contains(words), "{}", text.out);
    }
}

#[test]
fn a_directory_that_holds_something_is_not_overwritten() {
    let folder = Folder::new();
    let before = folder.read("lab/servers.toml");
    folder.run("tables generate lab --users 10").wrong("lab:1:1: expected an empty or a new directory");
    let capture = format!("{}/tests/captures/live-osmo-ggsn-sgsnemu-push.pcap", super::ROOT);
    folder.run(&format!("tables learn {capture} -o lab")).wrong("add --force");
    assert_eq!(folder.read("lab/servers.toml"), before);
    folder.run("tables generate lab/servers.toml --users 10").wrong("lab/servers.toml:1:1: ");
    folder.run("tables generate lab --users 10 --force").ok();
    assert_ne!(folder.read("lab/servers.toml"), before);
    folder.run("tables check lab").ok();
    folder.run(&format!("tables learn {capture} -o lab --force")).ok();
    folder.run("tables check lab").ok();
}

/// Each thing that can be wrong with tables, and where it is said to be.
#[test]
fn what_is_wrong_is_told_with_its_place() {
    let faults: [(&str, &str, &str); 12] = [
        ("servers.toml", "[[server]]\nname = \"a\"\n", "lab/servers.toml:1:"),
        ("servers.toml", "[[server]\n", "lab/servers.toml:1:"),
        (
            "gateways.toml",
            "[[gateway]]\nname = \"g\"\naddress = \"10.0.0.1\"\ntunnel = \"mpls\"\n",
            "lab/gateways.toml:4:10: ",
        ),
        ("gateways.toml", "colour = 1\n", "lab/gateways.toml:1:1: "),
        ("segments.csv", "realm,prefix,gateway\n0,10.0.0.1/8,ggsn-vxlan\n", "lab/segments.csv:2:3: "),
        ("segments.csv", "realm,prefix,gateway\n0,10.0.0.0/8,nobody\n", "lab/segments.csv:2:14: "),
        ("apps.toml", "[[app]]\nid = 7\n[[app]]\nid = 7\n", "lab/apps.toml:4:6: "),
        ("users.csv", "push_id,colour\n", "lab/users.csv:1:9: "),
        ("users.csv", "push_id\n12\n", "lab/users.csv:2:1: "),
        ("names.csv", "name,push_id\nx,f0000000000000000000000000000001\n", "lab/names.csv:2:3: "),
        ("groups.csv", "group\n00000000000000000000000000000001\n", "lab/groups.csv:1:"),
        ("keys.toml", "[[key]]\nid = 1\nvalue = \"1\"\n", "lab/keys.toml:3:9: "),
    ];
    for (file, text, place) in faults {
        let folder = Folder::new();
        folder.write(&format!("lab/{file}"), text);
        for command in ["check lab", "build lab -o x.ppt", "size lab", "show lab", "diff lab lab"] {
            let ran = folder.run(&format!("tables {command}"));
            ran.wrong(place);
            assert!(ran.err.lines().all(|line| line.starts_with("lab/")), "{}", ran.err);
        }
        assert!(!folder.path("x.ppt").exists(), "an image of wrong tables");
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let folder = Folder::new();
    folder.write("lab/segments.csv", "realm,prefix,gateway\n0,x,ggsn-vxlan\nmany,10.0.0.0/8,nobody\n");
    folder.write("lab/names.csv", "name,push_id\nx,y\n");
    fs::set_permissions(folder.path("lab/keys.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    let ran = folder.run("tables check lab");
    for place in [
        "lab/segments.csv:2:3: ",
        "lab/segments.csv:3:1: ",
        "lab/segments.csv:3:17: ",
        "lab/names.csv:2:3: ",
        "lab/keys.toml:1:1: ",
    ] {
        ran.wrong(place);
    }
    ran.wrong("run chmod 600 lab/keys.toml");
}

#[test]
fn what_is_no_table_is_refused() {
    let folder = Folder::new();
    folder.run("tables build lab -o lab.ppt").ok();
    let image = fs::read(folder.path("lab.ppt")).unwrap();
    let mut damaged = image.clone();
    damaged[image.len() / 2] ^= 1;
    fs::write(folder.path("damaged.ppt"), &damaged).unwrap();
    fs::write(folder.path("short.ppt"), &image[..image.len() - 8]).unwrap();
    let mut newer = image;
    newer[8] = 9;
    fs::write(folder.path("newer.ppt"), &newer).unwrap();
    folder.write("empty.ppt", "");
    folder.write("text.ppt", &"some text that is no image at all\n".repeat(10));
    fs::create_dir(folder.path("empty")).unwrap();
    for (file, words) in [
        ("damaged.ppt", "the image's checksum is wrong: it is damaged"),
        ("short.ppt", "shorter or longer than its header says"),
        (
            "newer.ppt",
            "the image has format 9, this build reads 3; build it again from its sources with `pushplane tables build`",
        ),
        ("empty.ppt", "expected an image of at least 64 bytes, found 0"),
        ("text.ppt", "this is no pushplane image"),
        ("absent.ppt", "expected an image or a directory of table sources, found none"),
    ] {
        for command in ["check", "size", "show", "diff lab"] {
            folder.run(&format!("tables {command} {file}")).wrong(&format!("{file}:1:1: "));
            folder.run(&format!("tables {command} {file}")).wrong(words);
        }
    }
    folder.run("tables build lab.ppt -o x.ppt").wrong("lab.ppt:1:1: expected a directory of table sources");
    folder.run("tables build absent -o x.ppt").wrong("absent:1:1: expected a directory of table sources");
    folder.run("tables build lab -o nowhere/x.ppt").wrong("nowhere/x.ppt:1:1: the image cannot be written");
    folder.run("tables build lab -o empty").wrong("empty:1:1: the image cannot be written");
    // No file at all is no fault: every table is empty.
    assert!(folder.run("tables check empty").ok().contains("0 servers, 0 gateways"));
}

#[test]
fn warnings_are_told_and_do_not_refuse() {
    let folder = Folder::new();
    folder.write("lab/Servers.toml", "");
    let ran = folder.run("tables check lab");
    ran.ok();
    assert!(
        ran.err.starts_with("warning: lab/Servers.toml:1:1: nobody reads a file of this name"),
        "{}",
        ran.err
    );
}
