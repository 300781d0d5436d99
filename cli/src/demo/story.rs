//! The story of the demo, step by step: publish, approve, join, scan, plan, fetch, verify, share, deploy, report, look.

use super::branch::{self, Device, Told};
use super::children::Children;
use super::content::{self, Upgrades};
use super::figures::{Figures, http_rows};
use super::headquarters::{Decided, Headquarters, SITE, Speed};
use super::steps::Steps;
use super::table;
use super::wait::until;
use super::wan::Counters;
use crate::command::token::{create_token, now};
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Output, Printer};
use node::control::Client;
use node::units::bytes;
use protocol::identifier::SiteName;
use protocol::membership::{ActivationKey, Class};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest time for the branch to fetch and deploy everything.
const DEPLOY: Duration = Duration::from_secs(180);
/// Longest time for the last reports to arrive.
const REPORT: Duration = Duration::from_secs(60);

/// A demo about to be told.
#[derive(Debug)]
pub struct Story {
    /// Where it is told.
    pub printer: Printer,
    /// Everything that it makes.
    pub directory: PathBuf,
    /// Every process that it starts.
    pub children: Children,
    /// Devices of the branch.
    pub devices: usize,
    /// Speed of the WAN.
    pub speed: Speed,
    /// Whether it stays up at the end.
    pub stay: bool,
}

impl Story {
    /// Tells it.
    pub fn tell(self) -> Outcome {
        let began = Instant::now();
        let steps = Steps::new(self.printer);
        let content = steps.step("Finding security upgrades", |_| {
            let content = content::find(&self.directory)?;
            let sentence = match &content.upgrades {
                Upgrades::Real { imported, suite } => {
                    let size: u64 = imported.manifests.iter().map(|manifest| manifest.size()).sum();
                    format!(
                        "Fetched and verified {} real security upgrades from {suite} ({})",
                        imported.manifests.len(),
                        bytes(size)
                    )
                }
                Upgrades::Built { reason, .. } => {
                    format!("Built and signed 3 upgrades, since no real ones are to be had: {reason}")
                }
            };
            Ok((content, sentence))
        })?;
        let devices = steps.step("Installing the older versions", |_| {
            let devices = branch::make(&self.directory, &content, self.devices)?;
            let sentence = format!(
                "Installed {} older packages with dpkg into the root directories of {} devices",
                content.older.len(),
                devices.len()
            );
            Ok((devices, sentence))
        })?;
        let headquarters = steps.step("Starting headquarters", |_| {
            let (headquarters, made) =
                Headquarters::start(&self.directory, &content, self.speed, &self.children)?;
            let sentence = format!(
                "Made fleet {} and started its headquarters behind a WAN of {}/{} Mbit/s",
                &made.fleet.to_string()[..8],
                self.speed.down,
                self.speed.up
            );
            Ok((headquarters, sentence))
        })?;
        let decided = steps.step("Publishing", |_| {
            let decided = headquarters.publish(content)?;
            let sentence = format!(
                "Published {} patches: {} approved, 1 left without approval, 1 that its vendor did not sign",
                decided.approved.len() + 2,
                decided.approved.len()
            );
            Ok((decided, sentence))
        })?;
        let before = self.join(&steps, &headquarters, &devices)?;
        let told = self.deploy(&steps, &headquarters, &devices, &decided)?;
        let seen = self.report(&steps, &headquarters, &devices)?;
        let wan = self.settled(&headquarters)?;
        let figures = Figures::new(&told, &decided, &wan, &before, seen, began.elapsed(), headquarters.http);
        self.show(&figures)?;
        Ok(figures.exit())
    }

    /// Lets every device join, and gives what the WAN had carried by then.
    fn join(
        &self,
        steps: &Steps,
        headquarters: &Headquarters,
        devices: &[Device],
    ) -> Result<Counters, Failure> {
        let all = devices.len();
        steps.step("Joining", |progress| {
            let uses = u32::try_from(all).unwrap_or(u32::MAX);
            let site = SiteName::new(SITE).map_err(|error| Failure::of(Exit::Failed, &error))?;
            let mut registrar = Client::connect(&headquarters.socket)?;
            let token = create_token(&mut registrar, &site, Class::Workstation, uses, now()?.plus_days(1))?;
            let key = ActivationKey::parse(&token.activation_key)
                .map_err(|error| Failure::of(Exit::Failed, &error))?;
            for (number, device) in devices.iter().enumerate() {
                progress.say(format!("Joining: {number} of {all} devices"));
                device.join(&key)?;
            }
            Ok(((), format!("{all} devices joined site {SITE} with one activation key")))
        })?;
        self.settled(headquarters)
    }

