//! Connections between devices: how they begin and end, fall silent, and what becomes of whoever waits on one.

use super::faults::crosses;
use super::parcel::{Freight, Parcel};
use super::{Broken, Happening, World};
use protocol::core::Input;
use protocol::effect::EffectId;
use protocol::fetch::PieceFailure;
use protocol::identifier::DeviceId;
use protocol::wire::{Channel, Unanswered};
use std::time::Duration;

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) connection: u64,
    /// The channel of a control message; none for a piece.
    pub(super) channel: Option<Channel>,
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

impl World<'_> {
    /// Whether the connection still stands on which something is on its way.
    pub(super) fn stands(&self, parcel: &Parcel) -> bool {
        match parcel.freight {
            Freight::MirrorBytes { life, .. } => self.is_alive(parcel.to, life),
            _ => self.connections.get(&pair(parcel.from, parcel.to)) == Some(&parcel.connection),
        }
    }

    /// Whether a line lies between two devices that nothing passes.
    pub(super) fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cuts.iter().any(|cut| crosses(self.scenario, *cut, one, other))
    }

    pub(super) fn known_connection(&self, at: usize, to: DeviceId) -> Option<u64> {
        let peer = self.numbers.get(&to)?;
        self.known.get(&(at, *peer)).copied()
    }

    pub(super) fn dial(&mut self, at: usize, device: DeviceId) {
        let Some(&peer) = self.numbers.get(&device) else { return };
        if self.known.contains_key(&(at, peer)) {
            return;
        }
        let way = self.latency(at, peer);
        // Handshakes take three ways; a machine without power does not even refuse.
        let answers = self.devices[peer].powered && !self.devices[peer].is_asleep(self.now);
        let delay = if answers && !self.is_cut(at, peer) { way * 3 } else { Duration::from_secs(3) };
        let life = self.devices[at].life;
        self.later(delay, Happening::Dialled(at, life, device));
    }

    pub(super) fn dialled(&mut self, at: usize, life: u32, device: DeviceId) -> Result<(), Broken> {
        let Some(&peer) = self.numbers.get(&device) else { return Ok(()) };
        if !self.is_alive(at, life) || self.known.contains_key(&(at, peer)) {
            return Ok(());
        }
        if self.devices[at].is_asleep(self.now) {
            return Ok(());
        }
        let shut = self.firewalled.contains(&peer);
        if shut {
            self.ledger.fire("one-way reachability");
        }
        let away = self.devices[peer].process.is_none() || self.devices[peer].is_asleep(self.now);
        if away || shut || self.is_cut(at, peer) {
            return self.feed(at, Input::DialFailed(device));
        }
        self.last_connection += 1;
        let connection = self.last_connection;
        self.connections.insert(pair(at, peer), connection);
        for (here, there) in [(at, peer), (peer, at)] {
            match self.known.insert((here, there), connection) {
                // The old connection fell silent and nobody noticed: what waited on it is lost, the peer never left.
                Some(old) => self.fail_asked(here, old)?,
                None => self.feed(here, Input::Connected(self.fleet.members[there].clone()))?,
            }
        }
        Ok(())
    }

    /// Both sides close a connection.
    pub(super) fn disconnect(&mut self, at: usize, device: DeviceId) {
        let Some(&peer) = self.numbers.get(&device) else { return };
        let Some(connection) = self.connections.remove(&pair(at, peer)) else { return };
        for (here, there) in [(at, peer), (peer, at)] {
            let life = self.devices[here].life;
            self.later(Duration::ZERO, Happening::Ended(here, life, there, connection));
        }
    }

    pub(super) fn ended(&mut self, at: usize, life: u32, peer: usize, connection: u64) -> Result<(), Broken> {
        if !self.is_alive(at, life) {
            return Ok(());
        }
        self.fail_asked(at, connection)?;
        if self.known.get(&(at, peer)) == Some(&connection) {
            self.known.remove(&(at, peer));
            self.feed(at, Input::Disconnected(self.fleet.keys[peer].device()))?;
        }
        Ok(())
    }

    /// Whatever waited for an answer on this connection gets none.
    fn fail_asked(&mut self, at: usize, connection: u64) -> Result<(), Broken> {
        let lost: Vec<(EffectId, Asked)> = self
            .asked
            .range((at, EffectId::FIRST)..)
            .take_while(|((asker, _), _)| *asker == at)
            .filter(|(_, asked)| asked.connection == connection)
            .map(|((_, effect), asked)| (*effect, *asked))
            .collect();
        for (effect, asked) in lost {
            self.asked.remove(&(at, effect));
            let input = match asked.channel {
                Some(_) => Input::Answered { effect, result: Err(Unanswered::Disconnected) },
                None => Input::Piece { effect, result: Err(PieceFailure::Lost) },
            };
            self.feed(at, input)?;
        }
        Ok(())
    }

    pub(super) fn timed_out(&mut self, at: usize, life: u32, effect: EffectId) -> Result<(), Broken> {
        if !self.is_alive(at, life) {
            return Ok(());
        }
        match self.asked.remove(&(at, effect)).map(|asked| asked.channel) {
            Some(Some(_)) => self.feed(at, Input::Answered { effect, result: Err(Unanswered::TimedOut) }),
            Some(None) => self.feed(at, Input::Piece { effect, result: Err(PieceFailure::Lost) }),
            None => Ok(()),
        }
    }

    /// Connections between devices of which `ends` says so are dead; each end hears of it after `after`.
    pub(super) fn fall_silent(&mut self, ends: impl Fn(usize, usize) -> bool, after: Duration) {
        let dead: Vec<((usize, usize), u64)> = self
            .connections
            .iter()
            .filter(|((one, other), _)| ends(*one, *other))
            .map(|(ends, connection)| (*ends, *connection))
            .collect();
        for ((one, other), connection) in dead {
            self.connections.remove(&(one, other));
            let way = self.latency(one, other);
            for (here, there) in [(one, other), (other, one)] {
                let life = self.devices[here].life;
                self.later(after + way, Happening::Ended(here, life, there, connection));
            }
        }
    }

    /// Everything between a dead device and the others ends; the others hear of it after `after`.
    pub(super) fn cut_off(&mut self, at: usize, after: Duration) {
        self.fall_silent(|one, other| one == at || other == at, after);
        self.known.retain(|(here, _), _| *here != at);
        self.asked.retain(|(asker, _), _| *asker != at);
        self.tickets.retain(|(server, _), _| *server != at);
    }
}
