//! Deaths at every point of an operation, and at random moments.

use std::process::Output;
use std::time::{Duration, Instant};

use super::points::{self, Operation, Point, Role};
use super::state::{lasting_leaks, leaks, next_command};
use super::support::{Installation, text};

/// The container that operations are about: it says when it has begun, and ends with 7.
const PROGRAM: &str = "trap 'exit 7' TERM; echo begun; sleep 1000 & wait; wait";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verb {
    RunDetached,
    RunForeground,
    Exec,
    Stop,
    Remove,
}

impl Verb {
    fn operation(self) -> Operation {
        let words: &[&str] = match self {
            Verb::RunDetached => &[
                "run", "-d", "--name", "target", "-p", "0:80", "busybox", "sh", "-c", PROGRAM,
            ],
            Verb::RunForeground => &[
                "run",
                "--rm",
                "--name",
                "target",
                "-p",
                "0:80",
                "busybox",
                "sh",
                "-c",
                "echo said; exit 3",
            ],
            Verb::Exec => &["exec", "target", "sh", "-c", "echo said; exit 5"],
            Verb::Stop => &["stop", "target"],
            Verb::Remove => &["rm", "-f", "target"],
        };
        Operation {
            arguments: words.iter().map(|&word| word.into()).collect(),
            starts: matches!(self, Verb::RunDetached | Verb::RunForeground),
        }
    }

    /// Whether the container of one round serves the next one.
    fn keeps_target(self) -> bool {
        self == Verb::Exec
    }

    /// What has to be there before.
    fn prepare(self, installation: &Installation) -> Result<(), String> {
        let there = next_command(installation)?;
        match (self, &there[..]) {
            (Verb::RunDetached | Verb::RunForeground, []) => Ok(()),
            (Verb::Exec, [row]) if row.state == "running" => Ok(()),
            (Verb::Exec | Verb::Stop | Verb::Remove, []) => {
                run(
                    installation,
                    &[
                        "run", "-d", "--name", "target", "-p", "0:80", "busybox", "sh", "-c",
                        PROGRAM,
                    ],
                )?;
                // Its trap is set by then.
                await_line(installation, "begun")
            }
            _ => Err(format!("unexpected containers before the round: {there:?}")),
        }
    }

    /// What a command that was not killed has to say.
    fn check_output(self, output: &Output) -> Result<(), String> {
        let (code, said) = match self {
            Verb::RunDetached => (0, None),
            Verb::RunForeground => (3, Some("said")),
            Verb::Exec => (5, Some("said")),
            Verb::Stop | Verb::Remove => (0, Some("target")),
        };
        let stdout = text(&output.stdout);
        if output.status.code() == Some(code) && said.is_none_or(|said| said == stdout) {
            return Ok(());
        }
        Err(format!(
            "the command gave {:?}, {stdout:?}, {:?}",
            output.status,
            text(&output.stderr)
        ))
    }

    /// What has to hold afterwards, with the container's row if there is one. `done` says
    /// that the command was not killed.
    fn check_state(
        self,
        installation: &Installation,
        state: Option<&str>,
        done: bool,
    ) -> Result<(), String> {
        let wrong = || Err(format!("the container is {state:?}"));
        match (self, state) {
            (Verb::RunDetached, Some("running")) => stop_and_check(installation),
            (Verb::RunDetached, None | Some("created")) if !done => Ok(()),
            (Verb::RunForeground, None) => Ok(()),
            (Verb::RunForeground, Some(_)) if !done => await_gone(installation),
            (Verb::Exec, Some("running")) => {
                let said = run(installation, &["exec", "target", "echo", "still"])?;
                if said == "still" {
                    Ok(())
                } else {
                    Err(format!("exec said {said:?}"))
                }
            }
            (Verb::Stop, Some("running")) if !done => stop_and_check(installation),
            (Verb::Stop, Some("exited")) => check_code(installation),
            (Verb::Remove, None) => Ok(()),
            (Verb::Remove, Some("running" | "exited")) if !done => Ok(()),
            _ => wrong(),
        }
    }
}

fn run(installation: &Installation, arguments: &[&str]) -> Result<String, String> {
    let output = installation.gantry(arguments);
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!(
        "gantry {arguments:?}: {:?} {}",
        output.status,
        text(&output.stderr)
    ))
}

fn await_line(installation: &Installation, line: &str) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let said = run(installation, &["logs", "target"])?;
        if said == line {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("the log says {said:?} and not {line:?}"));
        }
    }
}

fn await_gone(installation: &Installation) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let rows = next_command(installation)?;
        if rows.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("still there: {rows:?}"));
        }
    }
}

/// It runs as it should: its log, its supervisor and its exit code are there.
fn stop_and_check(installation: &Installation) -> Result<(), String> {
    await_line(installation, "begun")?;
    run(installation, &["stop", "target"])?;
    check_code(installation)
}

