//! `pushplane send`: push one message.

mod direct;
mod group;

use std::io::Read;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use pushplane::clock::Clock;
use pushplane::id::{Endpoint, PushId};
use pushplane::reason::Reason;
use pushplane::wire::prp::{HeadBuilder, Header, Kind, Message, flag};
use serde_json::json;

use crate::Stop;
use crate::client::{self, Asked, GivenKey};

/// Push one message and print the receipt or the rejection.
///
/// With --introduce the message goes straight to the terminal where that can be: the server introduces the two
/// to each other, both open their NATs, and the message passes no server. Where that does not succeed within a
/// few seconds, it goes through the server, once more; the terminal shows it once. A receipt is asked for
/// either way, and says which it was.
///
/// Exit status 0: sent and, with --receipt, received; 1: rejected, or no receipt within 5 s.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pushplane send --server 127.0.0.1:17400 \
    --to 00000000000000000000000000000001 --app 7 --receipt \"You have mail\"\n  \
    pushplane send --server 127.0.0.1:17400 --from 00000000000000000000000000000002 \
    --to 00000000000000000000000000000001 --app 7 --introduce \"straight to you\"")]
pub(crate) struct Args {
    /// The Push server.
    #[arg(long, value_name = "ADDRESS")]
    server: Endpoint,
    /// The user's Push ID.
    #[arg(long, value_name = "ID")]
    to: PushId,
    /// The application identifier.
    #[arg(long, value_name = "N")]
    app: u32,
    /// The sender's own Push ID.
    #[arg(
        long,
        value_name = "ID",
        default_value = "00000000000000000000000000000000",
        hide_default_value = true
    )]
    from: PushId,
    /// Ask for a receipt and wait 5 s for it.
    #[arg(long)]
    receipt: bool,
    /// Push directly, as the client that --from names, once the server has introduced it.
    #[arg(long)]
    introduce: bool,
    /// Tell a peer of this realm behind the same NAT this host's own address too.
    #[arg(long, requires = "introduce")]
    private: bool,
    /// The private address space that this host's address belongs to.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "private")]
    realm: u32,
    /// --to is a group: a copy for each of its members but --from; with --receipt every answer is shown.
    #[arg(long, conflicts_with = "introduce")]
    group: bool,
    /// One of the user's terminals; all of them without it.
    #[arg(long, value_name = "1-255")]
    device: Option<u8>,
    /// Worthless after so many milliseconds.
    #[arg(long, value_name = "MS")]
    deadline: Option<u64>,
    /// Media type of the payload.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Sign with this key.
    #[arg(long, value_name = "ID=HEX")]
    key: Option<GivenKey>,
    /// Send from this address.
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The payload; "-" reads it from standard input.
    #[arg(default_value = "", hide_default_value = true)]
    payload: String,
}

/// How long a receipt is waited for.
const RECEIPT: Duration = Duration::from_secs(5);

/// How long a rejection is waited for when no receipt was asked for: silence is good news then.
const REJECTION: Duration = Duration::from_millis(300);

/// What came back.
enum Answer {
    Receipt { from: PushId, payload: Vec<u8> },
    Reject { code: u16, text: String },
    Nothing,
}

/// Which way the answer, or the silence, took.
enum Way {
    /// The server's, as asked.
    Server,
    /// Straight from there.
    Direct(Endpoint),
    /// The server's, because there was no other.
    NoOther(String),
}

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    if args.introduce && args.from.is_none() {
        return Err(Stop::Wrong(
            "--introduce: expected --from, who is to be introduced, found none".to_owned(),
        ));
    }
    let clock = Clock::start();
    let payload = payload(&args.payload)?;
    let message = crate::chance();
    let socket = client::socket(args.server, args.bind, 0)?;
    let start = clock.now().mono_ns;
    if args.group {
        return group::push(&socket, args, &clock, message, &payload);
    }
    let (answer, way) = if args.introduce {
        // No key: the peer shares none with us.
        let datagram = datagram(args, message, &payload, &clock, None)?;
        match direct::push(&socket, args, &clock, message, &datagram)? {
            direct::Outcome::Receipt { at, payload } => {
                (Answer::Receipt { from: args.to, payload }, Way::Direct(at))
            }
            direct::Outcome::NoWay(why) => {
                (through_server(&socket, args, &clock, message, &payload)?, Way::NoOther(why))
            }
        }
    } else {
        (through_server(&socket, args, &clock, message, &payload)?, Way::Server)
    };
    let elapsed_us = (clock.now().mono_ns - start) / 1000;
    print(args, message, &answer, &way, elapsed_us);
    match answer {
        Answer::Reject { .. } => Err(Stop::No),
        Answer::Nothing if args.wants_receipt() => Err(Stop::No),
        Answer::Receipt { .. } | Answer::Nothing => Ok(()),
    }
}

impl Args {
    const fn wants_receipt(&self) -> bool {
        self.receipt || self.introduce
    }
}

