//! Tests: two copies of one fleet directory, and a directory that was restored from a backup.

use super::tests::{CATALOGUE, NOW, Place, catalogue, place, refresh, role, vendor};
use super::*;
use crate::key_source::KeyError;
use crate::repository::Repository;

const DAYS: &str = "policy/fleet.toml";
const HOLD: &[u8] = b"[[hold]]\nid = \"bad\"\npatch = \"debian/a=1\"\nreason = \"It breaks things.\"\n";

fn copy(fleet: &FleetDirectory, to: &Path) -> FleetDirectory {
    fn copy_tree(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("directory");
        for entry in fs::read_dir(from).expect("list") {
            let entry = entry.expect("entry");
            let target = to.join(entry.file_name());
            match entry.file_type().expect("kind").is_dir() {
                true => copy_tree(&entry.path(), &target),
                false => drop(fs::copy(entry.path(), &target).expect("copy")),
            }
        }
    }
    copy_tree(fleet.directory(), to);
    FleetDirectory::open(to).expect("open")
}

/// A published fleet and a second copy of its directory.
fn two() -> (Place, FleetDirectory) {
    let place = place();
    place.fleet.stage(CATALOGUE, &catalogue("debian")).expect("stage");
    place.fleet.publish(&place.repository, NOW).expect("publish");
    let second = copy(&place.fleet, &place.repository.with_file_name("second"));
    (place, second)
}

fn days(days: u32) -> Vec<u8> {
    format!("offline-days = {days}\n").into_bytes()
}

fn in_force(place: &Place, path: &str) -> Vec<u8> {
    let repository = Repository::open(&place.repository).expect("open");
    let trusted = refresh(&repository, &place.fleet.trusted().expect("root"), NOW).expect("refresh");
    trusted.target(path).expect("published").to_vec()
}

fn choosing(
    fleet: &FleetDirectory,
    place: &Place,
    take: Option<&str>,
    overwrite: Option<&str>,
) -> Result<Summary, PublishError> {
    let choices = Choices {
        take: take.into_iter().map(role).collect(),
        overwrite: overwrite.into_iter().map(role).collect(),
        ..Choices::default()
    };
    fleet.publish_with(&mut fleet.keys().expect("keys"), &place.repository, &choices, NOW)
}

#[test]
fn a_copy_that_changed_something_else_takes_over_what_the_other_published() {
    let (place, second) = two();
    place.fleet.stage(DAYS, &days(3)).expect("stage");
    place.fleet.publish(&place.repository, NOW).expect("publish");
    second.stage(HOLDS_PATH, HOLD).expect("stage");
    let summary = second.publish(&place.repository, NOW).expect("publish");
    assert_eq!(summary.taken, [(role("policy"), 2)].into());
    assert_eq!(summary.roles, [(role("hold"), 2)].into());
    assert_eq!(second.staged(DAYS).expect("read"), Some(days(3)));
    assert_eq!(in_force(&place, DAYS), days(3), "nothing was reverted");
    assert_eq!(in_force(&place, HOLDS_PATH), HOLD);
    // And back: now the first one is behind, with a vendor and files that it has never heard of.
    let vendors = Vendors { vendors: vec![vendor("debian"), vendor("other")] };
    second.stage("fleet/vendors.toml", &to_toml(&vendors)).expect("stage");
    second.stage("catalogue/other/x.json", &catalogue("other")).expect("stage");
    second.publish(&place.repository, NOW).expect("publish");
    let summary = place.fleet.publish(&place.repository, NOW).expect("publish");
    let taken = [(role("catalogue-other"), 1), (role("hold"), 2), (role("targets"), 2)];
    assert_eq!((summary.taken, summary.roles.len()), (taken.into(), 0));
    assert_eq!(place.fleet.staged("catalogue/other/x.json").expect("read"), Some(catalogue("other")));
    let nothing = place.fleet.publish(&place.repository, NOW).expect("publish");
    assert!(nothing.taken.is_empty() && nothing.roles.is_empty());
}

