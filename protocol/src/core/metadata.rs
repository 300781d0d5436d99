//! Metadata: one device of a site fetches it over the WAN, the others from their neighbours; accepted when durable.

use super::rules::{Catalogues, Rules};
use super::timers::Timer;
use super::{Core, Event, Output, Pending, Record, RestoreError, Setup, prefix};
use crate::codec;
use crate::digest::Blake3Root;
use crate::identifier::DeviceId;
use crate::limits;
use crate::reason::Reason;
use crate::report::IncidentKind;
use crate::time::{Moment, WallTime};
use crate::trust::publish::catalogue_role;
use crate::trust::{self, Bundle, Refused, RoleName, Trusted, refresh_from_bundle};
use crate::wire::{Hint, Request, Versions};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a device waits for a neighbour to bring newer metadata before it asks the seed whether it is its turn.
const NEIGHBOUR_TIME: Duration = Duration::from_secs(2);

/// Hints are followed no more often than this.
const HINTS: Duration = Duration::from_secs(10);

/// A check-in that brings nothing new is written down when the one in the store is older than this.
const CHECKED_SECONDS: u64 = 3_600;

/// How long a neighbour has to deliver newer metadata before the seed is asked as well.
const DELIVERY_TIME: Duration = Duration::from_secs(5);
/// How long a neighbour is not asked again that promised newer metadata and brought none: it could otherwise promise more
/// as soon as it broke its word, and keep the seed from being asked.
const DISTRUST: Duration = Duration::from_secs(60);

/// Where the refresh stands, and other things about connections that are not worth keeping.
#[derive(Debug, Default)]
pub(super) struct Refreshing {
    /// Who was asked for metadata and has not answered.
    asking: Option<DeviceId>,
    /// Neighbours that promised newer metadata and did not bring any that passes: until when they are not asked again,
    /// whatever they promise.
    distrusted: BTreeMap<DeviceId, Moment>,
    /// Refusals since the last acceptance, each reported once.
    reported: BTreeSet<(Option<DeviceId>, &'static str)>,
    /// Accepted, not durable yet.
    storing: bool,
    /// What the repository said meanwhile: the latest is looked at when the other is durable.
    deferred: Option<(Bundle, Vec<String>)>,
    /// Targets of this seed's repository.
    pub(super) targets: Vec<String>,
    /// Records that may be stored, so that vanished ones are deleted: a restart takes one too many for damage.
    stored: BTreeSet<String>,
    /// When newer metadata came or a seed said that there is none, and when that was last written down.
    pub(super) checked: Option<WallTime>,
    checked_stored: Option<WallTime>,
    /// When a hint was last followed.
    hinted: Option<Moment>,
    pub(super) redials: u32,
    /// Until when this device, new in a crowd, leaves the services to others.
    pub(super) crowd: Option<Moment>,
    pub(super) dialling: BTreeMap<DeviceId, Moment>,
    pub(super) news: BTreeSet<Blake3Root>,
    /// When the neighbours heard the last news.
    pub(super) told: Option<Moment>,
}

impl Refreshing {
    /// Goes on where the stored records end.
    pub(super) fn restore(records: &[(String, Vec<u8>)], checked: Option<&[u8]>) -> Refreshing {
        let stored = records.iter().map(|(name, _)| name.clone()).collect();
        // Nothing hangs on it: a version before left it empty.
        let checked = checked.and_then(|bytes| codec::decode::<_, 16>(bytes).ok());
        Refreshing { stored, checked, checked_stored: checked, ..Refreshing::default() }
    }

    fn distrust(&mut self, device: DeviceId, now: Moment) {
        self.distrusted.retain(|_, until| now < *until);
        self.distrusted.insert(device, now + DISTRUST);
    }

