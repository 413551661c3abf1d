//! `pushplane listen`: a Push client, or many.
//!
//! ```text
//!  socket ─► drive ─► Terminal (sans-IO): registration · messages, receipts · introductions
//!                        │ events
//!                        ├─► Viewer: payloads, prompts, applications      one identity
//!                        └─► Tally: counts                                several
//! ```

mod applications;
mod drive;
mod identities;
mod registration;
mod tally;
mod terminal;
mod viewer;

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use pushplane::id::{Endpoint, PushId};
use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinSet, LocalSet};

use applications::{Applications, Input, Wanted};
use drive::{Audience, Stage};
use identities::{Bind, Identity};
use registration::Wish;
use tally::Tally;
use terminal::Terminal;
use viewer::{Bell, Viewer};

use crate::client::{self, GivenKey};
use crate::{Stop, common};

/// Be a Push client: register, show the messages pushed to a user, answer those that want a receipt.
///
/// Prints each payload on a line of its own, a message that comes twice once; what else there is to say of a
/// message goes to standard error, with the terminal's bell. Registers with the address that the server sees,
/// renews that in time, releases it at the end. Where the server takes no registration, the terminal is the
/// one that users.csv names: listen on its private address and port.
///
/// A client that the server introduces is answered, so that it can push here directly (see send --introduce).
///
/// Several identities, for load, are counted instead of shown: a line a second on standard error, a summary at
/// the end; exit status 1 if one was never registered.
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("who").required(true).args(["id", "ids"]),
    after_help = "Example:\n  pushplane listen --server 127.0.0.1:17400 \
    --id 00000000000000000000000000000004 --bind 127.19.0.10 --port 2948\n  \
    pushplane listen --server 127.0.0.1:17400 --id 00000000000000000000000000001000 --identities 5000 \
    --bind 127.19.1.0/16 --for 60 --json"
)]
pub(crate) struct Args {
    /// The Push server, which gets the receipts.
    #[arg(long, value_name = "ADDRESS")]
    server: Endpoint,
    /// The user's Push ID; the first one with --identities.
    #[arg(long, value_name = "ID")]
    id: Option<PushId>,
    /// The port to listen on; one of the system's choice without it. Several identities on one address take
    /// those from there on.
    #[arg(long, value_name = "P", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// The address to listen on; all of this host without it. IP/LENGTH: several identities take the
    /// addresses from there on within the prefix, as they must where the server knows them by private
    /// addresses, which belong to one user at a time.
    #[arg(long, value_name = "IP[/LENGTH]")]
    bind: Option<Bind>,
    /// Which of the user's terminals this is.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = common::number::<u8>(1..=u8::MAX))]
    device: u8,
    /// The private address space that this host's address belongs to.
    #[arg(long, value_name = "N", default_value_t = 0)]
    realm: u32,
    /// Tell the server this host's own address too: a peer of the same realm behind the same NAT is
    /// introduced by it as well. Within a realm no other user may have that address.
    #[arg(long)]
    private: bool,
    /// For how long to register at a time, in seconds; as long as the server likes without it.
    #[arg(long, value_name = "S")]
    validity: Option<u32>,
    /// Renew this often, in seconds, so that a NAT in between keeps its mapping; at half of the validity
    /// without it.
    #[arg(long, value_name = "S", value_parser = common::number::<u32>(1..=u32::MAX))]
    renew: Option<u32>,
    /// Do not register: show what users.csv sends here.
    #[arg(long)]
    no_register: bool,
    /// Do not answer the clients that the server introduces.
    #[arg(long)]
    no_direct: bool,
    /// Sign with this key, and take only what is signed with it, or comes from a client that a
    /// message signed with it introduced.
    #[arg(long, value_name = "ID=HEX")]
    key: Option<GivenKey>,
    /// End after so many messages.
    #[arg(long, value_name = "N", value_parser = common::number::<u64>(1..=u64::MAX))]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long = "for", value_name = "S")]
    seconds: Option<u32>,
    /// Ring the terminal's bell when a message comes.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Bell::Auto)]
    bell: Bell,
    /// Start this command by /bin/sh, unless it is running, when a message of the application comes, after
    /// asking; may be given several times. The payload is its standard input; PUSHPLANE_APP, _ID, _SOURCE,
    /// _MESSAGE, _CONTENT_TYPE, _GROUP and _DIRECT are in its environment. What runs at the end is left running.
    #[arg(long, value_name = "APP=COMMAND")]
    exec: Vec<Wanted>,
    /// Start applications without asking.
    #[arg(long, requires = "exec")]
    yes: bool,
    /// So many identities, from --id on.
    #[arg(long, value_name = "N", default_value_t = 1, hide_default_value = true,
        value_parser = common::number::<u32>(1..=u32::MAX), conflicts_with_all = ["ids", "exec"])]
    identities: u32,
    /// The identities of this file: a Push ID a line, and its key as ID=HEX where it has one.
    #[arg(long, value_name = "FILE", conflicts_with = "exec")]
    ids: Option<PathBuf>,
    /// Registrations of several identities that wait for their answer at once.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = common::number::<u16>(1..=u16::MAX))]
    outstanding: u16,
    /// Print each message as a line of JSON; the summary of several identities.
    #[arg(long)]
    json: bool,
}

