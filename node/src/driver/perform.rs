//! What the core asks for is done: at once, or in a task that ends with an input.

use super::effects;
use super::network::topic;
use super::pieces;
use super::run::{Done, Driver};
use super::start::now;
use protocol::codec;
use protocol::core::{Input, Output};
use protocol::effect::EffectId;
use protocol::fetch::PieceFailure;
use protocol::membership::Verifier;
use protocol::reason::Reason;
use tokio::sync::{mpsc, oneshot};

impl Driver {
    pub(super) fn perform(&mut self, output: Output) {
        let means = self.means.clone();
        match output {
            Output::Dial { device, addresses, rung } => self.dial(device, &addresses, rung),
            Output::DialWritten(addresses) => self.dial_written(&addresses),
            Output::Disconnect(device, reason) => {
                tracing::info!(peer = device.short(), %reason, "disconnecting");
                self.tasks.spawn(async move {
                    // Fails only when the network has stopped.
                    let _ = means.net.disconnect(device).await;
                });
            }
            Output::Request { effect, to, request } => self.spawn(async move {
                Input::Answered { effect, result: effects::request(means, to, request).await }
            }),
            Output::Respond { token, response } => {
                if let Some(respond) = self.requests.remove(&token) {
                    // The asker may have given up.
                    let _ = respond.send(codec::encode(&response));
                }
            }
            Output::Publish(hint) => {
                let topic = topic(self.core.member().fleet);
                self.tasks.spawn(async move {
                    if let Err(error) = means.net.publish(&topic, codec::encode(&hint)).await {
                        tracing::debug!(%error, "hint not published");
                    }
                });
            }
            Output::FetchPiece(fetch) => self.bring(fetch.effect, async move {
                let mut told = Vec::new();
                let result = pieces::fetch_piece(means, fetch, &mut told).await;
                (told, result)
            }),
            Output::ReadMirror { read, manifest, mirrors } => self.bring(read.effect, async move {
                let mut told = Vec::new();
                let result = pieces::read_mirror(means, read, manifest, mirrors, &mut told).await;
                (told, result)
            }),
            Output::Grant { peer, root, pieces, lasting } => self.grants.give(peer, root, pieces, lasting),
            Output::Revoke { peer, root } => self.grants.take_back(peer, root),
            Output::Caps { serving, download } => {
                self.grants.turnstile.set(serving);
                means.net.set_download_cap(download);
            }
            Output::Discard(root) => drop(self.tasks.spawn(effects::discard(means, root))),
            Output::CheckEvidence { effect, manifest, vendors } => self.spawn(async move {
                let result = effects::check_evidence(means, manifest, vendors, now()).await;
                result.map(|result| Input::EvidenceChecked { effect, result })
            }),
            Output::FullCheck { effect, content, artifact } => {
                self.spawn(async move { effects::full_check(effect, means, content, artifact).await })
            }
            Output::Scan { effect } => self.spawn(async move {
                Input::Scanned { effect, result: effects::take_inventory(means.root, now()).await }
            }),
            Output::Install { effect, manifest, generation } => {
                tracing::info!(patch = %manifest.patch, generation, "installing");
                let inputs = self.inputs.clone();
                let may_start = move || ask_to_start(&inputs, effect);
                self.spawn(async move {
                    Input::Installed { effect, result: effects::install(means, manifest, may_start).await }
                });
            }
            Output::StartInstaller { effect, go } => {
                if let Some(waiting) = self.starts.remove(&effect) {
                    // Nobody waits only when the installer's task has ended.
                    let _ = waiting.send(go);
                }
            }
            Output::Store { effect, records } => self.storing.push(effect, records, &self.tasks),
            Output::Aggregate { effect, member, reports } => self.spawn(async move {
                let result = match means.aggregator {
                    Some(aggregator) => aggregator.receive(member, reports, now()).await,
                    None => Err(Reason::NotAnAggregator),
                };
                Input::Aggregated { effect, result }
            }),
            Output::TrustChanged(verifier) => self.on_trust(verifier),
            Output::Event(event) => self.happened.take(event, now()),
        }
    }

    /// Runs what ends with an input; with none when the node stops before it ends.
    fn spawn<I: Into<Option<Input>>>(&self, work: impl Future<Output = I> + Send + 'static) {
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            let Some(input) = work.await.into() else { return };
            // Nobody takes it only when the driver has stopped.
            let _ = inputs.send(Done::Effect(input)).await;
        });
    }

    /// Runs what brings a piece; the core hears what it tells before how it ended.
    fn bring(
        &self,
        effect: EffectId,
        work: impl Future<Output = (Vec<Input>, Result<(), PieceFailure>)> + Send + 'static,
    ) {
        let inputs = self.inputs.clone();
        self.spawn(async move {
            let (told, result) = work.await;
            for input in told {
                // Nobody takes it only when the driver has stopped.
                let _ = inputs.send(Done::Effect(input)).await;
            }
            Input::Piece { effect, result }
        });
    }

    /// New metadata: who counts as a member, whether neighbours are looked for, what the aggregator says of patches.
    fn on_trust(&mut self, verifier: Verifier) {
        // Not in a task: an older verifier must not overtake a newer one, which knows of more that were revoked.
        self.means.net.replace_verifier(verifier);
        self.review_connections();
        if let Some(origins) = &self.means.origins {
            origins.want(&self.core.approved_manifests());
        }
        let Some(aggregator) = self.means.aggregator.clone() else { return };
        let listings = self.core.listings();
        self.tasks.spawn(async move { aggregator.list(listings).await });
    }
}

/// Waits, on a blocking thread, until the core has recorded that an installer starts.
fn ask_to_start(inputs: &mpsc::Sender<Done>, effect: EffectId) -> Result<(), Reason> {
    let stopping = Reason::InstallerInterrupted;
    let (go, word) = oneshot::channel();
    inputs.blocking_send(Done::InstallerReady(effect, go)).map_err(|_| stopping)?;
    word.blocking_recv().unwrap_or(Err(stopping))
}
