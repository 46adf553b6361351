//! What is running goes on through the death of either process of the supervisor.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::pair::{Part, await_pair, strike};
use super::support::{Installation, wait_until};

/// Every way in which two processes can die one after the other.
const DEATHS: [Part; 6] = [
    Part::Inner,
    Part::Outer,
    Part::Outer,
    Part::Inner,
    Part::Inner,
    Part::Outer,
];

/// The near end of a terminal.
struct Terminal {
    master: std::fs::File,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn new() -> (Terminal, OwnedFd) {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let slave = rustix::fs::open(&*name, flags, rustix::fs::Mode::empty()).unwrap();
        let master = std::fs::File::from(master);
        let mut reader = master.try_clone().unwrap();
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        let terminal = Terminal {
            master,
            output,
            seen: String::new(),
        };
        (terminal, slave)
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn await_text(&mut self, text: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.seen.contains(text) {
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} in {:?}", self.seen),
            }
        }
        // What was seen once is not to be found again.
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end);
    }
}

fn shell_survives(arguments: &[&str], installation: &Installation, code: i32) {
    let (mut terminal, slave) = Terminal::new();
    let mut client = installation
        .command(arguments)
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave)
        .spawn()
        .unwrap();
    terminal.type_in("variable=kept; echo be''gin\n");
    terminal.await_text("begin");
    for (round, part) in DEATHS.into_iter().enumerate() {
        // Typed before the death, and answered after it.
        terminal.type_in(&format!(
            "sleep 0.05; echo across-$variable-{round}=$(({round}+1000))\n"
        ));
        strike(installation, part);
        terminal.await_text(&format!("across-kept-{round}={}", round + 1000));
        terminal.type_in(&format!(
            "echo after-$variable-{round}=$(({round}+2000)); tty >/dev/null && stty size\n"
        ));
        terminal.await_text(&format!("after-kept-{round}={}", round + 2000));
    }
    terminal.type_in(&format!("exit {code}\n"));
    assert_eq!(client.wait().unwrap().code(), Some(code));
}

#[test]
fn a_shell_on_a_terminal_goes_on() {
    let installation = Installation::with_busybox();
    shell_survives(
        &["run", "-it", "--rm", "--network", "none", "busybox", "sh"],
        &installation,
        7,
    );
    installation.assert_clean();
}

#[test]
fn a_shell_in_an_exec_goes_on() {
    let installation = Installation::with_busybox();
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "host",
        "--network",
        "none",
        "busybox",
        "sleep",
        "1000",
    ]);
    shell_survives(&["exec", "-it", "host", "sh"], &installation, 9);
    assert_eq!(installation.ok(&["exec", "host", "echo", "here"]), "here");
    installation.ok(&["rm", "-f", "host"]);
    installation.assert_clean();
}

/// Bytes that show where one is missing or doubled.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    let same = left
        .iter()
        .zip(right)
        .take_while(|(left, right)| left == right);
    Some(same.count())
}

fn pipe_survives(arguments: &[&str], installation: &Installation) {
    let input = pattern(6 * 1024 * 1024);
    let mut client = installation
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut feed = client.stdin.take().unwrap();
    let mut output = client.stdout.take().unwrap();
    let expected = input.clone();
    let fed = std::thread::spawn(move || {
        // Slowly, so that every death falls into it.
        for chunk in input.chunks(input.len() / 64) {
            feed.write_all(chunk).unwrap();
            std::thread::sleep(Duration::from_millis(15));
        }
    });
    let read = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).unwrap();
        bytes
    });
    for part in DEATHS {
        assert!(!fed.is_finished(), "the input was over before the deaths");
        strike(installation, part);
    }
    fed.join().unwrap();
    let got = read.join().unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    assert_eq!(
        first_difference(&got, &expected),
        None,
        "{} of {} bytes came back",
        got.len(),
        expected.len()
    );
}

#[test]
fn a_cat_in_a_pipe_goes_on() {
    let installation = Installation::with_busybox();
    pipe_survives(
        &["run", "-i", "--rm", "--network", "none", "busybox", "cat"],
        &installation,
    );
    installation.assert_clean();
}

#[test]
fn an_exec_in_a_pipe_goes_on() {
    let installation = Installation::with_busybox();
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "host",
        "--network",
        "none",
        "busybox",
        "sleep",
        "1000",
    ]);
    pipe_survives(&["exec", "-i", "host", "cat"], &installation);
    installation.ok(&["rm", "-f", "host"]);
    installation.assert_clean();
}

