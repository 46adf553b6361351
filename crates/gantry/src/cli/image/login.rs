//! `login` and `logout`.

use std::io::{BufRead, Read};

use clap::{ArgMatches, Command};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::super::Context;
use super::super::flags::{is_on, names, owned, switch, text, value, with_help};
use super::search::chain;
use crate::api::image::credentials::{CredentialSource, DockerFiles, Kept};
use crate::api::image::registry::{Client, ClientOptions, Credentials};
use crate::error::{CliError, Outcome};
use crate::{output, terminal};

/// What Docker Hub is called in the docker client's files.
const HUB: &str = "https://index.docker.io/v1/";

/// Longest password that is read from standard input, in bytes.
const PASSWORD: u64 = 64 << 10;

/// Arguments of `login`.
pub fn login_arguments(command: Command) -> Command {
    with_help(command)
        .args([
            value(
                "password",
                "string",
                "Password or Personal Access Token (PAT)",
            )
            .short('p'),
            switch(
                "password-stdin",
                "Take the Password or Personal Access Token (PAT) from stdin",
            ),
            value("username", "string", "Username").short('u'),
        ])
        .arg(names("names", 0).num_args(0..=1))
}

/// `login`: checks credentials with a registry and keeps them where the docker client does.
///
/// # Errors
/// Those of the flags, of the registry and of the files.
pub fn login(_context: &Context, matches: &ArgMatches) -> Outcome {
    let (registry, key) = server(owned(matches, "names").pop().as_deref());
    let from_stdin = is_on(matches, "password-stdin")?;
    let given = text(matches, "password").filter(|text| !text.is_empty());
    let username = text(matches, "username").filter(|text| !text.is_empty());
    if given.is_some() {
        output::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if from_stdin {
            return Err(CliError::Failed(
                "--password and --password-stdin are mutually exclusive".to_owned(),
            ));
        }
    }
    if from_stdin && username.is_none() {
        return Err(CliError::Failed(
            "Must provide --username with --password-stdin".to_owned(),
        ));
    }
    let files = files()?;
    let password = match given {
        Some(password) => Some(password.to_owned()),
        None if from_stdin => Some(password_from_stdin()?),
        None => None,
    };
    let credentials = match (username, password) {
        (Some(username), Some(password)) => Credentials {
            username: username.to_owned(),
            password,
            identity_token: None,
        },
        (username, password) => ask(username, password)?,
    };
    let options = ClientOptions {
        credentials: CredentialSource::Given(credentials.clone()),
        ..ClientOptions::default()
    };
    let failed = |text: String| CliError::Failed(format!("login to {registry} failed: {text}"));
    Client::new(&registry, &options)
        .and_then(|client| client.check_credentials())
        .map_err(|error| failed(chain(&error)))?;
    let kept = files
        .keep(&registry, &key, &credentials)
        .map_err(|error| failed(chain(&error)))?;
    if kept == Kept::File {
        output::note(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n",
            files.config.display()
        ));
    }
    output::line("Login Succeeded")?;
    Ok(0)
}

/// Arguments of `logout`.
pub fn logout_arguments(command: Command) -> Command {
    with_help(command).arg(names("names", 0).num_args(0..=1))
}

/// `logout`: forgets the credentials for a registry.
///
/// # Errors
/// Those of the files.
pub fn logout(_context: &Context, matches: &ArgMatches) -> Outcome {
    let (registry, key) = server(owned(matches, "names").pop().as_deref());
    let files = files()?;
    let had = files
        .forget(&registry, &key)
        .map_err(|error| CliError::Failed(format!("cannot log out: {}", chain(&error))))?;
    if had {
        output::line(&format!("Removing login credentials for {key}"))?;
    } else {
        output::line(&format!("Not logged in to {key}"))?;
    }
    Ok(0)
}

/// A registry as references name it, and its key in the docker client's files.
fn server(given: Option<&str>) -> (String, String) {
    let given = given.unwrap_or_default();
    let host = given
        .strip_prefix("https://")
        .or_else(|| given.strip_prefix("http://"))
        .unwrap_or(given);
    let host = host.split('/').next().unwrap_or_default();
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            ("docker.io".to_owned(), HUB.to_owned())
        }
        host => (host.to_owned(), host.to_owned()),
    }
}

fn files() -> Result<DockerFiles, CliError> {
    DockerFiles::of_environment(|name| std::env::var_os(name)).ok_or_else(|| {
        CliError::Failed(
            "neither DOCKER_CONFIG nor HOME is set: nowhere to keep credentials".into(),
        )
    })
}

fn password_from_stdin() -> Result<String, CliError> {
    let mut password = String::new();
    std::io::stdin()
        .lock()
        .take(PASSWORD)
        .read_to_string(&mut password)
        .map_err(|source| CliError::System {
            action: "cannot read the password from standard input",
            source,
        })?;
    let password = password.trim_end_matches(['\n', '\r']).to_owned();
    if password.is_empty() {
        return Err(CliError::Failed("password is empty".to_owned()));
    }
    Ok(password)
}

/// Asks on the terminal for what was not given.
fn ask(username: Option<&str>, password: Option<String>) -> Result<Credentials, CliError> {
    if !terminal::is_terminal(rustix::stdio::stdin()) {
        return Err(CliError::Failed(
            "Cannot perform an interactive login from a non TTY device".to_owned(),
        ));
    }
    let username = match username {
        Some(username) => username.to_owned(),
        None => {
            output::text("Username: ")?;
            line()?
        }
    };
    if username.is_empty() {
        return Err(CliError::Failed("username is required".to_owned()));
    }
    let password = match password {
        Some(password) => password,
        None => {
            output::text("Password: ")?;
            let silence = Silence::enter()?;
            let password = line();
            drop(silence);
            output::line("")?;
            password?
        }
    };
    if password.is_empty() {
        return Err(CliError::Failed("password is required".to_owned()));
    }
    Ok(Credentials {
        username,
        password,
        identity_token: None,
    })
}

fn line() -> Result<String, CliError> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|source| CliError::System {
            action: "cannot read from the terminal",
            source,
        })?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// A terminal that shows nothing of what is typed until this is dropped.
struct Silence(Termios);

impl Silence {
    fn enter() -> Result<Silence, CliError> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin, OptionalActions::Flush, &silent)?;
        Ok(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nobody could be told.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for (given, registry, key) in [
            (None, "docker.io", HUB),
            (Some("docker.io"), "docker.io", HUB),
            (Some(HUB), "docker.io", HUB),
            (Some("localhost:5000"), "localhost:5000", "localhost:5000"),
            (
                Some("https://example.com/v2/"),
                "example.com",
                "example.com",
            ),
        ] {
            assert_eq!(server(given), (registry.to_owned(), key.to_owned()));
        }
    }
}
