//! `patchmesh token`: activation keys for new devices.

use super::Socket;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, table};
use clap::{Args, Subcommand, ValueEnum};
use node::control::{Client, ClientError, answer};
use protocol::identifier::SiteName;
use protocol::limits;
use protocol::time::WallTime;
use std::time::{Duration, Instant};

/// How long a registrar has after its start to read the fleet's sites.
const START: Duration = Duration::from_secs(5);
/// How long to wait before it is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// Activation keys for new devices
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make an activation key, which is shown once
    Create(Create),
    /// List the activation keys that still count
    List(List),
    /// End an activation key that got lost or is not needed any more
    Revoke(Revoke),
}

/// Make an activation key, which is shown once
#[derive(Args, Debug)]
#[command(after_help = "\
Run it where the registrar runs. The site must be one of the fleet's (exit code 2 otherwise, with their names). The registrar keeps only the hash of the key's secret. The control socket of a \
headquarters that `patchmesh fleet init` made is HEADQUARTERS/control.socket.

Example:
  patchmesh token create --site utrecht --class workstation --uses 25 --days 7
  patchmesh token create --site utrecht --socket /srv/patchmesh/headquarters/control.socket")]
pub struct Create {
    /// Home site of the devices that it enrols
    #[arg(long)]
    site: SiteName,
    /// Class of the devices that it enrols
    #[arg(long, value_enum, default_value_t = Class::Workstation)]
    class: Class,
    /// How many devices it enrols, at most
    #[arg(long, value_name = "COUNT", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::TOKEN_USES)))]
    uses: u32,
    /// Days until it expires
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=365))]
    days: u32,
    #[command(flatten)]
    socket: Socket,
}

/// List the activation keys that still count
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  patchmesh token list")]
pub struct List {
    #[command(flatten)]
    socket: Socket,
}

/// End an activation key that got lost or is not needed any more
#[derive(Args, Debug)]
#[command(after_help = "\
Nobody joins with it from then on. Devices that joined with it before stay members; a device that nobody knows of has to be \
revoked by itself.

Example:
  patchmesh token list
  patchmesh token revoke 0a1b2c3d")]
pub struct Revoke {
    /// The key, by its name in the list: 8 hexadecimal digits, which are no secret
    key: String,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Class {
    Server,
    Workstation,
}

impl From<Class> for protocol::membership::Class {
    fn from(class: Class) -> protocol::membership::Class {
        match class {
            Class::Server => protocol::membership::Class::Server,
            Class::Workstation => protocol::membership::Class::Workstation,
        }
    }
}

impl Token {
    pub fn run(self, printer: Printer) -> Outcome {
        match self {
            Token::Create(create) => {
                let expires = now()?.plus_days(create.days);
                let mut client = create.socket.connect()?;
                let new = create_token(&mut client, &create.site, create.class.into(), create.uses, expires)?;
                let shown = printer.data("token", &new, |new| format!("{}\n", new.activation_key));
                shown.map_err(|failure| unseen(failure, &new.token))?;
                printer.message(&format!(
                    "Enrols {} in {} until {}. It is shown this once; should it get lost, `patchmesh token revoke {}` ends it.\n\
                     On the device: patchmesh join KEY",
                    devices(new.token.uses_left),
                    new.token.site,
                    new.token.expires,
                    new.token.id
                ));
            }
            Token::Revoke(revoke) => {
                let token = revoke.socket.connect()?.revoke_token(revoke.key)?;
                printer.data("token", &token, |token| {
                    format!(
                        "Revoked {}, which could enrol {} more in {}.\n",
                        token.id,
                        devices(token.uses_left),
                        token.site
                    )
                })?;
            }
            Token::List(list) => {
                let tokens = list.socket.connect()?.tokens()?;
                printer.data("tokens", &tokens, |tokens| render(tokens))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn devices(count: u32) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

/// A key that nobody saw counts all the same.
fn unseen(failure: Failure, token: &answer::Token) -> Failure {
    let answer::Token { id, expires, .. } = token;
    failure.with_hint(format!(
        "activation key {id} was made and cannot be shown again; nobody can use it, and it ends by itself at {expires}, or now with \
         `patchmesh token revoke {id}`: make another one where its output can be written"
    ))
}

/// Makes an activation key. A registrar that has just started reads the fleet's sites first: it is asked until it has.
///
/// # Errors
/// The registrar refuses, or does not answer.
pub fn create_token(
    client: &mut Client,
    site: &SiteName,
    class: protocol::membership::Class,
    uses: u32,
    expires: WallTime,
) -> Result<answer::NewToken, ClientError> {
    let until = Instant::now() + START;
    loop {
        match client.create_token(site.clone(), class, uses, expires) {
            Err(ClientError::Failure(failure)) if failure.code == "no-sites" && Instant::now() < until => {
                std::thread::sleep(AGAIN);
            }
            made => return made,
        }
    }
}

fn render(tokens: &[answer::Token]) -> String {
    if tokens.is_empty() {
        return "No activation key counts any more.\n".to_owned();
    }
    let rows = tokens.iter().map(|token| {
        vec![
            token.id.clone(),
            token.site.to_string(),
            token.class.to_string(),
            token.uses_left.to_string(),
            token.expires.to_string(),
        ]
    });
    table(&["KEY", "SITE", "CLASS", "USES LEFT", "EXPIRES"], &[3], &rows.collect::<Vec<_>>())
}

/// The wall clock.
pub fn now() -> Result<WallTime, Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_err(|error| {
        Failure::of(Exit::Failed, &error).with_hint("the clock of this machine is before 1970; set it")
    })?;
    Ok(WallTime::from_unix_seconds(seconds.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::NOW;

    #[test]
    fn tokens_stand_in_a_table() {
        let token = answer::Token {
            id: "0a1b2c3d".to_owned(),
            site: SiteName::new("utrecht").expect("site"),
            class: protocol::membership::Class::Workstation,
            uses_left: 24,
            expires: NOW,
        };
        insta::assert_snapshot!(render(&[token]));
    }
}
