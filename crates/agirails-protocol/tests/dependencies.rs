//! The rules stay pure: what this crate depends on holds no runtime, no clock, no storage and no
//! network.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{collections::BTreeSet, process::Command};

/// The crates by which such a thing would come in, as the start of a package's name.
const FORBIDDEN: [&str; 18] = [
    "alloy-consensus",
    "alloy-json-rpc",
    "alloy-network",
    "alloy-provider",
    "alloy-rpc",
    "alloy-signer",
    "alloy-transport",
    "chrono",
    "http",
    "hyper",
    "mio",
    "reqwest",
    "rusqlite",
    "rustls",
    "socket2",
    "tempfile",
    "time",
    "tokio",
];

fn dependencies() -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--package",
            "agirails-protocol",
            "--edges",
            "normal",
        ])
        .args(["--all-features", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn the_rules_depend_on_no_runtime_clock_storage_or_network() {
    let dependencies = dependencies();
    // What was read is the tree of this crate.
    for expected in ["agirails-protocol", "alloy-primitives", "serde_json"] {
        assert!(dependencies.contains(expected), "{dependencies:?}");
    }
    let impure: Vec<_> = dependencies
        .iter()
        .filter(|name| FORBIDDEN.iter().any(|forbidden| name.starts_with(forbidden)))
        .collect();
    assert!(impure.is_empty(), "{impure:?}");
}
