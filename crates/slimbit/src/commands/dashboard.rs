//! A run as a full terminal screen: `pretrain --dashboard`.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, Paragraph, Row, Table};
use slimbit_train::{Event, StepRecord};

use super::interrupt::Interrupt;
use super::pretrain;

/// Iterations of which curves are drawn.
const HISTORY: usize = 2000;
/// Lines of news that are kept.
const NEWS: usize = 50;
/// Time between two drawings.
const FRAME: Duration = Duration::from_millis(250);
/// Time within which a key is heard.
const KEYS: Duration = Duration::from_millis(100);

/// What the screen shows.
pub(super) struct Dashboard {
    terminal: DefaultTerminal,
    view: View,
    drawn: Instant,
    closed: Arc<AtomicBool>,
}

/// The state of a run, as far as it is shown.
struct View {
    title: String,
    records: VecDeque<StepRecord>,
    steps: u64,
    remaining: Duration,
    news: VecDeque<String>,
}

impl Dashboard {
    /// Takes the terminal over, until [`close`](Self::close). Keys that stop the run are heard at any time, also in the
    /// middle of a long step.
    pub(super) fn open(title: String, interrupt: Interrupt) -> io::Result<Self> {
        let terminal = ratatui::try_init()?;
        let closed = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&closed);
        thread::spawn(move || {
            while !gone.load(Ordering::Relaxed) {
                // A terminal that can no longer be read has no keys; training goes on.
                match wants_to_stop() {
                    Ok(true) => interrupt.request(),
                    Ok(false) => {}
                    Err(_) => break,
                }
            }
        });
        Ok(Self {
            terminal,
            closed,
            view: View {
                title,
                records: VecDeque::new(),
                steps: 1,
                remaining: Duration::ZERO,
                news: VecDeque::from(["q stops; a second q at once".to_owned()]),
            },
            drawn: Instant::now(),
        })
    }

    /// Takes an event in; draws, where it is time.
    pub(super) fn tell(&mut self, event: Event) -> io::Result<()> {
        self.view.take_in(event);
        if self.drawn.elapsed() < FRAME {
            return Ok(());
        }
        self.drawn = Instant::now();
        let view = &self.view;
        self.terminal.draw(|frame| view.draw(frame)).map(|_| ())
    }

    /// Gives the terminal back.
    pub(super) fn close(self) -> io::Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        ratatui::try_restore()
    }
}

/// Waits for a key for a moment. Ctrl-C is a key like any other while the screen is ours.
fn wants_to_stop() -> io::Result<bool> {
    if !event::poll(KEYS)? {
        return Ok(false);
    }
    let Input::Key(key) = event::read()? else {
        return Ok(false);
    };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Ok(key.is_press()
        && match key.code {
            KeyCode::Char('q') => true,
            KeyCode::Char('c') => control,
            _ => false,
        })
}

