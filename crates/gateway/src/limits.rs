//! Every bound of the data path in one place.
//!
//! What an operator may want to change travels in the config (the three timeouts of
//! [`api::gateway::GatewayConfig`]). These here protect the process itself; tests shorten the times.

use std::time::Duration;

/// Times, sizes and counts that nothing in the gateway exceeds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From the first byte of a request to the end of its header section.
    pub header_time: Duration,
    /// Size of a header section, and of what is buffered per direction.
    pub header_bytes: usize,
    /// How long open requests may go on after a stop.
    pub stop_time: Duration,
    /// After a hand-over: how long a kept-alive connection may still bring a request to this process.
    pub handover_idle_time: Duration,
    /// After a hand-over: how long open requests and tunnels may go on in this process.
    pub handover_time: Duration,
    /// A tunnel (WebSocket) or an event stream on which nothing moves for so long is closed.
    pub stream_idle_time: Duration,
    /// How long a client that sent `Expect: 100-continue` is kept waiting for the service's word.
    pub continue_time: Duration,
    /// How long a kept-alive connection to a service may rest before it is closed.
    pub upstream_rest_time: Duration,
    /// A request that cannot be sent twice goes over a connection that rested no longer than this.
    pub upstream_fresh_time: Duration,
    /// Resting connections per instance.
    pub upstream_rest_count: usize,
    /// Instances tried for one request.
    pub attempts: usize,
    /// How long an instance that refused a connection is avoided; doubles up to the second value.
    pub refusal_time: (Duration, Duration),
    /// Open connections from clients; the next ones wait in the kernel's queue.
    pub connections: usize,
    /// Size of one access log file, and how many are kept.
    pub access_log_bytes: u64,
    pub access_log_files: u32,
    /// Lines on their way to the access log.
    pub access_log_lines: usize,
    /// How long one DNS server may take to answer a forwarded question.
    pub dns_forward_time: Duration,
    /// Forwarded questions under way.
    pub dns_forward_count: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_time: Duration::from_secs(10),
            header_bytes: 64 * 1024,
            stop_time: Duration::from_secs(30),
            handover_idle_time: Duration::from_secs(5),
            handover_time: Duration::from_secs(300),
            stream_idle_time: Duration::from_secs(3600),
            continue_time: Duration::from_secs(1),
            upstream_rest_time: Duration::from_secs(30),
            upstream_fresh_time: Duration::from_secs(1),
            upstream_rest_count: 512,
            attempts: 3,
            refusal_time: (Duration::from_millis(500), Duration::from_secs(10)),
            connections: 16 * 1024,
            access_log_bytes: 10 * 1024 * 1024,
            access_log_files: 3,
            access_log_lines: 32 * 1024,
            dns_forward_time: Duration::from_secs(2),
            dns_forward_count: 256,
        }
    }
}
