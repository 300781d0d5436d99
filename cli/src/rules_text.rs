//! The text of rules as a person wrote it, with entries added or taken out: comments and order stay.

use protocol::fleet;
use protocol::identifier::{ManifestDigest, PatchId};
use protocol::policy::{Approval, FLEET_LAYER_PATH, HOLDS_PATH, Hold, Holds, Layer, Release};
use std::fmt::Write as _;

/// The text of a layer with more approvals: new ones go to the end, or take the place of one of the same patch whose manifest
/// is not `listed` any more.
pub fn approve(
    layer: &Layer,
    text: &str,
    new: &[Approval],
    listed: impl Fn(&ManifestDigest) -> bool,
) -> String {
    let mut wanted = layer.clone();
    let mut text = text.to_owned();
    for approval in new {
        let Approval { patch, manifest, approved } = approval;
        match wanted.approvals.iter_mut().find(|old| old.patch == *patch && !listed(&old.manifest)) {
            Some(old) => {
                text = text.replacen(&old.manifest.to_string(), &manifest.to_string(), 1);
                old.manifest = *manifest;
            }
            None => {
                let entry = format!(
                    "[[approval]]\npatch = \"{patch}\"\nmanifest = \"{manifest}\"\napproved = \"{approved}\"\n"
                );
                append(&mut text, &entry);
                wanted.approvals.push(approval.clone());
            }
        }
    }
    layer_text(text, &wanted)
}

/// The text of a layer without the approvals of these patches.
pub fn unapprove(layer: &Layer, text: &str, patches: &[PatchId]) -> String {
    let mut wanted = layer.clone();
    wanted.approvals.retain(|approval| !patches.contains(&approval.patch));
    let text = patches.iter().fold(text.to_owned(), |text, patch| without_approval(&text, patch));
    layer_text(text, &wanted)
}

/// The text of a layer with more releases at its end.
pub fn release(layer: &Layer, text: &str, new: &[Release]) -> String {
    let mut wanted = layer.clone();
    let mut text = text.to_owned();
    for release in new {
        let Release { hold, released } = release;
        append(&mut text, &format!("[[release]]\nhold = \"{hold}\"\nreleased = \"{released}\"\n"));
        wanted.releases.push(release.clone());
    }
    layer_text(text, &wanted)
}

/// The text of the holds with more of them at its end.
pub fn hold(holds: &Holds, text: &str, new: &[Hold]) -> String {
    let mut wanted = holds.clone();
    let mut text = text.to_owned();
    for hold in new {
        let reason = toml::Value::String(hold.reason.clone());
        append(
            &mut text,
            &format!("[[hold]]\nid = \"{}\"\npatch = \"{}\"\nreason = {reason}\n", hold.id, hold.patch),
        );
        wanted.holds.push(hold.clone());
    }
    let kept = fleet::parse_toml::<Holds>(HOLDS_PATH, text.as_bytes()).is_ok_and(|holds| holds == wanted);
    if kept { text } else { plain(&wanted) }
}

/// The edited text where it says what it should; otherwise the same rules without what a person wrote around them.
fn layer_text(text: String, wanted: &Layer) -> String {
    let kept = Layer::parse(FLEET_LAYER_PATH, text.as_bytes()).is_ok_and(|layer| layer == *wanted);
    if kept { text } else { plain(wanted) }
}

fn plain<T: serde::Serialize>(wanted: &T) -> String {
    String::from_utf8_lossy(&fleet::to_toml(wanted)).into_owned()
}

fn append(text: &mut String, entry: &str) {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let gap = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
    let _ = write!(text, "{end}{gap}{entry}");
}

