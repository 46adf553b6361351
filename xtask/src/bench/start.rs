//! `bench start`: how long it takes to run a container and to enter one.
//!
//! All commands take turns, once in each round and in an order of its own. The clock of a command that
//! removes its container stops when the last process of its family and the
//! last cgroup are gone, not when the command returns.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Settings;
use super::families::{self, Id};
use super::peers::Peers;
use super::stage::{IMAGE, Stage};
use super::statistics::Samples;
use crate::error::{Error, Result};
use crate::process;

/// A run whose floor drifts by more than this share proves nothing.
const DRIFT: f64 = 0.15;

/// How often a run is repeated that the machine was too restless for.
const ATTEMPTS: u32 = 3;

/// Rounds before the counted ones: caches fill, and lasting things are made.
const WARM_UP: u32 = 3;

/// The rest before each sample.
const PAUSE: Duration = Duration::from_millis(25);

/// A command to be timed.
pub struct Subject {
    /// As it stands in the table.
    pub name: String,
    /// The command, made anew for each round.
    pub command: Box<dyn Fn(u32) -> Command>,
    /// Whether nothing may be left of it.
    pub leaves_nothing: bool,
    /// The largest ratio to the reference that the design allows.
    pub budget: Option<f64>,
}

impl Subject {
    /// A subject without a budget that leaves nothing.
    pub fn new(name: &str, command: impl Fn(u32) -> Command + 'static) -> Self {
        Self {
            name: name.to_owned(),
            command: Box::new(command),
            leaves_nothing: true,
            budget: None,
        }
    }

    fn within(mut self, budget: f64) -> Self {
        self.budget = Some(budget);
        self
    }
}

/// Measures and prints.
pub fn run(stage: &Stage, settings: &Settings) -> Result<()> {
    println!(
        "bench start: {}, {} rounds, Linux {}",
        settings.view.name(),
        settings.rounds,
        rustix::system::uname().release().to_string_lossy(),
    );
    stage.import()?;
    let peers = if settings.all_peers {
        Peers::start(stage)?
    } else {
        Peers::none()
    };
    let bundle = stage.bundle("bundle-true", &["/bin/true"])?;
    compare(
        stage,
        settings,
        starts(stage, &bundle, &peers),
        "run, from the command to nothing left",
    )?;

    let idle = stage.bundle("bundle-sleep", &["/bin/sleep", "1000"])?;
    let runtimes = runtimes(stage);
    for (name, program) in &runtimes {
        let mut command = stage.runtime(program);
        command.args(["run", "--detach", "--bundle"]).arg(&idle);
        // Each a name of its own: it is also that of the control group.
        command.arg(format!("idle-{name}"));
        stage.detach(command)?;
    }
    let mut command = stage.gantry();
    command
        .args(["run", "-d", "--network", "none", "--name", "idle"])
        .args([IMAGE, "sleep", "1000"]);
    stage.detach(command)?;
    peers.start_idle(stage)?;
    compare(stage, settings, execs(stage, &peers), "exec")?;

    for (name, program) in &runtimes {
        let idle = format!("idle-{name}");
        process::run(stage.runtime(program).args(["delete", "--force", &idle]))?;
    }
    process::quietly(stage.gantry().args(["rm", "-f", "idle"]))?;
    peers.stop()?;
    let left = process::stdout(
        stage
            .gantry()
            .args(["ps", "--all", "--quiet", "--no-trunc"]),
    )?;
    if !left.is_empty() {
        return Err(Error::Failed(format!("containers are left:\n{left}")));
    }
    Ok(())
}

