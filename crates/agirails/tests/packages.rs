//! What a registry and a user's compiler are told about the crates.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{path::Path, process::Command};

use serde_json::Value;

/// This machine's platform, as the compiler names it.
fn host() -> String {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.unwrap().to_owned()
}

fn packages() -> Vec<Value> {
    // Dependencies of other platforms were never downloaded here.
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--all-features", "--format-version", "1"])
        .args(["--filter-platform", &host()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn is_ours(package: &Value) -> bool {
    package["source"].is_null()
}

/// `1.94.1` as numbers.
fn version(package: &Value) -> Option<Vec<u64>> {
    let text = package["rust_version"].as_str()?;
    let mut numbers: Vec<u64> = text.split('.').map(|part| part.parse().unwrap()).collect();
    numbers.resize(3, 0);
    Some(numbers)
}

#[test]
fn the_rust_version_is_what_the_dependencies_need() {
    let packages = packages();
    let needed = packages.iter().filter(|package| !is_ours(package)).filter_map(version).max();
    for package in packages.iter().filter(|package| is_ours(package)) {
        assert_eq!(version(package), needed, "{}", package["name"]);
    }
}

#[test]
fn every_crate_tells_a_registry_what_it_is() {
    let ours: Vec<_> = packages().into_iter().filter(is_ours).collect();
    assert!(ours.len() >= 4);
    for package in ours {
        let name = &package["name"];
        for key in ["description", "documentation", "license", "readme", "repository"] {
            assert!(package[key].as_str().is_some_and(|text| !text.is_empty()), "{name}: {key}");
        }
        for (key, most) in [("keywords", 5), ("categories", 5)] {
            let count = package[key].as_array().unwrap().len();
            assert!((1..=most).contains(&count), "{name}: {key}");
        }
        assert_eq!(package["metadata"]["docs"]["rs"]["all-features"], true, "{name}");
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        for file in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
            assert!(manifest.with_file_name(file).is_file(), "{name}: {file}");
        }
    }
}
