//! The truth table of the gate: every combination of facts, against an oracle written in another way.

use super::*;
use crate::manifest::tests::example;
use crate::system::Family;
use std::collections::BTreeMap;

fn windows_server(release: &str) -> System {
    System {
        family: Family::Windows,
        distribution: "windows-server".to_owned(),
        release: release.to_owned(),
        architecture: "amd64".to_owned(),
    }
}

fn target(system: &System) -> Target {
    Target {
        family: system.family,
        distribution: system.distribution.clone(),
        release: system.release.clone(),
        architecture: None,
    }
}

const SIGNATURES: [Signature; 4] =
    [Signature::Verified, Signature::NotChecked, Signature::Unsigned, Signature::Refused(Reason::KeyRevoked)];
const PARTS: [Part; 2] = [Part::Artifact, Part::Evidence];
const APPROVALS: [Approved; 3] = [Approved::Yes, Approved::OtherManifest, Approved::No];
const PROGRESS: [Progress; 4] =
    [Progress::NoPieces, Progress::Arriving, Progress::Checked, Progress::FailedCheck];
const SHARE_FROM: [ShareFrom; 2] = [ShareFrom::FirstPiece, ShareFrom::AfterFullCheck];
const MEMBERSHIP: [Result<(), Rejection>; 4] =
    [Ok(()), Err(Rejection::Revoked), Err(Rejection::Expired), Err(Rejection::OtherFleet)];
const SITES: [Site; 3] = [Site::Same, Site::OtherAllowed, Site::NotAllowed];
const SERVING: [Serving; 5] = [
    Serving::Now,
    Serving::PeerDownloadOff,
    Serving::OfflineTooLong,
    Serving::UploadLimit,
    Serving::NotNow(Reason::BusinessHours),
];

/// Every claim that there can be, for targets that do or do not match the two systems.
fn claims<'a>(targets: &'a [Vec<Target>; 4]) -> Vec<Claim<'a>> {
    let mut all = Vec::new();
    for targets in targets {
        for signature in SIGNATURES {
            for part in PARTS {
                for approved in APPROVALS {
                    for held in [false, true] {
                        all.push(Claim { targets, part, signature, approved, held });
                    }
                }
            }
        }
    }
    all
}

/// The rules that `claim` breaks by itself, and whether that settles by itself, between devices of these systems, read from the design once more.
fn broken_by_claim(claim: &Claim<'_>, server: Option<&System>, asker: &System) -> Vec<(bool, u8)> {
    let signed = claim.signature == Signature::Verified
        || (claim.part == Part::Evidence && claim.signature == Signature::NotChecked);
    let serves = server.is_none_or(|system| claim.targets.contains(&target(system)));
    let settles = claim.signature == Signature::NotChecked;
    let holds = [
        (2, signed),
        (3, claim.approved == Approved::Yes && !claim.held),
        (4, serves),
        (5, claim.targets.contains(&target(asker))),
    ];
    let broken = holds.into_iter().filter(|(_, holds)| !holds);
    broken.map(|(rule, _)| (rule == 2 && settles, rule)).collect()
}

/// The rule that a reason belongs to.
fn rule_of(reason: Reason) -> u8 {
    match reason {
        Reason::NoPieces | Reason::FullCheckPending | Reason::FullCheckFailed => 1,
        Reason::NotVerifiedYet | Reason::Unsigned | Reason::KeyRevoked => 2,
        Reason::Unapproved | Reason::ApprovedOtherManifest | Reason::Held => 3,
        Reason::WrongSystemOwn => 4,
        Reason::WrongSystemAsker => 5,
        Reason::NotAMember | Reason::DeviceRevoked | Reason::MembershipExpired | Reason::SiteNotAllowed => 6,
        Reason::PeerDownloadOff | Reason::OfflineTooLong | Reason::UploadLimit | Reason::BusinessHours => 7,
        other => panic!("{other} is no reason of the gate"),
    }
}

