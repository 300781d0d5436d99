//! The registrar: makes activation keys and enrols devices that present one.

use crate::store::{Batch, Error, Store};
use protocol::codec;
use protocol::digest::Sha256;
use protocol::fleet::Services;
use protocol::identifier::{DeviceId, FleetId, SiteName};
use protocol::limits;
use protocol::membership::{
    ActivationKey, Certificate, Class, EnrolGrant, EnrolRefusal, EnrolRequest, Member, Token,
};
use protocol::signature::SigningKey;
use protocol::time::WallTime;
use std::sync::Arc;

const PREFIX: &[u8] = b"token/";
/// Uses of tokens, by token and device; as many as tokens have uses (`limits::TOKEN_USES`).
const USES: &[u8] = b"token-use/";

/// Members that enrolled here, by device.
const ENROLLED: &[u8] = b"enrolled/";

/// What a registrar needs to do its work.
pub(super) struct Registrar {
    pub(super) store: Arc<dyn Store>,
    pub(super) fleet: FleetId,
    pub(super) device: DeviceId,
    pub(super) key: SigningKey,
    pub(super) root: Vec<u8>,
    /// The addresses that activation keys name.
    pub(super) addresses: Vec<String>,
}

impl Registrar {
    /// Makes an activation key and keeps the hash of its secret. Blocks on the disk.
    pub(super) fn create(
        &self,
        secret: [u8; 16],
        site: SiteName,
        class: Class,
        uses: u32,
        expires: WallTime,
    ) -> Result<(ActivationKey, Token), Error> {
        let key = ActivationKey {
            fleet: self.fleet,
            registrar: self.device,
            addresses: self.addresses.clone(),
            secret,
        };
        let token = Token { secret_hash: key.secret_hash(), site, class, uses_left: uses, expires };
        let mut batch = Batch::default();
        batch.put(key_of(token.secret_hash), codec::encode(&token));
        self.store.apply(batch)?;
        Ok((key, token))
    }

    /// Tokens that still count at `now`. Blocks on the disk.
    pub(super) fn tokens(&self, now: WallTime) -> Result<Vec<Token>, Error> {
        let records = self.store.scan(PREFIX)?;
        let tokens = records.iter().filter_map(|(_, value)| codec::decode::<Token, 1024>(value).ok());
        Ok(tokens.filter(|token| token.uses_left > 0 && now < token.expires).collect())
    }

    /// Ends a token that still counts at `now`; devices that it enrolled stay members. Blocks on the disk.
    pub(super) fn revoke(
        &self,
        is_meant: impl Fn(&Token) -> bool,
        now: WallTime,
    ) -> Result<Option<Token>, Error> {
        let Some(token) = self.tokens(now)?.into_iter().find(is_meant) else { return Ok(None) };
        let mut batch = Batch::default();
        batch.delete(key_of(token.secret_hash));
        self.store.apply(batch)?;
        tracing::info!(site = %token.site, uses_left = token.uses_left, "activation key revoked");
        Ok(Some(token))
    }

    /// Everybody who enrolled here, with the latest certificate. Blocks on the disk.
    pub(super) fn enrolled(&self) -> Result<Vec<Member>, Error> {
        let records = self.store.scan(ENROLLED)?;
        let members = records
            .iter()
            .filter_map(|(_, value)| codec::decode::<Member, { limits::CERTIFICATE_BYTES }>(value).ok());
        Ok(members.collect())
    }

    fn keep(&self, token: &Token, member: &Member) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.put(key_of(token.secret_hash), codec::encode(token));
        batch.put(use_of(token.secret_hash, member.device), Vec::new());
        batch.put([ENROLLED, member.device.as_bytes().as_slice()].concat(), codec::encode(member));
        self.store.apply(batch)
    }

    /// Enrols a device: the use of the token is durable before the certificate leaves. A device whose answer was lost
    /// comes again with the same token, which is not used up by that. Blocks on the disk.
    pub(super) fn enrol(
        &self,
        device: DeviceId,
        request: &EnrolRequest,
        services: &Services,
        is_revoked: bool,
        now: WallTime,
    ) -> Result<EnrolGrant, EnrolRefusal> {
        if is_revoked {
            return Err(EnrolRefusal::Revoked);
        }
        let hash = Sha256::of(&request.secret);
        let read = |key: &[u8]| {
            self.store.read(key).map_err(|error| {
                tracing::error!(%error, "tokens cannot be read");
                EnrolRefusal::Busy
            })
        };
        let bytes = read(&key_of(hash))?.ok_or(EnrolRefusal::Token)?;
        let mut token: Token = codec::decode::<_, 1024>(&bytes).map_err(|_| EnrolRefusal::Token)?;
        if read(&use_of(hash, device))?.is_some() {
            token.uses_left = token.uses_left.saturating_add(1);
        }
        let member = token.enrol(self.fleet, device, request, now)?;
        self.keep(&token, &member).map_err(|error| {
            tracing::error!(%error, "the use of a token cannot be stored");
            EnrolRefusal::Busy
        })?;
        tracing::info!(device = device.short(), host = %member.host, site = %member.site, "device enrolled");
        let certificate = Certificate::issue(&member, &self.key);
        Ok(EnrolGrant { certificate, root: self.root.clone(), services: services.clone() })
    }
}

/// The record that says that a device used a token.
fn use_of(hash: Sha256, device: DeviceId) -> Vec<u8> {
    [USES, hash.as_bytes().as_slice(), device.as_bytes().as_slice()].concat()
}

fn key_of(hash: Sha256) -> Vec<u8> {
    [PREFIX, hash.as_bytes().as_slice()].concat()
}
