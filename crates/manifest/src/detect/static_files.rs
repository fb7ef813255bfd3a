//! A folder of files: `index.html` at the root, or in `public/`, `dist/`, `site/`, `docs/`.

use super::{Guess, Kind, Run, Tree, has};

pub fn guess(tree: &dyn Tree) -> Option<Guess> {
    let below = || {
        ["public", "dist", "site", "docs"]
            .into_iter()
            .find(|folder| tree.list(folder).iter().any(|e| e.name == "index.html"))
    };
    let folder = if has(tree, "index.html") { "." } else { below()? };
    let file = if folder == "." { "index.html".to_owned() } else { format!("{folder}/index.html") };
    Some(Guess {
        kind: Kind::Static,
        noun: "a static site".into(),
        reasons: vec![format!("there is {file}, and no program")],
        build: None,
        cache: Vec::new(),
        run: Run::Static(folder.to_owned()),
        env: Vec::new(),
    })
}
