//! Push clients behind real NATs: nftables and connection tracking in network namespaces, of each kind of
//! mapping and filtering (RFC 4787) that these can make; `serve`, `listen` and `send` as processes.

mod clients;
mod internet;
mod introduce;
#[path = "../common/listener.rs"]
mod listener;
#[path = "../common/netns.rs"]
mod netns;
mod rebind;

use clients::User;
use internet::Internet;
use netns::{Server, skip, write_files};

/// Of the first server, with keys of their own.
const ALICE: User =
    User { id: "0000000000000000000000000000a11c", key: "1=000102030405060708090a0b0c0d0e0f" };
const BOB: User = User { id: "00000000000000000000000000000b0b", key: "2=101112131415161718191a1b1c1d1e1f" };
/// Of the second, at a public address.
const CAROL: &str = "1000000000000000000000000000ca01";
const CAROL_AT: &str = "192.0.2.9:5000";

const FILES: &[(&str, &str)] = &[
    (
        "pushplane.toml",
        "[server]\nname = \"mobile-1\"\nlisten = [\"192.0.2.1:17400\"]\ntables = \"tables\"\nstate = \"state\"\n\
         shards = 1\nmetrics = \"127.0.0.1:9400\"\n[policy]\nregister = \"signed\"\n",
    ),
    (
        "second.toml",
        "[server]\nname = \"mobile-2\"\nlisten = [\"192.0.2.2:17400\"]\ntables = \"tables\"\nstate = \"state-2\"\n\
         control = \"second.sock\"\nshards = 1\n",
    ),
    (
        "tables/servers.toml",
        "[[server]]\nname = \"mobile-1\"\nprefix = \"0000\"\naddress = \"192.0.2.1:17400\"\n\
         [[server]]\nname = \"mobile-2\"\nprefix = \"0001\"\naddress = \"192.0.2.2:17400\"\n",
    ),
    ("tables/apps.toml", "[[app]]\nid = 7\nname = \"mail\"\n"),
    (
        "tables/keys.toml",
        "[[key]]\nid = 1\nvalue = \"000102030405060708090a0b0c0d0e0f\"\nuser = \"0000000000000000000000000000a11c\"\n\
         [[key]]\nid = 2\nvalue = \"101112131415161718191a1b1c1d1e1f\"\nuser = \"00000000000000000000000000000b0b\"\n",
    ),
    ("tables/users.csv", "push_id,device,nat\n1000000000000000000000000000ca01,1,192.0.2.9:5000\n"),
];

/// The network with its servers; `None` where that cannot be.
fn internet(what: &str) -> Option<(Internet, Server)> {
    let internet = match Internet::new() {
        Ok(internet) => internet,
        Err(why) => {
            skip(what, &why);
            return None;
        }
    };
    write_files(&internet.net, FILES);
    let keys = internet.net.folder.path().join("tables/keys.toml");
    std::fs::set_permissions(keys, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = Server::start(&internet.net, "core");
    Some((internet, server))
}
