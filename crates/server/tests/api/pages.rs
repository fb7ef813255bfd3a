//! The dashboard's pages, forms and streams over real HTTP, as a browser without a script meets them.

use crate::harness::{PATIENCE, World};
use api::logs::{LogBatch, LogLine, LogSource, LogStream};
use api::services::ServiceCondition;
use futures_util::StreamExt;
use reqwest::StatusCode;
use std::time::Instant;

/// Somebody who signed in on the page.
struct Visitor<'a> {
    world: &'a World,
    http: reqwest::Client,
    cookie: String,
}

/// What a page answered.
struct Page {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    html: String,
}

impl Page {
    #[track_caller]
    fn says(&self, words: &str) -> &Self {
        assert!(self.html.contains(words), "`{words}` is not in {}", self.html);
        self
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The token that every form of the page carries.
    fn form_token(&self) -> String {
        let rest = self.html.split("name=\"csrf\" value=\"").nth(1).expect("the page has a form");
        rest.split('"').next().unwrap_or_default().to_owned()
    }
}

fn browser() -> reqwest::Client {
    let policy = reqwest::redirect::Policy::none();
    reqwest::Client::builder().no_proxy().redirect(policy).timeout(PATIENCE).build().unwrap()
}

async fn page(request: reqwest::RequestBuilder) -> Page {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    Page { status, headers, html: answer.text().await.unwrap() }
}

async fn try_sign_in(world: &World, password: &str, next: &str) -> Page {
    let fields = [("user", "admin"), ("password", password), ("next", next)];
    page(form(browser().post(format!("{}/login", world.base)), &world.base, &fields)).await
}

/// A form as a browser sends it from a page of `origin`.
fn form(request: reqwest::RequestBuilder, origin: &str, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    request.header("origin", origin).header("content-type", "application/x-www-form-urlencoded").body(body)
}

impl<'a> Visitor<'a> {
    async fn sign_in(world: &'a World) -> Self {
        let answer = try_sign_in(world, world.server.initial_password().unwrap().expose(), "/").await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.html);
        let cookie = answer.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
        Self { world, http: browser(), cookie }
    }

    async fn get(&self, path: &str) -> Page {
        page(self.http.get(format!("{}{path}", self.world.base)).header("cookie", &self.cookie)).await
    }

    async fn post_raw(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let request = self.http.post(format!("{}{path}", self.world.base)).header("cookie", &self.cookie);
        page(form(request, &self.world.base, fields)).await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Page {
        let token = self.get("/tokens").await.form_token();
        let mut fields = vec![("csrf", token.as_str())];
        fields.extend(form);
        self.post_raw(path, &fields).await
    }

    /// The page that a form led back to, with its message.
    async fn follow(&self, answer: &Page) -> Page {
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.html);
        let message = answer.header("set-cookie").split(';').next().unwrap_or_default();
        let request = self.http.get(format!("{}{}", self.world.base, answer.header("location")));
        page(request.header("cookie", format!("{}; {message}", self.cookie))).await
    }
}

