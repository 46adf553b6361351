//! Terminals, as a person at one sees them: the tests sit in tmux and type.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test fail as the test does"
)]

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::{Installation, text, wait_until};

/// A terminal with a shell in it, whose commands are this installation's.
struct Screen {
    socket: PathBuf,
}

impl Screen {
    fn new(gantry: &Installation) -> Screen {
        let screen = Screen {
            socket: gantry.root.join("tmux"),
        };
        let started = Command::new("tmux")
            .arg("-S")
            .arg(&screen.socket)
            .args([
                "-f",
                "/dev/null",
                "new-session",
                "-d",
                "-x",
                "80",
                "-y",
                "24",
                "env",
                "PS1=host> ",
                "sh",
            ])
            .env("GANTRY_DATA_ROOT", &gantry.data)
            .env("GANTRY_RUN_ROOT", &gantry.run)
            .env(
                "PATH",
                format!(
                    "{}:{}",
                    support::bin_dir().display(),
                    std::env::var("PATH").unwrap()
                ),
            )
            .env("LC_ALL", "C.UTF-8")
            .status()
            .expect("tmux is installed");
        assert!(started.success());
        screen.sees("host>");
        screen
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "tmux {arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Types a line.
    fn types(&self, line: &str) {
        self.tmux(&["send-keys", "-l", "--", line]);
        self.presses(&["Enter"]);
    }

    /// Presses keys, by tmux's names.
    fn presses(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys", "--"];
        arguments.extend(keys);
        self.tmux(&arguments);
    }

    /// What is on the screen, without empty lines at the end.
    fn shows(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J"])
            .trim_end()
            .to_owned()
    }

    /// Waits until a text is on the screen.
    fn sees(&self, part: &str) {
        let mut last = String::new();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(15);
        while std::time::Instant::now() < until {
            last = self.shows();
            if last.contains(part) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{part:?} does not come up on the screen:\n{last}");
    }

    /// Forgets what was shown, so that what is seen later is new.
    fn clears(&self, prompt: &str) {
        self.types("clear");
        wait_until("the screen is empty", || self.shows() == prompt.trim_end());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .arg("kill-server")
            .output();
    }
}

#[test]
fn an_interactive_shell_behaves_like_one() {
    let gantry = Installation::with_busybox();
    let screen = Screen::new(&gantry);
    screen.types("gantry run -it --rm --network none --name shell -e PS1='box> ' busybox");
    screen.sees("\nbox>");
    // What is typed is echoed once, and what it does follows on a line of its own.
    screen.types("echo $((6 * 7)) $TERM");
    screen.sees("box> echo $((6 * 7)) $TERM\n42 xterm\nbox>");
    screen.types("test -t 0 && test -t 1 && test -t 2 && tty; stty size");
    screen.sees("/dev/pts/0\n24 80\n");
    // The size follows the window, and the program is told.
    screen.types(
        "sh -c 'trap \"stty size; exit\" WINCH; echo s\"\"et; while :; do sleep 0.05; done'",
    );
    screen.sees("\nset");
    screen.tmux(&["resize-window", "-x", "100", "-y", "30"]);
    screen.sees("\n30 100\nbox>");
    // A program of the shell is interrupted, not the shell, and not the command outside.
    screen.clears("box>");
    screen.types("sleep 1000; echo status=$?");
    wait_until("the sleep runs", || {
        text(&gantry.gantry(&["exec", "shell", "ps"]).stdout).contains("sleep 1000")
    });
    screen.presses(&["C-c"]);
    screen.sees("^C\nbox>");
    wait_until("the sleep has ended", || {
        !gantry.ok(&["exec", "shell", "ps"]).contains("sleep 1000")
    });
    // Job control works: the shell has the terminal as its own.
    screen.types("sleep 1000");
    wait_until("the sleep runs", || {
        text(&gantry.gantry(&["exec", "shell", "ps"]).stdout).contains("sleep 1000")
    });
    screen.presses(&["C-z"]);
    screen.sees("Stopped");
    screen.types("kill -9 %1");
    wait_until("the sleep has ended", || {
        !gantry.ok(&["exec", "shell", "ps"]).contains("sleep 1000")
    });
    // The first prompt after it only takes notice.
    screen.types("jobs");
    screen.sees("Killed");
    screen.types("exit 5");
    screen.sees("host>");
    screen.types(
        "echo code=$?; stty -a | tr ' ' '\\n' | grep -xE -- '-?(icanon|echo|isig|opost);?' | xargs",
    );
    screen.sees("code=5");
    screen.sees("opost isig icanon echo");
    gantry.assert_clean();
}

#[test]
fn detaching_leaves_it_running_and_attaching_comes_back() {
    let gantry = Installation::with_busybox();
    let screen = Screen::new(&gantry);
    screen.types("gantry run -it --network none --name shell -e PS1='box> ' busybox");
    screen.sees("\nbox>");
    screen.types("here=still");
    screen.presses(&["C-p", "C-q"]);
    screen.sees("read escape sequence\nhost>");
    screen.types("echo code=$?");
    screen.sees("code=0");
    assert_eq!(gantry.inspect("shell")["State"]["Running"], true);
    // Back in the same shell, and in a terminal of another size meanwhile.
    screen.tmux(&["resize-window", "-x", "90", "-y", "20"]);
    screen.types("clear; gantry attach shell");
    screen.types("echo $here here; stty size");
    screen.sees("still here\n20 90");
    // A lone ctrl-p is the program's: the shell's line before.
    screen.clears("box>");
    screen.types("echo once");
    screen.sees("once\nbox>");
    screen.presses(&["C-p", "Enter"]);
    screen.sees("once\nbox> echo once\nonce\nbox>");
    // Other keys, by flag.
    screen.presses(&["C-p", "C-q"]);
    screen.sees("host>");
    screen.types("clear; gantry attach --detach-keys ctrl-x,d shell");
    screen.types("echo again");
    screen.sees("\nagain\n");
    screen.presses(&["C-x", "d"]);
    screen.sees("read escape sequence\nhost>");
    // The end of the shell ends the attached command, with its code.
    screen.types("clear; gantry attach shell");
    screen.types("exit 6");
    screen.sees("host>");
    screen.types("echo code=$?");
    screen.sees("code=6");
    // Started again, with its terminal.
    screen.types("clear; gantry start -ai shell");
    screen.sees("box>");
    screen.types("stty size; exit 4");
    screen.sees("20 90\nhost>");
    screen.types("echo code=$?");
    screen.sees("code=4");
    gantry.ok(&["rm", "shell"]);
    gantry.assert_clean();
}

#[test]
fn exec_gives_a_terminal_too() {
    let gantry = Installation::with_busybox();
    gantry.ok(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "base",
        "busybox",
        "sleep",
        "1000",
    ]);
    let screen = Screen::new(&gantry);
    screen.types("gantry exec -it -u app -w /tmp -e PS1='exec> ' base sh");
    screen.sees("\nexec>");
    screen.types("id -un; pwd; tty; stty size; echo $TERM");
    screen.sees("app\n/tmp\n/dev/pts/0\n24 80\nxterm");
    screen.tmux(&["resize-window", "-x", "70", "-y", "22"]);
    screen.types("clear");
    wait_until("the size has arrived", || {
        screen.types("clear; stty size");
        screen.shows().contains("22 70")
    });
    screen.clears("exec>");
    screen.types("cat");
    wait_until("cat runs", || {
        gantry
            .ok(&["exec", "base", "ps"])
            .lines()
            .any(|line| line.ends_with(" cat"))
    });
    screen.types("typed");
    screen.sees("typed\ntyped");
    screen.presses(&["C-c"]);
    screen.sees("^C\nexec>");
    screen.types("exit 9");
    screen.sees("host>");
    screen.types("echo code=$?");
    screen.sees("code=9");
    // Detached from, it goes on.
    screen.types("clear; gantry exec -it -e PS1='exec> ' base sh");
    screen.sees("\nexec>");
    screen.types("touch /tmp/up; while :; do sleep 0.1; done");
    wait_until("the loop runs", || {
        gantry
            .gantry(&["exec", "base", "test", "-e", "/tmp/up"])
            .status
            .success()
    });
    screen.presses(&["C-p", "C-q"]);
    screen.sees("read escape sequence");
    assert!(
        gantry
            .ok(&["exec", "base", "ps"])
            .lines()
            .any(|line| line.ends_with(" sh"))
    );
    gantry.ok(&["rm", "-f", "base"]);
    gantry.assert_clean();
}

#[test]
fn a_terminal_without_a_person() {
    let gantry = Installation::with_busybox();
    // One stream, with the line ends of a terminal; the log keeps it as it was.
    let output = gantry.gantry(&[
        "run",
        "-t",
        "--network",
        "none",
        "--name",
        "tty",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2; tty",
    ]);
    assert_eq!(text(&output.stdout), "out\r\nerr\r\n/dev/pts/0\r");
    assert_eq!(output.stderr, b"");
    assert_eq!(gantry.gantry(&["logs", "tty"]).stdout, output.stdout);
    gantry.ok(&["rm", "tty"]);
    // Input that is no terminal cannot serve as one.
    for arguments in [
        &["run", "--rm", "-it", "--network", "none", "busybox", "sh"][..],
        &["exec", "-it", "nosuch", "sh"],
    ] {
        assert_eq!(gantry.fails(1, arguments), "the input device is not a TTY");
    }
    // Detached with a terminal: it waits for somebody to attach.
    gantry.ok(&[
        "run",
        "-dit",
        "--network",
        "none",
        "--name",
        "waiting",
        "busybox",
        "sh",
    ]);
    let screen = Screen::new(&gantry);
    screen.types("gantry attach waiting");
    screen.types("echo $((40 + 2))");
    screen.sees("\n42\n");
    screen.types("exit 0");
    screen.sees("host>");
    assert_eq!(gantry.ok(&["wait", "waiting"]), "0");
    gantry.ok(&["rm", "waiting"]);
    gantry.assert_clean();
}

#[test]
fn ctrl_c_reaches_a_program_without_a_shell() {
    let gantry = Installation::with_busybox();
    let screen = Screen::new(&gantry);
    // Process 1 takes no signal that it does not handle; with an init it is not process 1.
    screen.types(
        "gantry run -it --rm --init --network none busybox sh -c 'echo u\"\"p; exec sleep 1000'",
    );
    screen.sees("up");
    screen.presses(&["C-c"]);
    screen.sees("^Chost>");
    screen.types("echo code=$?");
    screen.sees("code=130");
    // Without a terminal of its own the signal is handed on by the command.
    screen.clears("host>");
    screen.types("gantry run --rm --network none busybox sh -c 'trap \"exit 11\" INT; echo u\"\"p; while :; do sleep 0.05; done'");
    screen.sees("up");
    screen.presses(&["C-c"]);
    screen.types("echo code=$?");
    screen.sees("code=11");
    gantry.assert_clean();
}
