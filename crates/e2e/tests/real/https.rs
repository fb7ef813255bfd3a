//! HTTPS as a visitor meets it: certificates from a real authority by both ways of proof, renewal, what a user gave,
//! and what is said when an order fails.

use crate::SHORT;
use e2e::{Authority, Machine, Repository, eventually, make_own_certificate};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const ORDER_TIME: Duration = Duration::from_secs(60);
const SHOP: &str = "shop.example.com";
const BLOG: &str = "blog.example.com";
const LATER: &str = "later.example.com";

struct Scene {
    machine: Machine,
    repository: Repository,
    https_port: u16,
}

impl Scene {
    /// Two hosts, and a route that no host is needed for.
    async fn new() -> Self {
        let machine = Machine::new().unwrap();
        let https_port = e2e::free_port();
        let repository = machine.repository("shop").unwrap();
        let scene = Self { machine, repository, https_port };
        scene.write(&[SHOP, BLOG]);
        scene.machine.up(&scene.repository.path, &["--gateway-https-port", &https_port.to_string()]).ok();
        scene
    }

    /// A manifest with routes for these hosts.
    fn write(&self, hosts: &[&str]) {
        let app = e2e::binary("e2e-app");
        let hosts: String = hosts.iter().map(|host| format!(", \"{host}\"")).collect();
        let manifest = format!(
            "name = \"shop\"\n\n[services.web]\nrun = \"exec {} v1\"\nhealth = \"/healthz\"\n\
             route = [\"/\", \"web.localhost\"{hosts}]\n",
            app.display()
        );
        self.repository.write("mainstay.toml", &manifest).unwrap();
        self.repository.commit("routes").unwrap();
    }

    /// A visitor who trusts these and no others.
    fn visitor(&self, roots: Vec<reqwest::Certificate>) -> reqwest::Client {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let builder = reqwest::Client::builder().tls_certs_only(roots).timeout(Duration::from_secs(5));
        // The port of an override is used where the address names none, so it is named in the address.
        let builder = builder.redirect(reqwest::redirect::Policy::none());
        builder.resolve(SHOP, at(0)).resolve(BLOG, at(0)).resolve(LATER, at(0)).build().unwrap()
    }

    async fn visit(&self, visitor: &reqwest::Client, host: &str) -> Option<String> {
        let answer = visitor.get(format!("https://{host}:{}/", self.https_port)).send().await.ok()?;
        (answer.status() == 200).then_some(())?;
        answer.text().await.ok()
    }

    fn domain(&self, host: &str) -> Value {
        let domains = self.machine.run(&["--json", "domains"]).ok();
        let find = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|domain| domain["host"] == host);
        let all = domains.json();
        let in_list = all.as_array().and_then(|list| list.iter().find(|domain| domain["host"] == host).cloned());
        in_list.or_else(|| domains.stdout.lines().find_map(find)).unwrap_or_else(|| panic!("{}", domains.all()))
    }

    fn set_up(&self, authority: &Authority, challenge: &str) {
        let (directory, root) = (authority.directory(), authority.root_file());
        let account = ["domains", "setup", "--agree-to-terms", "--email", "ops@example.com"];
        let place = ["--directory", &directory, "--root", &root, "--challenge", challenge];
        self.machine.run(&[&account[..], &place[..]].concat()).ok().says("Automatic HTTPS is on");
    }

    /// The private keys on the machine, by a line of theirs.
    fn keys(&self) -> Vec<String> {
        let folder = self.machine.data().join("agent/gateway/certificates");
        let files = std::fs::read_dir(folder).unwrap().flatten();
        files.map(|file| std::fs::read_to_string(file.path()).unwrap().lines().nth(1).unwrap().to_owned()).collect()
    }
}

/// Whether any of these files, or any file below these folders, holds the text.
fn holds(place: &Path, text: &str) -> bool {
    if place.is_dir() {
        return std::fs::read_dir(place).unwrap().flatten().any(|entry| holds(&entry.path(), text));
    }
    std::fs::read(place).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
}

