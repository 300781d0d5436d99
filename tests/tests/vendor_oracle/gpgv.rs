//! `gpgv` as oracle: real keys by `gpg`, good and tampered release files, and our answer beside gpgv's.

use super::now;
use anyhow::{Context as _, Result, ensure};
use node::verify::certificate::Certificate;
use node::verify::openpgp::verify;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TEXT: &str = "Origin: Vendor\nSuite: stable\nCodename: bookworm\n- a line with a dash\n-another\n\
    trailing blanks  \t\nSHA256:\n 00 0 main/Packages\n";

/// A GnuPG home in a temporary directory; its agent ends with it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Result<Home> {
        let home = Home(tempfile::Builder::new().prefix("gpg").tempdir()?);
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700))?;
        Ok(home)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs gpg as if it were `days_ago`, and returns what it says.
    fn gpg(&self, days_ago: i64, arguments: &[&str], input: &str) -> Result<Vec<u8>> {
        use std::io::Write as _;
        let seconds = i64::try_from(now()?.unix_seconds())? - days_ago * 86_400;
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.path()).args(["--batch", "--yes", "--quiet", "--pinentry-mode"]);
        command.args(["loopback", "--passphrase", "", "--trust-model", "always"]);
        if days_ago != 0 {
            command.arg(format!("--faked-system-time={seconds}!"));
        }
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("gpg is needed for this test")?;
        child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "gpg {arguments:?}: {said}");
        Ok(output.stdout)
    }

    /// Makes a key `days_ago` and returns its fingerprint.
    fn key(&self, name: &str, algorithm: &str, usage: &str, expire: &str, days_ago: i64) -> Result<String> {
        let id = format!("{name} <{name}@vendor.example>");
        self.gpg(days_ago, &["--quick-gen-key", &id, algorithm, usage, expire], "")?;
        let listed = self.gpg(0, &["--with-colons", "--list-keys", &id], "")?;
        let listed = String::from_utf8(listed)?;
        let line = listed.lines().find(|line| line.starts_with("fpr:")).context("fingerprint")?;
        Ok(line.split(':').nth(9).context("fingerprint")?.to_owned())
    }

    fn sign(&self, days_ago: i64, keys: &[&str], more: &[&str], text: &str) -> Result<String> {
        let mut arguments = more.to_vec();
        for key in keys {
            arguments.extend(["--local-user", key]);
        }
        arguments.extend(["--clear-sign", "--output", "-"]);
        Ok(String::from_utf8(self.gpg(days_ago, &arguments, text)?)?)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ =
            Command::new("gpgconf").arg("--homedir").arg(self.path()).args(["--kill", "gpg-agent"]).status();
    }
}

/// gpgv's answer: the text when it took at least one signature and found none to be bad, as APT itself reads it.
fn gpgv(keyring: &Path, message: &str, scratch: &Path) -> Result<Option<String>> {
    let (file, text) = (scratch.join("message"), scratch.join("text"));
    std::fs::write(&file, message)?;
    let _ = std::fs::remove_file(&text);
    let output = Command::new("gpgv")
        .args(["--status-fd", "1", "--keyring"])
        .arg(keyring)
        .arg("--output")
        .arg(&text)
        .arg(&file)
        .output()
        .context("gpgv is needed for this test")?;
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    let says = |word: &str| status.lines().any(|line| line.split(' ').nth(1) == Some(word));
    let is_good =
        says("GOODSIG") && says("VALIDSIG") && !says("BADSIG") && !says("NODATA") && !says("UNEXPECTED");
    Ok(if is_good { Some(std::fs::read_to_string(&text)?) } else { None })
}

/// A message, and what both must say.
struct Case {
    name: &'static str,
    message: String,
    ours: &'static str,
    /// Why we refuse what gpgv takes; empty where both must agree.
    stricter: &'static str,
}

fn case(name: &'static str, message: &str, ours: &'static str) -> Case {
    Case { name, message: message.to_owned(), ours, stricter: "" }
}