    pub(super) fn lost(&mut self, device: DeviceId) {
        if self.asking == Some(device) {
            self.asking = None;
        }
    }
}

/// Metadata that passed every check and waits to become durable.
#[derive(Debug)]
pub(super) struct Accepted {
    trusted: Trusted,
    rules: Rules,
    from: Option<DeviceId>,
    wanted: Vec<String>,
}

/// The trusted metadata from its records, or the beginning of trust when there are none and never `were` any.
pub(super) fn restore(
    setup: &Setup,
    records: Vec<(String, Vec<u8>)>,
    were: bool,
) -> Result<Trusted, RestoreError> {
    if records.is_empty() && !were {
        return Trusted::from_root(&setup.root, setup.fleet).map_err(RestoreError::Root);
    }
    Trusted::restore(records, setup.fleet).map_err(RestoreError::Trust)
}

impl Core {
    /// What this node would ask a neighbour for.
    pub fn metadata_request(&self) -> trust::Request {
        self.trusted.request(&self.wanted_targets())
    }

    /// Whether accepted metadata is on its way to the disk and not in force yet.
    pub fn is_storing_metadata(&self) -> bool {
        self.refreshing.storing
    }

    fn wanted_targets(&self) -> Vec<String> {
        if self.setup.roles.seed && !self.refreshing.targets.is_empty() {
            return self.refreshing.targets.clone();
        }
        self.trusted.wanted_by(&self.setup.member.system)
    }

    /// Whether the accepted metadata is still in force: for `offline_days` after it expired (X6).
    pub(super) fn metadata_in_force(&self) -> Result<(), Reason> {
        match self.trusted.expires() {
            Some((_, expires)) if self.wall >= expires.plus_days(self.rules.effective.offline_days) => {
                Err(Reason::OfflineTooLong)
            }
            _ => Ok(()),
        }
    }

    /// Checks in: the seed says whether there is anything newer.
    pub(super) fn check_in(&mut self, now: Moment) {
        self.announce(now);
        let jitter = Duration::from_secs(self.random() % 600);
        self.timers.set(Timer::CheckIn, now + Duration::from_secs(limits::CHECK_IN_SECONDS) - jitter);
    }

    /// A seed answered: where it has nothing newer, this node is up to date now.
    pub(super) fn on_checked(&mut self, theirs: Versions) {
        if theirs.timestamp == 0 || self.lacks(theirs) {
            return;
        }
        self.refreshing.checked = Some(self.wall);
        let stored = self.refreshing.checked_stored;
        if !stored
            .is_some_and(|stored| self.wall.seconds_since(stored) < CHECKED_SECONDS && stored <= self.wall)
            && !self.refreshing.storing
            && self.trusted.timestamp_version() > 0
        {
            self.refreshing.checked_stored = Some(self.wall);
            let value = Some(codec::encode(&self.wall));
            self.store(vec![Record { key: prefix::TRUSTED.to_vec(), value }], Pending::StoreOther);
        }
    }

    /// A peer said what it has: if it is newer and the peer is a neighbour, that is where we get it.
    pub(super) fn consider_metadata(&mut self, now: Moment, from: DeviceId) {
        let Some(peer) = self.peers.get(&from) else { return };
        let distrusted = self.refreshing.distrusted.get(&from).is_some_and(|until| now < *until);
        if !self.lacks(peer.versions) || distrusted {
            return;
        }
        if self.rules.services.is_seed(from) {
            self.timers.bring_forward(Timer::Announce, now + NEIGHBOUR_TIME);
        } else if self.is_neighbour(&peer.member) && !self.rules.is_revoked(from) {
            self.request_metadata(from);
            // Unless it delivers before.
            self.timers.bring_forward(Timer::Announce, now + DELIVERY_TIME);
        }
    }

    /// Versions of the metadata that this node has and can pass on. Before the catalogues of its vendors are here too,
    /// it has nothing that others could ask it for, and goes on asking itself.
    pub(super) fn versions(&self) -> Versions {
        if self.metadata_is_complete() { Versions::of(&self.trusted) } else { Versions::default() }
    }