#[tokio::test]
async fn hosts_get_certificates_by_both_ways_of_proof_and_they_are_renewed_under_open_connections() {
    let scene = Scene::new().await;
    let machine = &scene.machine;
    let Some(authority) = Authority::start(machine.folder(), machine.gateway_port, scene.https_port).unwrap() else {
        return e2e::skip("certificates from an authority", "pebble is not installed: apt-get install pebble");
    };
    let root = authority.issuing_root().await.unwrap();
    let visitor = scene.visitor(vec![root.clone()]);
    assert_eq!(scene.domain(SHOP)["state"], "not_set_up");
    assert_eq!(scene.domain("web.localhost")["state"], "local");
    assert_eq!(scene.visit(&visitor, SHOP).await, None, "the stand-in is trusted by nobody");

    scene.set_up(&authority, "http-01");
    for host in [SHOP, BLOG] {
        let body = eventually(&format!("HTTPS for {host}"), ORDER_TIME, || scene.visit(&visitor, host)).await;
        assert!(body.starts_with("version v1 "), "{body}");
        assert_eq!(scene.domain(host)["state"], "secured");
    }
    let plain = visitor.get(format!("http://{SHOP}:{}/a?b=c", machine.gateway_port)).send().await.unwrap();
    assert_eq!(plain.status(), 308);
    assert_eq!(plain.headers()["location"], format!("https://{SHOP}:{}/a?b=c", scene.https_port));
    assert!(crate::get(&machine.gateway_url()).await.is_some(), "a route without host stays on plain HTTP");

    // A host that is new, by the other way of proof.
    scene.set_up(&authority, "tls-alpn-01");
    scene.write(&[SHOP, BLOG, LATER]);
    machine.run_in(&scene.repository.path, &["deploy"]).ok();
    eventually("HTTPS for a host that was added", ORDER_TIME, || scene.visit(&visitor, LATER)).await;

    // Renewed by command, while a visitor stays connected.
    let before = scene.domain(SHOP)["certificate"]["digest"].clone();
    machine.run(&["domains", "renew", SHOP]).ok();
    eventually("a new certificate", ORDER_TIME, || async {
        (scene.domain(SHOP)["certificate"]["digest"] != before).then_some(())
    })
    .await;
    let fresh = scene.visitor(vec![root]);
    for visitor in [&visitor, &fresh] {
        assert!(scene.visit(visitor, SHOP).await.is_some());
    }
    let events = machine.run(&["--json", "events", "--about", "certificates", "--limit", "100"]).ok().stdout;
    for words in ["shown by HTTP-01", "shown by TLS-ALPN-01", "was issued by", "was renewed by", "was set up with"] {
        assert!(events.contains(words), "`{words}` is not in {events}");
    }

    // Keys are in the gateway's own files and in the document that the agent keeps, and nowhere else.
    let keys = scene.keys();
    assert_eq!(keys.len(), 3);
    let answers = [&["--json", "domains"][..], &["--json", "servers"], &["--json", "events"], &["domains", "setup"]];
    let said: String = answers.iter().map(|words| machine.run(words).ok().all()).collect();
    for key in keys {
        assert!(!said.contains(&key) && !events.contains(&key));
        for place in ["server", "up.log", "agent/gateway/config.json", "agent/gateway/gateway.log"] {
            assert!(!holds(&machine.data().join(place), &key), "{place} holds a private key");
        }
    }
}

#[tokio::test]
async fn an_order_that_fails_says_why_and_waits_and_a_certificate_of_ones_own_takes_its_place() {
    let scene = Scene::new().await;
    let machine = &scene.machine;
    let (certificate, key) = make_own_certificate(machine.folder(), BLOG).unwrap();
    if let Some(authority) = Authority::start(machine.folder(), machine.gateway_port, scene.https_port).unwrap() {
        // Nobody listens there.
        authority.resolve(SHOP, "127.0.0.9").await.unwrap();
        scene.set_up(&authority, "http-01");
        let failing = eventually("a reason", ORDER_TIME, || async {
            Some(scene.domain(SHOP)).filter(|domain| domain["state"] == "failing")
        })
        .await;
        let reason = failing["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("could not reach {SHOP} on port 80")), "{reason}");
        assert_eq!(failing["failures"], 1);
        assert!(failing["next_order_at_ms"].as_i64().unwrap() > 0);
        machine.run(&["domains"]).ok().says("failing").says("tried again in");
        // Repaired, and asked for: nobody has to wait for the next try.
        authority.resolve(SHOP, "127.0.0.1").await.unwrap();
        machine.run(&["domains", "renew", SHOP]).ok();
        eventually("it is well", ORDER_TIME, || async { (scene.domain(SHOP)["state"] == "secured").then_some(()) })
            .await;
    } else {
        e2e::skip("an order that fails", "pebble is not installed: apt-get install pebble");
    }

    let own = reqwest::Certificate::from_pem(&std::fs::read(&certificate).unwrap()).unwrap();
    let visitor = scene.visitor(vec![own.clone()]);
    let refused = machine.run(&["domains", "add", "other.example.com", "--certificate", &certificate, "--key", &key]);
    assert_ne!(refused.code, 0);
    refused.says(&format!("not for other.example.com but for {BLOG}"));
    machine.run(&["domains", "add", BLOG, "--certificate", &certificate, "--key", &key]).ok().says("your own");
    eventually("it is served", SHORT, || scene.visit(&visitor, BLOG)).await;
    assert_eq!(scene.domain(BLOG)["certificate"]["source"], "user");
    machine.run(&["domains", "remove", BLOG]).ok();
    // A connection keeps what it began with, so each look is a new visitor.
    let is_gone = || async { scene.visit(&scene.visitor(vec![own.clone()]), BLOG).await.is_none().then_some(()) };
    eventually("it is gone", SHORT, is_gone).await;
}
