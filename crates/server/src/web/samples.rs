//! Views for the tests of pages, and for looking at pages without a running system.

use super::frame::Frame;
use api::cause::{Actor, Cause};
use api::deployments::{Deployment, DeploymentFailure, DeploymentKind, Stage, StageEntry};
use api::desired::{InstanceIntent, SecurityMode, Traffic};
use api::events::{Event, EventKind, EventLevel, EventRecord};
use api::gateway::{DnsObserved, GatewayObserved};
use api::ids::*;
use api::logs::{LogLine, LogRecord, LogSource, LogStream};
use api::mesh::{MeshDeviceKind, MeshObserved, MeshPeerObserved, MeshPeerState, MeshProbes, MeshRepair, PublicKey};
use api::metrics::{DeploymentMark, MetricsRange, ServerMetrics, ServerPoint, ServiceMetrics, ServicePoint};
use api::observed::*;
use api::servers::{ServerCondition, ServerFacts, ServerView};
use api::services::*;
use api::stacks::StackView;
use api::tokens::{TokenPurpose, TokenState, TokenView};

pub const NOW_MS: i64 = 1_790_000_000_000;

fn uuid(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(0x0193_5f1e_7b00_7000_8000_0000_0000_0000 + number)
}

fn commit() -> CommitSha {
    "9fceb02d0ae598e95dc970b74767f19372d61af8".parse().expect("a commit")
}

pub fn frame(path: &str) -> Frame {
    Frame {
        user: Some("admin".into()),
        csrf: "csrf-token".into(),
        now_ms: NOW_MS,
        version: "0.1.0".into(),
        path: path.into(),
        message: None,
        address: "http://127.0.0.1:4600".into(),
    }
}

pub fn deployment(stage: Stage) -> Deployment {
    // As of a process: nothing is pulled, and names need no change.
    let took = |stage: Stage| if matches!(stage, Stage::Pulling | Stage::DnsUpdating) { 0 } else { 2_300 };
    let mut began = NOW_MS - 60_000;
    let mut stages: Vec<_> = Stage::PATH
        .iter()
        .take_while(|s| stage >= Stage::Running || **s <= stage)
        .filter(|s| stage == Stage::Running || **s < Stage::Healthy || stage < Stage::Running)
        .map(|s| {
            let entry = StageEntry { stage: *s, at_ms: began };
            began += took(*s);
            entry
        })
        .collect();
    let failed = stage == Stage::Failed;
    if stage > Stage::Running {
        stages.push(StageEntry { stage, at_ms: NOW_MS - 20_000 });
    }
    Deployment {
        id: DeploymentId::from_uuid(uuid(40)),
        stack_id: StackId::from_uuid(uuid(1)),
        service_id: ServiceId::from_uuid(uuid(10)),
        service: "web".parse().expect("a name"),
        kind: DeploymentKind::Deploy,
        revision_id: RevisionId::from_uuid(uuid(21)),
        revision_number: 7,
        source_version: commit().into(),
        source_subject: "Show the delivery date in the cart".into(),
        previous_revision_id: Some(RevisionId::from_uuid(uuid(20))),
        replicas: 2,
        stage,
        stages,
        cause: Cause { actor: Actor::Token { name: "cli".into() }, action: "deploy".into(), request_id: Some(RequestId::from_uuid(uuid(90))), deployment_id: None },
        failure: failed.then(|| DeploymentFailure {
            stage: Stage::Starting,
            message: "web #0 on harbour did not become healthy within 120 s: nothing listens on 20001; the process listens on 8080. Let it listen on $PORT, or set port = 8080.".into(),
            server_id: Some(ServerId::from_uuid(uuid(50))),
            last_probe: Some(ProbeResult { ok: false, at_ms: NOW_MS - 21_000, duration_ms: 12, message: "GET http://127.0.0.1:20001/health: connection refused".into() }),
            log_tail: vec!["\u{1b}[31mError:\u{1b}[0m <script>alert('log')</script>".into(), "listening on 8080".into()],
        }),
        created_at_ms: NOW_MS - 60_000,
        ended_at_ms: (stage >= Stage::Running && stage != Stage::Unknown).then_some(NOW_MS - 20_000),
        bake_until_ms: (stage == Stage::Running).then_some(NOW_MS + 12_000),
        warm_until_ms: (stage == Stage::Running).then_some(NOW_MS + 250_000),
        waits_for: if stage == Stage::Starting { vec!["its instances are not <healthy> yet".into()] } else { Vec::new() },
    }
}

