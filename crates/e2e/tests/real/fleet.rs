//! A short run of the load that `cargo xtask load` makes: what it measures in minutes with a thousand
//! machines must at least be free of errors and bounded with fifty.

use e2e::Machine;
use e2e::fleet::{FleetOptions, run};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_machines_get_every_change_without_an_error_and_memory_stays_bounded() {
    let machine = Machine::new().unwrap();
    let options = FleetOptions {
        agents: 50,
        duration: Duration::from_secs(10),
        changes_percent: 4.0,
        database: None,
        talkative: false,
    };
    let report = run(&machine, &options).await.unwrap();
    println!("{report}");
    assert_eq!(report.errors_count, 0, "{report}");
    assert_eq!(report.undelivered, 0, "{report}");
    assert!(report.unfinished.is_empty(), "{report}");
    assert!(report.delivery.count >= 10, "{report}");
    let most = report.samples.iter().map(|sample| sample.memory_bytes).max().unwrap_or(u64::MAX);
    assert!(most < 300_000_000, "the control plane used {most} bytes: {report}");
}
