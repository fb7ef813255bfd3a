//! Each mistake with the exact complaint that a person reads. A line below reads
//! `line:column field: message | help`.

use crate::good_input::source;
use api::error::ErrorDetail;
use proptest::prelude::*;

fn complaint(detail: &ErrorDetail) -> String {
    let place = match (detail.line, detail.column) {
        (Some(line), Some(column)) => format!("{line}:{column}"),
        _ => "-".into(),
    };
    let field = detail.field.as_deref().unwrap_or("-");
    let help = detail.help.as_ref().map(|h| format!(" | {h}")).unwrap_or_default();
    format!("{place} {field}: {}{help}", detail.message)
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let errors = manifest::parse(text, Some(&source())).expect_err("the manifest was accepted");
    let found: Vec<String> = errors.0.iter().map(complaint).collect();
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}

/// The mistake alone, in a service that is otherwise right.
#[track_caller]
fn check_service(lines: &str, expected: &[&str]) {
    check(&format!("name = \"shop\"\n[services.web]\nrun = \"x\"\n{lines}\n"), expected);
}

#[test]
fn an_unknown_field_is_placed_and_the_nearest_one_named() {
    check_service("replica = 2", &["4:1 services.web.replica: unknown field `replica` | did you mean `replicas`?"]);
    check_service(
        "healthcheck = \"/\"",
        &["4:1 services.web.healthcheck: unknown field `healthcheck` | did you mean `health`?"],
    );
    check_service(
        "worker = true",
        &[
            "4:1 services.web.worker: unknown field `worker` | for a service that listens on nothing write `port = false`",
        ],
    );
    check_service(
        "stop = { quickly = true }",
        &["4:10 services.web.stop.quickly: unknown field `quickly` | the fields here are grace"],
    );
    check(
        "name = \"shop\"\nrun = \"x\"\n[service.web]\nrun = \"x\"",
        &[
            "1:1 services: the manifest has no service | add one: `[services.web]` with a `run` command or an `image`",
            "2:1 run: unknown field `run` | `run` belongs to a service: write it below `[services.NAME]`",
            "3:2 service: unknown field `service` | did you mean `services`?",
        ],
    );
}

#[test]
fn text_that_is_not_toml_is_placed() {
    check(
        "name = shop\n[services.web]\nrun = \"x\"",
        &[
            "1:8 -: this is not TOML: string values must be quoted, expected literal string in `name = shop` | texts need quotes, tables need brackets: https://toml.io",
        ],
    );
}

