//! One layer of settings with the place of each value, and how a later layer covers it.

use super::spelling::nearest;
use super::{Bad, Origin};
use protocol::rate::Rate;
use protocol::text::shown;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// A table of a role: its presence alone says something.
#[derive(Clone, Debug)]
pub(super) struct Role<T> {
    pub(super) origin: Origin,
    pub(super) table: T,
}

/// What a setting's value looks like.
trait Value: Sized {
    const EXPECTED: &'static str;
    fn from_toml(value: &DeValue<'_>) -> Option<Self>;
    fn from_text(text: &str) -> Option<Self>;
}

impl Value for String {
    const EXPECTED: &'static str = "text in quotes";
    fn from_toml(value: &DeValue<'_>) -> Option<String> {
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }
    fn from_text(text: &str) -> Option<String> {
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Value for u64 {
    const EXPECTED: &'static str = "a whole number";
    fn from_toml(value: &DeValue<'_>) -> Option<u64> {
        let number = value.as_integer()?;
        u64::from_str_radix(number.as_str(), number.radix()).ok()
    }
    fn from_text(text: &str) -> Option<u64> {
        text.parse().ok()
    }
}

impl Value for Rate {
    const EXPECTED: &'static str = "a rate of at least 64 kbit/s in quotes, such as \"20 Mbit/s\"";
    fn from_toml(value: &DeValue<'_>) -> Option<Rate> {
        Rate::from_text(value.as_str()?)
    }
    fn from_text(text: &str) -> Option<Rate> {
        text.parse().ok().filter(|rate: &Rate| !rate.is_nothing())
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_toml(value: &DeValue<'_>) -> Option<bool> {
        value.as_bool()
    }
    fn from_text(text: &str) -> Option<bool> {
        text.parse().ok()
    }
}

impl Value for Vec<String> {
    const EXPECTED: &'static str = "a list of texts such as [\"/ip4/10.0.0.2/tcp/7700\"]";
    fn from_toml(value: &DeValue<'_>) -> Option<Vec<String>> {
        let entries = value.as_array()?;
        entries.iter().map(|entry| String::from_toml(entry.get_ref())).collect()
    }
    fn from_text(text: &str) -> Option<Vec<String>> {
        Some(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }
}

/// Declares one table: its settings, how a value of the file and how a value of text is put in.
macro_rules! table {
    ($table:ident { $($field:ident: $type:ty = $name:literal),+ $(,)? }) => {
        #[derive(Clone, Debug, Default)]
        pub(super) struct $table {
            $(pub(super) $field: Option<Located<$type>>,)+
        }

        impl $table {
            const SETTINGS: &'static [&'static str] = &[$($name),+];

            fn put_toml(&mut self, name: &str, value: &DeValue<'_>) -> Result<(), Problem> {
                match name {
                    $($name => {
                        let value = <$type as Value>::from_toml(value).ok_or(Problem::Expected(<$type as Value>::EXPECTED))?;
                        self.$field = Some(Located { value, origin: Origin::Default });
                    })+
                    _ => return Err(Problem::Unknown),
                }
                Ok(())
            }

            fn put_text(&mut self, name: &str, text: &str) -> Result<(), Problem> {
                match name {
                    $($name => {
                        let value = <$type as Value>::from_text(text).ok_or(Problem::Expected(<$type as Value>::EXPECTED))?;
                        self.$field = Some(Located { value, origin: Origin::Default });
                    })+
                    _ => return Err(Problem::Unknown),
                }
                Ok(())
            }

            fn set_origin(&mut self, name: &str, origin: &Origin) {
                match name {
                    $($name => if let Some(located) = &mut self.$field { located.origin = origin.clone(); })+
                    _ => {}
                }
            }
        }
    };
}

table!(NodeTable {
    directory: String = "directory",
    listen: Vec<String> = "listen",
    external: Vec<String> = "external",
    control_socket: String = "control-socket",
    root: String = "root",
    allow_deploy_on_host: bool = "allow-deploy-on-host",
    mdns: bool = "mdns",
    link: String = "link",
    download_limit: Rate = "download-limit",
    upload_limit: Rate = "upload-limit",
    keep_gibibytes: u64 = "keep-gibibytes",
    log: String = "log",
    log_format: String = "log-format",
});
table!(SeedTable {
    repository: String = "repository",
    keys: String = "keys",
    mirrors: Vec<String> = "mirrors",
    keep_gibibytes: u64 = "keep-gibibytes",
    upload_limit: Rate = "upload-limit",
});
table!(BucketTable {
    name: String = "name",
    endpoint: String = "endpoint",
    region: String = "region",
    prefix: String = "prefix",
    credentials: String = "credentials",
});
table!(RegistrarTable { listen: Vec<String> = "listen", external: Vec<String> = "external", key: String = "key" });
table!(AggregatorTable { http: String = "http", names: Vec<String> = "names", watermark_key: String = "watermark-key" });

enum Problem {
    Unknown,
    Expected(&'static str),
}

const TABLES: &[&str] = &["node", "seed", "bucket", "registrar", "aggregator"];

/// All settings, each with its place.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub(super) node: NodeTable,
    pub(super) seed: Option<Role<SeedTable>>,
    pub(super) bucket: Option<Role<BucketTable>>,
    pub(super) registrar: Option<Role<RegistrarTable>>,
    pub(super) aggregator: Option<Role<AggregatorTable>>,
}

fn settings_of(table: &str) -> Option<&'static [&'static str]> {
    match table {
        "node" => Some(NodeTable::SETTINGS),
        "seed" => Some(SeedTable::SETTINGS),
        "bucket" => Some(BucketTable::SETTINGS),
        "registrar" => Some(RegistrarTable::SETTINGS),
        "aggregator" => Some(AggregatorTable::SETTINGS),
        _ => None,
    }
}

/// The setting that an environment variable stands for; `None` when it is not one of ours.
pub(super) fn setting_of_variable(name: &str) -> Result<Option<String>, Bad> {
    let Some(rest) = name.strip_prefix("PATCHMESH_") else { return Ok(None) };
    let rest = rest.to_ascii_lowercase().replace('_', "-");
    let Some((table, setting)) = rest.split_once('-') else { return Ok(None) };
    let Some(known) = settings_of(table) else { return Ok(None) };
    if known.contains(&setting) {
        return Ok(Some(format!("{table}.{setting}")));
    }
    let suggestion = nearest(setting, known).map(|name| {
        format!(
            "; did you mean PATCHMESH_{}?",
            format!("{table}_{name}").to_ascii_uppercase().replace('-', "_")
        )
    });
    let problem = format!("no such setting{}", suggestion.unwrap_or_default());
    Err(Bad::Value { origin: Origin::Environment(name.to_owned()), problem })
}

impl Layer {
    /// Reads the text of a file.
    pub(super) fn from_file(path: &Path, text: &str) -> Result<Layer, Bad> {
        let origin = |offset: usize| Origin::File(path.to_owned(), line_of(text, offset));
        let document = DeTable::parse(text).map_err(|error| {
            let origin = error.span().map_or(Origin::WholeFile(path.to_owned()), |span| origin(span.start));
            Bad::Value { origin, problem: format!("not TOML: {}", shown(error.message())) }
        })?;
        let mut layer = Layer::default();
        for (name, value) in document.get_ref() {
            let table_name: &str = name.get_ref();
            let at = origin(name.span().start);
            let Some(known) = settings_of(table_name) else {
                return Err(unknown_table(table_name, at));
            };
            let Some(table) = value.get_ref().as_table() else {
                let problem =
                    format!("{table_name} is not a table; expected [{table_name}] on a line of its own");
                return Err(Bad::Value { origin: at, problem });
            };
            layer.open(table_name, &at);
            for (key, value) in table {
                let at = origin(key.span().start);
                let setting: &str = key.get_ref();
                let put = layer.put_toml(table_name, setting, value.get_ref());
                put.map_err(|problem| explain(problem, table_name, setting, known, at.clone()))?;
                layer.set_origin(table_name, setting, &at);
            }
        }
        Ok(layer)
    }

    /// Puts one value over what is there.
    pub(super) fn put(&mut self, setting: &str, value: &str, origin: &Origin) -> Result<(), Bad> {
        let (table, name) = setting.split_once('.').unwrap_or(("", setting));
        let Some(known) = settings_of(table) else { return Err(unknown_table(table, origin.clone())) };
        self.open(table, origin);
        let put = match table {
            "node" => self.node.put_text(name, value),
            "seed" => self.seed.as_mut().map_or(Ok(()), |role| role.table.put_text(name, value)),
            "bucket" => self.bucket.as_mut().map_or(Ok(()), |role| role.table.put_text(name, value)),
            "registrar" => self.registrar.as_mut().map_or(Ok(()), |role| role.table.put_text(name, value)),
            _ => self.aggregator.as_mut().map_or(Ok(()), |role| role.table.put_text(name, value)),
        };
        put.map_err(|problem| explain(problem, table, name, known, origin.clone()))?;
        self.set_origin(table, name, origin);
        Ok(())
    }

    /// Notes that a table is there.
    fn open(&mut self, table: &str, origin: &Origin) {
        let origin = origin.clone();
        match table {
            "seed" => drop(self.seed.get_or_insert_with(|| Role { origin, table: SeedTable::default() })),
            "bucket" => {
                self.bucket.get_or_insert_with(|| Role { origin, table: BucketTable::default() });
            }
            "registrar" => {
                self.registrar.get_or_insert_with(|| Role { origin, table: RegistrarTable::default() });
            }
            "aggregator" => {
                self.aggregator.get_or_insert_with(|| Role { origin, table: AggregatorTable::default() });
            }
            _ => {}
        }
    }

    fn put_toml(&mut self, table: &str, name: &str, value: &DeValue<'_>) -> Result<(), Problem> {
        match table {
            "node" => self.node.put_toml(name, value),
            "seed" => self.seed.as_mut().map_or(Ok(()), |role| role.table.put_toml(name, value)),
            "bucket" => self.bucket.as_mut().map_or(Ok(()), |role| role.table.put_toml(name, value)),
            "registrar" => self.registrar.as_mut().map_or(Ok(()), |role| role.table.put_toml(name, value)),
            _ => self.aggregator.as_mut().map_or(Ok(()), |role| role.table.put_toml(name, value)),
        }
    }

    fn set_origin(&mut self, table: &str, name: &str, origin: &Origin) {
        match table {
            "node" => self.node.set_origin(name, origin),
            "seed" => self.seed.iter_mut().for_each(|role| role.table.set_origin(name, origin)),
            "bucket" => self.bucket.iter_mut().for_each(|role| role.table.set_origin(name, origin)),
            "registrar" => self.registrar.iter_mut().for_each(|role| role.table.set_origin(name, origin)),
            _ => self.aggregator.iter_mut().for_each(|role| role.table.set_origin(name, origin)),
        }
    }
}

fn unknown_table(name: &str, origin: Origin) -> Bad {
    let hint = match nearest(name, TABLES) {
        Some(table) => format!("did you mean [{table}]?"),
        None => format!("expected one of [{}]", TABLES.join("], [")),
    };
    Bad::Value { origin, problem: format!("there is no table [{}]; {hint}", shown(name)) }
}

fn explain(problem: Problem, table: &str, setting: &str, known: &[&str], origin: Origin) -> Bad {
    let problem = match problem {
        Problem::Expected(expected) => format!("{table}.{setting} has a wrong value; expected {expected}"),
        Problem::Unknown => {
            let hint = match nearest(setting, known) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("expected one of {}", known.join(", ")),
            };
            format!("there is no setting {table}.{}; {hint}", shown(setting))
        }
    };
    Bad::Value { origin, problem }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset.min(text.len())).unwrap_or_default();
    before.iter().filter(|&&byte| byte == b'\n').count() + 1
}
