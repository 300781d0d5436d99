//! Reasons: one stable code for every refusal, every patch left out, and every WAN byte (X4), with what to do about it.

use crate::membership::Rejection;
use crate::policy::NoDeployment;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One row for each reason: the variant, its stable code, and the sentence that `explain` prints.
macro_rules! reasons {
    ($($name:ident = $code:literal: $text:literal,)*) => {
        /// Why something was refused, left out, or fetched over the WAN. Codes never change their meaning and rows
        /// are only ever added at the end, since binary formats number them in this order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $(#[doc = $text] #[serde(rename = $code)] $name,)*
        }

        impl Reason {
            /// Every reason, in the order of the binary formats.
            pub const ALL: &[Reason] = &[$(Reason::$name),*];

            /// The stable code, in kebab-case.
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$name => $code,)* }
            }

            /// One sentence for people, with the remedy where there is one.
            pub const fn explain(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    Unsigned = "unsigned":
        "The vendor did not sign it, so it is never shared; import a signed version or take it from its origin by hand.",
    Unapproved = "unapproved": "No policy approves it; run `patchmesh patch approve` if it is wanted.",
    ApprovedOtherManifest = "approved-other-manifest":
        "Another manifest of this patch was approved: the catalogue has changed since, or has the patch for another system too; look at this one and approve it again.",
    Held = "held": "The patch is on hold; only the policy key releases a hold, by its id.",
    NotApplicable = "not-applicable": "The patch is not for this device.",
    WrongSystemOwn = "wrong-system-own": "The patch is not for the serving device's operating system, which shares only its own.",
    WrongSystemAsker = "wrong-system-asker": "The patch is not for the operating system of the device that asks.",
    NotAMember = "not-a-member":
        "The device holds no membership certificate of this fleet that is valid; run `patchmesh join` on it.",
    MembershipExpired = "membership-expired":
        "The device's membership certificate is outside its period; check the clock or run `patchmesh join` again.",
    DeviceRevoked = "device-revoked": "The device was revoked by the fleet.",
    SiteNotAllowed = "site-not-allowed": "Policy does not let content pass to the asking device's site.",
    PeerDownloadOff = "peer-download-off": "Policy switches peer download off for this device.",
    UploadLimit = "upload-limit": "The device serves as much as policy allows at the moment; ask again later or ask another.",
    NotInCatalogue = "not-in-catalogue": "No manifest in the signed catalogues names this content.",
    NotVerifiedYet = "not-verified-yet": "The vendor's signature has not been checked here yet; ask again later.",
    NoPieces = "no-pieces": "No piece of this content has been proven against its root here yet.",
    FullCheckPending = "full-check-pending":
        "The content has not passed the full check yet and may not pass to this device before that; ask again later.",
    BadVendorSignature = "bad-vendor-signature":
        "The vendor's signature does not verify; treat the file as tampered with and import the patch again.",
    UntrustedKey = "untrusted-key":
        "No key that the fleet trusts for this vendor made the signature; compare with fleet/vendors.toml.",
    KeyExpired = "key-expired": "The vendor's key or signature is outside its period of validity; check the clock of this device, then publish the vendor's current key.",
    KeyRevoked = "key-revoked": "The vendor's key was revoked; publish the vendor's current key and import the patch again.",
    WeakAlgorithm = "weak-algorithm": "The vendor's signature uses an algorithm that is too weak to prove anything.",
    EvidenceMismatch = "evidence-mismatch":
        "The vendor's signed index does not name this artifact with this version, size and digest; import the patch again.",
    PieceCorrupt = "piece-corrupt": "A piece did not match the artifact's root; its sender is at fault and it was fetched elsewhere.",
    FullCheckFailed = "full-check-failed":
        "The complete content failed the check of its SHA-256 or its vendor's rule and was discarded; this is an incident.",
    StaleSnapshot = "stale-snapshot": "The two devices hold different versions of the signed metadata; it settles at the next check-in.",
    MetadataExpired = "metadata-expired": "The signed metadata on offer has expired; check the clock, then the seed.",
    OfflineTooLong = "offline-too-long":
        "No newer signed metadata came for longer than policy allows, so the device only scans and reports; restore its way to the seed.",
    Superseded = "superseded": "A newer patch that replaces it is installed or planned instead.",
    AlreadyInstalled = "already-installed": "A scan found the patch installed already.",
    NotAssessed = "not-assessed": "No scan has assessed this version of the patch's manifest yet; run `patchmesh scan`.",
    RequirementMissing = "requirement-missing":
        "A patch that must be installed before is neither installed nor in the plan; see why that one was left out.",
    RequirementCycle = "requirement-cycle": "The patch requires itself through others; the catalogue must be mended.",
    NotAssigned = "not-assigned": "No policy is assigned to this device; the built-in default only scans.",
    PolicyDisabled = "policy-disabled": "The policy that is assigned to this device is not enabled.",
    NoCapability = "no-capability": "The policy of this device has no deploy capability.",
    NoConfiguration = "no-configuration": "No configuration is associated with the policy of this device.",
    ConfigurationInert = "configuration-inert": "The configuration that is associated with the policy of this device does not deploy.",
    Excluded = "excluded": "Policy excludes the patch or the device from automatic deployment; an order that names the device still works.",
    RetriesExhausted = "retries-exhausted":
        "The installation failed as often as it may be tried; mend the cause, then run `patchmesh deploy` with the patch on the device.",
    LockBusy = "lock-busy": "Another program holds the package manager's lock; it is tried again when the lock is free.",
    DiskFull = "disk-full": "There is not enough disk space; free some, then it goes on by itself.",
    InstallerFailed = "installer-failed": "The installer reported an error and the rescan still finds the patch missing; see its log.",
    InstallerNoEffect = "installer-no-effect":
        "The installer reported success but the rescan still finds the patch missing; see its log.",
    InstallerInterrupted = "installer-interrupted": "The installer was interrupted by a crash or a restart; it is repeated after a rescan.",
    InstallerRefused = "installer-refused":
        "The installer did not start because its own check of the approval, the signature or the sandbox failed; see its log.",
    NoInstaller = "no-installer": "This device has no installer for this kind of patch.",
    Lease = "lease": "Fetched over the WAN under a lease of the seed, once for the whole site.",
    Takeover = "takeover": "Fetched over the WAN because those of the site that had or fetched it fell silent or cannot be reached.",
    LoneDevice = "lone-device": "Fetched over the WAN because the device has no neighbours at its site.",
    Evidence = "evidence": "Fetched over the WAN as the vendor's signed index, which proves a patch.",
    Metadata = "metadata": "Fetched over the WAN as signed metadata of the fleet.",
    Duplicate = "duplicate": "Fetched over the WAN although the site had it or was fetching it.",
    Neighbour = "neighbour": "Fetched from a neighbour at the same site.",
    NotASeed = "not-a-seed": "The device is no seed; only seeds keep track of a site and lease pieces.",
    LeaseNeeded = "lease-needed": "A seed serves pieces under a lease, so that each crosses the WAN once; ask for a lease.",
    NotAnAggregator = "not-an-aggregator": "The device is no aggregator; reports go to those that the fleet's services name.",
    TooLarge = "too-large": "It is larger than the limit for its kind.",
    UnknownVendor = "unknown-vendor": "The fleet's list of vendors does not name the vendor; add it to fleet/vendors.toml and publish.",
    SuiteMismatch = "suite-mismatch": "The vendor's signed release file is of another suite than the manifest says; import the patch again.",
    MalformedEvidence = "malformed-evidence": "The vendor's evidence does not have the form that it should have; import the patch again.",
    MissingEvidence = "missing-evidence": "A file that proves the vendor's signature is not here or cannot be read; it is fetched again.",
    NoGrant = "no-grant": "The device holds no grant for this content any more; it asks for a new one.",
    UnreadableReport = "unreadable-report":
        "The aggregator cannot read the next report of the device, which writes its whole state anew; update the older of the two.",
    OtherHistory = "other-history":
        "The aggregator knows other reports under the same numbers: the device was cloned or set back, and it starts a new history.",
    Busy = "busy": "The device is still at work on the last request of this kind; ask again later.",
    MalformedMessage = "malformed-message":
        "The device sent a message that is none of its protocol; update the older of the two, or look at what runs there.",
    ForeignReport = "foreign-report": "A device handed in a report that another device wrote; look at what runs there.",
    DiskDamaged = "disk-damaged":
        "The disk of this device changed content that was verified; check the disk, then restart the node or, at a seed, hand the file in again.",
    OriginUnreachable = "origin-unreachable":
        "The seed cannot read the content from its storage, its mirror or its disk; `patchmesh status` at the seed says what failed.",
    OriginCorrupt = "origin-corrupt":
        "The storage or mirror from which the content is read has other bytes there; remove them, at a seed's storage publish again.",
    NeighboursFull = "neighbours-full": "One of the two devices has as many neighbours as it may have; it named others to go to.",
    AcrossTunnel = "across-tunnel":
        "The way to the device leads through a tunnel such as a VPN, so it is not on this LAN and no neighbour.",
    OtherSite = "other-site": "The device belongs to another site of the fleet; only members of one site exchange content.",
    BusinessHours = "business-hours": "Policy lets nothing but critical patches pass in business hours; the rest goes on after them.",
    OnBattery = "on-battery": "The device is on battery, where policy lets it pass nothing or only critical patches; connect it to the mains.",
    MeteredLink = "metered-link":
        "The device's link is metered, where policy lets it pass nothing or only critical patches; it goes on over another link.",
    NothingPasses = "nothing-passes": "Policy lets nothing pass this way at this device or site; see `caps` in `patchmesh policy show`.",
    Away = "away": "Fetched over the WAN because the device is on the LAN of another site, where it has no peers.",
    Isolated = "isolated":
        "Fetched over the WAN because the device reaches none of the others at its site; see `patchmesh doctor` on it.",
    WaitsForTurn = "waits-for-turn": "Other devices of the site fetch over the WAN at the moment; its turn comes by itself.",
    Mirror = "mirror": "Read over the WAN at the vendor's mirror because no seed can be reached; see `patchmesh doctor`.",
    NoSeed = "no-seed":
        "No seed can be reached, and no neighbour has the rest of it: it comes when one is back, or from a mirror if policy names one.",
}

