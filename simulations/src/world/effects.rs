//! What the cores ask for: done after a while, as disk, installer and aggregator would.

use super::{Broken, Happening, World};
use crate::device::{Grant, wall};
use crate::fleet::HEADQUARTERS;
use crate::trace::Trace;
use crate::vendor::NEW_VERSION;
use protocol::aggregate::Refusal;
use protocol::bitmap::PieceSet;
use protocol::codec;
use protocol::core::{Aggregated, Event, Input, InstallEnd, Output, StoreFailure};
use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::fetch::{Fetch, Pace, PieceFailure, Read};
use protocol::inventory::PackageState;
use protocol::manifest::Manifest;
use protocol::membership::Member;
use protocol::piece::PieceIndex;
use protocol::reason::Reason;
use protocol::report::SignedReport;
use protocol::time::Moment;
use protocol::verify::{Evidenced, Signer, Verdict};
use std::time::Duration;

impl World<'_> {
    pub(super) fn perform(&mut self, at: usize, output: Output) -> Result<(), Broken> {
        let life = self.devices[at].life;
        self.check_output(at, &output)?;
        match output {
            Output::Dial { device, .. } => self.dial(at, device),
            // Simulated sites have no addresses that somebody wrote down.
            Output::DialWritten(_) => {}
            Output::Disconnect(device, _) => self.disconnect(at, device),
            Output::Request { effect, to, request } => return self.ask(at, effect, to, &request),
            Output::Respond { token, response } => return self.respond(at, token, &response),
            Output::Publish(hint) => self.publish(at, &hint),
            Output::FetchPiece(Fetch { effect, from, tree, piece, .. }) => {
                self.ask_piece(at, effect, from, tree.root(), piece);
            }
            Output::ReadMirror { read, .. } => {
                self.read_mirror(at, read.effect, read.tree.root(), read.piece)
            }
            Output::Grant { peer, root, pieces, lasting } => {
                let until = self.now + lasting;
                if let Some(process) = &mut self.devices[at].process {
                    process.grants.insert((peer, root), Grant { pieces, until });
                }
            }
            Output::Revoke { peer, root } => self.revoke(at, peer, root),
            Output::Discard(root) if self.sideloaded.contains(&(at, root)) => {}
            Output::Discard(root) => return Err(format!("device {at} discards {root}, which is right")),
            Output::CheckEvidence { effect, manifest, .. } => {
                let result = self.check_evidence(at, &manifest)?;
                let delay = self.random.milliseconds(5, 60);
                self.input_later(delay, at, Input::EvidenceChecked { effect, result: Ok(result) });
            }
            Output::FullCheck { effect, content, .. } => {
                if !self.devices[at].disk.holds_all(content.root) {
                    return Err(format!("device {at} checks {} before it is whole", content.root));
                }
                if let Some(process) = &mut self.devices[at].process {
                    process.checking.insert(effect, content.root);
                }
                let delay = self.random.milliseconds(1, 10) + Duration::from_micros(content.size / 500);
                self.input_later(delay, at, Input::FullChecked { effect, result: Ok(()) });
            }
            Output::Scan { effect } => {
                let delay = self.random.milliseconds(30, 300);
                self.later(delay, Happening::Scans(at, life, effect));
            }
            Output::Install { effect, manifest, .. } => self.install(at, effect, &manifest),
            // Simulated installers start without asking.
            Output::StartInstaller { .. } => {}
            Output::Store { effect, records } => {
                let delay = self.random.milliseconds(1, 15);
                let disk = &mut self.devices[at].disk;
                disk.busy_until = disk.busy_until.max(self.now) + delay;
                let records = records.into_iter().map(|record| (record.key, record.value)).collect();
                let moment = disk.busy_until;
                self.at(moment, Happening::Stored(at, life, effect, records));
            }
            Output::Aggregate { effect, member, reports } => {
                if member.device == self.fleet.keys[at].device() {
                    self.check_sent(at, &reports)?;
                }
                self.aggregate_reports(effect, &member, &reports)?
            }
            Output::Event(Event::MetadataAccepted { timestamp }) => self.devices[at].version = timestamp,
            Output::Event(Event::MetadataRefused { .. }) if self.devices[at].clock_off != 0 => {}
            Output::Event(Event::Problem(problem)) => return Err(format!("device {at}: {problem}")),
            Output::Event(Event::Unchecked { root }) => {
                return Err(format!("device {at} cannot check {root}"));
            }
            Output::Event(Event::MetadataRefused { message, .. }) => {
                return Err(format!("device {at} refused good metadata: {message}"));
            }
            // Simulated devices have no caps of their own, and know no hours.
            Output::TrustChanged(_) | Output::Caps { .. } | Output::Event(_) => {}
        }
        Ok(())
    }

    pub(super) fn stored(
        &mut self,
        at: usize,
        life: u32,
        effect: EffectId,
        records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    ) -> Result<(), Broken> {
        if !self.is_alive(at, life) {
            return Ok(());
        }
        if self.devices[at].disk_refuses {
            self.ledger.fire("disk refuses");
            let failure = StoreFailure("no space left on the device".to_owned());
            return self.feed(at, Input::Stored { effect, result: Err(failure) });
        }
        self.write(at, records);
        self.feed(at, Input::Stored { effect, result: Ok(()) })
    }

    /// Records become durable, all or none of a batch.
    pub(super) fn write(&mut self, at: usize, records: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        for (key, value) in records {
            match value {
                Some(value) => self.devices[at].disk.records.insert(key, value),
                None => self.devices[at].disk.records.remove(&key),
            };
        }
    }

    /// Bytes of a piece are here: hashed, then stored, if they are right.
    pub(super) fn receive_piece(
        &mut self,
        at: usize,
        from: usize,
        effect: EffectId,
        root: Blake3Root,
        piece: PieceIndex,
        corrupt: bool,
    ) -> Result<(), Broken> {
        if corrupt {
            return self.feed(at, Input::Piece { effect, result: Err(PieceFailure::Corrupt) });
        }
        if from == HEADQUARTERS {
            let Some(site) = self.scenario.site_of(at) else { return Ok(()) };
            let links = &self.scenario.sites[site].links;
            let rate = u32::try_from(links.wan_down / 8).unwrap_or(u32::MAX);
            let micros = u64::try_from(links.round_trip.as_micros()).unwrap_or(u64::MAX);
            let pace = Pace {
                window_bytes: u64::from(rate) * micros / 1_000_000,
                round_trip: Some(links.round_trip),
                bytes_per_second: rate,
            };
            self.feed(at, Input::Paced(self.fleet.keys[HEADQUARTERS].device(), pace))?;
        }
        let delay = self.random.milliseconds(2, 20);
        let disk = &mut self.devices[at].disk;
        disk.busy_until = disk.busy_until.max(self.now) + delay;
        let (moment, life) = (disk.busy_until, self.devices[at].life);
        self.at(moment, Happening::PieceStored(at, life, effect, root, piece));
        Ok(())
    }

    pub(super) fn piece_stored(
        &mut self,
        at: usize,
        life: u32,
        effect: EffectId,
        root: Blake3Root,
        piece: PieceIndex,
    ) -> Result<(), Broken> {
        if !self.is_alive(at, life) {
            return Ok(());
        }
        if self.devices[at].disk_refuses {
            self.ledger.fire("disk refuses");
            self.lose_unwritten(at, root, piece);
            return self.feed(at, Input::Piece { effect, result: Err(PieceFailure::Disk) });
        }
        if !self.write_piece(at, root, piece) {
            self.ledger.duplicates += 1;
        }
        self.feed(at, Input::Piece { effect, result: Ok(()) })
    }

    /// A piece becomes durable; whether it was not before.
    pub(super) fn write_piece(&mut self, at: usize, root: Blake3Root, piece: PieceIndex) -> bool {
        let Some(tree) = self.fleet.vendor.trees.get(&root).cloned() else { return false };
        let held = self.devices[at].disk.pieces.entry(root).or_insert_with(|| (tree, PieceSet::new()));
        let new = held.1.insert(piece);
        if new {
            self.ledger.note_stored(at, root, piece, self.now);
        }
        new
    }

    pub(super) fn scan(&mut self, at: usize, life: u32, effect: EffectId) -> Result<(), Broken> {
        let inventory = self.devices[at].inventory(self.now);
        self.feed_if(at, life, Input::Scanned { effect, result: Ok(inventory) })
    }

    fn check_evidence(&self, at: usize, manifest: &Manifest) -> Result<Vec<Verdict>, Broken> {
        let proven: Vec<Blake3Root> = manifest.contents().iter().map(|content| content.root).collect();
        let artifacts: Vec<Blake3Root> =
            manifest.artifacts.iter().map(|artifact| artifact.content.root).collect();
        let missing =
            proven.iter().find(|root| !artifacts.contains(root) && !self.devices[at].disk.holds_all(**root));
        if let Some(root) = missing {
            return Err(format!("device {at} checks evidence {root} before it is whole"));
        }
        let signer = Signer::Ed25519 { public: self.fleet.vendor.key.public() };
        let attest = |artifact| Verdict::of(Evidenced::attest(manifest, artifact, signer.clone(), None));
        Ok(manifest.artifacts.iter().map(attest).collect())
    }

    fn install(&mut self, at: usize, effect: EffectId, manifest: &Manifest) {
        let Some(patch) = self.fleet.vendor.patches.iter().find(|patch| patch.manifest == *manifest) else {
            return;
        };
        let package = patch.package.clone();
        self.devices[at].disk.packages.insert(package.clone(), (NEW_VERSION, PackageState::Broken));
        self.installing.insert(at, package.clone());
        if self.failing.remove(&at) {
            self.botched.insert((at, package.clone()));
        }
        let delay = self.random.milliseconds(300, 2_500);
        let life = self.devices[at].life;
        self.later(delay, Happening::InstallerEnds(at, life, effect, package));
    }

    pub(super) fn installer_ends(
        &mut self,
        at: usize,
        life: u32,
        effect: EffectId,
        package: String,
    ) -> Result<(), Broken> {
        if !self.is_alive(at, life) {
            return Ok(());
        }
        self.installing.remove(&at);
        let (left, code) = self.left_by_installer(at, &package);
        self.devices[at].disk.packages.insert(package, left);
        self.note_finished(at);
        let result = InstallEnd::Exited { code: Some(code), log: String::new() };
        self.feed(at, Input::Installed { effect, result })
    }

    /// The aggregator: what it takes in counts exactly once, and its watermark covers what is durable.
    fn aggregate_reports(
        &mut self,
        effect: EffectId,
        member: &Member,
        reports: &[Vec<u8>],
    ) -> Result<(), Broken> {
        let now = wall(self.now);
        let mut expected = None;
        self.aggregate.join(member, now);
        for bytes in reports {
            let signed = SignedReport::from_bytes(bytes).map_err(|error| error.to_string())?;
            match self.aggregate.receive(&signed, member, now) {
                Ok(outcome) => {
                    let report = signed.claims().map_err(|error| error.to_string())?;
                    self.histories.note(member.host.as_str(), &report, &outcome)?;
                }
                Err(Refusal::Gap { expected: next }) => {
                    expected = Some(next);
                    break;
                }
                Err(refusal) => return Err(format!("a report of {} is refused: {refusal}", member.host)),
            }
        }
        let headquarters = self.fleet.keys[HEADQUARTERS].device();
        let mark = self.aggregate.watermark(member.device, headquarters, now);
        let result = mark
            .map(|mark| Aggregated { mark: mark.sign(&self.fleet.watermark_key).to_bytes(), expected })
            .ok_or(Reason::NotAMember);
        let delay = self.random.milliseconds(2, 20);
        self.input_later(delay, HEADQUARTERS, Input::Aggregated { effect, result });
        Ok(())
    }
}

