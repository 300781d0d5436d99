//! Answers on the control socket: the core's view in the form that the command line prints.

use super::run::Driver;
use crate::control::{Failure, FailureKind, Request, Response, answer};
use protocol::core::{Command, Input};
use protocol::identifier::{DeviceId, PatchId};
use protocol::report::Source;
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
            Request::Plan => Response::Plan(self.core.plan()),
            Request::Deploy { patch } => self.deploy(patch),
            Request::Reports { after, limit } => {
                Response::Reports(self.core.waiting_reports(after, limit as usize))
            }
            Request::Explain { patch } => match self.core.explain(&patch) {
                Some(explanation) => Response::Explanation(explanation),
                None => unknown_patch(&patch),
            },
            Request::PolicyShow => Response::Policy(self.core.policy_in_force()),
            Request::PatchList => Response::Patches(self.core.patches()),
            Request::TokenCreate { site, class, uses, expires } => {
                return self.create_token(site, class, uses, expires, respond);
            }
            Request::TokenList => return self.list_tokens(respond),
            Request::TokenRevoke { id } => return self.revoke_token(id, respond),
            Request::RepositoryChanged => return self.load_repository(respond),
            Request::AddContent { paths } => return self.add_content(paths, respond),
            Request::Surroundings => Response::Surroundings(self.surroundings()),
            Request::Transfers => Response::Transfers(self.core.contents()),
            Request::Shutdown => {
                self.stop.cancel();
                Response::Stopping
            }
        };
        // The client may be gone.
        let _ = respond.send(answer);
    }

    fn status(&self) -> answer::Status {
        let status = self.core.status();
        let listening = self.means.net.listen_addresses();
        answer::Status {
            software: env!("CARGO_PKG_VERSION").to_owned(),
            roles: self.roles(),
            started: self.started_at,
            listening: listening.iter().map(ToString::to_string).collect(),
            traffic: self.traffic(),
            refusals: self.happened.refusals(),
            problems: self.problems(status.metadata.expires),
            ..status
        }
    }

    fn roles(&self) -> Vec<String> {
        let roles = [
            ("seed", self.seed.is_some()),
            ("registrar", self.registrar.is_some()),
            ("aggregator", self.means.aggregator.is_some()),
        ];
        roles.into_iter().filter(|(_, has)| *has).map(|(role, _)| role.to_owned()).collect()
    }

    fn traffic(&self) -> answer::Traffic {
        let mut traffic = answer::Traffic::default();
        let mine = self.core.member().site.clone();
        let sites: BTreeMap<_, _> =
            self.core.peers().into_iter().map(|peer| (peer.device, peer.site)).collect();
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
        let known = |peer: answer::Peer| {
            let raw = raw.get(&peer.device).copied().unwrap_or_default();
            answer::Peer {
                address: self.addresses.get(&peer.device).map(ToString::to_string),
                discovered: (*self.discovered.get(&peer.device).unwrap_or(&"incoming")).to_owned(),
                raw: answer::Bytes { received: raw.received, sent: raw.sent },
                ..peer
            }
        };
        self.core.peers().into_iter().map(known).collect()
    }

    fn surroundings(&self) -> answer::Surroundings {
        let policy = self.core.policy();
        let (sites, member) = (self.core.sites().unwrap_or_default(), self.core.member());
        let home = sites.sites.into_iter().find(|site| site.name == member.site);
        answer::Surroundings {
            mdns: self.configuration.node.mdns && policy.peer_download,
            heard: self.core.heard(),
            peer_download: policy.peer_download,
            offline_days: policy.offline_days,
            roaming_at: self.core.roaming_at(),
            site_addresses: home.map(|site| site.addresses).unwrap_or_default(),
            services: self.service_contacts(),
            unreached: self.happened.unreached(),
        }
    }

    fn service_contacts(&self) -> Vec<answer::ServiceContact> {
        let services = self.core.services();
        let seeds = services.seeds.iter().map(|seed| (seed.device, "seed", &seed.addresses));
        let aggregators = services.aggregators.iter().map(|one| (one.device, "aggregator", &one.addresses));
        let mut contacts: BTreeMap<DeviceId, answer::ServiceContact> = BTreeMap::new();
        let mine = self.core.member().device;
        for (device, role, addresses) in seeds.chain(aggregators).filter(|(device, ..)| *device != mine) {
            let contact = contacts.entry(device).or_insert_with(|| answer::ServiceContact {
                device,
                roles: Vec::new(),
                addresses: addresses.clone(),
                connected: self.addresses.contains_key(&device),
            });
            contact.roles.push(role.to_owned());
        }
        contacts.into_values().collect()
    }

    /// Everybody who waits for a scan gets the result of the last one that ended.
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
            None => Response::Scan(self.core.last_scan()),
        };
        for respond in self.scans.drain(..) {
            // The client may be gone.
            let _ = respond.send(answer.clone());
        }
    }

    fn deploy(&mut self, patch: Option<PatchId>) -> Response {
        self.handle(Input::Command(Command::Deploy(patch.clone())));
        match (self.core.deploying(patch.as_ref()), patch) {
            (None, Some(patch)) => unknown_patch(&patch),
            (begun, _) => Response::Deploying(begun.unwrap_or_default()),
        }
    }
}

fn unknown_patch(patch: &PatchId) -> Response {
    let message = format!("no catalogue of this device lists {patch}");
    Failure::new(FailureKind::Usage, "unknown-patch", message)
        .with_remedy("`patchmesh patch list` shows the patches")
        .into()
}
