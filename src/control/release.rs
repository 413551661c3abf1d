//! RELEASE: by a terminal, a gateway, the user's home server or the server that serves the user.

use super::answer::Asker;
use super::permit::Age;
use super::store::Entry;
use super::{Engine, Outbox, Outcome, RELEASED_MAX, Request};
use crate::id::{Endpoint, Imsi};
use crate::reason::Reason;
use crate::table::{Binding, Change, Tables};
use crate::wire::prp::{Kind, Message};

/// Which terminals of a user a RELEASE means (ruling 20): those that all of it is true of.
#[derive(Clone, Copy, Debug)]
struct Which {
    device: Option<u8>,
    /// Realm and address; the port does not matter: it is the address that somebody else gets.
    private: Option<(u32, [u8; 16])>,
    imsi: Option<Imsi>,
    /// The Push server that serves it.
    serving: Option<Endpoint>,
}

impl Which {
    /// Whether a terminal's device alone decides.
    const fn is_by_device(&self) -> bool {
        self.private.is_none() && self.imsi.is_none() && self.serving.is_none()
    }

    fn means(&self, binding: &Binding) -> bool {
        let private = binding.private.map(|private| (binding.realm, private.octets()));
        self.device.is_none_or(|device| device == binding.device)
            && (self.private.is_none() || self.private == private)
            && (self.imsi.is_none() || self.imsi == binding.imsi)
            && (self.serving.is_none() || self.serving == binding.serving)
    }
}

impl Engine {
    pub(super) fn release(
        &mut self,
        tables: &Tables,
        request: &Request<'_>,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<Outcome, Reason> {
        let Request { bytes, from, now, .. } = *request;
        let (user, options) = (message.header.destination, &message.options);
        let peer = Self::peer(tables, request)?;
        let home = tables.route(user);
        let is_own = Self::is_own(tables, user);
        // The home server ends a visit, whoever serves the user ends what it serves; other servers,
        // nothing. Everybody else is judged as in REGISTER.
        let serving = match peer {
            Some(_) if is_own => Some(from),
            Some(_) if peer == home => None,
            Some(_) => return Err(Reason::NotPermitted),
            None => {
                self.permit(tables, request, message, user)?;
                None
            }
        };
        if home.is_none() {
            return Err(Reason::NoRoute);
        }
        let realm = options.realm(bytes).unwrap_or(0);
        // A home server that names where the terminal is now means that of device 0 alone.
        let is_one = peer.is_some() && options.serving_server(bytes).is_some();
        let which = Which {
            device: options.device(bytes).filter(|device| *device != 0 || is_one),
            private: options.private_address(bytes).map(|private| (realm, private.octets())),
            imsi: options.imsi(bytes),
            serving,
        };
        let Age { heard_ms: age, .. } = Age::of(request, message);

        let known = self.store.of_user(user).map(|(_, entry)| entry);
        let meant = known.filter(|entry| !entry.is_ended() || which.is_by_device()).map(Entry::binding);
        let mut ends: Vec<Binding> = meant.filter(|binding| which.means(binding)).collect();
        if is_own {
            let rows = Self::rows(tables, user).filter(|row| which.means(row));
            ends.extend(rows.filter(|row| self.store.find(user, row.device).is_none()));
        }

        let known = ends.iter().map(|binding| binding.device).chain(which.device);
        let newest = known.map(|device| self.last_heard(user, device, now)).max().unwrap_or(0);
        // All terminals are those, too, that nothing is known of but their RELEASE.
        let others = (which.is_by_device() && which.device.is_none()).then_some(0..=u8::MAX);
        let released = others.into_iter().flatten().map(Some).chain([None]);
        let released = released.filter_map(|device| self.released.get(&(user, device)));
        if age < released.map(|(heard, _)| *heard).max().unwrap_or(0).max(newest) {
            return Err(Reason::StaleOrReplayed);
        }
        // Terminals that are not known must not be bound by what was sent before this.
        let names_all = which.device.is_none() && (which.is_by_device() || peer.is_some());
        // A visitor's registration that is under way is newer than what its home says here, unless the home
        // refuses it.
        let is_under_way = |device| peer.is_some() && self.relays.is_pending(user, device);
        let mut is_remembered =
            !user.is_none() && !is_under_way(which.device) && (names_all || ends.is_empty());
        let nothing = (user, which.device);
        let is_full = self.released.len() >= RELEASED_MAX && self.released.get(&nothing).is_none();
        if is_remembered && is_full && peer.is_none() {
            return Err(Reason::Overloaded);
        }
        // What another server ends runs out by itself, too.
        is_remembered &= !is_full;

        let asker = Asker::new(request, message.header);
        asker.answer(tables, &mut asker.head(Kind::Released), &[], now, out)?;
        if peer.is_none() {
            self.relays.drop_pending(user, which.device).into_iter().for_each(|asker| {
                self.refuse(tables, &asker, Reason::StaleOrReplayed, now, out);
            });
        }
        if peer.is_none() {
            let by_device = which.is_by_device().then_some(which.device);
            match home {
                Some(_) if is_own => self.left_home(tables, user, by_device, &ends, now, out),
                Some(home) if self.store.of_user(user).next().is_some() => {
                    self.left_visit(tables, home, user, by_device, &ends, now, out);
                }
                _ => {}
            }
        }
        for binding in &ends {
            let device = binding.device;
            let is_under_way = peer.is_some() && self.relays.is_pending(user, Some(device));
            let heard_ms = if is_under_way { self.last_heard(user, device, now) } else { age };
            self.commit(tables, Change::End { user, device, heard_ms }, now, out);
        }
        self.silence(tables, user, |binding| which.means(binding), &ends, now, out);
        if is_remembered {
            let change = Change::Released { user, device: which.device, heard_ms: age };
            self.commit(tables, change, now, out);
        }
        Ok(Outcome::Answered)
    }
}
