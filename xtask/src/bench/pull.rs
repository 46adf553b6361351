//! `bench pull`: how long it takes to get an image from a registry onto the disk, and back.
//!
//! One registry on loopback serves everybody. Each sample begins with empty stores and an empty
//! page cache, but for what the registry serves and the programs themselves. All stores are on one
//! file system that has nothing else on it. Two moments count:
//! when the command returns, and when what it wrote is on the disk, which is after a syncfs(2) of
//! its file system that begins when the command returns.

mod disk;
mod images;
mod registry;
mod subjects;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Settings;
use super::peers::Peers;
use super::stage::Stage;
use super::start::order;
use super::statistics::Samples;
use crate::error::{Error, Result};
use crate::process;
use disk::Disk;
use images::Image;
use registry::Registry;
use subjects::Subject;

/// The port that images are pulled from, and the one that they are pushed to. The network is this
/// run's own, so all ports are free.
const PULL_PORT: u16 = 5000;
const PUSH_PORT: u16 = 5001;

/// What the design allows at most, as a share of docker's time.
const PULL_BUDGET: f64 = 0.33;
const PUSH_BUDGET: f64 = 0.5;

/// What has been measured of one subject.
#[derive(Default)]
struct Taken {
    returned: Samples,
    synced: Samples,
    /// Peak memory in MB and processor time in milliseconds, of commands that do all by
    /// themselves.
    peak: f64,
    processor: Samples,
}

/// Measures and prints.
pub fn run(stage: &Stage, settings: &Settings) -> Result<()> {
    println!(
        "bench pull: {} rounds, Linux {}",
        settings.rounds,
        rustix::system::uname().release().to_string_lossy(),
    );
    for program in ["docker-registry", "skopeo"] {
        if process::find(program).is_none() {
            return Err(Error::Missing {
                what: program.to_owned(),
                hint: "apt-get install docker-registry skopeo".to_owned(),
            });
        }
    }
    let peak = stage.path("peak");
    let source = stage.path("peak.c");
    fs::write(&source, include_str!("pull/peak.c")).map_err(Error::at("write", &source))?;
    process::quietly(
        Command::new("cc")
            .args(["-O2", "-static", "-o"])
            .arg(&peak)
            .arg(&source),
    )?;

    let disk = Disk::make(stage)?;
    let images = images::make(&stage.path("images"))?;
    let registry = Registry::start(stage, PULL_PORT)?;
    for image in &images {
        registry.upload(image)?;
    }
    let peers = if settings.all_peers {
        Peers::start(stage)?
    } else {
        Peers::none()
    };
    for image in &images {
        pulls(stage, settings, &peers, &registry, image)?;
    }
    for image in &images {
        pushes(stage, settings, &peers, &registry, image)?;
    }
    registry.stop()?;
    peers.stop()?;
    disk.remove()
}

fn pulls(
    stage: &Stage,
    settings: &Settings,
    peers: &Peers,
    registry: &Registry,
    image: &Image,
) -> Result<()> {
    let subjects = subjects::pulls(stage, peers, registry, image);
    let prepare = |subject: &Subject| {
        (subject.empty)()?;
        quieten()?;
        registry.warm(image)
    };
    let (subjects, taken) = rounds(stage, settings, subjects, prepare)?;
    for subject in &subjects {
        (subject.empty)()?;
    }
    print_table(
        &format!("pull, {}", image.title),
        &subjects,
        &taken,
        PULL_BUDGET,
    );
    Ok(())
}

fn pushes(
    stage: &Stage,
    settings: &Settings,
    peers: &Peers,
    source: &Registry,
    image: &Image,
) -> Result<()> {
    let subjects = subjects::pushes(stage, peers, source, image, PUSH_PORT)?;
    let target = std::cell::RefCell::new(None::<Registry>);
    let prepare = |_: &Subject| {
        if let Some(old) = target.take() {
            old.stop()?;
        }
        target.replace(Some(Registry::start(stage, PUSH_PORT)?));
        quieten()
    };
    let (subjects, taken) = rounds(stage, settings, subjects, prepare)?;
    if let Some(target) = target.take() {
        target.stop()?;
    }
    for subject in &subjects {
        (subject.empty)()?;
    }
    print_table(
        &format!("push, {}", image.title),
        &subjects,
        &taken,
        PUSH_BUDGET,
    );
    Ok(())
}

