//! The first moments of a node: rules that took a simulation to find.

use crate::conditions::Medium;
use crate::core::*;
use crate::fleet::{Aggregator, Service, VENDORS_PATH, Vendor, Vendors, to_toml};
use crate::identifier::VendorName;
use crate::policy::tests::member;
use crate::report::{SignedReport, Watermark};
use crate::trust::Bundle;
use crate::trust::fixture::{CATALOGUE, NOW, Repository};
use crate::wire::{Hello, News, Response, SiteView, Versions};

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

fn device(number: u8) -> Member {
    Member { device: key(number).device(), issued: NOW, ..member("utrecht") }
}

/// Device 1, whose aggregator and seed is device 9.
fn core(repository: &Repository) -> Core {
    let services = Services {
        seeds: vec![Service { device: key(9).device(), addresses: vec!["/sim/9".to_owned()] }],
        aggregators: vec![Aggregator {
            device: key(9).device(),
            addresses: vec!["/sim/9".to_owned()],
            watermark_key: key(8).public(),
        }],
        enrolment_keys: Vec::new(),
    };
    let setup = Setup {
        key: key(1),
        member: device(1),
        fleet: repository.fleet(),
        root: repository.files["metadata/1.root.json"].clone(),
        services,
        roles: Roles::default(),
        agent: "test".to_owned(),
        seed: 1,
        wall: NOW,
        installs: true,
        keep_bytes: crate::limits::KEEP_BYTES,
    };
    Core::restore(setup, Vec::new()).expect("a first start")
}

fn feed(core: &mut Core, input: Input) -> Vec<Output> {
    core.handle(Moment::START, input);
    std::iter::from_fn(|| core.poll()).collect()
}

fn requests(outputs: &[Output]) -> Vec<(EffectId, &Request)> {
    let request = |output| match output {
        &Output::Request { effect, ref request, .. } => Some((effect, request)),
        _ => None,
    };
    outputs.iter().filter_map(request).collect()
}

fn stores(outputs: &[Output]) -> Vec<EffectId> {
    let store = |output: &Output| match output {
        Output::Store { effect, .. } => Some(*effect),
        _ => None,
    };
    outputs.iter().filter_map(store).collect()
}

// proves X8: what an aggregator knows must survive a crash of the device, or there are two histories.
#[test]
fn a_report_waits_until_it_is_durable() {
    let mut fresh = core(&Repository::new());
    fresh.handle(Moment::START + Duration::from_millis(250), Input::Wake);
    let dials = std::iter::from_fn(|| fresh.poll()).filter(|output| matches!(output, Output::Dial { .. }));
    assert_eq!(dials.count(), 1, "a seed that is the aggregator too is dialled once");
    let mut core = core(&Repository::new());
    let started = feed(&mut core, Input::Wake);
    let connected = feed(&mut core, Input::Connected(device(9)));
    let sends = |outputs: &[Output]| {
        requests(outputs).iter().any(|(_, request)| matches!(request, Request::Reports(_)))
    };
    assert!(!sends(&started) && !sends(&connected));
    let mut after = Vec::new();
    for effect in stores(&started) {
        after.extend(feed(&mut core, Input::Stored { effect, result: Ok(()) }));
    }
    assert!(sends(&after), "{after:?}");
}

