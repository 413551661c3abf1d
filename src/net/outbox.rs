//! What is on its way out of a port, datagram by datagram, whether it leaves alone or in a group.

use super::groups::{Group, Groups, Leaving, hash};
use crate::id::Endpoint;
use crate::packet::{Done, Frame, FramePool, Tx};

/// Datagrams from the moment that the port takes them to the moment that their fate is known, each in the place
/// of its frame's number. Costs 80 bytes a frame and 128 KiB, besides what [`Groups`] costs.
#[derive(Debug)]
pub(super) struct Outbox {
    places: Box<[Option<Tx>]>,
    groups: Groups,
    paths: Paths,
    /// The kernel takes groups.
    segments: bool,
    count: usize,
}

impl Outbox {
    /// For a pool of so many frames.
    pub(super) fn new(frames: usize, segments: bool) -> Self {
        Self {
            places: (0..frames).map(|_| None).collect(),
            groups: Groups::new(frames),
            paths: Paths::new(),
            segments,
            count: 0,
        }
    }

    /// To how many next hops those went that were loaded last; 0 where each leaves alone.
    pub(super) const fn spread(&self) -> usize {
        self.groups.hops()
    }

    /// Datagrams whose fate is not known yet.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whether the kernel takes groups.
    pub(super) fn has_segments(&self) -> bool {
        self.segments
    }

    /// Takes all of `tx` and sorts it into groups, but for those that `refuse` has an error number for. What
    /// was loaded before must have been [`Outbox::group`]ed away by then.
    pub(super) fn load(
        &mut self,
        tx: &mut Vec<Tx>,
        pool: &mut FramePool,
        done: &mut Vec<Done>,
        refuse: impl Fn(&Tx) -> Option<i32>,
    ) {
        self.groups.clear();
        for tx in tx.drain(..) {
            let id = tx.frame.index();
            let free = matches!(self.places.get(id as usize), Some(None));
            // Without a place: a frame of another pool.
            if let Some(errno) = refuse(&tx).or((!free).then_some(libc::ENOBUFS)) {
                end(tx, errno, pool, done);
                continue;
            }
            let Tx { to, listener, flow, .. } = tx;
            let leaving = Leaving { to, listener, bytes: tx.frame.len() as u32, flow };
            if self.segments {
                self.groups.add(id, &leaving)
            } else {
                self.groups.add_alone(id, &leaving)
            }
            self.places[id as usize] = Some(tx);
            self.count += 1;
        }
        self.groups.finish();
    }

    /// How many groups were loaded.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// One of them; without members it is to be passed over.
    pub(super) fn group(&self, at: usize) -> Group {
        *self.groups.get(at)
    }

    /// The datagrams of a group, in their order.
    pub(super) fn frames(&self, group: &Group) -> impl Iterator<Item = &Frame> {
        let frame = |id: u32| self.places[id as usize].as_ref().map(|tx| &tx.frame);
        self.groups.members(group).filter_map(frame)
    }

    /// As [`Groups::split_first`].
    pub(super) fn split_first(&self, group: &Group) -> Option<(Group, Group)> {
        self.groups.split_first(group)
    }

    /// What a group can expect of its way.
    pub(super) fn path(&mut self, group: &Group) -> Path {
        self.paths.ask(group)
    }

    /// What the kernel said to a group: the bytes that it took, or an error number as a negative one. True
    /// when the group is to be sent again, one by one; else its datagrams are in `done` now.
    pub(super) fn end(
        &mut self,
        group: &Group,
        result: i32,
        pool: &mut FramePool,
        done: &mut Vec<Done>,
    ) -> bool {
        if group.count > 1 {
            if refuses_segments(result) {
                self.paths.refused(group);
                return true;
            }
            if result >= 0 {
                self.paths.proven(group);
            }
        }
        // All of it or nothing, says every kernel; whatever it says, each datagram has one fate.
        let mut taken = result.max(0) as u32;
        let Self { places, groups, count, .. } = self;
        for id in groups.members(group) {
            let Some(tx) = places[id as usize].take() else { continue };
            *count -= 1;
            let bytes = tx.frame.len() as u32;
            let errno = match taken.checked_sub(bytes) {
                _ if result < 0 => -result,
                Some(left) => {
                    taken = left;
                    0
                }
                None => {
                    taken = 0;
                    libc::EIO
                }
            };
            end(tx, errno, pool, done);
        }
        false
    }

