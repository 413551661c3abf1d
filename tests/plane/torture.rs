//! Two threads resolve, as the plane does, while the one writer hands an address from user to user as fast as it can:
//! each answer is one that was right at a moment between question and answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pushplane::id::{Endpoint, PushId};
use pushplane::packet::BURST_MAX;
use pushplane::plane::{Known, Looks, Moment, Site};
use pushplane::table::{Binding, Change, LiveWriter, Tables};

use crate::lab::*;

/// Who has the address in turn. The first has it by users.csv, whenever nobody has registered with it.
const HOLDERS: u64 = 32;
/// Its port says who bound it; that of the row is another.
const FIRST_PORT: u16 = 1000;
const ROW: &str = "10.2.0.1:2948";
/// One more is always bound, at one of two places, as a whole.
const STEADY: u128 = 0x1_0000;

/// Beyond every user of the lab's users.csv, but for the first.
fn holder(n: u64) -> PushId {
    if n == 0 { own(user::PLAIN) } else { own(0x2_0000 + u128::from(n)) }
}

fn address_of(n: u64) -> Endpoint {
    if n == 0 { at(ROW) } else { at(ROW).with_port(FIRST_PORT + n as u16) }
}

fn binding(user: PushId, private: Endpoint) -> Binding {
    Binding { private: Some(private), ..Binding::new(user, 0) }
}

/// Where the steady one is after an even or an odd step: of two slots each, nothing of one like the other's.
fn steady(step: u64) -> Binding {
    let n = step % 2;
    Binding {
        nat: Some(at(&format!("[2001:db8::{n}]:{}", 7 + n))),
        imsi: Some(format!("46000000000000{n}").parse().unwrap()),
        bearers: 1 + n as u8,
        ..binding(own(STEADY), at(&format!("[fd03::{n}]:{}", 70 + n)))
    }
}

/// A step of the writer's: the next in turn gets the address, and half a turn later is forgotten.
fn step(writer: &mut LiveWriter, step: u64) {
    let bind = |binding| Change::Bind { binding, heard_ms: 0 };
    let forget = |n| Change::Forget { user: holder(n), device: 0 };
    let changes = match step % HOLDERS {
        0 => [Change::End { user: holder(HOLDERS - 1), device: 0, heard_ms: 0 }, forget(HOLDERS / 2)],
        n => [bind(binding(holder(n), address_of(n))), forget((n + HOLDERS / 2) % HOLDERS)],
    };
    for change in changes.iter().chain([&bind(steady(step))]) {
        writer.apply(change).unwrap();
    }
}

/// How far the writer is: steps that have begun, and steps that are done; and bursts that the readers have ended.
#[derive(Default)]
struct Steps {
    begun: AtomicU64,
    done: AtomicU64,
    bursts: AtomicU64,
}

/// What a burst for all holders and the steady one finds: who has the address, and how.
/// `strangers`: as if the burst before had met so many who are live and have no row.
fn resolve(site: &Site, tables: &Tables, looks: &mut Looks, strangers: usize) -> Vec<(u64, Endpoint)> {
    let moment = Moment::new(site, tables, NOW);
    let users: Vec<PushId> = (0..HOLDERS).map(holder).chain([own(STEADY)]).collect();
    looks.expect_strangers(strangers);
    users.iter().enumerate().for_each(|(at, user)| moment.look_for(looks, at, *user));
    moment.look(looks, users.len());
    moment.look_closer(looks, users.len());
    let mut found = Vec::new();
    for at in 0..users.len() {
        let n = at as u64;
        let known = moment.each(looks, at, &mut |known: &dyn Known| {
            if n < HOLDERS {
                found.push((n, known.private().unwrap()));
                return;
            }
            let seen = (known.private(), known.nat(), known.imsi(), known.bearers());
            let whole = |step| {
                let Binding { private, nat, imsi, bearers, .. } = steady(step);
                seen == (private, nat, imsi, bearers)
            };
            assert!(whole(0) || whole(1), "half an entry: {seen:?}");
        });
        assert!(known || (1..HOLDERS).contains(&n), "{n} is always known");
    }
    found
}

/// Resolves until told to stop; how often there was but one right answer.
fn read(site: &Site, tables: &Tables, steps: &Steps, stop: &AtomicBool) -> u64 {
    let (mut tight, mut turn, mut looks) = (0, 0, Looks::new());
    while !stop.load(Ordering::Relaxed) {
        let done = steps.done.load(Ordering::Acquire);
        turn += 1;
        let found = resolve(site, tables, &mut looks, [0, 1, BURST_MAX][turn % 3]);
        let begun = steps.begun.load(Ordering::Acquire);
        // After that many steps the last of them has been made; the first of all leaves the address with the row.
        let had = |n: u64| (done.max(1) - 1..begun.max(1)).any(|step| step % HOLDERS == n);
        for (n, at) in &found {
            assert!(had(*n), "{n} has the address, {done} steps done, {begun} begun");
            assert_eq!(*at, address_of(*n), "half an entry of {n}");
        }
        if begun == done {
            tight += 1;
            assert_eq!(found.len(), 1, "nobody moved, and it was missed or doubled: {found:?}");
        }
        steps.bursts.fetch_add(1, Ordering::Relaxed);
    }
    tight
}

#[test]
fn every_answer_was_right_between_question_and_answer() {
    torture(&Lab::new());
}

/// The same where no overlay tells whom the live tables know.
#[test]
fn without_an_overlay_too() {
    let mut lab = Lab::new();
    lab.tables = tables(&rib());
    torture(&lab);
}

fn torture(lab: &Lab) {
    let mut writer = lab.site.shared.live_writer().unwrap();
    let (steps, stop) = (Steps::default(), AtomicBool::new(false));
    step(&mut writer, 0);
    steps.begun.store(1, Ordering::Relaxed);
    steps.done.store(1, Ordering::Relaxed);
    let (site, tables) = (&lab.site, &lab.tables);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read(site, tables, &steps, &stop))).collect();
        for n in 1..100_000 {
            steps.begun.store(n + 1, Ordering::Relaxed);
            step(&mut writer, n);
            steps.done.store(n + 1, Ordering::Release);
            // Now and then nobody moves until some burst has begun and ended: then there is but one right answer.
            let enough = steps.bursts.load(Ordering::Relaxed) + 4;
            while n % 1000 == 0
                && steps.bursts.load(Ordering::Relaxed) < enough
                && !readers.iter().any(|reader| reader.is_finished())
            {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        let tight: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(tight > 0);
    });
    assert_eq!(
        resolve(site, tables, &mut Looks::new(), 0),
        [(99_999 % HOLDERS, address_of(99_999 % HOLDERS))]
    );
}
