//! Keeping credentials where the docker client keeps them, and forgetting them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::lookup::{CredentialError, DockerFiles};
use super::{CONFIG_LIMIT, ConfigError, DockerConfig, Found, HUB_ADDRESSES, helper};
use crate::reference::DEFAULT_REGISTRY;
use crate::registry::Credentials;

/// Where credentials went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Into `config.json`, for everybody to read who can read that.
    File,
    /// To a credential helper.
    Helper,
}

impl DockerFiles {
    /// Keeps credentials for `registry` under `key`, by which the docker client finds them: with
    /// the helper that `config.json` names for it, or in that file, which has mode 0600 from then
    /// on and loses nothing that is not understood here.
    ///
    /// # Errors
    /// [`CredentialError`]; the file is as it was then.
    pub fn keep(
        &self,
        registry: &str,
        key: &str,
        credentials: &Credentials,
    ) -> Result<Kept, CredentialError> {
        let mut config = self.read_whole()?;
        let (kept, entry) = match self.helper_of(registry)? {
            Some(program) => {
                let secret = serde_json::json!({
                    "ServerURL": key,
                    "Username": credentials.username,
                    "Secret": credentials.password,
                });
                self.tell(&program, "store", &secret.to_string(), registry)?;
                (Kept::Helper, Value::Object(Map::new()))
            }
            None => {
                let pair = format!("{}:{}", credentials.username, credentials.password);
                (
                    Kept::File,
                    serde_json::json!({"auth": STANDARD.encode(pair)}),
                )
            }
        };
        let auths = config
            .entry("auths")
            .or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key.to_owned(), entry);
        }
        self.write_whole(&config)?;
        Ok(kept)
    }

    /// Forgets the credentials for a registry; whether there were any.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn forget(&self, registry: &str, key: &str) -> Result<bool, CredentialError> {
        let mut config = self.read_whole()?;
        let keys: Vec<String> = if registry == DEFAULT_REGISTRY {
            HUB_ADDRESSES.iter().map(|&key| key.to_owned()).collect()
        } else {
            vec![
                key.to_owned(),
                format!("https://{key}"),
                format!("http://{key}"),
                format!("https://{key}/"),
            ]
        };
        let mut had = false;
        if let Some(auths) = config.get_mut("auths").and_then(Value::as_object_mut) {
            for key in &keys {
                had |= auths.remove(key).is_some();
            }
        }
        if let Some(program) = self.helper_of(registry)? {
            // A helper that has nothing says so by failing.
            had |= self.tell(&program, "erase", key, registry).is_ok();
        }
        if had {
            self.write_whole(&config)?;
        }
        Ok(had)
    }

    /// The helper that `config.json` names for a registry.
    fn helper_of(&self, registry: &str) -> Result<Option<String>, CredentialError> {
        // What is stored in the file hides who would be asked otherwise.
        let mut config = self.object(&self.bytes()?)?;
        config.remove("auths");
        let bytes = Value::Object(config).to_string().into_bytes();
        let found = self.parsed(&bytes)?.find(registry);
        let found = found.map_err(|source| self.wrong(source))?;
        Ok(match found {
            Found::Helper { program, .. } => Some(program),
            _ => None,
        })
    }

    fn tell(
        &self,
        program: &str,
        verb: &'static str,
        input: &str,
        registry: &str,
    ) -> Result<(), CredentialError> {
        let Some(path) = helper::locate(program, &self.search) else {
            return Err(CredentialError::HelperMissing {
                program: program.to_owned(),
                registry: registry.to_owned(),
                path: self.config.clone(),
            });
        };
        let output = helper::run(&path, verb, input, self.patience).map_err(|source| {
            CredentialError::HelperRun {
                program: program.to_owned(),
                registry: registry.to_owned(),
                source,
            }
        })?;
        match output {
            None => Err(CredentialError::HelperSlow {
                program: program.to_owned(),
                registry: registry.to_owned(),
                seconds: self.patience.as_secs(),
            }),
            Some(output) if output.status.success() => Ok(()),
            Some(output) => Err(CredentialError::HelperFailed {
                program: program.to_owned(),
                registry: registry.to_owned(),
                // What a helper prints on failure may hold the secret: only how it ended is told.
                message: output.status.to_string(),
            }),
        }
    }

    fn wrong(&self, source: ConfigError) -> CredentialError {
        CredentialError::Config {
            path: self.config.clone(),
            source,
        }
    }

    fn bytes(&self) -> Result<Vec<u8>, CredentialError> {
        match fs::read(&self.config) {
            Ok(bytes) if bytes.len() > CONFIG_LIMIT => Err(self.wrong(ConfigError::TooLarge)),
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(b"{}".to_vec()),
            Err(source) => Err(CredentialError::Read {
                path: self.config.clone(),
                source,
            }),
        }
    }

    fn parsed(&self, bytes: &[u8]) -> Result<DockerConfig, CredentialError> {
        DockerConfig::parse(bytes).map_err(|source| self.wrong(source))
    }

    fn object(&self, bytes: &[u8]) -> Result<Map<String, Value>, CredentialError> {
        let text = if bytes.trim_ascii().is_empty() {
            b"{}"
        } else {
            bytes
        };
        serde_json::from_slice(text).map_err(|error| {
            self.wrong(ConfigError::Json {
                line: error.line(),
                column: error.column(),
            })
        })
    }

    /// The file with all that is in it; nothing is the same as an empty object.
    fn read_whole(&self) -> Result<Map<String, Value>, CredentialError> {
        let bytes = self.bytes()?;
        self.parsed(&bytes)?;
        self.object(&bytes)
    }

    /// Replaces the file at once, so that nobody ever sees half of it.
    fn write_whole(&self, config: &Map<String, Value>) -> Result<(), CredentialError> {
        write_atomically(&self.config, &pretty(config)).map_err(|source| CredentialError::Write {
            path: self.config.clone(),
            source,
        })
    }
}