    /// Forgets all datagrams: their frames are lost to their pool.
    pub(super) fn forget(&mut self) {
        self.places.fill_with(|| None);
        self.count = 0;
    }
}

fn end(tx: Tx, errno: i32, pool: &mut FramePool, done: &mut Vec<Done>) {
    done.push(Done { token: tx.token, bytes: tx.frame.len() as u32, errno });
    pool.put(tx.frame);
}

/// Whether an error is about a group, not about each of its datagrams: a segment does not fit the path's MTU
/// (EMSGSIZE, EINVAL before Linux 6.9; alone it leaves in fragments), the way has no checksum offload (EIO).
const fn refuses_segments(result: i32) -> bool {
    matches!(-result, libc::EMSGSIZE | libc::EINVAL | libc::EIO | libc::EOPNOTSUPP)
}

/// What a group can expect of its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Path {
    /// Groups of this size went that way.
    Proven,
    /// None has, of this size: what the kernel says should be known before anything follows.
    Unknown,
    /// One was refused lately: one by one.
    Refused,
}

/// What is known of the ways to next hops. An entry for each hash: whoever collides is learned again, for a call of the
/// kernel's. So there are some times as many as next hops.
#[derive(Debug)]
struct Paths(Box<[Known]>);

const PATHS: usize = 4096;

/// So many groups are sent one by one before one is tried again: routes change.
const REFUSALS: u16 = 1024;

#[derive(Clone, Copy, Debug)]
struct Known {
    to: Endpoint,
    listener: u8,
    /// The longest segment that went that way.
    proven: u32,
    /// The shortest that did not.
    refused: u32,
    /// Groups that are still taken for refused.
    refusals: u16,
}

impl Known {
    const NOTHING: Self = Self { to: Endpoint::NONE, listener: 0, proven: 0, refused: u32::MAX, refusals: 0 };
}

impl Paths {
    fn new() -> Self {
        Self(vec![Known::NOTHING; PATHS].into())
    }

    fn entry(&mut self, group: &Group) -> &mut Known {
        let known = &mut self.0[hash(group.to, group.listener) as usize % PATHS];
        if known.to != group.to || known.listener != group.listener {
            *known = Known { to: group.to, listener: group.listener, ..Known::NOTHING };
        }
        known
    }

    fn ask(&mut self, group: &Group) -> Path {
        let known = self.entry(group);
        if group.segment <= known.proven {
            return Path::Proven;
        }
        if group.segment < known.refused {
            return Path::Unknown;
        }
        known.refusals -= 1;
        if known.refusals == 0 {
            known.refused = u32::MAX;
        }
        Path::Refused
    }

    fn proven(&mut self, group: &Group) {
        let known = self.entry(group);
        known.proven = known.proven.max(group.segment);
    }

