//! `pushplane listen`: a Push client.

mod registration;

use std::collections::VecDeque;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pushplane::clock::Clock;
use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::{self, HeadBuilder, Kind, Message, flag};
use registration::{Registration, Wish};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Stop;
use crate::client::{self, GivenKey};

/// Be a Push client: register, show the messages pushed to a user, answer those that want a receipt.
///
/// Prints each payload on a line of its own, a message that comes twice once. Registers with the address that
/// the server sees, renews that at half of its validity, releases it at the end. Where the server takes no
/// registration, the terminal is the one that users.csv names: listen on its private address and port.
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
    /// Which of the user's terminals this is.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    device: u8,
    /// The private address space that this host's address belongs to.
    #[arg(long, value_name = "N", default_value_t = 0)]
    realm: u32,
    /// For how long to register at a time, in seconds; as long as the server likes without it.
    #[arg(long, value_name = "S")]
    validity: Option<u32>,
    /// Do not register: show what users.csv sends here.
    #[arg(long)]
    no_register: bool,
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

/// How long the answer to a RELEASE is waited for, and how often it is asked for meanwhile.
const RELEASE_NS: u64 = 1_500_000_000;
const RELEASE_LOOKS: u32 = 3;

/// Messages remembered, so that one that comes again is not shown again.
const SHOWN: usize = 256;

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let wrong = |error: std::io::Error| Stop::Wrong(format!("the socket cannot be used: {error}"));
    let socket = client::socket(args.server, args.bind, args.port)?;
    socket.set_read_timeout(Some(LOOK)).map_err(wrong)?;
    let end = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&end)).map_err(wrong)?;
    }
    eprintln!("{} listens on {}", args.id, socket.local_addr().map_err(wrong)?);
    let clock = Clock::start();
    let wish = Wish {
        user: args.id,
        device: args.device,
        realm: args.realm,
        validity_s: args.validity,
        key: args.key.as_ref(),
    };
    let mut registration = (!args.no_register).then(|| Registration::new(wish));
    let mut buffer = vec![0; 1 << 16];
    let mut shown = 0;
    let mut recent = VecDeque::with_capacity(SHOWN);
    while !end.load(Ordering::Relaxed) && args.count != Some(shown) {
        if let Some(registration) = &mut registration
            && let Some(request) = registration.poll(clock.now())?
        {
            tell(&socket, args, &request);
            if registration.is_unheard() {
                eprintln!(
                    "{} does not answer the registration; asking on: does a server listen there?",
                    args.server
                );
            }
        }
        let bytes = match socket.recv_from(&mut buffer) {
            Ok((length, _)) => &buffer[..length],
            Err(error) if client::is_silence(&error) => continue,
            Err(error) => return Err(wrong(error)),
        };
        let Ok(message) = prp::parse(bytes) else {
            eprintln!("a datagram of {} bytes that is no message was dropped", bytes.len());
            continue;
        };
        if let Some(registration) = &mut registration
            && let Some(note) = registration.take(&message, bytes, clock.now())
        {
            eprintln!("{note}");
            continue;
        }
        if message.kind != Kind::Push || message.header.destination != args.id {
            eprintln!("{} for {} was dropped: not for us", message.kind.name(), message.header.destination);
            continue;
        }
        if !client::is_believed(&message, bytes, args.key.as_ref()) {
            eprintln!("a message of {} was dropped: not signed with our key", message.header.source);
            continue;
        }
        let name = (message.header.source, message.header.message);
        if !recent.contains(&name) {
            recent.truncate(SHOWN - 1);
            recent.push_front(name);
            show(args, &message, message.payload(bytes));
            shown += 1;
        }
        if message.has(flag::RECEIPT) {
            let mut head = HeadBuilder::new(&message.header.answer(Kind::Receipt));
            let receipt = client::datagram(&mut head, &[], args.key.as_ref())?;
            tell(&socket, args, &receipt);
        }
    }
    match registration {
        Some(registration) => release(&socket, args, registration, &clock),
        None => Ok(()),
    }
}

fn tell(socket: &UdpSocket, args: &Args, datagram: &[u8]) {
    if let Err(error) = socket.send_to(datagram, SocketAddr::from(args.server)) {
        eprintln!("{} cannot be sent to: {error}", args.server);
    }
}

/// Gives the binding back, so that nothing is sent here any more.
fn release(
    socket: &UdpSocket,
    args: &Args,
    mut registration: Registration<'_>,
    clock: &Clock,
) -> Result<(), Stop> {
    let mut buffer = vec![0; 1 << 16];
    let until = clock.now().mono_ns + RELEASE_NS;
    let mut looks = 0;
    loop {
        let now = clock.now();
        if now.mono_ns > until {
            eprintln!("nobody answered the release; the binding ends with its validity");
            return Ok(());
        }
        if looks % RELEASE_LOOKS == 0 {
            let Some(request) = registration.release()? else { return Ok(()) };
            tell(socket, args, &request);
        }
        looks += 1;
        let Ok((length, _)) = socket.recv_from(&mut buffer) else { continue };
        let bytes = &buffer[..length];
        let note = prp::parse(bytes).ok().and_then(|message| registration.take(&message, bytes, now));
        if let Some(note) = note.filter(|_| registration.is_answered()) {
            eprintln!("{note}");
            return Ok(());
        }
    }
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
