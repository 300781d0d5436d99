//! What an administrator asks of headquarters on the control socket: activation keys, content, the repository.

use super::run::{Done, Driver};
use super::start::now;
use crate::content::ContentStore;
use crate::control::{Failure, FailureKind, Response, answer};
use crate::origin::{OriginError, Origins};
use futures::StreamExt as _;
use protocol::core::Input;
use protocol::fleet::Sites;
use protocol::identifier::SiteName;
use protocol::limits;
use protocol::membership::Class;
use protocol::time::WallTime;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Driver {
    pub(super) fn create_token(
        &mut self,
        site: SiteName,
        class: Class,
        uses: u32,
        expires: WallTime,
        respond: oneshot::Sender<Response>,
    ) {
        let Some(registrar) = self.registrar.clone() else { return drop(respond.send(no_role("registrar"))) };
        if let Err(failure) = known_site(self.core.sites(), &site) {
            return drop(respond.send(failure.into()));
        }
        self.tasks.spawn_blocking(move || {
            let mut secret = [0; 16];
            let made = match getrandom::fill(&mut secret) {
                Ok(()) => {
                    let registrar = registrar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    registrar.create(secret, site, class, uses, expires).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            let answer = match made {
                Ok((key, token)) => Response::TokenCreated(answer::NewToken {
                    activation_key: key.to_string(),
                    token: token_answer(&token),
                }),
                Err(cause) => Failure::new(FailureKind::Failed, "not-stored", cause).into(),
            };
            let _ = respond.send(answer);
        });
    }

    pub(super) fn list_tokens(&mut self, respond: oneshot::Sender<Response>) {
        let Some(registrar) = self.registrar.clone() else { return drop(respond.send(no_role("registrar"))) };
        self.tasks.spawn_blocking(move || {
            let registrar = registrar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let answer = match registrar.tokens(now()) {
                Ok(tokens) => Response::Tokens(tokens.iter().map(token_answer).collect()),
                Err(error) => Failure::new(FailureKind::Failed, "not-read", error.to_string()).into(),
            };
            let _ = respond.send(answer);
        });
    }

    pub(super) fn revoke_token(&mut self, id: String, respond: oneshot::Sender<Response>) {
        let Some(registrar) = self.registrar.clone() else { return drop(respond.send(no_role("registrar"))) };
        self.tasks.spawn_blocking(move || {
            let registrar = registrar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let revoked = registrar.revoke(|token| token_answer(token).id == id, now());
            let answer = match revoked {
                Ok(Some(token)) => Response::TokenRevoked(token_answer(&token)),
                Ok(None) => {
                    let message = format!("no activation key {id} counts any more");
                    let failure = Failure::new(FailureKind::Usage, "unknown-token", message);
                    failure.with_remedy("`patchmesh token list` shows those that do").into()
                }
                Err(error) => Failure::new(FailureKind::Failed, "not-stored", error.to_string()).into(),
            };
            let _ = respond.send(answer);
        });
    }

    pub(super) fn add_content(&mut self, paths: Vec<PathBuf>, respond: oneshot::Sender<Response>) {
        if self.seed.is_none() {
            return drop(respond.send(no_role("seed")));
        }
        let (content, inputs) = (self.means.content.clone(), self.inputs.clone());
        let origins = self.means.origins.clone();
        self.tasks.spawn(async move {
            let store = content.clone();
            let imported = tokio::task::spawn_blocking(move || import(&store, paths));
            let (added, mut failed) =
                imported.await.unwrap_or_else(|error| (Vec::new(), Some(error.to_string())));
            if let (Some(origins), None) = (origins, &failed) {
                failed = keep(&origins, &added).await.err();
            }
            // Also when one failed: the others are here.
            let held = added.iter().filter_map(|entry| {
                let root = entry.content.root;
                Some(Input::Held { tree: content.tree(root)?, pieces: content.durable(root)? })
            });
            // Nobody takes it only when the driver has stopped.
            let _ = inputs.send(Done::Held(held.collect())).await;
            let _ = respond.send(match failed {
                None => Response::ContentAdded(added),
                Some(cause) => Failure::new(FailureKind::Failed, "content-not-added", cause).into(),
            });
        });
    }

    pub(super) fn load_repository(&mut self, respond: oneshot::Sender<Response>) {
        if self.seed.is_none() {
            return drop(respond.send(no_role("seed")));
        }
        self.loads.push(respond);
        self.look_after_repository();
    }

    /// Everybody who waits for the repository hears what is in force now, or why what it holds is not.
    pub(super) fn answer_loads(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let loaded = || answer::RepositoryLoaded {
            timestamp: self.core.trusted_versions().timestamp,
            patches: u32::try_from(self.core.patches().len()).unwrap_or(u32::MAX),
            roles: self.core.trusted_roles(),
            repository: self.seed.as_ref().map(|seed| seed.directory()).unwrap_or_default(),
        };
        let answer = self
            .happened
            .not_served()
            .map_or_else(|| Response::RepositoryLoaded(loaded()), Response::Failure);
        for respond in self.loads.drain(..) {
            let _ = respond.send(answer.clone());
        }
    }
}

/// Takes files into the store, one after the other; which came in, and why the next did not.
fn import(store: &ContentStore, paths: Vec<PathBuf>) -> (Vec<answer::ContentAdded>, Option<String>) {
    let mut added = Vec::new();
    for path in paths {
        match store.import_file(&path) {
            Ok(content) => added.push(answer::ContentAdded { path: path.display().to_string(), content }),
            Err(error) => return (added, Some(super::effects::chain(&error))),
        }
    }
    (added, None)
}

/// Puts what was added into the bucket, if there is one: before any metadata names it. All of them end, also when one fails:
/// an upload that is dropped in the middle leaves its parts in the bucket.
async fn keep(origins: &Arc<Origins>, contents: &[answer::ContentAdded]) -> Result<(), String> {
    let keep = |entry: &answer::ContentAdded| origins.keep(entry.content.root);
    let kept = futures::stream::iter(contents).map(keep).buffer_unordered(limits::ORIGIN_COPIES);
    let kept: Vec<Result<(), OriginError>> = kept.collect().await;
    kept.into_iter().collect::<Result<(), _>>().map_err(|error| super::effects::chain(&error))
}

/// A device of a site that does not exist would have no neighbours, and nobody would find out why.
fn known_site(sites: Option<Sites>, site: &SiteName) -> Result<(), Failure> {
    let Some(Sites { sites }) = sites else {
        let message = "this node does not have the fleet's list of sites yet";
        return Err(Failure::new(FailureKind::Failed, "no-sites", message)
            .with_remedy("wait until `patchmesh status` names a version of the metadata, and ask again"));
    };
    if sites.iter().any(|known| known.name == *site) {
        return Ok(());
    }
    let mut names: Vec<&str> = sites.iter().map(|site| site.name.as_str()).collect();
    names.sort_unstable();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let message = format!("the fleet has no site {site}; its sites are: {known}");
    Err(Failure::new(FailureKind::Usage, "unknown-site", message).with_remedy(
        "name one of them, or add the site to targets/fleet/sites.toml of the fleet directory and run `patchmesh fleet publish`",
    ))
}

fn no_role(role: &str) -> Response {
    let message = format!("this node is no {role}");
    let remedy = format!("ask a node whose configuration has the table [{role}], with --socket");
    Failure::new(FailureKind::Usage, "no-such-role", message).with_remedy(remedy).into()
}

fn token_answer(token: &protocol::membership::Token) -> answer::Token {
    answer::Token {
        id: token.secret_hash.to_string()[..8].to_owned(),
        site: token.site.clone(),
        class: token.class,
        uses_left: token.uses_left,
        expires: token.expires,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::fleet::Site;

    #[test]
    fn only_sites_of_the_fleet_get_devices() {
        let name = |name: &str| SiteName::new(name).expect("site");
        let site = |one: &str| Site { name: name(one), addresses: Vec::new() };
        let sites = Sites { sites: vec![site("utrecht"), site("lyon")] };
        assert_eq!(known_site(Some(sites.clone()), &name("lyon")), Ok(()));
        let refused = known_site(Some(sites), &name("lion")).expect_err("a typing mistake");
        assert_eq!(refused.kind, FailureKind::Usage);
        assert!(refused.message.ends_with("its sites are: lyon, utrecht"), "{}", refused.message);
        assert!(known_site(Some(Sites::default()), &name("lyon")).is_err());
        assert_eq!(
            known_site(None, &name("lyon")).map_err(|failure| failure.code),
            Err("no-sites".to_owned())
        );
    }
}
