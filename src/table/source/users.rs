//! `users.csv`: the one table that may have ten million rows. A row is parsed from the line's
//! buffer without allocation; what concerns several rows is asked afterwards, all questions at once.

use std::path::Path;
use std::str::FromStr;

use ahash::AHashSet;

use super::entries::{Servers, homeless};
use super::place::Reach;
use super::rows::{Column, Next, Row, Rows, columns};
use super::segments::{decimal, realm};
use super::unique::{Clashes, Lines, clashes};
use crate::config::address::address;
use crate::config::faults::Faults;
use crate::diagnostic::Diagnostic;
use crate::id::{Endpoint, Imsi, PushId};
use crate::table::Step;
use crate::table::rib::User;
use crate::table::users::Store;

const COLUMNS: &[Column] = &[
    Column { name: "push_id", required: true },
    Column { name: "device", required: false },
    Column { name: "realm", required: false },
    Column { name: "private", required: false },
    Column { name: "nat", required: false },
    Column { name: "imsi", required: false },
    Column { name: "bearers", required: false },
    Column { name: "serving", required: false },
    Column { name: "valid_until", required: false },
];
const PUSH_ID: usize = 0;
const DEVICE: usize = 1;
const REALM: usize = 2;
const PRIVATE: usize = 3;
const NAT: usize = 4;
const IMSI: usize = 5;
const BEARERS: usize = 6;
const SERVING: usize = 7;
const VALID_UNTIL: usize = 8;

/// All bearers: packet data, network-requested, short message, SIP.
const BEARERS_MAX: u64 = 15;

/// Rows after which the file's size says how many there will be.
const SAMPLE: usize = 1000;

/// Rows after which progress is told.
const TOLD: usize = 1 << 20;

/// What the rows of the table are held against.
struct Context<'c> {
    servers: &'c Servers,
    reach: Option<&'c Reach>,
    addresses: AHashSet<Endpoint>,
    /// Serving addresses that were warned of.
    strangers: AHashSet<Endpoint>,
}

/// Reads `users.csv` into a store.
pub(super) fn read<S: Store + Sync>(
    path: &Path,
    servers: &Servers,
    reach: Option<&Reach>,
    users: &mut S,
    told: &dyn Fn(Step),
    faults: &mut Faults,
    warnings: &mut Faults,
) {
    let Some(mut rows) = Rows::open(path, COLUMNS, faults) else { return };
    let addresses = servers.rows.iter().map(|server| server.address).collect();
    let mut context = Context { servers, reach, addresses, strangers: AHashSet::new() };
    let mut lines = Lines::default();
    loop {
        match rows.next(faults) {
            Next::Row(row) => {
                if let Some(user) = user(&row, &mut context, faults, warnings) {
                    lines.push(users.len(), row.line);
                    users.push(user);
                }
            }
            Next::Fault => {}
            Next::End => break,
        }
        if users.len() == SAMPLE {
            // Only a hint: a twentieth more saves the last doubling.
            let more = rows.remaining_estimate(std::fs::metadata(path).map_or(0, |metadata| metadata.len()));
            users.reserve(more + more / 20);
        }
        if users.len().is_multiple_of(TOLD) {
            told(Step::Read(rows.read()));
        }
    }
    told(Step::Begins("looking for duplicates"));
    across_rows(path, users, &lines, faults, warnings);
}

