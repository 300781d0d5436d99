//! The rules: checked at every step, and at the end that something good happened.

use super::World;
use super::network::{Freight, Parcel, Path};
use crate::device::seconds;
use crate::fleet::HEADQUARTERS;
use crate::summary::Summary;
use crate::vendor::Proof;
use protocol::core::{Core, Output};
use protocol::digest::Blake3Root;
use protocol::fetch::Fetch;
use protocol::manifest::Evidence;
use protocol::piece::PieceIndex;
use protocol::report::Source;
use protocol::time::Moment;
use protocol::wire::{Holding, Request, Response};
use std::collections::{BTreeMap, BTreeSet};

use super::Broken;

/// More bytes of a content over the WAN than its size, in percent, that are still right.
const SURPLUS_PERCENT: u64 = 10;
/// Wake-ups of one device at one moment that are no endless loop yet.
const WAKES_AT_ONCE: u32 = 50;

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub inputs: u64,
    pub refused: u64,
    pub duplicates: u64,
    pub deaths: u32,
    messages: u64,
    messages_to_headquarters: u64,
    message_bytes_to_headquarters: u64,
    down: BTreeMap<&'static str, u64>,
    up: BTreeMap<&'static str, u64>,
    lan: u64,
    pieces: BTreeMap<Blake3Root, u64>,
    lost: BTreeMap<Blake3Root, u64>,
    /// Pieces that came over the WAN, and to whom last.
    fetched: BTreeMap<(Blake3Root, PieceIndex), usize>,
    corrupted: BTreeSet<Blake3Root>,
    wakes: BTreeMap<usize, (Moment, u32)>,
}

impl Ledger {
    pub(super) fn count_wake(&mut self, at: usize, now: Moment) -> Result<(), Broken> {
        let (moment, count) = self.wakes.entry(at).or_insert((now, 0));
        *count = if *moment == now { *count + 1 } else { 1 };
        *moment = now;
        if *count > WAKES_AT_ONCE {
            return Err(format!("device {at} wants to be woken again and again at the same moment"));
        }
        Ok(())
    }

    pub(super) fn count_message(&mut self, to: usize, freight: &Freight) {
        let (Freight::Request { bytes, .. } | Freight::Response { bytes, .. }) = freight else { return };
        self.messages += 1;
        if to == HEADQUARTERS {
            self.messages_to_headquarters += 1;
            self.message_bytes_to_headquarters += bytes.len() as u64;
        }
    }

    pub(super) fn count_bytes(&mut self, parcel: &Parcel, bytes: u64) {
        match parcel.path {
            Path::WanDown => *self.down.entry(parcel.label).or_default() += bytes,
            Path::WanUp => *self.up.entry(parcel.label).or_default() += bytes,
            Path::Lan => self.lan += bytes,
        }
        if let (Freight::PieceBytes { root, piece, .. }, Path::WanDown) = (&parcel.freight, parcel.path) {
            *self.pieces.entry(*root).or_default() += bytes;
            if bytes == parcel.bytes {
                self.fetched.insert((*root, *piece), parcel.to);
            }
        }
    }

    pub(super) fn lose(&mut self, root: Blake3Root, bytes: u64) {
        *self.lost.entry(root).or_default() += bytes;
    }

    pub(super) fn note_corrupt(&mut self, root: Blake3Root) {
        self.corrupted.insert(root);
    }

    /// The pieces that came over the WAN, and to whom last.
    pub(super) fn fetched(&self) -> Vec<(Blake3Root, PieceIndex, usize)> {
        self.fetched.iter().map(|((root, piece), at)| (*root, *piece, *at)).collect()
    }

    /// A piece is gone from the branch.
    pub(super) fn lose_piece(&mut self, root: Blake3Root, piece: PieceIndex, bytes: u64) {
        self.fetched.remove(&(root, piece));
        self.lose(root, bytes);
    }
}

impl World<'_> {
    /// Whether some approved and signed patch needs the content.
    fn may_travel(&self, root: Blake3Root) -> bool {
        self.fleet
            .vendor
            .patches
            .iter()
            .filter(|patch| patch.is_wanted())
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
        match output {
            Output::FetchPiece(Fetch { tree, piece, .. }) => {
                if !self.may_travel(tree.root()) {
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
            Output::Grant { root, .. } if !self.may_travel(*root) => {
                Err(format!("device {at} grants {root}, which nobody approved or signed"))
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
                let process = self.devices[at].process.as_ref();
                let checked = manifest.artifacts.iter().all(|artifact| {
                    process.is_some_and(|process| process.checked.contains_key(&artifact.content.root))
                });
                match () {
                    () if !patch.is_wanted() => {
                        Err(format!("device {at} installs {name}, which is not allowed"))
                    }
                    () if !checked => Err(format!("device {at} installs {name} unverified")),
                    () if self.devices[at].has(patch) => Err(format!("device {at} installs {name} twice")),
                    () if self.installing.contains_key(&at) => {
                        Err(format!("device {at} starts a second installer"))
                    }
                    () => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn check_offer(&self, at: usize, holdings: &[Holding]) -> Result<(), Broken> {
        for holding in holdings {
            if !self.may_travel(holding.root) {
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

    fn core(&self, at: usize) -> Option<&Core> {
        self.devices[at].process.as_ref().map(|process| &process.core)
    }

    /// Whether every device that lives has everything installed and reported, and nothing more is going to go wrong.
    pub(super) fn is_settled(&self) -> bool {
        self.outstanding == 0
            && (1..self.devices.len()).filter(|at| !self.devices[*at].gone).all(|at| {
                self.has_everything(at) && self.core(at).is_some_and(|core| core.reports_waiting() == 0)
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
        }
        for (root, tree) in &self.fleet.vendor.trees {
            self.judge_amplification(*root, tree.size())?;
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
        }
        Ok(())
    }

    /// Bytes of a content over the WAN: its size and a tenth, and what died with devices. A device that got a wrong
    /// piece from a neighbour may take the content from the seed instead.
    fn judge_amplification(&self, root: Blake3Root, size: u64) -> Result<(), Broken> {
        let came = self.ledger.pieces.get(&root).copied().unwrap_or(0);
        let lost = self.ledger.lost.get(&root).copied().unwrap_or(0);
        let spoilt = if self.ledger.corrupted.is_empty() { 0 } else { size };
        let allowed = size + size * SURPLUS_PERCENT / 100 + lost + spoilt;
        if came > allowed {
            let deaths = self.ledger.deaths;
            return Err(format!(
                "{came} bytes of {root} ({size} bytes) crossed the WAN, {allowed} are right after {deaths} deaths"
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
        for (root, tree) in self.fleet.vendor.trees.iter().filter(|(root, _)| self.may_travel(**root)) {
            let bytes = self.ledger.pieces.get(root).copied().unwrap_or(0);
            if !self.is_evidence(*root) {
                sizes += tree.size();
                came += bytes;
            }
            amplification.insert(self.content_name(*root, tree.size()), ratio(bytes, tree.size()));
        }
        Summary {
            seed: self.scenario.seed,
            digest: self.trace.digest(),
            scenario: format!("{:?} {:?}", self.scenario.links, self.scenario.faults),
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