/// Writes what goes into a core; large values by their encoding.
pub(super) fn note_input(trace: &mut Trace, now: Moment, at: usize, input: &Input) {
    match input {
        Input::Held { tree, pieces } => {
            trace.note(now, at, format_args!("< Held {} {pieces:?}", tree.root()));
        }
        Input::Repository { bundle, .. } => {
            trace.note(now, at, format_args!("< Repository"));
            trace.bytes(&codec::encode(bundle));
        }
        Input::Request { from, request, .. } => {
            trace.note(now, at, format_args!("< Request of {} {}", from.short(), request_name(request)));
            trace.bytes(&codec::encode(request));
        }
        Input::Answered { effect, result: Ok(response) } => {
            trace.note(now, at, format_args!("< Answered {effect:?} {}", response_name(response)));
            trace.bytes(&codec::encode(response));
        }
        Input::Scanned { effect, result: Ok(inventory) } => {
            let state = |(name, package): (&(String, String), &protocol::inventory::Package)| {
                format!("{}={}", name.0, package.version.as_str())
            };
            let packages: Vec<String> = inventory.packages.iter().map(state).collect();
            trace.note(now, at, format_args!("< Scanned {effect:?} {}", packages.join(" ")));
        }
        Input::Connected(member) => trace.note(now, at, format_args!("< Connected {}", member.host)),
        other => trace.note(now, at, format_args!("< {other:?}")),
    }
}

