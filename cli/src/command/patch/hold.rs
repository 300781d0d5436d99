//! `patchmesh patch hold` and `release`: stop patches, and let them go again.

use super::{find, without_fleet};
use crate::command::FleetOption;
use crate::command::token::now;
use crate::exit::{Exit, Failure, Outcome};
use crate::fleet_files::FleetFiles;
use crate::printer::Printer;
use crate::rules_text;
use clap::Args;
use protocol::identifier::{PatchId, RuleName};
use protocol::limits;
use protocol::policy::{self, Holds, Layer};
use serde::Serialize;

/// Put patches on hold: nobody installs or shares them, whatever approves them
#[derive(Args, Debug)]
#[command(after_help = "\
A hold needs the key of role hold and always wins. It ends transfers that are under way; what is installed stays installed. \
Holds accumulate: only policy releases one, by its identifier, with `patchmesh patch release`.

Example:
  patchmesh patch hold debian/libssl3=3.0.17-1~deb12u2 --reason \"breaks the mail server\"
  patchmesh fleet publish")]
pub struct Hold {
    /// The patches
    #[arg(required = true)]
    patches: Vec<PatchId>,
    /// Why, for the people who will see it
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    #[command(flatten)]
    fleet: FleetOption,
}

/// Release holds, by their identifiers or by the patch
#[derive(Args, Debug)]
#[command(after_help = "\
A release is signed with the key of role policy. `patchmesh patch show PATCH` names the holds on a patch; naming the patch \
releases all of them.

Example:
  patchmesh patch release hold-1
  patchmesh patch release debian/libssl3=3.0.17-1~deb12u2
  patchmesh fleet publish")]
pub struct Release {
    /// Identifiers of holds, or patches
    #[arg(required = true, value_name = "HOLD|PATCH", value_parser = named)]
    holds: Vec<Named>,
    #[command(flatten)]
    fleet: FleetOption,
}

/// What a release names.
#[derive(Clone, Debug)]
enum Named {
    Hold(RuleName),
    Patch(PatchId),
}

fn named(text: &str) -> Result<Named, String> {
    let parsed = match text.contains('/') {
        true => PatchId::new(text).map(Named::Patch),
        false => RuleName::new(text).map(Named::Hold),
    };
    parsed.map_err(|error| error.to_string())
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.is_empty() || text.len() > limits::TEXT_BYTES || !protocol::text::is_plain(text) {
        true => Err(format!("say why in one line of at most {} bytes", limits::TEXT_BYTES)),
        false => Ok(text.to_owned()),
    }
}

/// One hold, as it was made or ended.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct OneHold {
    /// Its identifier.
    pub id: RuleName,
    /// The patch.
    pub patch: PatchId,
}

impl OneHold {
    fn of(hold: &policy::Hold) -> OneHold {
        OneHold { id: hold.id.clone(), patch: hold.patch.clone() }
    }
}

/// What `patch hold` did.
#[derive(Debug, Serialize)]
pub struct Held {
    /// New holds.
    pub held: Vec<OneHold>,
    /// Holds that there were already on patches that were named.
    pub unchanged: Vec<OneHold>,
}

/// What `patch release` did.
#[derive(Debug, Serialize)]
pub struct Released {
    /// Holds that count no more.
    pub released: Vec<OneHold>,
    /// Holds that were named and had been released before.
    pub unchanged: Vec<OneHold>,
}

impl Hold {
    pub fn run(self, printer: Printer) -> Outcome {
        let files = FleetFiles::open(&self.fleet.directory).map_err(without_fleet)?;
        let held = hold_patches(&files, &self.patches, &self.reason)?;
        printer.data("held", &held, |held| {
            lines(&[("on hold:", &held.held), ("was on hold already:", &held.unchanged)])
        })?;
        printer.message("The fleet learns of it with `patchmesh fleet publish`.");
        Ok(Exit::Done)
    }
}

impl Release {
    pub fn run(self, printer: Printer) -> Outcome {
        let files = FleetFiles::open(&self.fleet.directory).map_err(without_fleet)?;
        let released = release_holds(&files, &self.holds)?;
        printer.data("released", &released, |released| {
            lines(&[("released:", &released.released), ("was released already:", &released.unchanged)])
        })?;
        printer.message("The fleet learns of it with `patchmesh fleet publish`.");
        Ok(Exit::Done)
    }
}

fn lines(groups: &[(&str, &Vec<OneHold>)]) -> String {
    let line = |word: &str, hold: &OneHold| format!("{word} {} ({})\n", hold.patch, hold.id);
    groups.iter().flat_map(|(word, holds)| holds.iter().map(move |hold| line(word, hold))).collect()
}

/// Puts patches of the catalogues on hold, for one reason, each under an identifier that was never used.
fn hold_patches(files: &FleetFiles, patches: &[PatchId], reason: &str) -> Result<Held, Failure> {
    let _lock = files.lock()?;
    let ((layer, _), (holds, text)) = (files.layer()?, files.holds()?);
    let manifests = files.manifests()?;
    let mut done = Held { held: Vec::new(), unchanged: Vec::new() };
    let mut new: Vec<policy::Hold> = Vec::new();
    for patch in patches {
        find(&manifests, patch)?;
        if let Some(old) = layer.in_force(&holds).chain(&new).find(|hold| hold.patch == *patch) {
            done.unchanged.push(OneHold::of(old));
            continue;
        }
        let hold = policy::Hold {
            id: free_name(&layer, &holds, &new)?,
            patch: patch.clone(),
            reason: reason.to_owned(),
        };
        done.held.push(OneHold::of(&hold));
        new.push(hold);
    }
    if !new.is_empty() {
        files.write_holds(&text, &rules_text::hold(&holds, &text, &new))?;
    }
    Ok(done)
}