/// A row. `None` when it does not say whose it is; else what is wrong in it has been told, and it
/// still takes part in the search for duplicates.
fn user(
    row: &Row<'_>,
    context: &mut Context<'_>,
    faults: &mut Faults,
    warnings: &mut Faults,
) -> Option<User> {
    let mut read = Reading { row, faults };
    let push_id = read.cell(PUSH_ID, push_id);
    let device = read.cell(DEVICE, |text| {
        decimal(text, 255).map(|device| device as u8).ok_or_else(|| {
            format!("expected a whole number from 0 to 255, found {:?}", String::from_utf8_lossy(text))
        })
    });
    let realm = realm(row.get(REALM)).map_err(|sentence| read.faults.push(row.fault(REALM, sentence)));
    let private = read.cell(PRIVATE, endpoint);
    let nat = read.cell(NAT, endpoint);
    let imsi = read.cell(IMSI, word::<Imsi>);
    let bearers = read.cell(BEARERS, |text| {
        decimal(text, BEARERS_MAX).map(|bearers| bearers as u8).ok_or_else(|| {
            format!(
                "expected the sum of 1 packet data, 2 network-requested, 4 short message and 8 SIP, at most \
                 {BEARERS_MAX}, found {:?}",
                String::from_utf8_lossy(text)
            )
        })
    });
    let serving = read.cell(SERVING, endpoint);
    let valid_until = read.cell(VALID_UNTIL, time);

    if push_id == Ok(None) {
        faults.push(row.fault(
            PUSH_ID,
            "push_id: expected a Push ID of 32 hexadecimal digits, found none; a row is nothing without it",
        ));
    }
    if let Ok(Some(serving)) = serving {
        serving_alone(row, context, push_id, serving, private != Ok(None), nat != Ok(None), faults, warnings);
    }
    if let (Some(reach), Ok(realm), Ok(Some(private)), Ok(None), Ok(None)) =
        (context.reach, realm, private, nat, serving)
        && !reach.contains(realm, private.ip())
    {
        faults.push(row.fault(
            PRIVATE,
            format!(
                "private: expected an address inside a segment of realm {realm} in segments.csv, found {private}; add \
                 the segment, or the nat address under which it can be reached"
            ),
        ));
    }
    let (push_id, device) = (push_id.ok()??, device.ok()?);
    if let Some(homes) = &context.servers.homes
        && homes.find(push_id).is_none()
    {
        faults.push(row.fault(PUSH_ID, homeless("push_id", push_id)));
    }
    Some(User {
        push_id,
        device: device.unwrap_or(0),
        realm: realm.unwrap_or(0),
        private: private.unwrap_or(None),
        nat: nat.unwrap_or(None),
        imsi: imsi.unwrap_or(None),
        bearers: bearers.unwrap_or(None).unwrap_or(User::DEFAULT_BEARERS),
        serving: serving.unwrap_or(None),
        valid_until: valid_until.unwrap_or(None),
    })
}

struct Reading<'r, 'f> {
    row: &'r Row<'r>,
    faults: &'f mut Faults,
}