#[tokio::test]
async fn nobody_sees_a_page_without_signing_in_and_the_way_back_is_kept() {
    let world = World::new().await;
    for path in ["/", "/servers", "/servers/new", "/events", "/tokens", "/stacks/shop", "/deployments/x"] {
        let answer = page(browser().get(format!("{}{path}", world.base))).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{path}");
        assert!(answer.header("location").starts_with("/login"), "{path}");
    }
    let answer = page(browser().get(format!("{}/stacks/shop?filter=a", world.base))).await;
    assert_eq!(answer.header("location"), "/login?next=%2Fstacks%2Fshop%3Ffilter%3Da");
    for path in ["/live/overview/stream", "/live/events/stream"] {
        assert_eq!(
            page(browser().get(format!("{}{path}", world.base))).await.status,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_sign_in_page_tells_where_the_first_password_is_and_leads_on_only_to_this_server() {
    let world = World::new().await;
    let file = world.directory.path().join("server/initial-password").display().to_string();
    page(browser().get(format!("{}/login", world.base))).await.says(&file);
    let wrong = try_sign_in(&world, "<b>wrong", "/").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    wrong.says("The user or the password is wrong.").says("value=\"admin\"");
    assert!(!wrong.html.contains("<b>wrong") && !wrong.headers.contains_key("set-cookie"));
    let password = world.server.initial_password().unwrap().expose().to_owned();
    assert_eq!(try_sign_in(&world, &password, "//evil.example").await.header("location"), "/");
    assert_eq!(try_sign_in(&world, &password, "/events").await.header("location"), "/events");
    let fields = [("user", "admin"), ("password", password.as_str())];
    let foreign = form(browser().post(format!("{}/login", world.base)), "http://evil.example", &fields);
    let foreign = page(foreign).await;
    assert_eq!(foreign.status, StatusCode::BAD_REQUEST);
    assert!(!foreign.headers.contains_key("set-cookie"), "another site signed a visitor in");
}

#[tokio::test]
async fn every_page_is_strict_small_and_holds_nothing_inline() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    let deployments = world.deploy_and_wait(&repository.manifest("env = { SECRET = \"hunter2-value\" }")).await;
    let visitor = Visitor::sign_in(&world).await;
    let deployment = format!("/deployments/{}", deployments[0].id);
    let paths = [
        "/",
        "/stacks/shop",
        "/stacks/shop/plan",
        "/stacks/shop/edit",
        "/stacks/shop/services/web",
        "/stacks/shop/services/web/revisions",
        "/stacks/shop/services/web/revisions?from=1&to=1",
        "/stacks/shop/services/web/logs",
        "/stacks/shop/services/web/logs?filter=x&at=1",
        "/stacks/shop/services/web/restart",
        "/stacks/shop/services/web/stop",
        "/stacks/shop/services/web/start",
        "/stacks/shop/services/web/scale?replicas=0",
        "/stacks/shop/services/web/rollback?revision=1",
        "/stacks/shop/services/web/env/remove?name=%3Cb%3E",
        &deployment,
        &format!("{deployment}/cancel"),
        "/services",
        "/services?search=web&stack=shop&condition=running",
        "/services?stack=nothing",
        "/services?before=z%2Fz",
        "/builds",
        "/settings",
        "/domains",
        "/search",
        "/search?q=restart+web",
        "/search/hits?q=we",
        "/servers",
        "/servers?search=fa",
        "/servers/fake",
        "/servers/new",
        "/events",
        "/events?level=error&stack=shop&service=web&server=fake",
        "/events?topic=deployments&text=web&service=shop%2Fweb",
        "/events?stack=none",
        "/tokens",
        "/docs",
        "/docs/endpoints/post-api-v1-deploy",
        "/docs/schemas/ServiceView",
        "/stacks/none",
        "/no/such/page",
    ];
    for path in paths {
        let request = visitor.http.get(format!("{}{path}", world.base)).header("accept", "text/html");
        let page = page(request.header("cookie", &visitor.cookie)).await;
        let expected = if path.ends_with("none") && !path.contains('?') || path.contains("/no/") { 404 } else { 200 };
        assert_eq!(page.status.as_u16(), expected, "{path}: {}", page.html);
        assert!(page.header("content-type").starts_with("text/html"), "{path}");
        let whole = !path.starts_with("/search/hits");
        assert_eq!(page.html.contains("aria-label=\"Main\""), whole, "the navigation of {path}: {}", page.html);
        assert!(page.html.len() < 50_000, "{path} has {} bytes", page.html.len());
        let policy = page.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'") && !policy.contains("unsafe"),
            "{path}: {policy}"
        );
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(page.header("x-frame-options"), "DENY", "{path}");
        assert_eq!(page.header("cache-control"), "no-store", "{path}");
        assert!(!page.html.contains("hunter2-value"), "{path} shows a secret");
        assert_eq!(
            page.html.matches("<script").count(),
            page.html.matches("<script src=\"/assets/live.").count(),
            "{path}"
        );
        for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
            assert!(!page.html.contains(inline), "{path} holds {inline}");
        }
    }
}

