//! The configuration as users write it, right and wrong.

use super::*;

fn load(
    text: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str, &str)],
) -> Result<Configuration, String> {
    let directory = tempfile::tempdir().expect("directory");
    std::fs::create_dir(directory.path().join("repository")).expect("directory");
    std::fs::create_dir(directory.path().join("keys")).expect("directory");
    std::fs::write(directory.path().join("key"), "").expect("key");
    let file = directory.path().join("patchmesh.toml");
    std::fs::write(&file, text).expect("write");
    let environment = environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let flags: Vec<Flag> = flags
        .iter()
        .map(|&(flag, setting, value)| Flag {
            flag: flag.to_owned(),
            setting: setting.to_owned(),
            value: value.to_owned(),
        })
        .collect();
    let shown = directory.path().display().to_string();
    Configuration::load(Some(&file), environment, &flags)
        .map_err(|error| error.to_string().replace(&format!("{shown}/"), ""))
}

const HEADQUARTERS: &str = r#"
[node]
directory = "state"
listen = ["/ip4/127.0.0.1/tcp/7700"]
external = ["/dns4/hq.example/tcp/443"]
control-socket = "control.socket"

[seed]
repository = "repository"
keys = "keys"

[registrar]
listen = ["/ip4/127.0.0.1/tcp/7701"]
key = "key"

[aggregator]
http = "127.0.0.1:0"
watermark-key = "key"
"#;

#[test]
fn an_empty_file_is_an_endpoint_with_defaults() {
    let configuration = load("", &[], &[]).expect("good");
    assert_eq!(configuration.node.root, Path::new("/"));
    assert_eq!(configuration.node.control_socket, Path::new(DEFAULT_CONTROL_SOCKET));
    assert!(configuration.node.mdns && !configuration.node.allow_deploy_on_host);
    // IPv4 and IPv6.
    assert_eq!(configuration.node.listen.len(), 2);
    assert!(
        configuration.seed.is_none()
            && configuration.registrar.is_none()
            && configuration.aggregator.is_none()
    );
}

#[test]
fn roles_are_on_when_their_table_is_there() {
    let configuration = load(HEADQUARTERS, &[], &[]).expect("good");
    let seed = configuration.seed.expect("seed");
    assert!(seed.repository.is_absolute() && seed.repository.ends_with("repository"));
    assert!(configuration.registrar.is_some() && configuration.aggregator.is_some());
}

#[test]
fn a_seed_says_where_its_content_lies() {
    let seed = "[seed]\nrepository = \"repository\"\nkeys = \"keys\"\n";
    let plain = load(seed, &[], &[]).expect("good");
    assert!(plain.bucket.is_none() && plain.seed.expect("seed").mirrors.is_empty());
    let more = "mirrors = [\"debian=https://user:secret@deb.example/debian\", \"acme=http://acme.example\"]\nkeep-gibibytes = 20\n\
                [bucket]\nname = \"patches\"\nendpoint = \"http://127.0.0.1:9000\"\ncredentials = \"key\"\n";
    let configuration = load(&format!("{seed}{more}"), &[], &[]).expect("good");
    assert!(!format!("{configuration:?}").contains("secret"));
    let (seed, bucket) = (configuration.seed.expect("seed"), configuration.bucket.expect("bucket"));
    assert_eq!((seed.mirrors.len(), seed.keep_bytes), (2, 20 << 30));
    assert_eq!(seed.mirrors[0].url, "https://user:secret@deb.example/debian");
    assert_eq!(
        (bucket.name.as_str(), bucket.region.as_str(), bucket.prefix.as_str()),
        ("patches", "us-east-1", "")
    );
    assert!(bucket.credentials.is_some_and(|file| file.is_absolute()));
}

#[test]
fn limits_are_rates() {
    let seed = "[seed]\nrepository = \"repository\"\nkeys = \"keys\"\nupload-limit = \"20 Mbit/s\"\n";
    let node = "[node]\nlink = \"metered\"\ndownload-limit = \"512 kbit/s\"\n";
    let environment = [("PATCHMESH_NODE_UPLOAD_LIMIT", "1 Gbit/s")];
    let configuration = load(&format!("{node}{seed}"), &environment, &[]).expect("good");
    assert_eq!(configuration.seed.expect("seed").upload_limit, Some(Rate::megabits(20)));
    let node = configuration.node;
    assert_eq!(
        (node.download_limit, node.upload_limit),
        (Some(Rate::kilobits(512)), Some(Rate::megabits(1_000)))
    );
    assert_eq!(node.link, Some(LinkCost::Metered));
}