pub fn instance(number: u32, state: InstanceState) -> InstanceView {
    let id = InstanceId::from_uuid(uuid(60 + u128::from(number)));
    InstanceView {
        id: id.clone(),
        server_id: ServerId::from_uuid(uuid(50)),
        server: "harbour".parse().expect("a name"),
        revision_id: RevisionId::from_uuid(uuid(21)),
        revision_number: 7,
        deployment_id: DeploymentId::from_uuid(uuid(40)),
        ordinal: number,
        intent: InstanceIntent::Run,
        traffic: if state == InstanceState::Healthy { Traffic::Active } else { Traffic::Candidate },
        observed: Some(InstanceObserved {
            instance_id: id,
            service_id: ServiceId::from_uuid(uuid(10)),
            revision_id: RevisionId::from_uuid(uuid(21)),
            state,
            pid: Some(4_711),
            port: Some(20_001),
            address: None,
            started_at_ms: Some(NOW_MS - 3_700_000),
            restarts: 3,
            crash_looping: state == InstanceState::Unhealthy,
            stopping: false,
            last_exit: Some(ExitStatus {
                code: Some(1),
                signal: None,
                out_of_memory: false,
                at_ms: NOW_MS - 3_710_000,
            }),
            last_probe: Some(ProbeResult {
                ok: state == InstanceState::Healthy,
                at_ms: NOW_MS - 2_000,
                duration_ms: 4,
                message: "GET http://127.0.0.1:20001/health answered 200".into(),
            }),
            problem: (state == InstanceState::Unhealthy).then(|| "the <health> check failed 3 times in a row".into()),
            log_tail: vec![],
            memory_bytes: Some(96 * 1024 * 1024),
            cpu_ms: Some(61_000),
        }),
    }
}

pub fn service(name: &str, condition: ServiceCondition) -> ServiceView {
    let summary = |number: u64, at| RevisionSummary {
        id: RevisionId::from_uuid(uuid(14 + u128::from(number))),
        number,
        source_version: commit().into(),
        source_subject: "Show the delivery date in the cart".into(),
        created_at_ms: at,
    };
    let stage = match condition {
        ServiceCondition::Deploying => Stage::Starting,
        ServiceCondition::Down => Stage::Failed,
        _ => Stage::Running,
    };
    let healthy = if condition == ServiceCondition::Down { InstanceState::Unhealthy } else { InstanceState::Healthy };
    ServiceView {
        id: ServiceId::from_uuid(uuid(10)),
        name: name.parse().expect("a name"),
        stack_id: StackId::from_uuid(uuid(1)),
        stack: "shop".parse().expect("a name"),
        project_id: ProjectId::from_uuid(uuid(2)),
        intent: if condition == ServiceCondition::Stopped { ServiceIntent::Stop } else { ServiceIntent::Run },
        condition,
        replicas: 2,
        current: Some(summary(7, NOW_MS - 60_000)),
        previous: Some(summary(6, NOW_MS - 86_400_000)),
        deployment: Some(deployment(stage)),
        instances: vec![instance(0, healthy), instance(1, InstanceState::Healthy)],
        routes: vec![RouteSpec {
            host: Some("shop.example.com".parse().expect("a host")),
            path: Default::default(),
            strip_prefix: false,
            tls: Default::default(),
        }],
        urls: vec!["http://shop.example.com:8080/".into(), format!("http://{name}.svc.internal:8080/")],
    }
}

pub fn stack() -> StackView {
    StackView {
        id: StackId::from_uuid(uuid(1)),
        name: "shop".parse().expect("a name"),
        project_id: ProjectId::from_uuid(uuid(2)),
        project: "default".parse().expect("a name"),
        version: 12,
        condition: StackCondition::Degraded,
        problems: vec!["worker on harbour is unhealthy: <nothing> answers".into()],
        manifest: "name = \"shop\"\n\n[services.web]\nbuild = \"npm ci\"\nrun = \"node server.js\" # <fast>\n\n[services.web.health]\nhttp = \"/health\"\n".into(),
        created_at_ms: NOW_MS - 900_000_000,
        updated_at_ms: NOW_MS - 60_000,
        services: vec![
            service("web", ServiceCondition::Running),
            service("api", ServiceCondition::Deploying),
            service("worker", ServiceCondition::Down),
            service("docs", ServiceCondition::Stopped),
        ],
    }
}

