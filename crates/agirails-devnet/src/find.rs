//! Where anvil lies.

use std::{
    env::{self, consts},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use agirails::{Code, Error, Result};

/// The environment variable that names the anvil to use.
pub const ANVIL_VARIABLE: &str = "AGIRAILS_ANVIL";

/// The one that was named; else the first on the `PATH`; else the nearest that npm installed, in
/// the working directory or above it.
pub(crate) fn anvil(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return usable(path)
            .ok_or_else(|| missing(format!("there is no anvil at {}", path.display())));
    }
    if let Some(path) = env::var_os(ANVIL_VARIABLE).filter(|path| !path.is_empty()) {
        let path = Path::new(&path);
        return usable(path).ok_or_else(|| {
            missing(format!(
                "there is no anvil at {}, which {ANVIL_VARIABLE} names",
                path.display()
            ))
        });
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&on_path).map(|directory| directory.join("anvil"));
    let working_directory = env::current_dir().unwrap_or_default();
    let by_npm = working_directory.ancestors().flat_map(|directory| {
        ["node_modules/.bin/anvil", "target/npm/node_modules/.bin/anvil"]
            .map(|path| directory.join(path))
    });
    on_path
        .chain(by_npm)
        .find_map(|path| usable(&path))
        .ok_or_else(|| missing("anvil is not installed".to_owned()))
}

fn missing(message: String) -> Error {
    Error::new(Code::DevnetUnavailable, message).with_hint(format!(
        "install it with `npm install @foundry-rs/anvil`, or name it in {ANVIL_VARIABLE}"
    ))
}

/// npm's `anvil` is a script that starts node, which starts the program: go to the program where
/// it is found.
fn usable(path: &Path) -> Option<PathBuf> {
    let found = fs::canonicalize(path).ok()?;
    let metadata = fs::metadata(&found).ok()?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return None;
    }
    let system = if consts::OS == "macos" { "darwin" } else { consts::OS };
    let machine = match consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let program = format!("anvil-{system}-{machine}/bin/anvil");
    let beside = found.parent()?.parent().map(|directory| directory.join(&program));
    let within = found.parent()?.join("node_modules/@foundry-rs").join(&program);
    Some(beside.into_iter().chain([within]).find(|path| path.is_file()).unwrap_or(found))
}
