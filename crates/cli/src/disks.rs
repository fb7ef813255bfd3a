//! Warnings about disks that have no room for anything new: whoever looks how things are is told.

use crate::printer::Printer;
use api::servers::ServerView;
use client::Client;

/// Of the control plane's disk.
pub async fn warn_of_control_plane(client: &Client, printer: &Printer) {
    // A control plane that cannot say it has been asked something else just now, and answered.
    if let Ok(Some(problem)) = client.info().await.map(|info| info.disk_low) {
        printer.warning(&format!(
            "the control plane's disk is nearly full: {problem}; deployments and log lines are refused"
        ));
        printer.hint("Free some space there; it goes on by itself.");
    }
}

/// Of the disks of servers.
pub fn warn_of_servers(servers: &[ServerView], printer: &Printer) {
    for server in servers {
        let Some(observed) = server.observed.as_ref().filter(|observed| observed.resources.disk_low) else { continue };
        let reason = observed.blocked.iter().find(|blocked| blocked.subject == "disk");
        let reason = reason.map_or("nothing new is fetched or built on it", |blocked| blocked.reason.as_str());
        printer.warning(&format!("the disk of {} is nearly full: {reason}", server.name));
        printer.hint(&format!("Free some space on {}; what is held back goes on by itself.", server.name));
    }
}
