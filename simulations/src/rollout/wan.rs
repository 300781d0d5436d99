//! The link between a site and the seed, and the connections over it, each paced by the window of a node.

use super::lan::on_link;
use super::queue::{Nanos, Queue};
use super::site::Site;
use protocol::effect::EffectId;
use protocol::fetch::window::{Sample, Window};
use protocol::piece::PieceIndex;
use protocol::time::Moment;
use std::collections::VecDeque;

/// What a message takes up on the link apart from itself: a stream's beginning, frames, TCP and TLS.
const MESSAGE_HEADERS: u64 = 120;
/// A request for a block on the link (docs/decisions/0025), with its share of packets.
const BLOCK_REQUEST: u64 = 44 + 66;
/// What stands before the bytes of a block.
const BLOCK_HEADER: u64 = 24;
/// What a new connection costs in each direction until membership is proven.
const HANDSHAKE: u64 = 3_500;

/// A site's link.
#[derive(Debug)]
pub struct Wan {
    pub down: Queue,
    pub up: Queue,
    /// Bytes of requests for blocks among what went up.
    pub block_requests: u64,
    pub one_way: Nanos,
}

/// A block on its way.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub sample: Sample,
    /// Its first byte arrives.
    pub first: Nanos,
    /// Its last byte does.
    pub last: Nanos,
}

/// A piece that is fetched over the WAN.
#[derive(Debug)]
pub struct Download {
    pub effect: EffectId,
    pub piece: PieceIndex,
    pub length: u64,
    to_ask: u32,
    to_come: u32,
}

/// One device's connection to the seed.
#[derive(Debug)]
pub struct Connection {
    pub window: Window,
    downloads: VecDeque<Download>,
}

impl Wan {
    /// The link of a site.
    pub fn new(site: &Site) -> Wan {
        Wan {
            down: Queue::changing(site.share.clone()),
            up: Queue::new(site.up),
            one_way: site.one_way,
            block_requests: 0,
        }
    }

    /// A message of `bytes` goes to the seed; when it is there.
    pub fn ask(&mut self, now: Nanos, bytes: usize) -> Nanos {
        self.up.pass(now, bytes as u64 + MESSAGE_HEADERS).end + self.one_way
    }

    /// A message of `bytes` comes from the seed; when it is there.
    pub fn answer(&mut self, now: Nanos, bytes: usize) -> Nanos {
        self.down.pass(now, on_link(bytes as u64) + MESSAGE_HEADERS).end + self.one_way
    }

    /// A device connects to the seed; when that is done: TCP, TLS and membership take three round trips.
    pub fn connect(&mut self, now: Nanos) -> Nanos {
        let sent = self.up.pass(now, HANDSHAKE).end + self.one_way;
        self.down.pass(sent, HANDSHAKE).end + 5 * self.one_way
    }
}

impl Connection {
    /// A new one.
    pub fn new(now: Moment) -> Connection {
        Connection { window: Window::new(now), downloads: VecDeque::new() }
    }

    /// Another piece is wanted over it.
    pub fn fetch(&mut self, effect: EffectId, piece: PieceIndex, length: u64) {
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        self.downloads.push_back(Download { effect, piece, length, to_ask: bytes, to_come: bytes });
    }

    /// The next block that the window lets out, if any.
    pub fn next_block(&mut self, now: Nanos, moment: Moment, wan: &mut Wan) -> Option<Block> {
        let download = self.downloads.iter_mut().find(|download| download.to_ask > 0)?;
        let length = self.window.next_block(moment, download.to_ask)?;
        download.to_ask -= length;
        let ahead = self.window.on_asked(length);
        let sent = wan.up.pass(now, BLOCK_REQUEST).end + wan.one_way;
        wan.block_requests += BLOCK_REQUEST;
        let passage = wan.down.pass(sent, on_link(u64::from(length) + BLOCK_HEADER));
        let sample = Sample { asked: moment, sent_micros: sent / 1_000, length, ahead };
        Some(Block { sample, first: passage.begin + wan.one_way, last: passage.end + wan.one_way })
    }

    /// A block arrives; the piece that is whole with it.
    pub fn on_block(&mut self, moment: Moment, sample: Sample) -> Option<Download> {
        self.window.on_block(moment, sample);
        let download = self.downloads.front_mut()?;
        download.to_come = download.to_come.saturating_sub(sample.length);
        if download.to_come == 0 { self.downloads.pop_front() } else { None }
    }
}
