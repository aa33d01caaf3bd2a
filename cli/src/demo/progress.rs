//! How far a phase is: a bar on a terminal, a line at each quarter where stderr is a pipe or a file.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use crate::chart;

/// How far one phase is. What a bar has drawn is wiped when it drops; lines stay.
#[derive(Debug)]
pub(super) enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// Into a pipe or a file, where a bar would be a heap of control characters.
    Lines(Lines),
    /// Not shown.
    Quiet,
}

impl Progress {
    /// Of `total` bytes, as suits stderr; nothing if `quiet`.
    pub(super) fn new(name: &'static str, total: u64, quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines(Lines::new(name, total));
        }
        let style = "{msg:<16} {bar:40} {binary_bytes:>10} of {binary_total_bytes} {binary_bytes_per_sec:>14} {eta:>4}";
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self::Bar(bar.with_message(name))
    }

    /// `bytes` more are done.
    pub(super) fn advance(&mut self, bytes: u64) {
        match self {
            Self::Bar(bar) => bar.inc(bytes),
            Self::Lines(lines) => {
                if let Some(line) = lines.advance(bytes) {
                    crate::out::tell(format_args!("memkv demo: {line}"));
                }
            }
            Self::Quiet => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Says when another quarter is done.
#[derive(Debug)]
pub(super) struct Lines {
    name: &'static str,
    total: u64,
    done: u64,
    quarters: u64,
}

impl Lines {
    fn new(name: &'static str, total: u64) -> Self {
        Self {
            name,
            total,
            done: 0,
            quarters: 0,
        }
    }

    fn advance(&mut self, bytes: u64) -> Option<String> {
        self.done += bytes;
        let quarters = self.done * 4 / self.total.max(1);
        if quarters <= self.quarters {
            return None;
        }
        self.quarters = quarters;
        let percent = self.done * 100 / self.total.max(1);
        let (name, total) = (self.name, chart::bytes(self.total));
        Some(format!("{name}: {percent} % of {total}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_a_line_a_quarter_and_the_last_says_all() {
        let mut lines = Lines::new("write", 64 << 20);
        let said: Vec<String> = (0..64).filter_map(|_| lines.advance(1 << 20)).collect();
        let expected = [25, 50, 75, 100].map(|percent| format!("write: {percent} % of 64.0 MiB"));
        assert_eq!(said, expected);
        // Large steps skip lines, and never repeat one.
        let mut lines = Lines::new("write", 100);
        assert_eq!(lines.advance(80), Some("write: 80 % of 100 B".to_owned()));
        assert_eq!(lines.advance(1), None);
        assert_eq!(lines.advance(19), Some("write: 100 % of 100 B".to_owned()));
        assert_eq!(Lines::new("nothing", 0).advance(0), None);
    }
}