/// How long all together may take to release what they hold.
const END: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &Args) -> Result<(), Stop> {
    let identities = identities::open(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
    let result = LocalSet::new().block_on(&runtime, async {
        let is_one = args.ids.is_none() && args.identities == 1;
        match <[Identity; 1]>::try_from(identities) {
            Ok([one]) if is_one => show(args, one).await,
            Ok([one]) => count(args, vec![one]).await,
            Err(several) => count(args, several).await,
        }
    });
    // A thread may stand in a read of the terminal: nobody waits for it.
    runtime.shutdown_background();
    result
}

fn unusable(error: io::Error) -> Stop {
    Stop::Failed(format!("the system does not let us wait for datagrams and signals: {error}"))
}

/// One identity: what comes is shown.
async fn show(args: &Args, identity: Identity) -> Result<(), Stop> {
    let (inputs, input) = unbounded_channel();
    let applications = Applications::new(&args.exec, args.yes, inputs)?;
    let own = client::own_address(&identity.socket, args.server)?;
    eprintln!("{} listens on {own}", identity.user);
    let stage = Stage::new(Viewer::new(args, own, applications), args.server, 1);
    let inputs = tokio::task::spawn_local(attend(Rc::clone(&stage), input));
    let result = drive_all(args, &stage, vec![identity]).await;
    inputs.abort();
    result
}

/// Passes on what the user types and which applications end.
async fn attend(stage: Rc<Stage<Viewer>>, mut input: UnboundedReceiver<Input>) {
    while let Some(input) = input.recv().await {
        stage.audience.borrow_mut().applications.take(input);
    }
}

/// Several identities: what comes is counted.
async fn count(args: &Args, identities: Vec<Identity>) -> Result<(), Stop> {
    eprintln!("{} identities listen", identities.len());
    let stage = Stage::new(Tally::new(args, identities.len()), args.server, args.outstanding.into());
    let each_second = tokio::task::spawn_local({
        let stage = Rc::clone(&stage);
        async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            ticks.tick().await;
            loop {
                ticks.tick().await;
                stage.audience.borrow_mut().second();
            }
        }
    });
    let result = drive_all(args, &stage, identities).await;
    each_second.abort();
    result?;
    stage.audience.borrow().finish()
}

/// Runs a terminal for each identity until a signal, the time or the audience ends it.
async fn drive_all<A: Audience + 'static>(
    args: &Args,
    stage: &Rc<Stage<A>>,
    identities: Vec<Identity>,
) -> Result<(), Stop> {
    let mut tasks = JoinSet::new();
    for identity in identities {
        let private = args.private.then(|| client::own_address(&identity.socket, args.server)).transpose()?;
        let wish = Wish {
            user: identity.user,
            device: args.device,
            realm: args.realm,
            private,
            validity_s: args.validity,
            renew_s: args.renew,
            key: identity.key,
        };
        let terminal = Terminal::new(wish, args.server, !args.no_register, !args.no_direct);
        identity.socket.set_nonblocking(true).map_err(unusable)?;
        let socket = UdpSocket::from_std(identity.socket).map_err(unusable)?;
        tasks.spawn_local(Rc::clone(stage).drive(terminal, socket));
    }
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unusable)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unusable)?;
    let time_is_up = async {
        match args.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
    };
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Stop::Failed(error.to_string()))??;
        }
        Ok(())
    };
    tokio::pin!(all);
    tokio::select! {
        result = &mut all => return result,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = time_is_up => {}
        () = stage.is_enough() => {}
    }
    stage.end();
    let Ok(result) = tokio::time::timeout(END, all).await else {
        eprintln!(
            "not everything was released within {} s; what is left ends with its validity",
            END.as_secs()
        );
        return Ok(());
    };
    result
}
