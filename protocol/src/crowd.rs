//! What a device leaves to others where hundreds start in the same second, so that they do not fill their own WAN link.
//!
//! Each connection to a seed costs the link some kilobytes in both directions, and each list of members some more: of 750
//! devices more than a thin link carries in several seconds, all of it before the first piece.

use std::time::Duration;

/// A device listens to the LAN for up to so many milliseconds before it dials a seed: afterwards it knows whether it starts
/// alone.
const LISTENING_MILLISECONDS: u64 = 250;
/// So many devices heard by then are a crowd; fewer go to the seed all at once.
const CROWD: usize = 24;
/// Of a crowd about so many go at once: more than may fetch over the WAN, since some may be slow or about to leave.
const AT_ONCE: u64 = 8;
/// The others follow within this time for each device heard.
const PAUSE_PER_DEVICE: Duration = Duration::from_millis(200);
/// A device that has no neighbour so long after its start waits no longer: what it heard may be out of reach.
pub const ALONE: Duration = Duration::from_secs(5);
/// Neighbours that a device looks for.
pub const NEIGHBOURS_WANTED: usize = 8;

/// How long a device listens after its start; `drawn` is any random number.
pub fn listening(drawn: u64) -> Duration {
    Duration::from_millis(drawn % LISTENING_MILLISECONDS)
}

/// How long a device that listened and heard so many others leaves the seed to them.
pub fn pause(heard: usize, drawn: u64) -> Duration {
    let count = u64::try_from(heard).unwrap_or(u64::MAX);
    if heard < CROWD || drawn % count < AT_ONCE {
        return Duration::ZERO;
    }
    let most = PAUSE_PER_DEVICE * u32::try_from(heard).unwrap_or(u32::MAX);
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis((drawn >> 32) % millis)
}

/// How many members a device with `kin` neighbours of its kind wants a seed to name: none where it has enough, and otherwise
/// twice what it lacks, since some are full or out of reach; at most `most` where others were named already and none of
/// them became a neighbour.
pub fn members_wanted(kin: usize, knows_site: bool, most: usize) -> usize {
    match kin {
        0 if knows_site => most,
        _ => most.min(2 * NEIGHBOURS_WANTED.saturating_sub(kin)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    // proves X1: where hundreds start at once, few go to the seed at once, and all within a minute
    #[test]
    fn few_of_a_crowd_go_at_once() {
        let mut random = Random::new(1);
        let mut pauses: Vec<Duration> = (0..750).map(|_| pause(256, random.draw())).collect();
        pauses.sort_unstable();
        let at_once = pauses.iter().filter(|pause| pause.is_zero()).count();
        assert!((8..48).contains(&at_once), "{at_once}");
        let soon = pauses.iter().filter(|pause| **pause < Duration::from_secs(5)).count();
        assert!(soon < 150, "{soon}");
        assert!(pauses[749] <= Duration::from_secs(52));
        assert!((0..CROWD).all(|heard| pause(heard, random.draw()).is_zero()), "an office is no crowd");
    }

    #[test]
    fn whoever_has_neighbours_wants_no_more() {
        let wanted = |kin, knows_site| members_wanted(kin, knows_site, 64);
        assert_eq!([wanted(8, true), wanted(30, true), wanted(6, true)], [0, 0, 4]);
        assert_eq!([wanted(0, false), wanted(0, true)], [16, 64]);
    }
}
