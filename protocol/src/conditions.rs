//! What a device stands on: power, link, the clock on its wall; and what policy lets pass there.

use crate::policy::Effective;
use crate::policy::caps::{Allowance, Caps, Direction, LocalTime, Passing};
use crate::rate::Rate;
use crate::reason::Reason;
use crate::time::WallTime;
use serde::{Deserialize, Serialize};

/// What a device serves to its neighbours at most when nobody says otherwise and its wired link does not say how fast it
/// is: a fifth of the usual one.
pub const WIRED_UPLOAD: Rate = Rate::megabits(200);
/// The same over the air, which all devices share, and every byte takes twice where both are in it.
pub const WIRELESS_UPLOAD: Rate = Rate::megabits(50);

/// Where the power comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// From the mains, or nothing says otherwise.
    #[default]
    Mains,
    /// From a battery that empties.
    Battery,
}

/// Whether bytes on the link cost money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Charge {
    /// No, or nothing says so.
    #[default]
    Unmetered,
    /// Yes.
    Metered,
}

/// How the device is connected to its LAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// To none, or nothing is known of it.
    #[default]
    Unknown,
    /// By cable; how fast the slowest one is, where it says so.
    Wired(Option<Rate>),
    /// Through the air.
    Wireless,
}

/// What the bytes of a device pass through on its LAN, as far as its neighbours need to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Medium {
    /// A cable, or nothing is known of it.
    #[default]
    Cable,
    /// The air, which all who are in it share.
    Air,
}

impl Link {
    /// What it passes through.
    pub fn medium(self) -> Medium {
        match self {
            Link::Wireless => Medium::Air,
            Link::Wired(_) | Link::Unknown => Medium::Cable,
        }
    }

    /// What a device serves at most, so that whoever works at it does not notice: half of its link where that is known.
    pub fn usual_upload(self) -> Option<Rate> {
        match self {
            Link::Unknown => None,
            Link::Wired(Some(speed)) => Some(speed.half()),
            Link::Wired(None) => Some(WIRED_UPLOAD),
            Link::Wireless => Some(WIRELESS_UPLOAD),
        }
    }
}

/// What a device stands on, as far as its system and its own configuration say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Power.
    pub power: Power,
    /// Cost of the link.
    pub charge: Charge,
    /// The link itself.
    pub link: Link,
    /// How much later it is here than in UTC, in minutes.
    pub utc_offset_minutes: i16,
    /// Cap on what it fetches over the WAN, from its own configuration.
    pub download: Option<Rate>,
    /// Cap on what it serves, from its own configuration.
    pub upload: Option<Rate>,
}

/// What may pass one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// How fast at most; `None` is as fast as it goes.
    pub cap: Option<Rate>,
    /// What.
    pub passing: Passing,
    /// Why not everything.
    pub reason: Option<Reason>,
}

impl Passage {
    /// Everything, as fast as it goes.
    pub const OPEN: Passage = Passage { cap: None, passing: Passing::All, reason: None };

    /// What the hours of a policy let pass.
    pub fn by_hours(direction: Direction) -> Passage {
        let reason = match direction.passing {
            Passing::All => None,
            Passing::Critical => Some(Reason::BusinessHours),
            Passing::Nothing => Some(Reason::NothingPasses),
        };
        Passage { cap: direction.cap, passing: direction.passing, reason }
    }

    /// The same where besides only this passes, for that reason.
    #[must_use]
    fn where_only(self, passing: Passing, reason: Reason) -> Passage {
        if passing < self.passing { Passage { passing, reason: Some(reason), ..self } } else { self }
    }

    /// Whether content of this kind may pass: critical, or any.
    ///
    /// # Errors
    /// Why not.
    pub fn lets(&self, content: Passing) -> Result<(), Reason> {
        if content <= self.passing { Ok(()) } else { Err(self.reason.unwrap_or(Reason::NothingPasses)) }
    }
}

/// What may pass at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// To it, from whomever.
    pub fetching: Passage,
    /// To it over the WAN.
    pub download: Passage,
    /// From it to its neighbours.
    pub upload: Passage,
}

impl Allowed {
    /// Everything, as fast as it goes.
    pub const ALL: Allowed =
        Allowed { fetching: Passage::OPEN, download: Passage::OPEN, upload: Passage::OPEN };

