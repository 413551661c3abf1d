//! `pushplane group` and `pushplane resolve`: groups of users, and names.

use std::net::IpAddr;
use std::time::Duration;

use pushplane::clock::Clock;
use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::{HeadBuilder, Header, Kind, Message, option_type as ty};
use serde_json::json;

use crate::Stop;
use crate::client::{self, Asked, GivenKey};

/// How long an answer is waited for: as long as a server may take to make a change durable, and more.
const WAIT: Duration = Duration::from_secs(5);

/// Who asks, and whom.
#[derive(clap::Args)]
pub(crate) struct Asking {
    /// The Push server.
    #[arg(long, value_name = "ADDRESS")]
    server: Endpoint,
    /// Sign with this key.
    #[arg(long, value_name = "ID=HEX")]
    key: Option<GivenKey>,
    /// Ask from this address.
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Make a group of users, join or leave it, list its members, delete it.
///
/// A PUSH to the group is copied to each of its members: pushplane send --group. Exit status 1: rejected.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pushplane group create --server 127.0.0.1:17400 \
    --id 00000000000000000000000000000001 --group 0000000000000000000000000000f100")]
pub(crate) struct Group {
    request: Request,
    /// The user who asks: the owner of what it makes, who joins or leaves.
    #[arg(long, value_name = "ID")]
    id: PushId,
    /// The group; to create one without it lets the server choose.
    #[arg(long, value_name = "ID", required_if_eq_any = [
        ("request", "join"), ("request", "leave"), ("request", "list"), ("request", "delete"),
    ])]
    group: Option<PushId>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Request {
    Create,
    Join,
    Leave,
    List,
    Delete,
}

/// Look up who has a name: a phone number, user name, nickname or address of names.csv.
///
/// Exit status 1: nobody has it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  pushplane resolve --server 127.0.0.1:17400 --from \
    00000000000000000000000000000001 alice@example.net")]
pub(crate) struct Resolve {
    /// The name.
    name: String,
    /// The asker's own Push ID.
    #[arg(long, value_name = "ID")]
    from: PushId,
    #[command(flatten)]
    asking: Asking,
}

impl Asking {
    /// The answer to a request by `by`, or why there is none.
    fn ask(&self, by: PushId, head: &mut HeadBuilder, message: u64) -> Result<(Message, Vec<u8>), Stop> {
        let clock = Clock::start();
        let socket = client::socket(self.server, self.bind, 0)?;
        let asked = Asked { server: self.server, by, message, key: self.key.as_ref() };
        asked.send(&socket, &client::datagram(head, &[], self.key.as_ref())?)?;
        let until = clock.now().mono_ns + WAIT.as_nanos() as u64;
        let answer = asked.answer(&socket, &clock, until)?;
        let (message, bytes) = answer.ok_or_else(|| {
            Stop::Failed(format!("no answer from {} within {} s", self.server, WAIT.as_secs()))
        })?;
        if message.kind == Kind::Reject {
            let (code, text) = message.options.reason(&bytes).unwrap_or_default();
            return Err(Stop::Failed(format!("rejected: {}", client::told(code, text))));
        }
        Ok((message, bytes))
    }
}

pub(crate) fn run(args: &Group) -> Result<(), Stop> {
    let code = args.request as u8 + 1;
    let message = crate::chance();
    let mut head = HeadBuilder::new(&Header::new(Kind::Group, args.id, PushId::NONE, message));
    head.group_request(code);
    if let Some(group) = args.group {
        head.group_id(group);
    }
    let (answer, bytes) = args.asking.ask(args.id, &mut head, message)?;
    let group = answer.options.group_id(&bytes).or(args.group).unwrap_or(PushId::NONE);
    let ids = answer.payload(&bytes).chunks_exact(16).filter_map(|id| id.try_into().ok());
    let members: Vec<String> = ids.map(|id| PushId::from_bytes(id).to_string()).collect();
    if args.asking.json {
        let members = Some(members).filter(|_| args.request == Request::List);
        crate::say(&json!({ "group": group.to_string(), "members": members }));
    } else if args.request == Request::List {
        for member in members {
            crate::say(&member);
        }
    } else {
        crate::say(&group);
    }
    Ok(())
}

pub(crate) fn resolve(args: &Resolve) -> Result<(), Stop> {
    let message = crate::chance();
    let mut head = HeadBuilder::new(&Header::new(Kind::Resolve, PushId::NONE, args.from, message));
    head.option(ty::NAME, &[args.name.as_bytes()]);
    let (answer, _) = args.asking.ask(args.from, &mut head, message)?;
    let found = answer.header.destination;
    if args.asking.json {
        crate::say(&json!({ "name": args.name, "push_id": found.to_string() }));
    } else {
        crate::say(&found);
    }
    Ok(())
}