    /// Whether the catalogue roles of all vendors are here. The first refresh of a node brings the list of vendors, and
    /// only the next one can ask for what they sign; a crash between the two must not be taken for the end.
    fn metadata_is_complete(&self) -> bool {
        if self.setup.roles.seed {
            return true;
        }
        let Some(snapshot) = self.trusted.snapshot() else { return false };
        let delegations = self.trusted.role(&RoleName::targets()).and_then(|top| top.delegations.as_ref());
        let is_delegated = |role: &RoleName| {
            delegations.is_some_and(|delegations| delegations.roles.iter().any(|entry| entry.name == *role))
        };
        let vendors = &self.rules.vendors.vendors;
        vendors.iter().filter_map(|vendor| catalogue_role(&vendor.name)).all(|role| {
            snapshot.role(&role).is_none() || !is_delegated(&role) || self.trusted.role(&role).is_some()
        })
    }

    pub(super) fn lacks(&self, theirs: Versions) -> bool {
        !self.setup.roles.seed
            && self.versions().is_older_than(theirs)
            && !crate::mutant::mutated(crate::mutant::Mutant::LackNothing)
    }

    pub(super) fn request_metadata(&mut self, from: DeviceId) {
        // A seed is asked although a neighbour has not answered yet: that one may never.
        let asked = self.refreshing.asking.is_some_and(|asked| !self.is_seed(from) || self.is_seed(asked));
        if asked || self.refreshing.storing {
            return;
        }
        self.refreshing.asking = Some(from);
        let request = self.metadata_request();
        let had = Versions::of(&self.trusted);
        self.ask(from, Request::Metadata(request), Pending::Metadata(from, had));
    }

    pub(super) fn on_no_bundle(&mut self, now: Moment, from: DeviceId) {
        self.refreshing.lost(from);
        if !self.is_seed(from) {
            self.refreshing.distrust(from, now);
        }
        self.timers.bring_forward(Timer::Announce, now + NEIGHBOUR_TIME);
    }

    /// A peer brings what it was asked for when this node `had` older metadata than now, perhaps.
    pub(super) fn on_bundle(&mut self, now: Moment, from: DeviceId, had: Versions, bundle: &Bundle) {
        self.refreshing.lost(from);
        self.note_metadata_bytes(from, bundle.bytes() as u64);
        let wanted = self.wanted_targets();
        self.refresh(now, Some((from, had)), bundle, wanted);
    }

    pub(super) fn on_repository(&mut self, now: Moment, bundle: &Bundle, targets: Vec<String>) {
        self.refreshing.targets.clone_from(&targets);
        self.refresh(now, None, bundle, targets);
    }

    fn refresh(
        &mut self,
        now: Moment,
        from: Option<(DeviceId, Versions)>,
        bundle: &Bundle,
        wanted: Vec<String>,
    ) {
        let (from, had) = from.unzip();
        if self.refreshing.storing {
            // Judged by what is in force it could take back what is on its way to the disk.
            match from {
                Some(from) => self.on_no_bundle(now, from),
                None => self.refreshing.deferred = Some((bundle.clone(), wanted)),
            }
            return;
        }
        let refreshed = refresh_from_bundle(&self.trusted, bundle, self.wall, &wanted);
        let (trusted, wanted) = match refreshed {
            Ok(trusted) => self.with_new_vendors(bundle, trusted, wanted),
            // Somebody else was faster with newer metadata: this one did what it was asked.
            Err(Refused::TimestampRollback { found, .. })
                if had.is_some_and(|had| found >= had.timestamp) =>
            {
                return self.pass_over(now, from);
            }
            Err(refused) => return self.on_metadata_refused(now, from, &refused),
        };
        if trusted == self.trusted {
            return self.pass_over(now, from);
        }
        let which = if self.setup.roles.seed { Catalogues::All } else { Catalogues::Own };
        let (setup, fleet) = (&self.setup, self.setup.fleet);
        match Rules::read(&trusted, fleet, &setup.services, &setup.member, which) {
            Ok(rules) => self.store_trust(Accepted { trusted, rules, from, wanted }),
            Err(unreadable) => {
                let message = unreadable.to_string();
                self.incident(IncidentKind::RefusedMetadata, None, from, &message);
                self.event(Event::MetadataRefused { code: "unreadable", message });
                self.pass_over(now, from);
            }
        }
    }