/// Leaves out the lines of one approval, from its heading to its last value.
fn without_approval(text: &str, patch: &PatchId) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_heading = |line: &&str| line.trim_start().starts_with('[');
    let names = format!("\"{patch}\"");
    let mut kept = String::new();
    let mut at = 0;
    while at < lines.len() {
        let end = lines.iter().skip(at + 1).position(is_heading).map_or(lines.len(), |next| at + 1 + next);
        let block = &lines[at..end];
        let is_it = block[0].trim() == "[[approval]]" && block.iter().any(|line| line.contains(&names));
        // What follows the last value belongs to what comes next.
        let values = block.iter().rposition(|line| line.contains('=') && !line.trim_start().starts_with('#'));
        let skipped = if is_it { values.map_or(1, |last| last + 1) } else { 0 };
        let blank = usize::from(is_it && block.get(skipped).is_some_and(|line| line.trim().is_empty()));
        kept.extend(block.iter().skip(skipped + blank).copied());
        at = end;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::identifier::{ManifestDigest, RuleName};
    use protocol::time::WallTime;

    fn patch(name: &str) -> PatchId {
        PatchId::new(name).expect("patch")
    }

    fn approval(name: &str, digest: u8) -> Approval {
        Approval {
            patch: patch(name),
            manifest: ManifestDigest::from_bytes([digest; 32]),
            approved: WallTime::from_unix_seconds(1_800_000_000),
        }
    }

    #[test]
    fn approvals_keep_what_a_person_wrote() {
        let text = "# ours\n[[policy]]\nname = \"all\"\nenabled = true\nassign = { everyone = true }";
        let parse = |text: &str| Layer::parse("x", text.as_bytes()).expect("layer");
        let both = [approval("debian/a=1", 1), approval("debian/b=1", 2)];
        let once = approve(&parse(text), text, &both, |_| true);
        assert!(once.starts_with("# ours\n"), "{once}");
        assert_eq!(parse(&once).approvals.len(), 2);
        let listed = |manifest: &ManifestDigest| *manifest != ManifestDigest::from_bytes([1; 32]);
        let again = approve(&parse(&once), &once, &[approval("debian/a=1", 3)], listed);
        assert!(again.starts_with("# ours\n"));
        let approvals = parse(&again).approvals;
        assert_eq!(approvals.len(), 2);
        assert_eq!(approvals[0].manifest, ManifestDigest::from_bytes([3; 32]));
        // For another architecture: a further manifest of the same patch.
        let more = approve(&parse(&again), &again, &[approval("debian/a=1", 4)], |_| true);
        assert_eq!(parse(&more).approvals.len(), 3);
        assert_eq!(parse(&unapprove(&parse(&more), &more, &[patch("debian/a=1")])).approvals.len(), 1);
        let first = approve(&Layer::default(), "", &[approval("debian/a=1", 1)], |_| true);
        assert_eq!(parse(&first).approvals.len(), 1);
    }

    #[test]
    fn an_approval_leaves_and_takes_nothing_with_it() {
        let parse = |text: &str| Layer::parse("x", text.as_bytes()).expect("layer");
        let text = "# ours\noffline-days = 3\n\n# first\n[[approval]]\npatch = \"debian/a=1\"\nmanifest = \"";
        let digest = ManifestDigest::from_bytes([1; 32]);
        let text = format!("{text}{digest}\"\napproved = \"2026-01-01T00:00:00Z\"\n\n# rules\n");
        let text = approve(&parse(&text), &text, &[approval("debian/b=1", 2)], |_| true);
        let without = unapprove(&parse(&text), &text, &[patch("debian/a=1")]);
        assert_eq!(parse(&without).approvals, [approval("debian/b=1", 2)]);
        assert!(without.contains("# ours\noffline-days = 3") && without.contains("# rules"), "{without}");
        let none = unapprove(&parse(&without), &without, &[patch("debian/b=1")]);
        assert!(parse(&none).approvals.is_empty() && none.starts_with("# ours"), "{none}");
        // Another way to write it, which the edit does not understand: the rules stay right.
        let odd = format!(
            "approval = [{{ patch = \"debian/a=1\", manifest = \"{digest}\", approved = \"2026-01-01T00:00:00Z\" }}]\n"
        );
        assert!(parse(&unapprove(&parse(&odd), &odd, &[patch("debian/a=1")])).approvals.is_empty());
    }

    #[test]
    fn holds_and_releases_are_added_at_the_end() {
        let id = RuleName::new("hold-1").expect("id");
        let new =
            Hold { id: id.clone(), patch: patch("debian/a=1"), reason: "It \"breaks\"\nthings.".to_owned() };
        let text = hold(&Holds::default(), "# ours\n", std::slice::from_ref(&new));
        assert!(text.starts_with("# ours\n"));
        assert_eq!(fleet::parse_toml::<Holds>("x", text.as_bytes()), Ok(Holds { holds: vec![new] }));
        let released = Release { hold: id, released: WallTime::from_unix_seconds(1_800_000_000) };
        let text = release(&Layer::default(), "# ours\n", std::slice::from_ref(&released));
        assert!(text.starts_with("# ours\n"));
        assert_eq!(Layer::parse("x", text.as_bytes()).expect("layer").releases, [released]);
    }
}
