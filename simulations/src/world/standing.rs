//! What a core was told and what stands between two steps: its connections, its grants, the metadata that it knows.

use super::parcel::Freight;
use super::{Broken, World};
use crate::fleet::HEADQUARTERS;
use protocol::core::{Input, Output};
use protocol::fetch::Fetch;
use protocol::identifier::DeviceId;
use protocol::wire::{LeaseRequest, Request};
use std::time::Duration;

/// Longer than every pause of a device that may fetch.
const STARVES: Duration = Duration::from_secs(180);
/// Whoever was silent for so long did not wait.
const SILENT: Duration = Duration::from_secs(60);

impl World<'_> {
    /// A fact is about to reach a core: what it is told of connections and of its files is remembered here too.
    pub(super) fn note_told(&mut self, at: usize, input: &Input) {
        let Some(process) = &mut self.devices[at].process else { return };
        match input {
            Input::Connected(member) => drop(process.connected.insert(member.device)),
            Input::Disconnected(device) => drop(process.connected.remove(device)),
            Input::FullChecked { effect, result } => {
                if let (Some(root), Ok(())) = (process.checking.remove(effect), result) {
                    process.checked.insert(root);
                }
            }
            _ => {}
        }
    }

    /// Nobody asks whom it is not connected with, nor for what it may not have.
    pub(super) fn check_asked(&self, at: usize, output: &Output) -> Result<(), Broken> {
        let to = match output {
            Output::Request { to, .. } | Output::FetchPiece(Fetch { from: to, .. }) => *to,
            _ => return Ok(()),
        };
        if !self.is_connected(at, to) {
            return Err(format!("device {at} asks {} after it heard that it is gone", to.short()));
        }
        let roots = match output {
            Output::Request { request: Request::Lease(lease), .. } => {
                lease.lines.iter().map(|line| line.root).collect()
            }
            Output::Request { request: Request::Grant(grant), .. } => vec![grant.root],
            Output::Request { request: Request::Reports(reports), .. } => {
                return self.check_sent(at, reports);
            }
            _ => Vec::new(),
        };
        match roots.into_iter().find(|root| !self.may_travel(at, *root)) {
            Some(root) => Err(format!("device {at} asks for {root}, which nobody approved or signed")),
            None => Ok(()),
        }
    }

    fn is_connected(&self, at: usize, peer: DeviceId) -> bool {
        let process = self.devices[at].process.as_ref();
        process.is_some_and(|process| process.connected.contains(&peer))
    }

    /// Grants that stand after a step are grants that would be given now.
    pub(super) fn check_grants(&self, at: usize) -> Result<(), Broken> {
        let Some(process) = &self.devices[at].process else { return Ok(()) };
        for (peer, root) in
            process.grants.iter().filter(|(_, grant)| self.now < grant.until).map(|(key, _)| key)
        {
            if !self.may_travel(at, *root) {
                return Err(format!("device {at} still grants {root}, which nobody may have any more"));
            }
            if self.is_expelled(at, *peer) {
                return Err(format!(
                    "device {at} still grants {root} to a device that it knows to be expelled"
                ));
            }
        }
        Ok(())
    }

    /// A start must not lead back to older metadata than what was in force.
    pub(super) fn check_remembers(&self, at: usize) -> Result<(), Broken> {
        let Some(core) = self.core(at) else { return Ok(()) };
        let (knows, knew) = (core.trusted_versions().timestamp, self.devices[at].version);
        if knows < knew {
            return Err(format!("device {at} knew metadata {knew} and starts with {knows}"));
        }
        Ok(())
    }

    /// A site asks for pieces that nobody there has: before long some cross its WAN, whoever holds the leases.
    pub(super) fn check_starving(&mut self, at: usize, lease: &LeaseRequest) -> Result<(), Broken> {
        let Some(site) = self.scenario.site_of(at) else { return Ok(()) };
        if self.hoarding.contains(&at) || self.expelled.contains(&at) {
            return Ok(());
        }
        let members: Vec<usize> =
            (1..self.devices.len()).filter(|other| self.scenario.site_of(*other) == Some(site)).collect();
        let nobody_has =
            |root, piece| !members.iter().any(|other| self.devices[*other].disk.holds(root, piece));
        let vain =
            lease.lines.iter().any(|line| line.wanted.iter().any(|piece| nobody_has(line.root, piece)));
        let moves = self.parcels.values().any(|parcel| {
            let piece = matches!(parcel.freight, Freight::PieceBytes { .. });
            piece && parcel.from == HEADQUARTERS && self.scenario.site_of(parcel.to) == Some(site)
        });
        if !vain || moves {
            self.starving.remove(&site);
            return Ok(());
        }
        let (since, last) = self.starving.entry(site).or_insert((self.now, self.now));
        if self.now.since(*last) > SILENT {
            *since = self.now;
        }
        *last = self.now;
        match self.now.since(*since) > STARVES {
            true => Err(format!("site {site} asks for what nobody there has, and nothing crosses its WAN")),
            false => Ok(()),
        }
    }
}
