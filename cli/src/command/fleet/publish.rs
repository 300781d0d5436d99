//! `patchmesh fleet publish`: signs what was staged and hands it to the seed.

use crate::command::FleetOption;
use crate::command::patch::without_fleet;
use crate::command::token::now;
use crate::exit::{Exit, Failure, Outcome};
use crate::fleet_files::FleetFiles;
use crate::printer::Printer;
use anyhow::Context as _;
use clap::Args;
use node::control::answer::{ContentAdded, RepositoryLoaded, Transfer};
use node::control::{Client, ClientError};
use node::disk;
use node::fleet_directory::{Choices, PublishError, Summary};
use protocol::digest::Blake3Root;
use protocol::fleet::toml_fault;
use protocol::limits;
use protocol::trust::RoleName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// File of the fleet directory that remembers where headquarters is.
const HEADQUARTERS_FILE: &str = "headquarters.toml";

/// Content files that are handed to the seed in one request.
const FILES_AT_ONCE: usize = 64;

/// Sign what was staged and hand it to the seed
#[derive(Args, Debug)]
#[command(after_help = "\
Only what changed is signed. What another copy of the fleet directory published, and nobody changed here, is taken over into \
this one. A role that was changed on both sides is refused (exit code 3) until --take or --overwrite says whose counts.

Content goes first, so that no manifest names a file that the seed does not have. While \
the seed does not run, content cannot be handed over: exit code 5, publish again when it runs.

Example:
  patchmesh fleet publish
  patchmesh fleet publish --take policy
  patchmesh fleet publish --fleet /media/offline/fleet --repository /srv/patchmesh/repository")]
pub struct Publish {
    #[command(flatten)]
    fleet: FleetOption,
    /// The seed's repository directory; without it, the one that `fleet init` made
    #[arg(long, value_name = "DIRECTORY")]
    repository: Option<PathBuf>,
    /// The seed's control socket; without it, the one that `fleet init` made
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Take over the published files of a role that was changed here too; the ones here stay beside them as NAME~
    #[arg(long, value_name = "ROLE", value_parser = role, conflicts_with = "overwrite")]
    take: Vec<RoleName>,
    /// Replace the published files of a role, whoever published them, by the ones here
    #[arg(long, value_name = "ROLE", value_parser = role)]
    overwrite: Vec<RoleName>,
    /// Publish although what is published was signed later than this machine's clock says
    #[arg(long)]
    clock_is_right: bool,
    /// Go above all versions that devices can have seen: where the repository is lost or comes from an old backup. Publish so
    /// where the fleet directory is that published last
    #[arg(long)]
    anew: bool,
}

fn role(text: &str) -> Result<RoleName, String> {
    RoleName::new(text).map_err(|error| error.to_string())
}

/// Where headquarters is, on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Headquarters {
    /// The seed's repository directory.
    pub repository: PathBuf,
    /// Its control socket.
    pub control_socket: PathBuf,
}

impl Headquarters {
    /// Remembers it in the fleet directory.
    pub fn write(&self, fleet: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).context("cannot remember headquarters")?;
        let path = fleet.join(HEADQUARTERS_FILE);
        Ok(std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?)
    }

    fn read(fleet: &Path) -> Result<Headquarters, Failure> {
        let path = fleet.join(HEADQUARTERS_FILE);
        let read = disk::read_text(&path, limits::TARGET_BYTES as u64);
        let text = read.with_context(|| format!("cannot read {}", path.display()));
        let text = text.map_err(|error| {
            Failure::from(error).with_hint("name the seed with --repository and --socket")
        })?;
        toml::from_str(&text).map_err(|error| {
            let says = format!("{}: {}", path.display(), toml_fault(&text, &error));
            Failure::new(Exit::Configuration, says).with_hint(format!("mend {}", path.display()))
        })
    }
}

/// What was published.
#[derive(Debug, Serialize)]
pub struct Published {
    /// Roles that were signed anew, with their versions.
    pub roles: BTreeMap<String, u64>,
    /// Files of the fleet that are new, changed or gone.
    pub targets: Vec<String>,
    /// Roles that another copy of the fleet directory published, taken over into this one, with their versions.
    pub taken: BTreeMap<String, u64>,
    /// Version of the timestamp now.
    pub timestamp: u64,
    /// Content files that the seed holds.
    pub content_files: usize,
    /// Files of the fleet directory that are damaged; the seed has their content whole from an earlier time.
    pub damaged: Vec<String>,
    /// Whether the seed serves it already.
    pub served: bool,
}

