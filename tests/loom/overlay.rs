//! What an overlay promises of a user's row, while the writer of the live tables is at work.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;
use pushplane::id::{Endpoint, PushId};
use pushplane::sync::Seqlock;
use pushplane::table::live::overlay::Over;
use pushplane::table::rib::User;
use pushplane::table::{Binding, Change, Image, LiveBindings, LiveWriter, Rib};

use crate::model;

const U: PushId = PushId(1 << 100 | 1);
const V: PushId = PushId(2 << 100 | 2);

fn private(host: u8) -> Endpoint {
    Endpoint::new([10, 0, 0, host].into(), 2948)
}

/// U has a row: device 0 at host 1.
fn image() -> Arc<Image> {
    let users = vec![User { private: Some(private(1)), ..User::new(U, 0) }];
    Arc::new(Image::build(&Rib { users, ..Rib::default() }).unwrap())
}

fn place(image: &Image) -> usize {
    let bindings = image.arrays().bindings();
    bindings.place(bindings.hash(U))
}

fn bind(user: PushId, device: u8, host: u8) -> Change {
    let binding = Binding { private: Some(private(host)), ..Binding::new(user, device) };
    Change::Bind { binding, heard_ms: 0 }
}

fn tables() -> (Arc<LiveBindings>, LiveWriter) {
    let live = Arc::new(LiveBindings::new(2, 7));
    let writer = live.writer().unwrap();
    (live, writer)
}

/// U's only slot becomes that of another of its devices, which the row is not of: whoever is told by a cell that the slot
/// says all, before and after reading it, reads what it said of the first. The steps of the writer and of the reader
/// (`LiveBindings::only`), without the indexes between them, which are too many for a model.
#[test]
fn a_slot_that_says_all_is_of_the_row() {
    const ASK: u64 = 0;
    const SLOT: u64 = 1;
    model(|| {
        let cell = Arc::new(AtomicU64::new(SLOT));
        // What it says is a device's number, and one.
        let slot = Arc::new(Seqlock::<1>::default());
        slot.write(&[1]);
        let (cells, slots) = (Arc::clone(&cell), Arc::clone(&slot));
        let thread = thread::spawn(move || {
            if cells.load(Ordering::Acquire) == SLOT
                && let Some((version, [said])) = slots.try_read_at()
            {
                fence(Ordering::Acquire);
                if cells.load(Ordering::Acquire) == SLOT && slots.is_at(version) {
                    assert_eq!(said, 1);
                }
            }
        });
        cell.store(ASK, Ordering::Release);
        slot.write(&[2]);
        slot.write(&[1]);
        cell.store(SLOT, Ordering::Release);
        thread.join().unwrap();
    });
}

/// The row's address passes to somebody else: whoever sees that, or hears that it is done, is not told that the row holds.
#[test]
fn a_row_whose_address_is_taken_is_asked_about() {
    let image = image();
    model(move || {
        let (live, mut writer) = tables();
        let laid = live.lay_over(Arc::clone(&image));
        let done = Arc::new(AtomicU64::new(0));
        let (seen, told, place) = (Arc::clone(&live), Arc::clone(&done), place(&image));
        let thread = thread::spawn(move || {
            let overlay = laid.of(&seen).unwrap();
            let is_taken = told.load(Ordering::Acquire) == 1;
            let is_taken = is_taken || seen.owner(0, private(1), 0).is_some();
            assert!(!is_taken || overlay.at(place) == Over::Ask);
        });
        writer.apply(&bind(V, 0, 1)).unwrap();
        done.store(1, Ordering::Release);
        thread.join().unwrap();
    });
}

/// An overlay is made while the writer is at work: it knows of the change, whichever came first.
#[test]
fn what_changes_while_it_is_made_is_told() {
    let image = image();
    model(move || {
        let (live, mut writer) = tables();
        writer.apply(&bind(U, 0, 1)).unwrap();
        let thread = thread::spawn(move || writer.apply(&bind(V, 0, 1)).unwrap());
        let laid = live.lay_over(Arc::clone(&image));
        thread.join().unwrap();
        let overlay = laid.of(&live).unwrap();
        let Over::Slot(slot) = overlay.at(place(&image)) else {
            panic!("a tombstone of U's is all there is")
        };
        assert!(live.only(overlay, place(&image), slot, U).is_some());
        assert_eq!(live.owner(0, private(1), 0), Some((V, 0)));
    });
}
