//! The walk-through of docs/operations.md: its very commands, in its order, on real processes.

use node::net::named_device;
use patchmesh_tests::typed::{self, Background, Said};
use protocol::fleet::{SITES_PATH, Sites, parse_toml};
use protocol::policy::{Effective, FLEET_LAYER_PATH, Layer};
use std::path::Path;

const NODE: &str = "patchmesh node run --config ";

// proves N1
// proves N2
// proves S11
#[test]
fn every_command_of_the_walkthrough_works_in_its_order() {
    let directory = tempfile::tempdir().expect("directory");
    let place = directory.path().join("fleet-office");
    let mut nodes = Vec::new();
    let mut said = String::new();
    for block in blocks(&place) {
        if block.lines().all(|line| line.starts_with(NODE)) {
            nodes.extend(block.lines().map(|line| start(line, &place)));
            continue;
        }
        let mut shell = typed::other("bash", directory.path());
        shell.args(["-euo", "pipefail", "-c", &block]);
        let Said { code, out, err } = typed::run(shell);
        let logs: String = nodes.iter().map(Background::said).collect();
        assert_eq!(code, Some(0), "this does not work:\n{block}\n{out}\n{err}\n{logs}");
        said += &out;
    }
    assert!(said.contains("\"approved\": \"no\""), "the real package is approved for nobody: {said}");
    assert!(said.contains("came from neighbours"), "one device has it from the other: {said}");
    assert!(said.ends_with("2.0\n"), "the newer version is installed: {said}");
}

// The settings of policy and the addresses of a site that the page shows are read as it says
#[test]
fn the_examples_of_who_fetches_from_whom_hold() {
    let page = page();
    let (_, section) = page.split_once("\n## Who fetches from whom\n").expect("the section");
    let mut examples = section.split("\n```toml\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let mut example = || examples.next().expect("an example").as_bytes();
    let layer = Layer::parse(FLEET_LAYER_PATH, example()).expect("a policy");
    let policy = &layer.policies[0];
    assert_eq!((policy.peer_download, policy.wan_fetchers), (Some(false), Some(2)));
    let default = Effective::default();
    assert_eq!((default.peer_download, default.wan_fetchers), (true, 4));
    let sites: Sites = parse_toml(SITES_PATH, example()).expect("sites");
    let addresses = &sites.sites[0].addresses;
    assert!(
        !addresses.is_empty() && addresses.iter().all(|address| named_device(address).is_some()),
        "{addresses:?}"
    );
}

fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    std::fs::read_to_string(page).expect("docs/operations.md")
}

/// The blocks of commands, with a directory and ports of the test's own.
fn blocks(place: &Path) -> Vec<String> {
    let page = page();
    let (walk, _) = page.split_once("\n## On real machines").expect("the walk-through comes first");
    let port = || typed::free_port().expect("port").to_string();
    let walk = walk.replace("/srv/patchmesh", &place.display().to_string());
    // In two steps, since a free port can look like one that is still to be replaced.
    let ports = [("7700", "<members>"), ("7701", "<enrolment>"), ("7780", "<dashboard>")];
    let walk = ports.iter().fold(walk, |walk, (known, name)| walk.replace(known, name));
    let walk = ports.iter().fold(walk, |walk, (_, name)| walk.replace(name, &port()));
    let blocks = walk.split("\n```sh\n").skip(1);
    blocks.map(|rest| rest.split("\n```").next().unwrap_or_default().to_owned()).collect()
}

/// Starts the node of one line, and waits until it answers, and on a device until the catalogue has arrived.
fn start(line: &str, place: &Path) -> Background {
    let configuration =
        line.strip_prefix(NODE).and_then(|rest| rest.strip_suffix(" &")).expect("in the background");
    let of = Path::new(configuration).parent().expect("a directory of its own");
    let mut command = typed::command(place);
    command.args(["node", "run", "--config", configuration]);
    let node = Background::start(command, &of.join("node.log"));
    let ready = typed::wait_for(|| {
        let mut ask = typed::command(place);
        ask.args(["patch", "list", "--here", "--socket"]).arg(of.join("control.socket"));
        let said = typed::run(ask);
        let has = of.ends_with("headquarters") || said.out.contains("acme/tool=2.0");
        (said.code == Some(0) && has).then_some(())
    });
    assert!(ready.is_some(), "{configuration}: {}", node.said());
    node
}
