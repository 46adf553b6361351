//! `layers`: the rules between the crates that the compiler does not know.
//!
//! - Dependencies point only downwards in the table of ARCHITECTURE.md.
//! - The supervisor links neither SQLite nor an async runtime, not even
//!   through another crate: it is resident once for each container.
//! - `unsafe` stands in crates/sys alone.
//! - Every crate takes the lints of the workspace.
//! - A file above 800 lines is pointed out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::process;
use crate::workspace::{Workspace, cargo};

/// The crates from top to bottom: each may depend only on later ones.
const ORDER: [&str; 11] = [
    "gantry",
    "gantry-docker-api",
    "gantry-compose",
    "gantry-build",
    "gantry-engine",
    "gantry-supervisor",
    "gantry-network",
    "gantry-registry",
    "gantry-image",
    "gantry-runtime",
    "gantry-sys",
];

/// What must not be linked into a crate, directly or through another.
const FORBIDDEN: [(&str, &[&str]); 2] = [
    (
        "gantry-supervisor",
        &[
            "rusqlite",
            "libsqlite3-sys",
            "tokio",
            "async-std",
            "smol",
            "async-executor",
            "ureq",
        ],
    ),
    (
        "gantry-runtime",
        &[
            "rusqlite",
            "libsqlite3-sys",
            "tokio",
            "async-std",
            "smol",
            "async-executor",
            "ureq",
        ],
    ),
];

/// Above this many lines a file probably holds more than one subject.
const LONG: usize = 800;

/// Checks all rules; prints each violation and fails when there is one.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    arguments.finish()?;
    let workspace = Workspace::locate()?;
    let mut violations = Vec::new();
    order(&workspace, &mut violations)?;
    forbidden(&workspace, &mut violations)?;
    sources(&workspace, &mut violations)?;
    for violation in &violations {
        eprintln!("layers: {violation}");
    }
    if violations.is_empty() {
        println!("layers: the rules between the crates hold");
        return Ok(ExitCode::SUCCESS);
    }
    Err(Error::Failed(format!(
        "{} violation(s) of the rules between the crates",
        violations.len()
    )))
}

fn order(workspace: &Workspace, violations: &mut Vec<String>) -> Result<()> {
    let text = process::stdout(cargo().current_dir(&workspace.root).args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?;
    let metadata: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Malformed(format!("cargo metadata: {error}")))?;
    violations.extend(upward(&metadata));
    Ok(())
}

/// The dependencies in `cargo metadata` that point upwards or sideways, and
/// the crates that have no place in the order.
fn upward(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let place = |name: &str| ORDER.iter().position(|entry| *entry == name);
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let names: Vec<&str> = packages
        .clone()
        .filter_map(|package| package["name"].as_str())
        .collect();
    for package in packages {
        let Some(name) = package["name"].as_str() else {
            continue;
        };
        let own = place(name);
        if own.is_none() && name != "xtask" {
            found.push(format!(
                "crate {name} has no place in the order of the layers"
            ));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(other) = dependency["name"].as_str() else {
                continue;
            };
            if !names.contains(&other) {
                continue;
            }
            // A test may look down from anywhere, but even it may not look up:
            // that would make a cycle for whoever builds it.
            if place(other) <= own {
                found.push(format!("{name} depends on {other}, which is not below it"));
            }
        }
    }
    found
}

fn forbidden(workspace: &Workspace, violations: &mut Vec<String>) -> Result<()> {
    for (package, banned) in FORBIDDEN {
        let tree = process::stdout(cargo().current_dir(&workspace.root).args([
            "tree",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{lib}",
        ]))?;
        // Lines that repeat an earlier one end in ` (*)`.
        let names = tree.lines().filter_map(|line| line.split(' ').next());
        for name in names.map(|name| name.replace('_', "-")) {
            if banned.contains(&name.as_str()) {
                violations.push(format!("{package} links {name}"));
            }
        }
    }
    violations.sort();
    violations.dedup();
    Ok(())
}

