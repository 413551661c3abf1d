//! DPDK's tables at the same job: the C program `tools/peers/dpdk.c`, built when libdpdk is installed, asked line by
//! line.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::contest::{Beside, Contestant, Entrant, Job, Place, Run, cpu};
use super::users::{Population, Users};

const SOURCE: &str = include_str!("../../tools/peers/dpdk.c");

/// The program, running.
pub(crate) struct Dpdk {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
}

impl Drop for Dpdk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command printed; an error when it failed.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{name}: {}", text(&output.stderr)))
    }
}

impl Dpdk {
    /// Builds and starts it.
    pub(crate) fn start() -> Result<Self, String> {
        let flags = output(Command::new("pkg-config").args(["--cflags", "--libs", "libdpdk"]))
            .map_err(|_| "pkg-config knows no libdpdk; on Debian, apt-get install libdpdk-dev".to_owned())?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let [source, program] = ["dpdk.c", "dpdk"].map(|name| folder.path().join(name));
        std::fs::write(&source, SOURCE).map_err(|error| error.to_string())?;
        let mut compile = Command::new("cc");
        compile
            .args(["-O3", "-march=native", "-o"])
            .arg(&program)
            .arg(&source)
            .args(flags.split_whitespace());
        output(&mut compile)?;
        let mut child = Command::new(&program)
            .args([cpu(Place::Reader).to_string(), cpu(Place::Writer).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let (Some(ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no standard streams".to_owned());
        };
        let mut dpdk = Self { child, ask, answers: BufReader::new(answers), folder };
        dpdk.answer()?;
        Ok(dpdk)
    }

    fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
        match line.trim().split_once(' ') {
            Some(("ok", answer)) => Ok(answer.to_owned()),
            _ => Err(if line.is_empty() { "it ended".to_owned() } else { line.trim().to_owned() }),
        }
    }

    /// What it answers.
    pub(crate) fn ask(&mut self, question: &str) -> Result<String, String> {
        writeln!(self.ask, "{question}").map_err(|error| error.to_string())?;
        self.answer()
    }

    /// The numbers that it answers to a run, of which there is no reason to fail.
    pub(crate) fn run(&mut self, question: &str) -> (Run, Vec<u64>) {
        let answer = self.ask(question).unwrap_or_else(|why| panic!("dpdk: {question}: {why}"));
        let numbers: Vec<u64> = answer.split(' ').filter_map(|number| number.parse().ok()).collect();
        (Run { time: Duration::from_nanos(numbers[0]), sum: numbers[1] }, numbers)
    }

    /// A file of these records.
    pub(crate) fn file<const N: usize>(&self, name: &str, records: impl Iterator<Item = [u8; N]>) -> PathBuf {
        let path = self.folder.path().join(name);
        let mut out = BufWriter::new(File::create(&path).expect("a temporary folder can be written"));
        for record in records {
            out.write_all(&record).expect("a temporary file can be written");
        }
        out.flush().expect("a temporary file can be written");
        path
    }
}

/// rte_hash, 64 keys a call, its values read.
struct Hash {
    dpdk: Dpdk,
    bytes: Option<f64>,
}

impl Hash {
    fn new(population: &Population) -> Result<Self, String> {
        let mut dpdk = Dpdk::start()?;
        let bytes = dpdk.ask(&format!("hash {}", population.users))?;
        Ok(Self { dpdk, bytes: bytes.parse().ok() })
    }

    fn ask(&mut self, questions: &Users, beside: bool) -> (Run, Vec<u64>) {
        let keys = self.dpdk.file("keys", questions.ids.iter().map(|id| id.to_bytes()));
        self.dpdk.run(&format!("hash_run {} 64 {}", keys.display(), u8::from(beside)))
    }
}

impl Contestant<Users> for Hash {
    fn run(&mut self, questions: &Users) -> Run {
        self.ask(questions, false).0
    }

    fn beside_writer(&mut self, questions: &Users) -> Option<Beside> {
        let (run, numbers) = self.ask(questions, true);
        Some(Beside { run, writes_per_s: numbers[2] as f64 / run.time.as_secs_f64() })
    }

    fn bytes(&self) -> Option<f64> {
        self.bytes
    }
}

/// What it has for users.
pub(crate) fn entrants() -> Vec<super::UserEntrant> {
    vec![Entrant::new("DPDK rte_hash, bulk of 64", Job::Value, Hash::new).heavy()]
}
