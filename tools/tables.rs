//! `pushplane tables …`: table sources and images.

mod diff;
mod learn;
mod show;
mod size;

use std::path::{Path, PathBuf};

use pushplane::table::generate::{Generate, generate};
use pushplane::table::{Image, source};

use crate::{Stop, common};

/// Table sources and images
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Build(BuildArgs),
    Check(CheckArgs),
    Size(size::Args),
    Diff(diff::Args),
    Show(show::Args),
    Generate(GenerateArgs),
    Learn(learn::Args),
}

pub(crate) fn run(command: &Command) -> Result<(), Stop> {
    match command {
        Command::Build(args) => build(args),
        Command::Check(args) => check(args),
        Command::Size(args) => size::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Show(args) => show::run(args),
        Command::Generate(args) => make(args),
        Command::Learn(args) => learn::run(args),
    }
}

/// Source files to one binary image, which only its owner can read
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane tables build tables/lab -o lab.ppt")]
pub(crate) struct BuildArgs {
    /// A directory of table sources
    dir: PathBuf,
    /// The image to write; one that is there is replaced whole
    #[arg(short, long, value_name = "IMAGE")]
    output: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What an image holds, in few words.
#[derive(serde::Serialize)]
struct Summary {
    ok: bool,
    path: String,
    digest: String,
    image_bytes: usize,
    entries: common::Entries,
}

impl Summary {
    fn new(path: &Path, image: &Image) -> Self {
        Self {
            ok: true,
            path: path.display().to_string(),
            digest: format!("{:032x}", image.digest()),
            image_bytes: image.bytes().len(),
            entries: common::entries(image),
        }
    }

    fn print(&self, what: &str, json: bool) -> Result<(), Stop> {
        if json {
            return common::print_json(self);
        }
        common::print(|out| {
            writeln!(out, "{what} {}: {}", self.path, self.entries.text())?;
            writeln!(out, "{} bytes, digest {}", common::grouped(self.image_bytes as u64), self.digest)
        })
    }
}

fn build(args: &BuildArgs) -> Result<(), Stop> {
    let (image, warnings) = common::build_sources(&args.dir)?;
    common::warn(&warnings);
    let _progress = common::Progress::start("writing the image");
    image.write(&args.output).map_err(|error| {
        common::fault(
            &args.output,
            format!("the image cannot be written: {error}; name another file or make room"),
        )
    })?;
    Summary::new(&args.output, &image).print("built", args.json)
}

/// Whether sources or an image can be served; every fault by file, line and column
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane tables check tables/lab
  pushplane tables check lab.ppt --json")]
pub(crate) struct CheckArgs {
    /// A directory of table sources, or an image
    #[arg(value_name = "DIR|IMAGE")]
    tables: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn check(args: &CheckArgs) -> Result<(), Stop> {
    let image = common::open_tables(&args.tables)?;
    Summary::new(&args.tables, &image).print("ok", args.json)
}

/// A synthetic operator of any size: the same files for the same seed on every machine
#[derive(clap::Args)]
#[command(after_help = "Example:
  pushplane tables generate /tmp/operator --users 1000000 --seed 7")]
pub(crate) struct GenerateArgs {
    /// The directory to write; made if it is not there
    dir: PathBuf,
    /// How many users, each with one terminal or more
    #[arg(long, value_name = "N", value_parser = common::number::<u64>(0..=Generate::USERS_MAX))]
    users: u64,
    /// Same seed, same files
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = common::number::<u64>(0..=u64::MAX))]
    seed: u64,
    /// Write into a directory that is not empty
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn make(args: &GenerateArgs) -> Result<(), Stop> {
    common::expect_empty(&args.dir, args.force)?;
    let progress = common::Progress::start("writing the operator");
    let made = generate(&args.dir, &Generate { users: args.users, seed: args.seed });
    drop(progress);
    let made =
        made.map_err(|error| common::fault(&args.dir, format!("the files cannot be written: {error}")))?;
    if args.json {
        return common::print_json(&made);
    }
    common::print(|out| {
        let files = source::FILES.len();
        writeln!(
            out,
            "wrote {files} files of {} bytes to {}:",
            common::grouped(made.bytes),
            args.dir.display()
        )?;
        for (table, rows) in [
            ("servers", made.servers),
            ("gateways", made.gateways),
            ("segments", made.segments),
            ("apps", made.apps),
            ("users", made.users),
            ("terminals", made.terminals),
            ("names", made.names),
            ("group members", made.members),
            ("keys", made.keys),
        ] {
            writeln!(out, "{:>15} {table}", common::grouped(rows))?;
        }
        Ok(())
    })
}
