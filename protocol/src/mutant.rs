//! Mistakes on purpose: one of them at a time is put into the shipped code, to see that the simulation notices.
//!
//! They exist only in a build with `--cfg patchmesh_mutants`, which no release has; without it [`mutated`] is constant.

/// A mistake. Its name says what is wrong, [`Mutant::what`] in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Mutant {
    /// Scan: any installed version counts as the patch.
    ScanIgnoresVersion,
    /// Scan: a half installed package counts as installed.
    ScanTakesBroken,
    /// Plan: unsigned patches are planned.
    PlanTakesUnsigned,
    /// Plan: held patches are planned.
    PlanTakesHeld,
    /// Plan: patches that nobody approved are planned.
    PlanTakesUnapproved,
    /// Deploy: requirements are not waited for.
    ForgetRequirements,
    /// Deploy: a second installer starts beside the first.
    InstallTwoAtOnce,
    /// Deploy: the rescan decides nothing.
    RescanBelievesInstaller,
    /// Deploy: what a crash interrupted is not looked at again.
    ForgetInterrupted,
    /// Deploy: no scan follows the installer.
    NeverRescan,
    /// Report: findings of a scan are not reported.
    FindingsUnreported,
    /// Report: ends of deployments are not reported.
    DeploymentUnreported,
    /// Verify: complete counts as checked.
    SkipFullCheck,
    /// Fetch: a complete content stays wanted.
    WantForEver,
    /// Fetch: pieces on the disk are forgotten at a restart.
    ForgetHeld,
    /// Verify: a wrong piece counts as right.
    TakeCorrupt,
    /// Fetch: a piece that the disk refused counts as held.
    TakeUnwritten,
    /// Verify: good evidence is refused.
    RefuseEvidence,
    /// Share: unsigned content passes the gate.
    ShareUnsigned,
    /// Share: held content passes the gate.
    ShareHeld,
    /// Share: content that nobody approved passes the gate.
    ShareUnapproved,
    /// Share: a grant without a piece.
    GrantNothing,
    /// Share: grants stand after a hold.
    KeepGrants,
    /// Share: the seed leases without asking the gate.
    SeedWithoutGate,
    /// Share: whatever is held is offered.
    OfferEverything,
    /// Share: neighbours hear of no new piece.
    NoNews,
    /// Fetch: services are dialled once.
    RedialOnce,
    /// Fetch: a neighbour that left stays a source.
    KeepTheGone,
    /// Trust: newer metadata is never missed.
    LackNothing,
    /// Trust: accepted metadata is not written.
    TrustUnwritten,
    /// Plan: no hold counts.
    ForgetHolds,
    /// Trust: a revoked device stays a member.
    IgnoreRevoked,
    /// Report: sent before it is durable.
    SendBeforeDurable,
    /// Report: what was not acknowledged is not sent again.
    SendOnce,
    /// Report: a watermark takes one report too many.
    WatermarkOffByOne,
    /// Report: watermarks mean nothing.
    IgnoreWatermarks,
    /// Report: every fifth report is lost.
    LoseAReport,
    /// Report: numbers have gaps.
    SkipANumber,
    /// Report: reports do not name the one before.
    BreakTheChain,
    /// Report: the outbox is forgotten at a restart.
    ForgetTheOutbox,
    /// Aggregate: a report that comes again counts again.
    CountTwice,
    /// Aggregate: missing reports are not missed.
    TakeGaps,
    /// Aggregate: reports are numbered and not applied.
    ApplyNothing,
    /// Fetch: a leased piece is leased again.
    LeaseTwice,
    /// Fetch: the seed forgets what it delivered.
    ForgetDelivered,
    /// Fetch: leases never lapse.
    LeaseForEver,
    /// Fetch: a piece that came is fetched again.
    FetchAgain,
    /// Fetch: mirrors are read although a seed is there.
    ReadBesideSeed,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 48] = [
        Mutant::ScanIgnoresVersion,
        Mutant::ScanTakesBroken,
        Mutant::PlanTakesUnsigned,
        Mutant::PlanTakesHeld,
        Mutant::PlanTakesUnapproved,
        Mutant::ForgetRequirements,
        Mutant::InstallTwoAtOnce,
        Mutant::RescanBelievesInstaller,
        Mutant::ForgetInterrupted,
        Mutant::NeverRescan,
        Mutant::FindingsUnreported,
        Mutant::DeploymentUnreported,
        Mutant::SkipFullCheck,
        Mutant::WantForEver,
        Mutant::ForgetHeld,
        Mutant::TakeCorrupt,
        Mutant::TakeUnwritten,
        Mutant::RefuseEvidence,
        Mutant::ShareUnsigned,
        Mutant::ShareHeld,
        Mutant::ShareUnapproved,
        Mutant::GrantNothing,
        Mutant::KeepGrants,
        Mutant::SeedWithoutGate,
        Mutant::OfferEverything,
        Mutant::NoNews,
        Mutant::RedialOnce,
        Mutant::KeepTheGone,
        Mutant::LackNothing,
        Mutant::TrustUnwritten,
        Mutant::ForgetHolds,
        Mutant::IgnoreRevoked,
        Mutant::SendBeforeDurable,
        Mutant::SendOnce,
        Mutant::WatermarkOffByOne,
        Mutant::IgnoreWatermarks,
        Mutant::LoseAReport,
        Mutant::SkipANumber,
        Mutant::BreakTheChain,
        Mutant::ForgetTheOutbox,
        Mutant::CountTwice,
        Mutant::TakeGaps,
        Mutant::ApplyNothing,
        Mutant::LeaseTwice,
        Mutant::ForgetDelivered,
        Mutant::LeaseForEver,
        Mutant::FetchAgain,
        Mutant::ReadBesideSeed,
    ];

    /// The verb and what is wrong.
    pub const fn what(self) -> &'static str {
        match self {
            Mutant::ScanIgnoresVersion => "scan: any installed version counts as the patch",
            Mutant::ScanTakesBroken => "scan: a half installed package counts as installed",
            Mutant::PlanTakesUnsigned => "plan: unsigned patches are planned",
            Mutant::PlanTakesHeld => "plan: held patches are planned",
            Mutant::PlanTakesUnapproved => "plan: patches that nobody approved are planned",
            Mutant::ForgetRequirements => "deploy: requirements are not waited for",
            Mutant::InstallTwoAtOnce => "deploy: a second installer starts beside the first",
            Mutant::RescanBelievesInstaller => "deploy: the rescan decides nothing",
            Mutant::ForgetInterrupted => "deploy: what a crash interrupted is not looked at again",
            Mutant::NeverRescan => "deploy: no scan follows the installer",
            Mutant::FindingsUnreported => "report: findings of a scan are not reported",
            Mutant::DeploymentUnreported => "report: ends of deployments are not reported",
            Mutant::SkipFullCheck => "verify: complete counts as checked",
            Mutant::WantForEver => "fetch: a complete content stays wanted",
            Mutant::ForgetHeld => "fetch: pieces on the disk are forgotten at a restart",
            Mutant::TakeCorrupt => "verify: a wrong piece counts as right",
            Mutant::TakeUnwritten => "fetch: a piece that the disk refused counts as held",
            Mutant::RefuseEvidence => "verify: good evidence is refused",
            Mutant::ShareUnsigned => "share: unsigned content passes the gate",
            Mutant::ShareHeld => "share: held content passes the gate",
            Mutant::ShareUnapproved => "share: content that nobody approved passes the gate",
            Mutant::GrantNothing => "share: a grant without a piece",
            Mutant::KeepGrants => "share: grants stand after a hold",
            Mutant::SeedWithoutGate => "share: the seed leases without asking the gate",
            Mutant::OfferEverything => "share: whatever is held is offered",
            Mutant::NoNews => "share: neighbours hear of no new piece",
            Mutant::RedialOnce => "fetch: services are dialled once",
            Mutant::KeepTheGone => "fetch: a neighbour that left stays a source",
            Mutant::LackNothing => "trust: newer metadata is never missed",
            Mutant::TrustUnwritten => "trust: accepted metadata is not written",
            Mutant::ForgetHolds => "plan: no hold counts",
            Mutant::IgnoreRevoked => "trust: a revoked device stays a member",
            Mutant::SendBeforeDurable => "report: sent before it is durable",
            Mutant::SendOnce => "report: what was not acknowledged is not sent again",
            Mutant::WatermarkOffByOne => "report: a watermark takes one report too many",
            Mutant::IgnoreWatermarks => "report: watermarks mean nothing",
            Mutant::LoseAReport => "report: every fifth report is lost",
            Mutant::SkipANumber => "report: numbers have gaps",
            Mutant::BreakTheChain => "report: reports do not name the one before",
            Mutant::ForgetTheOutbox => "report: the outbox is forgotten at a restart",
            Mutant::CountTwice => "aggregate: a report that comes again counts again",
            Mutant::TakeGaps => "aggregate: missing reports are not missed",
            Mutant::ApplyNothing => "aggregate: reports are numbered and not applied",
            Mutant::LeaseTwice => "fetch: a leased piece is leased again",
            Mutant::ForgetDelivered => "fetch: the seed forgets what it delivered",
            Mutant::LeaseForEver => "fetch: leases never lapse",
            Mutant::FetchAgain => "fetch: a piece that came is fetched again",
            Mutant::ReadBesideSeed => "fetch: mirrors are read although a seed is there",
        }
    }
}

/// Whether this mistake is in the code now.
#[cfg(not(patchmesh_mutants))]
#[inline]
pub const fn mutated(_: Mutant) -> bool {
    false
}

/// Which mistake is in the code, by its place in [`Mutant::ALL`] and one more; 0 for none.
#[cfg(patchmesh_mutants)]
static CHOSEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Whether this mistake is in the code now.
#[cfg(patchmesh_mutants)]
#[inline]
pub fn mutated(mutant: Mutant) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Relaxed) == mutant as usize + 1
}

/// Puts one mistake, or none, into the code of this process.
#[cfg(patchmesh_mutants)]
pub fn choose(mutant: Option<Mutant>) {
    let number = mutant.map_or(0, |mutant| mutant as usize + 1);
    CHOSEN.store(number, std::sync::atomic::Ordering::Relaxed);
}