/// Writes all dirty pages and drops all clean ones, so that nobody pays for what others left and
/// nobody finds what he wrote himself. This is for the whole machine: the kernel has no smaller.
fn quieten() -> Result<()> {
    rustix::fs::sync();
    let path = Path::new("/proc/sys/vm/drop_caches");
    fs::write(path, "1").map_err(Error::at("write", path))
}

/// Lets everybody take turns. Who fails in the first round is left out, and the readers of the
/// table are told.
fn rounds(
    stage: &Stage,
    settings: &Settings,
    subjects: Vec<Subject>,
    prepare: impl Fn(&Subject) -> Result<()>,
) -> Result<(Vec<Subject>, Vec<Taken>)> {
    let mut running: Vec<(Subject, Taken)> = Vec::new();
    for subject in subjects {
        let mut taken = Taken::default();
        match prepare(&subject).and_then(|()| timed(stage, &subject, &mut taken)) {
            // The first time is a warm-up.
            Ok(()) => running.push((subject, Taken::default())),
            Err(error) => println!("{}: left out: {error}", subject.name),
        }
    }
    for round in 0..settings.rounds {
        for index in order(running.len(), round) {
            let (subject, taken) = &mut running[index];
            prepare(subject)?;
            timed(stage, subject, taken)?;
        }
    }
    Ok(running.into_iter().unzip())
}

fn timed(stage: &Stage, subject: &Subject, taken: &mut Taken) -> Result<()> {
    // Docker's daemon is in memory already; so is every program, then.
    process::quietly(&mut (subject.idle)())?;
    let store = stage.path(disk::STORES[0]);
    let store = fs::File::open(&store).map_err(Error::at("open", &store))?;
    let used = stage.path("used");
    let mut command = (subject.command)();
    if subject.alone {
        let mut outer = Command::new(stage.path("peak"));
        outer
            .arg(&used)
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        command = outer;
    }
    let start = Instant::now();
    process::quietly(&mut command)?;
    let returned = start.elapsed();
    rustix::fs::syncfs(&store).map_err(|errno| Error::Io {
        what: "cannot sync the file system".to_owned(),
        source: errno.into(),
    })?;
    taken.synced.push(start.elapsed());
    taken.returned.push(returned);
    if subject.alone {
        let text = fs::read_to_string(&used).map_err(Error::at("read", &used))?;
        let mut numbers = text
            .split_whitespace()
            .filter_map(|word| word.parse::<u64>().ok());
        let (Some(peak), Some(processor)) = (numbers.next(), numbers.next()) else {
            return Err(Error::Malformed(format!("{}: {text}", used.display())));
        };
        taken.peak = taken.peak.max(peak as f64 / 1024.0);
        taken.processor.push(Duration::from_micros(processor));
    }
    Ok(())
}

fn print_table(title: &str, subjects: &[Subject], taken: &[Taken], budget: f64) {
    println!("\n{title}");
    println!(
        "{:<28} {:>9} {:>15} {:>8} {:>9} {:>8} {:>8} {:>8}",
        "", "median ms", "quartiles", "/ docker", "+ sync", "/ docker", "cpu ms", "peak MB"
    );
    let docker = subjects
        .iter()
        .position(|subject| subject.name.starts_with("docker "))
        .map(|index| &taken[index]);
    let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    for (subject, taken) in subjects.iter().zip(taken) {
        let (returned, synced) = (taken.returned.median(), taken.synced.median());
        let alone = |value: f64| {
            if subject.alone {
                format!("{value:.0}")
            } else {
                "-".to_owned()
            }
        };
        println!(
            "{:<28} {:>9.0} {:>15} {:>8} {:>9.0} {:>8} {:>8} {:>8}",
            subject.name,
            returned,
            format!(
                "{:.0} .. {:.0}",
                taken.returned.quantile(0.25),
                taken.returned.quantile(0.75)
            ),
            or_dash(docker.map(|docker| returned / docker.returned.median())),
            synced,
            or_dash(docker.map(|docker| synced / docker.synced.median())),
            alone(taken.processor.median()),
            alone(taken.peak),
        );
    }
    if docker.is_some() {
        println!("at most {budget:.2} of docker, before and after the sync; peak below 100 MB");
    }
}
