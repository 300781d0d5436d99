//! Share: the gate that decides whether content may pass between two devices; seven rules, in the design's order.
//!
//! `permit` is the serving side's gate, asked for every grant; `accept` is the asking side's.

use crate::manifest::{Evidence, Manifest};
use crate::membership::Rejection;
use crate::policy::Approved;
use crate::reason::Reason;
use crate::system::{System, Target};

/// How far the serving node has the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No piece was proven against the root.
    NoPieces,
    /// Some or all pieces match the root; the full check has not passed yet.
    Arriving,
    /// Complete, and it passed the full check: SHA-256 and the vendor's rule over the whole content.
    Checked,
    /// Complete, and it failed the full check: an incident; the bytes are discarded.
    FailedCheck,
}

/// When content may pass to a neighbour (`share` in policy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShareFrom {
    /// Its pieces may pass within the site while it arrives.
    #[default]
    FirstPiece,
    /// One fetcher takes the whole first.
    AfterFullCheck,
}

/// What the vendor's signature over the claimed digest came to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// It verifies against a key of the manifest's vendor that is trusted now.
    Verified,
    /// Its evidence has not been checked here yet.
    NotChecked,
    /// The vendor did not sign it.
    Unsigned,
    /// It was checked and refused.
    Refused(Reason),
}

/// What the content is to the manifest that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A file to install.
    Artifact,
    /// A file that proves one (`InRelease`, `Packages`): it inherits the gate of what it proves, and its own vendor
    /// rule is that the catalogue binds its digest. So it may pass before the signature in it could be checked, and
    /// not after it was refused.
    Evidence,
}

/// One manifest that names the content, and what is known of it here.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Operating systems that the manifest is for.
    pub targets: &'a [Target],
    /// What the content is to the manifest.
    pub part: Part,
    /// The vendor's signature on the manifest's artifacts.
    pub signature: Signature,
    /// Whether this very manifest is approved for somebody in the fleet.
    pub approved: Approved,
    /// Whether the patch is on hold.
    pub held: bool,
}

impl<'a> Claim<'a> {
    /// The claim of `manifest`. `verdict` is what checking its evidence came to, `None` before it was checked; a
    /// manifest with an artifact without evidence is unsigned whatever the verdict says.
    pub fn of(
        manifest: &'a Manifest,
        part: Part,
        verdict: Option<Result<(), Reason>>,
        approved: Approved,
        held: bool,
    ) -> Claim<'a> {
        let unsigned = manifest.artifacts.iter().any(|artifact| artifact.evidence == Evidence::None {});
        let signature = match verdict {
            _ if unsigned => Signature::Unsigned,
            None => Signature::NotChecked,
            Some(Ok(())) => Signature::Verified,
            Some(Err(reason)) => Signature::Refused(reason),
        };
        Claim { targets: &manifest.targets, part, signature, approved, held }
    }
}

/// The device on the serving side, as rule 4 sees it.
#[derive(Clone, Copy, Debug)]
pub enum Server<'a> {
    /// A seed: exempt from rule 4 alone. It is no peer, so peer download being off does not stop it either (N7).
    Seed,
    /// Any other device, with its operating system.
    Device(&'a System),
}

/// Where the asking device is, seen from the serving one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// At the serving device's own current site.
    Same,
    /// Elsewhere, and policy lets content pass there (a seed's answer for every site that it serves).
    OtherAllowed,
    /// Elsewhere, and policy does not.
    NotAllowed,
}

/// Whether the policy lets the serving node serve now; for a seed, whether its limits do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It does.
    Now,
    /// Peer download is off for it.
    PeerDownloadOff,
    /// Its metadata is older than policy's offline days.
    OfflineTooLong,
    /// Its upload limit is reached.
    UploadLimit,
    /// Business hours, battery or a metered link: not this content, for this reason.
    NotNow(Reason),
}

/// All that the serving side's gate looks at.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// How far the content is here.
    pub progress: Progress,
    /// From when on it may be shared.
    pub share_from: ShareFrom,
    /// Every manifest of the catalogues that names the content.
    pub claims: &'a [Claim<'a>],
    /// This node.
    pub own: Server<'a>,
    /// The asking device's operating system, as its membership certificate states it.
    pub asker: &'a System,
    /// Whether the asking device is a current member of this fleet: the answer of [`crate::membership::Verifier`].
    pub membership: Result<(), Rejection>,
    /// Where the asking device is.
    pub site: Site,
    /// Whether this node serves now.
    pub serving: Serving,
}

/// What may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Pieces that match the root, within the site, while the content arrives.
    ProvenPieces,
    /// The content, offered as complete.
    Complete,
}

/// Whether this node may hand out the content: all seven rules must hold for one and the same approved manifest.
///
/// # Errors
/// The reason of the first rule that fails, where reasons that settle by themselves come last: whoever asks for what
/// it may never have is not told to ask again later. With several manifests, of the one that came furthest.
pub fn permit(question: &Question<'_>) -> Result<Permission, Reason> {
    best(question.claims.iter().map(|claim| {
        let rules = [
            rule_1_pieces_match(question),
            rule_2_vendor_signed(claim),
            rule_3_approved_and_not_held(claim),
            rule_4_own_system(claim, question.own),
            rule_5_askers_system(claim, question.asker),
            rule_6_member_of_an_allowed_site(question),
            rule_7_serving_now(question.serving),
        ];
        first_broken(&rules)
    }))?;
    match question.progress {
        Progress::Checked => Ok(Permission::Complete),
        _ => Ok(Permission::ProvenPieces),
    }
}

