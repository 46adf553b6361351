//! What programs write and read: live, in the log, and through pipes.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use support::{Installation, text, wait_until};

/// Numbered lines of 1 MB and their end.
const LINES: usize = 150_000;

fn numbered() -> String {
    (1..=LINES).map(|number| format!("{number}\n")).collect()
}

/// Collects what a process writes, while it writes.
fn collect(child: &mut Child) -> Arc<Mutex<Vec<u8>>> {
    let mut source = child.stdout.take().unwrap();
    let sink = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&sink);
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(read @ 1..) = source.read(&mut buffer) {
            into.lock().unwrap().extend_from_slice(&buffer[..read]);
        }
    });
    sink
}

#[test]
fn output_and_error_stay_apart_live_and_in_the_log() {
    let gantry = Installation::with_busybox();
    let script = "echo out1; echo err1 >&2; echo out2; echo err2 >&2";
    let output = gantry.gantry(&[
        "run",
        "--network",
        "none",
        "--name",
        "two",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    for output in [output, gantry.gantry(&["logs", "two"])] {
        assert_eq!(text(&output.stdout), "out1\nout2");
        assert_eq!(text(&output.stderr), "err1\nerr2");
    }
    // A chosen stream alone.
    let output = gantry.gantry(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-a",
        "stderr",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(
        (text(&output.stdout).as_str(), text(&output.stderr).as_str()),
        ("", "err1\nerr2")
    );
    gantry.ok(&["rm", "two"]);
    gantry.assert_clean();
}

#[test]
fn a_megabyte_of_lines_arrives_whole_and_in_order() {
    let gantry = Installation::with_busybox();
    let expected = numbered();
    let count = LINES.to_string();
    let live = gantry.ok(&[
        "run",
        "--network",
        "none",
        "--name",
        "lines",
        "busybox",
        "seq",
        &count,
    ]);
    assert!(
        live == expected.trim_end(),
        "live output differs: {} bytes",
        live.len()
    );
    let log = gantry.ok(&["logs", "lines"]);
    assert!(
        log == expected.trim_end(),
        "the log differs: {} bytes",
        log.len()
    );
    assert_eq!(
        gantry.ok(&["logs", "-n", "2", "lines"]),
        format!("{}\n{LINES}", LINES - 1)
    );
    // Detached, with nobody reading, and followed from elsewhere.
    gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "quiet",
        "busybox",
        "seq",
        &count,
    ]);
    let followed = gantry.ok(&["logs", "-f", "quiet"]);
    assert!(
        followed == expected.trim_end(),
        "what was followed differs: {} bytes",
        followed.len()
    );
    gantry.ok(&["rm", "lines", "quiet"]);
    gantry.assert_clean();
}

#[test]
fn a_line_without_end_is_shown_at_once_and_kept_as_it_is() {
    let gantry = Installation::with_busybox();
    let mut child = gantry
        .command(&[
            "run",
            "-i",
            "--network",
            "none",
            "--name",
            "part",
            "busybox",
            "sh",
            "-c",
            "printf 'name? '; read name; printf \"hello $name\"",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let seen = collect(&mut child);
    wait_until("the question is shown", || {
        seen.lock().unwrap().as_slice() == b"name? "
    });
    child.stdin.take().unwrap().write_all(b"you\n").unwrap();
    assert!(child.wait().unwrap().success());
    wait_until("the answer is shown", || {
        seen.lock().unwrap().as_slice() == b"name? hello you"
    });
    assert_eq!(gantry.gantry(&["logs", "part"]).stdout, b"name? hello you");
    gantry.ok(&["rm", "part"]);
    // Long lines and bytes that are no text come back as they were.
    let script = "head -c 100000 /dev/zero | tr '\\0' x; printf '\\n\\377\\000\\033\\200\\n'; printf '\\342\\202\\254'";
    let live = gantry
        .gantry(&[
            "run",
            "--network",
            "none",
            "--name",
            "odd",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .stdout;
    assert_eq!(live.len(), 100_000 + 1 + 5 + 3);
    assert_eq!(&live[100_000..], b"\n\xff\0\x1b\x80\n\xe2\x82\xac");
    let logged = gantry.gantry(&["logs", "odd"]).stdout;
    assert_eq!(
        logged.len() - logged.iter().position(|&byte| byte != b'x').unwrap(),
        logged.len() - 100_000
    );
    assert!(logged.ends_with("\u{20ac}".as_bytes()));
    gantry.ok(&["rm", "odd"]);
    gantry.assert_clean();
}

#[test]
fn the_log_is_cut_by_count_and_by_time() {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "run",
        "--network",
        "none",
        "--name",
        "log",
        "busybox",
        "sh",
        "-c",
        "echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three",
    ]);
    let logs = |flags: &[&str]| {
        let mut arguments = vec!["logs"];
        arguments.extend(flags);
        arguments.push("log");
        let output = gantry.gantry(&arguments);
        assert!(
            output.status.success(),
            "{flags:?}: {}",
            text(&output.stderr)
        );
        (text(&output.stdout), text(&output.stderr))
    };
    let pair = |out: &str, err: &str| (out.to_owned(), err.to_owned());
    assert_eq!(logs(&["--tail", "1"]), pair("three", ""));
    assert_eq!(logs(&["--tail", "2"]), pair("three", "two"));
    assert_eq!(logs(&["--tail", "0"]), pair("", ""));
    assert_eq!(logs(&["--tail", "all"]), pair("one\nthree", "two"));
    assert_eq!(logs(&["--tail", "99"]), pair("one\nthree", "two"));
    let (out, err) = logs(&["-t"]);
    let mut times = Vec::new();
    for (line, message) in out.lines().chain(err.lines()).zip(["one", "three", "two"]) {
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, message);
        // RFC 3339 with nine digits, so that text order is time order.
        assert_eq!(
            (time.len(), &time[19..20], &time[29..]),
            (30, ".", "Z"),
            "{time}"
        );
        times.push(time.to_owned());
    }
    let (one, three, two) = (&times[0], &times[1], &times[2]);
    assert!(one < two && two < three, "{times:?}");
    assert_eq!(
        logs(&["--since", two]),
        pair("three", "two"),
        "since is inclusive"
    );
    assert_eq!(logs(&["--since", two, "--tail", "1"]), pair("three", ""));
    assert_eq!(logs(&["--until", one]).0, "one");
    assert!(!logs(&["--until", two]).0.contains("three"));
    assert_eq!(logs(&["--since", "1h"]), pair("one\nthree", "two"));
    assert_eq!(logs(&["--until", "1h"]), pair("", ""));
    assert_eq!(logs(&["--since", "2099-01-01"]), pair("", ""));
    gantry.ok(&["rm", "log"]);
    gantry.assert_clean();
}

#[test]
fn following_begins_before_and_ends_with_the_container() {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "run", "-di", "--network", "none", "--name", "slow", "busybox", "sh", "-c",
        "echo first; while [ ! -e /go ]; do sleep 0.02; done; echo second; while [ ! -e /end ]; do sleep 0.02; done; printf last",
    ]);
    let mut all = gantry
        .command(&["logs", "-f", "slow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the first line is in the log", || {
        gantry.ok(&["logs", "slow"]) == "first"
    });
    let mut news = gantry
        .command(&["logs", "-f", "-n", "0", "slow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (all_seen, news_seen) = (collect(&mut all), collect(&mut news));
    wait_until("the first line is followed", || {
        all_seen.lock().unwrap().as_slice() == b"first\n"
    });
    wait_until("the second follower has the log", || {
        fs::read_dir(format!("/proc/{}/fd", news.id()))
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|path| path.ends_with("json.log"))
    });
    // It has opened the log; nothing tells when it has counted the lines there.
    std::thread::sleep(std::time::Duration::from_millis(100));
    gantry.ok(&["exec", "slow", "touch", "/go"]);
    wait_until("the second line is followed", || {
        all_seen.lock().unwrap().as_slice() == b"first\nsecond\n"
    });
    wait_until("the second line is news", || {
        news_seen.lock().unwrap().as_slice() == b"second\n"
    });
    // The container may end before the exec, and take it along.
    gantry.gantry(&["exec", "slow", "touch", "/end"]);
    assert!(all.wait().unwrap().success());
    assert!(news.wait().unwrap().success());
    wait_until("the rest is there", || {
        all_seen.lock().unwrap().ends_with(b"last")
    });
    // A follower of something that has ended shows it and ends.
    assert_eq!(gantry.ok(&["logs", "-f", "slow"]), "first\nsecond\nlast");
    gantry.ok(&["rm", "slow"]);
    gantry.assert_clean();
}

#[test]
fn the_log_is_rotated_and_bounded() {
    let gantry = Installation::with_busybox();
    let id = gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--log-opt",
        "max-size=20k",
        "--log-opt",
        "max-file=3",
        "busybox",
        "sh",
        "-c",
        "seq 5000; sleep 1000",
    ]);
    wait_until("everything is logged", || {
        gantry.ok(&["logs", "-n", "1", &id]) == "5000"
    });
    let files: Vec<u64> = fs::read_dir(gantry.data.join("containers").join(&id))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(".log"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!((2..=3).contains(&files.len()), "{files:?}");
    // A batch of entries goes into one file: at most what one pipe holds, beyond the limit.
    assert!(
        files.iter().all(|&size| size < 20_000 + 700_000),
        "{files:?}"
    );
    let listing = gantry.ok(&["logs", &id]);
    let numbers: Vec<u32> = listing.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(*numbers.last().unwrap(), 5000);
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "a gap in the kept part"
    );
    gantry.ok(&["rm", "-f", &id]);
    // Slow lines, so that each rotation falls between two of them, and a follower over all.
    let id = gantry.ok(&[
        "run", "-di", "--network", "none", "--log-opt", "max-size=2k", "--log-opt", "max-file=3", "busybox", "sh", "-c",
        "read go; i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; [ $((i % 10)) = 0 ] && sleep 0.01; done",
    ]);
    let mut follower = gantry
        .command(&["logs", "-f", &id])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let seen = collect(&mut follower);
    gantry.feed(&["attach", &id], b"go\n");
    assert!(follower.wait().unwrap().success());
    wait_until("the last line is followed", || {
        seen.lock().unwrap().ends_with(b"line 300\n")
    });
    let seen = String::from_utf8(seen.lock().unwrap().clone()).unwrap();
    let expected: String = (1..=300).map(|number| format!("line {number}\n")).collect();
    assert_eq!(seen, expected);
    let kept = gantry.ok(&["logs", &id]);
    assert!(
        kept.lines().count() < 200 && kept.ends_with("line 300"),
        "{kept}"
    );
    let sizes: Vec<u64> = fs::read_dir(gantry.data.join("containers").join(&id))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(".log"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!(
        sizes.len() <= 3 && sizes.iter().sum::<u64>() < 3 * 4_000,
        "{sizes:?}"
    );
    gantry.ok(&["rm", &id]);
    gantry.assert_clean();
}

#[test]
fn input_through_a_pipe_arrives_whole_and_ends() {
    let gantry = Installation::with_busybox();
    let run = ["run", "--rm", "-i", "--network", "none", "busybox"];
    let cat = |input: &[u8]| {
        let mut arguments = run.to_vec();
        arguments.push("cat");
        let output = gantry.feed(&arguments, input);
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    };
    assert_eq!(cat(b""), b"");
    assert_eq!(cat(b"one line\n"), b"one line\n");
    let all: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    assert!(cat(&all) == all, "bytes of every value");
    // Without -i there is no input, whatever the caller has.
    assert_eq!(
        gantry
            .feed(&["run", "--rm", "--network", "none", "busybox", "cat"], b"")
            .stdout,
        b""
    );
    // A program that ends without reading does not keep the command.
    let output = gantry.feed(
        &["run", "--rm", "-i", "--network", "none", "busybox", "true"],
        b"unread",
    );
    assert!(output.status.success());
    gantry.assert_clean();
}

#[test]
fn five_megabytes_go_through_both_ways() {
    let gantry = Installation::with_busybox();
    // Pseudo-random, so that a block lost, doubled or displaced shows.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let input: Vec<u8> = (0..5 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "through",
        "busybox",
        "sleep",
        "1000",
    ]);
    for arguments in [
        &["run", "--rm", "-i", "--network", "none", "busybox", "cat"][..],
        &["exec", "-i", "through", "cat"],
    ] {
        let mut child = gantry
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let copy = input.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&copy));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        assert!(
            output.stdout == input,
            "{arguments:?}: {} bytes",
            output.stdout.len()
        );
    }
    gantry.ok(&["rm", "-f", "through"]);
    gantry.assert_clean();
}