/// Indented with tabs, as the docker client does it.
fn pretty(config: &Map<String, Value>) -> Vec<u8> {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    // Writing JSON values into memory cannot fail.
    let _ = config.serialize(&mut serde_json::Serializer::with_formatter(
        &mut bytes, formatter,
    ));
    bytes
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link stays one: home directories are often made of them.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(directory) = path.parent() {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let _ = fs::remove_file(&draft);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::testing::TestDirectory;

    fn files(directory: &TestDirectory) -> DockerFiles {
        DockerFiles {
            config: directory.path().join("docker/config.json"),
            search: vec![directory.path().to_owned()],
            patience: Duration::from_secs(10),
        }
    }

    fn credentials() -> Credentials {
        Credentials {
            username: "u".into(),
            password: "p:w".into(),
            identity_token: None,
        }
    }

    #[test]
    fn a_file_keeps_what_is_not_understood() {
        let directory = TestDirectory::new();
        let files = files(&directory);
        assert!(!files.forget("r:1", "r:1").unwrap());
        assert_eq!(
            files.keep("r:1", "r:1", &credentials()).unwrap(),
            Kept::File
        );
        let mode = fs::metadata(&files.config).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(
            &files.config,
            r#"{"HttpHeaders":{"a":"b"},"auths":{"x":{"auth":"YTpi"}},"psFormat":"t"}"#,
        )
        .unwrap();
        files.keep("r:1", "r:1", &credentials()).unwrap();
        let text = fs::read_to_string(&files.config).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["HttpHeaders"]["a"], "b");
        assert_eq!(value["psFormat"], "t");
        assert_eq!(value["auths"]["x"]["auth"], "YTpi");
        assert_eq!(value["auths"]["r:1"]["auth"], STANDARD.encode("u:p:w"));
        let found = DockerConfig::parse(text.as_bytes()).unwrap().find("r:1");
        assert_eq!(found.unwrap(), Found::Stored(credentials()));
        assert!(files.forget("r:1", "r:1").unwrap());
        let text = fs::read_to_string(&files.config).unwrap();
        assert!(!text.contains("r:1") && text.contains("YTpi"), "{text}");
    }

    #[test]
    fn a_helper_gets_them_and_the_file_does_not() {
        let directory = TestDirectory::new();
        let files = files(&directory);
        fs::create_dir(directory.path().join("docker")).unwrap();
        fs::write(&files.config, r#"{"credsStore":"here"}"#).unwrap();
        let program = directory.path().join("docker-credential-here");
        let log = directory.path().join("log");
        let script = format!("#!/bin/sh\necho \"$1\" >>{0}\ncat >>{0}\n", log.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(
            files.keep("r:1", "r:1", &credentials()).unwrap(),
            Kept::Helper
        );
        let told = fs::read_to_string(&log).unwrap();
        assert!(
            told.starts_with("store\n") && told.contains("p:w"),
            "{told}"
        );
        let text = fs::read_to_string(&files.config).unwrap();
        assert!(!text.contains("p:w") && text.contains("r:1"), "{text}");
        assert!(files.forget("r:1", "r:1").unwrap());
        assert!(fs::read_to_string(&log).unwrap().contains("erase\nr:1"));
    }

    #[test]
    fn a_damaged_file_is_left_alone() {
        let directory = TestDirectory::new();
        let files = files(&directory);
        fs::create_dir(directory.path().join("docker")).unwrap();
        fs::write(&files.config, "{broken").unwrap();
        assert!(files.keep("r:1", "r:1", &credentials()).is_err());
        assert_eq!(fs::read(&files.config).unwrap(), b"{broken");
    }
}
