//! The small language of the cases: what one side of a connection does. Knows nothing of HTTP.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// An endless body ends for this test after so long or so many bytes.
const ENDLESS_TIME: Duration = Duration::from_secs(6);
const ENDLESS_BYTES: usize = 200_000_000;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Send(Vec<u8>),
    /// `<<FIN>>`: no more will be sent.
    Finish,
    /// `<<CLOSE>>`
    Close,
    /// `<<RST>>`
    Reset,
    /// `<<SLEEP S>>`
    Sleep(Duration),
    /// `<<NOREAD S>>`: nothing is read for so long.
    NoRead(Duration),
    /// `<<DRIP N S>>`: so many bytes, so far apart.
    Drip(u32, Duration),
    /// `<<INF block>>`: the block for ever.
    Endless(Vec<u8>),
}

impl Step {
    /// What is sent on purpose, not to pass the time.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Send(bytes) => bytes,
            _ => &[],
        }
    }
}

/// What became of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Played {
    /// It can be used further.
    Open,
    /// Drop it.
    Ended,
}

/// Reads a script in which one character is one byte and `<<N*text>>` repeats.
pub(super) fn parse(script: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut text = Vec::new();
    let mut rest = script;
    while let Some((before, more)) = rest.split_once("<<") {
        let (inside, after) = more.split_once(">>").expect("`<<` has its `>>`");
        text.extend(latin1(before));
        rest = after;
        match repeated(inside) {
            Some(bytes) => text.extend(bytes),
            None => {
                flush(&mut text, &mut steps);
                steps.push(command(inside));
            }
        }
    }
    text.extend(latin1(rest));
    flush(&mut text, &mut steps);
    steps
}

fn flush(text: &mut Vec<u8>, steps: &mut Vec<Step>) {
    if !text.is_empty() {
        steps.push(Step::Send(std::mem::take(text)));
    }
}

fn repeated(inside: &str) -> Option<Vec<u8>> {
    let (count, text) = inside.split_once('*')?;
    Some(latin1(text).repeat(count.parse().ok()?))
}

fn command(inside: &str) -> Step {
    let (word, arguments) = inside.split_once(' ').unwrap_or((inside, ""));
    let seconds = |text: &str| Duration::from_secs_f64(text.parse().expect("seconds"));
    match word {
        "FIN" => Step::Finish,
        "CLOSE" => Step::Close,
        "RST" => Step::Reset,
        "SLEEP" => Step::Sleep(seconds(arguments)),
        "NOREAD" => Step::NoRead(seconds(arguments)),
        "DRIP" => {
            let (count, apart) = arguments.split_once(' ').expect("count and seconds");
            Step::Drip(count.parse().expect("a count"), seconds(apart))
        }
        "INF" => Step::Endless(latin1(&arguments.replace("{32768}", &"z".repeat(32768)))),
        _ => panic!("the command {word} is not known"),
    }
}

pub(super) fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("one character is one byte")).collect()
}

/// Plays the steps until they end, the connection does, or `over` is hung up.
pub(super) fn play(steps: &[Step], stream: &mut TcpStream, over: &Receiver<()>) -> io::Result<Played> {
    for step in steps {
        match step {
            Step::Send(bytes) => stream.write_all(bytes)?,
            Step::Finish => stream.shutdown(Shutdown::Write)?,
            Step::Close => return Ok(Played::Ended),
            Step::Reset => {
                // What was sent before has to be read first, or the reset would overtake it.
                pause(over, Duration::from_millis(200))?;
                reset_on_close(stream)?;
                return Ok(Played::Ended);
            }
            Step::Sleep(time) | Step::NoRead(time) => pause(over, *time)?,
            Step::Drip(count, apart) => {
                for _ in 0..*count {
                    stream.write_all(b"a")?;
                    pause(over, *apart)?;
                }
            }
            Step::Endless(block) => {
                let (start, mut sent) = (Instant::now(), 0);
                while start.elapsed() < ENDLESS_TIME && sent < ENDLESS_BYTES {
                    stream.write_all(block)?;
                    sent += block.len();
                }
            }
        }
    }
    Ok(Played::Open)
}

/// Closing the connection is a TCP reset from now on.
pub(super) fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

fn pause(over: &Receiver<()>, time: Duration) -> io::Result<()> {
    match over.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        _ => Err(io::ErrorKind::Interrupted.into()),
    }
}

#[test]
fn scripts_are_read() {
    assert_eq!(
        parse("a<<3*b\r\n>>c<<SLEEP 0.5>>\u{ff}<<DRIP 2 1>><<FIN>>"),
        [
            Step::Send(b"ab\r\nb\r\nb\r\nc".to_vec()),
            Step::Sleep(Duration::from_millis(500)),
            Step::Send(vec![0xff]),
            Step::Drip(2, Duration::from_secs(1)),
            Step::Finish,
        ]
    );
}