impl Publish {
    pub fn run(self, printer: Printer) -> Outcome {
        let files = FleetFiles::open(&self.fleet.directory).map_err(without_fleet)?;
        let place = match (self.repository, self.socket) {
            (Some(repository), Some(control_socket)) => Headquarters { repository, control_socket },
            (repository, socket) => {
                let known = Headquarters::read(&self.fleet.directory)?;
                Headquarters {
                    repository: repository.unwrap_or(known.repository),
                    control_socket: socket.unwrap_or(known.control_socket),
                }
            }
        };
        let choices = Choices {
            take: self.take.into_iter().collect(),
            overwrite: self.overwrite.into_iter().collect(),
            clock_is_right: self.clock_is_right,
            anew: self.anew,
        };
        let published = publish(&files, &place, &choices)?;
        printer.data("published", &published, render)?;
        for path in &published.damaged {
            printer.message(&format!(
                "{path} is damaged. The seed has this content whole, so devices lack nothing; check the medium, and import the \
                 patch with its files again, which writes it anew."
            ));
        }
        if published.served {
            return Ok(Exit::Done);
        }
        printer.message("The seed does not run: it takes the metadata when it starts, and the content when you publish again.");
        Ok(Exit::Partly)
    }
}

/// Hands the content to the seed, signs what changed, and tells the seed. Without a running seed, it only signs.
///
/// # Errors
/// What failed or was refused; `choices` says what to do about roles that were changed elsewhere too.
pub fn publish(files: &FleetFiles, place: &Headquarters, choices: &Choices) -> Result<Published, Failure> {
    let mut seed = match Client::connect(&place.control_socket) {
        Ok(client) => Some(client),
        Err(ClientError::NotRunning(_)) => None,
        Err(error) => return Err(error.into()),
    };
    // Before anything is handed over: content of one fleet has no place in the seed of another.
    files.fleet().refuse_other_repository(&place.repository, choices).map_err(failed)?;
    // Content may take long, and no hold should wait for it. What an import added meanwhile is handed over under the lock.
    let mut handed = Handed::default();
    hand_over(files, seed.as_mut(), &mut handed)?;
    let lock = files.lock()?;
    hand_over(files, seed.as_mut(), &mut handed)?;
    let mut keys = files.fleet().keys().map_err(|error| Failure::of(Exit::Failed, &error))?;
    let summary = files.fleet().publish_with(&mut keys, &place.repository, choices, now()?);
    let summary = summary.map_err(failed)?;
    drop(lock);
    if let Some(seed) = &mut seed {
        let loaded = seed.repository_changed()?;
        let lacks = |(role, version): (&RoleName, &u64)| loaded.roles.get(role) < Some(version);
        if loaded.timestamp < summary.timestamp || summary.roles.iter().any(lacks) {
            return Err(unserved(place, &summary, &loaded));
        }
    }
    let names = |roles: &BTreeMap<RoleName, u64>| {
        roles.iter().map(|(role, version)| (role.to_string(), *version)).collect()
    };
    Ok(Published {
        roles: names(&summary.roles),
        taken: names(&summary.taken),
        targets: summary.targets,
        timestamp: summary.timestamp,
        content_files: handed.files.len(),
        damaged: handed.damaged,
        served: seed.is_some(),
    })
}

/// The seed has not what was published: it reads another directory, for instance the one of which this is a copy.
fn unserved(place: &Headquarters, summary: &Summary, loaded: &RepositoryLoaded) -> Failure {
    let (repository, version, served) = (place.repository.display(), summary.timestamp, loaded.timestamp);
    let message = format!(
        "nobody gets what was published: {repository} is at version {version} now, and the seed serves version {served} of {}",
        loaded.repository.display()
    );
    Failure::new(Exit::Failed, message).with_hint(
        "name the repository that seed.repository of the seed's configuration names with --repository, or the socket of the \
         seed that reads this one with --socket, and publish again",
    )
}

/// What the seed got.
#[derive(Default)]
struct Handed {
    files: BTreeSet<PathBuf>,
    damaged: Vec<String>,
}

