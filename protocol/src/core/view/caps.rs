//! What may pass at this node now, and why not more.

use super::status::Cause;
use crate::conditions::{Charge, Link, Passage, Power};
use crate::core::Core;
use crate::identifier::SiteName;
use crate::policy::caps::Passing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What may pass one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// How fast at most, such as `20 Mbit/s`; none is as fast as it goes.
    pub cap: Option<String>,
    /// `all`, `critical` (patches that are critical, and what proves them) or `nothing`.
    pub passing: String,
    /// Why not all.
    pub reason: Option<Cause>,
}

impl Default for Way {
    fn default() -> Way {
        Way::from(Passage::OPEN)
    }
}

impl From<Passage> for Way {
    fn from(passage: Passage) -> Way {
        let passing = match passage.passing {
            Passing::All => "all",
            Passing::Critical => "critical",
            Passing::Nothing => "nothing",
        };
        Way {
            cap: passage.cap.map(|rate| rate.to_string()),
            passing: passing.to_owned(),
            reason: passage.reason.map(Cause::from),
        }
    }
}

/// The caps of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// To this device over the WAN.
    pub download: Way,
    /// From this device to its neighbours; from a seed to all sites together.
    pub upload: Way,
    /// From a seed to each site that is connected and has a cap, or where not everything passes.
    pub sites: BTreeMap<SiteName, Way>,
    /// `mains` or `battery`.
    pub power: String,
    /// `wired`, `wireless` or `unknown`.
    pub link: String,
    /// Whether what the link carries costs money.
    pub metered: bool,
}

impl Core {
    /// What may pass now.
    pub fn caps_in_force(&self) -> Caps {
        let (caps, seed) = (&self.caps, self.setup.roles.seed);
        let upload = Passage { cap: caps.conditions.upload, ..Passage::OPEN };
        Caps {
            download: caps.allowed.download.into(),
            upload: if seed { upload } else { caps.allowed.upload }.into(),
            sites: caps.sites.iter().map(|(site, passage)| (site.clone(), Way::from(*passage))).collect(),
            power: match caps.conditions.power {
                Power::Mains => "mains",
                Power::Battery => "battery",
            }
            .to_owned(),
            link: match caps.conditions.link {
                Link::Wired(_) => "wired",
                Link::Wireless => "wireless",
                Link::Unknown => "unknown",
            }
            .to_owned(),
            metered: caps.conditions.charge == Charge::Metered,
        }
    }
}