/// Checks that the lines are `1 …`, `2 …` and so on, each once.
fn check_numbers(what: &str, text: &str, last: u64) {
    let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
    let mut in_order = true;
    let mut previous = 0;
    for line in text.lines() {
        let number = line.split(' ').next().unwrap().parse().unwrap_or(0);
        in_order &= number == previous + 1;
        previous = number;
        *counts.entry(number).or_default() += 1;
    }
    if in_order && previous == last {
        return;
    }
    let missing: Vec<u64> = (1..=last)
        .filter(|number| !counts.contains_key(number))
        .collect();
    let doubled: Vec<u64> = counts
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(number, _)| *number)
        .collect();
    panic!(
        "{what}: {} missing (from {:?}), {} doubled (from {:?}), {} malformed, in order: {in_order}",
        missing.len(),
        missing.first(),
        doubled.len(),
        doubled.first(),
        counts.get(&0).copied().unwrap_or(0)
    );
}

#[test]
fn ten_megabytes_a_second_are_logged_and_seen_once() {
    let installation = Installation::with_busybox();
    // A hundred bytes a line and 1 MB ten times a second.
    const LINES: u64 = 400_000;
    let script = format!(
        "awk 'BEGIN {{ pad = sprintf(\"%091d\", 0); for (i = 1; i <= {LINES}; i++) {{ print i, pad; \
         if (i % 10000 == 0) {{ fflush(); system(\"usleep 60000\") }} }} }}'; exit 3"
    );
    let mut client = installation
        .command(&[
            "run",
            "--name",
            "writer",
            "--network",
            "none",
            "--log-opt",
            "max-size=1g",
            "busybox",
            "sh",
            "-c",
            &script,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = client.stdout.take().unwrap();
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        text
    });
    let began = Instant::now();
    await_pair(&installation);
    let mut deaths = 0;
    for part in DEATHS.into_iter().cycle().take(12) {
        if read.is_finished() {
            break;
        }
        strike(&installation, part);
        deaths += 1;
        std::thread::sleep(Duration::from_millis(40));
    }
    let seen = read.join().unwrap();
    assert!(deaths >= 6, "only {deaths} deaths in {:?}", began.elapsed());
    assert_eq!(client.wait().unwrap().code(), Some(3));
    check_numbers("the attached client", &seen, LINES);
    check_numbers("the log", &installation.ok(&["logs", "writer"]), LINES);
    assert_eq!(installation.ok(&["wait", "writer"]), "3");
    installation.ok(&["rm", "writer"]);
    installation.assert_clean();
}

/// The published port of a container, as `ps` says.
fn published(installation: &Installation, name: &str) -> u16 {
    let text = installation.ok(&[
        "ps",
        "--filter",
        &format!("name={name}"),
        "--format",
        "{{.Ports}}",
    ]);
    let number = text
        .split("->")
        .next()
        .and_then(|head| head.rsplit(':').next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no port in {text:?}"))
}

fn ask(address: &str, port: u16) -> std::io::Result<String> {
    let address = std::net::SocketAddr::new(address.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.rsplit("\r\n").next().unwrap_or_default().to_owned())
}

#[test]
fn ports_logs_and_exit_code_go_on() {
    let installation = Installation::with_busybox();
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "0:80",
        "busybox",
        "sh",
        "-c",
        "mkdir /srv; echo answer > /srv/index.html; httpd -p 80 -h /srv; \
         trap 'echo said goodbye; exit 42' TERM; while :; do sleep 0.1; done",
    ]);
    let port = published(&installation, "web");
    wait_until("an answer of the container", || {
        ask("127.0.0.1", port).is_ok_and(|text| text == "answer\n")
    });
    for part in DEATHS {
        strike(&installation, part);
        assert_eq!(
            ask("127.0.0.1", port).unwrap(),
            "answer\n",
            "after the death of {part:?}"
        );
        assert_eq!(
            ask("::1", port).unwrap(),
            "answer\n",
            "after the death of {part:?}"
        );
        assert_eq!(
            installation.ok(&["ps", "--format", "{{.Names}} {{.State}}"]),
            "web running"
        );
        assert_eq!(installation.ok(&["exec", "web", "echo", "still"]), "still");
        // The port stays reserved: nobody else can take it.
        let refused = installation.gantry(&[
            "run",
            "--rm",
            "-p",
            &format!("{port}:80"),
            "busybox",
            "true",
        ]);
        assert_eq!(refused.status.code(), Some(125));
    }
    let waiting = installation
        .command(&["wait", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    strike(&installation, Part::Inner);
    strike(&installation, Part::Outer);
    installation.ok(&["stop", "web"]);
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&waited.stdout), "42\n");
    assert_eq!(installation.ok(&["logs", "web"]), "said goodbye");
    let code = installation.ok(&["inspect", "--format", "{{.State.ExitCode}}", "web"]);
    assert_eq!(code, "42");
    assert!(ask("127.0.0.1", port).is_err(), "the port is still served");
    installation.ok(&["rm", "web"]);
    installation.assert_clean();
}

