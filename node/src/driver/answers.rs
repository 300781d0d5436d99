//! Answers on the control socket: the core's view in the form that the command line prints.

use super::events::reason_answer;
use super::run::Driver;
use super::start::now;
use crate::control::{Failure, FailureKind, Request, Response, answer};
use protocol::core::{Command, Input, PatchView};
use protocol::identifier::PatchId;
use protocol::plan::Purpose;
use protocol::policy::Approved;
use protocol::reason::Reason;
use protocol::report::{Body, ContentKind, Source};
use protocol::scan::Finding;
use protocol::time::WallTime;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

impl Driver {
    pub(super) fn on_query(&mut self, request: Request, respond: oneshot::Sender<Response>) {
        let answer = match request {
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Peers => Response::Peers(self.peers()),
            Request::Scan => {
                self.scans.push(respond);
                return self.handle(Input::Command(Command::Scan));
            }
            Request::Plan => Response::Plan(self.plan()),
            Request::Deploy { patch } => self.deploy(patch),
            Request::Reports { after, limit } => Response::Reports(self.reports(after, limit)),
            Request::Explain { patch } => self.explain(&patch),
            Request::PolicyShow => Response::Policy(self.policy()),
            Request::PatchList => Response::Patches(self.core.patches().iter().map(patch_answer).collect()),
            Request::TokenCreate { site, class, uses, expires } => {
                return self.create_token(site, class, uses, expires, respond);
            }
            Request::TokenList => return self.list_tokens(respond),
            Request::RepositoryChanged => return self.load_repository(respond),
            Request::AddContent { paths } => return self.add_content(paths, respond),
            Request::Transfers => Response::Transfers(self.transfers()),
            Request::Shutdown => {
                self.stop.cancel();
                Response::Stopping
            }
        };
        // The client may be gone.
        let _ = respond.send(answer);
    }

    fn status(&self) -> answer::Status {
        let view = self.core.view();
        let expires = view.expires.as_ref().map(|(_, at)| *at);
        let peers = self.core.peers();
        let versions = [
            ("root", view.versions.root),
            ("timestamp", view.versions.timestamp),
            ("snapshot", view.versions.snapshot),
        ];
        let seed = self.seed.is_some() || peers.iter().any(|peer| peer.is_seed);
        let neighbours = peers.iter().filter(|peer| peer.is_neighbour).count();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        answer::Status {
            software: env!("CARGO_PKG_VERSION").to_owned(),
            device: view.member.device,
            host: view.member.host.clone(),
            fleet: view.member.fleet,
            site: view.member.site.clone(),
            class: view.member.class,
            system: view.member.system.clone(),
            roles: self.roles(),
            started: self.started_at,
            listening: self.means.net.listen_addresses().iter().map(ToString::to_string).collect(),
            metadata: answer::Metadata {
                versions: versions.into_iter().map(|(role, version)| (role.to_owned(), version)).collect(),
                expires,
                checked: self.happened.checked,
            },
            connections: answer::Connections {
                members: count(peers.len()),
                neighbours: count(neighbours),
                seed,
            },
            findings: self.finding_counts(),
            deployments: self.deployments(),
            traffic: self.traffic(),
            outbox: answer::Outbox {
                waiting: view.reports_waiting as u64,
                last: view.reports_written,
                watermark: view.reports_acknowledged,
            },
            refusals: self.happened.refusals(),
            problems: self.problems(expires),
        }
    }

    /// What needs attention; metadata that expired without news is part of it, whether or not anybody offered any.
    fn problems(&self, expires: Option<WallTime>) -> Vec<answer::Problem> {
        let mut problems = self.happened.problems();
        if let Some(expires) = expires.filter(|expires| now() >= *expires) {
            let until = expires.plus_days(self.core.policy().offline_days);
            let sentence = format!(
                "The signed metadata expired at {expires}; without news it stays in force until {until}."
            );
            problems.push(answer::Problem {
                reason: answer::Reason { code: Reason::MetadataExpired.code().to_owned(), sentence },
                remedy: Some("check the clock, then that headquarters runs and can be reached".to_owned()),
            });
        }
        problems
    }

    fn roles(&self) -> Vec<String> {
        let roles = [
            ("seed", self.seed.is_some()),
            ("registrar", self.registrar.is_some()),
            ("aggregator", self.means.aggregator.is_some()),
        ];
        roles.into_iter().filter(|(_, has)| *has).map(|(role, _)| role.to_owned()).collect()
    }

