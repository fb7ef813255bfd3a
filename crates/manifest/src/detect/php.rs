//! PHP: `index.php` at the root or in `public/`, served by PHP's own server.

use super::{Guess, Kind, Run, Tree, has};

pub fn guess(tree: &dyn Tree) -> Option<Guess> {
    let has_composer = has(tree, "composer.json");
    let public = tree.list("public").iter().any(|e| e.name == "index.php");
    let mut reasons = Vec::new();
    if has_composer {
        reasons.push("there is a composer.json".to_owned());
    }
    let run = if public {
        reasons.push("there is public/index.php".into());
        Run::Command("php -S 127.0.0.1:$PORT -t public".into())
    } else if has(tree, "index.php") {
        reasons.push("there is index.php".into());
        Run::Command("php -S 127.0.0.1:$PORT".into())
    } else if has_composer {
        Run::Unknown("composer.json is there, but no index.php at the root or in public/".into())
    } else {
        return None;
    };
    reasons.push(
        "PHP's built-in server is used: fine for light traffic, otherwise put your own command into `run`".into(),
    );
    Some(Guess {
        kind: Kind::Php,
        noun: "a PHP project".into(),
        reasons,
        build: has_composer.then(|| "composer install --no-dev --no-interaction".into()),
        cache: Vec::new(),
        run,
        env: Vec::new(),
    })
}