impl View {
    fn take_in(&mut self, event: Event) {
        match event {
            Event::Step {
                record,
                steps,
                remaining,
            } => {
                self.steps = steps;
                self.remaining = remaining;
                self.records.push_back(record);
                if self.records.len() > HISTORY {
                    self.records.pop_front();
                }
                return;
            }
            Event::Paced {
                per_step,
                steps_left,
                remaining,
            } => (self.news).push_back(pretrain::pace(per_step, steps_left, remaining)),
            Event::Saved { step, .. } => self.news.push_back(format!("saved after {step}")),
            Event::Collapsed(finding) => {
                let told = finding.to_string();
                self.news.extend(told.lines().map(str::to_owned));
            }
            Event::RolledBack { step, lr_factor } => self.news.push_back(format!(
                "rolled back to {step}; the rate is {lr_factor} of the schedule's"
            )),
        }
        while self.news.len() > NEWS {
            self.news.pop_front();
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [
            Constraint::Length(3),
            Constraint::Min(8),
            Constraint::Length(8),
            Constraint::Length(8),
        ];
        let [progress, curves, networks, news] = Layout::vertical(rows).areas(frame.area());
        let [left, right] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(curves);
        self.draw_progress(frame, progress);
        self.draw_curve(frame, left, "loss of the base network", |record| {
            record.networks[0].loss
        });
        self.draw_curve(frame, right, "least feature spread", |record| {
            let spreads = record.networks.iter().map(|network| network.feature_std);
            spreads.fold(f64::INFINITY, f64::min)
        });
        self.draw_networks(frame, networks);
        let lines = self.news.iter().rev().take(6).rev();
        let lines: Vec<Line<'_>> = lines.map(|line| Line::from(line.as_str())).collect();
        frame.render_widget(
            Paragraph::new(lines).block(Block::bordered().title("news")),
            news,
        );
    }

    fn draw_progress(&self, frame: &mut Frame<'_>, area: Rect) {
        let Some(last) = self.records.back() else {
            return;
        };
        let label = format!(
            "{} of {} · epoch {} · rate {:.4} · {:.0} images/s · {} left",
            last.step,
            self.steps,
            last.epoch,
            last.lr,
            last.images_per_second,
            indicatif::HumanDuration(self.remaining)
        );
        let gauge = Gauge::default()
            .block(Block::bordered().title(self.title.as_str()))
            .ratio((last.step as f64 / self.steps as f64).clamp(0.0, 1.0))
            .gauge_style(Style::new().fg(Color::Cyan))
            .label(label);
        frame.render_widget(gauge, area);
    }

    fn draw_curve(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        value: impl Fn(&StepRecord) -> f64,
    ) {
        let points: Vec<(f64, f64)> = self
            .records
            .iter()
            .map(|record| (record.step as f64, value(record)))
            .collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return;
        };
        let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
        let bounds = [low, high.max(low + 1e-3)];
        let curve = Dataset::default()
            .marker(Marker::Braille)
            .style(Style::new().fg(Color::Green))
            .data(&points);
        let labels = |[low, high]: [f64; 2]| [format!("{low:.3}"), format!("{high:.3}")];
        let steps = [first.0, last.0.max(first.0 + 1.0)];
        let chart = Chart::new(vec![curve])
            .block(Block::bordered().title(title))
            .x_axis(Axis::default().bounds(steps))
            .y_axis(Axis::default().bounds(bounds).labels(labels(bounds)));
        frame.render_widget(chart, area);
    }

    fn draw_networks(&self, frame: &mut Frame<'_>, area: Rect) {
        let Some(last) = self.records.back() else {
            return;
        };
        let rows = last.networks.iter().map(|network| {
            let bits = network
                .bits
                .map_or_else(|| "float".to_owned(), |[w, a]| format!("W{w}A{a}"));
            Row::new([
                format!("{:.3}x", network.width),
                bits,
                format!("{:.4}", network.loss),
                format!("{:.3}", network.feature_std),
                format!("{:.1}", network.effective_rank),
                format!("{:.3}", network.agreement),
                network
                    .gradient_norm
                    .map_or_else(String::new, |norm| format!("{norm:.3}")),
            ])
        });
        let header = [
            "width",
            "bits",
            "loss",
            "spread",
            "rank",
            "agreement",
            "gradient",
        ];
        let table = Table::new(rows, [Constraint::Fill(1); 7])
            .header(Row::new(header).bold())
            .block(Block::bordered().title("networks of the last iteration"));
        frame.render_widget(table, area);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use slimbit_train::NetworkRecord;

    use super::*;

    #[test]
    fn the_screen_shows_progress_networks_and_news() {
        let mut view = View {
            title: "runs/first".to_owned(),
            records: VecDeque::new(),
            steps: 1,
            remaining: Duration::ZERO,
            news: VecDeque::new(),
        };
        for step in 0..5 {
            let network = NetworkRecord {
                width: 0.25,
                bits: Some([4, 8]),
                loss: 1.0 / (1 + step) as f64,
                feature_std: 0.4,
                effective_rank: 12.0,
                agreement: 0.9,
                gradient_norm: Some(2.5),
                rounding: None,
            };
            view.take_in(Event::Step {
                record: StepRecord {
                    step,
                    epoch: 0,
                    lr: 0.1,
                    networks: vec![network],
                    images_per_second: 99.0,
                },
                steps: 10,
                remaining: Duration::from_secs(60),
            });
        }
        view.take_in(Event::RolledBack {
            step: 3,
            lr_factor: 0.5,
        });
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let text: String = terminal
            .backend()
            .buffer()
            .content()
            .iter()
            .map(|cell| cell.symbol())
            .collect();
        for part in [
            "4 of 10",
            "runs/first",
            "0.250x",
            "W4A8",
            "rolled back to 3",
            "99 images/s",
        ] {
            assert!(text.contains(part), "{part} is not on the screen");
        }
    }
}