    fn finding_counts(&self) -> answer::FindingCounts {
        let findings = self.core.findings();
        let count = |wanted: Finding| {
            let matching = findings.by_patch.values().filter(|(_, finding)| *finding == wanted).count();
            u32::try_from(matching).unwrap_or(u32::MAX)
        };
        answer::FindingCounts {
            scanned: self.core.view().scanned.then_some(findings.taken),
            not_assessed: count(Finding::NotAssessed),
            not_applicable: count(Finding::NotApplicable),
            missing: count(Finding::Missing),
            installed: count(Finding::Installed),
        }
    }

    fn deployments(&self) -> Vec<answer::Deployment> {
        let states = self.core.deployment_views();
        let deployments = states.into_iter().map(|view| answer::Deployment {
            patch: view.patch,
            state: view.state,
            finished: view.finished,
            attempts: view.attempts,
            reason: view.reason.map(reason_answer),
            since: view.since,
        });
        deployments.collect()
    }

    fn traffic(&self) -> answer::Traffic {
        let mut traffic = answer::Traffic::default();
        let mine = self.core.view().member.site;
        let sites: BTreeMap<_, _> =
            self.core.peers().into_iter().map(|peer| (peer.member.device, peer.member.site)).collect();
        for (device, bytes) in self.means.net.traffic() {
            let lan = sites.get(&device).is_some_and(|site| *site == mine)
                || (!sites.contains_key(&device) && !self.core.is_across_the_wan(device));
            let total = if lan { &mut traffic.lan } else { &mut traffic.wan };
            total.received = total.received.saturating_add(bytes.received);
            total.sent = total.sent.saturating_add(bytes.sent);
        }
        let network = self.core.network_totals();
        traffic.wan_metadata.received = network.metadata_wan;
        let reports = &self.means.reports;
        traffic.wan_reports.sent = reports.sent.load(Ordering::Relaxed);
        traffic.wan_reports.received = reports.received.load(Ordering::Relaxed);
        for transfer in self.core.transfer_totals() {
            for (source, reason, bytes) in transfer.fetched {
                if source == Source::Wan {
                    *traffic.wan_reasons.entry(reason.code().to_owned()).or_default() += bytes;
                }
            }
        }
        traffic
    }

    fn peers(&self) -> Vec<answer::Peer> {
        let raw: BTreeMap<_, _> = self.means.net.traffic().into_iter().collect();
        let view = |peer: protocol::core::PeerView| {
            let device = peer.member.device;
            let roles = [("seed", peer.is_seed), ("aggregator", peer.is_aggregator)];
            let raw = raw.get(&device).copied().unwrap_or_default();
            answer::Peer {
                device,
                host: peer.member.host,
                site: peer.member.site,
                system: peer.member.system,
                roles: roles.into_iter().filter(|(_, has)| *has).map(|(role, _)| role.to_owned()).collect(),
                address: self.addresses.get(&device).map(ToString::to_string),
                discovered: (*self.discovered.get(&device).unwrap_or(&"incoming")).to_owned(),
                connected: true,
                pieces: answer::Bytes { received: peer.fetched, sent: peer.served },
                raw: answer::Bytes { received: raw.received, sent: raw.sent },
            }
        };
        self.core.peers().into_iter().map(view).collect()
    }

    /// Everybody who waits for a scan gets the result of the one that just ended.
    pub(super) fn answer_scans(&mut self) {
        if self.scans.is_empty() {
            return;
        }
        let failure =
            self.happened.problems().into_iter().find(|problem| problem.reason.code == "scan-failed");
        let answer = match failure {
            Some(problem) => Response::Failure(
                Failure::new(FailureKind::Failed, "scan-failed", problem.reason.sentence)
                    .with_remedy(problem.remedy.unwrap_or_default()),
            ),
            None => {
                Response::Scan(answer::Scan { counts: self.finding_counts(), findings: self.finding_list() })
            }
        };
        for respond in self.scans.drain(..) {
            // The client may be gone.
            let _ = respond.send(answer.clone());
        }
    }

    fn finding_list(&self) -> Vec<answer::Finding> {
        let finding = |view: PatchView| answer::Finding {
            patch: view.manifest.patch.clone(),
            title: view.manifest.title.clone(),
            severity: view.manifest.severity,
            state: finding_code(view.finding).to_owned(),
            found: self.core.found_version(&view.manifest),
            superseded_by: None,
        };
        self.core.patches().into_iter().map(finding).collect()
    }

