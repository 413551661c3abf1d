//! Applications that a message starts, when they are not running and the user agrees: what the destination Push
//! client does in figure 10 of US 9,307,039 (S45).
//!
//! The message is the application's standard input, what is known of it the environment; nothing that a sender
//! chooses reaches the command line. An application runs once: while it does, messages for it are only
//! shown. It is left running when `listen` ends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Seek, Write};
use std::process::Stdio;
use std::str::FromStr;

use pushplane::id::ParseError;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;

use super::terminal::Arrival;
use crate::Stop;
use crate::common::{harmless, note};

/// `APP=COMMAND`.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    app: u32,
    command: String,
}

impl FromStr for Wanted {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong =
            || ParseError("expected an application identifier and a command as APP=COMMAND".to_owned());
        let (app, command) = text.split_once('=').ok_or_else(wrong)?;
        let app = app.trim().parse().map_err(|_| wrong())?;
        if command.trim().is_empty() {
            return Err(wrong());
        }
        Ok(Self { app, command: command.to_owned() })
    }
}

/// What comes from outside: the user's answers, and the ends of applications.
pub(super) enum Input {
    /// A line that the user typed; `None`: there will be no more.
    Line(Option<String>),
    /// The application with this number ended.
    Ended(u32, io::Result<std::process::ExitStatus>),
}

/// An application and what it is doing.
struct Application {
    wanted: Wanted,
    is_running: bool,
    /// Nobody need be asked.
    is_agreed: bool,
}

/// A message that waits for the user to agree.
struct Question {
    app: u32,
    start: Start,
}

/// What an application is given.
struct Start {
    environment: Vec<(&'static str, String)>,
    payload: Vec<u8>,
}

/// Those that were given by `--exec`.
pub(super) struct Applications {
    known: Vec<Application>,
    /// The first one was asked.
    questions: VecDeque<Question>,
    inputs: UnboundedSender<Input>,
}

impl Applications {
    /// Those that may be started, each after asking unless `is_agreed`. What happens outside comes in by
    /// `inputs`.
    ///
    /// # Errors
    /// When nobody could be asked, or an application has two commands.
    pub(super) fn new(
        wanted: &[Wanted],
        is_agreed: bool,
        inputs: UnboundedSender<Input>,
    ) -> Result<Self, Stop> {
        for (n, one) in wanted.iter().enumerate() {
            if wanted[..n].iter().any(|other| other.app == one.app) {
                return Err(Stop::Wrong(format!(
                    "--exec {}=…: given twice; name each application once",
                    one.app
                )));
            }
        }
        let asks = !wanted.is_empty() && !is_agreed;
        if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            let why = "--exec asks before it starts an application, and there is no terminal to ask on; \
                       add --yes to start without asking";
            return Err(Stop::Wrong(why.to_owned()));
        }
        if asks {
            read_lines(inputs.clone());
        }
        let known = wanted.iter().cloned();
        let known = known.map(|wanted| Application { wanted, is_running: false, is_agreed }).collect();
        Ok(Self { known, questions: VecDeque::new(), inputs })
    }

    fn find(&mut self, app: u32) -> Option<&mut Application> {
        self.known.iter_mut().find(|known| known.wanted.app == app)
    }

    /// A message came: starts its application, or asks whether to.
    pub(super) fn arrived(&mut self, arrival: &Arrival<'_>) {
        let app = arrival.header.app;
        let is_asked = self.questions.iter().any(|question| question.app == app);
        let Some(known) = self.find(app) else { return };
        if known.is_running {
            note(format_args!("application {app} is running"));
            return;
        }
        if known.is_agreed {
            self.start(app, &Start::of(arrival));
        } else if !is_asked {
            self.questions.push_back(Question { app, start: Start::of(arrival) });
            if self.questions.len() == 1 {
                self.ask();
            }
        }
    }

    /// Puts the first question.
    fn ask(&mut self) {
        let Some(app) = self.questions.front().map(|question| question.app) else { return };
        let Some(known) = self.find(app) else { return };
        let command = harmless(&known.wanted.command);
        note(format_args!("application {app} is not running; start \"{command}\"? yes, no, always:"));
    }

    /// Something came from outside.
    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Ended(app, status) => {
                if let Some(known) = self.find(app) {
                    known.is_running = false;
                }
                match status {
                    Ok(status) => note(format_args!("application {app} ended: {status}")),
                    Err(error) => note(format_args!("application {app} cannot be watched: {error}")),
                }
            }
            Input::Line(None) => self.questions.clear(),
            Input::Line(Some(line)) => self.answered(line.trim()),
        }
    }

    fn answered(&mut self, line: &str) {
        let Some(app) = self.questions.front().map(|question| question.app) else { return };
        let (starts, always) = match line.to_ascii_lowercase().as_str() {
            "y" | "yes" => (true, false),
            "a" | "always" => (true, true),
            "n" | "no" | "" => (false, false),
            _ => return self.ask(),
        };
        let question = self.questions.pop_front();
        if let Some(known) = self.find(app) {
            known.is_agreed |= always;
        }
        match question.filter(|_| starts) {
            Some(question) => self.start(app, &question.start),
            None => note(format_args!("application {app} is not started")),
        }
        self.ask();
    }

    fn start(&mut self, app: u32, start: &Start) {
        let inputs = self.inputs.clone();
        let Some(known) = self.find(app) else { return };
        match spawn(&known.wanted.command, start) {
            Ok(mut child) => {
                known.is_running = true;
                note(format_args!("application {app} started, process {}", child.id().unwrap_or_default()));
                tokio::task::spawn_local(async move {
                    let status = child.wait().await;
                    // Nobody listens any more when everything ends.
                    let _ = inputs.send(Input::Ended(app, status));
                });
            }
            Err(error) => note(format_args!("application {app} cannot be started: {error}")),
        }
    }
}

impl Start {
    fn of(arrival: &Arrival<'_>) -> Self {
        let Arrival { header, content_type, group, payload, direct } = arrival;
        let mut environment = vec![
            ("PUSHPLANE_APP", header.app.to_string()),
            ("PUSHPLANE_ID", header.destination.to_string()),
            ("PUSHPLANE_SOURCE", header.source.to_string()),
            ("PUSHPLANE_MESSAGE", format!("{:016x}", header.message)),
        ];
        // Chosen by the sender, and perhaps with what no environment holds.
        environment.extend(content_type.map(|text| ("PUSHPLANE_CONTENT_TYPE", harmless(text))));
        environment.extend(group.map(|group| ("PUSHPLANE_GROUP", group.to_string())));
        environment.extend(direct.map(|from| ("PUSHPLANE_DIRECT", from.to_string())));
        Self { environment, payload: payload.to_vec() }
    }
}

fn spawn(command: &str, start: &Start) -> io::Result<Child> {
    // A file without a name: whole before the application begins, whatever becomes of us.
    let mut input: File = tempfile::tempfile()?;
    input.write_all(&start.payload)?;
    input.rewind()?;
    Command::new("/bin/sh")
        .args(["-c", command])
        .envs(start.environment.iter().map(|(name, value)| (*name, value)))
        .stdin(input)
        // Standard output is for payloads.
        .stdout(Stdio::from(io::stderr()))
        // What the terminal interrupts is `listen`.
        .process_group(0)
        .spawn()
}

/// Reads what the user types, on a thread of its own: a read of a terminal cannot be given up.
fn read_lines(inputs: UnboundedSender<Input>) {
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if inputs.send(Input::Line(Some(line))).is_err() {
                return;
            }
        }
        let _ = inputs.send(Input::Line(None));
    });
}
