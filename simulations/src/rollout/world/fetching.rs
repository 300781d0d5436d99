//! Fetching: what each fetcher decides is carried out, and it hears what came of it.

use super::{Event, MANIFEST, Piece, SEED, Stuck, World};
use crate::rollout::device::number;
use crate::rollout::lan::LATENCY;
use crate::rollout::queue::Nanos;
use crate::rollout::wan::{Block, Download};
use protocol::effect::EffectId;
use protocol::fetch::{Action, Fetch, Origin, PieceFailure, Urgency};
use protocol::reason::Reason;
use protocol::wire::{GrantAnswer, Holding};

/// From a piece's last byte to its being checked and on the disk.
const STORING: Nanos = 5_000_000;
/// News that follow others gather for so long (protocol::core::neighbours).
const NEWS_DELAY: Nanos = 100_000_000;
/// A request for a block without what carries it (docs/decisions/0025).
const REQUEST_BYTES: usize = 44;
/// How long a grant holds, in seconds.
const GRANT_SECONDS: u32 = 600;

impl World<'_> {
    /// The device knows that the patch is approved.
    pub(super) fn hear(&mut self, at: usize) {
        let content = self.patch.content;
        let device = &mut self.devices[at];
        if device.done.is_none() {
            device.wants = true;
            device.fetcher.want(content, MANIFEST, Urgency::Normal.into(), device.held.clone());
            self.advance(at);
        }
    }

    /// Lets the fetcher decide, carries out what it decides, and sees to it that it is woken.
    pub(super) fn advance(&mut self, at: usize) {
        self.decide(at);
        self.see_to_wake(at);
    }

    /// Lets the fetcher decide, and carries out what it decides; whether that was anything.
    fn decide(&mut self, at: usize) -> bool {
        let moment = self.moment();
        let device = &mut self.devices[at];
        if !device.wants {
            return false;
        }
        let actions = device.fetcher.advance(moment, &mut device.ids);
        let decided = !actions.is_empty();
        for action in actions {
            self.perform(at, action);
        }
        decided
    }

    fn see_to_wake(&mut self, at: usize) {
        let moment = self.moment();
        let device = &mut self.devices[at];
        let Some(next) = device.fetcher.next_wake(moment).filter(|_| device.wants) else { return };
        let next = next.as_micros() * 1_000;
        if device.wake.is_none_or(|wake| next < wake) {
            device.wake = Some(next);
            let life = device.life;
            self.schedule(next, Event::Wake(at, life, next));
        }
    }

    pub(super) fn woken(&mut self, at: usize, wake: Nanos) {
        if self.devices[at].wake == Some(wake) {
            self.devices[at].wake = None;
            self.advance(at);
        }
    }

    fn perform(&mut self, at: usize, action: Action) {
        let life = self.devices[at].life;
        match action {
            Action::AskGrant(_, to, request) => {
                let (from, need_tree) = (number(to), request.need_tree);
                let event = Event::Granted { to: at, life, from, need_tree };
                self.schedule(self.now + 2 * LATENCY, event);
            }
            Action::AskLease(effect, _, request) => {
                self.devices[at].asking = Some(effect);
                self.ask_lease(at, request);
            }
            Action::FetchPiece(fetch) => self.fetch(at, fetch),
            Action::Dial(member) => {
                self.schedule(self.now + 2 * LATENCY, Event::Met(at, number(member.device)));
            }
            Action::ReadMirror(_) | Action::SayReads => debug_assert!(false, "there are no mirrors here"),
            Action::Corrupt(..) => debug_assert!(false, "nobody sends wrong pieces here"),
        }
    }

    /// A neighbour answers: its share gate lets everybody of the site have what it holds.
    pub(super) fn granted(&mut self, to: usize, from: usize, need_tree: bool) {
        let neighbour = &self.devices[from];
        let answer = match (neighbour.on, neighbour.held.is_empty()) {
            (false, _) => None,
            (true, true) => Some(Err(Reason::NoPieces)),
            (true, false) => Some(Ok(GrantAnswer {
                pieces: neighbour.held.clone(),
                tree: need_tree.then(|| self.patch.tree.values().to_vec()),
                seconds: GRANT_SECONDS,
            })),
        };
        let (identity, moment) = (neighbour.member.device, self.moment());
        self.devices[to].fetcher.on_grant(moment, identity, self.patch.content.root, answer);
        self.advance(to);
    }

    fn fetch(&mut self, at: usize, fetch: Fetch) {
        let moment = self.moment();
        let device = &mut self.devices[at];
        let Some((_, length)) = fetch.tree.extent(fetch.piece) else { return };
        if fetch.origin == Origin::Wan {
            let life = device.life;
            if !device.granted.contains(fetch.piece) {
                // Somebody else has the lease by now.
                let there = self.wan.ask(self.now, REQUEST_BYTES);
                let back = self.wan.answer(there, 1);
                self.schedule(back, Event::Refused(at, life, fetch.effect));
            } else if let Some(connection) = &mut device.connection {
                connection.window.heed(moment, fetch.advice);
                connection.fetch(fetch.effect, fetch.piece, length as u64);
                self.ask_blocks(at);
            }
            return;
        }
        let from = number(fetch.from);
        let life = device.life;
        let source = &self.devices[from];
        let serves = source.on && source.held.contains(fetch.piece);
        // What does not serve is, to the asker, a connection that ended.
        let from_life = if serves { source.life } else { source.life.wrapping_sub(1) };
        let piece = Piece { to: at, life, from, from_life, effect: fetch.effect, piece: fetch.piece };
        if !serves {
            self.schedule(self.now + 2 * LATENCY, Event::Came(piece, Origin::Lan));
            return;
        }
        let sent = self.lan.send(self.now + LATENCY, from, length as u64);
        self.schedule(sent.begin, Event::Sending(piece, sent.end));
    }

    /// The seed refused a piece.
    pub(super) fn refused(&mut self, at: usize, effect: EffectId) {
        let refused = Err(PieceFailure::Refused(Reason::NoGrant));
        let moment = self.moment();
        self.devices[at].fetcher.on_piece(moment, effect, refused);
        self.advance(at);
    }

    /// A neighbour begins to send a piece.
    pub(super) fn sending(&mut self, piece: Piece, sent: Nanos) {
        let length = self.length(piece);
        let there = self.lan.receive(self.now, sent, piece.to, length);
        self.schedule(there + STORING, Event::Came(piece, Origin::Lan));
    }

    fn length(&self, piece: Piece) -> u64 {
        self.patch.tree.extent(piece.piece).map_or(0, |(_, length)| length as u64)
    }

    /// Asks for as many blocks as the window lets out.
    fn ask_blocks(&mut self, at: usize) {
        let (now, moment) = (self.now, self.moment());
        let life = self.devices[at].life;
        loop {
            let device = &mut self.devices[at];
            let Some(connection) = &mut device.connection else { return };
            let Some(block) = connection.next_block(now, moment, &mut self.wan) else { return };
            let bytes = block.sample.length.into();
            self.tracker.active(&device.member.site, device.member.device, bytes, moment);
            self.schedule(block.first, Event::Block(at, life, Box::new(block)));
        }
    }

    pub(super) fn block_came(&mut self, at: usize, block: Block) {
        let moment = self.moment();
        let device = &mut self.devices[at];
        let Some(connection) = &mut device.connection else { return };
        let download = connection.on_block(moment, block.sample);
        self.ask_blocks(at);
        if let Some(Download { effect, piece, length, .. }) = download {
            let (life, member) = (self.devices[at].life, &self.devices[at].member);
            // The seed knows when it has sent a piece, not when that is stored.
            self.tracker.served(&member.site, member.device, self.patch.content.root, piece, moment);
            let there = self.lan.deliver(block.last, at, length);
            let piece = Piece { to: at, life, from: at, from_life: life, effect, piece };
            self.schedule(there + STORING, Event::Came(piece, Origin::Wan));
        }
    }

    /// A piece is on the disk, unless the neighbour that sent it went away meanwhile.
    pub(super) fn came(&mut self, piece: Piece, origin: Origin) -> Result<(), Stuck> {
        let (moment, at) = (self.moment(), piece.to);
        if !self.lives(piece.from, piece.from_life) {
            self.devices[at].fetcher.on_piece(moment, piece.effect, Err(PieceFailure::Lost));
            self.advance(at);
            return Ok(());
        }
        let content = self.patch.content;
        let device = &mut self.devices[at];
        if let (Origin::Wan, Some(connection)) = (origin, &device.connection) {
            device.fetcher.on_pace(SEED, connection.window.pace());
        }
        device.fetcher.on_piece(moment, piece.effect, Ok(()));
        if self.in_site.insert(piece.piece) {
            self.counts.first.push(self.now);
        }
        if device.held.is_empty() {
            // The last one of all to get its first piece sets this for good.
            self.counts.up_until_first = self.wan.up.carried - self.wan.block_requests;
        }
        let device = &mut self.devices[at];
        if device.held.insert(piece.piece) {
            let mixed = self.counts.digest ^ self.now ^ (at as u64) << 48 ^ u64::from(piece.piece.0) << 32;
            self.counts.digest = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            self.note_news(at);
        }
        let device = &mut self.devices[at];
        if device.done.is_none() && device.held.len() == self.patch.tree.pieces() {
            device.fetcher.check().map_err(|broken| Stuck::Inconsistent(at, broken))?;
            (device.done, device.wants) = (Some(self.now), false);
            device.fetcher.forget(content.root);
            self.undone -= 1;
        }
        self.advance(at);
        Ok(())
    }

    /// The first news after a silence goes out at once, what follows gathers.
    fn note_news(&mut self, at: usize) {
        let (now, device) = (self.now, &mut self.devices[at]);
        if !device.telling {
            device.telling = true;
            let (next, life) = (device.told.map_or(now, |told| now.max(told + NEWS_DELAY)), device.life);
            self.schedule(next + LATENCY, Event::News(at, life));
        }
    }

    /// Tells those neighbours what the device holds that do not hold all of it themselves.
    pub(super) fn tell(&mut self, at: usize) {
        let now = self.moment();
        let device = &mut self.devices[at];
        (device.telling, device.told) = (false, Some(self.now));
        let holding = Holding { root: self.patch.content.root, pieces: device.held.clone() };
        let identity = device.member.device;
        let mut lacking = std::mem::take(&mut self.lacking);
        lacking.extend(self.devices[at].fetcher.lacking(&holding).map(number));
        for other in lacking.drain(..) {
            self.devices[other].fetcher.on_holdings(now, identity, std::slice::from_ref(&holding));
            // News alone set no moment to wake at.
            if self.decide(other) {
                self.see_to_wake(other);
            }
        }
        self.lacking = lacking;
    }
}