    fn plan(&self) -> answer::Plan {
        let plan = self.core.plan();
        let titles: BTreeMap<PatchId, (String, u64)> = self
            .core
            .patches()
            .into_iter()
            .map(|view| (view.manifest.patch.clone(), (view.manifest.title.clone(), view.manifest.size())))
            .collect();
        let steps = plan.steps.iter().map(|step| {
            let (title, size) = titles.get(&step.patch).cloned().unwrap_or_default();
            answer::Step { patch: step.patch.clone(), title, manifest: step.manifest, size }
        });
        let inert = match plan.steps.iter().find_map(|step| match step.purpose {
            Purpose::FetchAhead(reason) => Some(reason),
            Purpose::Deploy => None,
        }) {
            Some(reason) => Some(reason),
            None => self.core.policy().deployment.as_ref().err().map(|why| Reason::from(*why)),
        };
        answer::Plan {
            generation: plan.generation,
            made: plan.made,
            inert: inert.map(reason_answer),
            steps: steps.collect(),
            left_out: plan.left_out.iter().map(|(patch, out)| left_out(patch, out.reason)).collect(),
        }
    }

    fn deploy(&mut self, patch: Option<PatchId>) -> Response {
        self.handle(Input::Command(Command::Deploy(patch.clone())));
        let plan = self.core.plan();
        let wanted = |named: &PatchId| patch.as_ref().is_none_or(|patch| patch == named);
        let deploys = |purpose| purpose == Purpose::Deploy;
        let started: Vec<PatchId> = plan
            .steps
            .iter()
            .filter(|step| wanted(&step.patch) && deploys(step.purpose))
            .map(|step| step.patch.clone())
            .collect();
        let mut refused: Vec<answer::LeftOut> = plan
            .left_out
            .iter()
            .filter(|(named, _)| wanted(named))
            .map(|(named, out)| left_out(named, out.reason))
            .collect();
        for step in plan.steps.iter().filter(|step| wanted(&step.patch)) {
            if let Purpose::FetchAhead(reason) = step.purpose {
                refused.push(left_out(&step.patch, reason));
            }
        }
        match &patch {
            Some(patch) if started.is_empty() && refused.is_empty() => {
                let known = self.core.patches().into_iter().find(|view| view.manifest.patch == *patch);
                match known {
                    None => unknown_patch(patch),
                    Some(view) => {
                        let reason = match view.finding {
                            Finding::Installed => Reason::AlreadyInstalled,
                            Finding::NotAssessed => Reason::NotAssessed,
                            Finding::NotApplicable | Finding::Missing => Reason::NotApplicable,
                        };
                        let out = left_out(patch, reason);
                        let generation = plan.generation;
                        Response::Deploying(answer::Deploying { generation, started, left_out: vec![out] })
                    }
                }
            }
            _ => {
                let generation = plan.generation;
                Response::Deploying(answer::Deploying { generation, started, left_out: refused })
            }
        }
    }

    fn reports(&self, after: u64, limit: u32) -> Vec<answer::Report> {
        let acknowledged = self.core.view().reports_acknowledged;
        let reports = self.core.waiting_reports(after, limit as usize).into_iter();
        let line = |report: protocol::report::Report| {
            let (kind, summary) = summary(&report.body);
            answer::Report {
                incarnation: report.incarnation,
                sequence: report.sequence,
                time: report.time,
                kind: kind.to_owned(),
                summary,
                durable: report.sequence <= acknowledged,
            }
        };
        reports.map(line).collect()
    }

    fn explain(&self, patch: &PatchId) -> Response {
        let Some(chain) = self.core.explain(patch) else { return unknown_patch(patch) };
        let view = self.core.patches().into_iter().find(|view| view.manifest.patch == *patch);
        let state = view.map_or_else(String::new, |view| {
            view.deployment.unwrap_or_else(|| finding_code(view.finding).to_owned())
        });
        let chain = chain.into_iter().map(|link| answer::Reason {
            code: link.reason.map_or(link.question, Reason::code).to_owned(),
            sentence: link.answer,
        });
        Response::Explanation(answer::Explanation { patch: patch.clone(), state, chain: chain.collect() })
    }

