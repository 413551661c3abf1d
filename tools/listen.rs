//! `pushplane listen`: a Push client.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::{self, HeadBuilder, Kind, Message, flag};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Stop;
use crate::client::{self, GivenKey};

/// Show the messages pushed to a user, and answer those that want a receipt.
///
/// Prints each payload on a line of its own. The terminal is the one that users.csv names: listen on
/// its private address and port.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pushplane listen --server 127.0.0.1:17400 \
    --id 00000000000000000000000000000004 --bind 127.19.0.10 --port 2948")]
pub(crate) struct Args {
    /// The Push server, which gets the receipts.
    #[arg(long, value_name = "ADDRESS")]
    server: Endpoint,
    /// The user's Push ID.
    #[arg(long, value_name = "ID")]
    id: PushId,
    /// The port to listen on; one of the system's choice without it.
    #[arg(long, value_name = "P", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// The address to listen on; all of this host without it.
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// Take only messages signed with this key, and sign with it.
    #[arg(long, value_name = "ID=HEX")]
    key: Option<GivenKey>,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print each message as a line of JSON.
    #[arg(long)]
    json: bool,
}

/// How long a receive waits before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let wrong = |error: std::io::Error| Stop::Wrong(format!("the socket cannot be used: {error}"));
    let socket = client::socket(args.server, args.bind, args.port)?;
    socket.set_read_timeout(Some(LOOK)).map_err(wrong)?;
    let end = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&end)).map_err(wrong)?;
    }
    eprintln!("{} listens on {}", args.id, socket.local_addr().map_err(wrong)?);
    let mut buffer = vec![0; 1 << 16];
    let mut shown = 0;
    while !end.load(Ordering::Relaxed) && args.count != Some(shown) {
        let bytes = match socket.recv_from(&mut buffer) {
            Ok((length, _)) => &buffer[..length],
            Err(error) if client::is_silence(&error) => continue,
            Err(error) => return Err(wrong(error)),
        };
        let Ok(message) = prp::parse(bytes) else {
            eprintln!("a datagram of {} bytes that is no message was dropped", bytes.len());
            continue;
        };
        if message.kind != Kind::Push || message.header.destination != args.id {
            eprintln!("{} for {} was dropped: not for us", message.kind.name(), message.header.destination);
            continue;
        }
        if !client::is_believed(&message, bytes, args.key.as_ref()) {
            eprintln!("a message of {} was dropped: not signed with our key", message.header.source);
            continue;
        }
        show(args, &message, message.payload(bytes));
        shown += 1;
        if message.has(flag::RECEIPT) {
            let mut head = HeadBuilder::new(&message.header.answer(Kind::Receipt));
            let receipt = client::datagram(&mut head, &[], args.key.as_ref())?;
            if let Err(error) = socket.send_to(&receipt, SocketAddr::from(args.server)) {
                eprintln!("the receipt could not be sent: {error}");
            }
        }
    }
    Ok(())
}

fn show(args: &Args, message: &Message, payload: &[u8]) {
    if args.json {
        let header = &message.header;
        crate::say(&json!({
            "app": header.app,
            "source": header.source.to_string(),
            "message": format!("{:016x}", header.message),
            "flags": header.flags,
            "payload": String::from_utf8_lossy(payload),
            "payload_hex": payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        }));
        return;
    }
    let mut out = std::io::stdout().lock();
    if std::io::IsTerminal::is_terminal(&out) {
        // Whoever may push must not steer the terminal of who reads.
        let _ = writeln!(out, "{}", crate::common::harmless(&String::from_utf8_lossy(payload)));
        return;
    }
    // The payload as it is: a script may want its bytes.
    let _ = out.write_all(payload).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}