/// A process of the container that is born by a successor is like every other.
#[test]
fn processes_born_by_a_successor_are_like_others() {
    let installation = Installation::with_busybox();
    installation.ok(&[
        "run",
        "-d",
        "--name",
        "host",
        "--network",
        "none",
        "busybox",
        "sleep",
        "1000",
    ]);
    let facts = [
        "exec",
        "host",
        "sh",
        "-c",
        "grep -E '^(Sig(Blk|Ign)|Cap|Seccomp:|NoNewPrivs|Groups)' /proc/self/status; ls /proc/self/fd | wc -l; umask; cat /proc/self/oom_score_adj",
    ];
    let before = installation.ok(&facts);
    for part in [Part::Inner, Part::Outer, Part::Inner] {
        strike(&installation, part);
        assert_eq!(
            installation.ok(&facts),
            before,
            "after the death of {part:?}"
        );
        installation.fails(77, &["exec", "host", "sh", "-c", "exit 77"]);
    }
    installation.ok(&["rm", "-f", "host"]);
    installation.assert_clean();
}

/// Only when both are killed together may the exit status be lost, and the record says so.
#[test]
fn both_dead_is_on_record() {
    let installation = Installation::with_busybox();
    installation.ok(&[
        "run", "-d", "--name", "orphan", "-p", "0:80", "busybox", "sleep", "1000",
    ]);
    let both = await_pair(&installation);
    // The inner one must have no time to replace the outer one.
    for pid in [both.outer, both.inner] {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    }
    super::pair::kill(both.outer);
    super::pair::kill(both.inner);
    wait_until("the end of both", || installation.supervisors().is_empty());
    assert_eq!(
        installation.ok(&["ps", "--format", "{{.Names}} {{.State}}"]),
        "orphan running"
    );
    installation.ok(&["stop", "-t", "1", "orphan"]);
    let said = installation.ok(&[
        "inspect",
        "--format",
        "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}",
        "orphan",
    ]);
    assert!(
        said.starts_with("exited 255 the supervisor was killed"),
        "{said}"
    );
    installation.ok(&["start", "orphan"]);
    installation.ok(&["rm", "-f", "orphan"]);
    installation.assert_clean();
}

/// 40 containers, or 200 in the long run, by 8 processes at once.
#[test]
fn heavy_many_at_once() {
    let installation = Installation::with_busybox();
    let each = if super::is_long() { 25 } else { 5 };
    let started = std::thread::scope(|scope| {
        let starters: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let start = |_| installation.ok(&["run", "-d", "busybox", "sleep", "1000"]);
                    (0..each).map(start).collect::<Vec<String>>()
                })
            })
            .collect();
        let done = starters.into_iter().map(|starter| starter.join().unwrap());
        done.flatten().collect::<Vec<String>>()
    });
    assert_eq!(started.len(), 8 * each);
    let running = installation.ok(&["ps", "-q", "--no-trunc", "--filter", "status=running"]);
    assert_eq!(running.lines().count(), started.len());
    let mut inspect = vec![
        "inspect",
        "--format",
        "{{.Name}} {{.NetworkSettings.IPAddress}} {{.State.Status}}",
    ];
    inspect.extend(started.iter().map(String::as_str));
    let facts = installation.ok(&inspect);
    let mut names: Vec<&str> = Vec::new();
    let mut addresses: Vec<&str> = Vec::new();
    for line in facts.lines() {
        let [name, address, state] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line:?}");
        };
        assert_eq!(state, "running");
        assert!(address.parse::<std::net::Ipv4Addr>().is_ok(), "{line:?}");
        names.push(name);
        addresses.push(address);
    }
    for list in [&mut names, &mut addresses] {
        list.sort_unstable();
        list.dedup();
        assert_eq!(list.len(), started.len());
    }
    // What the kernel says, and not only the record: every one answers with its address.
    let own = installation.ok(&[
        "exec",
        &started[0],
        "ip",
        "-o",
        "-4",
        "addr",
        "show",
        "eth0",
    ]);
    assert!(
        addresses
            .iter()
            .any(|address| own.contains(&format!("{address}/"))),
        "{own}"
    );
    std::thread::scope(|scope| {
        for part in started.chunks(each) {
            let mut remove = vec!["rm", "-f"];
            remove.extend(part.iter().map(String::as_str));
            let installation = &installation;
            scope.spawn(move || installation.ok(&remove));
        }
    });
    installation.assert_clean();
}