#[tokio::test]
async fn assets_are_kept_for_ever_under_the_hash_of_their_content() {
    let world = World::new().await;
    let login = page(browser().get(format!("{}/login", world.base))).await;
    let paths = login.html.split('"').filter(|text| text.starts_with("/assets/")).collect::<Vec<_>>();
    assert_eq!(paths.len(), 3, "{paths:?}");
    for path in paths {
        let asset = page(browser().get(format!("{}{path}", world.base))).await;
        assert_eq!(asset.status, StatusCode::OK);
        assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
    }
}

#[tokio::test]
async fn a_form_without_the_token_of_its_session_changes_nothing() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.deploy_and_wait(&world.repository("shop").manifest("")).await;
    let visitor = Visitor::sign_in(&world).await;
    let before = world.service("shop", "web").await.deployment.unwrap().id;
    for fields in [&[][..], &[("csrf", "")], &[("csrf", "0000")]] {
        let answer = visitor.post_raw("/stacks/shop/services/web/stop", fields).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        answer.says("does not come from a page of this session");
    }
    // The token of another session is as good as none.
    let other = Visitor::sign_in(&world).await.get("/tokens").await.form_token();
    assert_eq!(
        visitor.post_raw("/stacks/shop/services/web/stop", &[("csrf", &other)]).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(world.service("shop", "web").await.deployment.unwrap().id, before);
}