fn stricter(name: &'static str, message: &str, ours: &'static str, why: &'static str) -> Case {
    Case { name, message: message.to_owned(), ours, stricter: why }
}

/// Replaces the first `from`, and makes sure that there was one.
fn change(message: &str, from: &str, to: &str) -> Result<String> {
    ensure!(message.contains(from), "no {from:?} in the message");
    Ok(message.replacen(from, to, 1))
}

fn framed_cases(good: &str) -> Result<Vec<Case>> {
    let one_message = "one file, one message: what stands around it would be read by somebody";
    let begin = "-----BEGIN PGP SIGNATURE-----\n\n";
    let at = good.find(begin).context("signature")? + begin.len() + 40;
    let (head, tail) = good.split_at(at);
    let other = if tail.starts_with('A') { "B" } else { "A" };
    let flipped_signature = format!("{head}{other}{}", &tail[1..]);
    Ok(vec![
        case("good", good, "good"),
        case("line ends of another system", &good.replace('\n', "\r\n"), "good"),
        case("blanks at a line end", &change(good, "Suite: stable", "Suite: stable  ")?, "good"),
        case("changed text", &change(good, "stable", "evil")?, "bad-signature"),
        case("a line more", &change(good, "Codename", "Extra: x\nCodename")?, "bad-signature"),
        case("a line less", &change(good, "Codename: bookworm\n", "")?, "bad-signature"),
        case("an empty line more", &change(good, "Codename", "\nCodename")?, "bad-signature"),
        case("changed signature", &flipped_signature, "malformed"),
        case("no signature", good.split("-----BEGIN PGP SIGNATURE").next().unwrap_or_default(), "malformed"),
        case("nothing", "", "malformed"),
        case("only text", TEXT, "malformed"),
        case("no digest announced", &change(good, "Hash: SHA512\n", "")?, "weak-digest"),
        case(
            "text among the headers",
            &change(good, "Hash: SHA512\n", "Hash: SHA512\nSuite: evil\n")?,
            "malformed",
        ),
        stricter("text before", &format!("Suite: evil\n\n{good}"), "malformed", one_message),
        stricter("text after", &format!("{good}\nSuite: evil\n"), "malformed", one_message),
        stricter("two messages", &format!("{good}{good}"), "malformed", one_message),
    ])
}

/// Whatever byte is changed: what we take, gpgv takes, with the same text.
fn flipped_bytes(good: &str, certificates: &[Certificate], keyring: &Path, scratch: &Path) -> Result<()> {
    for at in (0..good.len()).step_by(good.len() / 60 + 1) {
        let mut bytes = good.as_bytes().to_vec();
        bytes[at] ^= 0x20;
        let Ok(signed) = verify(&bytes, certificates, now()?) else { continue };
        let text = gpgv(keyring, &String::from_utf8(bytes)?, scratch)?;
        let text = text.with_context(|| format!("byte {at}: we take what gpgv refuses"))?;
        ensure!(text.lines().map(str::trim_end).eq(signed.text().lines()), "byte {at}: another text");
    }
    Ok(())
}

