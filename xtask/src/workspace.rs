//! Where things are, and how the product is built.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::process;

/// The binaries of the product, in the order in which they are installed: the
/// companions first, so that a new `gantry` never meets an older companion.
pub const BINARIES: [&str; 3] = ["gantry-supervisor", "gantry-runtime", "gantry"];

/// The directories of this checkout.
pub struct Workspace {
    /// The directory of the root Cargo.toml.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Where release binaries end up.
    pub release: PathBuf,
}

impl Workspace {
    /// Asks cargo and rustc, so that CARGO_TARGET_DIR and the like count.
    pub fn locate() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().unwrap_or(manifest).to_owned();
        let text = process::stdout(cargo().current_dir(&root).args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
        ]))?;
        let metadata: Value = serde_json::from_str(&text)
            .map_err(|error| Error::Malformed(format!("cargo metadata: {error}")))?;
        let target = metadata["target_directory"]
            .as_str()
            .map(PathBuf::from)
            .ok_or_else(|| {
                Error::Malformed("cargo metadata names no target directory".to_owned())
            })?;
        let version = process::stdout(Command::new("rustc").arg("-vV"))?;
        let host = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .ok_or_else(|| Error::Malformed("rustc -vV names no host".to_owned()))?;
        let release = target.join(host).join("release");
        Ok(Self {
            root,
            target,
            release,
        })
    }

    /// Builds the release binaries of the product.
    pub fn build_release(&self) -> Result<()> {
        let mut command = cargo();
        command
            .current_dir(&self.root)
            .args(["build", "--release", "--locked"]);
        for binary in BINARIES {
            command.args(["--package", binary]);
        }
        process::run(&mut command)?;
        for binary in BINARIES {
            let path = self.release.join(binary);
            if !path.is_file() {
                return Err(Error::Missing {
                    what: path.display().to_string(),
                    hint: "the build should have made it".to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// The cargo that runs this task.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