    /// What may pass at a device under its policy and the caps of its site.
    pub fn at<'a>(
        policy: &Effective,
        caps_of_site: impl Iterator<Item = &'a Caps>,
        conditions: &Conditions,
        now: WallTime,
    ) -> Allowed {
        let local = LocalTime::of(now, conditions.utc_offset_minutes);
        let own = Allowance::of(&policy.caps, local);
        // The cap of the site itself is the seed's to enforce, who sees all its fetchers.
        let site = Direction { cap: None, ..Allowance::of(caps_of_site, local).site_download };
        let download = Passage::by_hours(own.download.join(site).capped(conditions.download));
        let usual = own.upload.cap.or(conditions.upload).or(conditions.link.usual_upload());
        let upload = Passage::by_hours(own.upload.capped(conditions.upload).capped(usual));
        let stand = |passage: Passage| {
            let on_battery = conditions.power == Power::Battery;
            let metered = conditions.charge == Charge::Metered;
            let passage =
                if on_battery { passage.where_only(policy.on_battery, Reason::OnBattery) } else { passage };
            if metered { passage.where_only(policy.on_metered, Reason::MeteredLink) } else { passage }
        };
        Allowed { fetching: stand(Passage::OPEN), download: stand(download), upload: stand(upload) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::effective;

    fn policy(caps: &str) -> Effective {
        effective(
            &format!(
                "[[policy]]\nname = \"x\"\nenabled = true\nassign = {{ everyone = true }}\n[policy.caps]\n{caps}"
            ),
            "utrecht",
        )
    }

    fn at(policy: &Effective, conditions: Conditions) -> Allowed {
        let noon = WallTime::parse("2026-11-25T12:00:00Z").expect("a Wednesday");
        Allowed::at(policy, policy.caps.iter(), &conditions, noon)
    }

    // proves X3: on battery and on metered links nothing passes unless policy says so
    #[test]
    fn battery_and_metered_links_pass_what_policy_says_and_nothing_by_default() {
        use {Charge::*, Passing::*, Power::*};
        let table = [
            ("", Mains, Unmetered, All, None),
            ("", Battery, Unmetered, Nothing, Some(Reason::OnBattery)),
            ("", Mains, Metered, Nothing, Some(Reason::MeteredLink)),
            ("on-battery = \"all\"", Battery, Unmetered, All, None),
            ("on-battery = \"critical\"", Battery, Unmetered, Critical, Some(Reason::OnBattery)),
            ("on-battery = \"critical\"", Battery, Metered, Nothing, Some(Reason::MeteredLink)),
            ("on-metered = \"critical\"", Mains, Metered, Critical, Some(Reason::MeteredLink)),
        ];
        for (text, power, charge, passing, reason) in table {
            let allowed = at(&policy(text), Conditions { power, charge, ..Conditions::default() });
            for passage in [allowed.fetching, allowed.download, allowed.upload] {
                assert_eq!(
                    (passage.passing, passage.reason),
                    (passing, reason),
                    "{text} {power:?} {charge:?}"
                );
            }
        }
        let critical =
            at(&policy("on-battery = \"critical\""), Conditions { power: Battery, ..Conditions::default() });
        assert_eq!(critical.upload.lets(Critical), Ok(()));
        assert_eq!(critical.upload.lets(All), Err(Reason::OnBattery));
    }

    // proves X3: who works at a device keeps at least half of its link, whatever its neighbours want
    #[test]
    fn serving_is_capped_by_the_link_unless_somebody_says_otherwise() {
        let (open, capped) = (policy(""), policy("upload = \"300 Mbit/s\""));
        let mega = Rate::megabits;
        let table = [
            (&open, Link::Unknown, None, None),
            (&open, Link::Wired(Some(mega(1_000))), None, Some(mega(500))),
            (&open, Link::Wired(None), None, Some(WIRED_UPLOAD)),
            (&open, Link::Wireless, None, Some(WIRELESS_UPLOAD)),
            (&open, Link::Wireless, Some(mega(100)), Some(mega(100))),
            (&capped, Link::Wireless, None, Some(mega(300))),
            (&capped, Link::Wired(None), Some(mega(100)), Some(mega(100))),
        ];
        for (policy, link, upload, expected) in table {
            let allowed = at(policy, Conditions { link, upload, ..Conditions::default() });
            assert_eq!(allowed.upload.cap, expected, "{link:?} {upload:?}");
        }
    }

    #[test]
    fn hours_of_the_site_stop_its_devices_and_its_cap_is_the_seeds() {
        let hours = "site-download = \"20 Mbit/s\"\n[policy.caps.business-hours]\nfrom = \"08:00\"\nuntil = \"18:00\"\nsite-download = \"nothing\"\n";
        let allowed = at(&policy(hours), Conditions::default());
        assert_eq!(allowed.download.lets(Passing::All), Err(Reason::BusinessHours));
        assert_eq!((allowed.download.lets(Passing::Critical), allowed.download.cap), (Ok(()), None));
        assert_eq!(allowed.fetching, Passage::OPEN, "neighbours still give it");
    }
}