#[test]
fn two_services_of_one_name_are_refused() {
    check(
        "name = \"shop\"\n[services.web]\nrun = \"x\"\n[services.web]\nrun = \"y\"",
        &["4:11 -: `[services.web]` is written twice | two services cannot have one name; rename one of them"],
    );
    check_service("run = \"y\"", &["4:1 -: `run` is written twice | keep one of the two"]);
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_their_lines() {
    check(
        "name = \"My Shop\"\n[services.web]\nrn = \"x\"\nport = \"http\"\nreplicas = 0\n[services.web.stop]\ngrace = 5",
        &[
            "1:8 name: `My Shop` is not a DNS-safe name: use lowercase letters, digits and single hyphens, beginning with a letter and ending with a letter or digit | `my-shop` would do",
            "2:11 services.web.run: the service has nothing to run | write `run = \"…\"` with the command that starts it, `static = \"public\"` for a folder of files, or `image = \"…\"`",
            "3:1 services.web.rn: unknown field `rn` | did you mean `run`?",
            "4:8 services.web.port: expected a whole number or true or false, found the text \"http\"",
            "5:12 services.web.replicas: 0 is out of range | it may be from 1 to 100",
            "7:9 services.web.stop.grace: expected a duration such as \"30s\", found the number 5 | give it a unit: \"5s\"",
        ],
    );
}

#[test]
fn a_name_that_is_not_dns_safe_is_refused_with_a_suggestion() {
    let rule = "is not a DNS-safe name: use lowercase letters, digits and single hyphens, beginning with a letter and ending with a letter or digit";
    check(
        "name = \"shop\"\n[services.\"My_App\"]\nrun = \"x\"",
        &[&format!("2:11 services.My_App: `My_App` {rule} | `my-app` would do")],
    );
    check(
        &format!("name = \"{}\"\n[services.web]\nrun = \"x\"", "a".repeat(41)),
        &[&format!(
            "1:8 name: `{}` is 41 characters long; a name may have at most 40 | choose a shorter or another name",
            "a".repeat(41)
        )],
    );
    check("[services.web]\nrun = \"x\"", &["1:1 name: the stack has no name | write `name = \"…\"` in the first line"]);
}

#[test]
fn two_services_on_one_route_are_refused() {
    check(
        "name = \"shop\"\n[services.a]\nrun = \"x\"\nroute = \"shop.example.com/api\"\n[services.b]\nrun = \"x\"\nroute = \"Shop.example.com/api/\"",
        &[
            "7:9 services.b.route: the route `shop.example.com/api` already leads to service `a` | give one of them another host or a longer path",
        ],
    );
    check_service(
        "route = [\"/\", \"*/\"]",
        &["4:9 services.web.route: the route `*/` is written twice | keep one of the two"],
    );
}

#[test]
fn a_route_that_is_not_a_host_and_a_path_is_refused() {
    check_service(
        "route = \"https://shop.example.com/\"",
        &[
            "4:9 services.web.route: `https://shop.example.com/` is not a route: it has a scheme | write \"shop.example.com/\"",
        ],
    );
    check_service(
        "route = \"shop.example.com:80\"",
        &[
            "4:9 services.web.route: `shop.example.com:80` is not a host name: write the host alone, without a port | write it like \"shop.example.com\"",
        ],
    );
    check_service(
        "route = { path = \"api\" }",
        &["4:18 services.web.route.path: `api` is not a path prefix: it must begin with `/` | write it like \"/api\""],
    );
    check_service(
        "route = [\"/a\", \"/a/../b\"]",
        &[
            "4:16 services.web.route[1]: `/a/../b` is not a path prefix: it must not hold empty, `.` or `..` segments | write it like \"/api\"",
        ],
    );
    check_service(
        "route = \"/\"\nport = false",
        &[
            "4:9 services.web.route: a service on which nothing listens (`port = false`) cannot have a route | leave out one of the two",
        ],
    );
}

#[test]
fn durations_and_sizes_without_a_usable_unit_are_refused() {
    check_service(
        "health = { interval = \"5\" }",
        &[
            "4:23 services.web.health.interval: `5` is not a duration: it has no unit | write \"30s\", \"5m\" or \"1m30s\"",
        ],
    );
    check_service(
        "health = { timeout = \"1h\" }",
        &["4:22 services.web.health.timeout: `1h` is out of range | it may be from 100ms to 5m"],
    );
    check_service(
        "memory = \"512X\"",
        &[
            "4:10 services.web.memory: `512X` is not a size: the unit is not one of B, K, M, G and T | write \"512M\" or \"2G\"",
        ],
    );
    check_service(
        "memory = 512",
        &[
            "4:10 services.web.memory: expected a size such as \"512M\", found the number 512 | give it a unit: \"512M\"",
        ],
    );
    check_service("memory = \"1K\"", &["4:10 services.web.memory: `1K` is out of range | it may be from 4M to 64T"]);
    check_service(
        "cpu = 0",
        &["4:7 services.web.cpu: 0 is out of range | it may be from 0.01 to 1024 cores; 0.5 is half of one"],
    );
    check_service("cpu = inf", &["4:7 services.web.cpu: `inf` is not a usable number"]);
    check_service(
        "restart = { backoff = \"2m\" }",
        &[
            "4:23 services.web.restart.backoff: the first wait is longer than the longest | raise `backoff_limit` or lower `backoff`",
        ],
    );
}

#[test]
fn replicas_out_of_range_or_on_one_fixed_port_are_refused() {
    check_service("replicas = 101", &["4:12 services.web.replicas: 101 is out of range | it may be from 1 to 100"]);
    check_service(
        "replicas = \"2\"",
        &["4:12 services.web.replicas: expected a whole number, found the text \"2\" | write 2 without quotes"],
    );
    check_service(
        "port = 3000\nreplicas = 2",
        &[
            "5:12 services.web.replicas: 2 replicas cannot all listen on port 3000 | leave `port` out and listen on the port in PORT, or run one replica",
        ],
    );
}

#[test]
fn ports_that_cannot_be_had_are_refused() {
    check_service("port = 70000", &["4:8 services.web.port: 70000 is not a port | a port is a number from 1 to 65535"]);
    check_service(
        "port = true",
        &[
            "4:8 services.web.port: `true` does not say which port | leave `port` out to be given one in PORT, or write its number",
        ],
    );
    check_service(
        "port = 20001",
        &[
            "4:8 services.web.port: port 20001 is among those that Mainstay hands out itself (20000 to 29999) | choose another, or leave `port` out and listen on the port in PORT",
        ],
    );
    check_service(
        "port = 3000\n[services.xtra]\nrun = \"x\"\nport = 3000",
        &[
            "7:8 services.xtra.port: port 3000 is also the port of service `web` | give one of them another port, or leave `port` out and read PORT",
        ],
    );
}

#[test]
fn a_folder_that_leaves_its_place_is_refused() {
    for (path, reason) in [
        ("../x", "it leaves the repository"),
        ("/etc", "it is absolute"),
        ("a/../../x", "it leaves the repository"),
        (".git", "`.git` belongs to git"),
    ] {
        check_service(
            &format!("directory = \"{path}\""),
            &[&format!(
                "4:13 services.web.directory: `{path}` is not a usable folder: {reason} | write a folder inside the repository, such as \"web\""
            )],
        );
    }
    check_service(
        "build = { command = \"x\", cache = [\"ok\", \"../../home\"] }",
        &[
            "4:41 services.web.build.cache[1]: `../../home` is not a usable folder: it leaves the source directory | write a folder inside the source directory, such as \"web\"",
        ],
    );
    check_service(
        "build = { command = \"x\", cache = [\".\"] }",
        &[
            "4:35 services.web.build.cache[0]: `.` is the whole source directory | name the folder to keep, such as \"target\"",
        ],
    );
    check_service(
        "build = { command = \"x\", cache = \"target\" }",
        &["4:34 services.web.build.cache: expected a list, found the text \"target\" | write [\"target\"]"],
    );
}

#[test]
fn a_git_url_or_reference_with_options_helpers_or_metacharacters_is_refused() {
    let help = "use https://, ssh://, git@host:path, git:// or file:///path";
    for (url, shown, reason) in [
        ("--upload-pack=touch", "--upload-pack=touch", "it begins with a hyphen, which git would read as an option"),
        ("ext::sh", "ext::sh", "remote helpers such as `ext::` run commands and are not allowed"),
        ("https://h/a\\nb", "https://h/a\\nb", "it holds a space, newline or control character"),
        ("https://h/$(id)", "https://h/$(id)", "it holds a shell metacharacter"),
    ] {
        check_service(
            &format!("git = \"{url}\""),
            &[&format!("4:7 services.web.git: `{shown}` is not a git URL that Mainstay fetches: {reason} | {help}")],
        );
    }
    check_service(
        "branch = \"--upload-pack=x\"",
        &[
            "4:10 services.web.branch: `--upload-pack=x` is not a branch, tag or commit: it begins with a hyphen, which git would read as an option | write its plain name",
        ],
    );
    check_service(
        "branch = \"main\"\ntag = \"v1\"",
        &[
            "5:7 services.web.tag: `branch` and `tag` are both given, and may name different commits | keep one of `branch`, `tag` and `commit`",
        ],
    );
    check_service(
        "commit = \"abc123\"",
        &[
            "4:10 services.web.commit: `abc123` is not a full commit SHA: it has 40 or 64 lowercase hexadecimal digits | `git rev-parse HEAD` prints it; write a branch or tag as such",
        ],
    );
    check_service(
        "credential = \"My Key\"",
        &[
            "4:14 services.web.credential: `My Key` is not a DNS-safe name: use lowercase letters, digits and single hyphens, beginning with a letter and ending with a letter or digit | `my-key` would do",
        ],
    );
}

#[test]
fn a_manifest_from_nowhere_must_name_its_repository() {
    let errors = manifest::parse("name = \"a\"\n[services.web]\nrun = \"x\"", None).unwrap_err();
    let found: Vec<String> = errors.0.iter().map(complaint).collect();
    assert_eq!(
        found,
        [
            "2:11 services.web.git: there is no `git`, and the manifest does not come from a repository | write `git = \"https://…\"`"
        ]
    );
}

#[test]
fn environment_variables_with_bad_names_or_values_are_refused_without_showing_the_value() {
    check_service(
        "[services.web.env]\n\"1A\" = \"s3cret\"\n\"A-B\" = \"s3cret\"\nPORT = 80\nNUL = \"s3cret\\u0000\"",
        &[
            "5:8 services.web.env.1A: `1A` is not the name of an environment variable | use letters, digits and underscores, not beginning with a digit",
            "6:9 services.web.env.A-B: `A-B` is not the name of an environment variable | use letters, digits and underscores, not beginning with a digit",
            "7:8 services.web.env.PORT: PORT is set by Mainstay | leave it out; a program that always listens on one port is described by `port = 3000`",
            "8:7 services.web.env.NUL: the value holds a NUL character or is longer than 64 KiB, which no program can be given | put it into a file and name the file",
        ],
    );
}

#[test]
fn a_health_check_must_fit_the_service() {
    check_service(
        "port = false\nhealth = \"/healthz\"",
        &[
            "5:10 services.web.health: the service has no port (`port = false`) that could be checked | leave `health` out, or check with a `command`",
        ],
    );
    check_service(
        "health = \"healthz\"",
        &[
            "4:10 services.web.health: `healthz` is not a path to check: it must begin with `/` | write a path such as \"/healthz\", or a table such as { tcp = true }",
        ],
    );
    check_service(
        "health = { http = \"/\", command = \"true\" }",
        &[
            "4:1 services.web.health: more than one kind of check is given | keep one of `http`, `tcp`, `command` and `image`",
        ],
    );
}

#[test]
fn a_service_runs_one_thing() {
    check_service(
        "static = \"public\"",
        &[
            "4:10 services.web.static: `run` and `static` are both given | keep `run` for a program, or `static` for a folder of files",
        ],
    );
    check(
        "name = \"a\"\n[services.web]\nrun = \"  \"",
        &[
            "3:7 services.web.run: the command is empty | write the command as you would type it; put a long one into a script in the repository",
        ],
    );
    check_service(
        "build = { timeout = \"1m\" }",
        &["4:1 services.web.build.command: the build has no command | write `command = \"…\"`"],
    );
}

#[test]
fn too_much_of_anything_is_refused() {
    let many: String = (0..201).map(|n| format!("[services.s{n}]\nrun = \"x\"\n")).collect();
    check(
        &format!("name = \"a\"\n{many}"),
        &["2:2 services: 201 services; a stack may have at most 200 | split it into several stacks"],
    );
    let long = "#".repeat(manifest::TEXT_LIMIT_BYTES + 1);
    let errors = manifest::parse(&long, None).unwrap_err();
    assert_eq!(errors.0[0].message, "the manifest has 1048577 bytes; the limit is 1048576");
    let deep = format!("name = {}", "[".repeat(50_000));
    assert!(manifest::parse(&deep, None).is_err(), "deep nesting must end in a complaint, not in a stack overflow");
}

#[test]
fn the_errors_read_well_together() {
    let errors = manifest::parse("name = \"a\"\n[services.web]\nrun = \"x\"\nreplica = 2\nport = 0", Some(&source()))
        .unwrap_err();
    assert_eq!(
        errors.to_string(),
        "mainstay.toml has 2 problems\n  line 4, column 1: services.web.replica: unknown field `replica`; did you mean `replicas`?\n  line 5, column 8: services.web.port: 0 is not a port; a port is a number from 1 to 65535"
    );
    assert_eq!(api::error::ApiError::from(errors).message, "the manifest has 2 problems; nothing was changed");
}

/// Pieces that manifests are made of, so that random ones get past the syntax often.
fn piece() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "name",
        "services",
        "services.web",
        "run",
        "route",
        "health",
        "build",
        "port",
        "env",
        "replicas",
        "cache",
        "rollout",
        "bake",
        "static",
        "git",
        "directory",
        "cpu",
        "memory",
    ];
    const VALUES: &[&str] = &[
        "\"\"",
        "\"x\"",
        "\"/\"",
        "\"5m\"",
        "\"../..\"",
        "\"é\u{202e}\"",
        "0",
        "-1",
        "1e300",
        "nan",
        "9223372036854775807",
        "true",
        "[]",
        "[[]]",
        "{}",
        "{ command = \"x\" }",
        "1979-05-27",
        "\"\\u0000\"",
    ];
    prop_oneof![
        (proptest::sample::select(KNOWN), proptest::sample::select(VALUES)).prop_map(|(k, v)| format!("{k} = {v}\n")),
        proptest::sample::select(KNOWN).prop_map(|k| format!("[{k}]\n")),
        "[a-z]{1,3}".prop_map(|name| format!("[services.{name}]\nrun = \"x\"\n")),
        ".{0,12}".prop_map(|text| format!("{text}\n")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_makes_the_reader_panic_and_every_refusal_says_why(pieces in proptest::collection::vec(piece(), 0..12)) {
        let text = pieces.concat();
        for source in [None, Some(source())] {
            if let Err(errors) = manifest::parse(&text, source.as_ref()) {
                prop_assert!(!errors.0.is_empty());
                prop_assert!(errors.0.iter().all(|e| !e.message.is_empty()));
            }
        }
    }
}

/// The same for a service that comes from an image.
#[track_caller]
fn check_image(lines: &str, expected: &[&str]) {
    check(&format!("name = \"shop\"\n[services.web]\nimage = \"nginx\"\n{lines}\n"), expected);
}

#[test]
fn what_a_repository_has_is_refused_beside_an_image_and_the_other_way_round() {
    check_image(
        "tag = \"1.27\"\nrun = \"nginx\"",
        &[
            "4:7 services.web.tag: `image` and `tag` are both given: a service comes from an image or from a repository | write it with the image: `image = \"name:tag\"`",
            "5:7 services.web.run: `image` and `run` are both given: a service comes from an image or from a repository | write it as `command`, a list of words: `command = [\"serve\", \"--all\"]`; or leave `image` out",
        ],
    );
    check_service(
        "command = [\"x\"]\nvolumes = { \"/data\" = \"data\" }",
        &[
            "4:11 services.web.command: `command` is for services that come from an `image` | write the command that runs the service as `run`, or name an `image`",
            "5:1 services.web.volumes: `volumes` is for services that come from an `image` | leave it out, or name an `image`",
        ],
    );
    check_service(
        "health = { image = true }",
        &[
            "4:20 services.web.health.image: only an image brings a health check | check with `http`, `tcp` or a `command`",
        ],
    );
}

#[test]
fn what_would_open_a_container_to_the_machine_is_refused() {
    check(
        "name = \"shop\"\n[services.web]\nimage = \"--privileged\"",
        &[
            "3:9 services.web.image: `--privileged` is not an image: a name is made of lowercase letters, digits and single separators (`.`, `_`, `-`, `/`) | write it as `nginx:1.27` or `registry.example.com/team/shop:2`",
        ],
    );
    check_image(
        "capabilities = [\"CAP_SYS_ADMIN\", \"chown\", \"FLY\"]\nvolumes = { \"/data\" = \"/var/run/docker.sock\", \"/a:b\" = \"x\" }",
        &[
            "4:17 services.web.capabilities[0]: `SYS_ADMIN` would give the container power over the machine | run what needs it outside of Mainstay",
            "4:43 services.web.capabilities[2]: `FLY` is not a capability that can be given | it is one of AUDIT_WRITE, CHOWN, DAC_OVERRIDE, FOWNER, FSETID, IPC_LOCK, KILL, LEASE, MKNOD, NET_BIND_SERVICE, NET_RAW, SETFCAP, SETGID, SETPCAP, SETUID, SYS_CHROOT, SYS_NICE, SYS_RESOURCE",
            "5:23 services.web.volumes./data: folders of the machine cannot be mounted | name a volume, such as \"data\": it is made when it is first needed, and kept",
            "5:56 services.web.volumes./a:b: `/a:b` is not a usable path: colons, commas, backslashes and control characters cannot be in it | write an absolute path such as \"/var/lib/app\"",
        ],
    );
}

#[test]
fn values_of_an_image_that_mean_nothing_are_named() {
    check_image(
        "pull = \"daily\"\nuser = \"-x\"\nisolation = \"vm\"\ntmpfs = { \"tmp\" = \"1K\" }\ncommand = []",
        &[
            "4:8 services.web.pull: `daily` is not a time to pull an image | write \"missing\" (if the server lacks it), \"always\" or \"never\"",
            "5:8 services.web.user: `-x` is not a user of a container | write a name or number, with a group if needed: \"app\", \"1000:1000\"",
            "6:13 services.web.isolation: `vm` is not a kind of isolation | write \"container\" or \"gvisor\"",
            "7:19 services.web.tmpfs.tmp: `1K` is out of range | it may be from 4K to 64T",
            "7:19 services.web.tmpfs.tmp: `tmp` is not a usable path: it must begin with `/` | write an absolute path such as \"/var/lib/app\"",
            "8:11 services.web.command: there is no program in it | write `[\"serve\", \"--port\", \"8080\"]`, or leave it out",
        ],
    );
    check_image(
        "tmpfs = { \"/a\" = \"1M\" }\nfiles = { \"/a\" = \"hunter2\" }",
        &["5:18 services.web.files./a: `/a` is also in `tmpfs` | keep one of the two"],
    );
}
