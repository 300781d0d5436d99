//! The dashboard in a real browser: what an administrator sees, and that nothing a device says becomes markup.

use anyhow::{Context as _, ensure};
use node::aggregate::{Server, SharedState};
use protocol::aggregate::{Listing, State};
use protocol::deploy;
use protocol::digest::Blake3Root;
use protocol::identifier::{DeviceId, FleetId, HostName, ManifestDigest, PatchId, SiteName};
use protocol::manifest::{Kind, Severity};
use protocol::membership::{Class, Member};
use protocol::reason::Reason;
use protocol::report::{
    Body, ContentKind, Deployment, Extent, Found, FoundPatch, Incident, IncidentKind, Inventory, Log,
    NetworkTotals, Scan, Source, Text, Transfer, Transfers,
};
use protocol::scan::Finding;
use protocol::signature::SigningKey;
use protocol::system::{Family, System};
use protocol::time::WallTime;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

const SCRIPT: &str = "<script>document.title='taken over'</script>";
const IMAGE: &str = "\"><img src=x onerror=\"document.title='taken over'\">";

const SSL: &str = "debian/libssl3=3.0.17-1~deb12u2";
const HEADERS: &str = "debian/linux-libc-dev=6.1.148-1";
const LZMA: &str = "debian/liblzma5=5.4.1-1+deb12u1";

/// The time of the pages: however long the browser takes, what was eight minutes ago stays so.
fn now() -> WallTime {
    WallTime::from_unix_seconds(1_800_000_000)
}

