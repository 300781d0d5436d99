//! One device of a site: the fetcher of a node, and what the fetcher knows nothing of.

use super::queue::Nanos;
use super::site::Site;
use super::wan::Connection;
use crate::fleet::START;
use crate::vendor;
use protocol::bitmap::PieceSet;
use protocol::digest::Sha256;
use protocol::effect::{EffectId, EffectIds};
use protocol::fetch::Fetcher;
use protocol::identifier::{DeviceId, FleetId, HostName, SiteName};
use protocol::membership::{Class, Member};

/// A device.
#[derive(Debug)]
pub struct Device {
    pub member: Member,
    pub fetcher: Fetcher,
    pub ids: EffectIds,
    /// Pieces on its disk.
    pub held: PieceSet,
    /// Counts how often it was switched on or off: what was under way before is over.
    pub life: u32,
    pub on: bool,
    /// Whether it knows of the patch and has not got all of it.
    pub wants: bool,
    pub neighbours: Vec<u32>,
    /// Its connection to the seed, where it has one.
    pub connection: Option<Connection>,
    /// Pieces that the seed serves it.
    pub granted: PieceSet,
    /// The question about leases that is on its way; there is one at a time.
    pub asking: Option<EffectId>,
    /// When it is woken next.
    pub wake: Option<Nanos>,
    /// When it last told its neighbours what it holds, and whether it is about to.
    pub told: Option<Nanos>,
    pub telling: bool,
    /// When it was switched on last, and when it says so on the LAN.
    pub since: Nanos,
    pub speaks: Nanos,
    /// Until when it leaves the seed to others.
    pub crowd: Option<Nanos>,
    /// When it had everything.
    pub done: Option<Nanos>,
}

/// The identity of device `number` of a site: random bytes, and its number at their end.
pub fn identity(site: &Site, number: usize) -> DeviceId {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    let drawn = Sha256::of(&[site.seed.to_le_bytes().as_slice(), &number.to_le_bytes()].concat());
    let mut bytes = *drawn.as_bytes();
    bytes[28..].copy_from_slice(&number.to_le_bytes());
    DeviceId::from_bytes(bytes)
}

/// The number of a device.
pub fn number(device: DeviceId) -> usize {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&device.as_bytes()[28..]);
    u32::from_le_bytes(bytes) as usize
}

impl Device {
    /// A device that is off and has nothing.
    pub fn new(site: &Site, number: usize, name: &SiteName) -> Device {
        let device = identity(site, number);
        let member = Member {
            fleet: FleetId::from_bytes([1; 32]),
            device,
            site: name.clone(),
            class: Class::Workstation,
            system: vendor::system(),
            host: HostName::new(format!("host{number}")).expect("letters and digits"),
            issued: START,
            expires: START.plus_days(365),
        };
        let fetcher = Fetcher::new(device, member.site.clone());
        Device {
            member,
            fetcher,
            ids: EffectIds::default(),
            held: PieceSet::new(),
            life: 0,
            on: false,
            wants: false,
            neighbours: Vec::new(),
            connection: None,
            granted: PieceSet::new(),
            wake: None,
            asking: None,
            told: None,
            telling: false,
            since: 0,
            speaks: 0,
            crowd: None,
            done: None,
        }
    }

    /// Its memory is gone; its disk is not. Effects keep their numbers, so that none is taken for another.
    pub fn restart(&mut self) {
        self.fetcher = Fetcher::new(self.member.device, self.member.site.clone());
        (self.life, self.wake, self.told) = (self.life + 1, None, None);
        (self.wants, self.telling, self.connection, self.crowd) = (false, false, None, None);
        self.neighbours.clear();
    }
}