    fn refused(&mut self, group: &Group) {
        let known = self.entry(group);
        *known = Known {
            proven: known.proven.min(group.segment - 1),
            refused: known.refused.min(group.segment),
            refusals: REFUSALS,
            ..*known
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Burst, Class};

    const TO: &str = "192.0.2.1:4789";

    /// An outbox with datagrams of these sizes, and the one group that they make.
    fn loaded(sizes: &[usize]) -> (Outbox, Burst, Group) {
        let mut burst = Burst::new(FramePool::new(8, 256));
        let mut outbox = Outbox::new(8, true);
        load(&mut outbox, &mut burst, sizes);
        let group = outbox.group(0);
        assert_eq!(usize::from(group.count), sizes.len());
        (outbox, burst, group)
    }

    fn load(outbox: &mut Outbox, burst: &mut Burst, sizes: &[usize]) {
        for (token, size) in (0..).zip(sizes) {
            let mut frame = burst.pool.take().unwrap();
            assert!(frame.fill(&vec![1; *size]));
            let to = TO.parse().unwrap();
            burst.tx.push(Tx { frame, to, listener: 0, class: Class::Normal, flow: 0, token });
        }
        let Burst { pool, tx, done, .. } = burst;
        outbox.load(tx, pool, done, |_| None);
    }

    fn with_segment(mut group: Group, segment: u32) -> Group {
        group.segment = segment;
        group
    }

    fn errnos(done: &[Done]) -> Vec<i32> {
        done.iter().map(|done| done.errno).collect()
    }

    #[test]
    fn a_short_send_is_an_error_of_those_that_did_not_leave() {
        for (taken, expected) in [
            (210, vec![0, 0, 0]),
            (209, vec![0, 0, libc::EIO]),
            (100, vec![0, libc::EIO, libc::EIO]),
            (99, vec![libc::EIO; 3]),
            // The second did not fit, so the third did not leave, although it would have fitted.
            (110, vec![0, libc::EIO, libc::EIO]),
            (0, vec![libc::EIO; 3]),
            (-libc::EAGAIN, vec![libc::EAGAIN; 3]),
        ] {
            let (mut outbox, mut burst, group) = loaded(&[100, 100, 10]);
            assert!(!outbox.end(&group, taken, &mut burst.pool, &mut burst.done));
            assert_eq!(errnos(&burst.done), expected, "{taken} bytes");
            assert_eq!((outbox.count(), burst.pool.available()), (0, 8));
        }
    }

    #[test]
    fn a_refused_group_is_still_there_and_its_way_is_remembered() {
        for errno in [libc::EMSGSIZE, libc::EINVAL, libc::EIO] {
            let (mut outbox, mut burst, group) = loaded(&[100, 100, 10]);
            assert_eq!(outbox.path(&group), Path::Unknown);
            assert!(outbox.end(&group, -errno, &mut burst.pool, &mut burst.done));
            assert_eq!((burst.done.len(), outbox.count()), (0, 3));
            let mut rest = group;
            while let Some((alone, others)) = outbox.split_first(&rest) {
                // Alone it is its own error.
                assert!(!outbox.end(&alone, -errno, &mut burst.pool, &mut burst.done));
                rest = others;
            }
            assert_eq!(errnos(&burst.done), [errno; 3]);
            for left in (0..REFUSALS).rev() {
                assert_eq!(outbox.path(&group), Path::Refused, "{left} left");
            }
            assert_eq!(outbox.path(&group), Path::Unknown);
        }
    }

    #[test]
    fn a_way_is_known_by_the_size_of_its_segments() {
        let (mut outbox, mut burst, group) = loaded(&[100, 100]);
        let of = |segment| with_segment(group, segment);
        assert!(!outbox.end(&group, 200, &mut burst.pool, &mut burst.done));
        assert_eq!(
            [100, 60, 101].map(|segment| outbox.path(&of(segment))),
            [Path::Proven, Path::Proven, Path::Unknown]
        );
        load(&mut outbox, &mut burst, &[200, 200]);
        let longer = outbox.group(0);
        assert!(outbox.end(&longer, -libc::EMSGSIZE, &mut burst.pool, &mut burst.done));
        let paths = [100, 150, 200, 201].map(|segment| outbox.path(&of(segment)));
        assert_eq!(paths, [Path::Proven, Path::Unknown, Path::Refused, Path::Refused]);
        // A route that became narrower.
        assert!(outbox.end(&with_segment(longer, 80), -libc::EMSGSIZE, &mut burst.pool, &mut burst.done));
        assert_eq!([100, 79].map(|segment| outbox.path(&of(segment))), [Path::Refused, Path::Proven]);
        let mut elsewhere = group;
        elsewhere.listener = 1;
        assert_eq!(outbox.path(&elsewhere), Path::Unknown);
    }

    #[test]
    fn what_is_refused_beforehand_and_what_has_no_place_is_done_at_once() {
        let mut burst = Burst::new(FramePool::new(4, 64));
        let mut outbox = Outbox::new(2, true);
        for token in 0..4 {
            let frame = burst.pool.take().unwrap();
            let to = TO.parse().unwrap();
            burst.tx.push(Tx { frame, to, listener: token as u8, class: Class::Normal, flow: 0, token });
        }
        let Burst { pool, tx, done, .. } = &mut burst;
        outbox.load(tx, pool, done, |tx| (tx.listener == 0).then_some(libc::EINVAL));
        assert_eq!(errnos(done), [libc::EINVAL, libc::ENOBUFS, libc::ENOBUFS]);
        assert_eq!((outbox.count(), pool.available()), (1, 3));
        outbox.forget();
    }
}
