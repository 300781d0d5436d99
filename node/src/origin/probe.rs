//! Whether the origins of a configuration answer, for `patchmesh doctor`.

use super::bucket::Bucket;
use super::mirror::Mirror;
use super::{Credentials, CredentialsError, Origin as _, OriginError};
use crate::configuration::{self, Configuration};
use reqwest::StatusCode;
use std::error::Error;

/// One origin.
#[derive(Debug)]
pub struct Probe {
    /// What it is called.
    pub name: String,
    /// What asking it came to.
    pub outcome: Outcome,
}

/// What asking an origin came to.
#[derive(Debug)]
pub enum Outcome {
    /// It answers and lets us read.
    Works,
    /// Nothing is known from here, and this sentence says why.
    Unclear(String),
    /// It is of no use.
    Fails(Box<dyn Error + Send + Sync>),
}

/// Asks every origin that the configuration names whether it answers and lets us read.
pub async fn probe(configuration: &Configuration) -> Vec<Probe> {
    let mut probes = Vec::new();
    if let Some(bucket) = &configuration.bucket {
        let name = format!("bucket {}", bucket.name);
        let outcome = probe_bucket(bucket, |name| std::env::var(name).ok()).await;
        probes.push(Probe { name, outcome });
    }
    let mirrors = configuration.seed.iter().map(|seed| &seed.mirrors);
    for mirror in mirrors.flat_map(|mirrors| Mirror::open_all(mirrors)) {
        match mirror {
            Ok(mirror) => {
                let (name, outcome) = (mirror.name().to_owned(), of_answer(mirror.probe().await));
                probes.push(Probe { name, outcome });
            }
            Err(error) => {
                let (name, outcome) = ("a mirror".to_owned(), Outcome::Fails(Box::new(error)));
                probes.push(Probe { name, outcome });
            }
        }
    }
    probes
}

async fn probe_bucket(bucket: &configuration::Bucket, variable: impl Fn(&str) -> Option<String>) -> Outcome {
    let credentials = match Credentials::find(bucket.credentials.as_deref(), variable) {
        Ok(credentials) => credentials,
        // The node has an environment of its own.
        Err(CredentialsError::Nowhere) => {
            return Outcome::Unclear(
                "the key is in the environment of the node, if anywhere, and not in the one of this command"
                    .to_owned(),
            );
        }
        Err(error) => return Outcome::Fails(Box::new(error)),
    };
    let asked = async { Bucket::open(bucket, &credentials)?.probe().await };
    match asked.await {
        Ok(()) => Outcome::Works,
        Err(error) => Outcome::Fails(Box::new(error)),
    }
}

fn of_answer(answer: Result<StatusCode, OriginError>) -> Outcome {
    match answer {
        // Many mirrors show no list of files, and the files all the same.
        Ok(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
            Outcome::Unclear(format!("it answers {status} to its own address, and may to files too"))
        }
        Ok(_) => Outcome::Works,
        Err(error) => Outcome::Fails(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_does_not_hear_that_all_is_well() {
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            assert!(matches!(of_answer(Ok(status)), Outcome::Unclear(_)), "{status}");
        }
        assert!(matches!(of_answer(Ok(StatusCode::NOT_FOUND)), Outcome::Works));
    }

    #[tokio::test]
    async fn a_key_that_only_the_node_has_is_no_problem() {
        let bucket = configuration::Bucket {
            name: "patches".to_owned(),
            endpoint: None,
            region: "us-east-1".to_owned(),
            prefix: String::new(),
            credentials: None,
        };
        assert!(matches!(probe_bucket(&bucket, |_| None).await, Outcome::Unclear(_)));
        let half = probe_bucket(&bucket, |name| (name == "AWS_ACCESS_KEY_ID").then(|| "key".to_owned()));
        assert!(matches!(half.await, Outcome::Fails(_)));
    }
}