    fn policy(&self) -> answer::PolicyView {
        let effective = self.core.policy();
        let names =
            |rules: &[protocol::identifier::RuleName]| rules.iter().map(ToString::to_string).collect();
        answer::PolicyView {
            policies: names(&effective.policies),
            configurations: effective.deployment.as_ref().map(|rules| names(rules)).unwrap_or_default(),
            inert: effective.deployment.as_ref().err().map(|why| reason_answer(Reason::from(*why))),
            peer_download: effective.peer_download,
            wan_fetchers: effective.wan_fetchers,
            scan_minutes: effective.scan_minutes,
            offline_days: effective.offline_days,
            approved: effective.approved().cloned().collect(),
            held: effective.holds().map(|hold| (hold.patch.clone(), hold.reason.clone())).collect(),
        }
    }

    fn transfers(&self) -> Vec<answer::Transfer> {
        let totals: BTreeMap<_, _> =
            self.core.transfer_totals().into_iter().map(|transfer| (transfer.root, transfer)).collect();
        let line = |entry: protocol::core::ContentView| {
            let total = totals.get(&entry.content.root);
            let from = |source| total.map_or(0, |transfer| transfer.from(source));
            answer::Transfer {
                root: entry.content.root,
                kind: if entry.kind == ContentKind::Evidence { "evidence" } else { "artifact" }.to_owned(),
                patch: entry.patch,
                name: entry.name,
                size: entry.content.size,
                pieces_held: entry.held,
                pieces_total: entry.pieces,
                verified: entry.verified,
                wan_bytes: from(Source::Wan),
                lan_bytes: from(Source::Lan),
                served_bytes: total.map_or(0, |transfer| transfer.served),
            }
        };
        self.core.content_views().into_iter().map(line).collect()
    }
}

fn unknown_patch(patch: &PatchId) -> Response {
    let message = format!("no catalogue of this device lists {patch}");
    Failure::new(FailureKind::Usage, "unknown-patch", message)
        .with_remedy("`patchmesh patch list` shows the patches")
        .into()
}

fn left_out(patch: &PatchId, reason: Reason) -> answer::LeftOut {
    answer::LeftOut { patch: patch.clone(), reason: reason_answer(reason) }
}

fn patch_answer(view: &PatchView) -> answer::Patch {
    let manifest = &view.manifest;
    answer::Patch {
        patch: manifest.patch.clone(),
        title: manifest.title.clone(),
        kind: manifest.kind,
        severity: manifest.severity,
        cves: manifest.cves.clone(),
        targets: manifest.targets.iter().map(ToString::to_string).collect(),
        manifest: view.digest,
        size: manifest.size(),
        evidence: manifest.weakest_evidence().to_owned(),
        approved: match view.approved {
            Approved::Yes => "yes",
            Approved::No => "no",
            Approved::OtherManifest => "other-manifest",
        }
        .to_owned(),
        held: view.held,
        finding: Some(finding_code(view.finding).to_owned()),
    }
}

const fn finding_code(finding: Finding) -> &'static str {
    match finding {
        Finding::NotAssessed => "not-assessed",
        Finding::NotApplicable => "not-applicable",
        Finding::Missing => "missing",
        Finding::Installed => "installed",
    }
}

/// Kind and one line of a report.
fn summary(body: &Body) -> (&'static str, String) {
    match body {
        Body::Scan(scan) => {
            let missing =
                scan.findings.iter().filter(|entry| entry.found.finding == Finding::Missing).count();
            ("scan", format!("{} findings changed, {missing} of them missing", scan.findings.len()))
        }
        Body::Deployments(list) => {
            let lines = list.iter().map(|one| format!("{} {:?}", one.patch, one.state).to_lowercase());
            ("deployment", lines.collect::<Vec<_>>().join(", "))
        }
        Body::Transfers(transfers) => {
            let sum = |source| transfers.contents.iter().map(|content| content.from(source)).sum::<u64>();
            let (wan, lan) = (sum(Source::Wan), sum(Source::Lan));
            ("transfer", format!("{wan} bytes over the WAN, {lan} bytes from neighbours"))
        }
        Body::Incidents(list) => {
            let lines = list.iter().map(|incident| incident.kind.sentence());
            ("incident", lines.collect::<Vec<_>>().join(", "))
        }
        Body::Inventory(inventory) => ("inventory", format!("{} runs {}", inventory.host, inventory.system)),
        Body::Checkpoint(checkpoint) => {
            ("checkpoint", format!("{} reports were dropped; the whole state follows", checkpoint.dropped))
        }
    }
}