pub fn revision(number: u64) -> Revision {
    let spec = serde_json::json!({
        "name": "web",
        "source": { "git": "https://git.example.com/shop.git", "reference": "main", "directory": "web" },
        "build": { "command": "npm ci", "timeout_ms": 600_000, "limits": {}, "cache": ["node_modules"] },
        "run": { "kind": "command", "command": "node server.js" },
        "env": { "DATABASE_URL": "postgres://secret-value" },
        "port": { "kind": "injected" },
        "routes": [],
        "health": HealthSpec::with(HealthCheck::Http { path: "/health".into() }),
        "limits": { "memory_bytes": 268_435_456u64, "cpu_millis": 500 },
        "restart": RestartSpec::default(),
        "stop": StopSpec::default(),
        "rollout": RolloutSpec::default(),
    });
    Revision {
        id: RevisionId::from_uuid(uuid(14 + u128::from(number))),
        service_id: ServiceId::from_uuid(uuid(10)),
        number,
        source_version: commit().into(),
        source_subject: format!("Change number {number} <b>"),
        spec: serde_json::from_value(spec).expect("a service spec"),
        hash: "ab".repeat(32),
        created_at_ms: NOW_MS - 86_400_000 * (8 - number as i64),
    }
}

pub fn server(condition: ServerCondition) -> ServerView {
    let id = ServerId::from_uuid(uuid(50));
    ServerView {
        id: id.clone(),
        name: "harbour".parse().expect("a name"),
        index: 1,
        condition,
        security_mode: SecurityMode::Closed,
        facts: ServerFacts {
            hostname: "harbour.example.com".into(),
            operating_system: "Debian GNU/Linux 12 (bookworm)".into(),
            kernel: "6.1.0-28-amd64".into(),
            architecture: "x86_64".into(),
            cpu_count: 2,
            memory_bytes: 8 << 30,
            root: false,
            cgroups: "none".into(),
            git_version: Some("2.39.5".into()),
            git_lfs: false,
            engine: Some("podman".into()),
            engine_version: Some("4.3.1".into()),
            runtimes: vec!["crun".into()],
            limitations: vec!["Limits on memory and processors are not enforced: the agent may not write to /sys/fs/cgroup. Run it as root.".into()],
            mesh: None,
        },
        agent_version: "0.1.0".into(),
        registered_at_ms: NOW_MS - 900_000_000,
        last_seen_at_ms: Some(NOW_MS - 3_000),
        desired_generation: 42,
        recovery: None,
        clock_difference_ms: None,
        observed: Some(ObservedState {
            server_id: id,
            generation: 41,
            observed_at_ms: NOW_MS - 3_000,
            fleet_generation: 0,
            agent: AgentObserved { version: "0.1.0".into(), state: AgentState::Processing, started_at_ms: NOW_MS - 900_000, refused: None },
            stacks: vec![],
            instances: vec![instance(0, InstanceState::Healthy).observed.expect("it is observed")],
            preparations: vec![],
            gateway: GatewayObserved {
                running: true,
                pid: Some(812),
                version: Some("0.1.0".into()),
                digest: Some("cd".repeat(32)),
                listening: vec![([127, 0, 0, 1], 8080).into()],
                problem: Some("port 80 is in use by <nginx>".into()),
                ..GatewayObserved::default()
            },
            dns: DnsObserved { method: "hosts-file".into(), names: vec!["web.svc.internal".into()], ..DnsObserved::default() },
            mesh: mesh(),
            blocked: vec![Blocked { subject: "service worker".into(), reason: "the build <failed>".into(), retry_at_ms: Some(NOW_MS + 30_000) }],
            resources: Resources {
                cpu_count: 2, cpu: None,
                load_1m: 0.72,
                memory_total_bytes: 8 << 30,
                memory_available_bytes: 5 << 30,
                disk_total_bytes: 100 << 30,
                disk_available_bytes: 9 << 30, disk_reserve_bytes: 1 << 30, disk_low: false,
            },
        }),
    }
}

pub fn event(sequence: i64, level: EventLevel, message: &str) -> EventRecord {
    EventRecord {
        sequence,
        event: Event {
            id: EventId::from_uuid(uuid(1_000 + sequence as u128)),
            at_ms: NOW_MS - 1_000 * (100 - sequence),
            kind: EventKind::HealthChanged,
            level,
            message: message.into(),
            cause: Cause {
                actor: Actor::Agent { server: "harbour".into() },
                action: "process exited with code 1".into(),
                request_id: None,
                deployment_id: Some(DeploymentId::from_uuid(uuid(40))),
            },
            stack_id: Some(StackId::from_uuid(uuid(1))),
            service_id: Some(ServiceId::from_uuid(uuid(10))),
            deployment_id: Some(DeploymentId::from_uuid(uuid(40))),
            instance_id: None,
            server_id: Some(ServerId::from_uuid(uuid(50))),
        },
    }
}

pub fn log(sequence: i64, text: &str) -> LogRecord {
    LogRecord {
        sequence,
        service_id: ServiceId::from_uuid(uuid(10)),
        service: "web".into(),
        source: LogSource::Run { instance_id: InstanceId::from_uuid(uuid(60)) },
        line: LogLine {
            at_ms: NOW_MS - 500 * (200 - sequence),
            stream: if sequence % 7 == 3 { LogStream::Stderr } else { LogStream::Stdout },
            text: text.into(),
        },
    }
}