/// Hands the seed the content files that it was not `handed` before. A damaged one stops the publication only when the seed does not
/// have the content from an earlier time: a hold must not wait for a patch that everybody has.
fn hand_over(files: &FleetFiles, seed: Option<&mut Client>, handed: &mut Handed) -> Result<(), Failure> {
    let Some(seed) = seed else { return Ok(()) };
    let mut new = contents(&files.content_directory())?;
    new.retain(|path| !handed.files.contains(path));
    for paths in new.chunks(FILES_AT_ONCE) {
        for added in seed.add_content(paths.to_vec())?.iter().filter(|added| !is_what_it_is_called(added)) {
            let is_it = |transfer: &Transfer| is_named(&added.path, transfer.root);
            let whole = |transfer: &Transfer| transfer.pieces_held == transfer.pieces_total;
            if !seed.transfers()?.iter().any(|transfer| is_it(transfer) && whole(transfer)) {
                return Err(damaged(added));
            }
            handed.damaged.push(added.path.clone());
        }
    }
    handed.files.extend(new);
    Ok(())
}

/// A content file has its root as its name: the medium that it lies on may have changed it since.
fn is_what_it_is_called(added: &ContentAdded) -> bool {
    is_named(&added.path, added.content.root)
}

fn is_named(path: &str, root: Blake3Root) -> bool {
    Path::new(path).file_name().is_some_and(|name| name == root.to_string().as_str())
}

fn damaged(added: &ContentAdded) -> Failure {
    let ContentAdded { path, content } = added;
    let message = format!(
        "{path} is damaged: its bytes are content {}, and the seed does not have the right ones; nothing was published",
        content.root
    );
    Failure::new(Exit::Failed, message).with_hint(
        "check the medium, and import the patch with its files again, which writes them anew; if something cannot wait for \
         that, remove the file and publish: devices do not get this content before it is imported and published",
    )
}

fn failed(error: PublishError) -> Failure {
    let exit = match error {
        PublishError::OtherFleet { .. }
        | PublishError::NoRepository(_)
        | PublishError::Vanished(_)
        | PublishError::Clock { .. }
        | PublishError::HoldsLost(_)
        | PublishError::Diverged { .. }
        | PublishError::SetBack { .. } => Exit::Refused,
        _ => Exit::Failed,
    };
    Failure::of(exit, &error)
}

fn contents(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let directory = std::path::absolute(directory)?;
        std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut paths = list().with_context(|| format!("cannot list {}", directory.display()))?;
    paths.retain(|path| path.file_name().is_some_and(|name| name.len() == 64));
    paths.sort();
    Ok(paths)
}

fn render(published: &Published) -> String {
    let mut text = String::new();
    for (role, version) in &published.taken {
        let _ = writeln!(text, "Took over role {role}, version {version}, which somebody else published.");
    }
    if published.targets.is_empty() && published.roles.is_empty() {
        let _ = writeln!(text, "Nothing had changed; version {} stands.", published.timestamp);
        return text;
    }
    let _ = writeln!(text, "Published version {}.", published.timestamp);
    for target in &published.targets {
        let _ = writeln!(text, "  {target}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::patch::approve_patches;
    use crate::command::tests::{fleet, manifest, status};
    use protocol::manifest::Content;

    #[test]
    fn content_that_is_not_what_it_is_called_is_not_published() {
        let (good, rotten) = (Content::of(b"good"), Content::of(b"rotten"));
        let path = format!("/fleet/content/{}", good.root);
        let added = |content| ContentAdded { path: path.clone(), content };
        assert!(is_what_it_is_called(&added(good)) && !is_what_it_is_called(&added(rotten)));
        let failure = damaged(&added(rotten));
        assert!(failure.message.contains(&path) && failure.hint.expect("hint").contains("import"));
    }

    #[test]
    fn without_a_seed_the_metadata_is_signed_and_the_content_waits() {
        let directory = tempfile::tempdir().expect("directory");
        let files = fleet(directory.path());
        let place = Headquarters {
            repository: directory.path().join("repository"),
            control_socket: directory.path().join("control.socket"),
        };
        let first = publish(&files, &place, &Choices::default()).expect("publish");
        assert!(!first.served && first.timestamp == 1);
        let libone = manifest("libone", 1);
        let debian = protocol::fleet::Vendor { name: libone.patch.vendor(), keys: Vec::new() };
        files.trust(&debian).expect("vendor");
        files.merge(vec![libone.clone()], &status().system).expect("merge");
        approve_patches(&files, &[libone.patch]).expect("approve");
        let second = publish(&files, &place, &Choices::default()).expect("publish");
        assert_eq!(second.timestamp, 2);
        insta::assert_snapshot!(render(&second));
        let third = publish(&files, &place, &Choices::default()).expect("publish");
        insta::assert_snapshot!(render(&third));
        place.write(directory.path()).expect("write");
        assert_eq!(Headquarters::read(directory.path()).expect("read"), place);
    }
}