/// Writes what a core asks for.
pub(super) fn note_output(trace: &mut Trace, now: Moment, at: usize, output: &Output) {
    match output {
        Output::Request { effect, to, request } => {
            let name = request_name(request);
            trace.note(now, at, format_args!("> Request {effect:?} to {} {name}", to.short()));
            trace.bytes(&codec::encode(request));
        }
        Output::Respond { response, .. } => {
            trace.note(now, at, format_args!("> Respond {}", response_name(response)));
            trace.bytes(&codec::encode(response));
        }
        Output::FetchPiece(Fetch { effect, from, tree, piece, .. }) => {
            let root = tree.root().to_string();
            trace.note(
                now,
                at,
                format_args!("> FetchPiece {effect:?} {} of {} from {}", piece.0, &root[..8], from.short()),
            );
        }
        Output::ReadMirror { read: Read { effect, tree, piece }, .. } => {
            let root = tree.root().to_string();
            trace.note(now, at, format_args!("> ReadMirror {effect:?} {} of {}", piece.0, &root[..8]));
        }
        Output::CheckEvidence { effect, manifest, .. } => {
            trace.note(now, at, format_args!("> CheckEvidence {effect:?} {}", manifest.patch));
        }
        Output::FullCheck { effect, content, .. } => {
            trace.note(now, at, format_args!("> FullCheck {effect:?} {}", content.root));
        }
        Output::Install { effect, manifest, generation } => {
            trace.note(now, at, format_args!("> Install {effect:?} {} plan {generation}", manifest.patch));
        }
        Output::Store { effect, records } => {
            trace.note(now, at, format_args!("> Store {effect:?} {} records", records.len()));
            for record in records {
                trace.bytes(&record.key);
                trace.bytes(record.value.as_deref().unwrap_or_default());
            }
        }
        Output::Aggregate { effect, member, reports } => {
            trace.note(now, at, format_args!("> Aggregate {effect:?} {} {}", member.host, reports.len()));
        }
        Output::TrustChanged(_) => trace.note(now, at, format_args!("> TrustChanged")),
        other => trace.note(now, at, format_args!("> {other:?}")),
    }
}