pub fn token(number: u128, state: TokenState, purpose: TokenPurpose) -> TokenView {
    TokenView {
        id: TokenId::from_uuid(uuid(70 + number)),
        name: "laptop <of anna>".into(),
        purpose,
        state,
        created_at_ms: NOW_MS - 7_200_000,
        expires_at_ms: Some(NOW_MS + 79_200_000),
        used_at_ms: None,
    }
}

/// When the samples of metrics begin: 2023-11-14 22:00 UTC.
pub const METRICS_BEGIN_MS: i64 = 1_699_999_200_000;

pub fn service_point(range: MetricsRange, n: i64) -> ServicePoint {
    let wave = ((n % 40) - 20).abs() as f64;
    ServicePoint {
        at_ms: METRICS_BEGIN_MS + n * range.step_ms(),
        covered_ms: range.step_ms().unsigned_abs(),
        cpu_cores: 0.05 + wave / 50.0,
        memory_bytes: (90 + n.unsigned_abs() % 13) << 20,
        instances: 2.0,
        requests: 300 + wave as u64,
        requests_per_second: 10.0 + wave / 30.0,
        client_errors: n.unsigned_abs() % 3,
        server_errors: u64::from(n == 60),
        sent_bytes: 123_456,
        latency_p50_ms: Some(4.0 + wave / 10.0),
        latency_p99_ms: (n != 7).then_some(40.0 + wave),
        restarts: u64::from(n == 61) * 2,
    }
}

pub fn service_metrics(range: MetricsRange) -> ServiceMetrics {
    ServiceMetrics {
        service_id: ServiceId::from_uuid(uuid(10)),
        range,
        from_ms: METRICS_BEGIN_MS,
        until_ms: METRICS_BEGIN_MS + range.length_ms() + 12_000,
        step_ms: range.step_ms(),
        points: (0..=range.points()).map(|n| service_point(range, n)).collect(),
        deployments: vec![DeploymentMark {
            deployment_id: DeploymentId::from_uuid(uuid(30)),
            revision_number: 7,
            at_ms: METRICS_BEGIN_MS + range.length_ms() / 2,
        }],
    }
}

pub fn server_metrics(range: MetricsRange) -> ServerMetrics {
    let point = |n: i64| ServerPoint {
        at_ms: METRICS_BEGIN_MS + n * range.step_ms(),
        covered_ms: range.step_ms().unsigned_abs(),
        cpu_cores: (n > 100).then_some(1.0),
        cpu_count: 4.0,
        load_1m: 0.5,
        memory_used_bytes: 3 << 30,
        memory_total_bytes: 8 << 30,
        disk_used_bytes: 50 << 30,
        disk_total_bytes: 100 << 30,
    };
    ServerMetrics {
        server_id: ServerId::from_uuid(uuid(50)),
        range,
        from_ms: METRICS_BEGIN_MS,
        until_ms: METRICS_BEGIN_MS + range.length_ms(),
        step_ms: range.step_ms(),
        points: (0..range.points()).map(point).collect(),
    }
}

/// Tunnels to three others: one that works, one that is odd, one that is not reached.
fn mesh() -> MeshObserved {
    let peer = |number: u8, state, reason: Option<&str>| MeshPeerObserved {
        server_id: format!("srv_{number:032x}").parse().expect("an id"),
        name: format!("web-{number}").parse().expect("a name"),
        public_key: PublicKey::from_bytes([number; 32]),
        state,
        endpoint: (state == MeshPeerState::Direct).then(|| ([203, 0, 113, number], 51_820).into()),
        last_handshake_at_ms: (state == MeshPeerState::Direct).then_some(NOW_MS - 40_000),
        received_bytes: 5 << 20,
        sent_bytes: 3 << 10,
        probes: MeshProbes { sent: 60, lost: u32::from(number), round_trip_micros: Some(840) },
        reason: reason.map(str::to_owned),
    };
    MeshObserved {
        device: Some(MeshDeviceKind::Userspace),
        interface: Some("mainstay0".into()),
        address: Some([10, 100, 1, 1].into()),
        port: Some(51_820),
        public_key: Some(PublicKey::from_bytes([1; 32])),
        peers: vec![
            peer(2, MeshPeerState::Direct, None),
            peer(3, MeshPeerState::Direct, Some("probes through it are not answered: <a firewall>")),
            peer(4, MeshPeerState::Unreachable, Some("no handshake; tried <203.0.113.4:51820>")),
        ],
        repaired: Some(MeshRepair {
            at_ms: NOW_MS - 600_000,
            what: vec!["the route to 10.200.2.0/24 is missing".into()],
        }),
        problem: None,
    }
}