fn starts(stage: &Stage, bundle: &Path, peers: &Peers) -> Vec<Subject> {
    let mut subjects = vec![Subject::new("floor (bare kernel work)", {
        let command = stage.maker(Stage::floor);
        move |_| command()
    })];
    for (name, program) in runtimes(stage) {
        let subject = runtime_run(stage, &program, name, bundle);
        subjects.push(within(subject, name, 0.6));
    }
    for (name, options, budget) in [
        (
            "gantry run --rm --network none",
            &["--network", "none"][..],
            0.65,
        ),
        ("gantry run --rm -p 80", &["-p", "80"], 1.0),
    ] {
        let command = stage.maker(Stage::gantry);
        let subject = Subject::new(name, move |_| {
            let mut command = command();
            command.args(["run", "--rm"]).args(options);
            command.args([IMAGE, "true"]);
            command
        });
        subjects.push(subject.within(budget));
    }
    subjects.extend(peers.starts());
    subjects
}

/// The name of our own runtime.
const OWN: &str = "gantry-runtime";

/// OCI runtimes with the same command line: the reference, its elder, and our own.
fn runtimes(stage: &Stage) -> [(&'static str, PathBuf); 3] {
    [
        ("crun", "crun".into()),
        ("runc", "runc".into()),
        (OWN, stage.path("bin/gantry-runtime")),
    ]
}

/// Gives our own runtime its budget.
fn within(subject: Subject, name: &str, budget: f64) -> Subject {
    if name == OWN {
        subject.within(budget)
    } else {
        subject
    }
}

fn runtime_run(stage: &Stage, program: &Path, name: &str, bundle: &Path) -> Subject {
    let (program, bundle) = (program.to_owned(), bundle.to_owned());
    let command = stage.maker(move |stage| stage.runtime(&program));
    Subject::new(&format!("{name} run"), move |round| {
        let mut command = command();
        command.args(["run", "--bundle"]).arg(&bundle);
        command.arg(format!("round-{round}"));
        command
    })
}

fn execs(stage: &Stage, peers: &Peers) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for (name, program) in runtimes(stage) {
        let command = stage.maker(move |stage| stage.runtime(&program));
        let subject = Subject::new(&format!("{name} exec"), move |_| {
            let mut command = command();
            command.args(["exec", &format!("idle-{name}"), "/bin/true"]);
            command
        });
        subjects.push(within(subject, name, 0.5));
    }
    let command = stage.maker(Stage::gantry);
    let own = Subject::new("gantry exec", move |_| {
        let mut command = command();
        command.args(["exec", "idle", "true"]);
        command
    });
    subjects.push(own.within(0.5));
    subjects.extend(peers.execs());
    for subject in &mut subjects {
        subject.leaves_nothing = false;
    }
    subjects
}

/// Runs the rounds, again if the machine was restless, and prints the table.
fn compare(stage: &Stage, settings: &Settings, subjects: Vec<Subject>, title: &str) -> Result<()> {
    let mut stage = stage.clone();
    let subjects = able(&mut stage, subjects)?;
    for attempt in 1.. {
        let samples = rounds(&stage, &subjects, settings.rounds)?;
        // Where there is no floor the first subject, the reference, is one.
        let drift = samples.first().map_or(0.0, Samples::drift);
        let restless = drift > DRIFT;
        if restless && attempt < ATTEMPTS {
            println!(
                "\n{title}: the floor drifted by {:.0} %, so the run is repeated",
                drift * 100.0
            );
            continue;
        }
        println!("\n{title}");
        print_table(&subjects, &samples);
        println!(
            "drift of the first row over the run: {:.0} %",
            drift * 100.0
        );
        if restless {
            println!(
                "NOT VALID: more than {:.0} % in each of {ATTEMPTS} attempts",
                DRIFT * 100.0
            );
        }
        return Ok(());
    }
    Ok(())
}

/// Warms up; subjects that cannot do it are left out, and the table's readers
/// are told.
fn able(stage: &mut Stage, subjects: Vec<Subject>) -> Result<Vec<Subject>> {
    let mut able = Vec::new();
    for subject in subjects {
        let known = families::children();
        let mut outcome = Ok(());
        for round in 0..WARM_UP {
            let mut command = (subject.command)(u32::MAX - round);
            command.stderr(std::process::Stdio::piped());
            outcome = warm_up(command, &known, subject.leaves_nothing);
            if outcome.is_err() {
                break;
            }
        }
        match outcome {
            Ok(()) => able.push(subject),
            Err(error) => println!("{}: left out: {error}", subject.name),
        }
    }
    stage.remember();
    if able.is_empty() {
        return Err(Error::Failed("there is nothing to measure".to_owned()));
    }
    Ok(able)
}

