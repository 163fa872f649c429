//! Cycles of sibling modules: within one module, its children import each other in one direction only.
//!
//! An import of a name that the parent re-exports counts as an import of the child that defines it. Test modules are
//! left out: they may import everything.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{CRATES, sources};

type ModulePath = Vec<String>;

/// The module that a file below `src` holds.
fn module_path(file: &str) -> ModulePath {
    let path = file.trim_end_matches(".rs");
    let mut path: ModulePath = path.split('/').map(str::to_owned).collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        path.pop();
    }
    path
}

/// The code before the test module at the end of a file.
fn without_tests(code: &str) -> &str {
    ["mod tests {", "pub(super) mod tests {", "pub(crate) mod tests {"]
        .iter()
        .filter_map(|module| code.find(&format!("#[cfg(test)]\n{module}")))
        .min()
        .map_or(code, |at| &code[..at])
}

/// Child modules of a file that are compiled for tests only.
fn test_children(code: &str) -> BTreeSet<String> {
    code.split("#[cfg(test)]\n")
        .skip(1)
        .filter_map(|rest| {
            let line = rest.lines().find(|line| !line.starts_with('#'))?;
            let name = line.split("mod ").nth(1)?.strip_suffix(';')?;
            Some(name.to_owned())
        })
        .collect()
}

/// All paths in a text that begin with `start`, with groups in braces expanded: `a::{b, c::D}` is `[a, b]`, `[a, c, D]`.
fn paths(code: &str, start: &str) -> Vec<ModulePath> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(start) {
        let is_start =
            !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':');
        if is_start {
            expand(&code[at..], &Vec::new(), &mut found);
        }
    }
    found
}

/// Reads one path at the start of the text, adds its expansions, and returns the text after it.
fn expand<'a>(mut text: &'a str, prefix: &[String], found: &mut Vec<ModulePath>) -> &'a str {
    let mut path = prefix.to_vec();
    loop {
        text = text.trim_start();
        if let Some(mut group) = text.strip_prefix('{') {
            loop {
                group = expand(group, &path, found).trim_start();
                match group.strip_prefix(',') {
                    Some(rest) if !rest.trim_start().starts_with('}') => group = rest,
                    Some(rest) => return rest.trim_start().strip_prefix('}').unwrap_or(""),
                    None => return group.strip_prefix('}').unwrap_or(""),
                }
            }
        }
        let end = text.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(text.len());
        if end > 0 {
            path.push(text[..end].to_owned());
        }
        text = &text[end..];
        match text.strip_prefix("::") {
            Some(rest) if end > 0 => text = rest,
            _ => break,
        }
    }
    // `X as Y`
    if let Some(rest) = text.strip_prefix(" as ") {
        let end = rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len());
        text = &rest[end..];
    }
    found.push(path);
    text
}

struct Crate {
    files: BTreeMap<ModulePath, String>,
    /// Names that a module imports from one of its children: what `super::Name` in another child refers to.
    imported: BTreeMap<ModulePath, BTreeMap<String, String>>,
}

impl Crate {
    fn read(name: &str) -> Self {
        let mut files: BTreeMap<ModulePath, String> = BTreeMap::new();
        for (file, code) in sources(name) {
            files.entry(module_path(&file)).or_default().push_str(&code);
        }
        let tests: Vec<ModulePath> = files
            .iter()
            .flat_map(|(path, code)| {
                test_children(code).into_iter().map(|child| [path.clone(), vec![child]].concat())
            })
            .collect();
        files.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
        let mut imported: BTreeMap<ModulePath, BTreeMap<String, String>> = BTreeMap::new();
        for (path, code) in &files {
            for (child, _) in
                files.iter().filter(|(other, _)| other.len() == path.len() + 1 && other.starts_with(path))
            {
                let child = child.last().unwrap();
                for used in paths(without_tests(code), &format!("{child}::")) {
                    imported
                        .entry(path.clone())
                        .or_default()
                        .insert(used.last().unwrap().clone(), child.clone());
                }
            }
        }
        Self { files, imported }
    }

    /// The module that a path within `module` refers to.
    fn resolve(&self, module: &[String], path: &[String]) -> ModulePath {
        let mut at = module.to_vec();
        for (index, segment) in path.iter().enumerate() {
            match segment.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => drop(at.pop()),
                name => {
                    let child = [at.clone(), vec![name.to_owned()]].concat();
                    if self.files.contains_key(&child) {
                        at = child;
                    } else {
                        let by_parent = self.imported.get(&at).and_then(|names| names.get(name));
                        // Its own child is imported by its own path; only another module meets a re-export.
                        if let (Some(child), true) = (by_parent, index > 0) {
                            at.push(child.clone());
                        }
                        break;
                    }
                }
            }
        }
        at
    }

    /// Imports among the children of each module: (parent, child) to the children that it imports.
    fn edges(&self) -> BTreeMap<(ModulePath, String), BTreeSet<String>> {
        let mut edges: BTreeMap<(ModulePath, String), BTreeSet<String>> = BTreeMap::new();
        for (module, code) in &self.files {
            for start in ["crate::", "super::", "self::"] {
                for path in paths(without_tests(code), start) {
                    let target = self.resolve(module, &path);
                    let common = module.iter().zip(&target).take_while(|(a, b)| a == b).count();
                    if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
                        let key = (module[..common].to_vec(), from.clone());
                        edges.entry(key).or_default().insert(to.clone());
                    }
                }
            }
        }
        edges
    }
}

/// A shortest cycle through a child, if there is one.
fn cycle(
    edges: &BTreeMap<(ModulePath, String), BTreeSet<String>>,
    parent: &ModulePath,
    child: &str,
) -> Option<Vec<String>> {
    let mut queue = std::collections::VecDeque::from([vec![child.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(path) = queue.pop_front() {
        let next = edges.get(&(parent.clone(), path.last().unwrap().clone()));
        for next in next.into_iter().flatten() {
            if next == child {
                return Some([path, vec![next.clone()]].concat());
            }
            if seen.insert(next.clone()) {
                queue.push_back([path.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

#[test]
fn siblings_import_each_other_in_one_direction() {
    let mut wrong = BTreeSet::new();
    for name in CRATES {
        let edges = Crate::read(name).edges();
        let mut reported: BTreeSet<(ModulePath, BTreeSet<String>)> = BTreeSet::new();
        for (parent, child) in edges.keys() {
            if let Some(cycle) = cycle(&edges, parent, child)
                && reported.insert((parent.clone(), cycle.iter().cloned().collect()))
            {
                wrong.insert(format!(
                    "{name}, in {}: {}",
                    ["crate".to_owned()].iter().chain(parent).cloned().collect::<Vec<_>>().join("::"),
                    cycle.join(" -> ")
                ));
            }
        }
    }
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn groups_are_expanded() {
    let found = paths("use super::{a::{B, c::D as E}, f, g::*};", "super::");
    let shown: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(shown, ["super::a::B", "super::a::c::D", "super::f", "super::g"]);
}
