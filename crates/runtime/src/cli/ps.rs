//! `ps`.

use std::process::Command;

use super::arguments::Arguments;
use super::error::{CliError, Context as _};
use super::list::{is_json, print, print_json};
use super::options::Global;
use super::state::{self, Place, Status};

/// `ps`.
///
/// # Errors
/// [`CliError`].
pub fn command(global: &Global, words: &mut Arguments) -> Result<(), CliError> {
    let mut json = false;
    while let Some(flag) = words.flag() {
        match flag.name() {
            "format" | "f" => json = is_json(&words.value(flag)?)?,
            _ => return Err(flag.unknown()),
        }
    }
    let id = words.id()?;
    let options = words.rest();
    ps(global, &id, json, options)
        .map_err(|error| error.during(format!("cannot list processes of container {id}")))
}

fn ps(global: &Global, id: &str, json: bool, mut options: Vec<String>) -> Result<(), CliError> {
    let place = Place::open(&global.root, id)?;
    let record = place.record()?;
    if place.status(&record) == Status::Stopped {
        return Err(CliError::NotRunning { id: id.to_owned() });
    }
    let pids: Vec<i32> = match state::group(&record)? {
        Some(group) => group
            .processes()?
            .iter()
            .map(|pid| pid.as_raw_nonzero().get())
            .collect(),
        None => vec![record.pid],
    };
    if json {
        return print_json(&pids, false);
    }
    if options.is_empty() {
        options.push("-ef".into());
    }
    let output = Command::new("ps")
        .args(&options)
        .output()
        .step("cannot run the host's ps, which --format json does without")?;
    if !output.status.success() {
        return Err(CliError::Program {
            program: format!("ps {}", options.join(" ")),
            status: output.status,
            detail: format!(": {}", String::from_utf8_lossy(&output.stderr).trim()),
        });
    }
    print(&select(&String::from_utf8_lossy(&output.stdout), &pids)?)
}

/// The heading, and the lines of these processes.
fn select(text: &str, pids: &[i32]) -> Result<String, CliError> {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading
        .split_ascii_whitespace()
        .position(|word| word == "PID")
        .ok_or_else(|| CliError::Usage("couldn't find PID field in ps output".into()))?;
    let mut selected = format!("{heading}\n");
    for line in lines {
        let pid = line.split_ascii_whitespace().nth(column);
        if pid.is_some_and(|pid| pid.parse().is_ok_and(|pid| pids.contains(&pid))) {
            selected.push_str(line);
            selected.push('\n');
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::select;

    #[test]
    fn only_lines_of_the_container_are_shown() {
        let text = "UID        PID  CMD\nroot        12  sh\nroot       112  sh 12\n";
        assert_eq!(
            select(text, &[12]).unwrap(),
            "UID        PID  CMD\nroot        12  sh\n"
        );
        assert!(select("USER CMD\n", &[12]).is_err());
    }
}