fn warm_up(mut command: Command, known: &BTreeSet<Id>, leaves_nothing: bool) -> Result<()> {
    process::quietly(&mut command)?;
    if leaves_nothing {
        families::settle(known)?;
    }
    Ok(())
}

fn rounds(stage: &Stage, subjects: &[Subject], count: u32) -> Result<Vec<Samples>> {
    let mut samples = vec![Samples::default(); subjects.len()];
    for round in 0..count {
        for index in order(subjects.len(), round) {
            // The kernel ends namespaces in the background, and whoever comes
            // next would pay for it: measured, up to 6 ms after a runc.
            std::thread::sleep(PAUSE);
            samples[index].push(timed(stage, &subjects[index], round)?);
        }
    }
    Ok(samples)
}

/// The order of a round: another one each time, so that nobody always follows
/// the same neighbour, and the same ones in each run.
pub fn order(count: usize, round: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = u64::from(round) + 1;
    for last in (1..count).rev() {
        // Knuth's multiplier; the upper bits are the good ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        order.swap(last, (state >> 33) as usize % (last + 1));
    }
    order
}

/// One sample. Everything but the command itself and the end of what it left
/// is outside the clock.
fn timed(stage: &Stage, subject: &Subject, round: u32) -> Result<Duration> {
    let known = families::children();
    let mut command = (subject.command)(round);
    let start = Instant::now();
    let status = command.status().map_err(|source| Error::Io {
        what: format!("cannot run `{}`", process::describe(&command)),
        source,
    })?;
    let mut taken = start.elapsed();
    if !status.success() {
        return Err(Error::Command {
            command: process::describe(&command),
            status,
            stderr: String::new(),
        });
    }
    if !subject.leaves_nothing {
        return Ok(taken);
    }
    if families::children() != known {
        families::settle(&known)?;
        taken = start.elapsed();
    }
    let mut left = stage.new_cgroups();
    while !left.is_empty() {
        if start.elapsed() > Duration::from_secs(10) {
            let first = left[0].display();
            return Err(Error::Failed(format!(
                "{} left the cgroup {first}",
                subject.name
            )));
        }
        left = stage.new_cgroups();
        taken = start.elapsed();
    }
    Ok(taken)
}

fn print_table(subjects: &[Subject], samples: &[Samples]) {
    let position = |prefix: &str| {
        subjects
            .iter()
            .position(|subject| subject.name.starts_with(prefix))
    };
    let median = |index: usize| samples[index].median();
    let reference = position("crun ").map(median);
    let floor = position("floor").map(median);
    println!(
        "{:<34} {:>9} {:>15} {:>7} {:>7} {:>8}",
        "", "median ms", "quartiles", "/ crun", "budget", "- floor"
    );
    let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    for (subject, samples) in subjects.iter().zip(samples) {
        println!(
            "{:<34} {:>9.2} {:>15} {:>7} {:>7} {:>8}",
            subject.name,
            samples.median(),
            format!(
                "{:.2} .. {:.2}",
                samples.quantile(0.25),
                samples.quantile(0.75)
            ),
            or_dash(reference.map(|reference| samples.median() / reference)),
            or_dash(subject.budget),
            or_dash(floor.map(|floor| samples.median() - floor)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_everybody_once_in_changing_orders() {
        let orders: BTreeSet<Vec<usize>> = (0..60).map(|round| order(6, round)).collect();
        assert!(
            orders.len() > 40,
            "only {} orders in 60 rounds",
            orders.len()
        );
        for mut order in orders {
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4, 5]);
        }
        assert_eq!(order(0, 1), [0; 0]);
    }
}