/// The PUSH.
fn datagram(
    args: &Args,
    message: u64,
    payload: &[u8],
    clock: &Clock,
    key: Option<&GivenKey>,
) -> Result<Vec<u8>, Stop> {
    let receipt = if args.wants_receipt() { flag::RECEIPT } else { 0 };
    let flags = receipt | if args.group { flag::GROUP } else { 0 };
    let header = Header { app: args.app, flags, ..Header::new(Kind::Push, args.to, args.from, message) };
    let mut head = HeadBuilder::new(&header);
    if let Some(device) = args.device {
        head.device(device);
    }
    if let Some(after) = args.deadline {
        head.deadline(clock.now().unix_ms.saturating_add(after));
    }
    if let Some(media_type) = &args.content_type {
        head.content_type(media_type);
    }
    client::datagram(&mut head, payload, key)
}

fn through_server(
    socket: &UdpSocket,
    args: &Args,
    clock: &Clock,
    message: u64,
    payload: &[u8],
) -> Result<Answer, Stop> {
    let asked = ask(socket, args, clock, message, payload)?;
    let wait = if args.wants_receipt() { RECEIPT } else { REJECTION };
    let until = clock.now().mono_ns + wait.as_nanos() as u64;
    while let Some((message, bytes)) = asked.answer(socket, clock, until)? {
        if let Some(answer) = read(&message, &bytes) {
            return Ok(answer);
        }
    }
    Ok(Answer::Nothing)
}

fn ask<'a>(
    socket: &UdpSocket,
    args: &'a Args,
    clock: &Clock,
    message: u64,
    payload: &[u8],
) -> Result<Asked<'a>, Stop> {
    let key = args.key.as_ref();
    let asked = Asked { server: args.server, by: args.from, message, key };
    asked.send(socket, &datagram(args, message, payload, clock, key)?)?;
    Ok(asked)
}

fn payload(argument: &str) -> Result<Vec<u8>, Stop> {
    if argument != "-" {
        return Ok(argument.as_bytes().to_vec());
    }
    let mut payload = Vec::new();
    std::io::stdin()
        .take(1 << 16)
        .read_to_end(&mut payload)
        .map_err(|error| Stop::Wrong(format!("standard input cannot be read: {error}")))?;
    Ok(payload)
}

/// What an answer says.
fn read(message: &Message, bytes: &[u8]) -> Option<Answer> {
    match message.kind {
        Kind::Receipt => {
            let payload = message.payload(bytes).to_vec();
            Some(Answer::Receipt { from: message.header.source, payload })
        }
        Kind::Reject => {
            let (code, text) = message.options.reason(bytes).unwrap_or_default();
            Some(Answer::Reject { code, text: text.to_owned() })
        }
        _ => None,
    }
}

fn print(args: &Args, message: u64, answer: &Answer, way: &Way, elapsed_us: u64) {
    if args.json {
        return print_json(message, answer, way, elapsed_us);
    }
    let way = match way {
        Way::Server => String::new(),
        Way::Direct(at) => format!(", directly from {at}"),
        Way::NoOther(why) => format!(", through the server ({why})"),
    };
    let elapsed_ms = elapsed_us as f64 / 1000.0;
    match answer {
        Answer::Receipt { from, payload } => {
            let text = crate::common::harmless(&String::from_utf8_lossy(payload));
            let text = if text.is_empty() { text } else { format!(": {text}") };
            crate::say(&format!("receipt from {from} after {elapsed_ms:.3} ms{way}{text}"));
        }
        Answer::Reject { code, text } => {
            crate::say(&format!("rejected{way}: {}", client::told(*code, text)));
        }
        Answer::Nothing if args.wants_receipt() => {
            crate::say(&format!("no receipt from {} within {} s{way}", args.to, RECEIPT.as_secs()));
        }
        Answer::Nothing => crate::say(&"sent"),
    }
}

fn print_json(message: u64, answer: &Answer, way: &Way, elapsed_us: u64) {
    let name = |code| Reason::from_code(code).map(Reason::name);
    let source = match answer {
        Answer::Receipt { from, .. } => Some(from.to_string()),
        _ => None,
    };
    let (answer, reason, text) = match answer {
        Answer::Receipt { .. } => ("receipt", None, None),
        Answer::Reject { code, text } => ("reject", name(*code), Some(text)),
        Answer::Nothing => ("none", None, None),
    };
    let (way, peer, no_direct_way) = match way {
        Way::Server => ("server", None, None),
        Way::Direct(at) => ("direct", Some(at.to_string()), None),
        Way::NoOther(why) => ("server", None, Some(why)),
    };
    let message = format!("{message:016x}");
    crate::say(&json!({
        "message": message, "answer": answer, "source": source, "reason": reason, "text": text,
        "way": way, "peer": peer, "no_direct_way": no_direct_way, "elapsed_us": elapsed_us,
    }));
}