/// All that the asking side's gate looks at.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Every manifest of this device's own catalogues that names the content.
    pub claims: &'a [Claim<'a>],
    /// Who offers it.
    pub from: Server<'a>,
    /// This device's operating system.
    pub own: &'a System,
    /// Whether this device takes content from peers (N7).
    pub peer_download: PeerDownload,
}

/// Peer download of the asking device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerDownload {
    /// Content may come from peers.
    On,
    /// Content comes from a seed alone.
    Off,
}

/// Whether this node may take the content from whoever offers it: rules 2 to 5, seen from the asking side, and its own
/// policy.
///
/// # Errors
/// As [`permit`].
pub fn accept(offer: &Offer<'_>) -> Result<(), Reason> {
    best(offer.claims.iter().map(|claim| {
        let rules = [
            rule_2_vendor_signed(claim),
            rule_3_approved_and_not_held(claim),
            rule_4_own_system(claim, offer.from),
            rule_5_askers_system(claim, offer.own),
            match (offer.peer_download, offer.from) {
                (PeerDownload::Off, Server::Device(_)) => Err(Reason::PeerDownloadOff),
                _ => Ok(()),
            },
        ];
        first_broken(&rules)
    }))
}

fn rule_1_pieces_match(question: &Question<'_>) -> Result<(), Reason> {
    match (question.progress, question.share_from, question.site) {
        (Progress::NoPieces, _, _) if crate::mutant::mutated(crate::mutant::Mutant::GrantNothing) => Ok(()),
        (Progress::NoPieces, _, _) => Err(Reason::NoPieces),
        (Progress::FailedCheck, _, _) => Err(Reason::FullCheckFailed),
        (Progress::Checked, _, _) => Ok(()),
        (Progress::Arriving, ShareFrom::FirstPiece, Site::Same) => Ok(()),
        (Progress::Arriving, _, _) => Err(Reason::FullCheckPending),
    }
}

fn rule_2_vendor_signed(claim: &Claim<'_>) -> Result<(), Reason> {
    match (claim.signature, claim.part) {
        (Signature::Verified, _) | (Signature::NotChecked, Part::Evidence) => Ok(()),
        (Signature::NotChecked, Part::Artifact) => Err(Reason::NotVerifiedYet),
        (Signature::Unsigned, _) if crate::mutant::mutated(crate::mutant::Mutant::ShareUnsigned) => Ok(()),
        (Signature::Unsigned, _) => Err(Reason::Unsigned),
        (Signature::Refused(reason), _) => Err(reason),
    }
}

fn rule_3_approved_and_not_held(claim: &Claim<'_>) -> Result<(), Reason> {
    match (claim.held, claim.approved) {
        (true, _) if crate::mutant::mutated(crate::mutant::Mutant::ShareHeld) => Ok(()),
        (true, _) => Err(Reason::Held),
        (false, Approved::Yes) => Ok(()),
        (false, Approved::OtherManifest) => Err(Reason::ApprovedOtherManifest),
        (false, Approved::No) if crate::mutant::mutated(crate::mutant::Mutant::ShareUnapproved) => Ok(()),
        (false, Approved::No) => Err(Reason::Unapproved),
    }
}

fn rule_4_own_system(claim: &Claim<'_>, server: Server<'_>) -> Result<(), Reason> {
    match server {
        Server::Seed => Ok(()),
        Server::Device(system) if applies(claim, system) => Ok(()),
        Server::Device(_) => Err(Reason::WrongSystemOwn),
    }
}

fn rule_5_askers_system(claim: &Claim<'_>, asker: &System) -> Result<(), Reason> {
    if applies(claim, asker) { Ok(()) } else { Err(Reason::WrongSystemAsker) }
}

fn rule_6_member_of_an_allowed_site(question: &Question<'_>) -> Result<(), Reason> {
    question.membership?;
    match question.site {
        Site::Same | Site::OtherAllowed => Ok(()),
        Site::NotAllowed => Err(Reason::SiteNotAllowed),
    }
}

fn rule_7_serving_now(serving: Serving) -> Result<(), Reason> {
    match serving {
        Serving::Now => Ok(()),
        Serving::PeerDownloadOff => Err(Reason::PeerDownloadOff),
        Serving::OfflineTooLong => Err(Reason::OfflineTooLong),
        Serving::UploadLimit => Err(Reason::UploadLimit),
        Serving::NotNow(reason) => Err(reason),
    }
}

fn applies(claim: &Claim<'_>, system: &System) -> bool {
    claim.targets.iter().any(|target| target.matches(system))
}

/// Whether the reason settles by itself, how many rules held before the first that did not, and its reason.
type Broken = (bool, usize, Reason);

fn first_broken(rules: &[Result<(), Reason>]) -> Result<(), Broken> {
    let broken = rules.iter().enumerate().filter_map(|(held, rule)| Some((held, rule.err()?)));
    let first = broken
        .map(|(held, reason)| (reason.settles(), held, reason))
        .min_by_key(|broken| (broken.0, broken.1));
    first.map_or(Ok(()), Err)
}

/// One manifest that satisfies all rules is enough; otherwise the reason of the one that came furthest.
fn best(claims: impl Iterator<Item = Result<(), Broken>>) -> Result<(), Reason> {
    let mut furthest: Option<Broken> = None;
    for claim in claims {
        match claim {
            Ok(()) => return Ok(()),
            Err(broken) if furthest.is_none_or(|best| (broken.0, broken.1) > (best.0, best.1)) => {
                furthest = Some(broken)
            }
            Err(_) => {}
        }
    }
    Err(furthest.map_or(Reason::NotInCatalogue, |(_, _, reason)| reason))
}

#[cfg(test)]
mod tests;