    fn deploy(
        &self,
        steps: &Steps,
        headquarters: &Headquarters,
        devices: &[Device],
        decided: &Decided,
    ) -> Result<Vec<(String, Told)>, Failure> {
        let all = devices.len();
        steps.step("Starting the branch", |_| {
            devices.iter().try_for_each(|device| device.start(&self.children))?;
            devices.iter().try_for_each(|device| device.ready(&self.children))?;
            Ok(((), format!("Started {all} nodes in the same second")))
        })?;
        steps.step("Scanning, fetching, verifying, sharing, deploying", |progress| {
            let began = Instant::now();
            let mut view = String::new();
            let told = until("every device has deployed", DEPLOY, &self.children, || {
                let told = ask_all(devices)?;
                let carried = Counters::read(&headquarters.counters).map_or(0, |wan| wan.down_bytes);
                let lines: Vec<String> = told.iter().map(|(host, told)| told.line(host)).collect();
                view = format!(
                    "Deploying; the WAN has carried {} down\n  {}",
                    bytes(carried),
                    lines.join("\n  ")
                );
                progress.say(view.clone());
                let ended = told.len() == all && told.iter().all(|(_, told)| told.has_ended(&decided.approved));
                Ok(ended.then_some(told))
            });
            let told = told.map_err(|failure| match failure.hint {
                Some(_) => failure,
                None => failure.with_hint(view),
            })?;
            let installed = told.iter().flat_map(|(_, told)| &told.status.deployments);
            let installed = installed.filter(|deployment| deployment.state == "installed").count();
            let sentence = format!(
                "{all} devices scanned, fetched, verified, shared and installed: {installed} installations in {:.1} s",
                began.elapsed().as_secs_f64()
            );
            Ok((told, sentence))
        })
    }

    /// Waits until the aggregator has every report, and gives the number of devices that it knows.
    fn report(
        &self,
        steps: &Steps,
        headquarters: &Headquarters,
        devices: &[Device],
    ) -> Result<usize, Failure> {
        let all = devices.len();
        steps.step("Reporting", |_| {
            until("every report is at the aggregator", REPORT, &self.children, || {
                let told = ask_all(devices)?;
                let kept = |told: &Told| told.status.outbox.last > 0 && told.status.outbox.waiting == 0;
                Ok((told.len() == all && told.iter().all(|(_, told)| kept(told))).then_some(()))
            })?;
            let rows = http_rows(headquarters.http, "/api/v1/devices?limit=100")?;
            let branch = rows.iter().filter(|row| row["site"] == SITE).count();
            Ok((branch, format!("The aggregator has the signed reports of {branch} devices")))
        })
    }

    /// The counters of the WAN once they are written: the emulator writes them ten times a second.
    fn settled(&self, headquarters: &Headquarters) -> Result<Counters, Failure> {
        std::thread::sleep(Duration::from_millis(250));
        Counters::read(&headquarters.counters).map_err(|error| Failure::of(Exit::Failed, &error))
    }

    fn show(&self, figures: &Figures) -> Result<(), Failure> {
        match self.printer.output() {
            Output::Json => self.printer.object(figures.to_object())?,
            Output::Text => self.printer.text(&table::render(figures))?,
        }
        if self.stay {
            self.printer.message(&format!(
                "\nDashboard: http://{}/\nThe demo stays up until Ctrl-C.",
                figures.dashboard
            ));
        }
        Ok(())
    }
}

/// What every device says, those that can.
fn ask_all(devices: &[Device]) -> Result<Vec<(String, Told)>, Failure> {
    let mut told = Vec::new();
    for device in devices {
        told.extend(device.ask()?.map(|answer| (device.host.clone(), answer)));
    }
    Ok(told)
}
