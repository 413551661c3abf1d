//! The messages of a live replay, made ready on a thread of their own: what is sent is only copied any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded};
use pushplane::id::Endpoint;
use pushplane::wire::prp::{HeadBuilder, Kind, Message as Parsed, flag, option_type as ty, parse};

use super::super::map::unsign;
use super::super::messages::{Choice, Message, Messages, World};
use super::super::report::Contents;
use super::schedule::Schedule;
use crate::Stop;
use crate::client::GivenKey;

/// Messages that go from the thread to the sender at once.
const BATCH: usize = 256;
/// Batches that may wait: with the longest messages 16 MiB, with usual ones 3.
const BATCHES: usize = 64;

/// Messages in a row.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Item {
    /// Since the start, nanoseconds.
    pub(crate) due_ns: u64,
    start: usize,
    end: usize,
    /// Which socket it leaves by.
    pub(crate) listener: u8,
    /// It wants an answer.
    pub(crate) wants: bool,
    /// Where its head ends, if it is to be signed.
    pub(crate) sign: Option<u16>,
}

impl Batch {
    pub(crate) fn item(&self, at: usize) -> Option<&Item> {
        self.items.get(at)
    }

    pub(crate) fn bytes(&self, item: &Item) -> &[u8] {
        &self.bytes[item.start..item.end]
    }
}

/// What is to be sent, and how often.
pub(crate) struct Plan {
    pub(crate) choice: Choice,
    pub(crate) world: World,
    pub(crate) schedule: Schedule,
    /// 0: until the time is over.
    pub(crate) loops: u64,
    pub(crate) duration_ns: Option<u64>,
    /// Messages of all loops together.
    pub(crate) limit: u64,
    pub(crate) key: Option<GivenKey>,
    /// By the addresses that captured ones were mapped to: which socket.
    pub(crate) sockets: HashMap<Endpoint, u8>,
    /// A message was due after the time is over.
    pub(crate) is_over: bool,
    /// Messages whose signature was taken off.
    pub(crate) unsigned: u64,
}

/// What the thread found.
pub(crate) struct Prepared {
    /// Messages that the schedule wanted sent.
    pub(crate) planned: u64,
    /// Answers in the capture, which nobody asked for now.
    pub(crate) skipped_answers: u64,
    pub(crate) loops: u64,
    /// Of the last loop that was not cut short; of all of them the messages without the signature that they had.
    pub(crate) contents: Option<Contents>,
}

/// The sender's end.
pub(crate) type Batches = Receiver<Arc<Batch>>;

/// Starts the thread's work: the channel, and what to run.
pub(crate) fn channel() -> (Sender<Arc<Batch>>, Batches) {
    bounded(BATCHES)
}

/// The thread's whole life. Ends when everything is handed over, or the other end is gone, or `stop` says so.
pub(crate) fn prepare(mut plan: Plan, to: &Sender<Arc<Batch>>, stop: &AtomicBool) -> Result<Prepared, Stop> {
    let mut prepared = Prepared { planned: 0, skipped_answers: 0, loops: 0, contents: None };
    let world = std::mem::take(&mut plan.world);
    let mut batch = Batch::default();
    let mut unsigned = 0;
    loop {
        let mut messages = Messages::open(&plan.choice, &world)?;
        let progress = messages.position.progress("replaying");
        let before = prepared.planned;
        while let Some(message) = messages.next() {
            let over = prepared.planned == plan.limit || stop.load(Ordering::Relaxed);
            if over || !plan.add(&mut batch, &message, &mut prepared) {
                break;
            }
            if batch.items.len() == BATCH {
                messages.position.show(&progress);
                if to.send(Arc::new(std::mem::take(&mut batch))).is_err() {
                    return Ok(prepared);
                }
            }
        }
        prepared.loops += 1;
        let over = prepared.planned == plan.limit || plan.is_over || prepared.planned == before;
        let found = messages.contents();
        unsigned += found.unsigned;
        let contents = prepared.contents.take().filter(|_| over).unwrap_or(found);
        prepared.contents = Some(Contents { unsigned: unsigned + plan.unsigned, ..contents });
        if over || prepared.loops == plan.loops || stop.load(Ordering::Relaxed) {
            let _ = to.send(Arc::new(batch));
            return Ok(prepared);
        }
        plan.schedule.next_loop();
    }
}

impl Plan {
    /// Makes a message ready; false when the time is over.
    fn add(&mut self, batch: &mut Batch, message: &Message<'_>, prepared: &mut Prepared) -> bool {
        let parsed = parse(message.bytes).ok();
        if parsed.as_ref().is_some_and(|parsed| parsed.kind.is_answer()) {
            prepared.skipped_answers += 1;
            return true;
        }
        let due_ns = self.schedule.due(message.time_ns);
        if self.duration_ns.is_some_and(|duration_ns| due_ns > duration_ns) {
            self.is_over = true;
            return false;
        }
        let start = batch.bytes.len();
        let sign = self.write(&mut batch.bytes, message.bytes, parsed.as_ref());
        let listener = self.sockets.get(&message.from).copied().unwrap_or(0);
        let wants = parsed.is_some_and(|parsed| parsed.kind != Kind::Push || parsed.has(flag::RECEIPT));
        batch.items.push(Item { due_ns, start, end: batch.bytes.len(), listener, wants, sign });
        prepared.planned += 1;
        true
    }

    /// The datagram as it will be sent but for its identifier and its tag. A signature would not hold once the
    /// identifier is another.
    fn write(&mut self, out: &mut Vec<u8>, bytes: &[u8], parsed: Option<&Parsed>) -> Option<u16> {
        let Some(parsed) = parsed else {
            out.extend_from_slice(bytes);
            return None;
        };
        if let Some(key) = &self.key {
            let mut head = HeadBuilder::new(&parsed.header);
            head.keep(parsed, bytes, |option| option != ty::AUTH).auth(key.id(), 0);
            if let Ok(head) = head.finish() {
                out.extend_from_slice(head);
                out.extend_from_slice(&bytes[parsed.payload_start..]);
                return u16::try_from(head.len()).ok();
            }
        }
        if parsed.options.offset(ty::AUTH).is_none() {
            out.extend_from_slice(bytes);
            return None;
        }
        let mut unsigned = bytes.to_vec();
        self.unsigned += u64::from(unsign(&mut unsigned, parsed));
        out.extend_from_slice(&unsigned);
        None
    }
}