#[test]
fn a_role_changed_on_both_sides_is_refused_until_somebody_chooses() {
    let (place, second) = two();
    place.fleet.stage(DAYS, &days(3)).expect("stage");
    place.fleet.publish(&place.repository, NOW).expect("publish");
    second.stage(DAYS, &days(7)).expect("stage");
    second.stage(HOLDS_PATH, HOLD).expect("stage");
    let refused = second.publish(&place.repository, NOW).expect_err("diverged");
    assert!(matches!(&refused, PublishError::Diverged { published: 2, basis: Some(1), .. }), "{refused:?}");
    insta::assert_snapshot!(refused);
    assert_eq!(in_force(&place, DAYS), days(3));
    // The published one is taken, the own one stays beside it and is never published.
    let third = copy(&second, &place.repository.with_file_name("third"));
    let summary = choosing(&third, &place, Some("policy"), None).expect("take");
    assert_eq!((summary.taken.len(), summary.roles.len()), (1, 1), "the hold is published all the same");
    assert_eq!(third.staged(DAYS).expect("read"), Some(days(3)));
    assert_eq!(fs::read(third.staged_path("policy/fleet.toml~")).expect("kept"), days(7));
    assert_eq!(third.publish(&place.repository, NOW).expect("again").roles.len(), 0);
    // Or the own one wins; the hold was published with the same words meanwhile.
    let summary = choosing(&second, &place, None, Some("policy")).expect("overwrite");
    assert_eq!((summary.roles, in_force(&place, DAYS)), ([(role("policy"), 3)].into(), days(7)));
}

#[test]
fn a_file_that_is_gone_on_one_side_goes_on_the_other() {
    let (place, second) = two();
    fs::remove_file(second.staged_path(CATALOGUE)).expect("remove");
    second.publish(&place.repository, NOW).expect("publish");
    let summary = place.fleet.publish(&place.repository, NOW).expect("publish");
    assert_eq!(summary.taken, [(role("catalogue-debian"), 2)].into());
    assert_eq!(place.fleet.staged(CATALOGUE).expect("read"), None);
}

#[test]
fn a_directory_restored_from_a_backup_catches_up() {
    let (place, backup) = two();
    for number in 3..6 {
        place.fleet.stage(DAYS, &days(number)).expect("stage");
        place.fleet.publish(&place.repository, NOW).expect("publish");
    }
    let summary = backup.publish(&place.repository, NOW).expect("publish");
    assert_eq!((summary.taken, summary.roles.len()), ([(role("policy"), 4)].into(), 0));
    assert_eq!(backup.staged(DAYS).expect("read"), Some(days(5)));
}

#[test]
fn a_directory_of_an_older_version_does_not_guess() {
    let (place, second) = two();
    fs::remove_file(second.directory().join("published.json")).expect("as it was before");
    assert!(second.publish(&place.repository, NOW).expect("nothing differs").taken.is_empty());
    fs::remove_file(second.directory().join("published.json")).expect("as it was before");
    second.stage(DAYS, &days(7)).expect("stage");
    let refused = second.publish(&place.repository, NOW);
    assert!(matches!(refused, Err(PublishError::Diverged { basis: None, .. })), "{refused:?}");
    choosing(&second, &place, None, Some("policy")).expect("overwrite");
    second.stage(DAYS, &days(8)).expect("stage");
    second.publish(&place.repository, NOW).expect("from now on it remembers");
}

#[test]
fn a_crash_after_publishing_is_no_divergence() {
    let (place, _) = two();
    place.fleet.stage(DAYS, &days(3)).expect("stage");
    let (repository, mut keys) =
        (Repository::open(&place.repository).expect("open"), place.fleet.keys().expect("keys"));
    let changes = place.fleet.sign_changes(&mut keys, &repository, &Choices::default(), NOW).expect("sign");
    place.fleet.remember_signed(&changes.bases).expect("note");
    repository.accept(changes.base, changes.files, changes.above, &keys, NOW).expect("accept");
    // Here it died; then somebody goes on with the same directory.
    place.fleet.stage(DAYS, &days(4)).expect("stage");
    let summary = place.fleet.publish(&place.repository, NOW).expect("publish");
    assert_eq!(summary.roles, [(role("policy"), 3)].into());
}