impl Reason {
    /// Whether the two ends may only disagree because they hold different snapshots of the signed metadata. When they
    /// do hold different ones, the answer is [`Reason::StaleSnapshot`] and nobody is punished for it.
    pub const fn may_be_stale(self) -> bool {
        use Reason::*;
        matches!(
            self,
            Unapproved | ApprovedOtherManifest | Held | WrongSystemOwn | WrongSystemAsker | NotInCatalogue
        )
    }
}

impl Reason {
    /// Whether it speaks against the content itself, whoever asks for it.
    pub const fn is_about_content(self) -> bool {
        use Reason::*;
        matches!(
            self,
            Unsigned
                | BadVendorSignature
                | UntrustedKey
                | KeyExpired
                | KeyRevoked
                | WeakAlgorithm
                | EvidenceMismatch
                | PieceCorrupt
                | FullCheckFailed
                | UnknownVendor
                | SuiteMismatch
                | MalformedEvidence
        )
    }

    /// Whether the refusal ends by itself, while both ends go on with what they are doing: the asker asks again later,
    /// and it says nothing against asker or content.
    pub const fn settles(self) -> bool {
        use Reason::*;
        matches!(
            self,
            NotVerifiedYet
                | NoPieces
                | FullCheckPending
                | UploadLimit
                | StaleSnapshot
                | OriginUnreachable
                | BusinessHours
                | OnBattery
                | MeteredLink
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// Text that is not the code of a reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a reason code that this build knows")]
pub struct NotAReason(String);

impl std::str::FromStr for Reason {
    type Err = NotAReason;
    fn from_str(text: &str) -> Result<Reason, NotAReason> {
        let known = Reason::ALL.iter().find(|reason| reason.code() == text);
        known.copied().ok_or_else(|| NotAReason(text.chars().take(40).collect()))
    }
}

impl From<NoDeployment> for Reason {
    fn from(why: NoDeployment) -> Reason {
        match why {
            NoDeployment::NotAssigned => Reason::NotAssigned,
            NoDeployment::PolicyDisabled => Reason::PolicyDisabled,
            NoDeployment::NoCapability => Reason::NoCapability,
            NoDeployment::NoConfiguration => Reason::NoConfiguration,
            NoDeployment::ConfigurationInert => Reason::ConfigurationInert,
        }
    }
}

impl From<Rejection> for Reason {
    fn from(rejection: Rejection) -> Reason {
        match rejection {
            Rejection::Expired | Rejection::NotYetValid => Reason::MembershipExpired,
            Rejection::Revoked => Reason::DeviceRevoked,
            Rejection::Malformed
            | Rejection::OtherFleet
            | Rejection::OtherDevice
            | Rejection::UnknownIssuer
            | Rejection::Silent => Reason::NotAMember,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves X4
    #[test]
    fn codes_and_their_order_are_pinned() {
        let table: String = Reason::ALL
            .iter()
            .enumerate()
            .map(|(number, reason)| format!("{number:>2} {reason:<24} {}\n", reason.explain()))
            .collect();
        insta::assert_snapshot!(table);
    }

    #[test]
    fn every_code_is_one_name_in_every_form() {
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.code().parse(), Ok(*reason));
            let json = serde_json::to_string(reason).expect("a reason");
            assert_eq!(json, format!("\"{}\"", reason.code()));
            assert_eq!(crate::codec::encode(reason), [u8::try_from(number).expect("few reasons")]);
            assert!(reason.code().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
            assert!(reason.explain().ends_with('.') && reason.explain().len() < 160, "{reason}");
        }
        assert!("no-such-reason".parse::<Reason>().is_err());
    }
}