#[tokio::test]
async fn forms_act_through_the_api_and_go_back_with_a_message_that_is_shown_once() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.deploy_and_wait(&world.repository("shop").manifest("")).await;
    let visitor = Visitor::sign_in(&world).await;
    let service = "/stacks/shop/services/web";
    let scaled = visitor.post(&format!("{service}/scale"), &[("replicas", "2")]).await;
    let back = visitor.follow(&scaled).await;
    back.says("Scale of web has begun.");
    assert!(back.header("set-cookie").contains("mainstay_message=; "), "the message is taken back");
    assert!(!visitor.get(service).await.html.contains("has begun"));
    world.service_until("shop", "web", |view| view.replicas == 2 && view.instances.len() == 2).await;
    let cause = world.service("shop", "web").await.deployment.unwrap().cause;
    assert_eq!(cause.actor.label(), "user admin");

    let mistake = visitor.post(&format!("{service}/scale"), &[("replicas", "<many>")]).await;
    visitor
        .follow(&mistake)
        .await
        .says("must be a whole number; <code>&lt;many&gt;</code> is none")
        .says("role=\"alert\"");
    let nothing = visitor.post("/stacks/shop/remove", &[("confirm", "shops")]).await;
    visitor.follow(&nothing).await.says("Nothing was removed: to confirm, write <code>shop</code>.");
    assert_eq!(visitor.post("/stacks/none/services/web/stop", &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_plan_is_shown_and_exactly_that_plan_is_deployed() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("")).await;
    let visitor = Visitor::sign_in(&world).await;
    visitor.get("/stacks/shop/plan").await.says("Nothing would change");
    let commit = repository.commit("second");
    let plan = visitor.get("/stacks/shop/plan").await;
    plan.says(&commit[..10]).says("Deploy this plan");
    let fingerprint = plan.html.split("name=\"fingerprint\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    repository.commit("third");
    let stale = visitor.post("/stacks/shop/deploy", &[("fingerprint", fingerprint)]).await;
    visitor.follow(&stale).await.says("role=\"alert\"");
    let plan = visitor.get("/stacks/shop/plan").await;
    let fingerprint = plan.html.split("name=\"fingerprint\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let deployed = visitor.post("/stacks/shop/deploy", &[("fingerprint", fingerprint)]).await;
    visitor.follow(&deployed).await.says("1 deployment has begun.");
}

#[tokio::test]
async fn a_token_is_shown_once_and_a_machine_is_seen_joining() {
    let world = World::new().await;
    let visitor = Visitor::sign_in(&world).await;
    let made = visitor.post("/tokens", &[("name", "<ci>"), ("days", "30")]).await;
    made.says("cannot be shown again").says("&lt;ci&gt;");
    let token = made.html.split("<code tabindex=\"0\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
    assert!(!visitor.get("/tokens").await.html.contains(&token));
    let stacks = world.http.get(format!("{}/api/v1/stacks", world.base)).bearer_auth(&token).send().await.unwrap();
    assert_eq!(stacks.status(), 200);

    let join = visitor.post("/servers/new", &[("name", "harbour"), ("stack", "")]).await;
    join.says("Waiting for the machine");
    let token = join.html.split(" --token ").nth(1).unwrap().split([' ', '<']).next().unwrap().to_owned();
    let live = join.html.split("data-live=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let mut stream = Stream::open(&visitor, &live).await;
    stream.until("Waiting for the machine").await;
    let _agent = crate::fake_agent::FakeAgent::join(&world.base, api::secret::Secret::new(token)).await;
    stream.until("fake has joined").await;
}

/// A live stream, read until something is in it.
struct Stream {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    seen: String,
}

impl Stream {
    async fn open(visitor: &Visitor<'_>, path: &str) -> Self {
        let request = visitor.http.get(format!("{}{path}", visitor.world.base)).header("cookie", &visitor.cookie);
        let answer = request.timeout(PATIENCE * 3).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: Box::pin(answer.bytes_stream()), seen: String::new() }
    }

    /// Reads on until the words are there; what was read before is forgotten.
    async fn until(&mut self, words: &str) {
        let began = Instant::now();
        self.seen.clear();
        while !self.seen.contains(words) {
            let left = PATIENCE.saturating_sub(began.elapsed());
            match tokio::time::timeout(left, self.body.next()).await {
                Ok(Some(Ok(bytes))) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("`{words}` did not come: {other:?} after {}", self.seen),
            }
        }
    }
}

#[tokio::test]
async fn a_page_that_is_open_sees_a_deployment_move_and_ends_with_its_session() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("")).await;
    let visitor = Visitor::sign_in(&world).await;
    let mut stream = Stream::open(&visitor, "/live/stacks/shop/services/web/stream").await;
    stream.until("event: clock").await;
    visitor.post("/stacks/shop/services/web/restart", &[]).await;
    stream.until("Restart of revision 1").await;
    let out = visitor.post("/logout", &[]).await;
    assert_eq!(out.header("location"), "/login");
    assert_eq!(visitor.get("/").await.status, StatusCode::SEE_OTHER, "the session is over");
    stream.until("event: end\ndata: over").await;
}

/// The value of a hidden field.
fn field(page: &Page, name: &str) -> String {
    let begin = format!("name=\"{name}\" value=\"");
    page.html.split(&begin).nth(1).expect("the page has the field").split('"').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_configuration_is_changed_on_a_page_after_its_plan_was_shown_and_hidden_values_stay() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("env = { SECRET = \"hunter2-value\" }")).await;
    let visitor = Visitor::sign_in(&world).await;
    let editor = visitor.get("/stacks/shop/edit").await;
    editor.says("SECRET = &quot;(hidden)&quot;");
    let text =
        |extra: &str| repository.manifest(&format!("env = {{ SECRET = \"(hidden)\" }}\n{extra}")).replace('\n', "\r\n");

    let wrong = visitor.post("/stacks/shop/plan", &[("manifest", &text("replica = 2"))]).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    wrong.says("replica = 2").says("did you mean").says("(line 8,");
    let invented = visitor.post("/stacks/shop/plan", &[("manifest", &text("env.NEW = \"(hidden)\""))]).await;
    assert!(invented.status.is_client_error(), "{}", invented.html);

    let changed = text("replicas = 2");
    let plan = visitor.post("/stacks/shop/plan", &[("manifest", &changed)]).await;
    assert_eq!(plan.status, StatusCode::OK, "{}", plan.html);
    plan.says("<del>1</del>").says("<ins>2</ins>").says("Deploy this plan");
    assert!(!plan.html.contains("hunter2") && !plan.html.contains("env.SECRET"), "{}", plan.html);
    assert_eq!(world.service("shop", "web").await.replicas, 1, "a plan changes nothing");
    let further = visitor.post("/stacks/shop/edit", &[("manifest", &changed)]).await;
    further.says("replicas = 2").says("Show the plan");

    let fingerprint = field(&plan, "fingerprint");
    let fields = [("manifest", changed.as_str()), ("fingerprint", &fingerprint)];
    visitor.follow(&visitor.post("/stacks/shop/deploy", &fields).await).await.says("1 deployment has begun.");
    world.service_until("shop", "web", |view| view.instances.len() == 2).await;
    let env = world.get("/api/v1/stacks/shop/services/web/env?reveal=true").await.text;
    assert!(env.contains("hunter2-value"), "{env}");
}

