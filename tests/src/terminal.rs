//! A terminal in which a program runs: what it shows, and how it leaves it.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// A pseudo-terminal with a program that leads its session.
pub struct Terminal {
    /// The end at which a person sits.
    ours: File,
    /// The end of the program; open as long as this, so that its modes can be looked at.
    theirs: File,
    modes_before: Modes,
    program: Child,
    shown: Arc<Mutex<Shown>>,
}

struct Shown {
    parser: vt100::Parser,
    /// All that has come.
    bytes: Vec<u8>,
}

/// How the terminal handles input and output.
type Modes = (rustix::termios::InputModes, rustix::termios::OutputModes, rustix::termios::LocalModes);

fn modes(of: &File) -> Modes {
    let modes: Termios = tcgetattr(of).unwrap();
    (modes.input_modes, modes.output_modes, modes.local_modes)
}

impl Terminal {
    /// Runs a command in a new terminal of this size.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (ours, theirs) = (File::from(ours), File::from(theirs));
        let end = || theirs.try_clone().unwrap();
        tcsetwinsize(&ours, size(columns, rows)).unwrap();
        let modes_before = modes(&theirs);
        // The terminal is to be the program's own: signals of its keys and of its size go there.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        if command.get_envs().all(|(name, _)| name != "TERM") {
            session.env("TERM", "xterm-256color");
        }
        let program = session.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let parser = vt100::Parser::new(lines(rows), lines(columns), 0);
        let shown = Arc::new(Mutex::new(Shown { parser, bytes: Vec::new() }));
        let (mut reader, seen) = (ours.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut bytes) {
                let mut seen = seen.lock().unwrap();
                seen.parser.process(&bytes[..len]);
                seen.bytes.extend(&bytes[..len]);
            }
        });
        Self { ours, theirs, modes_before, program, shown }
    }

    /// What is to be seen now.
    pub fn text(&self) -> String {
        self.shown.lock().unwrap().parser.screen().contents()
    }

    /// All that the program has sent, with its control sequences.
    pub fn sent(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap().bytes).into_owned()
    }

    /// Waits until this is to be seen.
    pub fn wait_for(&self, words: &str) {
        self.wait(&format!("{words:?}"), || self.text().contains(words));
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain for {what}:\n{}", self.text());
            std::thread::yield_now();
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// Makes it larger or smaller; the program is told.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.shown.lock().unwrap().parser.screen_mut().set_size(lines(rows), lines(columns));
        tcsetwinsize(&self.ours, size(columns, rows)).unwrap();
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.program.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for the end of the program; its exit code. The terminal has to be as it was before.
    pub fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = loop {
            match self.program.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "it does not end:\n{}", self.text()),
            }
            std::thread::yield_now();
        };
        assert_eq!(modes(&self.theirs), self.modes_before, "the terminal's modes");
        let is_whole = || {
            let shown = self.shown.lock().unwrap();
            let screen = shown.parser.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        };
        self.wait("the screen as it was before, with a cursor", is_whole);
        status.code()
    }

    /// Are keys given to the program as they are pressed?
    pub fn is_raw(&self) -> bool {
        modes(&self.theirs) != self.modes_before
    }
}

fn lines(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a terminal has some")
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
