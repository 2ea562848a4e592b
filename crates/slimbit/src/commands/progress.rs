//! Progress on standard error, so that results on standard output stay clean: a bar where it is a terminal, and
//! a plain line every few seconds where it is a file or a pipe.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use crate::console::{self, note};

/// Time between two plain lines: seconds at first, and a minute at most, so that the log of a night stays
/// readable.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);
/// Share of the time gone by after which the next plain line is due.
const SHARE: u32 = 60;

/// How far a job is. Its progress vanishes when it is dropped.
pub(super) enum Meter {
    /// On a terminal.
    Bar(ProgressBar),
    /// Elsewhere.
    Lines(Lines),
    /// For commands that are to be quiet.
    Silent,
}

/// Progress over a known number of steps, or one that is set later.
pub(super) fn steps(what: &'static str, length: usize) -> Meter {
    let template = "{prefix:12} [{elapsed_precise}] {bar:30} {pos}/{len} (eta {eta}) {msg}";
    Meter::start(what, 0, length as u64, template)
}

/// Progress over training iterations, `done` of which an earlier session did.
pub(super) fn training(done: u64, steps: u64) -> Meter {
    let template = "{prefix:12} [{elapsed_precise}] {bar:20} {pos}/{len} (eta {eta}) {wide_msg}";
    Meter::start("training", done, steps, template)
}

impl Meter {
    fn start(what: &'static str, done: u64, length: u64, template: &str) -> Self {
        if console::is_quiet() {
            return Self::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines(Lines::start(what, done, length));
        }
        let style = ProgressStyle::with_template(template).expect("a template of this file");
        let bar = ProgressBar::new(length)
            .with_position(done)
            .with_prefix(what)
            .with_style(style.progress_chars("=> "));
        let bar = console::bars().add(bar);
        bar.enable_steady_tick(Duration::from_millis(500));
        bar.reset_eta();
        Self::Bar(bar)
    }

    /// Steps in all.
    pub(super) fn set_length(&self, length: u64) {
        match self {
            Self::Bar(bar) => bar.set_length(length),
            Self::Lines(lines) => lines.state().length = length,
            Self::Silent => {}
        }
    }

    /// Steps done.
    pub(super) fn set_position(&self, done: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(done),
            Self::Lines(lines) => lines.state().done = done,
            Self::Silent => {}
        }
    }

    /// Time to the end, where the caller knows better than the mean pace of this session.
    pub(super) fn set_remaining(&self, remaining: Duration) {
        if let Self::Lines(lines) = self {
            lines.state().remaining = Some(remaining);
        }
    }

    /// So many more steps are done.
    pub(super) fn inc(&self, steps: u64) {
        match self {
            Self::Bar(bar) => bar.inc(steps),
            Self::Lines(lines) => lines.state().done += steps,
            Self::Silent => {}
        }
    }

    /// What is being done.
    pub(super) fn set_message(&self, message: impl Into<String>) {
        match self {
            Self::Bar(bar) => bar.set_message(message.into()),
            Self::Lines(lines) => lines.state().message = message.into(),
            Self::Silent => {}
        }
    }

    /// Ends the progress; dropping does the same.
    pub(super) fn finish_and_clear(&self) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines(lines) => lines.stop(),
            Self::Silent => {}
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.finish_and_clear();
    }
}

/// Plain lines, written by a thread of their own: a step may take longer than the time between two of them.
pub(super) struct Lines {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    what: &'static str,
    started: Instant,
    /// Steps that an earlier session did, and those done now.
    before: u64,
    done: u64,
    length: u64,
    remaining: Option<Duration>,
    message: String,
    ended: bool,
}

impl Lines {
    fn start(what: &'static str, done: u64, length: u64) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                what,
                started: Instant::now(),
                before: done,
                done,
                length,
                remaining: None,
                message: String::new(),
                ended: false,
            }),
            ended: Condvar::new(),
        });
        let teller = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("progress".to_owned());
        Self {
            shared,
            // Without a thread there is no progress to see, and the work goes on.
            thread: thread.spawn(move || teller.tell()).ok(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    fn stop(&self) {
        self.state().ended = true;
        self.shared.ended.notify_all();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let mut state = self.lock();
        loop {
            let due = (state.started.elapsed() / SHARE).clamp(SHORTEST, LONGEST);
            let wait = self.ended.wait_timeout_while(state, due, |s| !s.ended);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
            if state.ended {
                return;
            }
            let line = state.line();
            // Writing may block, and the work must not wait for it.
            drop(state);
            note!("{line}");
            state = self.lock();
        }
    }
}

impl State {
    fn line(&self) -> String {
        let mut line = format!("{:12}", self.what);
        let elapsed = self.started.elapsed();
        if self.length > 0 {
            let done = self.done.min(self.length);
            let percent = 100.0 * done as f64 / self.length as f64;
            let (done, length) = (HumanCount(done), HumanCount(self.length));
            let _ = write!(line, " {percent:3.0} % ({done} of {length})");
        }
        let _ = match self.remaining(elapsed) {
            Some(left) => write!(line, ", {} left", HumanDuration(left)),
            None => write!(line, ", {} so far", HumanDuration(elapsed)),
        };
        if !self.message.is_empty() {
            let _ = write!(line, " | {}", self.message);
        }
        line
    }

    /// Time to the end at the pace of this session.
    fn remaining(&self, elapsed: Duration) -> Option<Duration> {
        if self.remaining.is_some() {
            return self.remaining;
        }
        let here = self.done.checked_sub(self.before).filter(|&n| n > 0)?;
        let left = self.length.checked_sub(self.done)?;
        Some(elapsed.mul_f64(left as f64 / here as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(before: u64, done: u64, length: u64) -> State {
        State {
            what: "training",
            started: Instant::now(),
            before,
            done,
            length,
            remaining: None,
            message: String::new(),
            ended: false,
        }
    }

    #[test]
    fn time_left_counts_the_steps_of_this_session_only() {
        let minute = Duration::from_secs(60);
        assert_eq!(state(0, 1, 4).remaining(minute), Some(3 * minute));
        assert_eq!(state(50, 60, 100).remaining(minute), Some(4 * minute));
        assert_eq!(state(50, 50, 100).remaining(minute), None);
        assert_eq!(state(0, 5, 0).remaining(minute), None);
    }

    #[test]
    fn a_line_says_how_far_and_what() {
        let mut state = state(0, 1200, 4800);
        state.message = "loss 0.5".to_owned();
        let line = state.line();
        assert!(
            line.starts_with("training      25 % (1,200 of 4,800), "),
            "{line}"
        );
        assert!(line.ends_with(" left | loss 0.5"), "{line}");
        state.length = 0;
        assert!(state.line().contains("so far"), "{}", state.line());
    }
}
