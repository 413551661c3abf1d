//! The plain version: what an ordinary server does with a REGISTER. It looks it up in a map behind a lock, appends a
//! record to a file, waits until the disk has it, and answers; the next one waits. No rule of PROTOCOL.md is asked.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use pushplane::id::{Endpoint, PushId};
use pushplane::wire::prp::{HeadBuilder, Kind, parse};

/// Who is where.
type Known = HashMap<PushId, (u32, Option<Endpoint>)>;

/// A running one; ends when it is dropped.
pub(super) struct Plain {
    pub(super) at: Endpoint,
    stop: Arc<AtomicBool>,
    job: Option<JoinHandle<()>>,
}

impl Plain {
    pub(super) fn start(ip: [u8; 4], journal: &Path) -> io::Result<Self> {
        let socket = UdpSocket::bind((std::net::Ipv4Addr::from(ip), 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let at = Endpoint::from(socket.local_addr()?);
        let file = File::create(journal)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let known = Mutex::new(Known::new());
        let serve = move || {
            let mut file = file;
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                // Whoever is not answered was not heard.
                let answer = answer(&known, &mut file, &buffer[..length]);
                let _ = answer.is_some_and(|answer| socket.send_to(&answer, from).is_ok());
            }
        };
        let job = Some(std::thread::Builder::new().name("plain".to_owned()).spawn(serve)?);
        Ok(Self { at, stop, job })
    }
}

fn answer(known: &Mutex<Known>, file: &mut File, request: &[u8]) -> Option<Vec<u8>> {
    let message = parse(request).ok().filter(|message| message.kind == Kind::Register)?;
    let place = (message.options.realm(request).unwrap_or(0), message.options.private_address(request));
    known.lock().ok()?.insert(message.header.destination, place);
    file.write_all(request).and_then(|()| file.sync_data()).ok()?;
    let mut head = HeadBuilder::new(&message.header.answer(Kind::Registered));
    head.validity(message.options.validity(request).unwrap_or(0)).datagram(&[]).ok()
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.job.take().map(JoinHandle::join);
    }
}