impl Reading<'_, '_> {
    /// `Ok(None)` when the cell is empty, `Err` when it is wrong, which has been told.
    fn cell<T>(
        &mut self,
        column: usize,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Option<T>, ()> {
        let text = self.row.get(column);
        if text.is_empty() {
            return Ok(None);
        }
        read(text).map(Some).map_err(|sentence| {
            let name = COLUMNS.get(column).map_or("", |column| column.name);
            self.faults.push(self.row.fault(column, format!("{name}: {sentence}")));
        })
    }
}

#[expect(clippy::too_many_arguments, reason = "one row's cells, asked once")]
#[cold]
fn serving_alone(
    row: &Row<'_>,
    context: &mut Context<'_>,
    push_id: Result<Option<PushId>, ()>,
    serving: Endpoint,
    private: bool,
    nat: bool,
    faults: &mut Faults,
    warnings: &mut Faults,
) {
    if private || nat {
        let other = if private { "private" } else { "nat" };
        faults.push(row.fault(
            SERVING,
            format!(
                "serving: expected a roaming user without addresses here, found {serving} together with {other}; empty \
                 {other}, which the serving server knows, or serving"
            ),
        ));
    }
    if !context.servers.addresses_whole {
        return;
    }
    if let (Ok(Some(id)), Some(homes)) = (push_id, &context.servers.homes)
        && let Some(home) = homes.find(id).and_then(|home| context.servers.rows.get(home))
        && home.address == serving
    {
        faults.push(row.fault(
            SERVING,
            format!(
                "serving: expected another server than the user's home, found {serving}, which is {:?} itself; empty it",
                home.name
            ),
        ));
    }
    if !context.addresses.contains(&serving)
        && context.strangers.len() < SAMPLE
        && context.strangers.insert(serving)
    {
        warnings.push(row.fault(
            SERVING,
            format!("serving: no [[server]] in servers.toml has the address {serving}; what goes there is not signed"),
        ));
    }
}

/// What concerns several rows.
fn across_rows<S: Store + Sync>(
    path: &Path,
    users: &S,
    lines: &Lines,
    faults: &mut Faults,
    warnings: &mut Faults,
) {
    let user = |row: usize| users.get(row);
    let other_user = |later: usize, earlier: usize| user(later).push_id != user(earlier).push_id;
    let private = |row: usize| {
        let row = user(row);
        row.private.map(|private| (row.realm, private))
    };
    let [devices, privates, nats, shared] = std::thread::scope(|scope| {
        // Two at a time: each takes 8 bytes a row.
        let first = scope.spawn(|| {
            let device = |row| {
                let row = user(row);
                Some((row.push_id, row.device))
            };
            let devices = clashes(users.len(), device, |_, _| true);
            (devices, clashes(users.len(), |row| user(row).nat, other_user))
        });
        let privates = clashes(users.len(), private, |_, _| true);
        // Rows that agree in the port, too, are faults already.
        let shared = clashes(
            users.len(),
            |row| private(row).map(|(realm, private)| (realm, private.octets())),
            |later, earlier| other_user(later, earlier) && user(later).private != user(earlier).private,
        );
        match first.join() {
            Ok((devices, nats)) => [devices, privates, nats, shared],
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let mut told = Told { path, lines, at: Vec::new() };
    told.add(devices, PUSH_ID, faults, |row| {
        let User { push_id, device, .. } = user(row);
        (
            format!("push_id: the user {push_id} with device {device} is already"),
            "give each terminal a device number of its own",
        )
    });
    told.add(privates, PRIVATE, faults, |row| {
        let (realm, private) = private(row).unwrap_or((0, Endpoint::NONE));
        (
            format!("private: {private} in realm {realm} is already"),
            "an address belongs to one terminal, correct one of the two",
        )
    });
    told.add(nats, NAT, faults, |row| {
        let nat = user(row).nat.unwrap_or(Endpoint::NONE);
        (
            format!("nat: {nat} is already another user's,"),
            "a public address and port belongs to one user, correct one of the two",
        )
    });
    let warned = told.at.len();
    told.add(shared, PRIVATE, warnings, |row| {
        let (realm, private) = private(row).unwrap_or((0, Endpoint::NONE));
        (
            format!(
                "private: {} in realm {realm} is already, with another port, another user's,",
                private.ip()
            ),
            "the first to register takes it from the other",
        )
    });
    told.tell(warned, faults, warnings);
}

/// Faults whose line is known and whose column is yet to be found.
struct Told<'t> {
    path: &'t Path,
    lines: &'t Lines,
    at: Vec<(usize, usize, String)>,
}

impl Told<'_> {
    fn add(
        &mut self,
        clashes: Clashes,
        column: usize,
        faults: &mut Faults,
        what: impl Fn(usize) -> (String, &'static str),
    ) {
        for (later, earlier) in clashes.pairs {
            let (what, remedy) = what(later);
            let sentence = format!("{what} in line {}; {remedy}", self.lines.line(earlier));
            self.at.push((self.lines.line(later), column, sentence));
        }
        faults.count(clashes.more);
    }

    fn tell(self, warned: usize, faults: &mut Faults, warnings: &mut Faults) {
        let places = columns(self.path, COLUMNS, self.at.iter().map(|(line, column, _)| (*line, *column)));
        for (index, (line, column, sentence)) in self.at.into_iter().enumerate() {
            let place = places.get(&(line, column)).copied().unwrap_or(1);
            let kind = if index < warned { &mut *faults } else { &mut *warnings };
            kind.push(Diagnostic::new(self.path, line, place, sentence));
        }
    }
}

/// A Push ID that can be a user's, a member's or a group's.
pub(super) fn push_id(text: &[u8]) -> Result<PushId, String> {
    let digits = match text {
        [b'0', b'x' | b'X', digits @ ..] => digits,
        digits => digits,
    };
    if let Ok(digits) = <&[u8; 32]>::try_from(digits) {
        let mut value = 0u128;
        let mut bad = 0u8;
        for half in digits.chunks_exact(16) {
            let mut part = 0u64;
            for digit in half {
                let nibble = HEX[usize::from(*digit)];
                bad |= nibble;
                part = part << 4 | u64::from(nibble & 15);
            }
            value = value << 64 | u128::from(part);
        }
        if bad < 16 {
            if value == 0 {
                return Err("expected a Push ID, found the all-zero one, which is nobody's".to_owned());
            }
            return Ok(PushId(value));
        }
    }
    word(text)
}

/// The value of each hexadecimal digit; 255 for other bytes.
const HEX: [u8; 256] = {
    let mut table = [255; 256];
    let mut value = 0;
    while value < 16 {
        let digits = b"0123456789abcdef";
        table[digits[value] as usize] = value as u8;
        table[digits[value].to_ascii_uppercase() as usize] = value as u8;
        value += 1;
    }
    table
};

/// A cell's text; a cell that is none is told.
pub(super) fn utf8(text: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(text).map_err(|_| {
        format!("expected UTF-8, found {:?}; save the file as UTF-8", String::from_utf8_lossy(text))
    })
}

fn word<T: FromStr<Err = crate::id::ParseError>>(text: &[u8]) -> Result<T, String> {
    utf8(text)?.parse().map_err(|error: crate::id::ParseError| error.0)
}

fn endpoint(text: &[u8]) -> Result<Endpoint, String> {
    address(utf8(text)?, None)
}

/// RFC 3339 → whole seconds since 1970.
fn time(text: &[u8]) -> Result<u64, String> {
    const EXPECTED: &str = "expected a time like 2027-01-31T12:00:00Z (RFC 3339), not before 1970";
    let text = utf8(text)?;
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => u64::try_from(time.as_second()).map_err(|_| format!("{EXPECTED}, found {text:?}")),
        Err(_) => Err(format!("{EXPECTED}, found {text:?}")),
    }
}
