//! Between the network and the core: what happens on connections, and who is dialled.

use super::run::{Done, Driver};
use super::start::now;
use crate::net::{self, Multiaddr};
use protocol::codec;
use protocol::core::{Input, RequestToken, Rung};
use protocol::identifier::{DeviceId, FleetId};
use protocol::limits;
use protocol::reason::Reason;
use protocol::wire::{Channel, Hint, Request, Response, Versions};
use std::time::Instant;
use tokio::sync::oneshot;

impl Driver {
    pub(super) fn on_net(&mut self, event: net::Event) {
        match event {
            net::Event::Listening(address) => {
                tracing::info!(address = %net::Redacted(&address), "listening");
                self.say_where_it_listens();
            }
            net::Event::ListensNoMore => self.say_where_it_listens(),
            net::Event::Connected { peer, member, address, outbound, tunnelled } => {
                tracing::info!(peer = peer.short(), host = %member.host, site = %member.site, outbound, "connected");
                let dialled = outbound.then(|| address.to_string());
                self.happened.reached(peer);
                self.addresses.insert(peer, address);
                self.grants.turnstile.arrived(peer, member.site.clone());
                if !outbound {
                    self.discovered.entry(peer).or_insert("incoming");
                }
                self.handle(Input::Connected(*member));
                if tunnelled && self.core.keeps_no_neighbour_there(peer) {
                    let discovered = self.discovered.get(&peer).copied().unwrap_or("incoming");
                    let cause = Reason::AcrossTunnel.explain().to_owned();
                    self.happened.dial_failed(peer, discovered, cause, now());
                    self.handle(Input::Distant(peer));
                }
                if let Some(address) = dialled {
                    self.handle(Input::Reached { device: peer, address });
                }
            }
            net::Event::Disconnected { peer } => {
                tracing::info!(peer = peer.short(), "disconnected");
                self.addresses.remove(&peer);
                self.grants.turnstile.left(peer);
                self.handle(Input::Disconnected(peer));
            }
            net::Event::Rejected { address, rejection, by_them } => {
                if let Some(times) = self.rejections.turn((rejection, by_them), Instant::now()) {
                    let address = net::Redacted(&address);
                    tracing::warn!(%address, %rejection, by_them, times, "membership refused");
                }
                if !by_them {
                    let subject = "connection".to_owned();
                    self.happened.refused(rejection.into(), subject, None, now());
                }
            }
            net::Event::DialFailed { peer, cause } => {
                tracing::debug!(peer = peer.short(), %cause, "dial failed");
                let discovered = self.discovered.get(&peer).copied().unwrap_or("services");
                self.happened.dial_failed(peer, discovered, cause.to_string(), now());
                if let net::DialCause::Rejected { rejection, by_them } = cause {
                    self.happened.rejected(peer, rejection, by_them);
                }
                self.handle(Input::DialFailed(peer));
            }
            net::Event::Discovered { peer, addresses } => {
                self.found(peer, Rung::Lan.name());
                let addresses = addresses.iter().map(Multiaddr::to_string).collect();
                self.handle(Input::Discovered { device: peer, addresses });
            }
            net::Event::Request { from, channel, bytes, respond } => {
                self.on_request(from, channel, &bytes, respond)
            }
            net::Event::Gossip { from, bytes, .. } => match Hint::decode(&bytes) {
                Ok(hint) => self.handle(Input::Hint { from, hint }),
                Err(error) => tracing::debug!(%error, "hint cannot be decoded"),
            },
            net::Event::Enrol { from, request, respond } => self.on_enrol(from, request, respond),
        }
    }

    fn on_request(
        &mut self,
        from: DeviceId,
        channel: Channel,
        bytes: &[u8],
        respond: oneshot::Sender<Vec<u8>>,
    ) {
        match Request::decode(channel, bytes) {
            Ok(request) => {
                self.next_token += 1;
                let token = RequestToken(self.next_token);
                self.requests.insert(token, respond);
                self.requests.retain(|_, waiting| !waiting.is_closed());
                self.handle(Input::Request { token, from, request });
            }
            Err(error) => {
                tracing::warn!(peer = from.short(), ?channel, %error, "request cannot be decoded");
                let reason = Reason::MalformedMessage;
                self.happened.refused(reason, channel.name().to_owned(), Some(from), now());
                let refused = Response::Refused { reason, versions: Versions::default() };
                // The asker may have given up.
                let _ = respond.send(codec::encode(&refused));
            }
        }
    }

    /// Notes how a device was found. Anybody on the LAN can show devices that do not exist, so not for ever so many.
    fn found(&mut self, device: DeviceId, how: &'static str) {
        if self.discovered.len() < limits::CONNECTIONS as usize {
            self.discovered.entry(device).or_insert(how);
        }
    }

    /// Tells the core where others reach this node.
    pub(super) fn say_where_it_listens(&mut self) {
        let external = &self.configuration.node.external;
        let addresses = match external.is_empty() {
            true => net::announced(&self.means.net.listen_addresses()),
            false => external.iter().map(Multiaddr::to_string).collect(),
        };
        self.handle(Input::Listening(addresses));
    }

    /// Addresses of `fleet/sites.toml` name the device at their end, or nobody could tell who answers there.
    pub(super) fn dial_written(&mut self, addresses: &[String]) {
        for address in addresses {
            match net::named_device(address) {
                Some(device) if device == self.core.member().device => {}
                Some(device) => self.dial(device, std::slice::from_ref(address), Rung::Written),
                None => {
                    tracing::warn!("an address in fleet/sites.toml does not end in /p2p/ and a peer identity")
                }
            }
        }
    }

    pub(super) fn dial(&mut self, device: DeviceId, addresses: &[String], rung: Rung) {
        let parsed: Vec<Multiaddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
        if !self.addresses.contains_key(&device) {
            // What was tried before did not lead there.
            self.discovered.remove(&device);
        }
        self.found(device, rung.name());
        let (net, inputs) = (self.means.net.clone(), self.inputs.clone());
        self.tasks.spawn(async move {
            if net.dial(device, parsed).await.is_err() {
                // Nobody takes it only when the driver has stopped.
                let _ = inputs.send(Done::Effect(Input::DialFailed(device))).await;
            }
        });
    }

    /// Drops who is no member any more, and keeps discovery and gossip as policy wants them (N7).
    pub(super) fn review_connections(&mut self) {
        let peers = self.core.policy().peer_download;
        let discover = self.configuration.node.mdns && peers;
        let gossip = peers || self.seed.is_some();
        let topic = topic(self.core.member().fleet);
        self.discovered.retain(|device, _| self.addresses.contains_key(device));
        let net = self.means.net.clone();
        self.tasks.spawn(async move {
            // All fail only when the network has stopped.
            let _ = net.recheck().await;
            let _ = net.set_discovery(discover).await;
            let _ = if gossip { net.subscribe(&topic).await } else { net.unsubscribe(&topic).await };
        });
    }
}

/// The gossip topic of a fleet.
pub(super) fn topic(fleet: FleetId) -> String {
    format!("/patchmesh/{fleet}/news/1")
}