fn check_code(installation: &Installation) -> Result<(), String> {
    let code = run(
        installation,
        &["inspect", "--format", "{{.State.ExitCode}}", "target"],
    )?;
    if code == "7" {
        Ok(())
    } else {
        Err(format!("the exit code is {code}"))
    }
}

/// Everything that is to be looked at after a death. Returns the leaks before the next
/// command.
fn examine(
    verb: Verb,
    installation: &Installation,
    killed: bool,
    output: &Output,
) -> Result<usize, String> {
    let before = leaks(installation, &[]).len();
    if !killed {
        verb.check_output(output)?;
    }
    let rows = next_command(installation)?;
    let left = lasting_leaks(installation, &rows);
    if !left.is_empty() {
        // It may have ended since; then nothing of it may be there, row or rest.
        let rows = next_command(installation)?;
        let left = lasting_leaks(installation, &rows);
        if verb != Verb::RunForeground || !left.is_empty() {
            return Err(format!(
                "left after one command, beside {rows:?}: {left:#?}"
            ));
        }
    }
    let state = rows.first().map(|row| row.state.as_str());
    verb.check_state(installation, state, !killed)?;
    let over = !verb.keeps_target();
    if over && !next_command(installation)?.is_empty() {
        run(installation, &["rm", "-f", "target"])?;
    }
    if over {
        let left = lasting_leaks(installation, &[]);
        if !left.is_empty() {
            return Err(format!("left in the end: {left:#?}"));
        }
    }
    Ok(before)
}

/// A generator of its own, so that a seed gives the same tests everywhere.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let seed = std::env::var("GANTRY_TEST_SEED").ok();
        Random(seed.and_then(|seed| seed.parse().ok()).unwrap_or(1) * 2 + 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

/// All points in the long run, otherwise some, spread over the whole.
fn choose(points: Vec<Point>, count: usize) -> Vec<Point> {
    if super::is_long() || points.len() <= count {
        return points;
    }
    let mut random = Random::new();
    let choose = |index: usize| {
        let (from, to) = (
            index * points.len() / count,
            (index + 1) * points.len() / count,
        );
        points[from + random.below((to - from) as u64) as usize].clone()
    };
    (0..count).map(choose).collect()
}

/// Kills one process at every point of an operation.
fn kill_at_points(verb: Verb, role: Role) {
    let operation = verb.operation();
    let mut installation = Installation::with_busybox();
    verb.prepare(&installation).unwrap();
    let (points, output) = points::record(&installation, &operation, role);
    assert!(points.len() >= 2, "only {points:?} of {role:?}");
    examine(verb, &installation, false, &output).unwrap();
    let all = points.len();
    let chosen = choose(points, 8);
    let (mut struck, mut leaked) = (0, 0);
    let mut failures = Vec::new();
    let count = chosen.len();
    for point in chosen {
        let mut round = || {
            verb.prepare(&installation)?;
            let outcome = points::strike(&installation, &operation, role, &point);
            struck += usize::from(outcome.struck);
            let killed = outcome.struck && role == Role::Command;
            examine(verb, &installation, killed, &outcome.output)
        };
        match round() {
            Ok(before) => leaked += usize::from(before > 0),
            Err(problem) => {
                failures.push(format!("{} {}: {problem}", point.call, point.number));
                installation = Installation::with_busybox();
            }
        }
    }
    eprintln!(
        "{verb:?} {role:?}: {struck} deaths at {count} of {all} points, {leaked} with something to tidy up"
    );
    assert!(
        failures.is_empty(),
        "{} of {count}:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(
        struck * 2 > count,
        "only {struck} of {count} points were reached"
    );
    if !verb.keeps_target() {
        installation.assert_clean();
    }
    installation.ok(&["run", "--rm", "busybox", "true"]);
}

macro_rules! points {
    ($($name:ident: $verb:ident $role:ident,)*) => {
        $(
            #[test]
            fn $name() {
                kill_at_points(Verb::$verb, Role::$role);
            }
        )*
    };
}

points! {
    run_detached_and_the_command_dies: RunDetached Command,
    run_detached_and_the_outer_dies: RunDetached Outer,
    run_detached_and_the_inner_dies: RunDetached Inner,
    run_and_the_command_dies: RunForeground Command,
    run_and_the_outer_dies: RunForeground Outer,
    run_and_the_inner_dies: RunForeground Inner,
    exec_and_the_command_dies: Exec Command,
    exec_and_the_outer_dies: Exec Outer,
    exec_and_the_inner_dies: Exec Inner,
    stop_and_the_command_dies: Stop Command,
    stop_and_the_outer_dies: Stop Outer,
    stop_and_the_inner_dies: Stop Inner,
    rm_and_the_command_dies: Remove Command,
    rm_and_the_outer_dies: Remove Outer,
    rm_and_the_inner_dies: Remove Inner,
}