    /// The list of vendors may have come just now, and their catalogues in the same bundle. Where they did not, or do not
    /// pass, what did pass stands, and they are asked for.
    fn with_new_vendors(
        &self,
        bundle: &Bundle,
        refreshed: Trusted,
        wanted: Vec<String>,
    ) -> (Trusted, Vec<String>) {
        let more = if self.setup.roles.seed {
            wanted.clone()
        } else {
            refreshed.wanted_by(&self.setup.member.system)
        };
        if more == wanted {
            return (refreshed, wanted);
        }
        match refresh_from_bundle(&self.trusted, bundle, self.wall, &more) {
            Ok(whole) => (whole, more),
            Err(_) => (refreshed, wanted),
        }
    }

    /// Whether this node has none of the fleet's metadata yet, not all of it, or heard of newer.
    pub(super) fn knows_of_newer_metadata(&self) -> bool {
        !self.metadata_is_complete() || self.peers.values().any(|peer| self.lacks(peer.versions))
    }

    fn on_metadata_refused(&mut self, now: Moment, from: Option<DeviceId>, refused: &Refused) {
        let message = refused.to_string();
        let room = self.refreshing.reported.len() < limits::ARTIFACTS_TRACKED;
        if room && self.refreshing.reported.insert((from, refused.code())) {
            self.incident(IncidentKind::RefusedMetadata, None, from, &message);
        }
        self.event(Event::MetadataRefused { code: refused.code(), message });
        self.pass_over(now, from);
    }

    /// A peer had nothing for us, whatever it said: not asked for the same again, and others get their turn.
    fn pass_over(&mut self, now: Moment, from: Option<DeviceId>) {
        let Some(from) = from else { return };
        let Some(peer) = self.peers.get(&from) else { return };
        if !self.lacks(peer.versions) {
            return;
        }
        if !self.is_seed(from) {
            self.refreshing.distrust(from, now);
        }
        self.timers.bring_forward(Timer::Announce, now + NEIGHBOUR_TIME);
        let others: Vec<DeviceId> = self.peers.keys().copied().filter(|device| *device != from).collect();
        for other in others {
            self.consider_metadata(now, other);
        }
    }

    /// Data before record, record before action: nothing of the new metadata counts before it is durable.
    fn store_trust(&mut self, accepted: Accepted) {
        let mut records = accepted.trusted.records();
        if crate::mutant::mutated(crate::mutant::Mutant::TrustUnwritten) {
            records.clear();
        }
        let names: BTreeSet<String> = records.iter().map(|(name, _)| name.clone()).collect();
        let gone = self.refreshing.stored.difference(&names).cloned().map(|name| (name, None));
        let present = records.into_iter().map(|(name, bytes)| (name, Some(bytes)));
        let records = present
            .chain(gone.collect::<Vec<_>>())
            .map(|(name, value)| Record { key: [prefix::TRUST, name.as_bytes()].concat(), value })
            .chain([Record { key: prefix::TRUSTED.to_vec(), value: Some(codec::encode(&self.wall)) }])
            .collect();
        self.refreshing.storing = true;
        // Until it is durable, the disk may have the one or the other.
        self.refreshing.stored.extend(names);
        self.store(records, Pending::StoreTrust(Box::new(accepted)));
    }

    pub(super) fn on_trust_stored(&mut self, now: Moment, accepted: Accepted, durable: bool) {
        self.refreshing.storing = false;
        if durable {
            self.put_in_force(now, accepted);
        } else {
            self.timers.bring_forward(Timer::Announce, now + Duration::from_secs(10));
        }
        if let Some((bundle, targets)) = self.refreshing.deferred.take() {
            self.on_repository(now, &bundle, targets);
        }
    }

