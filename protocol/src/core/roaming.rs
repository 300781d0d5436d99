//! Away from home: a device on the LAN of another site has no peers, and whoever is behind a tunnel is no neighbour.

use super::candidates::Foreign;
use super::meeting::ROUND;
use super::timers::Timer;
use super::{Core, Output, Rung};
use crate::identifier::{DeviceId, SiteName};
use crate::membership::Member;
use crate::reason::Reason;
use crate::time::Moment;
use std::time::Duration;

/// Before a member is dialled again that is of another site, or at the other end of a tunnel.
const ABROAD: Duration = Duration::from_secs(600);
/// A device is away for so long after the last member of another site was found on its LAN. Longer than the pause before that one
/// is dialled again, or a device that still is away would look for its own in between.
const SIGHTED: Duration = Duration::from_secs(900);
/// After so many members of another site on the LAN, the rest there waits too.
const FOREIGNERS: u32 = 8;

impl Core {
    /// Whether a device was heard on our own LAN.
    pub(super) fn is_near(&self, device: DeviceId) -> bool {
        self.candidates.known.get(&device).is_some_and(|candidate| candidate.rung == Rung::Lan)
    }

    /// A member of another site is connected. When it was found on the LAN, this device may be away from home: then it has
    /// no peers, wherever it could reach those of its own site, since the way there is no LAN.
    pub(super) fn on_foreigner(&mut self, now: Moment, member: Member) {
        // Whoever keeps no neighbours of other sites sends us away as soon as we come.
        if let Some(candidate) = self.candidates.known.get_mut(&member.device) {
            candidate.not_before = candidate.not_before.max(now + ABROAD);
        }
        if !self.is_near(member.device) {
            return;
        }
        self.outputs.push_back(Output::Disconnect(member.device, Reason::OtherSite));
        let before = self.candidates.foreign.take().filter(|foreign| foreign.site == member.site);
        let count = before.map_or(1, |before| before.count.saturating_add(1));
        self.candidates.foreign = Some(Foreign { site: member.site, count, sighted: now });
        for candidate in self.candidates.known.values_mut() {
            let near = candidate.rung == Rung::Lan;
            if near && count >= FOREIGNERS {
                candidate.not_before = candidate.not_before.max(now + ABROAD);
            }
        }
        if self.roaming_at().is_some() {
            let company = self.company();
            for device in company.kin.into_iter().chain(company.others) {
                self.leave(device, Reason::OtherSite);
            }
        }
        self.timers.bring_forward(Timer::Meet, now + ROUND);
    }

    /// The site on whose LAN this device is, when it is another than its own.
    pub fn roaming_at(&self) -> Option<SiteName> {
        let foreign = self.candidates.foreign.as_ref()?;
        let company = self.company();
        let home = company.kin.iter().chain(&company.others).any(|device| self.is_near(*device));
        (!home).then(|| foreign.site.clone())
    }

    /// Tells the seeds when this device went away, or reaches nobody of its site any more, and when that is over: nobody is to
    /// count on it meanwhile.
    pub(super) fn tell_whether_alone(&mut self, now: Moment) {
        self.fetcher.set_away(self.roaming_at().is_some());
        if self.fetcher.has_to_tell(now) {
            self.announce(now);
        }
        self.watch_whether_alone(now);
    }

    /// Looks again when this device will have waited for its neighbours long enough.
    pub(super) fn watch_whether_alone(&mut self, now: Moment) {
        if let Some(at) = self.fetcher.alone_from().filter(|at| *at > now) {
            self.timers.bring_forward(Timer::Meet, at);
        }
    }

    /// Members of another site that were found on the LAN long ago may have been visitors. When that is next to be looked at.
    pub(super) fn forget_foreign(&mut self, now: Moment) -> Option<Moment> {
        self.candidates.foreign.take_if(|foreign| now.since(foreign.sighted) >= SIGHTED);
        self.candidates.foreign.as_ref().map(|foreign| foreign.sighted + SIGHTED)
    }

    /// Whether `device` is a member of the own site that came to us on the LAN of another one, over whatever way.
    pub(super) fn is_out_of_place(&self, device: DeviceId) -> bool {
        self.roaming_at().is_some() && self.keeps_no_neighbour_there(device) && !self.is_near(device)
    }

    /// Whether `device`, which is connected, would be a neighbour if it were on our LAN.
    pub fn keeps_no_neighbour_there(&self, device: DeviceId) -> bool {
        let neighbour = self.peers.get(&device).is_some_and(|peer| self.is_neighbour(&peer.member));
        neighbour && self.meets() && !self.is_service(device)
    }

    /// A member of the site is at the other end of a tunnel.
    pub(super) fn on_distant(&mut self, now: Moment, device: DeviceId) {
        if self.keeps_no_neighbour_there(device) {
            if let Some(candidate) = self.candidates.known.get_mut(&device) {
                candidate.not_before = now + ABROAD;
            }
            self.leave(device, Reason::AcrossTunnel);
        }
    }

    /// This device has other addresses than before: who was heard on the LAN of then may not be on the one of now.
    pub(super) fn on_moved(&mut self, now: Moment) {
        self.candidates.foreign = None;
        self.fetcher.moved();
        for (device, candidate) in &mut self.candidates.known {
            // Those that are still connected may be so by another way than the LAN of now.
            if candidate.rung == Rung::Lan {
                candidate.rung = Rung::Remembered;
            }
            if !self.peers.contains_key(device) {
                candidate.is_due(now);
            }
        }
        self.timers.bring_forward(Timer::Meet, now + ROUND);
    }
}