// proves N7, N8, N9, X2, X4
#[test]
fn serving_side_truth_table() {
    let (own, asker) = (windows_server("2019"), windows_server("2022"));
    let both = vec![target(&own), target(&asker)];
    let targets = [both, vec![target(&own)], vec![target(&asker)], Vec::new()];
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for claim in claims(&targets) {
        for progress in PROGRESS {
            for share_from in SHARE_FROM {
                for server in [Server::Device(&own), Server::Seed] {
                    for membership in MEMBERSHIP {
                        for site in SITES {
                            for serving in SERVING {
                                let question = Question {
                                    progress,
                                    share_from,
                                    claims: &[claim],
                                    own: server,
                                    asker: &asker,
                                    membership,
                                    site,
                                    serving,
                                };
                                let answer = permit(&question);
                                assert_as_designed(&question, answer);
                                let row = match answer {
                                    Ok(permission) => format!("permitted: {permission:?}"),
                                    Err(reason) => format!("rule {}: {reason}", rule_of(reason)),
                                };
                                *counts.entry(row).or_default() += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    let table: String = counts.iter().map(|(row, count)| format!("{count:>6} {row}\n")).collect();
    insta::assert_snapshot!(table);
}

/// The oracle: collects every broken rule, in any order; the answer must be the least of them, those that settle by
/// themselves after all others.
fn assert_as_designed(question: &Question<'_>, answer: Result<Permission, Reason>) {
    let server = match question.own {
        Server::Seed => None,
        Server::Device(system) => Some(system),
    };
    let mut broken = broken_by_claim(&question.claims[0], server, question.asker);
    let passes_early = question.progress == Progress::Arriving
        && question.share_from != ShareFrom::AfterFullCheck
        && question.site == Site::Same;
    if question.progress != Progress::Checked && !passes_early {
        broken.push((question.progress != Progress::FailedCheck, 1));
    }
    if question.membership.is_err() || question.site == Site::NotAllowed {
        broken.push((false, 6));
    }
    if question.serving != Serving::Now {
        let settles = matches!(question.serving, Serving::UploadLimit | Serving::NotNow(_));
        broken.push((settles, 7));
    }
    assert_eq!(answer.err().map(rule_of), broken.into_iter().min().map(|(_, rule)| rule), "{question:?}");
    // X2: offered as complete only after the full check.
    assert!(answer != Ok(Permission::Complete) || question.progress == Progress::Checked);
}

// proves N7, N8, N9
#[test]
fn asking_side_truth_table() {
    let (own, peer) = (windows_server("2022"), windows_server("2019"));
    let targets = [vec![target(&own), target(&peer)], vec![target(&own)], vec![target(&peer)], Vec::new()];
    for claim in claims(&targets) {
        for from in [Server::Device(&peer), Server::Seed] {
            for peer_download in [PeerDownload::On, PeerDownload::Off] {
                let server = if let Server::Device(system) = from { Some(system) } else { None };
                let mut broken = broken_by_claim(&claim, server, &own);
                if server.is_some() && peer_download == PeerDownload::Off {
                    broken.push((false, 7));
                }
                let answer = accept(&Offer { claims: &[claim], from, own: &own, peer_download });
                let first = broken.into_iter().min().map(|(_, rule)| rule);
                assert_eq!(answer.err().map(rule_of), first, "{claim:?} {from:?}");
            }
        }
    }
}

// proves N8, N9
#[test]
fn one_and_the_same_manifest_must_satisfy_all() {
    let (own, asker) = (windows_server("2019"), windows_server("2022"));
    let (mine, both) = (vec![target(&own)], vec![target(&own), target(&asker)]);
    let good = Claim {
        targets: &both,
        part: Part::Evidence,
        signature: Signature::NotChecked,
        approved: Approved::Yes,
        held: false,
    };
    let unapproved = Claim { approved: Approved::No, ..good };
    let elsewhere = Claim { targets: &mine, ..good };
    let ask = |claims: &[Claim<'_>]| {
        permit(&Question {
            progress: Progress::Checked,
            share_from: ShareFrom::FirstPiece,
            claims,
            own: Server::Device(&own),
            asker: &asker,
            membership: Ok(()),
            site: Site::Same,
            serving: Serving::Now,
        })
    };
    assert_eq!(ask(&[]), Err(Reason::NotInCatalogue));
    assert_eq!(ask(&[unapproved, elsewhere, good]), Ok(Permission::Complete));
    // Together they satisfy every rule, neither does alone; the one that came furthest says why.
    assert_eq!(ask(&[unapproved, elsewhere]), Err(Reason::WrongSystemAsker));
    assert_eq!(ask(&[elsewhere, unapproved]), Err(Reason::WrongSystemAsker));
}

// proves N8
#[test]
fn a_manifest_without_evidence_is_unsigned_whatever_the_verdict() {
    let manifest = example("libone");
    for verdict in [None, Some(Ok(())), Some(Err(Reason::KeyExpired))] {
        let claim = Claim::of(&manifest, Part::Artifact, verdict, Approved::Yes, false);
        assert_eq!(claim.signature, Signature::Unsigned);
    }
}