    fn put_in_force(&mut self, now: Moment, accepted: Accepted) {
        let Accepted { trusted, rules, from, wanted } = accepted;
        self.refreshing.stored = trusted.records().into_iter().map(|(name, _)| name).collect();
        let same_vendors = rules.vendors == self.rules.vendors;
        self.trusted = trusted;
        self.rules = rules;
        self.refreshing.stored = self.trusted.records().into_iter().map(|(name, _)| name).collect();
        self.refreshing.reported.clear();
        (self.refreshing.checked, self.refreshing.checked_stored) = (Some(self.wall), Some(self.wall));
        let versions = Versions::of(&self.trusted);
        self.event(Event::MetadataAccepted { timestamp: versions.timestamp });
        self.outputs.push_back(Output::TrustChanged(self.rules.verifier.clone()));
        if self.metadata_is_complete() && self.gossips() {
            self.outputs.push_back(Output::Publish(Hint::Metadata(versions)));
        }
        self.drop_strangers();
        self.revise_memory(now);
        self.revise_caps();
        self.regard_peers_anew();
        self.offer_again();
        if same_vendors {
            self.keep_verdicts();
        } else {
            self.recheck_evidence();
        }
        self.reassess(now);
        self.revise_grants();
        self.timers.bring_forward(Timer::Redial, now);
        let peers: Vec<DeviceId> = self.peers.keys().copied().collect();
        // A vendor that is new here has a catalogue that was not asked for yet.
        let more = self.wanted_targets() != wanted;
        if let Some(from) = from.filter(|from| more && self.peers.contains_key(from)) {
            self.request_metadata(from);
        }
        for peer in peers {
            self.consider_metadata(now, peer);
        }
    }

    /// Ends connections to whoever is no member any more, and with peer download off to whoever is no service (N7).
    pub(super) fn drop_strangers(&mut self) {
        let strangers: Vec<(DeviceId, Reason)> = self
            .peers
            .iter()
            .filter_map(|(device, peer)| {
                let current = self.rules.verifier.check_current(&peer.member, self.wall);
                let reason = current.err().map(Reason::from);
                let reason = reason.or((!self.talks_to(*device)).then_some(Reason::PeerDownloadOff));
                Some((*device, reason?))
            })
            .collect();
        let guests = self.guests().into_iter().map(|device| (device, Reason::NeighboursFull));
        for (device, reason) in strangers.into_iter().chain(guests) {
            self.outputs.push_back(Output::Disconnect(device, reason));
        }
    }

    /// The clock was set: what was refused by the old one is judged again.
    pub(super) fn forget_refusals(&mut self, now: Moment) {
        self.refreshing.distrusted.clear();
        self.keep_verdicts();
        self.timers.bring_forward(Timer::Announce, now);
    }

    /// With peer download off there is no gossip either (N7); a seed speaks to those for whom it is on.
    fn gossips(&self) -> bool {
        self.setup.roles.seed || self.rules.effective.peer_download
    }

    /// Peers may be more or less to us under the new rules: a seed, a neighbour, or neither.
    fn regard_peers_anew(&mut self) {
        let devices: Vec<DeviceId> = self.peers.keys().copied().collect();
        for device in devices {
            let Some(peer) = self.peers.get(&device) else { continue };
            let is_seed = self.rules.services.is_seed(device);
            if !is_seed && !self.is_neighbour(&peer.member) {
                self.fetcher.remove(device);
            }
            self.join_as_source(device);
        }
    }

    pub(super) fn on_hint(&mut self, now: Moment, from: DeviceId, hint: Hint) {
        if !self.gossips() {
            return;
        }
        match hint {
            Hint::Metadata(versions) => self.on_versions(now, versions),
            Hint::Reads { site, roots } => self.on_reads(now, from, &site, roots),
            Hint::Reached(site) => self.on_seed_reached(now, &site),
        }
    }

    fn on_versions(&mut self, now: Moment, versions: Versions) {
        if self.lacks(versions) {
            // Nothing proves a hint: one member must not make all others call the seed for ever.
            let jitter = Duration::from_millis(self.random() % 500);
            let earliest = match self.refreshing.hinted {
                // One is to be followed then already: those of all others put it off no further.
                Some(planned) if planned > now => planned,
                hinted => hinted.map_or(now, |hinted| now.max(hinted + HINTS)),
            };
            self.refreshing.hinted = Some(earliest);
            self.timers.bring_forward(Timer::Announce, earliest + jitter);
        }
    }

    /// When the metadata that is in force expires, for alarms.
    pub(super) fn metadata_expiry(&self) -> Option<(RoleName, WallTime)> {
        self.trusted.expires()
    }
}
