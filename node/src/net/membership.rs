//! The membership check: both ends of an encrypted connection show their certificates before anything else may be said (M15).
//!
//! On the wire, each way: the format version (one byte, 1), a length (u32, little endian), the certificate; then one verdict
//! byte, 0 for accepted or the code of the rejection.

use super::frame::{self, FrameError};
use super::identity;
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use libp2p::PeerId;
use protocol::codec::DecodeError;
use protocol::identifier::DeviceId;
use protocol::limits;
use protocol::membership::{Certificate, Member, Rejection, Verifier};
use protocol::time::WallTime;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::time::{timeout, timeout_at};

/// The wall clock of the node.
pub type Clock = Arc<dyn Fn() -> WallTime + Send + Sync>;

const FORMAT_VERSION: u8 = 1;
const ACCEPTED: u8 = 0;

/// Time to tell a rejected peer why, once the decision stands.
const FAREWELL: Duration = Duration::from_secs(1);

/// After this time a verified member is connected, or its connection was turned away.
const SETTLED: Duration = Duration::from_secs(60);

/// What the node trusts and shows at this moment; shared by all connections, so that a change counts from the next one on.
pub(super) struct Trust {
    clock: Clock,
    verifier: RwLock<Arc<Verifier>>,
    certificate: RwLock<Arc<Vec<u8>>>,
    verified: Mutex<HashMap<DeviceId, (Member, Instant)>>,
}

impl Trust {
    pub(super) fn new(clock: Clock, verifier: Verifier, certificate: &Certificate) -> Trust {
        Trust {
            clock,
            verifier: RwLock::new(Arc::new(verifier)),
            certificate: RwLock::new(Arc::new(certificate.to_bytes())),
            verified: Mutex::default(),
        }
    }

    pub(super) fn replace_verifier(&self, verifier: Verifier) {
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(verifier);
    }

    pub(super) fn replace_certificate(&self, certificate: &Certificate) {
        *self.certificate.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certificate.to_bytes());
    }

    /// What the node's clock says.
    pub(super) fn now(&self) -> WallTime {
        (self.clock)()
    }

    fn verifier(&self) -> Arc<Verifier> {
        self.verifier.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn certificate(&self) -> Arc<Vec<u8>> {
        self.certificate.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether somebody verified before is still a member now.
    pub(super) fn check_current(&self, member: &Member) -> Result<(), Rejection> {
        self.verifier().check_current(member, self.now())
    }

    fn verify(&self, bytes: &[u8], peer: &PeerId) -> Result<Member, Rejection> {
        let certificate = Certificate::from_bytes(bytes).map_err(|_: DecodeError| Rejection::Malformed)?;
        let device = identity::device(peer).ok_or(Rejection::OtherDevice)?;
        let member = self.verifier().verify(&certificate, device, self.now())?;
        self.check_current(&member)?;
        Ok(member)
    }

    /// The member whose connection was verified last under that identity.
    pub(super) fn verified(&self, device: DeviceId) -> Option<Member> {
        self.verified
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&device)
            .map(|(member, _)| member.clone())
    }

    /// Forgets verified members who are not `connected` and have had time to become it.
    pub(super) fn forget(&self, connected: impl Fn(DeviceId) -> bool) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.retain(|device, (_, since)| connected(*device) || since.elapsed() < SETTLED);
    }

    fn remember(&self, member: &Member) -> bool {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = (limits::CONNECTIONS + 2 * limits::PENDING_CONNECTIONS) as usize;
        let fits = verified.len() < bound || verified.contains_key(&member.device);
        if fits {
            verified.insert(member.device, (member.clone(), Instant::now()));
        }
        fits
    }
}

/// Why a connection did not become a member's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// One of the two ends did not accept the other's certificate.
    #[error("{}: {rejection}", if *by_them { "the peer refused us" } else { "we refused the peer" })]
    Membership { rejection: Rejection, by_them: bool },
    /// The connection broke, or the peer speaks another version of the check.
    #[error("the connection ended during the membership check")]
    Broken(#[source] FrameError),
    /// More members at once than the node keeps.
    #[error("this node has all the connections that it keeps")]
    Full,
}