fn sources(workspace: &Workspace, violations: &mut Vec<String>) -> Result<()> {
    let crates = workspace.root.join("crates");
    let mut manifests = vec![workspace.root.join("xtask")];
    let entries = fs::read_dir(&crates).map_err(Error::at("read", &crates))?;
    for entry in entries {
        manifests.push(entry.map_err(Error::at("read", &crates))?.path());
    }
    manifests.sort();
    for directory in manifests {
        let allowed = directory == crates.join("sys");
        let manifest = directory.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).map_err(Error::at("read", &manifest))?;
        if !allowed && !takes_workspace_lints(&text) {
            violations.push(format!(
                "{} does not take the lints of the workspace",
                relative(workspace, &manifest)
            ));
        }
        for file in rust_files(&directory)? {
            let text = fs::read_to_string(&file).map_err(Error::at("read", &file))?;
            let name = relative(workspace, &file);
            if !allowed && let Some(line) = unsafe_line(&text) {
                violations.push(format!("{name}:{line}: unsafe outside crates/sys"));
            }
            let lines = text.lines().count();
            if lines > LONG {
                eprintln!("layers: warning: {name} has {lines} lines; is it one subject?");
            }
        }
    }
    Ok(())
}

fn relative(workspace: &Workspace, path: &Path) -> String {
    path.strip_prefix(&workspace.root)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn takes_workspace_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim);
    lines.any(|line| line == "[lints]")
        && lines
            .take_while(|line| !line.starts_with('['))
            .any(|line| line.replace(' ', "") == "workspace=true")
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = fs::read_dir(&directory).map_err(Error::at("read", &directory))?;
        for entry in entries {
            let path = entry.map_err(Error::at("read", &directory))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The first line that uses the keyword, outside comments, strings and longer
/// words. Written for this check, not as a lexer: a raw string with a quote in
/// it may confuse it, and then it errs towards reporting.
fn unsafe_line(text: &str) -> Option<usize> {
    let keyword = "unsafe";
    text.lines().enumerate().find_map(|(index, line)| {
        let code = without_text(line);
        let found = code.match_indices(keyword).any(|(start, _)| {
            let word = |character: char| character.is_alphanumeric() || character == '_';
            let before = code[..start].chars().next_back();
            let after = code[start + keyword.len()..].chars().next();
            !before.is_some_and(word) && !after.is_some_and(word)
        });
        found.then_some(index + 1)
    })
}

/// A line without its string literals and its line comment.
fn without_text(line: &str) -> String {
    let mut code = String::new();
    let mut in_string = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => {
                characters.next();
            }
            '"' => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(character),
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dependencies_point_only_downwards() {
        let package = |name: &str, dependencies: &[&str]| {
            let dependencies: Vec<Value> = dependencies
                .iter()
                .map(|name| json!({ "name": name }))
                .collect();
            json!({ "name": name, "dependencies": dependencies })
        };
        let cases = [
            (
                vec![
                    package("gantry", &["gantry-sys", "serde"]),
                    package("gantry-sys", &[]),
                ],
                0,
            ),
            (
                vec![package("gantry", &[]), package("gantry-sys", &["gantry"])],
                1,
            ),
            (vec![package("gantry-image", &["gantry-image"])], 1),
            (
                vec![package("gantry", &[]), package("xtask", &["gantry"])],
                0,
            ),
            (
                vec![package("gantry", &["xtask"]), package("xtask", &[])],
                1,
            ),
            (vec![package("gantry-surprise", &[])], 1),
        ];
        for (packages, expected) in cases {
            let metadata = json!({ "packages": packages });
            let found = upward(&metadata);
            assert_eq!(found.len(), expected, "{metadata} gave {found:?}");
        }
    }

    #[test]
    fn the_keyword_is_told_from_its_neighbours() {
        let keyword = "unsafe";
        let cases = [
            (format!("{keyword} {{ f() }}"), Some(1)),
            (format!("fn g() {{}}\npub {keyword} fn h() {{}}"), Some(2)),
            (format!("({keyword} {{ f() }})"), Some(1)),
            (format!("// {keyword} is not used here"), None),
            (format!("let {keyword}_code = 1;"), None),
            (format!("let text = \"{keyword} \\\" {keyword}\";"), None),
            (format!("let url = \"a//b\"; {keyword} {{}}"), Some(1)),
        ];
        for (text, expected) in cases {
            assert_eq!(unsafe_line(&text), expected, "{text}");
        }
    }

    #[test]
    fn lints_are_taken_only_under_their_own_heading() {
        assert!(takes_workspace_lints(
            "[lints]\nworkspace = true\n[dependencies]\n"
        ));
        assert!(!takes_workspace_lints("[dependencies]\nworkspace = true\n"));
        assert!(!takes_workspace_lints(
            "[lints]\n[dependencies]\nworkspace = true\n"
        ));
    }
}