/// An identifier that no hold has and no release ever named: a released one would not hold.
fn free_name(layer: &Layer, holds: &Holds, new: &[policy::Hold]) -> Result<RuleName, Failure> {
    let taken = |name: &str| {
        holds.holds.iter().chain(new).any(|hold| hold.id.as_str() == name)
            || layer.releases.iter().any(|release| release.hold.as_str() == name)
    };
    let name = |number: u64| format!("hold-{number}");
    let free = (1..u64::MAX).find(|number| !taken(&name(*number))).unwrap_or(u64::MAX);
    RuleName::new(name(free)).map_err(|error| Failure::of(Exit::Failed, &error))
}

/// Releases the holds that are named, or that stand on the patches that are named.
fn release_holds(files: &FleetFiles, named: &[Named]) -> Result<Released, Failure> {
    let _lock = files.lock()?;
    let ((layer, text), (holds, _)) = (files.layer()?, files.holds()?);
    let released = now()?;
    let mut done = Released { released: Vec::new(), unchanged: Vec::new() };
    for name in named {
        let matching: Vec<&policy::Hold> = match name {
            Named::Hold(id) => holds.holds.iter().filter(|hold| hold.id == *id).collect(),
            Named::Patch(patch) => holds.holds.iter().filter(|hold| hold.patch == *patch).collect(),
        };
        if matching.is_empty() {
            return Err(unknown(name, &layer, &holds));
        }
        for hold in matching {
            let in_force = layer.in_force(&holds).any(|other| other.id == hold.id);
            let list = if in_force { &mut done.released } else { &mut done.unchanged };
            if list.iter().all(|one| one.id != hold.id) {
                list.push(OneHold::of(hold));
            }
        }
    }
    let new: Vec<policy::Release> =
        done.released.iter().map(|one| policy::Release { hold: one.id.clone(), released }).collect();
    if !new.is_empty() {
        files.write_layer(&text, &rules_text::release(&layer, &text, &new))?;
    }
    Ok(done)
}

fn unknown(name: &Named, layer: &Layer, holds: &Holds) -> Failure {
    let message = match name {
        Named::Hold(id) => format!("there is no hold {id}"),
        Named::Patch(patch) => format!("there is no hold on {patch}"),
    };
    let known: Vec<String> =
        layer.in_force(holds).map(|hold| format!("{} on {}", hold.id, hold.patch)).collect();
    let hint = match known.is_empty() {
        true => "nothing is on hold".to_owned(),
        false => format!("in force are: {}", known.join(", ")),
    };
    Failure::new(Exit::Usage, message).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::{fleet, manifest, patch, status};

    // proves P8: holds accumulate, and a released name never counts again
    #[test]
    fn holds_are_made_and_released_by_name() {
        let directory = tempfile::tempdir().expect("directory");
        let files = fleet(directory.path());
        let (one, two) = (manifest("libone", 1), manifest("libtwo", 1));
        files.merge(vec![one.clone(), two.clone()], &status().system).expect("merge");
        let both = [one.patch.clone(), two.patch];
        let held = hold_patches(&files, &both, "it breaks things").expect("hold");
        insta::assert_snapshot!(lines(&[("on hold:", &held.held)]));
        let again = hold_patches(&files, &both[..1], "once more").expect("hold");
        assert_eq!((again.held.len(), again.unchanged.len()), (0, 1));
        let ids = |named: &[Named]| {
            let done = release_holds(&files, named).expect("release");
            (done.released.len(), done.unchanged.len())
        };
        assert_eq!(ids(&[named("hold-1").expect("name")]), (1, 0));
        assert_eq!(ids(&[named("hold-1").expect("name")]), (0, 1));
        let ((layer, _), (holds, _)) = (files.layer().expect("layer"), files.holds().expect("holds"));
        assert_eq!(holds.holds.len(), 2, "entries accumulate");
        assert_eq!(layer.in_force(&holds).count(), 1);
        let third = hold_patches(&files, &both[..1], "again").expect("hold");
        assert_eq!(third.held[0].id.as_str(), "hold-3");
        assert_eq!(ids(&[named(one.patch.as_str()).expect("name")]), (1, 1), "all holds on the patch");
        let unknown = release_holds(&files, &[named("hold-9").expect("name")]).expect_err("unknown");
        assert!(
            unknown.exit == Exit::Usage && unknown.hint.expect("hint").contains("hold-2 on debian/libtwo")
        );
        let unknown = hold_patches(&files, &[patch("debian/gone=1")], "x").expect_err("unknown");
        assert!(unknown.exit == Exit::Usage && unknown.hint.expect("hint").contains("fleet publish"));
    }

    #[test]
    fn a_reason_is_one_line() {
        assert!(reason("  ").is_err() && reason("a\nb").is_err());
        assert_eq!(reason(" breaks printing "), Ok("breaks printing".to_owned()));
    }
}