#[test]
fn attach_joins_a_running_container() {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "run",
        "-di",
        "--network",
        "none",
        "--name",
        "joined",
        "busybox",
        "sh",
        "-c",
        "while read line; do echo got $line; [ $line = end ] && exit 6; done",
    ]);
    let mut attached = gantry
        .command(&["attach", "joined"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(attached.stdout.take().unwrap());
    let mut stdin = attached.stdin.take().unwrap();
    let mut line = String::new();
    for word in ["a", "b", "end"] {
        writeln!(stdin, "{word}").unwrap();
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, format!("got {word}\n"));
    }
    assert_eq!(
        attached.wait().unwrap().code(),
        Some(6),
        "the container's own code"
    );
    assert_eq!(gantry.ok(&["logs", "joined"]), "got a\ngot b\ngot end");
    let said = gantry.fails(1, &["attach", "joined"]);
    assert!(
        said.contains("not running") || said.contains("stopped"),
        "{said}"
    );
    gantry.ok(&["rm", "joined"]);
    // created, then started with its streams.
    gantry.ok(&[
        "create",
        "-i",
        "--network",
        "none",
        "--name",
        "later",
        "busybox",
        "sh",
        "-c",
        "cat; exit 3",
    ]);
    let output = gantry.feed(&["start", "-ai", "later"], b"fed at the start");
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(3), &b"fed at the start"[..])
    );
    gantry.ok(&["rm", "later"]);
    gantry.assert_clean();
}

#[test]
fn a_reader_that_leaves_does_not_harm_the_container() {
    let gantry = Installation::with_busybox();
    let mut child = gantry
        .command(&[
            "run",
            "--network",
            "none",
            "--name",
            "talker",
            "busybox",
            "sh",
            "-c",
            "i=0; while [ ! -e /end ]; do i=$((i+1)); echo $i; sleep 0.005; done; exit 8",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "1\n");
    // Its pipe is closed now: the command ends, the container goes on.
    child.wait().unwrap();
    let last = || {
        gantry
            .ok(&["logs", "-n", "1", "talker"])
            .parse::<u32>()
            .unwrap()
    };
    let before = last();
    wait_until("the container goes on writing", || last() > before + 10);
    // The container may end before the exec, and take it along.
    gantry.gantry(&["exec", "talker", "touch", "/end"]);
    assert_eq!(gantry.ok(&["wait", "talker"]), "8");
    gantry.ok(&["rm", "talker"]);
    gantry.assert_clean();
}