/// Shows our certificate, checks theirs, and exchanges verdicts. A stranger is one until `deadline`; a member may take
/// `patience` for its verdict. On success the member is remembered in `trust` for the swarm.
pub(super) async fn check<S>(
    stream: &mut S,
    peer: &PeerId,
    trust: &Trust,
    deadline: Instant,
    patience: Duration,
) -> Result<DeviceId, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shown = timeout_at(deadline.into(), exchange(stream, trust, patience)).await;
    let judged = shown.unwrap_or(Err(Rejection::Silent)).and_then(|bytes| trust.verify(&bytes, peer));
    match judged {
        Ok(member) => {
            hear_verdict(stream, patience).await?;
            if trust.remember(&member) { Ok(member.device) } else { Err(Refused::Full) }
        }
        Err(rejection) => {
            // Whether they hear it is up to them; the connection ends either way.
            let _ = timeout(FAREWELL, dismiss(stream, rejection)).await;
            Err(Refused::Membership { rejection, by_them: false })
        }
    }
}

async fn exchange<S>(stream: &mut S, trust: &Trust, patience: Duration) -> Result<Vec<u8>, Rejection>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |error: FrameError| match error {
        FrameError::TooLarge { .. } => Rejection::Malformed,
        FrameError::TimedOut(_) | FrameError::Broken(_) => Rejection::Silent,
    };
    let own = trust.certificate();
    let shown = frame::write_after(stream, &[FORMAT_VERSION], &own, limits::CERTIFICATE_BYTES, patience);
    shown.await.map_err(failed)?;
    let mut version = [0];
    frame::read_exact(stream, &mut version, patience).await.map_err(failed)?;
    if version[0] != FORMAT_VERSION {
        return Err(Rejection::Malformed);
    }
    frame::read(stream, limits::CERTIFICATE_BYTES, patience).await.map_err(failed)
}

async fn hear_verdict<S>(stream: &mut S, patience: Duration) -> Result<(), Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut verdict = [ACCEPTED];
    let heard = async {
        frame::write_all(stream, &verdict, patience).await?;
        frame::flush(stream, patience).await?;
        frame::read_exact(stream, &mut verdict, patience).await
    };
    heard.await.map_err(Refused::Broken)?;
    match verdict[0] {
        ACCEPTED => Ok(()),
        code => {
            let rejection = rejection(code).unwrap_or(Rejection::Malformed);
            Err(Refused::Membership { rejection, by_them: true })
        }
    }
}

async fn dismiss<S>(stream: &mut S, rejection: Rejection) -> Result<(), FrameError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    frame::write_all(stream, &[code(rejection)], FAREWELL).await?;
    frame::flush(stream, FAREWELL).await?;
    // Closing with their verdict unread would reset the connection, and our verdict with it.
    if rejection != Rejection::Silent {
        frame::read_exact(stream, &mut [0], FAREWELL).await?;
    }
    Ok(stream.close().await?)
}

const CODES: [(Rejection, u8); 8] = [
    (Rejection::Malformed, 1),
    (Rejection::OtherFleet, 2),
    (Rejection::OtherDevice, 3),
    (Rejection::UnknownIssuer, 4),
    (Rejection::Expired, 5),
    (Rejection::NotYetValid, 6),
    (Rejection::Revoked, 7),
    (Rejection::Silent, 8),
];

fn code(rejection: Rejection) -> u8 {
    CODES.iter().find(|(known, _)| *known == rejection).map_or(1, |(_, code)| *code)
}

fn rejection(code: u8) -> Option<Rejection> {
    CODES.iter().find(|(_, known)| *known == code).map(|(rejection, _)| *rejection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_read_back() {
        for (known, number) in CODES {
            assert_eq!((code(known), rejection(number)), (number, Some(known)));
        }
        assert_eq!(rejection(ACCEPTED), None);
        assert_eq!(rejection(99), None);
    }
}