#[tokio::test]
async fn what_would_be_missed_is_asked_about_first_and_can_be_taken_back() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("")).await;
    repository.commit("second");
    world.deploy_and_wait(&repository.manifest("build = \"make\"")).await;
    let visitor = Visitor::sign_in(&world).await;
    let service = "/stacks/shop/services/web";
    let asked = visitor.get(&format!("{service}/stop")).await;
    asked.says("Stop web?").says("Its one instance will be stopped.").says("answers with an error from then on");
    let before = world.service("shop", "web").await.deployment.unwrap().id;
    assert_eq!(before, world.service("shop", "web").await.deployment.unwrap().id, "asking does nothing");
    for no_number in ["", "?replicas=", "?replicas=many"] {
        let asked = visitor.get(&format!("{service}/scale{no_number}")).await;
        asked
            .says("web has 1 instance now.")
            .says("type=\"number\" name=\"replicas\" min=\"0\" max=\"100\" value=\"1\"");
    }
    visitor.get(&format!("{service}/scale?replicas=3")).await.says("web has 1 instance now and will have 3.");
    let rollback = visitor.get(&format!("{service}/rollback?revision=1")).await;
    rollback.says("Go back to revision 1 of web?").says("build.command").says("<del>make</del>");
    visitor.get(&format!("{service}/revisions?from=1&to=2")).await.says("<ins>make</ins>").says("Serving");
    let api = world.get("/api/v1/stacks/shop/services/web/differences?from=1&to=2").await.text;
    assert!(api.contains("build.command"), "{api}");
    world.get("/api/v1/stacks/shop/services/web/differences?from=1&to=9").await.error(404);

    let stopped = visitor.post(&format!("{service}/stop"), &[]).await;
    visitor.follow(&stopped).await.says(&format!("<a href=\"{service}/start\">Start it again</a>"));
    visitor.get(&format!("{service}/start")).await.says("1 instance of revision 2 will be started.");
    visitor.post(&format!("{service}/start"), &[]).await;
    let back = visitor.post(&format!("{service}/rollback"), &[("revision", "1")]).await;
    visitor.follow(&back).await.says(&format!("{service}/rollback?revision=2\">Back to revision 2</a>"));
    let serves = |view: &api::services::ServiceView| view.current.as_ref().is_some_and(|current| current.number == 1);
    world.service_until("shop", "web", |view| serves(view) && view.condition == ServiceCondition::Running).await;
    let scaled = visitor.post(&format!("{service}/scale"), &[("replicas", "2")]).await;
    visitor.follow(&scaled).await.says(&format!("{service}/scale?replicas=1\">Back to 1 instance</a>"));
}

#[tokio::test]
async fn a_variable_is_set_and_removed_on_the_page_and_its_value_is_never_shown() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.deploy_and_wait(&world.repository("shop").manifest("")).await;
    let visitor = Visitor::sign_in(&world).await;
    let service = "/stacks/shop/services/web";
    let fields = [("name", "KEY"), ("value", " hunter2 "), ("deploy", "")];
    let set = visitor.post(&format!("{service}/env"), &fields).await;
    let page = visitor.follow(&set).await;
    page.says("KEY is set; the next deployment takes it up.").says("aria-label=\"Remove KEY\"");
    assert!(!page.html.contains("hunter2"), "{}", page.html);
    let kept = async || world.get("/api/v1/stacks/shop/services/web/env?reveal=true").await.text;
    assert!(kept().await.contains("\" hunter2 \""), "exactly as it was written: {}", kept().await);
    let removed = visitor.post(&format!("{service}/env/remove"), &[("name", "KEY"), ("deploy", "yes")]).await;
    visitor.follow(&removed).await.says("KEY is removed");
    assert!(!kept().await.contains("KEY"), "{}", kept().await);
}

