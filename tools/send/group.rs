//! A message for a group: many answer.

use std::net::UdpSocket;
use std::time::Duration;

use pushplane::clock::Clock;
use pushplane::id::PushId;
use pushplane::reason::Reason;
use serde_json::json;

use super::{Answer, Args, RECEIPT, REJECTION};
use crate::Stop;

/// How long after an answer the next one is waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// Sends the message and shows every answer until none comes any more. Well done when something was received, or
/// nothing was rejected and no receipt asked for.
pub(super) fn push(
    socket: &UdpSocket,
    args: &Args,
    clock: &Clock,
    message: u64,
    payload: &[u8],
) -> Result<(), Stop> {
    let asked = super::ask(socket, args, clock, message, payload)?;
    let mut heard = Heard::default();
    let mut wait = if args.receipt { RECEIPT } else { REJECTION };
    loop {
        let until = clock.now().mono_ns + wait.as_nanos() as u64;
        let Some((message, bytes)) = asked.answer(socket, clock, until)? else { break };
        if let Some(answer) = super::read(&message, &bytes) {
            heard.note(args, message.header.source, answer);
            wait = SILENCE;
        }
    }
    heard.tell(args, message);
    let is_well = if args.receipt { !heard.received.is_empty() } else { heard.rejected.is_empty() };
    if is_well { Ok(()) } else { Err(Stop::No) }
}

#[derive(Default)]
struct Heard {
    /// Who received it, once for each terminal.
    received: Vec<PushId>,
    /// Whom it did not reach, as the group says.
    missed: Vec<PushId>,
    /// Who rejected it, and why: a member's server, or the group's.
    rejected: Vec<(PushId, u16, String)>,
}

impl Heard {
    fn note(&mut self, args: &Args, source: PushId, answer: Answer) {
        match answer {
            Answer::Receipt { payload, .. } if source == args.to => {
                let ids = payload.chunks_exact(16).filter_map(|id| id.try_into().ok());
                self.missed.extend(ids.map(PushId::from_bytes));
            }
            Answer::Receipt { .. } => self.received.push(source),
            Answer::Reject { code, text } => self.rejected.push((source, code, text)),
            Answer::Nothing => {}
        }
    }

    fn tell(&self, args: &Args, message: u64) {
        if args.json {
            let ids = |ids: &[PushId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
            let reject = |(source, code, text): &(PushId, u16, String)| {
                let reason = Reason::from_code(*code).map(Reason::name);
                json!({ "source": source.to_string(), "reason": reason, "text": text })
            };
            let rejected: Vec<_> = self.rejected.iter().map(reject).collect();
            return crate::say(&json!({
                "message": format!("{message:016x}"), "received": ids(&self.received),
                "missed": ids(&self.missed), "rejected": rejected,
            }));
        }
        for member in &self.received {
            crate::say(&format!("receipt from {member}"));
        }
        for member in &self.missed {
            crate::say(&format!("{member} could not be reached"));
        }
        for (source, code, text) in &self.rejected {
            crate::say(&format!("rejected for {source}: {}", crate::client::told(*code, text)));
        }
        if self.received.is_empty() && self.rejected.is_empty() {
            let sent = if args.receipt { "nobody sent a receipt" } else { "sent" };
            crate::say(&sent);
        }
    }
}
