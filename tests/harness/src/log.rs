//! What a server under test logs, captured per server.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// One line of a log.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its level.
    pub level: Level,
    /// Message and fields, as `message field=value …`.
    pub text: String,
}

/// Everything at `info` and above that was logged to one dispatcher.
#[derive(Debug, Clone, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<Line>>>,
}

impl Log {
    /// A dispatcher whose events land here; make it the default of the thread that starts the server.
    pub fn dispatch(&self) -> Dispatch {
        Dispatch::new(tracing_subscriber::registry().with(Capture(self.clone())))
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().clone()
    }

    /// The warnings and errors that contain none of `allowed`.
    pub fn complaints(&self, allowed: &[String]) -> Vec<Line> {
        let is_allowed = |line: &Line| allowed.iter().any(|text| line.text.contains(text.as_str()));
        let mut lines = self.lines();
        lines.retain(|line| line.level <= Level::WARN && !is_allowed(line));
        lines
    }
}

struct Capture(Log);

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let text = format!("{}{}", text.message, text.fields);
        self.0.lines.lock().unwrap().push(Line { level, text });
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}
