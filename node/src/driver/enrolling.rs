//! Enrolments: the registrar decides, and the aggregator beside it knows of the device from then on, before its first report.

use super::run::Driver;
use super::start::now;
use protocol::identifier::DeviceId;
use protocol::membership::{EnrolGrant, EnrolRefusal, EnrolRequest};
use std::sync::PoisonError;
use tokio::sync::oneshot;

impl Driver {
    pub(super) fn on_enrol(
        &mut self,
        from: DeviceId,
        request: EnrolRequest,
        respond: oneshot::Sender<Result<EnrolGrant, EnrolRefusal>>,
    ) {
        let Some(registrar) = self.registrar.clone() else { return };
        let (services, is_revoked) = (self.core.services().clone(), self.core.is_revoked(from));
        let aggregator = self.means.aggregator.clone();
        self.tasks.spawn_blocking(move || {
            let registrar = registrar.lock().unwrap_or_else(PoisonError::into_inner);
            let decided = registrar.enrol(from, &request, &services, is_revoked, now());
            let member = decided.as_ref().ok().and_then(|grant| grant.certificate.claims().ok());
            if let (Some(aggregator), Some(member)) = (aggregator, member) {
                aggregator.enrolled(vec![member]);
            }
            // A device that went away joins again.
            let _ = respond.send(decided);
        });
    }

    /// Who enrolled and was not heard of since: a stop may have come before the aggregator knew.
    pub(super) fn tell_enrolled(&mut self) {
        let (Some(registrar), Some(aggregator)) = (self.registrar.clone(), self.means.aggregator.clone())
        else {
            return;
        };
        self.tasks.spawn_blocking(move || {
            let registrar = registrar.lock().unwrap_or_else(PoisonError::into_inner);
            match registrar.enrolled() {
                Ok(members) => aggregator.enrolled(members),
                Err(error) => tracing::error!(%error, "the enrolled devices cannot be read"),
            }
        });
    }
}
