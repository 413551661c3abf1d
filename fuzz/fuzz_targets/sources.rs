//! Table sources: the input's first byte says which file of `tables/lab` the rest replaces. The
//! directory is loaded or refused with faults that name a place within it; what is loaded makes an image
//! that says the same again.

#![no_main]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pushplane::table::source::{self, FILES};
use pushplane::table::{Image, Rib};

/// A copy of `tables/lab` of this process's own, in memory where there is such a file system.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        // Those of processes that are gone are nobody's any more.
        let prefix = "pushplane-fuzz-sources-";
        for left in fs::read_dir(&base).unwrap().flatten() {
            if let Some(pid) = left.file_name().to_str().and_then(|name| name.strip_prefix(prefix))
                && !Path::new("/proc").join(pid).exists()
            {
                let _ = fs::remove_dir_all(left.path());
            }
        }
        let folder = base.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        FILES.iter().for_each(|file| restore(&folder, file));
        folder
    })
}

fn restore(folder: &Path, file: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tables/lab").join(file);
    put(folder, file, &fs::read(from).unwrap());
}

fn put(folder: &Path, file: &str, bytes: &[u8]) {
    let path = folder.join(file);
    fs::write(&path, bytes).unwrap();
    // keys.toml is refused when others can read it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn sorted(mut rib: Rib) -> Rib {
    rib.users.sort_by_key(|user| (user.push_id, user.device));
    rib.apps.sort_by_key(|app| app.id);
    rib.names.sort();
    rib.groups.sort();
    rib.keys.sort_by_key(|key| key.id);
    rib
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let (folder, file) = (folder(), FILES[usize::from(*first) % FILES.len()]);
    put(folder, file, bytes);
    match source::load(folder) {
        Ok(loaded) => {
            let image = Image::build(&loaded.rib).expect("what is loaded is consistent");
            assert_eq!(sorted(image.to_rib()), sorted(loaded.rib));
        }
        Err(diagnostics) => {
            assert!(!diagnostics.0.is_empty());
            assert!(diagnostics.to_string().contains(&*folder.to_string_lossy()));
        }
    }
    restore(folder, file);
});
