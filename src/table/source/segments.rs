//! `segments.csv`.

use std::path::Path;

use ahash::AHashMap;

use super::entries::{Gateways, ip_prefix};
use super::place::Reach;
use super::rows::{Column, Next, Row, Rows};
use crate::config::faults::Faults;
use crate::table::rib::{Segment, Tunnel};

const COLUMNS: &[Column] = &[
    Column { name: "realm", required: false },
    Column { name: "prefix", required: true },
    Column { name: "gateway", required: true },
];
const REALM: usize = 0;
const PREFIX: usize = 1;
const GATEWAY: usize = 2;

/// What `segments.csv` holds.
pub(super) struct Segments {
    pub(super) rows: Vec<Segment>,
    /// `None` when not every segment could be read.
    pub(super) reach: Option<Reach>,
}

/// Reads `segments.csv`.
pub(super) fn read(path: &Path, gateways: &Gateways, faults: &mut Faults) -> Segments {
    let mut segments = Vec::new();
    let before = faults.found();
    let mut whole = true;
    if let Some(mut rows) = Rows::open(path, COLUMNS, faults) {
        let mut seen = AHashMap::new();
        loop {
            let row = match rows.next(faults) {
                Next::Row(row) => row,
                Next::Fault => {
                    whole = false;
                    continue;
                }
                Next::End => break,
            };
            let line = row.line;
            match segment(&row, gateways, faults) {
                Some(segment) => {
                    if let Some(earlier) = seen.insert((segment.realm, segment.ip, segment.len), line) {
                        faults.push(row.fault(
                            PREFIX,
                            format!(
                                "the prefix {}/{} of realm {} is already in line {earlier}; remove one of the two",
                                segment.ip, segment.len, segment.realm
                            ),
                        ));
                    }
                    segments.push(segment);
                }
                None => whole = false,
            }
        }
    } else {
        whole = faults.found() == before;
    }
    let reach = whole.then(|| Reach::new(&segments));
    Segments { rows: segments, reach }
}

/// A row; `None` when it does not say which addresses it is about.
fn segment(row: &Row<'_>, gateways: &Gateways, faults: &mut Faults) -> Option<Segment> {
    let realm = realm(row.get(REALM)).map_err(|sentence| faults.push(row.fault(REALM, sentence)));
    let text = String::from_utf8_lossy(row.get(PREFIX));
    let prefix =
        ip_prefix(&text).map_err(|sentence| faults.push(row.fault(PREFIX, format!("prefix: {sentence}"))));
    let name = String::from_utf8_lossy(row.get(GATEWAY));
    let known = gateways.names.get(&*name);
    if known.is_none() && (gateways.whole || name.is_empty()) {
        faults.push(row.fault(
            GATEWAY,
            format!("gateway: expected the name of a [[gateway]] in gateways.toml, found {name:?}; add it there or correct it"),
        ));
    }
    let (realm, (ip, len)) = (realm.ok()?, prefix.ok()?);
    let gateway = known.map_or(0, |(index, _)| *index);
    if let Some((index, true)) = known
        && let Some(gateway) = gateways.rows.get(*index as usize)
        && matches!(gateway.tunnel, Tunnel::Vxlan { .. } | Tunnel::Gtpu { .. })
        && (if ip.is_ipv4() { gateway.source_v4 } else { gateway.source_v6 }).is_none()
    {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        faults.push(row.fault(
            PREFIX,
            format!(
                "prefix: the gateway {name:?} has no {family} source, which {ip}/{len} needs; add one to its source in \
                 gateways.toml"
            ),
        ));
    }
    Some(Segment { realm, ip, len, gateway })
}

/// A realm; empty is realm 0.
pub(super) fn realm(text: &[u8]) -> Result<u32, String> {
    if text.is_empty() {
        return Ok(0);
    }
    decimal(text, u32::MAX.into()).map(|realm| realm as u32).ok_or_else(|| {
        format!(
            "realm: expected a whole number from 0 to {}, found {:?}",
            u32::MAX,
            String::from_utf8_lossy(text)
        )
    })
}

/// A decimal number up to `max`.
pub(super) fn decimal(text: &[u8], max: u64) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    let mut number = 0u64;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(digit.into())?;
    }
    (number <= max).then_some(number)
}
