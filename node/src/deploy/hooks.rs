//! Looks for options in the machine's dpkg configuration that act outside a root directory.

use super::order::Refusal;
use std::fs;
use std::path::Path;

/// Options that run a program, or that move what dpkg reads and writes (dpkg(1)).
const OUTSIDE: [&str; 7] =
    ["pre-invoke", "post-invoke", "status-logger", "root", "instdir", "admindir", "force-script-chrootless"];

/// The first such option in `dpkg.cfg` and `dpkg.cfg.d` below `configuration` (normally `/etc/dpkg`). `log`
/// is not among them: the command line overrides it. A file that cannot be read hides nothing from us that dpkg,
/// with our rights, would see.
pub(super) fn find(configuration: &Path) -> Option<Refusal> {
    let mut files = vec![configuration.join("dpkg.cfg")];
    if let Ok(entries) = fs::read_dir(configuration.join("dpkg.cfg.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| is_configuration(path)));
    }
    files.sort();
    files.iter().find_map(find_in)
}

/// dpkg reads names of letters, digits, `_` and `-` only.
fn is_configuration(path: &Path) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.bytes().all(plain))
}

fn find_in(file: impl AsRef<Path>) -> Option<Refusal> {
    let file = file.as_ref();
    let bytes = fs::read(file).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().enumerate().find_map(|(index, line)| {
        let line = line.trim();
        let option = line.split(|char: char| char.is_whitespace() || char == '=').next()?;
        let option = option.trim_start_matches("--");
        let chrootless = option == "force" && line.contains("script-chrootless");
        (chrootless || OUTSIDE.contains(&option)).then(|| Refusal::HostHook {
            file: file.display().to_string(),
            line: index + 1,
            option: option.chars().take(80).collect(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_found_and_harmless_options_are_not() {
        let directory = tempfile::tempdir().expect("directory");
        let extra = directory.path().join("dpkg.cfg.d");
        fs::create_dir(&extra).expect("directory");
        fs::write(directory.path().join("dpkg.cfg"), "# pre-invoke=x\nno-debsig\nlog /var/log/dpkg.log\n")
            .expect("file");
        fs::write(extra.join("ignored.bak"), "pre-invoke=x\n").expect("file");
        assert_eq!(find(directory.path()), None);
        fs::write(extra.join("hook"), "\nforce-unsafe-io\n  pre-invoke \"touch x\"\n").expect("file");
        let found = find(directory.path()).expect("hook");
        assert!(matches!(&found, Refusal::HostHook { line: 3, option, .. } if option == "pre-invoke"));
        assert_eq!(found.code(), "host-hook");
    }
}