#[tokio::test]
async fn a_person_changes_their_password_and_other_sessions_of_theirs_end() {
    let world = World::new().await;
    let old = world.server.initial_password().unwrap().expose().to_owned();
    let (here, elsewhere) = (Visitor::sign_in(&world).await, Visitor::sign_in(&world).await);
    let new = " correct horse battery ";
    for (fields, answer) in [
        ([("old", "wrong"), ("new", new), ("again", new)], "The password you have is another one"),
        ([("old", old.as_str()), ("new", "short"), ("again", "short")], "A password has 12 to 200 letters"),
        ([("old", old.as_str()), ("new", new), ("again", "another one, longer")], "written in two ways"),
    ] {
        let refused = here.post("/settings/password", &fields).await;
        here.follow(&refused).await.says(answer).says("role=\"alert\"");
    }
    assert_eq!(elsewhere.get("/settings").await.status, StatusCode::OK, "nothing has changed yet");
    let file = world.directory.path().join("server/initial-password");
    assert!(file.exists());
    let fields = [("old", old.as_str()), ("new", new), ("again", new)];
    let changed = here.post("/settings/password", &fields).await;
    here.follow(&changed).await.says("The password is changed; other sessions have ended.");
    assert_eq!(elsewhere.get("/settings").await.status, StatusCode::SEE_OTHER);
    assert!(!file.exists(), "the first password is no more");
    assert_eq!(try_sign_in(&world, &old, "/").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(try_sign_in(&world, new, "/").await.status, StatusCode::SEE_OTHER);
    here.get("/events?topic=access").await.says("admin changed their password");
}

#[tokio::test]
async fn many_services_are_found_page_by_page_by_people_and_programs() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    let mut manifest = String::from("name = \"shop\"\n");
    for number in 10..60 {
        manifest.push_str(&format!("[services.s{number}]\ngit = \"{}\"\nrun = \"serve\"\n", repository.url()));
    }
    world.deploy_ok(&manifest).await;
    let list = async |query: &str| -> Vec<String> {
        let found: Vec<api::services::ServiceView> = world.get(&format!("/api/v1/services?{query}")).await.json();
        found.iter().map(|service| service.name.to_string()).collect()
    };
    assert_eq!(list("limit=2").await, ["s10", "s11"]);
    assert_eq!(list("limit=2&after=shop/s11").await, ["s12", "s13"]);
    assert_eq!(list("search=P%2Fs2&limit=3&after=shop/s20").await, ["s21", "s22", "s23"]);
    assert_eq!(list("stack=shop&search=s5").await.len(), 10);
    world.service_until("shop", "s59", |view| view.condition == ServiceCondition::Running).await;
    for number in 10..60 {
        world.service_until("shop", &format!("s{number}"), |v| v.condition == ServiceCondition::Running).await;
    }
    assert_eq!(list("condition=running&limit=3&after=shop/s11").await, ["s12", "s13", "s14"]);
    assert_eq!(list("condition=down").await, [""; 0]);
    world.get("/api/v1/services?condition=fine").await.error(400);
    world.get("/api/v1/services?after=shop").await.error(400);
    world.get("/api/v1/services?stack=none").await.error(404);

    let stacks: Vec<api::stacks::StackView> = world.get("/api/v1/stacks?limit=1").await.json();
    assert_eq!((stacks.len(), stacks[0].services.len()), (1, 50));
    assert_eq!(world.get("/api/v1/stacks?after=shop").await.text, "[]");
    let servers: Vec<api::servers::ServerView> = world.get("/api/v1/servers?limit=5").await.json();
    assert_eq!(servers.len(), 1);
    assert_eq!(world.get(&format!("/api/v1/servers?after={}", servers[0].name)).await.text, "[]");
    world.get("/api/v1/servers?after=none").await.error(404);

    let visitor = Visitor::sign_in(&world).await;
    let first = visitor.get("/services").await;
    first.says("50 services").says("/services/s49\"").says("after=shop%2Fs49\" rel=\"next\"");
    assert!(!first.html.contains("/services/s50\"") && !first.html.contains("rel=\"prev\""));
    let second = visitor.get("/services?after=shop%2Fs49").await;
    second.says("/services/s50\"").says("before=shop%2Fs50\" rel=\"prev\"");
    assert!(!second.html.contains("rel=\"next\""));
    visitor.get("/services?before=shop%2Fs50").await.says("/services/s10\"").says("/services/s49\"");
    let backwards = visitor.get("/services?before=shop%2Fs55&condition=running").await;
    backwards.says("/services/s15\"").says("/services/s54\"").says("rel=\"prev\"");
    assert!(!backwards.html.contains("/services/s14\""), "the nearest ones");
    let overview = visitor.get("/").await;
    overview.says("Where requests go").says("26 more services").says("href=\"/services?condition=running\"");
    assert!(overview.html.len() < 50_000, "{} bytes", overview.html.len());
    visitor.get("/stacks/shop").await.says("All 50 services");
    visitor.get("/search?q=s42").await.says("href=\"/stacks/shop/services/s42\"");
    visitor.get("/search/hits?q=restart+s42").await.says("href=\"/stacks/shop/services/s42/restart\"");
    visitor.get("/builds").await.says("rel=\"next\"").says("#logs\"");
}

