//! `patchmesh peers`: the members that this node knows.

use super::Socket;
use crate::exit::{Exit, Outcome};
use crate::printer::{Printer, table};
use clap::Args;
use node::control::answer;
use node::units::bytes;

/// Show the members of the fleet that this node knows
#[derive(Args, Debug)]
#[command(
    after_help = "What the node knows of why it has no neighbours is said by `patchmesh doctor`.\n\nExample:\n  patchmesh peers"
)]
pub struct Peers {
    #[command(flatten)]
    socket: Socket,
}

impl Peers {
    pub fn run(self, printer: Printer) -> Outcome {
        let mut client = self.socket.connect()?;
        let (peers, surroundings) = (client.peers()?, client.surroundings()?);
        printer.data("peers", &peers, |peers| render(peers) + &render_unreached(&surroundings.unreached))?;
        Ok(Exit::Done)
    }
}

fn render(peers: &[answer::Peer]) -> String {
    if peers.is_empty() {
        return "No other member is known yet.\n".to_owned();
    }
    let mut peers: Vec<&answer::Peer> = peers.iter().collect();
    peers.sort_by(|left, right| (&left.host, left.device).cmp(&(&right.host, right.device)));
    let rows = peers.into_iter().map(|peer| {
        vec![
            peer.host.to_string(),
            peer.device.short(),
            peer.site.to_string(),
            peer.system.to_string(),
            without_identity(peer.address.as_deref().unwrap_or_default()),
            if peer.connected {
                peer.discovered.clone()
            } else {
                format!("{}, not connected", peer.discovered)
            },
            peer.medium.clone(),
            bytes(peer.pieces.received),
            bytes(peer.pieces.sent),
        ]
    });
    let headings =
        ["HOST", "DEVICE", "SITE", "SYSTEM", "ADDRESS", "FOUND BY", "LINK", "PIECES IN", "PIECES OUT"];
    table(&headings, &[7, 8], &rows.collect::<Vec<_>>())
}

/// Devices that were found and not reached, with the reason; empty text when there are none.
fn render_unreached(unreached: &[answer::Unreached]) -> String {
    if unreached.is_empty() {
        return String::new();
    }
    let rows = unreached.iter().map(|entry| {
        vec![entry.device.short(), entry.discovered.clone(), entry.last.to_string(), entry.cause.clone()]
    });
    format!("\n{}", table(&["NOT REACHED", "FOUND BY", "LAST TRIED", "WHY"], &[], &rows.collect::<Vec<_>>()))
}

/// The address without the identity at its end, which stands in a column of its own.
fn without_identity(address: &str) -> String {
    address.split("/p2p/").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::status;

    #[test]
    fn peers_stand_in_a_table() {
        let status = status();
        let peer = answer::Peer {
            device: status.device,
            host: status.host,
            site: status.site,
            system: status.system,
            roles: Vec::new(),
            address: Some("/ip4/10.0.0.3/tcp/7700/p2p/12D3KooW".to_owned()),
            discovered: "tracker".to_owned(),
            medium: "air".to_owned(),
            connected: true,
            pieces: answer::Bytes { received: 1_048_576, sent: 0 },
            raw: answer::Bytes::default(),
        };
        insta::assert_snapshot!(render(&[peer]));
        let unreached = answer::Unreached {
            device: protocol::identifier::DeviceId::from_bytes([9; 32]),
            discovered: "services".to_owned(),
            cause: "no usable address is known".to_owned(),
            last: crate::command::tests::NOW,
        };
        insta::assert_snapshot!(render_unreached(&[unreached]));
        assert_eq!(render_unreached(&[]), "");
        assert_eq!(render(&[]), "No other member is known yet.\n");
    }
}
