//! The rooms of the house and the arrows between them, read from the sources: who may use whom,
//! and that no two modules side by side use each other.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What each room of this crate may use beside those that all may.
const ARROWS: [(&str, &[&str]); 13] = [
    ("paywall", &["client", "kernel", "storage", "network"]),
    ("consumer", &["client", "kernel", "storage", "network", "process_locks"]),
    ("keeper", &["client", "kernel", "storage", "network"]),
    ("client", &["kernel", "storage", "wallet", "network"]),
    ("testkit", &["client", "kernel", "network"]),
    ("kernel", &["storage", "wallet", "network", "process_locks"]),
    ("storage", &[]),
    ("wallet", &["network"]),
    ("network", &[]),
    ("process_locks", &["storage"]),
    ("fork", &[]),
    ("error", &[]),
    ("wall_clock", &[]),
];
const FOR_ALL: [&str; 4] = ["error", "fork", "protocol", "wall_clock"];

/// A module's path from the root of its crate.
type Module = Vec<String>;

/// The modules of a crate, and what each uses: modules of the same crate, or `protocol`.
struct Sources(BTreeMap<Module, BTreeSet<Module>>);

impl Sources {
    fn of(krate: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(krate).join("src");
        let mut files = BTreeMap::new();
        collect(&root, &root, &mut files);
        assert!(files.len() > 5, "{}", root.display());
        let modules: BTreeSet<_> = files.keys().cloned().collect();
        let uses = files.iter().map(|(module, code)| {
            let used = paths(code)
                .into_iter()
                .filter_map(|path| resolve(module, &path, &modules))
                .filter(|target| target != module)
                .collect();
            (module.clone(), used)
        });
        Self(uses.collect())
    }
}

fn collect(root: &Path, directory: &Path, files: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = module(path.strip_prefix(root).unwrap());
            // Tests stand outside: they may use what they test from anywhere.
            if !module.last().is_some_and(|name| name.ends_with("tests")) {
                files.insert(module, code(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
}

fn module(file: &Path) -> Module {
    let mut module: Module = PathBuf::from(file)
        .with_extension("")
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if ["mod", "lib"].contains(&module.last().unwrap().as_str()) {
        module.pop();
    }
    module
}

/// A source without its comments and its unit tests.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = source.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `crate`, `self` or `super`, with those of `use` trees spelled out.
fn paths(code: &str) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                tree(&code[at..], vec![], &mut found);
            }
        }
    }
    found
}

/// Reads one path, or a tree of paths in braces, and returns what follows it.
fn tree<'a>(
    mut text: &'a str,
    mut path: Vec<String>,
    found: &mut BTreeSet<Vec<String>>,
) -> &'a str {
    loop {
        text = text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        if end > 0 {
            path.push(text[..end].to_owned());
        }
        text = &text[end..];
        if let Some(rest) = text.strip_prefix("::") {
            text = rest;
        } else if let Some(rest) = text.strip_prefix('{').filter(|_| end == 0) {
            text = rest;
            loop {
                text = tree(text, path.clone(), found).trim_start();
                match text.strip_prefix(',') {
                    Some(rest) if rest.trim_start().starts_with('}') => {
                        return rest.trim_start().strip_prefix('}').unwrap();
                    }
                    Some(rest) => text = rest,
                    None => return text.strip_prefix('}').unwrap_or(text),
                }
            }
        } else {
            found.insert(path);
            return text;
        }
    }
}

/// The module that a path leads to: its longest beginning that is one.
fn resolve(from: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let mut at = from.clone();
    for (index, segment) in path.iter().enumerate() {
        match segment.as_str() {
            "crate" => at = vec![],
            "self" if index == 0 => {}
            "super" => drop(at.pop()),
            name => at.push(name.to_owned()),
        }
    }
    if at.first().is_some_and(|first| first == "protocol") {
        return Some(vec!["protocol".to_owned()]);
    }
    while !modules.contains(&at) {
        at.pop()?;
    }
    // `super` of a module inside a file is that file, which is read as if it were its parent.
    let is_inline = at.is_empty() && path[0] == "super";
    (!is_inline).then_some(at)
}

#[test]
fn arrows_between_rooms_only_point_down() {
    let sources = Sources::of("agirails");
    let allowed: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let mut seen = BTreeSet::new();
    let mut wrong = vec![];
    for (module, used) in &sources.0 {
        let Some(room) = module.first() else { continue };
        let allowed = allowed.get(room.as_str()).unwrap_or_else(|| panic!("{room} is no room"));
        for target in used {
            // The root names things for users; inside, each is named where it lives.
            let target = target.first().map_or("the root", String::as_str);
            if target == room {
                continue;
            }
            seen.insert((room.clone(), target.to_owned()));
            if !allowed.contains(&target) && !FOR_ALL.contains(&target) {
                wrong.push(format!("{} uses {target}", module.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The table says what is, not what might be.
    for (room, targets) in ARROWS {
        for target in targets {
            let arrow = (room.to_owned(), (*target).to_owned());
            assert!(seen.contains(&arrow), "{room} no longer uses {target}: strike it out");
        }
    }
    for (room, targets) in ARROWS {
        for target in targets {
            assert!(!allowed[target].contains(&room), "{room} and {target} use each other");
        }
    }
}

#[test]
fn no_modules_side_by_side_use_each_other() {
    let mut circles = BTreeSet::new();
    for krate in
        ["agirails", "agirails-cli", "agirails-devnet", "agirails-protocol", "agirails-python"]
    {
        let sources = Sources::of(krate);
        // For each parent: which of its children use which.
        let mut siblings: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (module, used) in &sources.0 {
            for target in used {
                let shared = module.iter().zip(target).take_while(|(a, b)| a == b).count();
                if let (Some(a), Some(b)) = (module.get(shared), target.get(shared)) {
                    let children = siblings.entry(module[..shared].to_vec()).or_default();
                    children.entry(a.clone()).or_default().insert(b.clone());
                }
            }
        }
        for (parent, children) in &siblings {
            for start in children.keys() {
                if let Some(circle) = circle(start, children) {
                    circles.insert(format!("{krate}::{}: {circle:?}", parent.join("::")));
                }
            }
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

/// The modules that both are used by this one and use it, on whatever way.
fn circle(start: &str, uses: &BTreeMap<String, BTreeSet<String>>) -> Option<BTreeSet<String>> {
    let reach = |from: &str| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(name) = next.pop() {
            for target in uses.get(&name).into_iter().flatten() {
                if reached.insert(target.clone()) {
                    next.push(target.clone());
                }
            }
        }
        reached
    };
    let reached = reach(start);
    reached
        .contains(start)
        .then(|| reached.into_iter().filter(|name| reach(name).contains(start)).collect())
}
