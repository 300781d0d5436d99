//! The rules: checked at every step, and at the end that something good happened.

use super::World;
use crate::device::seconds;
use crate::fleet::HEADQUARTERS;
use crate::summary::Summary;
use crate::vendor::{Patch, Proof};
use protocol::core::{Core, Event, Output};
use protocol::digest::Blake3Root;
use protocol::fetch::{Fetch, Read};
use protocol::identifier::DeviceId;
use protocol::manifest::Evidence;
use protocol::report::Source;
use protocol::time::Moment;
use protocol::wire::{Holding, Request, Response};
use std::collections::BTreeMap;

use super::Broken;

/// More bytes of a content over the WAN than its size, in percent, that are still right.
const SURPLUS_PERCENT: u64 = 10;
impl World<'_> {
    /// Whether some approved and signed patch needs the content, by the metadata that a device knows.
    pub(super) fn may_travel(&self, at: usize, root: Blake3Root) -> bool {
        let version = self.devices[at].version;
        self.fleet
            .vendor
            .patches
            .iter()
            .filter(|patch| patch.is_allowed(version))
            .any(|patch| patch.manifest.contents().iter().any(|content| content.root == root))
    }

    pub(super) fn is_evidence(&self, root: Blake3Root) -> bool {
        self.fleet.vendor.patches.iter().any(|patch| {
            patch.manifest.artifacts.iter().any(|artifact| match &artifact.evidence {
                Evidence::Apt(chain) => chain.release.root == root || chain.packages.root == root,
                Evidence::None {} | Evidence::Ed25519 { .. } => false,
            })
        })
    }

    /// What must hold for whatever a core asks for.
    pub(super) fn check_output(&self, at: usize, output: &Output) -> Result<(), Broken> {
        self.check_asked(at, output)?;
        match output {
            Output::FetchPiece(Fetch { tree, piece, .. })
            | Output::ReadMirror { read: Read { tree, piece, .. }, .. } => {
                if !self.may_travel(at, tree.root()) {
                    return Err(format!(
                        "device {at} fetches {}, which nobody approved or signed",
                        tree.root()
                    ));
                }
                if self.devices[at].disk.holds(tree.root(), *piece) {
                    return Err(format!("device {at} fetches piece {} of {} twice", piece.0, tree.root()));
                }
                Ok(())
            }
            Output::Grant { root, .. } if !self.may_travel(at, *root) => {
                Err(format!("device {at} grants {root}, which nobody approved or signed"))
            }
            Output::Grant { root, .. } if self.devices[at].disk.holds_nothing(*root) => {
                Err(format!("device {at} grants {root}, of which it has nothing"))
            }
            Output::Grant { peer, .. } if self.is_expelled(at, *peer) => {
                Err(format!("device {at} grants something to a device that it knows to be expelled"))
            }
            Output::FullCheck { content, .. }
                if self.core(at).is_some_and(|core| core.is_checked(content.root)) =>
            {
                Err(format!("device {at} takes {} for checked before it is", content.root))
            }
            Output::FullCheck { content, .. }
                if !self.devices[at].disk.pieces.contains_key(&content.root) =>
            {
                Err(format!("device {at} checks {}, of which it has nothing", content.root))
            }
            Output::Request { request: Request::Hello(hello), .. } => {
                self.check_offer(at, &hello.news.holdings)
            }
            Output::Request { request: Request::News(news), .. } => self.check_offer(at, &news.holdings),
            Output::Respond { response: Response::Hello(hello), .. } => {
                self.check_offer(at, &hello.news.holdings)
            }
            Output::Install { manifest, .. } => {
                let patches = &self.fleet.vendor.patches;
                let Some(patch) = patches.iter().find(|patch| patch.manifest == **manifest) else {
                    return Err(format!("device {at} installs an unknown patch"));
                };
                let name = &patch.manifest.patch;
                let allowed = patch.is_allowed(self.devices[at].version);
                let missing = self.missing_requirement(at, patch);
                let process = self.devices[at].process.as_ref();
                let checked = manifest.artifacts.iter().all(|artifact| {
                    process.is_some_and(|process| process.checked.contains(&artifact.content.root))
                });
                match () {
                    () if at == HEADQUARTERS => Err("headquarters installs something".to_owned()),
                    () if missing => Err(format!("device {at} installs {name} before what it requires")),
                    () if !allowed => Err(format!("device {at} installs {name}, which is not allowed")),
                    () if !checked => Err(format!("device {at} installs {name} unverified")),
                    () if self.devices[at].has(patch) => Err(format!("device {at} installs {name} twice")),
                    () if self.installing.contains_key(&at) => {
                        Err(format!("device {at} starts a second installer"))
                    }
                    () => Ok(()),
                }
            }
            Output::Event(Event::Deployment { patch, state }) if state == "installed" => {
                let mut patches = self.fleet.vendor.patches.iter();
                match patches.find(|one| one.manifest.patch == *patch && !self.devices[at].has(one)) {
                    Some(_) => Err(format!("device {at} says that {patch} is installed, and it is not")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_expelled(&self, at: usize, peer: DeviceId) -> bool {
        let expelled = self.numbers.get(&peer).is_some_and(|peer| self.expelled.contains(peer));
        expelled && self.devices[at].version >= 2
    }

    fn missing_requirement(&self, at: usize, patch: &Patch) -> bool {
        patch.manifest.requires.iter().any(|required| {
            let mut patches = self.fleet.vendor.patches.iter();
            patches.any(|other| other.manifest.patch == *required && !self.devices[at].has(other))
        })
    }

    fn check_offer(&self, at: usize, holdings: &[Holding]) -> Result<(), Broken> {
        for holding in holdings {
            if !self.may_travel(at, holding.root) {
                return Err(format!("device {at} offers {}, which nobody approved or signed", holding.root));
            }
            if let Some(piece) =
                holding.pieces.iter().find(|piece| !self.devices[at].disk.holds(holding.root, *piece))
            {
                return Err(format!("device {at} offers piece {} of {} unverified", piece.0, holding.root));
            }
        }
        Ok(())
    }

    pub(super) fn note_finished(&mut self, at: usize) {
        let all = self.fleet.vendor.patches.iter().filter(|patch| patch.is_wanted());
        if self.devices[at].finished.is_none() && all.clone().all(|patch| self.devices[at].has(patch)) {
            self.devices[at].finished = Some(self.now);
        }
    }

    fn has_everything(&self, at: usize) -> bool {
        let mut all = self.fleet.vendor.patches.iter().filter(|patch| patch.is_wanted());
        all.all(|patch| self.devices[at].has(patch))
    }

    pub(super) fn core(&self, at: usize) -> Option<&Core> {
        self.devices[at].process.as_ref().map(|process| &process.core)
    }

    /// Whether every device that lives has everything installed and reported, and nothing more is going to go wrong.
    pub(super) fn is_settled(&self) -> bool {
        self.outstanding == 0
            && (1..self.devices.len()).filter(|at| !self.devices[*at].gone).all(|at| {
                let awake = !self.devices[at].is_asleep(self.now);
                awake
                    && self.has_everything(at)
                    && self.core(at).is_some_and(|core| core.reports_waiting() == 0)
            })
    }

    /// Why it is not settled.
    pub(super) fn what_is_missing(&self) -> Broken {
        let mut missing = Vec::new();
        for at in (1..self.devices.len()).filter(|at| !self.devices[*at].gone) {
            let Some(core) = self.core(at) else {
                missing.push(format!("device {at} is down"));
                continue;
            };
            let lacks = self.fleet.vendor.patches.iter();
            let lacks = lacks.filter(|patch| patch.is_wanted() && !self.devices[at].has(patch));
            for patch in lacks {
                let pieces: Vec<_> =
                    patch.manifest.contents().iter().map(|content| core.pieces_of(content.root)).collect();
                let mut deployments = core.deployments().into_iter();
                let deployment = deployments.find(|one| one.patch == patch.manifest.patch);
                let state = deployment.map(|one| one.state);
                missing.push(format!("device {at} lacks {}: {state:?}, pieces {pieces:?}", patch.package));
            }
            let waiting = core.reports_waiting();
            if waiting > 0 {
                missing.push(format!("{waiting} reports of device {at} are not acknowledged"));
            }
        }
        format!("not finished in time: {}", missing.join("; "))
    }

    /// The end: everything arrived, was reported and cost what it should.
    pub(super) fn judge(&self, settled: Moment) -> Result<Summary, Broken> {
        for at in (1..self.devices.len()).filter(|at| !self.devices[*at].gone) {
            self.judge_reports(at)?;
            self.judge_plan(at)?;
        }
        for (root, tree) in &self.fleet.vendor.trees {
            for site in 0..self.scenario.sites.len() {
                self.judge_amplification(site, *root, tree.size())?;
            }
        }
        Ok(self.summary(settled))
    }

    /// The aggregate is the union of what the devices hold (X8).
    fn judge_reports(&self, at: usize) -> Result<(), Broken> {
        let Some(core) = self.core(at) else { return Ok(()) };
        let Some(known) = self.aggregate.device(self.fleet.keys[at].device()) else {
            return Err(format!("the aggregator never heard of device {at}"));
        };
        if known.facts() != core.reported() {
            return Err(format!("the aggregate says something else of device {at} than itself"));
        }
        for patch in self.fleet.vendor.patches.iter().filter(|patch| patch.is_wanted()) {
            let finding = known.facts().finding(&patch.manifest.patch);
            if finding != protocol::scan::Finding::Installed {
                return Err(format!("the aggregate says {} of {at} is {finding:?}", patch.package));
            }
            let deployment = known.facts().deployments().get(&patch.manifest.patch).map(|one| one.state);
            let botched = self.botched.contains(&(at, patch.package.clone()));
            if deployment != Some(protocol::deploy::State::Installed) && !botched {
                return Err(format!(
                    "the aggregate says that {at} deployed {}: {deployment:?}",
                    patch.package
                ));
            }
        }
        Ok(())
    }

    /// The plan names nothing that is not to be installed, even if nothing would come of it.
    fn judge_plan(&self, at: usize) -> Result<(), Broken> {
        let Some(core) = self.core(at) else { return Ok(()) };
        let version = self.devices[at].version;
        let forbidden = self.fleet.vendor.patches.iter().filter(|patch| !patch.is_allowed(version));
        let forbidden: Vec<_> = forbidden.map(|patch| &patch.manifest.patch).collect();
        let reported = core.reported().deployments();
        let never = self.fleet.vendor.patches.iter().filter(|patch| patch.is_never_wanted());
        if let Some(patch) =
            never.map(|patch| &patch.manifest.patch).find(|patch| reported.contains_key(patch))
        {
            return Err(format!("device {at} had begun to deploy {patch}"));
        }
        match core.plan().steps.iter().find(|step| forbidden.contains(&&step.patch)) {
            Some(step) => Err(format!("device {at} plans {}, which is not allowed", step.patch)),
            None => Ok(()),
        }
    }

    /// Bytes of a content over a site's WAN: its size and a tenth, what was lost on the way, and what was fetched once
    /// more for a cause that is named.
    fn judge_amplification(&self, site: usize, root: Blake3Root, size: u64) -> Result<(), Broken> {
        let came = self.ledger.pieces.get(&(site, root)).copied().unwrap_or(0);
        let lost = self.ledger.lost.get(&(site, root)).copied().unwrap_or(0);
        let again = self.ledger.caused(site, self.scenario.sites[site].devices, root);
        let allowed = size + size * SURPLUS_PERCENT / 100 + lost + again;
        if came > allowed {
            let deaths = self.ledger.deaths;
            return Err(format!(
                "{came} bytes of {root} ({size} bytes) crossed the WAN of site {site}, {allowed} are right after \
                 {deaths} deaths: {lost} lost, {again} again for a cause"
            ));
        }
        Ok(())
    }

    fn summary(&self, settled: Moment) -> Summary {
        let mut by_reason: BTreeMap<String, u64> = BTreeMap::new();
        for core in (1..self.devices.len()).filter_map(|at| self.core(at)) {
            for transfer in core.transfer_totals() {
                for (source, reason, bytes) in transfer.fetched {
                    if source == Source::Wan {
                        *by_reason.entry(reason.code().to_owned()).or_default() += bytes;
                    }
                }
            }
        }
        let finished = |at: usize| {
            let moment = self.devices[at].finished?;
            Some((format!("device {at}"), seconds(moment.since(Moment::START))))
        };
        let owned = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(label, bytes)| ((*label).to_owned(), *bytes)).collect()
        };
        let (mut sizes, mut came) = (0, 0);
        let mut amplification = BTreeMap::new();
        for (root, tree) in self.fleet.vendor.trees.iter().filter(|(root, _)| self.is_shared(**root)) {
            let sites = self.scenario.sites.len() as u64;
            let of_sites =
                (0..self.scenario.sites.len()).filter_map(|site| self.ledger.pieces.get(&(site, *root)));
            let bytes = of_sites.sum::<u64>() / sites;
            if !self.is_evidence(*root) {
                sizes += tree.size();
                came += bytes;
            }
            amplification.insert(self.content_name(*root, tree.size()), ratio(bytes, tree.size()));
        }
        Summary {
            seed: self.scenario.seed,
            digest: self.trace.digest(),
            scenario: format!("{:?} {:?}", self.scenario.sites, self.scenario.faults),
            fired: owned(&self.ledger.fired),
            duplicate_bytes_by_cause: owned(&self.ledger.duplicates_by_cause()),
            finished_seconds: (1..self.devices.len()).filter_map(finished).collect(),
            settled_seconds: seconds(settled.since(Moment::START)),
            wan_down_bytes: owned(&self.ledger.down),
            wan_up_bytes: owned(&self.ledger.up),
            wan_piece_bytes_by_reason: by_reason,
            lan_bytes: self.ledger.lan,
            amplification,
            amplification_overall: ratio(came, sizes),
            messages: self.ledger.messages,
            messages_to_headquarters: self.ledger.messages_to_headquarters,
            message_bytes_to_headquarters: self.ledger.message_bytes_to_headquarters,
            inputs: self.ledger.inputs,
        }
    }

    /// Whether some patch that devices are to have needs the content.
    fn is_shared(&self, root: Blake3Root) -> bool {
        let mut wanted = self.fleet.vendor.patches.iter().filter(|patch| patch.is_wanted());
        wanted.any(|patch| patch.manifest.contents().iter().any(|content| content.root == root))
    }

    fn content_name(&self, root: Blake3Root, size: u64) -> String {
        let named = self.fleet.vendor.patches.iter().find(|patch| {
            patch.proof != Proof::Unsigned
                && patch.manifest.artifacts.iter().any(|artifact| artifact.content.root == root)
        });
        let name = named.map_or("evidence", |patch| patch.package.as_str());
        format!("{name}, {size} bytes, {}", &root.to_string()[..8])
    }
}

fn ratio(bytes: u64, size: u64) -> f64 {
    (bytes as f64 / size.max(1) as f64 * 1_000.0).round() / 1_000.0
}
