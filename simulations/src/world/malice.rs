//! Devices that do not follow the protocol: they claim what they lack, ask for what they may not have,
//! and leave out reports.

use super::parcel::Freight;
use super::{Broken, Happening, World};
use crate::fleet::HEADQUARTERS;
use protocol::bitmap::PieceSet;
use protocol::codec;
use protocol::digest::Blake3Root;
use protocol::effect::EffectId;
use protocol::identifier::ManifestDigest;
use protocol::wire::{GrantRequest, Holding, LeaseLine, LeaseRequest, News, Request, Response};
use std::time::Duration;

/// How often a device asks again for what it may not have.
const PRIES: Duration = Duration::from_secs(4);

impl World<'_> {
    /// A request as it leaves the device: a liar claims to hold everything, and reports may be lost on the way.
    pub(super) fn as_told(&mut self, at: usize, request: &Request) -> Request {
        let mut told = request.clone();
        if let Request::Reports(reports) = &mut told
            && reports.len() > 1
            && self.withholding.contains(&at)
        {
            self.ledger.fire("withheld report");
            reports.remove(0);
        }
        if self.liars.contains(&at) {
            match &mut told {
                Request::Hello(hello) => self.claim_all(&mut hello.news),
                Request::News(news) => self.claim_all(news),
                _ => {}
            }
        }
        told
    }

    /// An answer as it leaves the device.
    pub(super) fn as_answered(&mut self, at: usize, response: &Response) -> Response {
        let mut told = response.clone();
        if self.liars.contains(&at)
            && let Response::Hello(hello) = &mut told
        {
            self.claim_all(&mut hello.news);
        }
        told
    }

    fn claim_all(&mut self, news: &mut News) {
        self.ledger.fire("lying peer");
        let trees = self.fleet.vendor.trees.iter();
        news.holdings = trees
            .map(|(root, tree)| Holding { root: *root, pieces: PieceSet::full(tree.pieces()) })
            .collect();
    }

    /// A device asks everybody it knows for everything that it may not have; whoever grants it breaks a rule.
    pub(super) fn pry(&mut self, at: usize) -> Result<(), Broken> {
        if !self.prying.contains(&at) {
            return Ok(());
        }
        self.later(PRIES, Happening::Pries(at));
        if self.devices[at].process.is_none() || self.devices[at].is_asleep(self.now) {
            return Ok(());
        }
        let forbidden: Vec<(Blake3Root, ManifestDigest)> = self
            .fleet
            .vendor
            .patches
            .iter()
            .filter(|patch| !patch.is_wanted())
            .flat_map(|patch| patch.manifest.artifacts.iter().map(|file| (file.content.root, patch.digest)))
            .collect();
        let peers: Vec<(usize, u64)> = self
            .known
            .range((at, 0)..=(at, usize::MAX))
            .map(|((_, peer), connection)| (*peer, *connection))
            .collect();
        for (peer, connection) in peers {
            for (root, manifest) in &forbidden {
                self.ledger.fire("prying peer");
                let request = prying_request(peer, *root, *manifest, &self.fleet.vendor.trees[root]);
                let bytes = codec::encode(&request);
                // Nobody waits for the answer: what counts is what the other does.
                let channel = request.channel();
                let freight = Freight::Request { effect: EffectId::FIRST, channel, bytes };
                self.send(at, peer, connection, "prying", freight);
            }
        }
        Ok(())
    }
}

fn prying_request(
    peer: usize,
    root: Blake3Root,
    manifest: ManifestDigest,
    tree: &protocol::piece::PieceTree,
) -> Request {
    if peer != HEADQUARTERS {
        return Request::Grant(GrantRequest { root, manifest, need_tree: true });
    }
    let wanted = PieceSet::full(tree.pieces());
    Request::Lease(LeaseRequest {
        lines: vec![LeaseLine { root, manifest, wanted, need_tree: true }],
        unreachable: Vec::new(),
        alone: false,
        room_bytes: u64::MAX,
        round_trip_micros: 0,
        bytes_per_second: 0,
    })
}
