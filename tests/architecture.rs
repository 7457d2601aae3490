//! The layout of `src/` is the architecture: floors import downwards, and `std::sync` enters by one door.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms that it may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // no code
    ("docs", &[]),
    // ground floor
    ("primitive", &[]),
    // first floor: mechanisms
    ("stats", &["primitive"]),
    ("aging", &["primitive"]),
    ("local", &["primitive", "stats", "aging"]),
    // second floor: the pools
    ("sync_pool", &["primitive", "local", "stats", "aging"]),
    ("block_pool", &["primitive", "local"]),
    ("bounded", &["primitive"]),
    ("quarantine", &["primitive"]),
    ("runtime_pool", &["primitive"]),
    ("grpc", &["primitive", "stats"]),
    ("grpc/conn_manager", &["primitive", "bounded"]),
    ("grpc/stream_pool", &["primitive"]),
    ("grpc/client_pool", &["primitive", "stats", "aging", "sync_pool"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The files of `src`, by their path below it, each without its comments and without what follows `#[cfg(test)]`.
fn code() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 10);
    files
        .into_iter()
        // Tests in a file of their own.
        .filter(|file| file.file_name().is_none_or(|name| name != "models.rs" && name != "schedules.rs"))
        .map(|file| {
            let name = file.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
            let text = fs::read_to_string(&file).unwrap();
            let lines = text.lines().take_while(|line| {
                !line.trim().starts_with("#[cfg(test)]") && !line.trim().starts_with("#[cfg(all(test,")
            });
            let code: Vec<&str> = lines.map(|line| line.split("//").next().unwrap_or_default()).collect();
            (name, code.join("\n"))
        })
        .collect()
}

/// The rooms that a piece of code names as `crate::room`.
fn imports(code: &str) -> BTreeSet<String> {
    imports_below(code, "crate::")
}

fn imports_below(code: &str, path: &str) -> BTreeSet<String> {
    code.split(path)
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

fn room(file: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    let inside = |room: &str| file.starts_with(&format!("{room}/")) || file == format!("{room}.rs");
    MAY_IMPORT.iter().filter(|(room, _)| inside(room)).max_by_key(|(room, _)| room.len())
}

#[test]
fn arrows_go_down_only() {
    for (file, code) in code() {
        if file == "lib.rs" {
            continue;
        }
        let (room, allowed) = room(&file).unwrap_or_else(|| panic!("{file} is in no room of the plan"));
        let own = room.split('/').next().unwrap();
        for import in imports(&code) {
            assert!(
                import == own || allowed.contains(&import.as_str()),
                "{file} imports crate::{import}, which {room} may not"
            );
        }
    }
}

/// The rooms of `grpc`, and those of them that each may import. Any of them may import the other files that lie in
/// `grpc` itself.
const GRPC_MAY_IMPORT: &[(&str, &[&str])] = &[
    ("retry", &[]),
    ("link", &["retry"]),
    ("dial", &["link"]),
    ("server", &["dial"]),
    ("conn", &["dial", "link", "server"]),
    ("sizing", &["conn"]),
    ("group", &["conn", "server"]),
    ("call", &["conn", "dial", "link", "retry"]),
    ("client_pool", &["call", "conn", "group", "sizing"]),
    ("stream_pool", &["call", "conn", "dial", "link", "group", "retry", "sizing"]),
    ("observe", &["conn", "link"]),
];

#[test]
fn a_call_goes_down_through_the_rooms_of_grpc_and_never_up() {
    let rooms: Vec<&str> = GRPC_MAY_IMPORT.iter().map(|(room, _)| *room).collect();
    let mut seen = 0;
    for (file, code) in code() {
        let Some(inside) = file.strip_prefix("grpc/") else { continue };
        let own = inside.split('/').next().unwrap().trim_end_matches(".rs");
        let Some((_, allowed)) = GRPC_MAY_IMPORT.iter().find(|(room, _)| *room == own) else { continue };
        seen += 1;
        assert!(
            !code.contains("crate::grpc::{"),
            "{file} names several rooms at once, which this test cannot read"
        );
        // A room's own files name the others by `crate::grpc::`, its `mod.rs`, or its only file, also by `super::`.
        let mut named = imports_below(&code, "crate::grpc::");
        if inside == format!("{own}/mod.rs") || inside == format!("{own}.rs") {
            named.extend(imports_below(&code, "super::"));
        }
        for room in named.iter().filter(|name| rooms.contains(&name.as_str())) {
            assert!(
                room == own || allowed.contains(&room.as_str()),
                "{file} imports {room}, which {own} may not"
            );
        }
    }
    assert!(seen > 20, "{seen} files were looked at");
}

#[test]
fn std_sync_and_unsafe_cell_come_from_primitive_alone() {
    for (file, code) in code() {
        if file.starts_with("primitive/") {
            continue;
        }
        for word in ["std::sync", "core::sync", "cell::UnsafeCell", "std::thread"] {
            assert!(!code.contains(word), "{file} names {word}; take it from `primitive`");
        }
    }
}

#[test]
fn the_front_page_has_no_logic() {
    let (_, code) = code().into_iter().find(|(file, _)| file == "lib.rs").unwrap();
    for word in ["fn ", "impl ", "struct ", "macro_rules"] {
        assert!(!code.contains(word), "lib.rs has a `{word}`");
    }
}

#[test]
fn the_check_sees_an_arrow_that_goes_up() {
    let imports = imports("use crate::sync_pool::SyncPool;\nlet x = crate::grpc::error::Error;");
    assert_eq!(imports.into_iter().collect::<Vec<_>>(), ["grpc", "sync_pool"]);
    assert_eq!(room("local/mod.rs").unwrap().0, "local");
    assert_eq!(room("grpc/client_pool/guard.rs").unwrap().0, "grpc/client_pool");
    assert_eq!(room("grpc/link/tap.rs").unwrap().0, "grpc");
    assert!(room("attic.rs").is_none());
}