#[tokio::test]
async fn a_log_is_downloaded_as_its_page_was_narrowed() {
    let world = World::new().await;
    let agent = world.agent().await;
    let deployment = world.deploy_and_wait(&world.repository("shop").manifest("")).await.remove(0);
    let view = world.service("shop", "web").await;
    let instance = view.instances[0].id.clone();
    let store = store::Store::open_sqlite(&world.directory.path().join("server/mainstay.db")).await.unwrap();
    let (organization, _) = store.organization_list().await.unwrap().remove(0);
    let scope = store::Scope::system(organization, "test");
    let now = crate::fake_agent::now_ms();
    let line = |age_ms: i64, text: &str| LogLine { at_ms: now - age_ms, stream: LogStream::Stdout, text: text.into() };
    let batch = |source: LogSource, lines: Vec<LogLine>| LogBatch {
        source,
        service_id: view.id.clone(),
        offset: 0,
        next_offset: 100,
        lines,
    };
    let run = LogSource::Run { instance_id: instance.clone() };
    let build = LogSource::Build { deployment_id: deployment.id.clone() };
    let lines = vec![line(7_200_000, "GET /old"), line(1_000, "GET /new"), line(0, "else")];
    let batches = [batch(run, lines), batch(build, vec![line(0, "compiling")])];
    store.log_append(&scope, &agent.identity.answer.server_id, &batches).await.unwrap();

    let visitor = Visitor::sign_in(&world).await;
    let logs = "/stacks/shop/services/web/logs";
    visitor.get("/stacks/shop/services/web").await.says(&format!("href=\"{logs}?instance={instance}\""));
    let narrowed = format!("filter=get&since=1h&instance={instance}");
    let page = visitor.get(&format!("{logs}?{narrowed}")).await;
    page.says("GET /new").says(&format!("href=\"{logs}.txt?{}\"", narrowed.replace('&', "&amp;")));
    assert!(!page.html.contains("GET /old") && !page.html.contains(">else<"), "{}", page.html);
    let file = visitor.get(&format!("{logs}.txt?{narrowed}")).await;
    assert!(file.html.ends_with(" UTC GET /new\n") && file.html.lines().count() == 1, "{}", file.html);
    assert_eq!(file.header("content-disposition"), "attachment; filename=\"shop-web.txt\"");
    assert_eq!(visitor.get(&format!("{logs}.txt")).await.html.lines().count(), 3, "and no line of the build");
    assert_eq!(visitor.get(&format!("{logs}.txt?until=1h")).await.html.lines().count(), 1);
    assert_eq!(visitor.get(&format!("{logs}?instance=nothing")).await.status, StatusCode::NOT_FOUND);

    let file = format!("/deployments/{}/log.txt", deployment.id);
    visitor.get(&format!("/deployments/{}", deployment.id)).await.says(&format!("href=\"{file}\" download"));
    let file = visitor.get(&file).await;
    assert!(file.html.ends_with(" UTC compiling\n") && file.html.lines().count() == 1, "{}", file.html);
}