// proves N8
#[test]
fn we_answer_as_gpgv_does_or_stricter_by_design() -> Result<()> {
    let home = Home::new()?;
    let good = home.key("good", "ed25519", "sign", "never", 100)?;
    let rsa = home.key("rsa", "rsa2048", "cert", "never", 100)?;
    home.gpg(100, &["--quick-add-key", &rsa, "rsa2048", "sign", "never"], "")?;
    let small = home.key("small", "rsa1024", "sign", "never", 100)?;
    let dsa = home.key("dsa", "dsa2048", "sign", "never", 100)?;
    let curve = home.key("curve", "nistp256", "sign", "never", 100)?;
    let expired = home.key("expired", "ed25519", "sign", "10d", 100)?;
    let revoked = home.key("revoked", "ed25519", "sign", "never", 100)?;
    let by_revoked = home.sign(50, &[&revoked], &[], TEXT)?;
    let revocation = home.path().join(format!("openpgp-revocs.d/{revoked}.rev"));
    let revocation = std::fs::read_to_string(revocation)?.replace(":-----BEGIN", "-----BEGIN");
    home.gpg(0, &["--import"], &revocation)?;
    let stranger = home.key("stranger", "ed25519", "sign", "never", 100)?;

    let trusted = [&good, &rsa, &small, &dsa, &curve, &expired, &revoked];
    let names: Vec<&str> = ["--export"].into_iter().chain(trusted.iter().map(|key| key.as_str())).collect();
    let keyring_bytes = home.gpg(0, &names, "")?;
    let keyring: PathBuf = home.path().join("trusted.gpg");
    std::fs::write(&keyring, &keyring_bytes)?;
    let certificates = Certificate::parse_keyring(&keyring_bytes)?;
    ensure!(certificates.len() == trusted.len(), "{} certificates", certificates.len());

    let mut cases = framed_cases(&home.sign(0, &[&good], &["--digest-algo", "SHA512"], TEXT)?)?;
    let sha1 = ["--digest-algo", "SHA1"];
    let expiring = ["--default-sig-expire", "2d"];
    cases.extend([
        case("a signing subkey", &home.sign(0, &[&rsa], &[], TEXT)?, "good"),
        case("an elliptic curve", &home.sign(0, &[&curve], &[], TEXT)?, "good"),
        case("an old signature", &home.sign(90, &[&good], &[], TEXT)?, "good"),
        case("an empty text", &home.sign(0, &[&good], &[], "")?, "good"),
        case("a text without a last line end", &home.sign(0, &[&good], &[], "Suite: stable")?, "good"),
        case("a stranger", &home.sign(0, &[&stranger], &[], TEXT)?, "no-trusted-signer"),
        case("a stranger and a good one", &home.sign(0, &[&stranger, &good], &[], TEXT)?, "good"),
        case("two good ones", &home.sign(0, &[&rsa, &good], &[], TEXT)?, "good"),
        case("a revoked key", &by_revoked, "key-revoked"),
        case("an expired key", &home.sign(95, &[&expired], &[], TEXT)?, "key-expired"),
        case("an expired signature", &home.sign(50, &[&good], &expiring, TEXT)?, "signature-expired"),
        stricter("SHA-1", &home.sign(0, &[&rsa], &sha1, TEXT)?, "weak-digest", "SHA-1 collides"),
        stricter("RSA of 1024 bits", &home.sign(0, &[&small], &[], TEXT)?, "weak-key", "it can be factored"),
        stricter("DSA", &home.sign(0, &[&dsa], &[], TEXT)?, "weak-key", "one bad nonce gives it away"),
        stricter(
            "a signature from tomorrow",
            &home.sign(-1, &[&good], &[], TEXT)?,
            "signature-in-future",
            "gpgv warns, and we would not know for how long it was ready",
        ),
    ]);
    let signed = home.sign(0, &[&rsa, &good], &[], TEXT)?;
    flipped_bytes(&signed, &certificates, &keyring, home.path())?;
    let mut wrong = Vec::new();
    for Case { name, message, ours, stricter } in cases {
        let oracle = gpgv(&keyring, &message, home.path())?;
        let found = verify(message.as_bytes(), &certificates, now()?);
        let code = found.as_ref().map_or_else(|refused| refused.code(), |_| "good");
        let agrees = oracle.is_some() == (code == "good");
        if code != ours || agrees != stricter.is_empty() {
            wrong.push(format!("{name}: we say {code} instead of {ours}, gpgv {}", oracle.is_some()));
        }
        if let (Ok(signed), Some(text)) = (&found, &oracle) {
            let blanks = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
            if blanks(signed.text()) != blanks(text) {
                wrong.push(format!("{name}: gpgv reads another text: {text:?}, we {:?}", signed.text()));
            }
        }
        println!("{name}: {code}, gpgv {}; {stricter}", oracle.is_some());
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
