//! The origins of one seed, driven without a network of nodes, against the real servers.

use anyhow::{Context as _, Result};
use node::configuration::Configuration;
use node::content::ContentStore;
use node::origin::{News, Origins};
use node::store::{MemoryStore, Store};
use protocol::digest::Blake3Root;
use protocol::identifier::{ManifestDigest, PatchId};
use protocol::manifest::{
    Artifact, Content, Detection, Evidence, Installer, Kind, Manifest, Reboot, SCHEMA, Severity,
};
use protocol::piece::{CheckedPiece, PieceIndex};
use protocol::reason::Reason;
use protocol::version::DebianVersion;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One seed's origins.
pub struct Seed {
    pub origins: Arc<Origins>,
    pub content: Arc<ContentStore>,
    pub news: mpsc::Receiver<News>,
    stop: CancellationToken,
}

impl Seed {
    /// A seed with its state in `directory`/`name` whose configuration has these lines after `[seed]`.
    pub fn start(directory: &Path, name: &str, lines: &str) -> Result<Seed> {
        Seed::with_store(directory, name, lines, Arc::new(MemoryStore::default()))
    }

    /// The same with room for so many bytes of copies.
    pub fn keeping(directory: &Path, name: &str, lines: &str, bytes: u64) -> Result<Seed> {
        let mut configuration = configure(directory, name, lines)?;
        configuration.seed.as_mut().context("it is a seed")?.keep_bytes = bytes;
        Seed::open(&configuration, Arc::new(MemoryStore::default()))
    }

    /// The same with what a seed before it knew.
    pub fn with_store(directory: &Path, name: &str, lines: &str, store: Arc<dyn Store>) -> Result<Seed> {
        Seed::open(&configure(directory, name, lines)?, store)
    }

    fn open(configuration: &Configuration, store: Arc<dyn Store>) -> Result<Seed> {
        let content = Arc::new(ContentStore::open(
            configuration.node.directory.join("content"),
            1 << 40,
            store.clone(),
        )?);
        let (sender, news) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let origins = Origins::open(configuration, &content, &store, sender, stop.clone())?;
        let origins = origins.context("the configuration names an origin")?;
        tokio::spawn(Arc::clone(&origins).run());
        Ok(Seed { origins, content, news, stop })
    }

    /// Waits until an origin has the content.
    pub async fn finds(&mut self, root: Blake3Root) -> Result<()> {
        let found = async {
            while let Some(news) = self.news.recv().await {
                if matches!(&news, News::Found(tree) if tree.root() == root) {
                    return Ok(());
                }
            }
            anyhow::bail!("the seed ended")
        };
        tokio::time::timeout(Duration::from_secs(60), found).await.context("no origin has it")?
    }

    /// Waits until no origin has the content any more.
    pub async fn loses(&mut self, root: Blake3Root) -> Result<()> {
        let lost = async {
            while let Some(news) = self.news.recv().await {
                if matches!(&news, News::Gone(tree) if tree.root() == root) {
                    return Ok(());
                }
            }
            anyhow::bail!("the seed ended")
        };
        tokio::time::timeout(Duration::from_secs(60), lost).await.context("an origin has it still")?
    }

    /// Waits until an origin is blamed, and says for what.
    pub async fn blames(&mut self) -> Result<String> {
        let wrong = async {
            while let Some(news) = self.news.recv().await {
                if let News::Wrong { detail, .. } = news {
                    return Ok(detail);
                }
            }
            anyhow::bail!("the seed ended")
        };
        tokio::time::timeout(Duration::from_secs(60), wrong).await.context("nobody is blamed")?
    }

    /// Waits until no origin has other bytes in place of the content any more.
    pub async fn rights(&mut self, root: Blake3Root) -> Result<()> {
        let right = async {
            while let Some(news) = self.news.recv().await {
                if matches!(&news, News::Right(other) if *other == root) {
                    return Ok(());
                }
            }
            anyhow::bail!("the seed ended")
        };
        tokio::time::timeout(Duration::from_secs(60), right).await.context("it is wrong still")?
    }

    /// A piece, or why it does not come.
    pub async fn piece(&self, root: Blake3Root, index: u32) -> Result<Arc<CheckedPiece>, Reason> {
        match self.origins.piece(root, PieceIndex(index)) {
            Some(coming) => coming.await,
            None => Err(Reason::NoPieces),
        }
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn configure(directory: &Path, name: &str, lines: &str) -> Result<Configuration> {
    let place = directory.join(name);
    fs::create_dir_all(place.join("repository"))?;
    fs::create_dir_all(place.join("keys"))?;
    let file = place.join("patchmesh.toml");
    let head = "[node]\ndirectory = \"state\"\n[seed]\nrepository = \"repository\"\nkeys = \"keys\"\n";
    fs::write(&file, format!("{head}{lines}"))?;
    let configuration = Configuration::load(Some(&file), [], &[])?;
    fs::create_dir_all(&configuration.node.directory)?;
    Ok(configuration)
}

/// A manifest with one artifact that has these bytes and is called `name`.
pub fn manifest(name: &str, bytes: &[u8]) -> Result<(ManifestDigest, Arc<Manifest>)> {
    let manifest = Manifest {
        schema: SCHEMA,
        patch: PatchId::new(format!("acme/{name}=2.0"))?,
        title: name.to_owned(),
        kind: Kind::Update,
        severity: Severity::Unknown,
        cves: Vec::new(),
        published: None,
        targets: Vec::new(),
        detection: Detection::DebianPackage {
            package: name.to_owned(),
            architecture: "all".to_owned(),
            version: DebianVersion::new("2.0")?,
        },
        requires: Vec::new(),
        supersedes: Vec::new(),
        artifacts: vec![Artifact {
            name: format!("pool/{name}_2.0_all.deb"),
            content: Content::of(bytes),
            evidence: Evidence::None {},
        }],
        installer: Installer::Dpkg,
        reboot: Reboot::Never,
    };
    Ok((manifest.digest(), Arc::new(manifest)))
}

/// Bytes of so many pieces and a few more, each piece another one.
pub fn bytes(pieces: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..pieces << 18).flat_map(u32::to_le_bytes).collect();
    bytes.extend_from_slice(b"the end");
    bytes
}

/// Puts a file into a seed's own content, as `fleet publish` does.
pub fn import(seed: &Seed, directory: &Path, bytes: &[u8]) -> Result<Blake3Root> {
    let file = directory.join("file");
    fs::write(&file, bytes)?;
    Ok(seed.content.import_file(&file)?.root)
}
