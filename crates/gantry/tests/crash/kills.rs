//! Deaths at every point of an operation, and at random moments.

use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use super::pair::{kill, parent};
use super::points::{self, Operation, Point, Role};
use super::state::{lasting_leaks, leaves_something, next_command};
use super::support::{Installation, text};

/// The container that operations are about: it says when it has begun, and ends with 7.
const PROGRAM: &str = "trap 'exit 7' TERM; echo begun; sleep 1000 & wait; wait";

const RUN_BY_RUNC: [&str; 12] = [
    "run",
    "-d",
    "--runtime",
    "runc",
    "--name",
    "target",
    "-p",
    "0:80",
    "busybox",
    "sh",
    "-c",
    PROGRAM,
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verb {
    RunDetached,
    RunForeground,
    /// The same as the first, by another OCI runtime.
    RunByRunc,
    Exec,
    ExecByRunc,
    Stop,
    StopByRunc,
    Remove,
}

impl Verb {
    fn operation(self) -> Operation {
        let words: &[&str] = match self {
            Verb::RunDetached => &[
                "run", "-d", "--name", "target", "-p", "0:80", "busybox", "sh", "-c", PROGRAM,
            ],
            Verb::RunByRunc => &RUN_BY_RUNC,
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
            Verb::Exec | Verb::ExecByRunc => &["exec", "target", "sh", "-c", "echo said; exit 5"],
            Verb::Stop | Verb::StopByRunc => &["stop", "target"],
            Verb::Remove => &["rm", "-f", "target"],
        };
        Operation {
            arguments: words.iter().map(|&word| word.into()).collect(),
            starts: matches!(
                self,
                Verb::RunDetached | Verb::RunForeground | Verb::RunByRunc
            ),
        }
    }

    /// Whether the container of one round serves the next one.
    fn keeps_target(self) -> bool {
        matches!(self, Verb::Exec | Verb::ExecByRunc)
    }

    /// What has to be there before.
    fn prepare(self, installation: &Installation) -> Result<(), String> {
        let there = next_command(installation)?;
        match (self, &there[..]) {
            (Verb::RunDetached | Verb::RunForeground | Verb::RunByRunc, []) => Ok(()),
            (Verb::Exec | Verb::ExecByRunc, [row]) if row.state == "running" => Ok(()),
            (Verb::ExecByRunc | Verb::StopByRunc, []) => {
                run(installation, &RUN_BY_RUNC)?;
                await_line(installation, "begun")
            }
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
            Verb::RunDetached | Verb::RunByRunc => (0, None),
            Verb::RunForeground => (3, Some("said")),
            Verb::Exec | Verb::ExecByRunc => (5, Some("said")),
            Verb::Stop | Verb::StopByRunc | Verb::Remove => (0, Some("target")),
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
            (Verb::RunDetached | Verb::RunByRunc, Some("running")) => stop_and_check(installation),
            (Verb::RunDetached | Verb::RunByRunc, None | Some("created")) if !done => Ok(()),
            (Verb::RunForeground, None) => Ok(()),
            (Verb::RunForeground, Some(_)) if !done => await_gone(installation),
            (Verb::Exec | Verb::ExecByRunc, Some("running")) => {
                let said = run(installation, &["exec", "target", "echo", "still"])?;
                if said == "still" {
                    Ok(())
                } else {
                    Err(format!("exec said {said:?}"))
                }
            }
            (Verb::Stop | Verb::StopByRunc, Some("running")) if !done => {
                stop_and_check(installation)
            }
            (Verb::Stop | Verb::StopByRunc, Some("exited")) => check_code(installation),
            (Verb::Remove, None) => Ok(()),
            (Verb::Remove, Some("running" | "exited")) if !done => Ok(()),
            // Somebody else goes on with it.
            (Verb::Remove, Some("removing")) if !done => await_gone(installation),
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

/// Everything that is to be looked at after a death. Says whether there was something to
/// tidy up before the next command.
fn examine(
    verb: Verb,
    installation: &Installation,
    killed: bool,
    output: &Output,
) -> Result<bool, String> {
    let before = leaves_something(installation);
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
fn choose(points: &[Point], count: usize) -> Vec<Point> {
    if let Ok(only) = std::env::var("GANTRY_TEST_POINT") {
        let (call, number) = only.split_once(' ').unwrap();
        let number = number.parse().unwrap();
        return vec![
            Point {
                call: call.into(),
                number
            };
            50
        ];
    }
    if super::is_long() || points.len() <= count {
        return points.to_vec();
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

/// What a round of kills came to.
#[derive(Default)]
struct Tally {
    rounds: usize,
    struck: usize,
    untidy: usize,
    failures: Vec<String>,
}

impl Tally {
    fn note(&mut self, what: &str, result: Result<Round, String>) {
        self.rounds += 1;
        match result {
            Ok(round) => {
                self.struck += usize::from(round.struck);
                self.untidy += usize::from(round.untidy);
            }
            Err(problem) => self.failures.push(format!("{what}: {problem}")),
        }
    }

    fn judge(&self, title: &str) {
        let Tally {
            rounds,
            struck,
            untidy,
            failures,
        } = self;
        eprintln!(
            "{title}: {struck} deaths in {rounds} rounds, {untidy} with something to tidy up"
        );
        assert!(
            failures.is_empty(),
            "{title}: {} of {rounds}:\n{}",
            failures.len(),
            failures.join("\n")
        );
        assert!(
            struck * 4 > *rounds,
            "{title}: only {struck} of {rounds} points were reached"
        );
    }
}

/// How one round went.
struct Round {
    struck: bool,
    /// Whether something was there before the next command that was nobody's.
    untidy: bool,
}

fn round_at(
    verb: Verb,
    installation: &Installation,
    role: Role,
    point: &Point,
    alone: bool,
) -> Result<Round, String> {
    verb.prepare(installation)?;
    let outcome = points::strike(installation, &verb.operation(), role, point);
    let killed = outcome.struck && role == Role::Command;
    // As long as the supervisor is but one process, its death is the end of the start.
    let refused = alone && outcome.output.status.code() == Some(125);
    let untidy = examine(verb, installation, killed || refused, &outcome.output)?;
    Ok(Round {
        struck: outcome.struck,
        untidy,
    })
}

/// An installation on which nothing happens for the first time.
fn warm() -> Installation {
    let installation = Installation::with_busybox();
    installation.ok(&["run", "--rm", "busybox", "true"]);
    installation
}

/// Kills one process at every point of an operation.
fn kill_at_points(verb: Verb, role: Role) {
    let mut installation = warm();
    verb.prepare(&installation).unwrap();
    let operation = verb.operation();
    let (points, output) = points::record(&installation, &operation, role);
    assert!(points.len() >= 2, "only {points:?} of {role:?}");
    examine(verb, &installation, false, &output).unwrap();
    let split = points.iter().position(|point| point.call == "clone3");
    let before_split = match (role, operation.starts) {
        (Role::Outer, true) => &points[..=split.expect("the supervisor splits")],
        _ => &[],
    };
    let mut tally = Tally::default();
    for point in choose(&points, 16) {
        let alone = before_split.contains(&point);
        let result = round_at(verb, &installation, role, &point, alone);
        if result.is_err() {
            installation = warm();
        }
        tally.note(&format!("{} {}", point.call, point.number), result);
    }
    tally.judge(&format!("{verb:?} {role:?} ({} points)", points.len()));
    installation.ok(&["run", "--rm", "busybox", "true"]);
    installation.ok(&["rm", "-f", "target"]);
    installation.assert_clean();
}

/// The first command of an installation that starts a container makes bridge and rules.
#[test]
fn the_first_run_of_all_and_the_command_dies() {
    let verb = Verb::RunForeground;
    let (points, _) = points::record(
        &Installation::with_busybox(),
        &verb.operation(),
        Role::Command,
    );
    let mut tally = Tally::default();
    for point in choose(&points, 16) {
        let installation = Installation::with_busybox();
        let result =
            round_at(verb, &installation, Role::Command, &point, false).and_then(|round| {
                run(&installation, &["run", "--rm", "busybox", "true"])?;
                Ok(round)
            });
        tally.note(&format!("{} {}", point.call, point.number), result);
    }
    tally.judge(&format!("first run ({} points)", points.len()));
}

/// Kills a process at random moments of random operations.
#[test]
fn random_kills() {
    let mut random = Random::new();
    let mut installation = warm();
    let mut tally = Tally::default();
    let verbs = [
        Verb::RunDetached,
        Verb::RunForeground,
        Verb::Exec,
        Verb::Stop,
        Verb::Remove,
    ];
    // A death that came too late, or found nobody, does not count.
    let wanted = if super::is_long() { 500 } else { 25 };
    for round in 0..wanted * 2 {
        if tally.struck >= wanted {
            break;
        }
        let verb = verbs[random.below(verbs.len() as u64) as usize];
        let role = [Role::Command, Role::Outer, Role::Inner][random.below(3) as usize];
        let delay = Duration::from_micros(random.below(if verb.operation().starts {
            60_000
        } else {
            20_000
        }));
        let result = random_round(verb, &installation, role, delay);
        if result.is_err() {
            installation = warm();
        }
        tally.note(
            &format!("round {round}, {verb:?} {role:?} after {delay:?}"),
            result,
        );
    }
    tally.judge("random");
    installation.ok(&["rm", "-f", "target"]);
    installation.assert_clean();
}

fn random_round(
    verb: Verb,
    installation: &Installation,
    role: Role,
    delay: Duration,
) -> Result<Round, String> {
    if verb != Verb::Exec && next_command(installation)?.len() == 1 {
        // Of an exec before.
        run(installation, &["rm", "-f", "target"])?;
    }
    verb.prepare(installation)?;
    let arguments = verb.operation().arguments;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = installation.command(&arguments);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(delay);
    let (victim, alone) = match (role, &installation.supervisors()[..]) {
        (Role::Command, _) => (Some(child.id() as i32), false),
        (_, []) => (None, false),
        // The other one may not be there yet, or not any more.
        (_, [only]) => (Some(*only), true),
        (_, [first, second, ..]) => {
            let outer = if parent(*second) == *first {
                first
            } else {
                second
            };
            let inner = if outer == first { second } else { first };
            (
                Some(if role == Role::Outer { *outer } else { *inner }),
                false,
            )
        }
    };
    if let Some(victim) = victim {
        kill(victim);
    }
    let output = child.wait_with_output().unwrap();
    let killed = output.status.signal() == Some(9);
    let refused = alone && output.status.code() == Some(125);
    let untidy = examine(verb, installation, killed || refused, &output)?;
    Ok(Round {
        struck: victim.is_some(),
        untidy,
    })
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
    run_by_runc_and_the_command_dies: RunByRunc Command,
    run_by_runc_and_the_outer_dies: RunByRunc Outer,
    run_by_runc_and_the_inner_dies: RunByRunc Inner,
    run_and_the_command_dies: RunForeground Command,
    run_and_the_outer_dies: RunForeground Outer,
    run_and_the_inner_dies: RunForeground Inner,
    exec_and_the_command_dies: Exec Command,
    exec_and_the_outer_dies: Exec Outer,
    exec_and_the_inner_dies: Exec Inner,
    exec_by_runc_and_the_outer_dies: ExecByRunc Outer,
    exec_by_runc_and_the_inner_dies: ExecByRunc Inner,
    stop_and_the_command_dies: Stop Command,
    stop_and_the_outer_dies: Stop Outer,
    stop_and_the_inner_dies: Stop Inner,
    stop_by_runc_and_the_outer_dies: StopByRunc Outer,
    stop_by_runc_and_the_inner_dies: StopByRunc Inner,
    rm_and_the_command_dies: Remove Command,
    rm_and_the_outer_dies: Remove Outer,
    rm_and_the_inner_dies: Remove Inner,
}