#[test]
fn flags_cover_the_environment_which_covers_the_file() {
    let file = "[node]\nlog = \"warn\"\nmdns = true\n";
    let environment = [("PATCHMESH_NODE_LOG", "debug"), ("PATCHMESH_NODE_MDNS", "false"), ("HOME", "/")];
    let flags = [("--log", "node.log", "trace")];
    let configuration = load(file, &environment, &flags).expect("good");
    assert_eq!(configuration.node.log, "trace");
    assert!(!configuration.node.mdns);
    let configuration = load(file, &environment, &[]).expect("good");
    assert_eq!(configuration.node.log, "debug");
    let listen = [("PATCHMESH_NODE_LISTEN", "/ip4/127.0.0.1/tcp/1, /ip6/::1/tcp/2")];
    assert_eq!(load("", &listen, &[]).expect("good").node.listen.len(), 2);
}

#[test]
fn a_bad_value_is_named_with_file_line_and_what_was_expected() {
    let mut seen = Vec::new();
    for text in [
        "[node]\n\nlisen = []\n",
        "[node]\ncolour = 1\n",
        "[nodes]\n",
        "[node]\nmdns = \"yes\"\n",
        "[node]\nlisten = [\"10.0.0.2:7700\"]\n",
        "[node]\nlisten = [\"/ip4/10.0.0.2/udp/7700\"]\n",
        "[node]\nlog = \"loud\"\n",
        "[node]\nroot = \"/does/not/exist\"\n",
        "[node]\n[seed]\nrepository = \"repository\"\n",
        "[registrar]\nkey = \"gone\"\n",
        "[aggregator]\nwatermark-key = \"key\"\nnames = [\"hq.example:7780\"]\n",
        "[aggregator]\nwatermark-key = \"key\"\nhttp = \"localhost\"\n",
        "[node]\ndirectory = \n",
        "node = 3\n",
        "[bucket]\nname = \"patches\"\n",
        "[seed]\nrepository = \"repository\"\nkeys = \"keys\"\n[bucket]\nregion = \"x\"\n",
        "[seed]\nrepository = \"repository\"\nkeys = \"keys\"\n[bucket]\nname = \"Patches\"\n",
        "[seed]\nrepository = \"repository\"\nkeys = \"keys\"\n[bucket]\nname = \"abc\"\nendpoint = \"s3.example\"\n",
        "[seed]\nrepository = \"repository\"\nkeys = \"keys\"\nmirrors = [\"http://deb.example\"]\n",
        "[seed]\nrepository = \"repository\"\nkeys = \"keys\"\nkeep-gibibytes = 513\n",
        "[seed]\nrepository = \"repository\"\nkeys = \"keys\"\nkeep-gibibytes = \"much\"\n",
        "[seed]\nrepository = \"repository\"\nkeys = \"keys\"\nupload-limit = \"fast\"\n",
        "[node]\nupload-limit = \"nothing\"\n",
        "[node]\nlink = \"slow\"\n",
    ] {
        seen.push(load(text, &[], &[]).expect_err(text));
    }
    seen.push(load("", &[("PATCHMESH_NODE_LISEN", "x")], &[]).expect_err("environment"));
    seen.push(load("", &[("PATCHMESH_NODE_MDNS", "maybe")], &[]).expect_err("environment"));
    seen.push(load("", &[], &[("--root", "node.root", "/nowhere")]).expect_err("flag"));
    insta::assert_snapshot!(seen.join("\n"));
}

#[test]
fn a_missing_file_and_a_long_socket_path_are_named() {
    let missing = Configuration::load(Some(Path::new("/nowhere/patchmesh.toml")), [], &[]);
    assert!(matches!(missing, Err(Bad::Unreadable { .. })));
    let long = format!("[node]\ncontrol-socket = \"/{}\"\n", "x".repeat(120));
    assert!(load(&long, &[], &[]).expect_err("too long").contains("at most 107"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\]a-z=\"\\n. -]{0,80}") {
        let _ = Layer::from_file(Path::new("x"), &text);
    }
}

// What is typed counts from where it is typed, also when the file lies elsewhere.
#[test]
fn relative_paths_count_from_where_they_stand() {
    let here = std::env::current_dir().expect("a working directory");
    let flags = [("--directory", "node.directory", "elsewhere")];
    let environment = [("PATCHMESH_NODE_CONTROL_SOCKET", "run/socket")];
    let configuration = load("", &environment, &flags).expect("good");
    assert_eq!(configuration.node.directory, here.join("elsewhere"));
    assert_eq!(configuration.node.control_socket, here.join("run/socket"));
    let configuration = load("[node]\ndirectory = \"state\"\n", &[], &[]).expect("good");
    assert!(configuration.node.directory.ends_with("state"));
    assert!(!configuration.node.directory.starts_with(&here));
}
