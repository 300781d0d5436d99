//! The neighbours of one node, in the order of their identities.

use super::source::Neighbour;
use crate::identifier::DeviceId;

/// A map for few entries ([`crate::limits::NEIGHBOURS`]) that is looked into for every word that comes: the identities lie
/// side by side, and all that is known of the neighbours as well, so that a look waits for memory once or twice.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// In rising order.
    devices: Vec<DeviceId>,
    /// What is known of each, in the same order.
    known: Vec<Neighbour>,
}

impl Neighbours {
    /// Where `device` stands, or where it would.
    fn find(&self, device: DeviceId) -> Result<usize, usize> {
        // One after the other: with so few, that is over before a search by halves has its second answer from memory.
        let at = self.devices.iter().position(|known| *known >= device).unwrap_or(self.devices.len());
        if self.devices.get(at) == Some(&device) { Ok(at) } else { Err(at) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    pub(super) fn contains_key(&self, device: &DeviceId) -> bool {
        self.find(*device).is_ok()
    }

    pub(super) fn get(&self, device: &DeviceId) -> Option<&Neighbour> {
        self.find(*device).ok().map(|at| &self.known[at])
    }

    pub(super) fn get_mut(&mut self, device: &DeviceId) -> Option<&mut Neighbour> {
        self.find(*device).ok().map(|at| &mut self.known[at])
    }

    /// What is known of `device`, which is made where there is nothing.
    pub(super) fn get_or_insert_with(
        &mut self,
        device: DeviceId,
        make: impl FnOnce() -> Neighbour,
    ) -> &mut Neighbour {
        let at = self.find(device).unwrap_or_else(|at| {
            self.devices.insert(at, device);
            self.known.insert(at, make());
            at
        });
        &mut self.known[at]
    }

    pub(super) fn remove(&mut self, device: &DeviceId) -> Option<Neighbour> {
        let at = self.find(*device).ok()?;
        self.devices.remove(at);
        Some(self.known.remove(at))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&DeviceId, &Neighbour)> {
        self.devices.iter().zip(&self.known)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Neighbour> {
        self.known.iter()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Neighbour> {
        self.known.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_where_it_belongs_in_whatever_order_they_come() {
        let device = |number: u8| DeviceId::from_bytes([number; 32]);
        let mut neighbours = Neighbours::default();
        for (pieces, number) in [7, 3, 9, 1, 5].into_iter().enumerate() {
            neighbours.get_or_insert_with(device(number), || Neighbour::with((pieces, 0)));
            assert_eq!(
                neighbours.get_or_insert_with(device(number), Neighbour::default).load.in_flight,
                pieces
            );
        }
        let removed = neighbours.remove(&device(3)).map(|neighbour| neighbour.load.in_flight);
        assert_eq!((removed, neighbours.remove(&device(4)).is_none()), (Some(1), true));
        let all: Vec<(DeviceId, usize)> =
            neighbours.iter().map(|(device, neighbour)| (*device, neighbour.load.in_flight)).collect();
        assert_eq!(all, [(1, 3), (5, 4), (7, 0), (9, 2)].map(|(number, pieces)| (device(number), pieces)));
        assert!(neighbours.contains_key(&device(9)) && neighbours.get(&device(8)).is_none());
    }
}
