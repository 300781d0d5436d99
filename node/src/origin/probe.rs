//! Whether the origins of a configuration answer, for `patchmesh doctor`.

use super::bucket::Bucket;
use super::mirror::Mirror;
use super::{Credentials, Origin as _, OriginError};
use crate::configuration::Configuration;
use std::error::Error;

/// One origin.
#[derive(Debug)]
pub struct Probe {
    /// What it is called.
    pub name: String,
    /// Why it is of no use, if it is of none.
    pub failure: Option<Box<dyn Error + Send + Sync>>,
}

/// Asks every origin that the configuration names whether it answers and lets us read.
pub async fn probe(configuration: &Configuration) -> Vec<Probe> {
    let mut probes = Vec::new();
    if let Some(bucket) = &configuration.bucket {
        let name = format!("bucket {}", bucket.name);
        let variable = |name: &str| std::env::var(name).ok();
        let failure: Option<Box<dyn Error + Send + Sync>> =
            match Credentials::find(bucket.credentials.as_deref(), variable) {
                Ok(credentials) => failure(async { Bucket::open(bucket, &credentials)?.probe().await }).await,
                Err(error) => Some(Box::new(error)),
            };
        probes.push(Probe { name, failure });
    }
    for mirror in configuration.seed.iter().flat_map(|seed| &seed.mirrors) {
        match Mirror::open(mirror) {
            Ok(mirror) => {
                let failure = failure(mirror.probe()).await;
                probes.push(Probe { name: mirror.name().to_owned(), failure });
            }
            Err(error) => probes
                .push(Probe { name: format!("mirror of {}", mirror.vendor), failure: Some(Box::new(error)) }),
        }
    }
    probes
}

async fn failure(
    asked: impl Future<Output = Result<(), OriginError>>,
) -> Option<Box<dyn Error + Send + Sync>> {
    asked.await.err().map(|error| Box::new(error) as _)
}
