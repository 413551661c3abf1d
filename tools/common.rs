//! What several commands do.

use std::path::Path;

use pushplane::diagnostic::Diagnostic;
use pushplane::table::{Image, ImageError, Rib, source};

use crate::Stop;

/// The tables of a directory of sources or of an image, with what they say. Warnings go to standard
/// error.
pub(crate) fn open(path: &Path) -> Result<(Image, Rib), Stop> {
    let wrong = |error: ImageError| Stop::Wrong(Diagnostic::new(path, 1, 1, error.to_string()).to_string());
    if path.is_dir() {
        let loaded = source::load(path)?;
        for warning in &loaded.warnings {
            eprintln!("warning: {warning}");
        }
        return Ok((Image::build(&loaded.rib).map_err(wrong)?, loaded.rib));
    }
    let image = Image::open(path).map_err(wrong)?;
    let rib = image.to_rib();
    Ok((image, rib))
}