#[test]
fn a_repository_that_was_set_back_is_noticed() {
    let (place, _) = two();
    let old = place.repository.with_file_name("old");
    fs::create_dir_all(&old).expect("directory");
    let kept = Repository::open(&place.repository).expect("open");
    let timestamp = protocol::trust::metadata_path(&RoleName::timestamp(), 0);
    let before = kept.read(&timestamp).expect("read").expect("timestamp");
    place.fleet.stage(DAYS, &days(3)).expect("stage");
    place.fleet.publish(&place.repository, NOW).expect("publish");
    let device = refresh(&kept, &place.fleet.trusted().expect("root"), NOW).expect("refresh");
    fs::write(place.repository.join(&timestamp), before).expect("as a backup would");
    let refused = place.fleet.publish(&place.repository, NOW).expect_err("set back");
    insta::assert_snapshot!(refused);
    let summary = choosing(&place.fleet, &place, None, Some("policy")).expect("overwrite");
    assert_eq!(summary.roles, [(role("policy"), 3)].into(), "above what devices have seen");
    refresh(&kept, &device, NOW).expect("and so are those of the seed");
    place.fleet.publish(&place.repository, NOW).expect("all is well");
}

#[test]
fn a_repository_that_is_not_there_is_not_begun_anew() {
    let (place, _) = two();
    place.fleet.stage(HOLDS_PATH, HOLD).expect("stage");
    let mistyped = place.repository.with_file_name("repositry");
    let refused = place.fleet.publish(&mistyped, NOW);
    assert!(matches!(&refused, Err(PublishError::NoRepository(path)) if *path == mistyped), "{refused:?}");
    assert!(!mistyped.exists());
    place.fleet.publish(&place.repository, NOW).expect("publish");
    assert_eq!(in_force(&place, HOLDS_PATH), HOLD, "nothing was lost by it");
}

fn anew(place: &Place, now: WallTime) -> Result<Summary, PublishError> {
    let choices = Choices { anew: true, ..Choices::default() };
    place.fleet.publish_with(&mut place.fleet.keys().expect("keys"), &place.repository, &choices, now)
}

#[test]
fn devices_go_on_with_a_repository_that_was_begun_anew() {
    let (place, second) = two();
    for number in 3..9 {
        place.fleet.stage(DAYS, &days(number)).expect("stage");
        place.fleet.publish(&place.repository, NOW).expect("publish");
    }
    // Years later: devices have a root that the fleet did not begin with.
    let now = NOW.plus_days(300);
    place.fleet.publish(&place.repository, now).expect("a root for another year");
    let repository = Repository::open(&place.repository).expect("open");
    let device = refresh(&repository, &place.fleet.trusted().expect("root"), now).expect("refresh");
    assert_eq!(device.root_version(), 2);
    fs::remove_dir_all(&place.repository).expect("lost");
    place.fleet.stage(HOLDS_PATH, HOLD).expect("stage");
    // The keys that there are stay: none is made in their place.
    let (key, away) = ("keys/policy.json", "policy.json");
    let path = |name: &str| place.fleet.directory().join(name);
    fs::rename(path(key), path(away)).expect("in the safe");
    assert!(matches!(anew(&place, now), Err(PublishError::Key(KeyError::NoKey(_)))));
    fs::rename(path(away), path(key)).expect("back");
    let early = WallTime::from_unix_seconds(1_000);
    assert!(matches!(anew(&place, early), Err(PublishError::Clock { .. })));
    anew(&place, now).expect("publish");
    // As if it had been interrupted, and once more.
    fs::remove_file(place.repository.join("metadata/timestamp.json")).expect("not written yet");
    anew(&place, now.plus_seconds(1)).expect("publish");
    let device = refresh(&repository, &device, now).expect("it goes on");
    assert_eq!((device.target(HOLDS_PATH), device.root_version()), (Some(HOLD), 2));
    refresh(&repository, &place.fleet.trusted().expect("root"), now).expect("so does a new one");
    place.fleet.stage(DAYS, &days(9)).expect("stage");
    place.fleet.publish(&place.repository, now).expect("as ever");
    let device = refresh(&repository, &device, now).expect("and on");
    assert_eq!(device.target(DAYS), Some(&days(9)[..]));
    // A copy that saw something else published before is not overwritten without a word.
    let refused = second.publish(&place.repository, now);
    assert!(matches!(refused, Err(PublishError::Diverged { .. })), "{refused:?}");
}