fn request_name(request: &protocol::wire::Request) -> String {
    use protocol::wire::Request as Is;
    match request {
        Is::Hello(hello) => format!("Hello, {} holdings", hello.news.holdings.len()),
        Is::News(news) => format!("News, {:?} {} holdings", news.versions, news.holdings.len()),
        Is::Announce(announce) => format!("Announce {:?}", announce.versions),
        Is::Lease(lease) => {
            let lines = lease.lines.iter().map(|line| (&line.root, line.wanted.len()));
            format!("Lease {:?} unreachable {}", lines.collect::<Vec<_>>(), lease.unreachable.len())
        }
        Is::Grant(grant) => format!("Grant {}", &grant.root.to_string()[..8]),
        Is::Metadata(_) => "Metadata".to_owned(),
        Is::Meet(meet) => format!("Meet, has {} neighbours", meet.neighbours),
        Is::Reports(reports) => format!("Reports {}", reports.len()),
    }
}

fn response_name(response: &protocol::wire::Response) -> String {
    use protocol::wire::Response as Is;
    match response {
        Is::Hello(hello) => format!("Hello, {} holdings", hello.news.holdings.len()),
        Is::Lease(lease) => {
            let lines = lease.lines.iter().map(|line| (&line.root, &line.leased, line.refused));
            format!(
                "Lease {:?}, {} members, again in {} ms",
                lines.collect::<Vec<_>>(),
                lease.members.len(),
                lease.retry_milliseconds
            )
        }
        Is::Site(view) => format!(
            "Site, {} members, fetch {}, metadata {} bytes",
            view.members.len(),
            view.fetch_metadata,
            view.metadata.as_ref().map_or(0, protocol::trust::Bundle::bytes)
        ),
        Is::Grant(grant) => format!("Grant {} pieces", grant.pieces.len()),
        Is::Metadata(bundle) => format!("Metadata {} bytes", bundle.bytes()),
        Is::Watermark { expected, .. } => format!("Watermark {expected:?}"),
        Is::Met(met) => format!("Met, {} and {} others", met.welcome, met.members.len()),
        Is::Noted | Is::Refused { .. } => format!("{response:?}"),
    }
}