// proves X8: a later record that is durable says nothing about an earlier one that the disk did not take.
#[test]
fn a_report_waits_until_those_before_it_are_durable_too() {
    let mut core = core(&Repository::new());
    let started = feed(&mut core, Input::Wake);
    let later = |core: &mut Core, seconds, input| {
        core.handle(Moment::START + Duration::from_secs(seconds), input);
        std::iter::from_fn(|| core.poll()).collect::<Vec<Output>>()
    };
    let sends = |outputs: &[Output]| {
        requests(outputs).iter().any(|(_, request)| matches!(request, Request::Reports(_)))
    };
    feed(&mut core, Input::Connected(device(9)));
    core.incident(crate::report::IncidentKind::Store, None, None, "something else");
    let second = stores(&feed(&mut core, Input::Wake));
    let full = || Err(StoreFailure("the disk is full".to_owned()));
    for effect in stores(&started) {
        feed(&mut core, Input::Stored { effect, result: full() });
    }
    // The disk is slow with the second one.
    let outputs = later(&mut core, 6, Input::Wake);
    assert!(stores(&outputs).is_empty() && !sends(&outputs), "{outputs:?}");
    let mut outputs = Vec::new();
    for effect in second {
        outputs.extend(later(&mut core, 7, Input::Stored { effect, result: Ok(()) }));
    }
    assert!(!sends(&outputs), "the first one is not durable");
    let again = stores(&outputs);
    assert_eq!(again.len(), 1, "it is written again");
    let outputs = later(&mut core, 8, Input::Stored { effect: again[0], result: Ok(()) });
    assert!(sends(&outputs));
}

/// A repository whose list of vendors can be read, so that nodes learn of a catalogue only by their first refresh.
fn repository() -> Repository {
    let mut repository = Repository::new();
    let name = VendorName::new("debian").expect("vendor");
    let vendors = Vendors { vendors: vec![Vendor { name: name.clone(), keys: Vec::new() }] };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let catalogue = crate::manifest::Catalogue { schema: 1, vendor: name, manifests: Vec::new() };
    repository.change(VENDORS_PATH, &text(to_toml(&vendors)));
    repository.change(CATALOGUE, &text(catalogue.to_bytes()));
    repository
}

fn bundle(repository: &Repository, request: &trust::Request) -> Bundle {
    trust::make_bundle(request, |path| repository.files.get(path).cloned()).expect("a small bundle")
}

/// Hands metadata to whoever asked for it, and makes it durable; returns what follows.
fn refresh(core: &mut Core, repository: &Repository, outputs: &[Output]) -> Vec<Output> {
    let (effect, request) = requests(outputs)
        .into_iter()
        .find_map(|(effect, request)| match request {
            Request::Metadata(request) => Some((effect, request.clone())),
            _ => None,
        })
        .expect("it asks for metadata");
    let result = Ok(Response::Metadata(bundle(repository, &request)));
    let accepted = feed(core, Input::Answered { effect, result });
    let durable = *stores(&accepted).last().expect("it stores the metadata");
    feed(core, Input::Stored { effect: durable, result: Ok(()) })
}

// A node that knows its vendors and not their catalogues has nothing to pass on, and does not rest.
#[test]
fn metadata_without_the_catalogues_is_not_passed_on() {
    let repository = repository();
    let newest = Versions { root: 1, timestamp: repository.timestamp, snapshot: repository.timestamp };
    let mut core = core(&repository);
    feed(&mut core, Input::Connected(device(2)));
    let hello = Hello {
        agent: "test".to_owned(),
        medium: Medium::Cable,
        news: News { versions: newest, holdings: Vec::new() },
    };
    let token = RequestToken(1);
    let from = key(2).device();
    let outputs = feed(&mut core, Input::Request { token, from, request: Request::Hello(hello) });
    let halfway = refresh(&mut core, &repository, &outputs);
    assert_eq!(core.trusted_versions(), newest);
    assert_eq!(core.versions(), Versions::default());
    let complete = refresh(&mut core, &repository, &halfway);
    assert_eq!(core.versions(), newest);
    assert!(requests(&complete).iter().all(|(_, request)| !matches!(request, Request::Metadata(_))));
}