fn ago(seconds: u64) -> WallTime {
    WallTime::from_unix_seconds(now().unix_seconds() - seconds)
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

fn system() -> System {
    System {
        family: Family::Linux,
        distribution: "debian".to_owned(),
        release: "12".to_owned(),
        architecture: "amd64".to_owned(),
    }
}

fn member(number: u8, site: &str, host: &str) -> anyhow::Result<Member> {
    Ok(Member {
        fleet: FleetId::from_bytes([1; 32]),
        device: key(number).device(),
        site: SiteName::new(site)?,
        class: if number == 1 { Class::Server } else { Class::Workstation },
        system: system(),
        host: HostName::new(host)?,
        issued: ago(86_400),
        expires: now().plus_days(365),
    })
}

fn listing(title: &str, severity: Severity, approved: bool, size: u64, file: &str) -> Listing {
    Listing {
        manifest: ManifestDigest::from_bytes([1; 32]),
        title: title.to_owned(),
        kind: Kind::Security,
        severity,
        size,
        approved,
        held: false,
        files: vec![(Blake3Root::of(file.as_bytes()), file.to_owned())],
    }
}

fn listings() -> anyhow::Result<Vec<(PatchId, Listing)>> {
    let ssl = listing("Secure Sockets Layer toolkit", Severity::Critical, true, 2_030_912, "libssl3.deb");
    let headers =
        listing("Linux support headers", Severity::Important, true, 2_189_312, "linux-libc-dev.deb");
    let lzma = listing(&format!("XZ {SCRIPT} {IMAGE}"), Severity::Low, false, 205_952, "liblzma5.deb");
    Ok(vec![(PatchId::new(SSL)?, ssl), (PatchId::new(HEADERS)?, headers), (PatchId::new(LZMA)?, lzma)])
}

fn scan(findings: [Finding; 3]) -> anyhow::Result<Body> {
    let mut all = Vec::new();
    for (patch, finding) in [SSL, HEADERS, LZMA].into_iter().zip(findings) {
        let found = Found { finding, manifest: ManifestDigest::from_bytes([1; 32]), since: ago(900) };
        all.push(FoundPatch { patch: PatchId::new(patch)?, found });
    }
    Ok(Body::Scan(Scan { extent: Extent::Full, time: ago(840), findings: all }))
}

fn transfers(file: &str, size: u64, wan: u64) -> Body {
    let mut fetched = vec![(Source::Lan, Reason::Lease, size - wan)];
    fetched.extend((wan > 0).then_some((Source::Wan, Reason::Lease, wan)));
    let transfer = Transfer {
        root: Blake3Root::of(file.as_bytes()),
        size,
        kind: ContentKind::Artifact,
        fetched,
        served: 0,
    };
    let network =
        NetworkTotals { wan_in: wan + 60_000, wan_out: 20_000, metadata_wan: 12_000, metadata_lan: 0 };
    Body::Transfers(Transfers { contents: vec![transfer], network, served: Vec::new() })
}

fn deployment(
    patch: &str,
    state: deploy::State,
    reason: Option<Reason>,
    detail: &str,
) -> anyhow::Result<Body> {
    Ok(Body::Deployments(vec![Deployment {
        time: ago(600),
        patch: PatchId::new(patch)?,
        state,
        reason,
        attempts: 1,
        exit_code: Some(i32::from(reason.is_some())),
        detail: Text::new(detail),
    }]))
}

/// Bodies of one of the devices of the filled state; the fifth says whatever an attacker would.
fn bodies(number: u8) -> anyhow::Result<Vec<Body>> {
    use Finding::{Installed, Missing};
    let share = if number == 2 { 2_030_912 } else { 0 };
    let mut bodies = vec![
        transfers("libssl3.deb", 2_030_912, share),
        transfers("linux-libc-dev.deb", 2_189_312, if number == 3 { 2_189_312 } else { 0 }),
    ];
    let failed = number == 4 || number == 5;
    bodies.push(scan([if failed { Missing } else { Installed }, Installed, Missing])?);
    bodies.push(deployment(HEADERS, deploy::State::Installed, None, "")?);
    let (state, reason, detail) = match number {
        4 => (
            deploy::State::Failed,
            Some(Reason::DiskFull),
            "cannot copy extracted data: no space left on device",
        ),
        5 => (deploy::State::GivenUp, Some(Reason::RetriesExhausted), SCRIPT),
        _ => (deploy::State::Installed, None, ""),
    };
    bodies.push(deployment(SSL, state, reason, detail)?);
    if number == 5 {
        let named = System { distribution: SCRIPT.to_owned(), release: IMAGE.to_owned(), ..system() };
        bodies.push(Body::Inventory(Inventory {
            host: HostName::new("bern-hostile")?,
            system: named,
            version: Text::new(IMAGE),
            site: SiteName::new("bern")?,
            class: Class::Workstation,
        }));
        bodies.push(Body::Incidents(vec![Incident {
            time: ago(300),
            kind: IncidentKind::RefusedShare,
            reason: Some(Reason::Unsigned),
            patch: Some(PatchId::new(LZMA)?),
            peer: Some(DeviceId::from_bytes([7; 32])),
            detail: Text::new(&format!("{SCRIPT} asked for it")),
        }]));
    }
    Ok(bodies)
}

fn filled() -> anyhow::Result<SharedState> {
    let mut state = State::new(1);
    state.set_listings(listings()?.into_iter().collect());
    let hosts = ["utrecht-server", "utrecht-desk-1", "utrecht-desk-2", "bern-desk-1", "bern-desk-2"];
    for (number, host) in (1u8..).zip(hosts) {
        let site = if number <= 3 { "utrecht" } else { "bern" };
        let member = member(number, site, host)?;
        let mut log = Log::new(member.device, u64::from(number));
        for body in bodies(number)? {
            log.append(body, ago(500), &key(number))?;
        }
        for signed in log.pending(0, 64) {
            state.receive(&signed, &member, ago(480))?;
        }
    }
    state.join(&member(6, "bern", "bern-desk-3")?, ago(2 * 86_400));
    Ok(SharedState::with_clock(state, now))
}

/// What a browser makes of a page: the text of the document after loading, and a picture of it.
async fn browse(address: SocketAddr, screenshot: &Path, dark: bool) -> anyhow::Result<String> {
    let url = format!("http://{address}/");
    let picture = format!("--screenshot={}", screenshot.display());
    let mut shoot = vec!["--window-size=1440,3300", "--hide-scrollbars", &picture];
    shoot.extend(dark.then_some("--blink-settings=preferredColorScheme=0"));
    chromium(&shoot, &url).await?;
    let dom = chromium(&["--dump-dom"], &url).await?;
    Ok(dom)
}

async fn chromium(arguments: &[&str], url: &str) -> anyhow::Result<String> {
    let profile = tempfile::tempdir()?;
    let fixed = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--virtual-time-budget=2000",
    ];
    let child = Command::new("chromium")
        .args(fixed)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("chromium does not start; `make test-tools` installs it")?;
    let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output())
        .await
        .context("chromium did not load the page within two minutes")??;
    ensure!(output.status.success(), "chromium failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The text of a document without its tags, white space joined; entities stay as they are.
fn visible(dom: &str) -> String {
    let body = dom.split_once("<body>").map_or(dom, |(_, body)| body);
    let mut text = String::new();
    let mut inside = false;
    for letter in body.chars() {
        match letter {
            '<' => inside = true,
            '>' => {
                inside = false;
                text.push(' ');
            }
            other if !inside => text.push(other),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn serve(state: SharedState) -> anyhow::Result<SocketAddr> {
    let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), &[], Arc::new(state)).await?;
    let address = server.address();
    tokio::spawn(server.run(std::future::pending()));
    Ok(address)
}

// proves N20, N31
#[tokio::test]
async fn a_browser_shows_the_fleet_and_runs_nothing_that_devices_say() -> anyhow::Result<()> {
    let address = serve(filled()?).await?;
    let folder = tempfile::tempdir()?;
    // For whoever wants to look at the pictures.
    let kept = std::env::var_os("PATCHMESH_SCREENSHOTS");
    let place = kept.as_ref().map_or(folder.path(), Path::new);
    let dom = browse(address, &place.join("dashboard.png"), false).await?;
    chromium_dark(address, &place.join("dashboard-dark.png")).await?;
    let picture = std::fs::read(place.join("dashboard.png"))?;
    ensure!(picture.starts_with(b"\x89PNG") && picture.len() > 50_000, "the picture is empty");

    let text = visible(&dom);
    let expected = [
        "Compliance 50.0 %",
        "3 of 6 devices up to date 2 missing approved patches 1 never scanned",
        "utrecht-server",
        "bern-desk-3",
        "debian/libssl3=3.0.17-1~deb12u2 Secure Sockets Layer toolkit critical approved 2 of 6",
        "There is not enough disk space; free some, then it goes on by itself. disk-full",
        "cannot copy extracted data: no space left on device",
        "a patch was not shared refused-share",
        "libssl3.deb patch utrecht 2.03 MB 3 2.03 MB 4.06 MB 1.00",
        "2 days ago",
        "8 minutes ago",
    ];
    for words in expected {
        ensure!(text.contains(words), "the page does not show \"{words}\": {text}");
    }

    let hostile = format!("http://{address}/device/{}", key(5).device());
    let picture = format!("--screenshot={}", place.join("device.png").display());
    chromium(&["--window-size=1440,1100", "--hide-scrollbars", &picture], &hostile).await?;
    let device = chromium(&["--dump-dom"], &hostile).await?;
    for words in ["bern-hostile", "retries-exhausted", "&lt;script&gt;document.title"] {
        ensure!(visible(&device).contains(words), "the page of a device does not show \"{words}\"");
    }
    ensure!(
        !device.contains("<script") && !device.contains("<img"),
        "markup of a device became part of its page"
    );

    // Whatever devices and titles say stays text.
    ensure!(dom.contains("<title>Patchmesh fleet</title>"), "the title was changed");
    ensure!(!dom.contains("<script") && !dom.contains("<img"), "markup of a device became part of the page");
    ensure!(text.contains("&lt;script&gt;document.title"), "the hostile text is shown as text");
    Ok(())
}

async fn chromium_dark(address: SocketAddr, picture: &Path) -> anyhow::Result<()> {
    browse(address, picture, true).await.map(drop)
}

#[tokio::test]
async fn a_browser_shows_an_empty_fleet_with_the_next_step() -> anyhow::Result<()> {
    let address = serve(SharedState::new(State::new(1))).await?;
    let dom = chromium(&["--dump-dom"], &format!("http://{address}/")).await?;
    let text = visible(&dom);
    for words in
        ["No device has joined yet. Run patchmesh token create", "Nothing was fetched yet.", "Compliance –"]
    {
        ensure!(text.contains(words), "the page does not show \"{words}\": {text}");
    }
    Ok(())
}