#[test]
fn a_backup_of_what_the_seed_signs_itself_is_gone_over() {
    let (place, _) = two();
    let repository = Repository::open(&place.repository).expect("open");
    let timestamp = place.repository.join("metadata/timestamp.json");
    let before = fs::read(&timestamp).expect("read");
    let later = NOW.plus_days(12);
    for day in [6, 12] {
        repository.sign_again(&place.fleet.keys().expect("keys"), NOW.plus_days(day)).expect("sign");
    }
    let device = refresh(&repository, &place.fleet.trusted().expect("root"), later).expect("refresh");
    fs::write(&timestamp, before).expect("as a backup would");
    place.fleet.publish(&place.repository, NOW.plus_days(5)).expect("nothing differs");
    assert!(refresh(&repository, &device, NOW.plus_days(5)).is_err(), "the device knows a newer one");
    anew(&place, NOW.plus_days(5)).expect("publish");
    refresh(&repository, &device, NOW.plus_days(5)).expect("it goes on");
}

#[test]
fn holds_do_not_get_lost_with_their_file() {
    let (place, _) = two();
    place.fleet.stage(HOLDS_PATH, HOLD).expect("stage");
    place.fleet.publish(&place.repository, NOW).expect("publish");
    fs::write(place.fleet.directory().join("targets").join(HOLDS_PATH), b"").expect("as a crash would");
    let refused = place.fleet.publish(&place.repository, NOW).expect_err("lost");
    insta::assert_snapshot!(refused);
    assert_eq!(in_force(&place, HOLDS_PATH), HOLD);
    choosing(&place.fleet, &place, Some("hold"), None).expect("take it over");
    assert_eq!(place.fleet.staged(HOLDS_PATH).expect("read"), Some(HOLD.to_vec()));
    place.fleet.stage(HOLDS_PATH, b"").expect("stage");
    choosing(&place.fleet, &place, None, Some("hold")).expect("lift");
    assert_eq!(in_force(&place, HOLDS_PATH), b"");
}

#[test]
fn a_clock_that_was_set_back_signs_nothing() {
    let (place, _) = two();
    place.fleet.stage(HOLDS_PATH, HOLD).expect("stage");
    let early = WallTime::from_unix_seconds(NOW.unix_seconds() - 2 * 86_400);
    let refused = place.fleet.publish(&place.repository, early);
    assert!(matches!(refused, Err(PublishError::Clock { signed: NOW, .. })), "{refused:?}");
    // Whoever knows that the other clock was wrong may go on.
    let choices = Choices { clock_is_right: true, ..Choices::default() };
    let mut keys = place.fleet.keys().expect("keys");
    place.fleet.publish_with(&mut keys, &place.repository, &choices, early).expect("publish");
    assert_eq!(in_force(&place, HOLDS_PATH), HOLD);
}

#[test]
fn forged_files_are_not_taken_over() {
    let (place, second) = two();
    second.stage(DAYS, &days(3)).expect("stage");
    second.publish(&place.repository, NOW).expect("publish");
    // A seed in wrong hands puts its own policy into the repository, whose signature it cannot make.
    let metadata = place.repository.join("metadata/2.policy.json");
    let forged = fs::read_to_string(&metadata).expect("read");
    let (own, genuine) = (Sha256::of(&days(9)).to_string(), Sha256::of(&days(3)).to_string());
    let forged = forged.replace(&genuine, &own);
    fs::write(&metadata, forged).expect("write");
    fs::write(place.repository.join(protocol::trust::target_file_path(DAYS, Sha256::of(&days(9)))), days(9))
        .expect("write");
    let refused = place.fleet.publish(&place.repository, NOW);
    assert!(matches!(refused, Err(PublishError::Repository(_))), "{refused:?}");
    assert_ne!(place.fleet.staged(DAYS).expect("read"), Some(days(9)));
}