// The names of the vendors are part of what a new device lacks; what they sign comes with them, or is asked for.
#[test]
fn one_answer_of_the_seed_brings_a_new_device_all_metadata() {
    let repository = repository();
    let newest = Versions { root: 1, timestamp: repository.timestamp, snapshot: repository.timestamp };
    for with_catalogue in [true, false] {
        let mut core = core(&repository);
        let connected = feed(&mut core, Input::Connected(device(9)));
        let (effect, mut lacks) = requests(&connected)
            .into_iter()
            .find_map(|(effect, request)| match request {
                Request::Announce(announce) => {
                    Some((effect, announce.metadata.clone().expect("a new device")))
                }
                _ => None,
            })
            .expect("it announces itself");
        if with_catalogue {
            lacks.wanted.insert(CATALOGUE.to_owned(), None);
        }
        let view = SiteView {
            versions: newest,
            fetch_metadata: true,
            metadata: Some(bundle(&repository, &lacks)),
            ..SiteView::default()
        };
        let accepted = feed(&mut core, Input::Answered { effect, result: Ok(Response::Site(view)) });
        let durable = *stores(&accepted).last().expect("it stores the metadata");
        let then = feed(&mut core, Input::Stored { effect: durable, result: Ok(()) });
        let asks = requests(&then).iter().any(|(_, request)| matches!(request, Request::Metadata(_)));
        assert_eq!((core.versions() == newest, asks), (with_catalogue, !with_catalogue));
    }
}

/// A core whose disk takes everything at once, and its outputs since they were last looked at.
struct Quick {
    core: Core,
    now: Moment,
    outputs: Vec<Output>,
}

impl Quick {
    /// Long after the last input, so that whatever waits is due.
    fn later(&mut self, input: Input) {
        self.now = self.now + Duration::from_secs(400);
        self.core.handle(self.now, input);
        while let Some(output) = self.core.poll() {
            match output {
                Output::Store { effect, .. } => {
                    self.core.handle(self.now, Input::Stored { effect, result: Ok(()) });
                }
                other => self.outputs.push(other),
            }
        }
    }

    /// The last reports that were sent are answered so; returns what a person is told until they are sent again.
    fn reports_answered(&mut self, response: impl FnOnce(&[Vec<u8>]) -> Response) -> Vec<bool> {
        let sent = requests(&self.outputs).into_iter().rev().find_map(|(effect, request)| match request {
            Request::Reports(reports) => Some((effect, reports.clone())),
            _ => None,
        });
        let (effect, reports) = sent.expect("reports are sent");
        self.outputs.clear();
        self.later(Input::Answered { effect, result: Ok(response(&reports)) });
        self.later(Input::Wake);
        let told = self.outputs.iter().filter_map(|output| match output {
            Output::Event(Event::OtherHistory { stands }) => Some(*stands),
            _ => None,
        });
        told.collect()
    }
}

// proves X8: the first refusal can be of a store that was set back; after the second there is a copy of this device.
#[test]
fn a_device_whose_copy_outdoes_it_says_so_until_its_reports_are_taken() {
    let mut quick = Quick { core: core(&Repository::new()), now: Moment::START, outputs: Vec::new() };
    quick.later(Input::Wake);
    quick.later(Input::Connected(device(9)));
    let refused =
        |_: &[Vec<u8>]| Response::Refused { reason: Reason::OtherHistory, versions: Versions::default() };
    assert!(quick.reports_answered(refused).is_empty(), "a new history begins");
    assert_eq!(quick.reports_answered(refused), [true]);
    assert!(quick.reports_answered(refused).is_empty(), "once");
    let incarnation = quick.core.reporting.log.incarnation();
    let told = quick.reports_answered(|reports| {
        let last = SignedReport::from_bytes(reports.last().expect("reports")).expect("a report");
        let mark = Watermark {
            aggregator: device(9).device,
            device: device(1).device,
            incarnation,
            sequence: last.claims().expect("a report").sequence,
            hash: last.hash(),
            epoch: 1,
            time: NOW,
        };
        Response::Watermark { mark: mark.sign(&key(8)).to_bytes(), expected: None }
    });
    assert_eq!(told, [false]);
}
